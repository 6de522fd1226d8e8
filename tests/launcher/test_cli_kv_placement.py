#!/usr/bin/env python3
"""--kv-placement sharded: the tokens of a whole cache, its memory shared, longer contexts."""

import json
import os
import re

import cli

check = cli.Check()
MODEL = cli.make_model(check, "model", max_position_embeddings=2048)
SHARDED = ["--kv-placement", "sharded"]
PAGE = 64
TOKEN_BYTES = 3 * 40 * 2 # layers, numbers of a row, bf16


def prompts(lengths):
    return check.path("prompts.jsonl", "".join(
        json.dumps({"ids": [(11 * i + 5 * j) % 4096 for j in range(length)]}) + "\n"
        for i, length in enumerate(lengths)))


def test_generate():
    """Sequences of different lengths side by side: at the end of a page, and of many pages."""
    lengths = [1, 63, 64, 65, 130, 600]
    base = ["generate", "--model", MODEL, "--prompt-file", prompts(lengths), "--max-tokens", "10",
            "--ignore-eos", "--kv-cache-dtype", "f32"]
    alone = check.run_json(*base)["completions"]
    for ranks, seqs, mode in ((2, "16", "auto"), (3, "4", "absorb"), (4, "16", "expand"),
                              (8, "16", "auto")):
        value = check.run_json(*base, *SHARDED, "--max-num-seqs", seqs, "--mla-mode", mode,
                               ranks=ranks)
        check.expect([c["ids"] for c in value["completions"]] == [c["ids"] for c in alone],
                     f"sharded over {ranks} ranks, {mode}: the ids of one rank")
        counters = value["counters"]
        check.expect((counters["cache_exchanges"] > 0) == (mode != "expand") and
                     (counters["cache_gathers"] > 0) == (mode != "absorb"),
                     f"{mode} on {ranks} ranks: {counters}")


def test_node_and_auto():
    """On one node `node` is `sharded`; auto takes the whole cache where messages cost more than reads."""
    base = ["generate", "--model", MODEL, "--prompt-file", prompts([70, 200]), "--max-tokens", "6",
            "--ignore-eos", "--kv-cache-dtype", "f32"]
    alone = check.run_json(*base)["completions"]
    for placement, ranks, layout in (("node", 3, []), ("node", 4, ["--dp", "2"]), ("auto", 2, []),
                                     ("auto", 4, ["--dp", "2", "--comm", "mpi"]), ("auto", 0, [])):
        result = check.run(*base, "--kv-placement", placement, *layout, "--json", ranks=ranks)
        value = json.loads(result.stdout) if result.returncode == 0 else {"completions": []}
        check.expect([c["ids"] for c in value["completions"]] == [c["ids"] for c in alone],
                     f"{placement} on {ranks} ranks {layout}: the ids of one rank", result)
        said = result.stderr.count(b"--kv-placement auto takes ")
        check.expect(said == (placement == "auto"), f"{placement} on {ranks} ranks says why", result)
        if placement == "node":
            counters = value.get("counters", {"cache_exchanges": 0})
            check.expect(counters["cache_exchanges"] > 0 and value["cache"]["placement"] == "node",
                         f"rows are shared: {value.get('cache')}", result)
        else:
            check.expect(value.get("cache", {}).get("placement") in ("replicated", "sharded"),
                         f"auto says what it took: {value.get('cache')}", result)


