"""Random texts of many kinds, for make_strings.py and fuzz_compare.py."""

SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<s>", "</s>",
            "<pad>", "<a>", "<b>", "<a><b>", "<a", "<a><", "<｜left｜>", "<right>", "<both>", "word",
            "Wörter", "<norm>", "rm>", "tail", "  ", "<|begin_of_text|>", "<|end_of_text|>",
            "<|User|>", "<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<unk>", "<｜User", "｜>",
            "<|EOT|>", "tokenization", "<｜fim▁hole｜>", "[MASK]", "<think>", "</think>", "/nothink", "<|observation|>",
            "[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|tool_call_begin|>", "[EOT]", "[PAD]", "a b\tc", "狐!",
            "  \u3000<", "<|reserved_token_2643|>", "<|reserved_token_2889|>", "<|reserved_token_2638|>", "[BO",
            "<|im_", "<|reserved_token_"]
WORDS = """the of and to in is that it was for on are with as his they be at one have this from or
had by hot but some what there we can out other were all your when up use how said an each she which
don't I'll we've he'd she's they're I'm WORLD'S CamelCase iPhone naïve façade über straße élève señor
Быстрая лиса через собаку γρήγορη αλεπού internationalization tokenization wordy words swordfish
themselves tailor tail entail unreachable quick brown fox latent attention CAN'T it'ſ IT'LL HELLOworld ΣΑΣ ǅungla""".split()
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\v", "\f", "\u0085", "\u00a0", "\u1680", "\u180e",
          "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f",
          "\u2060", "\u3000", "\ufeff", "\x1c", "\x1f"]
CODE = ["if (x == NULL) {\n    return -1;\n}\n", "for i in range(10):\n\tprint(i, end='')\n", "a[i]->b.c",
        "#include <stdio.h>\r\n", "x = {'k': [1, 2.5e-3, 0xFF]}", "SELECT * FROM t WHERE id=42;",
        "// comment\n/* more */", "foo_bar(baz, *args, **kwargs)", "<div class=\"a\">&nbsp;</div>",
        "printf(\"%d\\n\", n);", "git log --oneline | head -5 => out", "λx.x+1 ≠ ∀y∈S: √y ≤ ∞",
        "$HOME/.config/app.json", "https://example.org/a?b=c&d=%20#e", "@decorator\nasync def f(): ...",
        "    \t  mixed\t indent\n\n\n}", "#!/bin/sh\nset -eu\n", "a&&b||!c", "0b1010_1111 1e10 .5"]
SCRIPTS = {"arabic": (0x600, 0x6FF), "hebrew": (0x590, 0x5F4), "hangul": (0xAC00, 0xD7A3),
           "thai": (0xE01, 0xE5B), "devanagari": (0x900, 0x97F)}


def codes(rng, first, last, n):
    return "".join(chr(rng.randint(first, last)) for _ in range(n))


def sentence(rng, n=6):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, n)))


def cjk(rng):
    parts = [codes(rng, 0x4E00, 0x9FA5, 4), codes(rng, 0x4E00, 0x9FFF, 2), codes(rng, 0x3041, 0x3096, 3),
             codes(rng, 0x30A1, 0x30FA, 3), codes(rng, 0x3400, 0x4DBF, 2), codes(rng, 0x20000, 0x2A6DF, 1),
             codes(rng, 0x31350, 0x323AF, 1), "，", "。", "「", "」", "！", "ー", "・", "１２", "ＡＢ", " ",
             "今天天气很好", "漢字", "カタカナ", "ひらがな", "﨑", "〇", "々", "㍿", "㊙", "ｶﾅ", rng.choice(WORDS)]
    return "".join(rng.choice(parts) for _ in range(rng.randint(1, 7)))


def emoji(rng):
    flag = chr(rng.randint(0x1F1E6, 0x1F1FF)) + chr(rng.randint(0x1F1E6, 0x1F1FF))
    parts = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "❤️", "🇩🇪", flag, "1️⃣", "🧑🏿‍💻", "😀", "🎉", "🫠", "🫨", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
             chr(rng.randint(0x1F300, 0x1FAFF)), "\u200d", "\ufe0f", "☃", "ok", " ", "!"]
    return "".join(rng.choice(parts) for _ in range(rng.randint(1, 6)))


def digits(rng):
    run = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 8)))
    other = rng.choice(["٠١٢٣٤٥", "०१२३", "①②③", "Ⅷ", "½", "²³", "１２３４", "𝟙𝟚𝟛", "𞓱", "꧑", "万", "𐵀𐵁"])
    glue = rng.choice(["", " ", ".", ",", "x", "-", "%", "\n"])
    return rng.choice([run, run + glue + run[::-1], run + other, rng.choice(WORDS) + run + glue,
                       glue + run + glue + other + run])


def newlines(rng):
    return "".join(rng.choice(["\r\n", "\n", "\r", "\n\n", "\r\n\r\n", "\n\r", " \n", "\n ", "\t\n", "a",
                               ".", ". \n", rng.choice(WORDS), "\u2028", "\u0085"])
                   for _ in range(rng.randint(1, 9)))


