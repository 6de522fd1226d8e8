#!/usr/bin/env python3
"""Writes the inputs that the fuzzers start from: tests/fuzz/corpus/TARGET/NAME.

What the fuzzers found (cov-*, found-*) lies beside them and is left alone.  Small files, one for
each rule that a parser has; where an input needs two files, a NUL stands between them."""

import base64
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
GOLDEN = os.path.join(ROOT, "tests", "golden")


def read(*parts):
    with open(os.path.join(ROOT, *parts), "rb") as file:
        return file.read()


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def put(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


# JSON that is wrong for every reader.
NOT_JSON = {
    "empty": b"", "brace": b"{", "array": b"[]", "number": b"7", "null": b"null",
    "doubled-key": b'{"a":1,"a":2}', "nan": b'{"a":NaN}', "huge-real": b'{"a":1e999}',
    "huge-integer": b'{"a":99999999999999999999}', "utf8-ff": b'{"a":"\xff"}',
    "surrogate": b'{"a":"\xed\xa0\x80"}', "lone-surrogate": b'{"a":"\\ud800"}',
    "escaped-nul": b'{"a":"\\u0000"}', "trailing": b"{} x", "bom": b"\xef\xbb\xbf{}",
    "utf16": "{}".encode("utf-16"), "deep": b'{"a":' + b"[" * 3000, "control": b'{"a\n":1}',
}

# --- config.json ---

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "num_hidden_layers": 4, "hidden_size": 8, "vocab_size": 16, "num_attention_heads": 2,
    "q_lora_rank": 6, "kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2,
    "v_head_dim": 3, "intermediate_size": 6, "max_position_embeddings": 64,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 5,
    "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1, "eos_token_id": 1}
YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 16, "mscale": 1,
        "mscale_all_dim": 1, "beta_fast": 32, "beta_slow": 1}
LARGEST = {
    "num_hidden_layers": 256, "hidden_size": 1 << 18, "vocab_size": 1 << 24,
    "num_attention_heads": 1 << 14, "q_lora_rank": 1 << 18, "kv_lora_rank": 1 << 18,
    "qk_nope_head_dim": 1 << 14, "qk_rope_head_dim": 1 << 14, "v_head_dim": 1 << 14,
    "intermediate_size": 1 << 20, "n_routed_experts": 1 << 14, "num_experts_per_tok": 1 << 14,
    "moe_intermediate_size": 1 << 20, "n_shared_experts": 1 << 10, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 0, "num_nextn_predict_layers": 16,
    "max_position_embeddings": 2**31 - 1,
    "index_topk": 1, "index_n_heads": 1 << 14, "index_head_dim": 1 << 14}

def packed(**weights):
    """compressed-tensors with one group of settings."""
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": weights}}}


QUANTIZED = {
    "quant-fp8-blocks": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "quant-fp8-e5m2": {"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]},
    "quant-fp8-one-side": {"quant_method": "fp8", "weight_block_size": [128]},
    "quant-fp8-side-0": {"quant_method": "fp8", "weight_block_size": [0, 128]},
    "quant-fp8-side-text": {"quant_method": "fp8", "weight_block_size": ["128", 128]},
    "quant-awq": {"quant_method": "awq"},
    "quant-int4": packed(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32,
                         actorder=None),
    "quant-int8": packed(num_bits=8, group_size=32),
    "quant-int4-channel": packed(num_bits=4, strategy="channel"),
    "quant-int4-asymmetric": packed(num_bits=4, symmetric=False),
    "quant-int4-actorder": packed(num_bits=4, actorder="group"),
    "quant-int4-no-group": packed(num_bits=4),
    "quant-int4-no-weights": {"quant_method": "compressed-tensors", "format": "pack-quantized",
                              "config_groups": {"g": {"weights": None}}},
    "quant-no-groups": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "quant-nvfp4": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                    "config_groups": {"g": {}}},
    "quant-two-sizes": {"quant_method": "compressed-tensors", "format": "pack-quantized",
                        "config_groups": {
                            "a": {"weights": {"num_bits": 4, "group_size": 32}},
                            "b": {"weights": {"num_bits": 4, "group_size": 64}}}},
}

