#!/usr/bin/env python3
"""Model directories that are damaged, contradictory or somebody else's: one line that names the
file and the key or tensor, exit code 1 or 2, nothing on stdout, no signal.

Each row runs on one rank.  On two it runs unless it says alone=True: those differ from a row that
does only in the bad value.  With sanitizers, whose ranks start slowly, every fourth of them.

    test_cli_corrupt.py PROGRAM            the test
    test_cli_corrupt.py --table PROGRAM    also prints each line and how long the program took
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

import cli
import corrupt
from corrupt import (INDEX, SHARD, WEIGHTS, add, before, behind, bpe, config, cut, drop,
    header_length,
                     header_text, index, key, keys, mapped, moved, pack, poison, remove, rename,
                     replaced, retag, scaling, text, tokenizer_file, tokens, twice, weights,
                     without)

SHOWS_TABLE = "--table" in sys.argv
if SHOWS_TABLE:
    sys.argv.remove("--table")
check = cli.Check()

KILL_S = 60 # a process that takes longer hangs; nothing else about time is tested
MPIRUN = cli.MPIRUN + cli.QUICK_END
WORKERS = 2
SANITIZED = "SANITIZED" in os.environ
REQUEST = ["--prompt-ids", "5,6,7", "--max-tokens", "2"]

GATE = "model.layers.1.mlp.gate.weight"
O_PROJ = "model.layers.1.self_attn.o_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"
EXPERT = "model.layers.2.mlp.experts.15.down_proj.weight"
CORRECTION = "model.layers.1.mlp.gate.e_score_correction_bias"
KV_B = "model.layers.0.self_attn.kv_b_proj.weight"
DEEP = "[" * 100000
DEEP_OBJECTS = '{"a":' * 100000
CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SIZES = ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "kv_lora_rank",
         "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size",
         "max_position_embeddings", "moe_intermediate_size", "num_experts_per_tok"]
# What JSON readers refuse before they look for keys, and a part of the reason.
NOT_JSON = [("empty", b"", "not JSON"), ("half", b'{"a', "not JSON"), ("deep", DEEP, "depth"),
            ("deep-objects", DEEP_OBJECTS, "depth"), ("utf8", b'{"a": "\xff"}', "0xff"),
            ("surrogate", b'{"a": "\xed\xa0\x80"}', "not JSON"),
            ("nul", b'{"a": "\0"}', "not JSON"), ("escaped-nul", b'{"a": "\\u0000"}', "u0000"),
            ("bom", b"\xef\xbb\xbf{}", "not JSON"), ("array", b"[1]", "an array"),
            ("doubled-key", b'{"a": 1, "a": 2}', "duplicate"),
            ("nan", b'{"a": NaN}', "not JSON"), ("big", b'{"a": 1e999}', "not JSON"),
            ("utf16", "{}".encode("utf-16"), "not JSON")]
NO_FILE = [("directory", os.mkdir, ""), ("fifo", os.mkfifo, "not a regular file"),
           ("device", corrupt.device, "not a regular file"),
           ("link-loop", corrupt.loop, "levels of symbolic links"),
           ("dangling", corrupt.dangling, "No such file"),
           ("terabyte", corrupt.sparse, "")]


# The table.
CASES = []


def row(name, damage, *parts, base="t3-v3", code=1, arguments=None, alone=False):
    """A damage of the golden case `base`, and what the line must say."""
    assert name not in [case["name"] for case in CASES], name
    CASES.append({"name": name, "damage": damage, "parts": parts, "base": base, "code": code,
                  "arguments": arguments, "alone": alone or arguments is not None})


# files that are not there, cut short, or something else
row("no-directory", corrupt.drop_folder, "no-directory")
row("no-config", remove(CONFIG), CONFIG)
row("no-weights", remove(WEIGHTS), WEIGHTS)
row("no-shard", remove(SHARD.format(2)), SHARD.format(2), base="t9-shards")
row("no-index", remove(INDEX), WEIGHTS, base="t9-shards")
row("config-cut", cut(CONFIG, 0.7), CONFIG, "not JSON")
row("weights-cut-in-length", text(WEIGHTS, b"\x10\0\0\0\0"), WEIGHTS, "at least 8")
row("weights-cut-in-header", cut(WEIGHTS, 0.01), WEIGHTS, "cut short")
row("weights-cut-in-data", cut(WEIGHTS, -100), WEIGHTS, "cut short")
row("weights-cut-by-one", cut(WEIGHTS, -1), WEIGHTS, "cut short")
row("weights-empty", text(WEIGHTS, b""), WEIGHTS)
row("weights-pickle", text(WEIGHTS, b"PK\x03\x04" + bytes(400)), WEIGHTS)
row("weights-longer", behind(WEIGHTS, bytes(64)), WEIGHTS, "end at")
row("weights-nul-before", before(WEIGHTS, b"\0"), WEIGHTS)
row("shard-cut", cut(SHARD.format(3), -2), SHARD.format(3), "cut short", base="t9-shards")
row("shard-empty", text(SHARD.format(2), b""), SHARD.format(2), base="t9-shards")
row("index-cut", cut(INDEX, 0.5), INDEX, "not JSON", base="t9-shards")
row("tokenizer-cut", tokenizer_file(TOKENIZER, lambda name: cut(name, 0.8)), TOKENIZER, "not JSON")
for kind, make, why in NO_FILE:
    row("config-is-" + kind, replaced(CONFIG, make), CONFIG, why)
    row("weights-are-" + kind, replaced(WEIGHTS, make), WEIGHTS, why)
    row("shard-is-" + kind, replaced(SHARD.format(1), make), SHARD.format(1), why, base="t9-shards",
        alone=kind != "fifo")
    row("index-is-" + kind, replaced(INDEX, make), INDEX, why, base="t9-shards")
    row("generation-is-" + kind, replaced(GENERATION, make), GENERATION, why)
    row("tokenizer-is-" + kind, replaced(TOKENIZER, make), TOKENIZER, why)
    row("tokenizer-config-is-" + kind,
        tokenizer_file(TOKENIZER_CONFIG, lambda name, make=make: replaced(name, make)),
        TOKENIZER_CONFIG, why, alone=kind != "fifo")
if os.getuid() != 0:
    for name in (CONFIG, WEIGHTS, GENERATION, TOKENIZER):
        row("unreadable-" + name, replaced(name, corrupt.unreadable), name, "Permission denied")

# JSON that is none
for kind, data, why in NOT_JSON:
    same = kind not in ("empty", "deep", "utf8")
    row("config-" + kind, text(CONFIG, data), CONFIG, why)
    row("generation-" + kind, text(GENERATION, data), GENERATION, why, alone=same)
    row("tokenizer-" + kind, text(TOKENIZER, data), TOKENIZER, why, alone=same)
    row("tokenizer-config-" + kind,
        tokenizer_file(TOKENIZER_CONFIG, lambda name, data=data: text(name, data)),
        TOKENIZER_CONFIG, why, alone=same)
    row("index-" + kind, text(INDEX, data), INDEX, why if kind != "array" else "weight_map",
        base="t9-shards", alone=same)
    raw = data if isinstance(data, bytes) else data.encode()
    row("header-" + kind, weights(lambda h, b, raw=raw: pack(raw, b)), WEIGHTS, alone=same)
row("header-deep-inside", header_text(lambda t: t[:-1] + b', "x": ' + b"[" * 100000), WEIGHTS,
    "depth")
row("config-trailing", behind(CONFIG, b"{}"), CONFIG, "not JSON")

# the header of a safetensors file
row("length-0", header_length(0), WEIGHTS)
row("length-2-63", header_length(1 << 63), WEIGHTS, "9223372036854775808")
row("length-2-64", header_length((1 << 64) - 1), WEIGHTS, "18446744073709551615")
row("length-behind-file", header_length(50 * 1000 * 1000), WEIGHTS, "cut short")
row("length-one-less", weights(lambda h, b: pack(h, b)[:8].replace(
    pack(h, b)[:1], bytes([pack(h, b)[0] - 8]), 1) + pack(h, b)[8:]), WEIGHTS)
row("header-space-before", header_text(lambda t: b" " + t), WEIGHTS, "begin with")
row("metadata-number", weights(lambda h, b: (dict(h, __metadata__={"a": 1}), b)), WEIGHTS,
    "__metadata__")
row("entry-array", weights(lambda h, b: (dict(h, **{GATE: []}), b)), WEIGHTS, GATE, "an array")
row("no-dtype", weights(lambda h, b: (dict(h, **{GATE: {}}), b)), WEIGHTS, GATE, "no dtype")
row("name-twice", twice(GATE), WEIGHTS, "duplicate")
row("shards-same-name", corrupt.duplicate_in(2, EMBEDDING, "BF16", [160, 60], 19200),
    SHARD.format(2), EMBEDDING, base="t9-shards")
row("shards-extra", add("model.layers.0.extra", "BF16", [2], 4, SHARD.format(2)), INDEX,
    "model.layers.0.extra", "not in the index", base="t9-shards")
row("shards-drop", drop("model.layers.1.mlp.experts.2.down_proj.weight", SHARD.format(2)), INDEX,
    "model.layers.1.mlp.experts.2.down_proj.weight", base="t9-shards")
row("index-lacks", index(lambda i: i["weight_map"].pop(EMBEDDING)), INDEX, EMBEDDING,
    base="t9-shards")
row("index-extra", mapped("nobody", SHARD.format(1)), INDEX, "nobody", base="t9-shards")
row("index-other-shard", mapped(EMBEDDING, SHARD.format(2)), INDEX, EMBEDDING, base="t9-shards")
row("index-no-such-file", mapped(EMBEDDING, "absent.safetensors"), "absent.safetensors",
    base="t9-shards")
row("index-up", mapped(EMBEDDING, "../model.safetensors"), INDEX, EMBEDDING, base="t9-shards")
row("index-absolute", mapped(EMBEDDING, "/etc/passwd"), INDEX, EMBEDDING, base="t9-shards")
row("index-number", mapped(EMBEDDING, 1), INDEX, EMBEDDING, "1", base="t9-shards")
row("index-no-map", text(INDEX, "{}"), INDEX, "weight_map", base="t9-shards")
row("index-empty-map", text(INDEX, '{"weight_map": {}}'), INDEX, "weight_map", base="t9-shards")

# offsets and shapes
row("offset-behind", moved(GATE, 1 << 40, 1 << 40), WEIGHTS, GATE, "cut short")
row("offset-overlap", moved(GATE, -96, -96), WEIGHTS, "inside")
row("offset-hole", weights(lambda h, b: (
    {n: (dict(e, data_offsets=[at + 64 for at in e["data_offsets"]]) if "data_offsets" in e else e)
     for n, e in h.items()}, bytes(64) + b)), WEIGHTS, "no holes")
row("offset-unaligned", moved(CORRECTION, 2, 2), WEIGHTS, CORRECTION, "multiple of 4")
row("offset-negative", retag(GATE, data_offsets=[-8, 0]), WEIGHTS, GATE, "-8")
row("offset-turned", retag(GATE, data_offsets=[3072, 0]), WEIGHTS, GATE, "behind")
row("offset-real", retag(GATE, data_offsets=[0.5, 1]), WEIGHTS, GATE, "0.5")
row("offset-text", retag(GATE, data_offsets="0"), WEIGHTS, GATE, "data_offsets")
row("offset-one", retag(GATE, data_offsets=[0]), WEIGHTS, GATE, "expected 2")
row("offset-2-63", retag(GATE, data_offsets=[2**63 - 1, 2**63 - 1]), WEIGHTS, GATE)
row("offset-too-big", retag(GATE, data_offsets=[0, 2**64]), WEIGHTS, "too big")
row("bytes-of-other-shape", retag(GATE, shape=[16, 95]), WEIGHTS, GATE, "need 3040")
row("shape-turned", retag(O_PROJ, shape=[60, 96]), WEIGHTS, O_PROJ, "[60, 96]", "[96, 60]")
row("shape-one-dim", retag(O_PROJ, shape=[5760]), WEIGHTS, O_PROJ, "[5760]")
row("shape-three-dims", retag(O_PROJ, shape=[96, 60, 1]), WEIGHTS, O_PROJ, "[96, 60, 1]")
row("shape-five-dims", retag(O_PROJ, shape=[96, 60, 1, 1, 1]), WEIGHTS, O_PROJ, "5 dimensions")
row("shape-negative", retag(O_PROJ, shape=[-96, -60]), WEIGHTS, O_PROJ, "-96")
row("shape-overflow", retag(O_PROJ, shape=[2**32, 2**31]), WEIGHTS, O_PROJ, "63 bits")
row("shape-overflow-bytes", retag(O_PROJ, shape=[2**62]), WEIGHTS, O_PROJ, "63 bits")
row("shape-overflow-zero", retag(O_PROJ, shape=[0, 2**62, 2**62]), WEIGHTS, O_PROJ, "63 bits")
row("shape-real", retag(O_PROJ, shape=[96.0, 60]), WEIGHTS, O_PROJ, "dimension 0")
row("shape-text", retag(O_PROJ, shape="96x60"), WEIGHTS, O_PROJ, "shape")
row("shape-empty", retag(O_PROJ, shape=[]), WEIGHTS, O_PROJ)
row("dtype-i8", weights(lambda h, b: (dict(h, **{GATE: dict(h[GATE], dtype="I8", shape=[16, 192])}),
                                      b)), WEIGHTS, GATE)
row("dtype-i8-turned", retag(GATE, dtype="I8"), WEIGHTS, GATE)
row("dtype-unknown", retag(GATE, dtype="Q4_K"), WEIGHTS, GATE, "Q4_K")
row("dtype-number", retag(GATE, dtype=3), WEIGHTS, GATE, "dtype")
row("dtype-long", retag(GATE, dtype="x" * 100000), WEIGHTS, GATE)

# tensors that should be there, and others
row("tensor-missing", drop(O_PROJ), O_PROJ, "missing")
row("expert-missing", drop(EXPERT), EXPERT, "missing")
row("norm-missing", drop("model.norm.weight"), "model.norm.weight", "missing")
row("head-missing", drop("lm_head.weight"), "lm_head.weight", "missing")
row("correction-missing", drop(CORRECTION), CORRECTION, "missing")
row("tensor-extra", add("model.layers.1.self_attn.sinks", "BF16", [5], 10), WEIGHTS,
    "model.layers.1.self_attn.sinks")
row("bias-extra", add("model.layers.1.self_attn.o_proj.bias", "BF16", [96], 192), WEIGHTS,
    "o_proj.bias")
row("expert-extra", add("model.layers.2.mlp.experts.16.up_proj.weight", "BF16", [12, 96], 2304),
    WEIGHTS, "experts.16")
row("scale-extra", add(O_PROJ + "_scale_inv", "F32", [1, 1], 4), WEIGHTS, O_PROJ + "_scale_inv")
row("renamed", rename(GATE, "model.layers.1.mlp.router.weight"), GATE, "missing")
row("all-renamed", weights(lambda h, b: ({n.replace("model.", "transformer."): e
                                          for n, e in h.items()}, b)), "missing")
row("no-tensors", weights(lambda h, b: ({}, b"")), EMBEDDING, "missing")
row("nested-dropped", weights(lambda h, b: ({n.replace("language_model.", ""): e
                                             for n, e in h.items()}, b)),
    "language_model.model.embed_tokens.weight", base="t4b-nested")

# NaN and infinity
BF16 = {"nan": 0x7fc0, "signalling": 0x7f81, "minus-nan": 0xffc0, "inf": 0x7f80,
    "minus-inf": 0xff80}
F16 = {"nan": 0x7e00, "inf": 0x7c00, "minus-inf": 0xfc00}
F32 = {"nan": 0x7fc00000, "signalling": 0x7f800001, "inf": 0x7f800000, "minus-inf": 0xff800000}
for kind, bits in BF16.items():
    row("bf16-" + kind, poison(O_PROJ, bits), WEIGHTS, O_PROJ, "row 0, column 0")
for place, name in (("embedding", EMBEDDING), ("norm", NORM), ("last-norm", "model.norm.weight"),
                    ("latent-norm", "model.layers.2.self_attn.kv_a_layernorm.weight"),
                    ("kv-b", KV_B), ("expert", EXPERT), ("gate", GATE), ("head", "lm_head.weight"),
                    ("shared", "model.layers.1.mlp.shared_experts.up_proj.weight"),
                    ("dense", "model.layers.0.mlp.gate_proj.weight")):
    row("bf16-nan-in-" + place, poison(name, 0x7fc0, at=-1), WEIGHTS, name)
for kind, bits in F32.items():
    row("f32-" + kind + "-in-correction", poison(CORRECTION, bits, 4), WEIGHTS, CORRECTION)
    row("f32-" + kind, poison("model.layers.0.self_attn.o_proj.weight", bits, 4), WEIGHTS,
        "model.layers.0.self_attn.o_proj.weight", base="t8-f32")
for kind, bits in F16.items():
    row("f16-" + kind, poison("model.layers.1.mlp.experts.0.up_proj.weight", bits, at=-1), WEIGHTS,
        "model.layers.1.mlp.experts.0.up_proj.weight", base="t7-f16")
row("f16-nan-in-norm", poison("model.layers.1.post_attention_layernorm.weight", 0xfe00), WEIGHTS,
    "model.layers.1.post_attention_layernorm.weight", base="t7-f16")
row("nan-in-bias", poison("model.layers.1.self_attn.o_proj.bias", 0x7fc0, at=-1), WEIGHTS,
    "o_proj.bias", base="t2d-attention-bias")
row("inf-in-query-bias", poison("model.layers.0.self_attn.q_a_proj.bias", 0x7f80), WEIGHTS,
    "q_a_proj.bias", base="t2d-attention-bias")
row("nan-in-tied-embedding", poison(EMBEDDING, 0x7fc0, at=-1), WEIGHTS, EMBEDDING, base="t10-tied")

# quantized weights and their scales
FP8_Q = "model.layers.0.self_attn.q_a_proj.weight"
FP8_EXPERT = "model.layers.1.mlp.experts.4.down_proj.weight"
FUSED = "model.layers.1.mlp.experts.gate_up_proj"
INT4 = "language_model.model.layers.1.mlp.experts.0.up_proj.weight"
INT4_LAST = "language_model.model.layers.1.mlp.experts.4.down_proj.weight"
row("fp8-scale-missing", drop(FP8_Q + "_scale_inv"), WEIGHTS, FP8_Q + "_scale_inv", "missing",
    base="t20-fp8")
row("fp8-scale-shape", retag(FP8_Q + "_scale_inv", shape=[4]), WEIGHTS, FP8_Q + "_scale_inv",
    "[4]", "weight_block_size", base="t20-fp8")
row("fp8-scale-i32", retag(FP8_Q + "_scale_inv", dtype="I32"), WEIGHTS, "stored as i32",
    base="t20-fp8")
row("fp8-scale-nan", poison(FP8_EXPERT + "_scale_inv", 0x7fc00000, 4), WEIGHTS,
    FP8_EXPERT + "_scale_inv", "row 0, column 0", base="t20-fp8")
row("fp8-scale-inf", poison(FP8_EXPERT + "_scale_inv", 0x7f800000, 4, at=-1), WEIGHTS,
    FP8_EXPERT + "_scale_inv", base="t20-fp8")
row("fp8-scale-too-large", poison(FP8_Q + "_scale_inv", 0x7f000000, 4), WEIGHTS,
    FP8_Q + "_scale_inv", "infinity", base="t20-fp8")
row("fp8-nan", poison(FP8_EXPERT, 0x7f, 1), WEIGHTS, FP8_EXPERT, "row 0, column 0", base="t20-fp8")
row("fp8-minus-nan", poison(FP8_Q, 0xff, 1, at=-1), WEIGHTS, FP8_Q, base="t20-fp8")
row("fp8-unsaid", without("quantization_config"), WEIGHTS, "f8_e4m3", "weight_block_size",
    base="t20-fp8")
row("fp8-said-int4", key("quantization_config", {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
        "g": {"weights": {"num_bits": 4, "group_size": 32}}}}), WEIGHTS, "f8_e4m3", base="t20-fp8")
row("fp8-other-blocks", key("quantization_config", {
    "quant_method": "fp8", "weight_block_size": [64, 128]}), WEIGHTS, "_scale_inv", base="t20-fp8")
row("fp8-block-0", key("quantization_config", {
    "quant_method": "fp8", "weight_block_size": [0, 128]}), CONFIG, "weight_block_size",
    base="t20-fp8")
row("fp8-in-embedding", retag(EMBEDDING, dtype="F8_E4M3", shape=[100, 384]), WEIGHTS, EMBEDDING,
    base="t20-fp8")
row("e8m0-nan", poison(FP8_Q + "_scale_inv", 0xff, 1), WEIGHTS, FP8_Q + "_scale_inv",
    base="t20c-fp8-e8m0")
row("fused-scale-missing", drop(FUSED + "_scale_inv"), WEIGHTS, FUSED + "_scale_inv",
    base="t20d-fp8-fused")
row("fused-scale-nan", poison(FUSED + "_scale_inv", 0x7fc00000, 4, at=-1), WEIGHTS,
    FUSED + "_scale_inv", base="t20d-fp8-fused")
row("fused-turned", retag(FUSED, shape=[3, 60, 512]), WEIGHTS, FUSED, "[3, 60, 512]",
    base="t20d-fp8-fused")
row("fused-without-down", drop("model.layers.1.mlp.experts.down_proj"), "experts.0.down_proj",
    "missing", base="t20d-fp8-fused")
row("int4-scale-missing", drop(INT4 + "_scale"), WEIGHTS, INT4 + "_scale", "missing",
    base="t21-int4")
row("int4-scale-nan", poison(INT4_LAST + "_scale", 0x7fc0, at=-1), WEIGHTS, INT4_LAST + "_scale",
    base="t21-int4")
row("int4-scale-inf", poison(INT4 + "_scale", 0x7f80), WEIGHTS, INT4 + "_scale",
    "row 0, column 0", base="t21-int4")
row("int4-scale-shape", retag(INT4 + "_scale", shape=[2, 64]), WEIGHTS, INT4 + "_scale",
    "group_size", base="t21-int4")
row("int4-shape-lies", poison(INT4 + "_shape", 63, 4), WEIGHTS, INT4 + "_shape", "[63, 64]",
    base="t21-int4")
row("int4-packed-f32", retag(INT4 + "_packed", dtype="F32"), WEIGHTS, INT4 + "_packed",
    "stored as f32", base="t21-int4")
row("int4-packed-shape", retag(INT4 + "_packed", shape=[8, 64]), WEIGHTS, INT4 + "_packed",
    base="t21-int4")

# sizes of config.json
for name in SIZES:
    for kind, value in (("0", 0), ("minus", -3), ("real", 1.5), ("text", "8"), ("2-62", 2**62),
                        ("null", None), ("list", [8])):
        row(f"{name}-{kind}", key(name, value), CONFIG, name, alone=kind != "minus")
    row(f"{name}-absent", without(name), CONFIG, name, alone=True)
for name in ("q_lora_rank", "n_shared_experts", "n_routed_experts", "num_nextn_predict_layers"):
    row(f"{name}-minus", key(name, -1), CONFIG, name)
    row(f"{name}-2-62", key(name, 2**62), CONFIG, name, alone=True)
row("q_lora_rank-absent", without("q_lora_rank"), CONFIG, "q_lora_rank")
row("too-big", key("vocab_size", 10**30), CONFIG, "too big")

# keys against each other and against the weights
row("top-k-above-experts", key("num_experts_per_tok", 17), CONFIG, "num_experts_per_tok")
row("groups-do-not-divide", key("n_group", 3), CONFIG, "n_group")
row("groups-above-experts", key("n_group", 32), CONFIG, "n_group")
row("top-groups-above-groups", key("topk_group", 5), CONFIG, "topk_group")
row("few-candidates", keys(topk_group=1, num_experts_per_tok=5), CONFIG, "topk_group 1")
row("layer-types-short", key("mlp_layer_types", ["dense"]), CONFIG, "mlp_layer_types")
row("layer-types-unknown", key("mlp_layer_types", ["dense", "moe", "moe"]), CONFIG,
    "mlp_layer_types[1]")
row("layer-types-text", key("mlp_layer_types", "dense"), CONFIG, "mlp_layer_types")
row("layer-types-other", key("mlp_layer_types", ["sparse"] * 3), "model.layers.0.mlp.gate.weight")
row("frequency-0", key("moe_layer_freq", 0), CONFIG, "moe_layer_freq")
row("more-layers", keys(num_hidden_layers=5), "model.layers.")
row("fewer-layers", keys(num_hidden_layers=1, num_nextn_predict_layers=0), "model.layers.1.")
row("other-width", key("hidden_size", 64), WEIGHTS, EMBEDDING, "shape")
row("other-vocabulary", key("vocab_size", 321), WEIGHTS, EMBEDDING, "321")
row("other-heads", key("num_attention_heads", 4), WEIGHTS, "q_b_proj")
row("other-experts", key("n_routed_experts", 32), WEIGHTS, GATE)
row("tied-missing-head", lambda folder: (drop("lm_head.weight")(folder),
                                         key("tie_word_embeddings", "yes")(folder)), CONFIG,
    "tie_word_embeddings")
row("rope-dim-odd", key("qk_rope_head_dim", 7), CONFIG, "qk_rope_head_dim", "even")
row("rope-factor-0", scaling(factor=0), CONFIG, "rope_scaling", "factor")
row("rope-factor-minus", scaling(factor=-4), CONFIG, "rope_scaling", "factor")
row("rope-factor-text", scaling(factor="40"), CONFIG, "rope_scaling", "factor")
row("rope-no-factor", config(lambda c: c["rope_scaling"].pop("factor")), CONFIG, "factor")
row("rope-no-length", config(lambda c: c["rope_scaling"].pop("original_max_position_embeddings")),
    CONFIG, "original_max_position_embeddings")
row("rope-betas", scaling(beta_fast=1, beta_slow=32), CONFIG, "beta_fast")
row("rope-type-unknown", scaling(type="longrope"), "longrope", "not in this version")
row("rope-types-differ", scaling(rope_type="default"), CONFIG, "rope_type")
row("rope-both-differ",
    config(lambda c: c.update(rope_parameters=dict(c["rope_scaling"], factor=8))),
    CONFIG, "rope_scaling", "rope_parameters")
row("rope-theta-differs", config(lambda c: c.update(rope_parameters=dict(
    c["rope_scaling"], rope_theta=5000))), CONFIG, "rope_theta")
row("rope-theta-0", key("rope_theta", 0), CONFIG, "rope_theta")
row("rope-scaling-text", key("rope_scaling", "yarn"), CONFIG, "rope_scaling")
row("eps-0", key("rms_norm_eps", 0), CONFIG, "rms_norm_eps")
row("eps-minus", key("rms_norm_eps", -1e-6), CONFIG, "rms_norm_eps")
row("scale-0", key("routed_scaling_factor", 0), CONFIG, "routed_scaling_factor")
row("eos-out", key("eos_token_id", 320), CONFIG, "eos_token_id", "320")
row("eos-minus", key("eos_token_id", -1), CONFIG, "eos_token_id")
row("eos-many", key("eos_token_id", list(range(9))), CONFIG, "eos_token_id")
row("eos-text", key("eos_token_id", "</s>"), CONFIG, "eos_token_id")
row("bos-out", key("bos_token_id", 320), CONFIG, "bos_token_id")
row("generation-eos-out", text(GENERATION, '{"eos_token_id": [1, 320]}'), GENERATION, "320")
row("dtype-int8", key("torch_dtype", "int8"), CONFIG, "torch_dtype")
row("activation", key("hidden_act", "gelu"), CONFIG, "hidden_act")
row("scoring-unknown", key("scoring_func", "tanh"), CONFIG, "scoring_func")
row("method-unknown", key("topk_method", "best"), CONFIG, "topk_method")
row("text-config-list", key("text_config", []), CONFIG, "text_config")
row("text-config-empty", key("text_config", {}), CONFIG, "text_config")
row("architectures-text", key("architectures", "DeepseekV3ForCausalLM"), CONFIG, "architectures")
row("architectures-number", key("architectures", [3]), CONFIG, "architectures[0]")
row("no-names", config(lambda c: (c.pop("architectures"), c.pop("model_type"))), CONFIG,
    "architectures", "model_type")

# graphs and kinds of quantization that this version lacks
for architecture, model_type in (("LlamaForCausalLM", "llama"), ("Nobody", "nothing"),
                                 ("DeepseekV4ForCausalLM", "deepseek_v4"),
                                 ("KimiLinearForCausalLM", "kimi_linear")):
    row("graph-" + model_type, keys(architectures=[architecture], model_type=model_type),
        architecture, "not in this version")
row("indexer", keys(index_topk=64, index_n_heads=4, index_head_dim=32), "indexer",
    "not in this version")
for method in ("fp8", "awq", "gptq", "nvfp4", "modelopt", "bitsandbytes", "mxfp4"):
    row("quantized-" + method, key("quantization_config", {"quant_method": method}), method,
        "not in this version")
row("quantized-int4", key("quantization_config", {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}}),
    "compressed-tensors", "int4", "not in this version")
row("quantized-unnamed", key("quantization_config", {"bits": 4}), "quantized",
    "not in this version")
row("quantized-text", key("quantization_config", "fp8"), CONFIG, "quantization_config")

# tokenizers
row("vocab-id-minus", bpe(vocab={"a": -1}), TOKENIZER, "model.vocab", "-1")
row("vocab-id-text", bpe(vocab={"a": "0"}), TOKENIZER, "model.vocab")
row("vocab-id-2-62", bpe(vocab={"a": 2**62}), TOKENIZER, "model.vocab", str(2**62))
row("vocab-id-far", bpe(vocab={"a": 4000000}), TOKENIZER, "4000000")
row("vocab-id-twice", bpe(vocab={"a": 0, "b": 0}), TOKENIZER, "id 0")
row("vocab-empty", bpe(vocab={}, merges=[]), TOKENIZER, "model.vocab")
row("vocab-above-model", tokens(added_tokens=[], model={
    **corrupt.tokenizer()["model"], "vocab": {"a": 0, "b": 1, "ab": 2, "z": 320}}),
    "vocab-above-model",
    "tokenizer", "vocab_size", "320")
row("added-above-model", lambda folder: (
    corrupt.with_tokenizer(folder), key("vocab_size", 160)(folder),
    tokens(model={**corrupt.tokenizer()["model"],
                  "vocab": {chr(0x4e00 + i): i for i in range(160)}, "merges": []},
           added_tokens=[{"id": 160, "content": "<s>"}])(folder)), "tokenizer", "vocab_size", "160",
    base="t12-rope-parameters")
row("merge-unknown", bpe(merges=["a c"]), TOKENIZER, "model.merges[0]", '"c"')
row("merge-result", bpe(merges=["a b", "b a"]), TOKENIZER, "model.merges[1]", '"ba"')
row("merge-number", bpe(merges=[7]), TOKENIZER, "model.merges[0]")
row("merges-absent", tokens(model={"type": "BPE", "vocab": {"a": 0}}), TOKENIZER, "model.merges")
row("model-absent", tokens(model=None), TOKENIZER, "model")
row("wordpiece", bpe(type="WordPiece"), TOKENIZER, "WordPiece")
row("byte-fallback", bpe(byte_fallback=True), TOKENIZER, "byte_fallback")
row("normalizer", tokens(normalizer={"type": "NFC"}), TOKENIZER, "NFC")
row("pre-tokenizer", tokens(pre_tokenizer={"type": "Metaspace"}), TOKENIZER, "Metaspace")
row("no-pre-tokenizer", tokens(pre_tokenizer=None), TOKENIZER, "pre_tokenizer")
row("decoder", tokens(decoder={"type": "WordPiece"}), TOKENIZER, "decoder")
row("pattern-open", tokens(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("},
                                          "behavior": "Isolated"}), TOKENIZER, "PCRE2")
row("added-id", tokens(added_tokens=[{"id": 9, "content": "<s>"}]), TOKENIZER, "added_tokens[0]")
row("added-twice", tokens(added_tokens=[{"id": 3, "content": "<s>"}] * 2), TOKENIZER,
    "added_tokens[1]")
row("tokenizer-version", tokens(version="2.0"), TOKENIZER, "version")
row("bos-no-token", lambda folder: (corrupt.with_tokenizer(folder), text(
    TOKENIZER_CONFIG, '{"add_bos_token": true, "bos_token": "<x>"}')(folder)), TOKENIZER_CONFIG,
    "<x>")
row("bos-number", lambda folder: (corrupt.with_tokenizer(folder), text(
    TOKENIZER_CONFIG, '{"bos_token": 7}')(folder)), TOKENIZER_CONFIG, "bos_token")

# commands that read the same files alone
ALONE = [(["inspect", "--model", "FOLDER"], CONFIG),
         (["make-model", "--model-config", "FOLDER/config.json", "--out", "FOLDER/out"], CONFIG),
         (["tokenize", "--model", "FOLDER", "--text", "a"], TOKENIZER)]
for arguments, name in ALONE:
    for kind, make, why in NO_FILE:
        row(f"{arguments[0]}-{kind}", replaced(name, make), name, why, arguments=arguments)
    row(f"{arguments[0]}-deep", text(name, DEEP), name, "depth", arguments=arguments)
    row(f"{arguments[0]}-array", text(name, "[1]"), name, "an array", arguments=arguments)
row("inspect-header", header_length(1 << 63), WEIGHTS, arguments=ALONE[0][0])
row("make-model-indexer", keys(index_topk=64, index_n_heads=4, index_head_dim=32), "indexer",
    "not in this version", arguments=ALONE[1][0])


# Ranks that see different files under one path: the damage is rank 1's.  The line names the rank.
APART = [
    ("apart-config", key("rms_norm_eps", 1e-5), [CONFIG]),
    ("apart-no-config", remove(CONFIG), [CONFIG]),
    ("apart-no-weights", remove(WEIGHTS), [WEIGHTS]),
    ("apart-config-broken", text(CONFIG, "{"), [CONFIG]),
    ("apart-header", weights(lambda h, b: (dict(h, __metadata__={"format": "pT"}), b)), ["header"]),
    ("apart-size", weights(lambda h, b: (dict(h, __metadata__={"format": "pt", "x": "y"}), b)),
     ["header"]),
    ("apart-data-cut", cut(WEIGHTS, -100), [WEIGHTS]),
    ("apart-nan-of-rank-1", poison(EMBEDDING, 0x7fc0, at=-1), [WEIGHTS, EMBEDDING]),
    ("apart-eos", text(GENERATION, '{"eos_token_id": 7}'), [CONFIG]),
    ("apart-tokenizer", bpe(vocab={"a": 1, "b": 0, "ab": 2}), [TOKENIZER]),
    ("apart-tokenizer-byte", tokenizer_file(TOKENIZER, lambda name: behind(name, b"\n")),
        [TOKENIZER]),
    ("apart-no-tokenizer", remove(TOKENIZER), [TOKENIZER]),
    ("apart-tokenizer-fifo", replaced(TOKENIZER, os.mkfifo), [TOKENIZER]),
    ("apart-tokenizer-config", text(TOKENIZER_CONFIG, "{}"), [TOKENIZER_CONFIG]),
    ("apart-no-tokenizer-config", remove(TOKENIZER_CONFIG), [TOKENIZER_CONFIG]),
]
# The same files, but rank 1 has another environment or other options: name, both, exit code, parts.
OPTIONS_APART = [
    ("apart-seed", [], ["--seed", "2"], 1, ["options"]),
    ("apart-tokens", [], ["--max-tokens", "3"], 1, ["options"]),
    ("apart-temperature", [], ["--temperature", "0.5"], 1, ["options"]),
    ("apart-mode", [], ["--mla-mode", "expand"], 1, ["options"]),
    ("apart-variable", ["LATENTRANK_SEED=2"], [], 1, ["options"]),
    ("apart-bad-variable", ["LATENTRANK_SEED=x"], [], 2, ["LATENTRANK_SEED"]),
]


def run(command, folder=None):
    """(result, seconds); the program is killed after KILL_S."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LATENTRANK_")}
    env.update({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    if SANITIZED and command[0] == check.program: # only leaks of MPI need whole stacks
        env["ASAN_OPTIONS"] = "detect_leaks=1:fast_unwind_on_malloc=1"
    begin = time.monotonic()
    result = subprocess.run(["timeout", "-k", "5", str(KILL_S)] + command, stdin=subprocess.DEVNULL,
                            capture_output=True, cwd=folder, env=env, check=False)
    return result, time.monotonic() - begin


def judge(name, result, code, parts):
    """One line of error with all parts in it, the exit code, and nothing else of ours."""
    said = result.stderr.decode(errors="replace")
    lines = [line for line in said.splitlines() if line.startswith("latentrank: error:")]
    check.expect(len(lines) == 1, f"{name}: one error line", result)
    check.expect(result.returncode == code, f"{name}: exit code {code}", result)
    for part in parts:
        check.expect(bool(lines) and part in lines[0], f"{name}: '{part}' in the line", result)
    check.expect(result.stdout == b"", f"{name}: nothing on stdout", result)
    check.expect("Sanitizer" not in said and "runtime error" not in said,
                 f"{name}: nothing for the sanitizers", result)
    return lines[0] if lines else said[-200:]


def command_of(case, folder):
    arguments = case["arguments"] or ["generate", "--model", "FOLDER"] + REQUEST
    return [part.replace("FOLDER", folder) for part in arguments]


def try_case(case):
    """Makes the directory, and runs the command on it alone and on two ranks."""
    folder = corrupt.copy(check.path(case["name"]), case["base"])
    case["damage"](folder)
    command = [check.program] + command_of(case, folder)
    runs = [("1 rank", run(command))]
    if case["runs_on_two"]:
        runs.append(("2 ranks", run(MPIRUN + ["-n", "2"] + command)))
    if os.path.isdir(folder):
        corrupt.drop_folder(folder)
    return runs


def try_apart(name, damage, variables, more):
    """Rank 0 and rank 1 run in directories of their own, with the same relative path."""
    parts = []
    for rank in (0, 1):
        home = check.path(f"{name}-{rank}")
        folder = corrupt.copy(os.path.join(home, "model"), "t3-v3")
        corrupt.with_tokenizer(folder)
        if rank == 1 and damage is not None:
            damage(folder)
        parts.append(["-n", "1", "-wdir", home, "env"] + (variables if rank == 1 else []) +
                     [check.program, "generate", "--model", "model"] + REQUEST +
                     (more if rank == 1 else []))
    return run(MPIRUN + parts[0] + [":"] + parts[1])


def show(name, where, seconds, line):
    if SHOWS_TABLE:
        print(f"{seconds:6.2f} s  {where:7}  {name}\n          {line}", flush=True)
    return seconds


def choose_for_two():
    """Sets which rows run on two ranks."""
    rows = [case for case in CASES if not case["alone"]]
    for case in CASES:
        case["runs_on_two"] = False
    for case in rows[::4 if SANITIZED else 1]:
        case["runs_on_two"] = True


def main():
    choose_for_two()
    longest = {"1 rank": 0.0, "2 ranks": 0.0}
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for case, runs in zip(CASES, pool.map(try_case, CASES)):
            for where, (result, seconds) in runs:
                line = judge(f"{case['name']} on {where}", result, case["code"], case["parts"])
                longest[where] = max(longest[where], show(case["name"], where, seconds, line))
        jobs = [(name, 1, parts, pool.submit(try_apart, name, damage, [], []))
                for name, damage, parts in APART]
        jobs += [(name, code, parts, pool.submit(try_apart, name, None, variables, more))
                 for name, variables, more, code, parts in OPTIONS_APART]
        for name, code, parts, job in jobs:
            result, seconds = job.result()
            line = judge(name, result, code, parts + ["rank 1 ("])
            longest["2 ranks"] = max(longest["2 ranks"], show(name, "2 ranks", seconds, line))

    # the directories themselves are right: what was refused above was refused for its damage
    for base in sorted({case["base"] for case in CASES}):
        folder = corrupt.copy(check.path("right-" + base), base)
        corrupt.with_tokenizer(folder)
        found = check.run_json("generate", "--model", folder, "--ignore-eos", *REQUEST)
        check.expect(len(found["completions"][0]["ids"]) == 2, f"an unchanged copy of {base} runs")
    result, _ = try_apart("apart-nothing", None, [], [])
    check.expect(result.returncode == 0, "two ranks with the same files run", result)

    on_two = sum(case["runs_on_two"] for case in CASES)
    print(f"{len(CASES)} damaged models, {on_two} of them on 2 ranks too; {len(jobs)} "
          "pairs of ranks that differ")
    if SHOWS_TABLE:
        print(f"longest: {longest['1 rank']:.2f} s on 1 rank, {longest['2 ranks']:.2f} s on 2 ranks "
              "with mpirun's start")
    check.end()


if __name__ == "__main__":
    main()
