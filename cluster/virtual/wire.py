#!/usr/bin/env python3
"""Carries Ethernet frames between two interfaces; those of the first one late, not at all, or at a rate.

usage: wire.py INTERFACE OTHER FILE

FILE holds "DELAY_MS LOSS_PCT RATE_MBIT", and is read again at SIGHUP.  Prints "ready" once frames pass.  Frames
keep the header that says what the kernel has left undone (checksums, cutting into segments), so one frame may be
64 KiB of TCP, which is then lost as a whole.
"""

import collections
import ctypes
import os
import random
import select
import signal
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL, SO_RCVBUFFORCE, PR_SET_TIMERSLACK = 3, 33, 29
QUEUE_BYTES = 64 << 20
FRAME_BYTES = 70000


def open_port(interface):
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    try:
        port.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
    except PermissionError:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
    port.bind((interface, ETH_P_ALL))
    port.setblocking(False)
    return port


def send(port, frame):
    try:
        port.send(frame)
    except OSError: # as on a real wire: the interface is down, or its queue is full
        pass


def frames(port):
    for _ in range(64):
        try:
            yield port.recv(FRAME_BYTES)
        except OSError:
            return


class Wire:
    def __init__(self, path):
        self.path = path
        self.queue = collections.deque() # (when due, frame)
        self.bytes = 0
        self.free_at = 0.0 # when the last frame has left at the given rate
        self.is_old = True

    def read(self):
        self.is_old = False
        with open(self.path, encoding="ascii") as file:
            delay, self.loss, rate = map(float, file.read().split())
        self.delay, self.rate = delay * 1e-3, rate * 1e6 / 8

    def push(self, frame, now):
        if random.random() * 100 < self.loss or self.bytes + len(frame) > QUEUE_BYTES:
            return
        due = now
        if self.rate > 0:
            due = self.free_at = max(self.free_at, now) + len(frame) / self.rate
        self.queue.append((due + self.delay, frame))
        self.bytes += len(frame)

    def pop_due(self, now):
        while self.queue and self.queue[0][0] <= now:
            frame = self.queue.popleft()[1]
            self.bytes -= len(frame)
            yield frame


def main():
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} INTERFACE OTHER FILE")
    node, other = open_port(sys.argv[1]), open_port(sys.argv[2])
    wire = Wire(sys.argv[3])
    signal.signal(signal.SIGHUP, lambda *_: setattr(wire, "is_old", True))
    # Without these a frame may wait for a turn of the scheduler, 8 ms.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass
    print("ready", flush=True)
    while True:
        if wire.is_old:
            wire.read()
        now = time.monotonic()
        for frame in wire.pop_due(now):
            send(other, frame)
        wait = max(0.0, wire.queue[0][0] - now) if wire.queue else None
        readable = select.select([node, other], [], [], wait)[0]
        if other in readable:
            for frame in frames(other):
                send(node, frame)
        if node in readable:
            now = time.monotonic()
            for frame in frames(node):
                wire.push(frame, now)


main()