CHANGES = {
    "right": {}, "largest": LARGEST, "width-0": {"hidden_size": 0},
    "width-62-bits": {"hidden_size": 2**62},
    "odd-rope": {"qk_rope_head_dim": 3}, "no-query-rank": {"q_lora_rank": None},
    "query-rank-text": {"q_lora_rank": "x"}, "real-size": {"vocab_size": 1.5},
    "no-latents": {"qk_nope_head_dim": 0, "qk_rope_head_dim": 0}, "not-mla": {"use_mla": False},
    "use-mla-text": {"use_mla": "no"}, "dense": {"n_routed_experts": None},
    "indexer": {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 4},
    "indexer-lacks": {"index_topk": 4},
    "shared-absent": {"n_shared_experts": None}, "groups-3": {"n_group": 3},
    "groups-of-one": {"n_group": 8}, "group-null": {"n_group": None},
    "few-candidates": {"topk_group": 1, "num_experts_per_tok": 3},
    "softmax-noaux": {"scoring_func": "softmax"}, "sqrtsoftplus": {"scoring_func": "sqrtsoftplus"},
    "scoring-unknown": {"scoring_func": "tanh"}, "method-unknown": {"topk_method": "best"},
    "greedy": {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"],
               "topk_method": "gready", "rope_scaling": YARN, "norm_topk_prob": True},
    "limited": {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"],
                "topk_method": "group_limited_greedy", "scoring_func": "softmax"},
    "types": {"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
    "types-short": {"mlp_layer_types": ["dense"]}, "types-other": {"mlp_layer_types": ["moe"] * 4},
    "types-number": {"mlp_layer_types": [1] * 4},
    "types-no-experts": {"n_routed_experts": None, "mlp_layer_types": ["sparse"] * 4},
    "types-mtp": {"num_nextn_predict_layers": 1, "mlp_layer_types": ["sparse"] * 5},
    "frequency": {"moe_layer_freq": 2}, "frequency-0": {"moe_layer_freq": 0},
    "yarn": {"rope_scaling": YARN}, "yarn-no-factor": {"rope_scaling": {"type": "yarn"}},
    "yarn-no-length": {"rope_scaling": {"type": "yarn", "factor": 4}},
    "yarn-betas": {"rope_scaling": dict(YARN, beta_fast=1, beta_slow=2)},
    "yarn-attention": {"rope_scaling": dict(YARN, attention_factor=2, truncate=False)},
    "yarn-mscale-0": {"rope_scaling": dict(YARN, mscale=0)},
    "yarn-edge": {"rope_scaling": dict(YARN, factor=1e9, beta_fast=1e-6, beta_slow=1e-6, mscale=1e3,
                                       mscale_all_dim=1e-30), "rope_theta": 1e12},
    "yarn-little-theta": {"rope_scaling": dict(YARN, factor=1e9), "rope_theta": 1.001,
                          "qk_rope_head_dim": 16384},
    "rope-linear": {"rope_scaling": {"type": "linear", "factor": 2}},
    "rope-default": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000}},
    "rope-theta-twice": {"rope_theta": 10000, "rope_parameters": {"rope_theta": 5}},
    "rope-both": {"rope_scaling": YARN, "rope_parameters": dict(YARN, factor=4.0)},
    "rope-both-differ": {"rope_scaling": YARN, "rope_parameters": dict(YARN, factor=8)},
    "rope-types-differ": {"rope_scaling": dict(YARN, rope_type="default")},
    "rope-no-type": {"rope_scaling": {"factor": 4}}, "rope-text": {"rope_scaling": "yarn"},
    "rope-llama4": {"rope_parameters": dict(YARN, llama_4_scaling_beta=0.1)},
    "rope-half-split": {"rope_interleave": False},
    "eos-list": {"eos_token_id": [1, 2, 3]}, "eos-many": {"eos_token_id": list(range(9))},
    "eos-out": {"eos_token_id": 16}, "eos-text": {"eos_token_id": "</s>"},
    "bos-out": {"bos_token_id": 16}, "dtype": {"dtype": "float16"},
    "dtype-unknown": {"torch_dtype": "int8"}, "tied": {"tie_word_embeddings": True},
    "bias": {"attention_bias": True}, "gelu": {"hidden_act": "gelu"}, "eps": {"rms_norm_eps": 0},
    "fp8": {"quantization_config": {"quant_method": "fp8"}},
    "unquantized": {"quantization_config": {}},
    "int4": {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {
        "group_0": {"weights": {"type": "int", "num_bits": 4}}}}},
    "quantization-text": {"quantization_config": "fp8"},
    **{name: {"quantization_config": value} for name, value in QUANTIZED.items()},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "v4": {"architectures": ["DeepseekV4ForCausalLM"]}, "by-type": {"architectures": None},
    "by-architecture": {"model_type": None}, "architecture-number": {"architectures": [3]},
    "architectures-text": {"architectures": "x"},
    "architecture-long": {"architectures": ["x" * 300]},
    "text-array": {"text_config": []}, "text-empty": {"text_config": {}},
}


