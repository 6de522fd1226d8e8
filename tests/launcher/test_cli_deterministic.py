#!/usr/bin/env python3
"""--deterministic: raw bits of logits over layouts, chunks of the prompt, and sequences beside it."""

import glob
import json
import os
import struct

import cli

check = cli.Check()
GOLDEN = os.path.join(cli.SOURCE, "tests", "golden")
MODEL = cli.make_model(check, "model")
MOE = os.path.join(GOLDEN, "t3-v3") # 3 heads: on 4 and 8 ranks some have none
LAYOUT = ["--deterministic", "layout"]
IS_SANITIZED = "SANITIZED" in os.environ # several times as long


def prompt(length, step=7):
    return ",".join(str((step * i * i + 3 * i) % 90 + 8) for i in range(length))


def logits(model, *options, ranks=0, length=70):
    """The tensors of --dump-logits: name -> bytes."""
    path = check.path("logits.safetensors")
    if os.path.exists(path):
        os.remove(path)
    result = check.run("generate", "--model", model, "--prompt-ids", prompt(length),
                       "--max-tokens", "6", "--ignore-eos", "--dump-logits", path, *options,
                       ranks=ranks)
    if not os.path.exists(path):
        check.expect(False, f"{model} {options} on {ranks} ranks writes logits", result)
        return {}
    with open(path, "rb") as file:
        data = file.read()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    return {name: data[begin + at["data_offsets"][0]:begin + at["data_offsets"][1]]
            for name, at in header.items() if name != "__metadata__"}


def expect_same(expected, found, what):
    rows = expected.get("logits") == found.get("logits") and len(expected.get("logits", b"")) > 0
    check.expect(rows and expected["ids"] == found["ids"], f"the bits of one rank: {what}")


def test_checkpoints():
    """Every family and weight type on 1, 2, 4 and 8 ranks."""
    models = sorted(os.path.dirname(path) for path in glob.glob(os.path.join(GOLDEN, "*/config.json")))
    check.expect(len(models) > 20, f"golden checkpoints: {models}")
    for model in models[::4] if IS_SANITIZED else models:
        one = logits(model, *LAYOUT)
        for ranks in (2, 4, 8):
            expect_same(one, logits(model, *LAYOUT, "--ep", str(ranks), ranks=ranks),
                        f"{model} on {ranks} ranks")


def test_layouts():
    """Every number of ranks, with each placement and backend of collectives."""
    one = logits(MODEL, *LAYOUT, length=300)
    for ranks in (2, 4, 8):
        for placement in ("replicated", "sharded"):
            for comm in ("shm",) if IS_SANITIZED else ("shm", "mpi"):
                layout = ["--kv-placement", placement, "--comm", comm]
                expect_same(one, logits(MODEL, *LAYOUT, *layout, ranks=ranks, length=300),
                            f"{ranks} ranks, {layout}")


