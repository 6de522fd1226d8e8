#!/usr/bin/env python3
"""Writes strings.jsonl: 2,000 texts and the ids that the package `tokenizers`, or `tiktoken`, gives
them, one object a line: {"kind", "text", "ids": {tokenizer: [...]}}.  Tokenizers: configs/demo and
all fixtures.

Run it again when configs/demo/tokenizer.json or a fixture changes.  Usage: make_strings.py
"""
import json
import pathlib
import random

from reference import FOLDERS, reference
from string_kinds import KINDS

HERE = pathlib.Path(__file__).parent


def main():
    tokenizers = {name: reference(folder) for name, folder in FOLDERS.items()}
    rng = random.Random(20261123)
    seen, lines = {""}, [("empty", "")]
    for kind, (make, count) in KINDS.items():
        while count > 0:
            text = make(rng)
            if text not in seen:
                seen.add(text)
                lines.append((kind, text))
                count -= 1
    assert len(lines) == 2000, len(lines)
    with open(HERE / "strings.jsonl", "w", encoding="ascii") as out:
        for kind, text in lines:
            ids = {name: t.ids([text])[0] for name, t in tokenizers.items()}
            out.write(json.dumps({"kind": kind, "text": text, "ids": ids}, separators=(",", ":")) + "\n")


main()