def config(**changes):
    return {key: value for key, value in dict(CONFIG, **changes).items() if value is not None
            or key == "q_lora_rank"}


def make_model_config():
    for name, data in NOT_JSON.items():
        put("model_config", "not-" + name, data)
    for name in os.listdir(os.path.join(ROOT, "configs", "models")):
        put("model_config", name.removesuffix(".json"),
            compact(json.loads(read("configs", "models", name))))
    for name, changes in CHANGES.items():
        put("model_config", name, compact(config(**changes)))
    for key in CONFIG:
        if key not in ("architectures", "model_type", "eos_token_id", "n_shared_experts"):
            lacking = config()
            del lacking[key]
            put("model_config", "without-" + key.replace("_", "-"), compact(lacking))
    nested = {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
              "text_config": config(model_type="kimi_k2"), "eos_token_id": 2}
    put("model_config", "nested", compact(nested))
    put("model_config", "two-right", compact(config()) + b'\0{"eos_token_id":[2,3]}')
    put("model_config", "two-none", compact(config()) + b"\0{}")
    put("model_config", "two-array", compact(config()) + b"\0[]")
    put("model_config", "two-cut", compact(config()) + b"\0{")
    put("model_config", "two-out", compact(config()) + b'\0{"eos_token_id":99}')
    put("model_config", "two-unknown", compact(config(**CHANGES["llama"])) + b"\0{}")
    put("model_config", "two-first-cut", b"{\0{}")
    put("model_config", "two-first-wrong", b"[]\0{}")
    for name, value in (("true", True), ("false", False), ("object", {})):
        put("model_config", "width-" + name, compact(config(hidden_size=value)))
    put("model_config", "architecture-only", b'{"architectures":["x"],"text_config":{}}')
    put("model_config", "no-names", b"{}")


# --- safetensors ---

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "I32": 4, "I64": 8, "U8": 1,
    "I8": 1}


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def every_dtype():
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for dtype, size in sorted(SIZES.items(), key=lambda item: -item[1]):
        header[dtype.lower()] = entry(dtype, [2, 1], at, at + 2 * size)
        at += 2 * size
    return header, at


ONE = {"a": entry("BF16", [2, 2], 0, 8)}
HEADERS = {  # header, bytes of data
    "one": (ONE, 8), "every-dtype": every_dtype(), "no-tensors": ({}, 0),
    "metadata-array": ({"__metadata__": []}, 0), "metadata-number": ({"__metadata__": {"a": 1}}, 0),
    "scalar": ({"a": entry("F32", [], 0, 4)}, 4), "zero": ({"a": entry("F32", [0, 7], 0, 0)}, 0),
    "zero-first": ({"b": entry("F32", [1], 0, 4), "a": entry("F32", [0], 0, 0),
                    "c": entry("F32", [0], 4, 4)}, 4),
    "two-empty": ({"b": entry("U8", [0], 0, 0), "a": entry("U8", [0], 0, 0)}, 0),
    "five-dims": ({"a": entry("U8", [1] * 5, 0, 1)}, 1),
    "negative-dim": ({"a": entry("U8", [-1], 0, 1)}, 1),
    "real-dim": ({"a": entry("U8", [1.0], 0, 1)}, 1),
    "shape-text": ({"a": dict(ONE["a"], shape="4")}, 8), "no-shape": ({"a": {"dtype": "U8"}}, 8),
    "overflow": ({"a": entry("U8", [2**32, 2**32], 0, 8)}, 8),
    "overflow-bytes": ({"a": entry("F32", [2**62], 0, 8)}, 8),
    "overflow-zero": ({"a": entry("U8", [0, 2**62, 2**62], 0, 0)}, 0),
    "unknown-dtype": ({"a": dict(ONE["a"], dtype="Q4_K")}, 8), "no-dtype": ({"a": {}}, 8),
    "dtype-number": ({"a": dict(ONE["a"], dtype=1)}, 8),
    "offsets-one": ({"a": dict(ONE["a"], data_offsets=[0])}, 8),
    "offsets-none": ({"a": {"dtype": "U8", "shape": []}}, 8),
    "offsets-negative": ({"a": entry("BF16", [4], -8, 0)}, 8),
    "offsets-turned": ({"a": entry("BF16", [4], 8, 0)}, 8),
    "offsets-real": ({"a": entry("BF16", [4], 0.0, 8)}, 8),
    "behind-the-end": ({"a": entry("BF16", [4], 0, 8)}, 6),
    "other-size": ({"a": entry("BF16", [3], 0, 8)}, 8),
    "unaligned": ({"b": entry("U8", [1], 0, 1), "a": entry("F32", [1], 1, 5)}, 5),
    "overlap": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, 6),
    "same-place": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}, 4),
    "hole": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 4, 6)}, 6),
    "hole-at-the-end": (ONE, 16), "array-entry": ({"a": []}, 8),
}


