"""Texts that are longer than Kimi's tokenizer gives to `tiktoken` at once, as parts (text, repetitions).

make_long.py writes them and the ids of the fixture kimi to long.jsonl; fuzz_compare.py adds random ones.
"""
from string_kinds import KINDS, WORDS

PARTS = [
    [["a", 24999]], [["a", 25000]], [["a", 25001]], [[" ", 25001], ["a", 1]], [[" ", 60000]], [["a", 60000]],
    [["A", 60000]], [["Ab", 30000]], [["中", 50001]], [["é", 25001]], [["the", 16667]], [["in", 12500], ["ing", 9000]],
    [["9", 25002]], [["\n", 25001]], [[" \n", 30000]], [["\x1c", 25001], ["a", 2]], [["\u0085\u3000", 13000]],
    [["\u180e", 25001]], [["a", 24998], ["[BOS]", 2]], [["the quick brown fox ", 25000]],
    [["it's ", 80000], ["<|im_end|>", 1]], [["ab ", 133333], ["the", 9]],
    [["x", 20000], [" ", 1], ["y", 26000], [" ", 25001], ["z", 1]], [["今天 天气", 100000]], [["\u0301", 25001]],
    [["the ", 100000], ["a", 25001]], [["aB", 12500], [" ", 3], ["Ba", 12501]], [["!", 25001]], [["❤️ 👍🏽", 70000]],
]


def long_texts(rng):
    for parts in PARTS:
        yield "".join(text * n for text, n in parts)
    makers = [make for make, _ in KINDS.values()]
    for length in [400000, 500000, 1300000]:
        text = ""
        while len(text) < length:
            kind = rng.randrange(4)
            if kind == 0:
                text += rng.choice(WORDS + [" ", "\n", "中", "٣"]) * rng.randint(1, 30000)
            elif kind == 1:
                text += " ".join(rng.choice(WORDS) for _ in range(5000))
            else:
                text += "".join(rng.choice(makers)(rng) for _ in range(500))
        yield text