def test_memory_of_a_rank():
    """A share of the pages, and at most a page more for each sequence."""
    short = check.run_json("generate", "--model", MODEL, "--prompt-ids", "5", "--prompt-ids", "6,7",
                           "--max-tokens", "3", *SHARDED, ranks=3)["cache"]
    check.expect(short["placement"] == "sharded" and
                 short["replicated_rank_bytes"] == 2 * PAGE * TOKEN_BYTES and
                 short["rank_bytes"] == 2 * PAGE * TOKEN_BYTES,
                 f"sequences of a page, which may all be one rank's: {short}")
    value = check.run_json("bench", "latency", "--model", MODEL, "--batch-size", "2",
                           "--input-len", "1022", "--output-len", "2", "--repeat", "1", *SHARDED,
                           ranks=3)
    pages = 2 * -(-16 // 3) # of 2 sequences of 16 pages, shared by 3
    check.expect(value["kv_placement"] == "sharded" and
                 value["replicated_cache_bytes"] == 2 * 1024 * TOKEN_BYTES and
                 value["cache_bytes"] == pages * PAGE * TOKEN_BYTES,
                 f"bench latency says what a rank holds: {value}")


def test_bytes_of_a_step():
    """Each cached row is read once by all ranks together, not once by each."""
    base = ["bench", "latency", "--model", MODEL, "--input-len", "100", "--output-len", "3",
            "--repeat", "1"]
    replicated = check.run_json(*base, ranks=2)
    sharded = check.run_json(*base, *SHARDED, ranks=2)
    rows = 100 + 3 / 2
    check.expect(replicated["bytes_per_step"] - sharded["bytes_per_step"] == rows * TOKEN_BYTES,
                 f"replicated {replicated['bytes_per_step']}, sharded {sharded['bytes_per_step']}")
    check.expect(replicated["kv_placement"] == "replicated" and
                 replicated["cache_bytes"] == replicated["replicated_cache_bytes"],
                 f"replicated is the default: {replicated}")
    table = check.run(*base, *SHARDED, ranks=2)
    check.expect(b"shared by 2 (replicated: " in table.stdout, "the table says so too", table)
    alone = check.run_json(*base, *SHARDED)
    check.expect(alone["kv_placement"] == "replicated", "one rank has nobody to share with")


def test_inspect():
    value = check.run_json("inspect", "--model", MODEL, "--tp", "4")
    check.expect(value["cache"]["rank_bytes_per_token"] ==
                 {"replicated": TOKEN_BYTES, "sharded": TOKEN_BYTES / 4}, f"{value['cache']}")
    table = check.run("inspect", "--model", MODEL, "--tp", "4")
    check.expect(b"60 bytes with --kv-placement sharded" in table.stdout, "in the table", table)


def run_limited(arguments, limit_bytes):
    """On two ranks, each under ulimit -v."""
    program, check.program = check.program, "/bin/sh"
    result = check.run("-c", f'ulimit -v {limit_bytes // 1024} && exec "$@"', "sh", program,
                       *arguments, ranks=2, launcher=cli.QUICK_END)
    check.program = program
    return result


def test_a_context_that_fits_only_when_shared():
    """A whole cache is refused, with the other placement as advice; half of it runs."""
    if cli.tokenizer_files() is None or "SANITIZED" in os.environ: # shadow memory is terabytes
        return
    length, layers = 262144, 4
    model = cli.make_model(check, "long", kv_lora_rank=512, num_hidden_layers=layers,
                           max_position_embeddings=length)
    text = check.path("text.txt", "The quick brown fox jumps over the lazy dog. " * 30)
    base = ["eval", "--model", model, "--text-file", text, "--max-model-len", str(length),
            "--kv-cache-dtype", "f32", "--threads", "1", "--json"]
    whole = length * layers * (512 + 8) * 4
    limit = whole + (200 << 20) # of which the program and its libraries take the most
    refused = run_limited(base, limit)
    check.expect(refused.returncode == 1 and
                 re.search(rb"not enough memory for a rank \(ulimit -v\).*--kv-placement sharded "
                           rb"\(cache 1\.09 GB on each rank\)", refused.stderr),
                 "a whole cache does not fit", refused)
    chosen = run_limited(base + ["--kv-placement", "auto"], limit)
    check.expect(chosen.returncode == 0 and
                 re.search(rb"--kv-placement auto takes sharded: replicated 2\.19 GB a rank, which does not "
                           rb"fit, sharded 1\.10 GB a rank", chosen.stderr), "auto shares it", chosen)
    shared = run_limited(base + SHARDED, limit)
    check.expect(shared.returncode == 0, "a shared cache does", shared)
    if shared.returncode == 0:
        alone = check.run_json(*base[:-1])
        nll = json.loads(shared.stdout)["nll"]
        check.expect(abs(nll / alone["nll"] - 1) < 1e-4, f"and scores the same: {nll} {alone}")


for name, test in sorted(globals().items()):
    if name.startswith("test_"):
        test()
check.end()
