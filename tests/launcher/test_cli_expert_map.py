#!/usr/bin/env python3
"""--expert-load-out, --expert-map, --redundant-experts: counts that add up, the tokens of one rank wherever experts are."""

import json
import os

import cli

check = cli.Check()
GOLDEN = os.path.join(cli.SOURCE, "tests", "golden")
MODEL = cli.make_model(check, "model")
IS_SANITIZED = "SANITIZED" in os.environ # several times as long
LENGTHS = (1, 64, 7, 40)
N_TOKENS, N_EXPERTS, N_CHOSEN, MOE_LAYERS = 9, 8, 2, ("1", "2") # of MODEL


def base(model=MODEL, lengths=LENGTHS):
    prompts = check.path("prompts.jsonl", "".join(
        json.dumps({"ids": [(11 * i + 5 * j) % 90 + 8 for j in range(length)]}) + "\n"
        for i, length in enumerate(lengths)))
    return ["generate", "--model", model, "--prompt-file", prompts, "--max-tokens", str(N_TOKENS),
            "--ignore-eos", "--kv-cache-dtype", "f32"]


def ids(value):
    return [completion["ids"] for completion in value["completions"]]


def load_file(name, layers, n_experts=N_EXPERTS):
    return check.path(name, json.dumps({"n_experts": n_experts, "layers": layers}))


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


SKEWED = load_file("skewed.json", {"1": [900, 3, 800, 2, 1, 700, 5, 600], "2": [1, 1, 1, 1, 5000, 1, 0, 9]})


def test_counts():
    """Each token once, whatever the layout; the file is the same in all of them."""
    path = check.path("load.json")
    check.run_json(*base(), "--expert-load-out", path)
    alone = read(path)
    tokens = sum(LENGTHS) + len(LENGTHS) * (N_TOKENS - 1)
    check.expect(alone["n_experts"] == N_EXPERTS and tuple(alone["layers"]) == MOE_LAYERS, f"{alone}")
    for layer, counts in alone["layers"].items():
        check.expect(len(counts) == N_EXPERTS and sum(counts) == tokens * N_CHOSEN,
                     f"layer {layer}: {counts} are {tokens} tokens")
    for ranks, layout in ((2, "--tp 2"), (3, "--max-num-batched-tokens 7"), (4, "--dp 4"),
                          (4, "--dp 2 --all2all-backend alltoall"), (3, "--pp 3"), (4, "--pp 2 --dp 2"),
                          (2, f"--expert-map {SKEWED} --redundant-experts 3")):
        os.remove(path)
        check.run_json(*base(), *layout.split(), "--expert-load-out", path, ranks=ranks)
        check.expect(read(path) == alone, f"{layout} on {ranks} ranks: {read(path)}, not {alone}")
    left = [name for name in os.listdir(check.folder) if "partial" in name]
    check.expect(not left, f"no partial file is left: {left}")


def test_other_commands():
    path = check.path("other.json")
    for ranks, layout in ((0, ""), (2, "--dp 2")):
        check.run_json("bench", "latency", "--model", MODEL, "--batch-size", "2", "--input-len", "5",
                       "--output-len", "4", "--repeat", "2", *layout.split(), "--expert-load-out", path,
                       "--expert-map", SKEWED, ranks=ranks)
        sums = [sum(counts) for counts in read(path)["layers"].values()]
        check.expect(sums == [3 * 2 * (5 + 3) * N_CHOSEN] * 2, f"bench latency {layout}: {sums}")
    if cli.tokenizer_files() is None:
        return
    text = check.path("text.txt", "In the beginning was the word, and the word was with the engine. " * 4)
    evaluate = ["eval", "--model", MODEL, "--text-file", text, "--max-model-len", "32"]
    one = check.run_json(*evaluate, "--expert-load-out", path)
    sums = [sum(counts) for counts in read(path)["layers"].values()]
    check.expect(sums == [one["tokens"] * N_CHOSEN] * 2, f"eval: {sums} of {one['tokens']} tokens")
    two = check.run_json(*evaluate, "--expert-map", path, "--redundant-experts", "4", ranks=2)
    check.expect(abs(two["nll"] - one["nll"]) < 1e-3 * one["nll"], f"eval: {two['nll']}, {one['nll']}")


