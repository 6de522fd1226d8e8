#!/usr/bin/env python3
"""Writes utf8_replace.txt: random bytes and, after a space, what Python's
bytes.decode('utf-8', errors='replace') makes of them; both in hexadecimal, one pair a line."""
import pathlib
import random

rng = random.Random(5)
LEADS = [0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4,
         0xF5, 0xF8, 0xFC, 0xFE, 0xFF]
NEXT = [0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0x41, 0xC2, 0xE4, 0xF0]
lines = []
for _ in range(2500):
    raw = bytearray()
    for _ in range(rng.randint(1, 5)):
        kind = rng.randrange(3)
        if kind == 0:
            raw += bytes([rng.choice(LEADS)] + [rng.choice(NEXT) for _ in range(rng.randint(0, 4))])
        elif kind == 1:
            whole = chr(rng.choice([0x41, 0xE9, 0x7FF, 0x800, 0x4E2D, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF]))
            raw += whole.encode()[:rng.randint(1, 4)]
        else:
            raw += rng.randbytes(rng.randint(1, 9))
    raw = bytes(raw)
    lines.append("%s %s\n" % (raw.hex(), raw.decode("utf-8", errors="replace").encode().hex()))
(pathlib.Path(__file__).parent / "utf8_replace.txt").write_text("".join(lines))
