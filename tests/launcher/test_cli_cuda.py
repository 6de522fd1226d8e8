#!/usr/bin/env python3
"""--backend cuda: refusals, the CPU in its place, and the tokens of the CPU on the emulated device."""

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
                            (["--weight-dtype", "int8"], "--weight-dtype int8")):
        check.expect_error([*BASE, "--backend", "cuda", *arguments], 1, text, variables=DEVICE)
    check.expect_error([*BASE, "--backend", "cuda", "--kv-placement", "sharded"], 1,
                       "--backend cuda with --kv-placement", ranks=2, variables=DEVICE)


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
    layouts = [(2, []), (3, ["--ep", "1"]), (4, ["--ep", "2"])]
    for ranks, layout in layouts[:1] if "SANITIZED" in os.environ else layouts:
        found = ids(check.run_json(*BASE, "--backend", "cuda", "--kv-cache-dtype", "f32",
                                   "--activation-dtype", "f32", *layout, ranks=ranks,
                                   variables=DEVICE))
        check.expect(found == expected, f"{ranks} ranks {layout}: {found}, the CPU {expected}")


test_without_the_library()
if os.path.exists(EMULATED):
    test_refusals()
    test_same_tokens()
    test_several_ranks()
check.end()