# Ranks and what else: whole experts and cut ones, uneven shares, both exchanges, stages.
LAYOUTS = [
    (0, ""), (2, "--tp 2"), (3, "--tp 3"), (4, "--tp 4 --ep 2"), (4, "--dp 2 --ep 1"),
    (2, "--dp 2"), (4, "--dp 2 --ep 2"), (4, "--dp 4 --max-num-batched-tokens 7"),
    (4, "--dp 4 --all2all-backend alltoall"), (4, "--dp 2 --ep 2 --all2all-backend alltoall"),
    (8, "--dp 4 --ep 4 --all2all-backend alltoall"), (6, "--dp 2"), (2, "--pp 2"), (4, "--pp 2"),
    (4, "--pp 2 --dp 2"), (6, "--pp 3 --dp 2 --all2all-backend alltoall"),
]


def test_tokens():
    alone = ids(check.run_json(*base()))
    for i, (ranks, layout) in enumerate(LAYOUTS[::4] if IS_SANITIZED else LAYOUTS):
        for redundant in ("0", ("1", "5", "8")[i % 3]):
            value = check.run_json(*base(), *layout.split(), "--expert-map", SKEWED,
                                   "--redundant-experts", redundant, ranks=ranks)
            check.expect(ids(value) == alone, f"{layout} on {ranks} ranks, {redundant} copies")


def test_models():
    """Stored in other ways: groups, fp8, int4, fused experts, int8 in memory; more slots than twice the experts."""
    for name in ("t3-v3", "t1-v2-greedy", "t20-fp8", "t21-int4", "t22-fused"):
        model = os.path.join(GOLDEN, name)
        path = check.path(name + ".json")
        alone = ids(check.run_json(*base(model), "--expert-load-out", path))
        for ranks, layout in ((4, "--dp 2"), (3, "--ep 3"), (4, "--dp 2 --all2all-backend alltoall")):
            value = check.run_json(*base(model), *layout.split(), "--expert-map", path,
                                   "--redundant-experts", "7", ranks=ranks)
            check.expect(ids(value) == alone, f"{name}, {layout} on {ranks} ranks")
    alone = ids(check.run_json(*base(), "--weight-dtype", "int8"))
    value = check.run_json(*base(), "--weight-dtype", "int8", "--expert-map", SKEWED,
                           "--redundant-experts", "3", ranks=2)
    check.expect(ids(value) == alone, "int8 weights")


def inspected(path, *layout):
    return check.run_json("inspect", "--model", MODEL, *layout, "--expert-map", path)


