#!/usr/bin/env python3
"""Writes long.jsonl: how many ids the fixture kimi gives the texts of long_texts.py, and their hash
(64-bit FNV-1a over the ids as four bytes each, little-endian), one object a line:
{"parts": [[text, repetitions], ...], "count", "hash"}.  Usage: make_long.py
"""
import json
import pathlib
import struct

from long_texts import PARTS
from reference import FOLDERS, reference


def fnv1a(ids):
    value = 0xcbf29ce484222325
    for byte in struct.pack("<%di" % len(ids), *ids):
        value = (value ^ byte) * 0x100000001b3 % 2 ** 64
    return value


def main():
    kimi = reference(FOLDERS["kimi"])
    with open(pathlib.Path(__file__).parent / "long.jsonl", "w", encoding="ascii") as out:
        for parts in PARTS:
            ids = kimi.ids(["".join(text * n for text, n in parts)])[0]
            out.write(json.dumps({"parts": parts, "count": len(ids), "hash": "%016x" % fnv1a(ids)}) + "\n")


main()