def test_replicas_and_stages():
    """Replicas of sequences, stages of layers, both exchanges of experts."""
    one = logits(MODEL, *LAYOUT, length=130)
    moe = logits(MOE, *LAYOUT, length=130)
    layouts = [(2, "--dp 2"), (8, "--dp 8"), (8, "--dp 4 --all2all-backend alltoall"),
               (4, "--dp 2 --kv-placement sharded"), (8, "--dp 2 --all2all-backend alltoall"),
               (2, "--pp 2"), (8, "--pp 2 --dp 2"), (6, "--pp 3 --comm mpi"),
               (8, "--pp 2 --dp 4 --max-num-batched-tokens 7 --all2all-backend alltoall")]
    for ranks, layout in layouts[::3] if IS_SANITIZED else layouts:
        expect_same(one, logits(MODEL, *LAYOUT, *layout.split(), ranks=ranks, length=130),
                    f"{layout} on {ranks} ranks")
        if "--pp 3" not in layout: # it has 2 layers
            ep = str(ranks // (2 if "--pp" in layout else 1)) # of few experts
            expect_same(moe, logits(MOE, *LAYOUT, *layout.split(), "--ep", ep, ranks=ranks, length=130),
                        f"{layout} on {ranks} ranks, {MOE}")


def test_choices():
    """Types of cache, weights and inputs, each on one rank and on others with all that may differ."""
    for choice in (["--kv-cache-dtype", "f32"], ["--kv-cache-dtype", "fp8_ds_mla"],
                   ["--weight-dtype", "int8"], ["--activation-dtype", "bf16"]):
        one = logits(MODEL, *LAYOUT, *choice, length=150)
        for ranks, other in ((2, ["--comm", "mpi"]), (4, ["--kv-placement", "sharded"]),
                             (8, ["--kv-placement", "sharded", "--comm", "mpi"]),
                             (2, ["--kv-placement", "sharded", "--max-num-batched-tokens", "7"])):
            expect_same(one, logits(MODEL, *LAYOUT, *choice, *other, ranks=ranks, length=150),
                        f"{choice} on {ranks} ranks, {other}")


def test_chunks():
    """A prompt in one step, and in many of any size."""
    for mode in ("batch", "layout"):
        options = ["--deterministic", mode]
        whole = logits(MOE, *options, "--max-num-batched-tokens", "200", length=150)
        for size in ("7", "64") if IS_SANITIZED else ("1", "7", "64", "149"):
            expect_same(whole, logits(MOE, *options, "--max-num-batched-tokens", size, length=150),
                        f"{mode}, chunks of {size}")
    both = [logits(MOE, "--deterministic", "batch", "--max-num-batched-tokens", size, ranks=3)
            for size in ("7", "200")]
    expect_same(both[0], both[1], "batch on 3 ranks, whose sums have no whole subtrees")


def probabilities(*options, ranks=0):
    value = check.run_json("generate", "--model", MOE, "--max-tokens", "8", "--ignore-eos",
                           "--logprobs", "4", *options, ranks=ranks)
    return [completion["logprobs"] for completion in value["completions"]]


def test_batches():
    """A sequence alone, and beside others of other lengths; its numbers are printed with 12 digits."""
    lengths = (1, 63, 64, 65, 130)
    prompts = [prompt(length, 11) for length in lengths]
    alone = [probabilities("--prompt-ids", ids, *LAYOUT)[0] for ids in prompts]
    beside = [word for ids in prompts for word in ("--prompt-ids", ids)]
    for mode, ranks, seqs, tokens, *layout in (("batch", 0, "8", "512"), ("layout", 0, "3", "50"),
                                      ("layout", 4, "8", "512"), ("layout", 2, "2", "33"),
                                      ("layout", 4, "8", "50", "--dp", "2"),
                                      ("layout", 2, "8", "50", "--pp", "2")):
        found = probabilities(*beside, "--deterministic", mode, "--max-num-seqs", seqs,
                              "--max-num-batched-tokens", tokens, *layout, ranks=ranks)
        check.expect(found == alone, f"{mode} on {ranks} ranks, {seqs} side by side: {found[:1]}")


def test_it_is_needed():
    """Without it the shared expert is added before the sum over ranks, and bits differ."""
    one, two = logits(MOE), logits(MOE, ranks=2)
    check.expect(one.get("ids") == two.get("ids") and one.get("logits") != two.get("logits"),
                 "off: the same tokens of other bits")


def test_refusals():
    base = ["generate", "--model", MOE, "--prompt-ids", "5,6"]
    check.expect_error([*base, *LAYOUT], 1, "--deterministic layout with tp 3", ranks=3)
    check.expect_error([*base, *LAYOUT, "--ep", "1"], 1, "with tp 2 and ep 1", ranks=2)
    for mode in ("batch", "layout"):
        check.expect_error([*base, "--deterministic", mode, "--mla-mode", "expand"], 1,
                           "--mla-mode expand")
    check.expect_error([*base, *LAYOUT, "--activation-dtype", "bf16"], 1, "are cut at odd columns")
    check.expect_error(["generate", "--model", os.path.join(GOLDEN, "t21-int4"), "--prompt-ids", "5",
                        *LAYOUT], 1, "use --ep 8 (the model has 5 experts)", ranks=8)
    check.expect_error([*base, "--deterministic", "on"], 2, "expected off, batch or layout")


test_checkpoints()
test_layouts()
test_replicas_and_stages()
test_choices()
test_chunks()
test_batches()
test_it_is_needed()
test_refusals()
check.end()
