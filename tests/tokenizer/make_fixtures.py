#!/usr/bin/env python3
"""Trains the small tokenizers under tests/tokenizer/fixtures with the package `tokenizers`.

  pairs    DeepSeek-V3 patterns, merges as pairs, BOS by the post-processor, added tokens with every
           flag, some overlapping
  strings  DeepSeek-V2 style: single newlines, Digits, merges as "a b", add_bos_token in the config
  gpt2     ByteLevel with its own pattern, ignore_merges, entries that no merge reaches
  o200k    patterns with case and (?i:...), as GLM and Youtu have them, Digits in runs
  odd      every behavior of Split, a literal pattern, invert, missing bytes with a fused unk_token

The corpus is written out below, so that the result depends on the package alone.
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, \
    trainers

from known_patterns import O200K, V2, V3

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


for make in (pairs, strings, gpt2, o200k, odd):
    make()
