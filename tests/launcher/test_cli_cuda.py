#!/usr/bin/env python3
"""--backend cuda: refusals, the CPU in its place, and the tokens of the CPU on the emulated device."""

import json
import os

import cli

check = cli.Check()
MODEL = cli.make_model(check, "model", max_position_embeddings=1024)
PROMPTS = ["--prompt-ids", "5,6,7", "--prompt-ids", ",".join(str(11 * i % 4096) for i in range(130))]
BASE = ["generate", "--model", MODEL, *PROMPTS, "--max-tokens", "12", "--ignore-eos", "--max-num-seqs",
        "2", "--mla-mode", "absorb"]
NONE = {"LATENTRANK_DEBUG_CUDA_LIBRARY": check.path("nothing.so")}
EMULATED = os.path.join(os.path.dirname(check.program), "tests", "cuda_emulator",
                        "liblatentrank_cuda_emulated.so")
DEVICE = {"LATENTRANK_DEBUG_CUDA_LIBRARY": EMULATED}
TWIN = os.path.join(os.path.dirname(EMULATED), "libnccl_twin.so")
# A device for each rank; NCCL is its twin, which compares what the ranks call.
NCCL = {**DEVICE, "LATENTRANK_DEBUG_NCCL_LIBRARY": TWIN, "CUDA_EMULATOR_DEVICES": "4",
        "LATENTRANK_DEBUG_LOG": "info"}
NO_NCCL = {**NCCL, "LATENTRANK_DEBUG_NCCL_LIBRARY": check.path("nothing.so")}
SHARED = {**NCCL, "CUDA_EMULATOR_DEVICES": "1"}
SHORT = ["generate", "--model", MODEL, "--prompt-ids", "5,6,7", "--max-tokens", "4", "--ignore-eos",
         "--mla-mode", "absorb"]
EXACT = ["--backend", "cuda", "--kv-cache-dtype", "f32", "--activation-dtype", "f32"]


def ids(value):
    return [completion["ids"] for completion in value["completions"]]


def test_without_the_library():
    check.expect_error([*BASE, "--backend", "cuda"], 1, "the CUDA backend cannot be loaded",
                       variables=NONE)
    text = check.path("text.so", "no library")
    check.expect_error([*BASE, "--backend", "cuda"], 1, "the CUDA backend cannot be loaded",
                       variables={"LATENTRANK_DEBUG_CUDA_LIBRARY": text})
    result = check.run(*BASE, "--backend", "auto",
                       variables={**NONE, "LATENTRANK_DEBUG_LOG": "info"})
    check.expect(result.returncode == 0 and
                 result.stderr.count(b"on the CPU: the CUDA backend cannot be loaded") == 1,
                 "auto says in one line why it takes the CPU", result)


def test_refusals():
    for arguments, text in ((["--mla-mode", "expand"], "--mla-mode expand"),
                            (["--weight-dtype", "int8"], "--weight-dtype int8"),
                            (["--all2all-backend", "alltoall"], "--all2all-backend alltoall"),
                            (["--expert-load-out", check.path("load.json")], "cuda with --expert-load-out"),
                            (["--expert-map", check.path("load.json")], "cuda with --expert-map")):
        check.expect_error([*BASE, "--backend", "cuda", *arguments], 1, text, variables=DEVICE)
    check.expect_error([*BASE, "--backend", "cuda", "--kv-placement", "auto"], 1,
                       "--backend cuda with --kv-placement auto", ranks=2, variables=DEVICE)


def test_same_tokens():
    cpu = ids(check.run_json(*BASE, "--backend", "cpu", "--kv-cache-dtype", "f32"))
    for cache in ("f32", "bf16", "fp8_ds_mla"):
        expected = ids(check.run_json(*BASE, "--backend", "cpu", "--kv-cache-dtype", cache))
        found = ids(check.run_json(*BASE, "--backend", "cuda", "--kv-cache-dtype", cache,
                                   "--activation-dtype", "f32", variables=DEVICE))
        check.expect(found == expected, f"{cache} cache: {found}, the CPU {expected}")
    auto = ids(check.run_json(*BASE, "--backend", "auto", "--kv-cache-dtype", "f32",
                              "--activation-dtype", "f32", variables=DEVICE))
    check.expect(auto == cpu, "auto takes the device")
    rounded = ids(check.run_json(*BASE, "--backend", "cuda", variables=DEVICE))
    check.expect([len(one) for one in rounded] == [12, 12], f"with rounded inputs: {rounded}")


def test_several_ranks():
    """Heads and experts over ranks that share the device, sums through page-locked memory."""
    expected = ids(check.run_json(*BASE, "--backend", "cpu", "--kv-cache-dtype", "f32"))
    layouts = [(2, []), (3, ["--ep", "1"]), (4, ["--ep", "2"]), (4, ["--dp", "2", "--pp", "2"])]
    for ranks, layout in layouts[:1] if "SANITIZED" in os.environ else layouts:
        found = ids(check.run_json(*BASE, "--backend", "cuda", "--kv-cache-dtype", "f32",
                                   "--activation-dtype", "f32", *layout, ranks=ranks,
                                   variables=DEVICE))
        check.expect(found == expected, f"{ranks} ranks {layout}: {found}, the CPU {expected}")