def test_balance():
    """What inspect promises, against sums of the file."""
    for layout, n_ranks in ((("--tp", "2"), 2), (("--tp", "4"), 4), (("--dp", "8"), 8)):
        loads = read(SKEWED)["layers"]
        previous = None
        for redundant in (0, 3, 8):
            value = inspected(SKEWED, *layout, "--redundant-experts", str(redundant))
            placement = value["expert_placement"]
            in_order = [max(sum(l[r * 8 // n_ranks:(r + 1) * 8 // n_ranks]) for r in range(n_ranks))
                        * n_ranks / sum(l) for l in loads.values()]
            check.expect(abs(placement["imbalance_in_order"] - sum(in_order) / 2) < 1e-9,
                         f"{layout}: in order {placement}, expected {in_order}")
            check.expect(placement["imbalance"] <= placement["imbalance_in_order"], f"{placement}")
            check.expect(previous is None or placement["imbalance"] < previous or previous < 1.01,
                         f"{layout}, {redundant} copies: {placement['imbalance']} after {previous}")
            previous = placement["imbalance"]
            for layer, slots in placement["slots"].items():
                check.expect(len(slots) == 8 + redundant and set(slots) == set(range(8)),
                             f"layer {layer}: every expert has a slot: {slots}")
            total = sum(rank["expert_load"] for rank in value["ranks"])
            check.expect(abs(total - sum(map(sum, loads.values()))) < 1e-6, f"{layout}: {total}")
    # a copy is an expert more in memory, on the ranks together
    def stored(redundant):
        return sum(rank["weight_bytes"] for rank in
                   inspected(SKEWED, "--dp", "4", "--redundant-experts", str(redundant))["ranks"])
    expert = 3 * 64 * 32 * 2 # gate, up, down, bf16
    check.expect(stored(5) - stored(0) == 5 * expert * len(MOE_LAYERS), f"{stored(5)}, {stored(0)}")
    stages = inspected(SKEWED, "--pp", "2", "--tp", "2")
    check.expect(abs(sum(rank["expert_load"] for rank in stages["ranks"]) -
                     sum(map(sum, read(SKEWED)["layers"].values()))) < 1e-6, "stages have their layers")


def test_experts_are_where_the_map_says():
    """Rank 0 counts the experts it runs in decode steps: with the halves of the ranks exchanged, the other ones."""
    def halves(value):
        slots = value["expert_placement"]["slots"]["1"]
        return set(slots[:4]), set(slots[4:])
    loads = [8, 7, 6, 5, 4, 3, 2, 1]
    first, second = halves(inspected(load_file("a.json", {"1": loads, "2": loads}), "--tp", "2"))
    swapped = list(loads)
    for a, b in zip(sorted(first), sorted(second)):
        swapped[a], swapped[b] = loads[b], loads[a]
    other = inspected(load_file("b.json", {"1": swapped, "2": swapped}), "--tp", "2")
    check.expect(halves(other) == (second, first), f"{first} and {second} change places: {halves(other)}")

    def run(*arguments, ranks=2):
        value = check.run_json(*base(), *arguments, ranks=ranks)
        return value["counters"]["decode_experts"]
    whole, in_order = run(ranks=0), run()
    a, b = run("--expert-map", check.path("a.json")), run("--expert-map", check.path("b.json"))
    check.expect(a + b == whole and in_order not in (a, b),
                 f"rank 0 ran {a} and {b} experts of {whole}; in order {in_order}")


def test_copies_are_used():
    """Two copies of each expert on two ranks: sequences of one step are divided between them."""
    def touched(*arguments):
        return check.run_json("bench", "latency", "--model", MODEL, "--batch-size", "32", "--input-len", "2",
                              "--output-len", "8", "--repeat", "1", "--dp", "2", *arguments,
                              ranks=2)["experts_per_step"]
    even = load_file("even.json", {"1": [5] * 8, "2": [5] * 8})
    once, twice = touched("--expert-map", even), touched("--expert-map", even, "--redundant-experts", "8")
    check.expect(once <= 16 and 1.5 * once < twice <= 32, f"{once} experts in a step, {twice} with copies")


def test_batch_bits():
    """--deterministic batch: which copy serves a token does not depend on chunks."""
    dumped = []
    for tokens in ("7", "512"):
        path = check.path(f"logits_{tokens}")
        result = check.run(*base(lengths=(100,)), "--deterministic", "batch", "--expert-map", SKEWED,
                           "--redundant-experts", "8", "--max-num-batched-tokens", tokens,
                           "--dump-logits", path, ranks=2)
        check.expect(result.returncode == 0, "logits of chunks are dumped", result)
        with open(path, "rb") as file:
            dumped.append(file.read())
    check.expect(dumped[0] == dumped[1], "logits have the same bits in chunks of 7")


def test_bad_files():
    good = [1] * 8
    generate = ["generate", "--model", MODEL, "--prompt-ids", "5,6", "--expert-map"]
    for text, why in (
            ("{", "not JSON"), ("[]", "expected an object with n_experts"), ('{"layers": {}}', "n_experts"),
            ('{"n_experts": 8}', "layers is not there"), ('{"n_experts": 8, "layers": [1]}', "an array of 1"),
            ('{"n_experts": 8, "layers": null}', "layers is null")):
        check.expect_error([*generate, check.path("bad.json", text)], 1, why)
    for layers, n_experts, why in (
            ({"1": good, "2": good}, 7, "n_experts is 7, the model has 8"),
            ({"1": good}, 8, "layers: 2 is not there"),
            ({"1": good, "2": None}, 8, '"2" is null'),
            ({"0": good, "1": good, "2": good}, 8, '"0" is no layer'),
            ({"1": good, "2": good, "3": good}, 8, '"3" is no layer'),
            ({"1": good, "02": good}, 8, '"02" is no layer'),
            ({"1": good, "2": good[1:]}, 8, '"2" is an array of 7, expected the counts of 8'),
            ({"1": good, "2": [*good[1:], -1]}, 8, '"2"[7] is -1, expected an integer'),
            ({"1": [1.5, *good[1:]], "2": good}, 8, '"1"[0] is 1.5, expected an integer'),
            ({"1": ["4", *good[1:]], "2": good}, 8, '"1"[0] is "4", expected an integer'),
            ({"1": [1 << 48, *good[1:]], "2": good}, 8, '"1"[1] is 1, expected')):
        path = load_file("bad.json", layers, n_experts)
        check.expect_error([*generate, path], 1, why)
        check.expect_error(["inspect", "--model", MODEL, "--expert-map", path], 1, why)
    check.expect_error([*generate, check.path("bad.json")], 1, '"1"[1]', ranks=2)
    check.expect_error([*generate, check.path("absent.json")], 1, "cannot open", ranks=2)
    # each rank reads the file of its own folder
    for i in "01":
        os.mkdir(check.path(i))
        check.path(i + "/own.json", json.dumps({"n_experts": 8, "layers": {"1": good, "2": [int(i), *good[1:]]}}))
    here = ["-n", "1", "--wdir", check.path("0"), check.program, *generate, "own.json", ":",
            "--wdir", check.path("1")]
    result = check.run(*generate, "own.json", ranks=1, launcher=[*cli.QUICK_END, *here])
    check.expect(result.returncode != 0 and b"the loads of --expert-map" in result.stderr,
                 "ranks that read other loads do not go on", result)


def test_refusals():
    generate = ["generate", "--model", MODEL, "--prompt-ids", "5,6"]
    check.expect_error([*generate, "--redundant-experts", "2"], 2, "give --expert-map too")
    check.expect_error([*generate, "--expert-map", SKEWED, "--redundant-experts", "-1"], 2, "redundant-experts")
    check.expect_error([*generate, "--expert-map", SKEWED, "--deterministic", "layout"], 1,
                       "--deterministic layout with --expert-map", ranks=2)
    dense = ["generate", "--model", os.path.join(GOLDEN, "t11-dense"), "--prompt-ids", "5,6"]
    check.expect_error([*dense, "--expert-map", SKEWED], 2, "no layer with routed experts")
    check.expect_error([*dense, "--expert-load-out", check.path("none.json")], 2,
                       "--expert-load-out: the model has no layer with routed experts")
    check.expect_error([*generate, "--expert-load-out", check.path("absent/load.json")], 1,
                       "cannot write there", ranks=2)
    check.expect_error([*generate, "--expert-load-out", check.folder], 1, "a directory")


test_counts()
test_other_commands()
test_tokens()
if not IS_SANITIZED:
    test_models()
    test_balance()
    test_batch_bits()
test_experts_are_where_the_map_says()
test_copies_are_used()
test_bad_files()
test_refusals()
check.end()
