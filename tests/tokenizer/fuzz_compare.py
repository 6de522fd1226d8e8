#!/usr/bin/env python3
"""Compares our tokenizer with the package `tokenizers`, or `tiktoken`, on random texts, for all fixtures
and `cuts`, a tiktoken.model of every pair of bytes.

  1. texts of all kinds of string_kinds.py: equal ids;
  2. random bytes: equal ids for bytes.decode('utf-8', errors='replace');
  3. every code point of the planes that have any, among letters, digits, spaces, words: equal ids;
  4. random ids, and those of 1: equal text;
  5. texts of up to 1.3 million characters with long runs: equal ids.
Usage: fuzz_compare.py ENCODE_LINES [--count N] [--seed S] [--tokenizer NAME]
"""
import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

from long_texts import long_texts
from reference import FOLDERS, make_pairs, reference
from string_kinds import KINDS


def run(arguments, data):
    return subprocess.run(arguments, input=data, stdout=subprocess.PIPE, check=True).stdout


def encode(driver, folder, raw_texts):
    data = b"".join(b"%d\n" % len(raw) + raw for raw in raw_texts)
    lines = run([driver, folder], data).decode().split("\n")[:-1]
    assert len(lines) == len(raw_texts)
    return [[int(x) for x in line.split()] for line in lines]


def decode(driver, folder, lists):
    data = "".join("%d %s\n" % (len(ids), " ".join(map(str, ids))) for ids in lists).encode()
    out, texts, at = run([driver, folder, "-d"], data), [], 0
    for _ in lists:
        end = out.index(b"\n", at)
        length = int(out[at:end])
        texts.append(out[end + 1:end + 1 + length].decode())
        at = end + 1 + length
    return texts


def random_texts(rng, count):
    makers, weights = zip(*KINDS.values())
    return [rng.choices(makers, weights)[0](rng) for _ in range(count)]


def random_bytes(rng, count):
    pieces = [b"a", b" ", b"\xe4\xb8\xad", b"\xf0\x9f\x98\x80", b"\xc3\xa9", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80",
              b"\xe4\xb8", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xc3", b"\x80", b"\xff", b"<s>", b"\xef\xbf\xbd"]
    return [b"".join(rng.choice(pieces) if rng.random() < .7 else bytes([rng.randrange(256)])
                     for _ in range(rng.randint(0, 12))) for _ in range(count)]


def every_code():
    around = ["a{} ", " {}1{}.", "{}{}\n", "word{}", "{}word ", "漢{}A"]
    # Of the planes without characters, 4 to 13, and of private use, every 37th.
    codes = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF
             and (c < 0x40000 or 0xE0000 <= c < 0xE1000 or c % 37 == 0)]
    for first in range(0, len(codes), 64):
        yield "".join(a.replace("{}", chr(c)) for c in codes[first:first + 64] for a in around)


class Comparison:
    def __init__(self, driver, name):
        self.driver, self.folder, self.name = driver, str(FOLDERS[name]), name
        self.package = reference(FOLDERS[name])
        self.wrong = 0

    def report(self, what, given, expected, got):
        self.wrong += 1
        if self.wrong <= 5:
            print("%s, %s of %r:\n  package %r\n  ours    %r" % (self.name, what, given, expected, got))

    def ids(self, raw_texts):
        texts = [raw.decode("utf-8", errors="replace") for raw in raw_texts]
        ours = encode(self.driver, self.folder, raw_texts)
        for start in range(0, len(texts), 500):
            for i, ids in enumerate(self.package.ids(texts[start:start + 500]), start):
                if ids != ours[i]:
                    self.report("ids", raw_texts[i][:300], ids[:50], ours[i][:50])
        return ours

    def texts(self, lists):
        lists = [ids for ids in lists if self.package.not_decoded_alike not in ids]
        for ids, text in zip(lists, decode(self.driver, self.folder, lists)):
            expected = self.package.text(ids)
            if expected != text:
                self.report("text", ids[:50], expected[:300], text[:300])
        return len(lists)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    scratch = tempfile.TemporaryDirectory()
    FOLDERS["cuts"] = pathlib.Path(scratch.name)
    parser.add_argument("--tokenizer", choices=FOLDERS)
    options = parser.parse_args()
    wrong = 0
    make_pairs(FOLDERS["cuts"])
    for name in [options.tokenizer] if options.tokenizer else FOLDERS:
        rng = random.Random(options.seed)
        comparison = Comparison(options.driver, name)
        lists = comparison.ids([t.encode() for t in random_texts(rng, options.count)])
        n_bytes = len(comparison.ids(random_bytes(rng, options.count // 5)))
        n_codes = len(comparison.ids([t.encode() for t in every_code()]))
        n_long = len(comparison.ids([t.encode() for t in long_texts(rng)]))
        size = comparison.package.size
        lists += [[rng.randrange(size) for _ in range(rng.randint(0, 20))]
                  for _ in range(options.count // 5)]
        n_lists = comparison.texts(lists)
        print("%s: %d texts, %d byte strings, %d texts with every code point, %d long ones, %d lists of ids, "
              "seed %d: %d wrong" % (name, options.count, n_bytes, n_codes, n_long, n_lists, options.seed,
                                     comparison.wrong),
              flush=True)
        wrong += comparison.wrong
    sys.exit(wrong != 0)


main()
