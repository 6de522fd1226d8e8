#!/usr/bin/env python3
"""Writes patterns.jsonl: what Split of the package `tokenizers` (Oniguruma) makes of texts, one object a
line: {"pattern", "behavior", "invert", "text", "pieces"}.  The patterns are those of known
tokenizers and ones that PCRE2 takes in another sense."""
import json
import pathlib
import random

from tokenizers import Regex, pre_tokenizers

from known_patterns import O200K, V2, V3
from string_kinds import KINDS

PATTERNS = V2 + V3 + O200K + [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s", r"\S", r"[\s\S]", r"[^\S\n]", r"\w+", r"\W+", r"[\w'-]+", r"\d+", r"\D+", r"[\d.]+", r"\b", r"\B",
    r"\bw", r"\p{Han}+", r"\P{Han}+", r"\p{^L}+", r"\p{Hiragana}|\p{Katakana}", r"\p{Lu}\p{Ll}*", r"\p{Letter}+",
    r"\p{Arabic}+", r"\p{Hangul}+", r"\p{Thai}+", r"\p{Hebrew}+", r"\p{Devanagari}+", r"\p{Cyrillic}+",
    r"\p{Uppercase_Letter}", r"\p{lu}", r"\p{Mn}+", r"\p{Sc}|\p{Sm}", r"\p{Zs}", r"\p{Cf}", r"\p{Cc}+", r"\p{Co}",
    r"^.", r".$", r"^", r"$", r"^\s+", r".+", r"(?m:.+)", r"(?m).{3}", r"(?i)word|the", r"(?-i:the)", r"\h+", r"\v",
    r"[\h]+", r"\x41|\x{4e2d}|\u3042", r"(?<=a)b|(?<!a)c", r"(?>a+)b?", r"a++|b*+", r"a{2}|b{2,}|c{1,2}?", r"{|}", r"a{x}",
    r"x*", r"(a|b)*?", r"(?=\d)", r"\r?\n", r"[\-\]\[]", r"[ -~]+", r"[^ -~]+", r"\Aa|z\z", r"é|中", r"[é中]+", r"\t|\f|\e|\a",
    "[一-龥぀-ゟ゠-ヿ]+", r"#|&", r"[&#~]", r"a|", r"(?:)"]
# In the order of enum split_behavior.
BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]


def main():
    rng = random.Random(11)
    makers = [make for make, _ in KINDS.values()]
    with open(pathlib.Path(__file__).parent / "patterns.jsonl", "w", encoding="ascii") as out:
        for pattern in PATTERNS:
            for i in range(25):
                behavior, invert = i % 5, rng.random() < 0.3
                split = pre_tokenizers.Split(Regex(pattern), BEHAVIORS[behavior], invert)
                text = rng.choice(makers)(rng)[:40]
                pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
                out.write(json.dumps({"pattern": pattern, "behavior": behavior, "invert": invert,
                                      "text": text, "pieces": pieces}, separators=(",", ":")) + "\n")


main()
