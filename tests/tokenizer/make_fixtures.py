#!/usr/bin/env python3
"""Trains the small tokenizers under tests/tokenizer/fixtures with the package `tokenizers`.

  pairs    DeepSeek-V3 patterns, merges as pairs, BOS by the post-processor, added tokens with every
           flag, some overlapping
  strings  DeepSeek-V2 style: single newlines, Digits, merges as "a b", add_bos_token in the config
  gpt2     ByteLevel with its own pattern, ignore_merges, entries that no merge reaches
  o200k    patterns with case and (?i:...), as GLM and Youtu have them, Digits in runs
  deepseek-v2  DeepSeek-V2 as published: its list of cased letters, Digits, added tokens after the
           vocabulary, every flag of theirs
  glm      GLM-4.5: one alternation, ignore_merges with entries that no merge reaches, a prefix of
           two tokens that no post-processor adds, several ends
  kimi     tiktoken.model with ranks out of the order of learning and special tokens with and
           without a name
  odd      every behavior of Split, a literal pattern, invert, missing bytes with a fused unk_token

The corpus is written out below, so that the result depends on the package alone.
"""
import base64
import json
import pathlib
import random
import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, \
    trainers

from known_patterns import CL100K, KIMI, O200K, V2, V2_LETTERS, V3
from string_kinds import KINDS

HERE = pathlib.Path(__file__).parent / "fixtures"
SENTENCES = """The quick brown fox jumps over the lazy dog, and it doesn't care.
We're told that they've seen what I'll do; she's sure he'd agree, I'm not!
In 2024 there were 1234567 people, 3.14159 pies and 42 answers.
attention is all you need, latent attention needs less: 576 numbers a token
static int find(const char *text, size_t length) { return text[length - 1] == '\\n'; }
for i in range(10):\n    print(f"{i:>4}", end="\\t")\n\n
if (x <= 0 && y != NULL) {\n\treturn -EINVAL; /* no such thing */\n}
Les élèves français étudient à l'école près de la forêt où naît le fleuve.
Über den Wolken muß die Freiheit wohl grenzenlos sein, größer als Straßen.
El niño comió una piña mañana; ¿cómo está usted? ¡Qué bien!
Быстрая коричневая лиса прыгает через ленивую собаку каждый день.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
敏捷的棕色狐狸跳过了懒狗，然后在河边休息。今天天气很好，我们去公园散步吧。
素早い茶色の狐はのろまな犬を飛び越えた。カタカナとひらがなと漢字があります。
빠른 갈색 여우가 게으른 개를 뛰어넘습니다. 오늘은 날씨가 참 좋네요.
الثعلب البني السريع يقفز فوق الكلب الكسول كل يوم.
השועל החום המהיר קופץ מעל הכלב העצלן בכל יום.
सुबह का मौसम बहुत अच्छा है और हम पार्क में टहलने जाते हैं।
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจทุกวัน
😀 😂 ❤️ 👍🏽 👨‍👩‍👧‍👦 🇩🇪 🇯🇵 emoji are fun 🎉🎉🎉
HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><body>Hi</body></html>
CamelCaseIdentifiers and snake_case_names, SCREAMING_CONSTANTS, kebab-case-things
    four spaces, then\ttabs\t\tand   three   spaces   between
the other day the weather was rather nice, whether or not they gathered together there""".split("\n")

def corpus():
    rng = random.Random(7)
    for _ in range(40):
        lines = SENTENCES[:]
        rng.shuffle(lines)
        for line in lines:
            words = line.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").split(" ")
            if rng.random() < 0.5:
                words = words[: rng.randint(1, len(words))]
            yield " ".join(words)


