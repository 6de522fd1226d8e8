#!/usr/bin/env python3
"""--dp, --pp and --all2all-backend: the tokens of one rank, whoever has which sequence, layer and expert."""

import json
import os

import cli

check = cli.Check()
GOLDEN = os.path.join(cli.SOURCE, "tests", "golden")
MODEL = cli.make_model(check, "model")
IS_SANITIZED = "SANITIZED" in os.environ # several times as long


def prompts(lengths):
    return check.path("prompts.jsonl", "".join(
        json.dumps({"ids": [(11 * i + 5 * j) % 90 + 8 for j in range(length)]}) + "\n"
        for i, length in enumerate(lengths)))


def base(model, lengths=(1, 64, 7, 130, 3, 20)):
    return ["generate", "--model", model, "--prompt-file", prompts(lengths), "--max-tokens", "9",
            "--ignore-eos", "--kv-cache-dtype", "f32"]


def ids(value):
    return [completion["ids"] for completion in value["completions"]]


# Ranks and what else: replicas, stages, both, tp beside them, experts cut and whole, steps of few tokens.
LAYOUTS = [
    (2, "--dp 2"), (3, "--dp 3 --max-num-batched-tokens 7"), (4, "--dp 2 --ep 1"),
    (4, "--dp 4 --all2all-backend alltoall"), (4, "--dp 2 --ep 2 --all2all-backend alltoall"),
    (8, "--dp 8 --max-num-seqs 3"), (6, "--dp 2 --kv-placement sharded"),
    (8, "--dp 4 --ep 4 --all2all-backend alltoall --max-num-batched-tokens 11"),
    (2, "--pp 2"), (3, "--pp 3 --max-num-batched-tokens 7"), (4, "--pp 2 --comm mpi"),
    (4, "--pp 2 --dp 2 --max-num-seqs 6"), (6, "--pp 3 --dp 2 --all2all-backend alltoall"),
    (8, "--pp 2 --dp 2 --kv-placement sharded --mla-mode expand"),
]


def test_tokens():
    """A V3 graph with more heads and experts than ranks."""
    alone = ids(check.run_json(*base(MODEL)))
    for ranks, layout in LAYOUTS[3::5] if IS_SANITIZED else LAYOUTS:
        value = check.run_json(*base(MODEL), *layout.split(), ranks=ranks)
        check.expect(ids(value) == alone, f"{layout} on {ranks} ranks: the tokens of one rank")
        for key in ("dp", "pp"):
            given = layout.split()
            size = int(given[given.index("--" + key) + 1]) if "--" + key in given else 1
            check.expect(value[key] == size, f"{layout}: the report has {key} {size}: {value[key]}")
        check.expect(value["tp"] * value["dp"] * value["pp"] == ranks, f"{layout}: {value['tp']}")


def test_models():
    """Few heads and experts, no shared expert, dense, tied, quantized: some shares are empty."""
    for name in ("t3-v3", "t1-v2-greedy", "t10-tied", "t11-dense", "t20-fp8", "t21-int4", "t24-axk1"):
        model = os.path.join(GOLDEN, name)
        alone = ids(check.run_json(*base(model)))
        for ranks, layout in ((4, "--dp 2"), (8, "--dp 8 --all2all-backend alltoall"), (4, "--pp 2")):
            value = check.run_json(*base(model), *layout.split(), ranks=ranks)
            check.expect(ids(value) == alone, f"{name}, {layout} on {ranks} ranks")


def test_choices():
    """Types of weights, inputs and rows, and the form of attention, each with both kinds of layout."""
    for choice in ("--weight-dtype int8", "--activation-dtype bf16", "--kv-cache-dtype fp8_ds_mla",
                   "--kv-cache-dtype bf16 --mla-mode expand", "--temperature 0.8 --seed 7"):
        given = [*base(MODEL), "--deterministic", "batch", *choice.split()]
        if "expand" in choice:
            given = [*base(MODEL), *choice.split()]
        alone = ids(check.run_json(*given))
        for ranks, layout in ((2, "--dp 2"), (4, "--dp 2 --pp 2 --all2all-backend alltoall")):
            value = check.run_json(*given, *layout.split(), ranks=ranks)
            check.expect(ids(value) == alone, f"{choice} with {layout}: the tokens of one rank")


