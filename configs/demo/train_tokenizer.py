#!/usr/bin/env python3
"""train_tokenizer.py - byte-level BPE with the pre-tokenizer sequence of DeepSeek-V3, trained on the corpus.

usage: train_tokenizer.py --corpus DIR --out DIR [--vocab 4096]
Writes tokenizer.json, tokenizer_config.json, generation_config.json.
"""
import argparse, json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
USER, ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
CHAT_TEMPLATE = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}"
                 "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + message['content'] }}"
                 "{% elif message['role'] == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + message['content'] + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}"
                 "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corpus", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--vocab", type=int, default=4096)
    a = ap.parse_args()
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    specials = [AddedToken(BOS, special=True, normalized=False), AddedToken(EOS, special=True, normalized=False),
                AddedToken(USER, special=False, normalized=False), AddedToken(ASSISTANT, special=False, normalized=False)]
    trainer = trainers.BpeTrainer(vocab_size=a.vocab, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  min_frequency=2, show_progress=False)
    texts = [json.loads(line)["text"] for line in open(a.corpus / "train.jsonl")]
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)])
    assert tok.token_to_id(BOS) == 0 and tok.token_to_id(EOS) == 1
    a.out.mkdir(parents=True, exist_ok=True)
    tok.save(str(a.out / "tokenizer.json"))
    json.dump({"add_bos_token": True, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": None,
               "clean_up_tokenization_spaces": False, "legacy": True, "model_max_length": 4096,
               "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE},
              open(a.out / "tokenizer_config.json", "w"), indent=2, ensure_ascii=False)
    json.dump({"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "do_sample": False}, open(a.out / "generation_config.json", "w"), indent=2)
    n_bytes = sum(len(t.encode()) for t in texts[::50])
    n_tok = sum(len(e.ids) for e in tok.encode_batch(texts[::50], add_special_tokens=False))
    print(f"vocab {tok.get_vocab_size()}, {n_bytes / n_tok:.3f} bytes a token on the training text")


if __name__ == "__main__":
    main()