def golden_header():
    data = read("tests", "golden", "t9-shards", "model-00002-of-00003.safetensors")
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), len(data) - 8 - length


def make_safetensors():
    cases = dict(HEADERS)
    cases["golden"] = golden_header()
    for name, (header, data_bytes) in cases.items():
        text = compact(header)
        put("safetensors_header", name, struct.pack("<q", data_bytes) + text)
        if data_bytes <= 64:
            put("safetensors_file", name,
                struct.pack("<Q", len(text)) + text + bytes(range(data_bytes)))
    for name, text in NOT_JSON.items():
        put("safetensors_header", "not-" + name, struct.pack("<Q", 8) + text)
    text = compact(ONE)
    put("safetensors_header", "space-behind", struct.pack("<Q", 8) + text + b"   ")
    put("safetensors_header", "space-before", struct.pack("<Q", 8) + b" " + text)
    twice = text[:-1] + b"," + text[1:]
    put("safetensors_file", "name-twice", struct.pack("<Q", len(twice)) + twice + bytes(8))
    for name, length in (("length-0", 0), ("length-63", 1 << 63), ("length-64", (1 << 64) - 1),
                         ("length-large", 100 * 1000 * 1000), ("length-behind", len(text) + 9),
                         ("length-short", len(text) - 1)):
        put("safetensors_file", name, struct.pack("<Q", length) + text + bytes(8))
    put("safetensors_file", "seven-bytes", bytes(7))
    put("safetensors_file", "nothing", b"")
    put("safetensors_file", "pickle", b"PK\x03\x04" + bytes(60))


SHARD = "model-0000{}-of-00002.safetensors"
MAP = {"a": SHARD.format(1), "b": SHARD.format(1), "c": SHARD.format(2)}


def make_index():
    maps = {
        "right": MAP, "first-only": {"a": SHARD.format(1), "b": SHARD.format(1)},
        "second-only": {"c": SHARD.format(2)}, "empty": {}, "one-missing": {"a": SHARD.format(1)},
        "unknown": dict(MAP, d=SHARD.format(1)), "swapped": dict(MAP, a=SHARD.format(2)),
        "absent-file": dict(MAP, d="absent"), "broken-file": dict(MAP, d="broken"),
        "twice": dict(MAP, d="again"), "up": {"a": "../x"}, "hidden": {"a": ".x"},
        "absolute": {"a": "/dev/zero"},
        "empty-name": {"a": ""}, "number": {"a": 1},
        "itself": {"a": "model.safetensors.index.json"},
        "long": {"a": "x" * 5000},
    }
    for name, data in NOT_JSON.items():
        put("safetensors_index", "not-" + name, data)
    for name, weight_map in maps.items():
        put("safetensors_index", name,
            compact({"metadata": {"total_size": 16}, "weight_map": weight_map}))
    put("safetensors_index", "no-map", b"{}")
    put("safetensors_index", "map-array", b'{"weight_map":[]}')


# --- tokenizers ---

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}


def split(pattern, behavior="Isolated", **more):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, **more}, BYTE_LEVEL]}