def test_nccl():
    """The CPU's tokens, with steps as graphs and without."""
    expected = ids(check.run_json(*BASE, "--backend", "cpu", "--kv-cache-dtype", "f32"))
    layouts = [(2, []), (3, ["--ep", "1"]), (4, ["--ep", "2"]), (2, ["--dp", "2"]), (4, ["--pp", "2"])]
    for ranks, layout in layouts[:1] if "SANITIZED" in os.environ else layouts:
        for graphs in ("on", "off"):
            if graphs == "on" and "--dp" in layout:
                continue # whose steps have another shape each time
            result = check.run(*BASE, *EXACT, *layout, "--comm", "nccl", "--json", ranks=ranks,
                               variables={**NCCL, "CUDA_EMULATOR_GRAPHS": graphs})
            check.expect(result.returncode == 0, f"{ranks} ranks, graphs {graphs}", result)
            found = ids(json.loads(result.stdout))
            check.expect(found == expected, f"{ranks} ranks, graphs {graphs}: {found}, the CPU {expected}")
            is_kept = graphs == "on" or "--dp" in layout
            check.expect((b"decode steps are not kept" in result.stderr) != is_kept,
                         f"steps are kept with graphs {graphs}", result)


def test_shared_cache():
    """Pages shared by 2 to 4 ranks; and the tensor-core kernels, which have one page after the other of their own."""
    expected = ids(check.run_json(*BASE, "--backend", "cpu", "--kv-cache-dtype", "f32"))
    layouts = [(3, ["--kv-placement", "sharded", "--comm", "mpi"]), (4, ["--kv-placement", "node", "--dp", "2"])]
    for ranks, layout in layouts[:1] if "SANITIZED" in os.environ else layouts:
        value = check.run_json(*BASE, *EXACT, *layout, ranks=ranks, variables=NCCL)
        check.expect(ids(value) == expected and value["counters"]["cache_exchanges"] > 0,
                     f"{ranks} ranks {layout}: {ids(value)}, the CPU {expected}")
    if "SANITIZED" in os.environ:
        return
    wide = cli.make_model(check, "wide", kv_lora_rank=512, qk_rope_head_dim=64, num_hidden_layers=2,
                          max_position_embeddings=512)
    base = ["generate", "--model", wide, "--prompt-ids", "5,6,7", "--prompt-ids",
            ",".join(str(11 * i % 4096) for i in range(80)), "--max-tokens", "3", "--ignore-eos",
            "--backend", "cuda", "--max-num-seqs", "2"]
    whole = ids(check.run_json(*base, variables=NCCL))
    found = ids(check.run_json(*base, "--kv-placement", "sharded", ranks=2, variables=NCCL))
    check.expect(found == whole, f"bf16 rows on 2 ranks: {found}, whole {whole}")


def test_graphs_on_some_ranks():
    """NCCL wants an operation in a graph on all members: that the twin finds it shows that they are there."""
    mixed = ["-n", "1", "env", "CUDA_EMULATOR_GRAPHS=off", check.program, *SHORT, *EXACT, "--comm", "nccl", ":"]
    result = check.run(*SHORT, *EXACT, "--comm", "nccl", launcher=mixed, ranks=1, variables=NCCL)
    check.expect(result.returncode == 3 and b"in a graph" in result.stderr,
                 "one rank without graphs is found", result)


def test_choice_of_nccl():
    one, shared, absent = b"2 ranks sum by NCCL", b"shares the GPU 0000:01:00.0 with rank 0", \
        b"sum through host memory, which is slow: NCCL cannot be loaded"
    for comm, variables, text in (("auto", NCCL, one), ("nccl", NCCL, one), ("auto", SHARED, shared),
                                  ("auto", NO_NCCL, absent),
                                  ("mpi", NCCL, b"sum through host memory, as --comm says"),
                                  ("shm", NCCL, b"sum through host memory, as --comm says")):
        result = check.run(*SHORT, *EXACT, "--comm", comm, ranks=2, variables=variables)
        check.expect(result.returncode == 0 and result.stderr.count(text) == 1,
                     f"--comm {comm}: one line with '{text.decode()}'", result)
    arguments = [*SHORT, *EXACT, "--comm", "nccl"]
    check.expect_error(arguments, 1, "--comm nccl: rank 1", ranks=2, variables=SHARED)
    check.expect_error(arguments, 1, "--comm nccl: NCCL cannot be loaded", ranks=2, variables=NO_NCCL)
    # rank 0 fails too, but only because rank 1 does
    check.expect_error(arguments, 1, "Call to connect failed: refused", ranks=2,
                       variables={**NCCL, "CUDA_EMULATOR_NCCL_REFUSE": "1"})
    check.expect_error([*SHORT, "--backend", "cpu", "--comm", "nccl"], 2, "--comm nccl moves tensors of GPUs",
                       ranks=2)


test_without_the_library()
if os.path.exists(EMULATED):
    test_refusals()
    test_same_tokens()
    test_several_ranks()
if os.path.exists(TWIN):
    test_nccl()
    test_shared_cache()
    test_graphs_on_some_ranks()
    test_choice_of_nccl()
check.end()