def test_more_sequences_than_a_place():
    """Waiting prompts, one sequence, more replicas than sequences."""
    for lengths, seqs in (((5,) * 9, "4"), ((40,), "1"), ((3, 70), "2")):
        alone = ids(check.run_json(*base(MODEL, lengths)))
        for layout in ("--dp 4", "--pp 2 --dp 2"):
            value = check.run_json(*base(MODEL, lengths), "--max-num-seqs", seqs, *layout.split(),
                                   ranks=4)
            check.expect(ids(value) == alone, f"{len(lengths)} prompts, {seqs} places, {layout}")


def test_memory_of_a_rank():
    """A stage has the rows of its layers, a replica those of its sequences."""
    def cache(*layout, ranks=0):
        return check.run_json("bench", "latency", "--model", MODEL, "--batch-size", "4", "--input-len",
                              "100", "--output-len", "2", "--repeat", "1", *layout, ranks=ranks)
    one = cache()
    for layout, share in (("--dp 2", 2), ("--dp 4", 4), ("--pp 3", 3)):
        ranks = int(layout.split()[1])
        value = cache(*layout.split(), ranks=ranks)
        check.expect(value["cache_bytes"] * share == one["cache_bytes"],
                     f"{layout}: {value['cache_bytes']} of {one['cache_bytes']} bytes")
    # each cached row is read once by all ranks together, and each dense matrix once by each replica
    stages = cache("--pp", "3", ranks=3)
    check.expect(stages["batch"] == 4 and stages["bytes_per_step"] > one["bytes_per_step"] > 0,
                 f"bytes of a step: {stages['bytes_per_step']}, one rank {one['bytes_per_step']}")


def test_inspect():
    value = check.run_json("inspect", "--model", MODEL, "--tp", "2", "--dp", "2", "--pp", "3")
    check.expect([rank["layers"] for rank in value["ranks"]] == [[0, 1]] * 4 + [[1, 2]] * 4 + [[2, 3]] * 4,
                 f"layers of 12 ranks: {[rank['layers'] for rank in value['ranks']]}")
    check.expect([rank["experts"] for rank in value["ranks"][:4]] == [[0, 2], [2, 4], [4, 6], [6, 8]],
                 "experts are spread over a stage")
    check.expect_error(["inspect", "--model", MODEL, "--tp", "4096", "--dp", "4096"], 2,
                       "a hypothetical world has up to")


def test_refusals():
    generate = ["generate", "--model", MODEL, "--prompt-ids", "5,6"]
    check.expect_error([*generate, "--dp", "2"], 2, "cannot be shared by --dp 2", ranks=3)
    check.expect_error([*generate, "--tp", "2", "--dp", "2"], 2, "make 4 ranks, the job has 2", ranks=2)
    check.expect_error([*generate, "--pp", "4"], 2, "the model has 3 layers", ranks=4)
    check.expect_error([*generate, "--dp", "2"], 2, "each is 1 or more, and the job has 1 rank")
    check.expect_error([*generate, "--dp", "0"], 2, "--dp")
    check.expect_error([*generate, "--dp", "2", "--ep", "3"], 2, "does not divide tp 2 x dp 2", ranks=4)
    check.expect_error([*generate, "--dp", "3", "--deterministic", "layout"], 1,
                       "--deterministic layout with tp x dp = 3", ranks=3)
    check.expect_error([*generate, "--dp", "2", "--all2all-backend", "deepep"], 2,
                       "expected allgather_reducescatter or alltoall", ranks=2)


test_tokens()
if not IS_SANITIZED:
    test_models()
    test_choices()
test_more_sequences_than_a_place()
test_memory_of_a_rank()
test_inspect()
test_refusals()
check.end()