def steps(*members):
    return {"type": "Sequence", "pretokenizers": list(members)}


def tokenizer(model=None, pre=None, **more):
    return compact({"version": "1.0", "model": dict(MODEL, **(model or {})),
                    "pre_tokenizer": BYTE_LEVEL if pre is None else pre, **more})


def template(single, table):
    return {"post_processor": {"type": "TemplateProcessing", "single": single,
        "special_tokens": table}}


def token(text, number, **more):
    return {"content": text, "id": number, **more}


BOS = {"SpecialToken": {"id": "a"}}
PIECE = {"Sequence": {"id": "A"}}
TOKENIZERS = {
    "right": tokenizer(), "gpt2-pattern": tokenizer(pre=dict(BYTE_LEVEL, use_regex=True)),
    "pairs": tokenizer({"merges": [["a", "b"]]}),
    "version-line": tokenizer({"merges": ["#version: 0.2", "a b"]}),
    "hole-in-ids": tokenizer({"vocab": {"a": 70}, "merges": []}),
    "ignore-merges": tokenizer({"ignore_merges": True}),
    "unknown-token": tokenizer({"vocab": {"a": 0, "b": 1, "ab": 2, "<u>": 3}, "unk_token": "<u>",
        "fuse_unk": True}),
    "unknown-absent": tokenizer({"unk_token": "<u>"}),
    "unknown-number": tokenizer({"unk_token": 1}),
    "added": tokenizer(added_tokens=[token("<s>", 3, special=True),
        token("x", 4, lstrip=True, rstrip=True),
                                     token("y", 5, single_word=True), token("ab", 2),
                                     token("", 0)]),
    "added-twice": tokenizer(added_tokens=[token("x", 3), token("x", 3)]),
    "added-far": tokenizer(added_tokens=[token("x", 9)]),
    "added-number": tokenizer(added_tokens=[7]),
    "added-object": tokenizer(added_tokens={}),
    "added-no-id": tokenizer(added_tokens=[{"content": "x"}]),
    "added-no-text": tokenizer(added_tokens=[{"id": 3}]),
    "added-flag": tokenizer(added_tokens=[token("x", 3, lstrip=1)]),
    "added-special-text": tokenizer(added_tokens=[token("x", 3, special="yes")]),
    "added-null": tokenizer(added_tokens=None),
    "added-raw": tokenizer(added_tokens=[token("<|end|>", 3, normalized=False),
        token("<|", 4, normalized=False)]),
    "bos": tokenizer(**template([BOS, PIECE], {"a": {"ids": [0]}})),
    "bos-twice": tokenizer(**template([BOS, BOS], {"a": {"ids": [0]}})),
    "bos-two-ids": tokenizer(**template([BOS], {"a": {"ids": [0, 1]}})),
    "bos-out": tokenizer(**template([BOS], {"a": {"ids": [3]}})),
    "bos-no-table": tokenizer(**template([BOS], [])),
    "bos-no-name": tokenizer(**template([{"SpecialToken": {}}], {})),
    "bos-absent": tokenizer(**template([BOS], {})),
    "bos-no-ids": tokenizer(**template([BOS], {"a": {}})),
    "bos-number": tokenizer(**template([7], {})),
    "bos-no-list": tokenizer(**template(7, {})),
    "processors": tokenizer(post_processor={"type": "Sequence",
        "processors": [{"type": "ByteLevel"}]}),
    "processor-unknown": tokenizer(post_processor={"type": "BertProcessing"}),
    "normalizer": tokenizer(normalizer={"type": "NFC"}), "normalizers": tokenizer(normalizer={
        "type": "Sequence", "normalizers": []}),
        "decoder": tokenizer(decoder={"type": "ByteLevel"}),
    "decoder-unknown": tokenizer(decoder={"type": "WordPiece"}),
    "pre-null": compact({"model": MODEL}),
    "pre-metaspace": tokenizer(pre={"type": "Metaspace"}),
    "pre-space": tokenizer(pre={"type": "ByteLevel"}),
    "pre-after": tokenizer(pre=steps(BYTE_LEVEL, BYTE_LEVEL)), "pre-many": tokenizer(pre=steps(
        *[{"type": "Digits"}] * 40)), "pre-number": tokenizer(pre=steps(7)),
        "pre-no-list": tokenizer(pre={"type": "Sequence"}),
    "pre-deep": tokenizer(pre=steps(*[steps(steps(steps(steps(steps(steps(steps(steps(BYTE_LEVEL))))))))])),
    "pre-no-type": tokenizer(pre={}),
    "digits": tokenizer(pre=steps({"type": "Digits", "individual_digits": True}, BYTE_LEVEL)),
    "digits-text": tokenizer(pre=steps({"type": "Digits", "individual_digits": "x"})),
    "digits-together": tokenizer(pre=steps({"type": "Digits"}, BYTE_LEVEL)),
    "no-regex-flag": tokenizer(pre=dict(BYTE_LEVEL, use_regex="no")),
    "space-flag": tokenizer(pre=dict(BYTE_LEVEL, add_prefix_space=1)),
    "split-removed": tokenizer(pre=split("\\s+", "Removed")),
    "split-inverted": tokenizer(pre=split("[a-z]+", "Removed", invert=True)),
    "split-previous": tokenizer(pre=split("o", "MergedWithPrevious")),
    "split-next": tokenizer(pre=split("\\p{Lu}", "MergedWithNext")),
    "split-contiguous": tokenizer(pre=split("[aeiou]|", "Contiguous")),
    "split-eaten": tokenizer(pre=split("a", "Eaten")),
    "split-invert-number": tokenizer(pre=split("a", invert=1)),
    "split-no-behavior": tokenizer(pre=steps({"type": "Split"})),
    "split-no-pattern": tokenizer(pre=steps({"type": "Split", "behavior": "Removed"})),
    "split-two-patterns": tokenizer(pre=steps({"type": "Split", "behavior": "Removed",
        "pattern": {"Regex": "a", "String": "b"}})),
    "split-number": tokenizer(pre=steps({"type": "Split", "behavior": "Removed",
        "pattern": {"Regex": 1}})),
    "split-string": tokenizer(pre=steps({"type": "Split", "behavior": "Removed",
        "pattern": {"String": "="}}, BYTE_LEVEL)),
    "regex-known": tokenizer(pre=split("(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")),
    "regex-han": tokenizer(pre=split("[\\p{Han}]+|[\\p{L}\\p{M}&]|\\w\\b|\\h|\\x41|[\\x{42}\\u0043]")),
    "regex-slow": tokenizer(pre=split("(a|a)*(a+)+b")), "regex-open": tokenizer(pre=split("(")),
    "regex-class": tokenizer(pre=split("[a&&b]")),
    "regex-back": tokenizer(pre=split("(a)\\1")),
    "regex-lookbehind": tokenizer(pre=split("(?<=a)b|(?<!x)y|^a$|.")),
    "merge-number": tokenizer({"merges": [7]}), "merge-one": tokenizer({"merges": ["a"]}),
    "merge-three": tokenizer({"merges": ["a b c"]}),
    "merge-array": tokenizer({"merges": [["a"]]}),
    "merge-array-number": tokenizer({"merges": [["a", 1]]}),
    "merge-unknown": tokenizer({"merges": ["a c"]}), "merge-result": tokenizer({"merges": ["b a"]}),
    "merge-long": tokenizer({"vocab": {"a": 0, "b" * 5000: 1}, "merges": [["a", "b" * 5000]]}),
    "merges-absent": compact({"model": {"type": "BPE", "vocab": {"a": 0}}}),
    "vocab-empty": tokenizer({"vocab": {}}),
    "vocab-array": tokenizer({"vocab": []}), "vocab-id-text": tokenizer({"vocab": {"a": "0"}}),
    "vocab-id-negative": tokenizer({"vocab": {"a": -1}}),
    "vocab-id-large": tokenizer({"vocab": {"a": 1 << 22}}),
    "vocab-id-far": tokenizer({"vocab": {"a": 4000000}}),
    "vocab-id-twice": tokenizer({"vocab": {"a": 0, "b": 0}}),
    "vocab-not-bytes": tokenizer({"vocab": {"a b": 0, "\u4e2d": 1, "\u0120": 2, "": 3},
    "merges": []}),
    "wordpiece": tokenizer({"type": "WordPiece"}),
    "byte-fallback": tokenizer({"byte_fallback": True}),
    "fallback-text": tokenizer({"byte_fallback": "x"}),
    "suffix": tokenizer({"end_of_word_suffix": "</w>"}),
    "suffix-number": tokenizer({"end_of_word_suffix": 1}), "dropout": tokenizer({"dropout": 0.1}),
    "dropout-0": tokenizer({"dropout": 0}), "dropout-text": tokenizer({"dropout": "x"}),
    "version": compact({"version": "2.0"}), "version-number": compact({"version": 1}),
    "no-model": b"{}", "model-array": b'{"model":[]}', "fuse-number": tokenizer({"fuse_unk": 3}),
    "ignore-text": tokenizer({"ignore_merges": "x"}),
    "no-type": compact({"model": {}}), "type-number": tokenizer({"type": 1}),
}
PATTERNS = {
    "properties": "\\p{Lu}\\P{Ll}\\p{^Lt}[\\p{N}\\P{Z}]\\p{L}\\p{Greek}", "property-open": "\\p{L",
    "property-none": "\\p",
    "property-unknown": "\\p{Nonsense}",
    "classes": "\\s\\S\\w\\W\\d\\D\\h\\H\\b\\B\\v\\R\\A\\z\\Z\\G",
    "classes-inside": "[\\s\\S][\\w\\d\\h][\\b\\v\\t\\n\\\\\\]\\-]", "not-word-inside": "[\\W]",
    "hex": "\\x41\\x{1F600}\\u00e9[\\x41-\\x5a]",
    "hex-none": "\\x", "hex-wrong": "\\x{zz}", "hex-beyond": "\\x{110000}", "hex-byte": "\\xff",
    "backslash-end": "\\",
    "posix": "[[:alpha:]]", "inner": "[a[b]]", "bracket-first": "[]a]", "caret-bracket": "[^]a]",
    "open-class": "[a",
    "groups": "(?:a)(?=b)(?!c)(?<=d)(?<!e)(?>f)(?i)g(?i:h)(?-i)j(?m).(?im-m:k)",
    "group-name": "(?<n>a)", "group-p": "(?P<n>a)", "group-x": "(?x)a",
    "verb": "(*UTF)a", "brace": "{|a{|a{x}|a{2}|b{2,}|c{2,3}?", "brace-upper": "a{,2}",
    "brace-plus": "a{2}+", "brace-lazy": "a{2}?", "possessive": "a*+b++c?+d*?e+?f??",
    "back": "\\k<n>\\g1", "keep": "\\K", "byte": "\\C", "anchors": "^a$", "empty": "",
    "utf8": "[\u4e00-\u9fa5]+|\u0300", "numbers-turned": "a{5,2}",
    "star-first": "*", "many": "(" * 300 + "a" + ")" * 300, "property-short": "\\pL",
    "cntrl": "\\cA\\e\\a\\f", "extended": "\\X\\N\\O",
}
TOKENIZER_CONFIGS = {
    "none": {}, "bos": {"bos_token": "<s>", "add_bos_token": True},
    "bos-object": {"bos_token": {"content": "a"}},
    "bos-unknown": {"bos_token": "x"},
    "bos-unknown-added": {"bos_token": "x", "add_bos_token": True},
    "bos-absent": {"add_bos_token": True}, "bos-null": {"bos_token": None, "add_bos_token": None},
    "bos-number": {"bos_token": 1}, "bos-no-content": {"bos_token": {}},
    "add-number": {"add_bos_token": 1},
    "bos-empty": {"bos_token": "", "add_bos_token": True},
    "decoder": {"added_tokens_decoder": {"3": {"content": "<s>", "special": True}, "x": 1}},
}