def splits(patterns, **settings):
    return [pre_tokenizers.Split(Regex(p), "isolated", **settings) for p in patterns]


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def train(steps, vocab_size, special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def save(name, tokenizer, edit=None, config=None):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if edit:
        edit(data)
    text = json.dumps(data, ensure_ascii=False, indent=None, separators=(",", ":"))
    text = text.replace('"vocab":', '\n"vocab":').replace('"merges":', '\n"merges":') + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    Tokenizer.from_file(str(folder / "tokenizer.json"))
    print(name, tokenizer.get_vocab_size(), len(text.encode()), "bytes")


def pairs():
    tokenizer = train(splits(V3) + [byte_level()], 1500, ["<s>", "</s>", "<pad>"])
    tokenizer.add_special_tokens([
        AddedToken("<a>", special=True, normalized=False),
        AddedToken("<a><b>", special=True, normalized=False),
        AddedToken("<b>", normalized=False),
        AddedToken("<｜left｜>", lstrip=True, special=True, normalized=False),
        AddedToken("<right>", rstrip=True, special=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("Wörter", single_word=True, lstrip=True, normalized=False)])
    tokenizer.add_tokens([
        AddedToken("<norm>", normalized=True), AddedToken("<a", normalized=True),
        AddedToken("rm>", normalized=True), AddedToken("  ", normalized=True),
        AddedToken("tail", normalized=True, rstrip=True, single_word=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    save("pairs", tokenizer)


def strings():
    def edit(data):
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    steps = splits(V2) + [pre_tokenizers.Digits(individual_digits=True), byte_level()]
    tokenizer = train(steps, 1400, [])
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|User|>"])
    save("strings", tokenizer, edit, {"add_bos_token": True, "bos_token": {
        "__type": "AddedToken", "content": "<|begin_of_text|>", "lstrip": False,
        "normalized": False, "rstrip": False, "single_word": False}})


def gpt2():
    def edit(data):
        model = data["model"]
        model["ignore_merges"] = True
        for text in ["Ġthemselves", "Ġunreachable", "Ġ12345", "çĭĹ", "ĠĠĠĠĠĠĠ", "!?!"]:
            if text not in model["vocab"]:
                model["vocab"][text] = len(model["vocab"])
        for token in data["added_tokens"]:
            assert token["id"] == model["vocab"][token["content"]]
    tokenizer = train([byte_level(True)], 1200, ["<|endoftext|>"])
    tokenizer.pre_tokenizer = byte_level(True)
    save("gpt2", tokenizer, edit)


def o200k():
    steps = splits(O200K) + [pre_tokenizers.Digits(individual_digits=False), byte_level()]
    tokenizer = train(steps, 1300, ["[gMASK]", "<sop>", "<|user|>"])
    save("o200k", tokenizer, None, {"add_bos_token": False, "bos_token": "[gMASK]"})


def odd():
    steps = [pre_tokenizers.Split(Regex(r"[,;]\s?"), "merged_with_previous"),
             pre_tokenizers.Split(Regex(r"[(\[{]"), "merged_with_next"),
             pre_tokenizers.Split(Regex(r"[aeiou]"), "contiguous"),
             pre_tokenizers.Split("=>", "removed"),
             pre_tokenizers.Split(Regex(r"[\w\s]+"), "isolated", invert=True),
             pre_tokenizers.Split(Regex(r"x*"), "merged_with_previous"),
             pre_tokenizers.Split(Regex(r"\b\d"), "merged_with_next", invert=True), byte_level()]
    tokenizer = train(steps, 700, ["<unk>", "<s>"])
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]

    def edit(data):
        model = data["model"]
        model["unk_token"], model["fuse_unk"] = "<unk>", True
        # ã is byte E3, the first of every kana.
        drop = [t for t in vocab if any(c in t for c in "zZ#~ã") and not t.startswith("<")]
        kept = [t for t in sorted(vocab, key=vocab.get) if t not in drop]
        model["vocab"] = {t: i for i, t in enumerate(kept)}
        model["merges"] = [m for m in model["merges"] if all(t in model["vocab"] for t in
                                                             (m[0], m[1], m[0] + m[1]))]
    save("odd", tokenizer, edit)


def deepseek_v2():
    patterns = [V2[0], r"\s?[" + V2_LETTERS + "]+"] + V2[2:]
    steps = splits(patterns) + [pre_tokenizers.Digits(individual_digits=True), byte_level()]
    tokenizer = train(steps, 1300, [])
    tokenizer.add_special_tokens(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    tokenizer.add_tokens([
        AddedToken("<｜fim▁hole｜>", normalized=False), AddedToken("<｜User｜>", normalized=True),
        AddedToken("<｜Assistant｜>", lstrip=True, rstrip=True, normalized=True),
        AddedToken("<|EOT|>", lstrip=True, special=True, normalized=False),
        AddedToken("tokenization", single_word=True, rstrip=True, special=True, normalized=True)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    save("deepseek-v2", tokenizer, None, {
        "add_bos_token": True, "add_eos_token": False, "bos_token": {"content": "<｜begin▁of▁sentence｜>"},
        "eos_token": {"content": "<｜end▁of▁sentence｜>"}, "unk_token": None})


def glm():
    def edit(data):
        model, moved = data["model"], {}
        model["ignore_merges"] = True
        for text in ["Ġthemselves", "Ġunreachable", "'Ġll", "123", "çĭĹ", "!?!", ".Ċ", "Ġ($"]:
            moved.setdefault(text, len(model["vocab"]))
            model["vocab"].setdefault(text, moved[text])
        for token in data["added_tokens"]:
            token["id"] = len(model["vocab"]) + data["added_tokens"].index(token)
    tokenizer = train(splits([CL100K]) + [byte_level()], 1300, [])
    tokenizer.add_special_tokens([
        "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
        "<|assistant|>", "<|observation|>", "/nothink"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in
                          ("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>")])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False)])
    save("glm", tokenizer, edit, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
                                  "do_lower_case": False})


def kimi_ranks(rng):
    """Bytes of the tokens in the order of their ranks."""
    def texts():
        yield from corpus()
        for _ in range(3000):
            yield rng.choice([KINDS["cjk"], KINDS["prose"], KINDS["code"], KINDS["digits"], KINDS["combining"],
                              KINDS["emoji"], KINDS["white"], KINDS["hangul"]])[0](rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits([KIMI]) + [byte_level()])
    tokenizer.train_from_iterator(texts(), trainers.BpeTrainer(
        vocab_size=2400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    vocab = tokenizer.get_vocab()
    to_bytes = {c: bytes([b]) for b, c in enumerate(byte_characters())}
    tokens = [b"".join(to_bytes[c] for c in text) for text in sorted(vocab, key=vocab.get)]
    # Whole pieces that no merge makes, pieces of characters, and what only another cut makes.
    extra = [" unreachable", "themselves", "今天天气很好", "狐狸", "'LL", "  \n\n", "999", "!?!", " \u3000", "ſ"]
    extra = [text.encode() for text in extra] + [b"\xa4\xa9\xe5", b"\x9f\x98", b"\xe5\xa4\xa9\xe6", b"\x00\x00"]
    # What lies across the cuts, so that a missing cut shows.
    extra += [a + b for c in string.ascii_letters for a, b in
              [(c.encode(), "漢".encode()), (c.encode(), "今".encode()), ("字".encode(), c.encode()),
               ("好".encode(), c.encode())]]
    extra += [text.encode() for text in (" 漢", " 今", "。今", "漢カ", "字，", "1a", "a1", "1234", "a.", "。A", "tT", "nI",
                                         "\n ", " \n\t", "'sx", "e's", "'ſ", " 1", "1漢", "\u3000漢", "Ɐa")]
    tokens += [token for token in extra if token not in tokens]
    # A rank need not lie behind those of its parts.
    for _ in range(150):
        a, b = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        tokens[a], tokens[b] = tokens[b], tokens[a]
    return tokens


def byte_characters():
    """The byte-level alphabet of GPT-2, by byte."""
    plain = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b and b != 0xAD]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(0x100 + others.index(b)) for b in range(256)]


def kimi():
    rng = random.Random(17)
    tokens = kimi_ranks(rng)
    folder, first = HERE / "kimi", len(tokens)
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    lines[-5:] = reversed(lines[-5:])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiktoken.model").write_bytes(b"".join(lines))
    special = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 6: "<|start_header_id|>",
               7: "<|end_header_id|>", 9: "[EOT]", 10: "<|im_system|>", 17: "<|im_middle|>", 254: "[UNK]", 255: "[PAD]"}
    added = {11: "<|tool_calls_section_begin|>", 13: "<|tool_call_begin|>", 14: "<|tool_call_argument_begin|>",
             22: "<think>", 23: "</think>", 30: "a b\tc", 31: "狐!", 32: "  \u3000<"}
    names = {i: (text, True) for i, text in special.items()}
    names.update({i: (text, False) for i, text in added.items()})
    decoder = {str(first + i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                                "single_word": False, "special": is_special}
               for i, (text, is_special) in sorted(names.items())}
    config = {"added_tokens_decoder": decoder, "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]",
              "pad_token": "[PAD]", "tokenizer_class": "TikTokenTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    print("kimi", len(tokens), sum(map(len, lines)), "bytes")


for make in (pairs, strings, gpt2, o200k, deepseek_v2, glm, kimi, odd):
    make()
