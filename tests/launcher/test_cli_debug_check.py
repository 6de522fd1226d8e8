#!/usr/bin/env python3
"""LATENTRANK_DEBUG_CHECK=1: a rank whose weights differ is named with the first tensor that shows it."""

import os

import cli
import corrupt

check = cli.Check()
RANKS = 3
GENERATE = ["generate", "--model", "model", "--prompt-ids", "5,6,7,8", "--max-tokens", "3",
            "--ignore-eos"]
CHECK = {"LATENTRANK_DEBUG_CHECK": "1"}
NORM = "model.layers.{}.input_layernorm.weight"
GATE = "model.layers.{}.mlp.gate.weight"


def folder(name, tensor=None):
    """A folder with a model in it, of which one number of `tensor` (bf16) is 8 times as large."""
    os.mkdir(check.path(name))
    model = corrupt.copy(os.path.join(check.path(name), "model"), "t3-v3")
    if tensor is not None:
        corrupt.enlarge(model, tensor)
    return check.path(name)


def run(good, bad, variables, ranks=RANKS):
    """Rank 1 runs in another folder than the others, which have the same path for their model."""
    def context(where, n):
        return ["-n", str(n), "-wdir", where, check.program, *GENERATE]
    return check.run(*GENERATE, ":", *context(bad, 1), ":", *context(good, ranks - 2),
                     ranks=1, launcher=["-wdir", good, *cli.QUICK_END], variables=variables)


def test_alike():
    good = folder("good")
    plain, checked = run(good, good, {}), run(good, good, CHECK)
    check.expect(plain.returncode == 0 and plain.stdout == checked.stdout and
                 checked.returncode == 0, "models that are alike", checked)
    for layout in (["--deterministic", "layout"], ["--kv-placement", "sharded"],
                   ["--mla-mode", "expand"]):
        result = check.run(*GENERATE[:2], os.path.join(good, "model"), *GENERATE[3:], *layout, ranks=4,
                           variables=CHECK)
        check.expect(result.returncode == 0, f"{layout} on 4 ranks", result)
    return good


def test_differing(good):
    for name, tensor, what in (("norm0", NORM.format(0), "layer 0: input of attention"),
                               ("norm2", NORM.format(2), "layer 2: input of attention"),
                               ("gate", GATE.format(1), "layer 1: ")):
        bad = folder(name, tensor)
        result = run(good, bad, CHECK)
        lines = [line for line in result.stderr.decode().splitlines() if "error:" in line]
        check.expect(result.returncode != 0 and len(lines) == 1 and what in lines[0] and
                     "rank 1 (" in lines[0] and "differs between ranks" in lines[0],
                     f"{tensor}: '{what}' of rank 1 is named", result)
        silent = run(good, bad, {})
        check.expect(silent.returncode == 0, f"{tensor}: nobody sees it otherwise", silent)


test_differing(test_alike())
check.end()