def tiktoken_lines(entries):
    return b"".join(base64.b64encode(text) + b" %d\n" % rank for text, rank in entries)


BYTES = [(bytes([i]), i) for i in range(256)]
DECODER = {"added_tokens_decoder": {"258": {"content": "[BOS]", "special": True},
                                    "259": {"content": "[EOS]", "special": True}},
           "bos_token": "[BOS]", "tokenizer_class": "TikTokenTokenizer"}


def make_tiktoken():
    right = tiktoken_lines(BYTES + [(b"ab", 256), (b"abc", 257)])
    few = tiktoken_lines([(b"a", 0), (b"b", 1)])
    cases = {
        "right": right, "with-config": right + b"\0" + compact(DECODER), "empty": b"",
        "newline": b"\n", "few": few,
        "no-rank": b"YQ==\n", "no-text": b" 0\n", "not-base64": b"Y!== 0\n", "padding": b"YQ= 0\n",
        "inner-padding": b"Y=Q= 0\n",
        "rank-text": b"YQ== x\n", "rank-negative": b"YQ== -1\n", "rank-large": b"YQ== 4194304\n",
        "rank-huge": b"YQ== 99999999999999999999\n",
        "rank-twice": b"YQ== 0\nYg== 0\n", "text-twice": b"YQ== 0\nYQ== 1\n",
        "hole": b"YQ== 0\nYg== 2\n", "three-fields": b"YQ== 0 1\n",
        "tabs": b"YQ==\t0\n", "crlf": b"YQ== 0\r\nYg== 1\r\n", "no-newline": b"YQ== 0",
        "spaces": b"  YQ==  0 \n", "utf8-bom": b"\xef\xbb\xbfYQ== 0\n",
        "lacks-a-byte": tiktoken_lines(BYTES[:255] + [(b"ab", 255)]), "text-empty": b"= 0\n",
        "binary": bytes(range(1, 256)),
        "no-parts": tiktoken_lines(BYTES + [(b"xyz", 256)]), "config-absent": right + b"\0",
        "config-cut": few + b"\0{",
        "config-array": few + b"\0[]",
        "config-id-text": right + b"\0" + compact({"added_tokens_decoder": {"x": {"content": "y"}}}),
        "config-id-inside": right + b"\0" + compact({"added_tokens_decoder": {"3": {"content": "y"}}}),
        "config-id-far": right + b"\0" + compact({"added_tokens_decoder": {"4000000": {"content": "y"}}}),
        "config-no-content": right + b"\0" + compact({"added_tokens_decoder": {"258": {}}}),
        "config-decoder-array": right + b"\0" + compact({"added_tokens_decoder": []}),
        "config-add-bos": right + b"\0" + compact(dict(DECODER, add_bos_token=True)),
    }
    for name, data in cases.items():
        put("tiktoken", name, data)