def spaces(rng):
    blank = " " * rng.randint(0, 6)
    return blank + (" " * rng.randint(1, 5)).join(sentence(rng, 2) for _ in range(rng.randint(0, 3))) + \
        rng.choice([blank, "", " ", "\t", "\t ", " \t\t"])


def specials(rng):
    return "".join(rng.choice([rng.choice(SPECIALS), rng.choice(SPECIALS), rng.choice(WORDS), " ", "  ",
                               "\n", "<", ">", "_", "é", "\u00a0", ".", "1"])
                   for _ in range(rng.randint(1, 8)))


def combining(rng):
    marks = [codes(rng, 0x300, 0x36F, 1), "\u0301", "\u0308", "\u20dd", "\u0483", "\u0e31", "\u093e", "\u0f71",
             "\u0897", "\u1acf", "\U00010d69", "\U0001e08f", "\U00011f03"]
    return "".join(rng.choice("aeiouyAEIn \n1!") + "".join(rng.choice(marks) for _ in range(rng.randint(0, 3)))
                   for _ in range(rng.randint(1, 8)))


def code(rng):
    return "".join(rng.choice(CODE) for _ in range(rng.randint(1, 2)))


def script(first, last):
    def make(rng):
        return " ".join(codes(rng, first, last, rng.randint(1, 6)) for _ in range(rng.randint(1, 4))) + \
            rng.choice(["", ".", "؟", "!", "\u200f", " 12", "\u0640"])
    return make


def control(rng):
    return "".join(rng.choice([chr(rng.randrange(32)), chr(rng.randint(0x7F, 0x9F)), "\x00", "a", " ", "\u200e",
                               "\u202e", "\ufff9", "\u00ad", rng.choice(WORDS)])
                   for _ in range(rng.randint(1, 9)))


def white(rng):
    return "".join(rng.choice([rng.choice(SPACES), rng.choice(SPACES), rng.choice(WORDS), "1", ".", "漢"])
                   for _ in range(rng.randint(1, 9)))


def unassigned(rng):
    def one():
        kind = rng.randrange(6)
        if kind == 0:
            return chr(rng.randint(0xE000, 0xF8FF))
        if kind == 1:
            return chr(rng.randint(0xF0000, 0x10FFFF))
        if kind == 2:
            return rng.choice("\u0378\u0530\ufdd0\ufffe\uffff\U0001fffe\U0010ffff\U000e0001\U0003134b")
        if kind == 3:
            return chr(rng.randint(0x10000, 0x1FFFF))
        return rng.choice([" ", "a", "1", ".", "\n", rng.choice(WORDS)])
    return "".join(one() for _ in range(rng.randint(1, 8)))


def long_words(rng):
    kind = rng.randrange(5)
    n = rng.choice([49, 60, 97, 150, 333])
    if kind == 0:
        return rng.choice("aeth 0.=") * n
    if kind == 1:
        return "".join(rng.choice(WORDS) for _ in range(n // 5))
    if kind == 2:
        return codes(rng, 0x61, 0x7A, n)
    if kind == 3:
        return codes(rng, 0x4E00, 0x9FA5, n // 3)
    return rng.choice(["ab", "the", "-=", "é", "ка"]) * (n // 2)


def prose(rng):
    return rng.choice(["", " "]) + ", ".join(sentence(rng) for _ in range(rng.randint(1, 3))) + \
        rng.choice([".", "!", "?", "...", "…", ""])


def punctuation(rng):
    marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»“”‘’–—…•§¶†€£¥¢©®™°±×÷≠≤≥→←⇒∑∏√∞、。「」！？；：￥"
    return "".join(rng.choice([rng.choice(marks), rng.choice(marks), rng.choice(marks), " ", "a", "Ab", "\n"])
                   for _ in range(rng.randint(1, 10)))


def anything(rng):
    def one():
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000),
                        rng.randrange(0x110000)])
        return chr(c) if not 0xD800 <= c <= 0xDFFF else " "
    return "".join(one() for _ in range(rng.randint(0, 12)))


def mixed(rng):
    return "".join(rng.choice(list(KINDS.values())[:-1])[0](rng) for _ in range(2))


# name: (maker, how many of the 2,000)
KINDS = {
    "cjk": (cjk, 180), "emoji": (emoji, 130), "digits": (digits, 150), "newlines": (newlines, 130),
    "spaces": (spaces, 120), "specials": (specials, 220), "combining": (combining, 100), "code": (code, 100),
    "arabic": (script(*SCRIPTS["arabic"]), 50), "hebrew": (script(*SCRIPTS["hebrew"]), 50),
    "hangul": (script(*SCRIPTS["hangul"]), 50), "thai": (script(*SCRIPTS["thai"]), 50),
    "devanagari": (script(*SCRIPTS["devanagari"]), 50), "control": (control, 90), "white": (white, 130),
    "unassigned": (unassigned, 90), "long": (long_words, 30), "prose": (prose, 110),
    "punctuation": (punctuation, 80), "anything": (anything, 49), "mixed": (mixed, 40),
}
