#!/usr/bin/env python3
"""Checkpoints that are broken, incomplete or somebody else's: one line that names file and tensor or
key, exit code 1, on one and on two ranks, and nothing on stdout."""

import json
import os
import shutil
import struct

from cli import SOURCE, Check

GOLDEN = os.path.join(SOURCE, "tests", "golden")
check = Check()


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def parse(data):
    """(header, tensor bytes) of a safetensors file"""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def pack(header, body):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def model(name, config=None, weights=None, case="t3-v3"):
    """A copy of a golden checkpoint with a changed config.json or model.safetensors.
    `config` edits the parsed config in place or returns the text to write; `weights` gets and returns
    (header, body), or returns bytes."""
    folder = check.path(name)
    os.mkdir(folder)
    for file in os.listdir(os.path.join(GOLDEN, case)):
        if not file.startswith("golden"):
            shutil.copy(os.path.join(GOLDEN, case, file), folder)
            os.chmod(os.path.join(folder, file), 0o644)
    path = os.path.join(folder, "config.json")
    if config is not None:
        parsed = json.loads(read_file(path))
        text = config(parsed)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(parsed) if text is None else text)
    path = os.path.join(folder, "model.safetensors")
    if weights is not None:
        data = weights(*parse(read_file(path)))
        with open(path, "wb") as file:
            file.write(data if isinstance(data, bytes) else pack(*data))
    return folder


def change(key, value):
    return lambda config: config.update({key: value})


def without(key):
    return lambda config: config.pop(key) and None


def drop(name):
    """Leaves a tensor out; its bytes go with it."""
    def edit(header, body):
        begin, end = header.pop(name)["data_offsets"]
        for entry in header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [at - (end - begin) for at in entry["data_offsets"]]
        return header, body[:begin] + body[end:]
    return edit


def retag(name, **fields):
    def edit(header, body):
        header[name].update(fields)
        return header, body
    return edit


def rename(old, new):
    def edit(header, body):
        header[new] = header.pop(old)
        return header, body
    return edit


def poison(name, bits):
    """The first number of a bf16 tensor becomes `bits`."""
    def edit(header, body):
        at = header[name]["data_offsets"][0]
        return header, body[:at] + struct.pack("<H", bits) + body[at + 2:]
    return edit


O_PROJ = "model.layers.1.self_attn.o_proj.weight"
GATE = "model.layers.1.mlp.gate.weight"
LAST_EXPERT = "model.layers.2.mlp.experts.15.down_proj.weight"
shape = parse(read_file(os.path.join(GOLDEN, "t3-v3", "model.safetensors")))[0][O_PROJ]["shape"]

# checkpoint, exit code, what the line says
CASES = [
    (model("truncated", weights=lambda h, b: pack(h, b)[:-100]), "model.safetensors"),
    (model("no-data", weights=lambda h, b: pack(h, b)[:5]), "model.safetensors"),
    (model("empty-file", weights=lambda h, b: b""), "model.safetensors"),
    (model("pickle", weights=lambda h, b: b"PK\x03\x04" + bytes(400)), "model.safetensors"),
    (model("longer", weights=lambda h, b: pack(h, b + bytes(64))), "model.safetensors"),
    (model("huge-header", weights=lambda h, b: struct.pack("<Q", 1 << 63) + pack(h, b)[8:]),
     "model.safetensors"),
    (model("tensor-missing", weights=drop(O_PROJ)), O_PROJ),
    (model("expert-missing", weights=drop(LAST_EXPERT)), LAST_EXPERT),
    (model("shape-turned", weights=retag(O_PROJ, shape=shape[::-1])), O_PROJ),
    (model("wrong-type", weights=retag(GATE, dtype="I8")), GATE),
    (model("unknown-type", weights=retag(GATE, dtype="Q7")), "Q7"),
    (model("another-graph", weights=rename(GATE, "model.layers.1.mlp.router.weight")), GATE),
    (model("nan", weights=poison(O_PROJ, 0x7fc0)), O_PROJ),
    (model("infinite", weights=poison(LAST_EXPERT, 0xff80)), LAST_EXPERT),
    (model("not-json", config=lambda c: "{"), "config.json"),
    (model("array", config=lambda c: "[]"), "config.json"),
    (model("deep", config=lambda c: "[" * 100000), "config.json"),
    (model("not-utf8", config=lambda c: '{"model_type": "\udcff"}'), "config.json"),
    (model("key-missing", config=without("kv_lora_rank")), "kv_lora_rank"),
    (model("key-text", config=change("hidden_size", "96")), "hidden_size"),
    (model("key-negative", config=change("num_hidden_layers", -3)), "num_hidden_layers"),
    (model("more-layers", config=change("num_hidden_layers", 5)), "model.layers."),
    (model("other-width", config=change("hidden_size", 64)), "shape"),
    (model("llama", config=lambda c: c.update(architectures=["LlamaForCausalLM"],
                                              model_type="llama")), "LlamaForCausalLM"),
    (model("v4", config=lambda c: c.update(architectures=["DeepseekV4ForCausalLM"],
                                           model_type="deepseek_v4")), "not in this version"),
    (model("indexer", config=lambda c: c.update(index_topk=64, index_n_heads=4,
                                                index_head_dim=32)), "not in this version"),
    (model("awq", config=change("quantization_config", {"quant_method": "awq"})),
     "not in this version"),
    (model("top-k", config=change("num_experts_per_tok", 99)), "num_experts_per_tok"),
]
os.remove(os.path.join(model("no-weights"), "model.safetensors"))
CASES.append((check.path("no-weights"), "model.safetensors"))
os.remove(os.path.join(model("no-shard", case="t9-shards"), sorted(
    f for f in os.listdir(os.path.join(GOLDEN, "t9-shards")) if "-of-" in f)[1]))
CASES.append((check.path("no-shard"), "-of-"))

for folder, text in CASES:
    for ranks in (0, 2):
        check.expect_error(["generate", "--model", folder, "--prompt-ids", "5,6,7", "--max-tokens",
                            "2"], 1, text, ranks=ranks)

# the copies themselves are right: what was refused above was refused for its defect
found = check.run_json("generate", "--model", model("good"), "--prompt-ids", "5,6,7",
                       "--max-tokens", "2", ranks=2)
check.expect(len(found["completions"][0]["ids"]) == 2, "an unchanged copy runs")
check.end()