def make_tokenizers():
    for name, data in NOT_JSON.items():
        put("tokenizer_json", "not-" + name, data)
        put("tokenizer_config", "not-" + name, data)
    for name, data in TOKENIZERS.items():
        put("tokenizer_json", name, data)
    for name, pattern in PATTERNS.items():
        put("tokenizer_json", "pattern-" + name, tokenizer(pre=split(pattern)))
    put("tokenizer_json", "odd",
        compact(json.loads(read("tests", "tokenizer", "fixtures", "odd", "tokenizer.json"))))
    for name, value in TOKENIZER_CONFIGS.items():
        put("tokenizer_config", name, compact(value))
    demo = json.loads(read("configs", "demo", "tokenizer_config.json"))
    put("tokenizer_config", "demo", compact(demo))


TEXTS = {
    "empty": b"", "words": b"Hello world, it's 12345 o'clock!\r\n",
    "code": b"for (i = 0; i < n; i++)\n\t\tx[i] ^= 0xff;\n\n",
    "chinese": "今天天气很好。日本語のテキスト 한국어".encode(), "emoji": "😀👩‍👩‍👧 e\u0301 ﷽ \u200b\u202e".encode(),
    "every-byte": bytes(range(256)), "cut-characters": b"\xc3 \xe2\x82 \xf0\x9f\x98 \xf0",
    "overlong": b"\xc0\x80 \xe0\x80\x80 \xf0\x80\x80\x80",
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80", "beyond": b"\xf4\x90\x80\x80\xf5\xff",
    "continuations": b"\x80\xbf\x80",
    "added-tokens": "<｜User｜>hi<｜Assistant｜>  <｜end▁of▁sentence｜> <｜Us".encode(),
    "spaces": b" " * 70 + b"\t\t \n \r\n  x  ",
    "long-word": b"ab" * 300, "digits": b"1234567890 1.5e-7 \xd9\xa1\xd9\xa2", "nul": b"a\0b\0",
    "first-last": "\u007f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff".encode(),
}


def main():
    make_model_config()
    make_safetensors()
    make_index()
    make_tokenizers()
    make_tiktoken()
    for name, data in TEXTS.items():
        put("prompt_text", name, data)


main()
