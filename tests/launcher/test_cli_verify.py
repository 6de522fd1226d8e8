#!/usr/bin/env python3
"""verify: layouts that agree, one that does not, and jobs that cannot run."""

import json
import os
import signal
import subprocess
import time

import cli
import corrupt

check = cli.Check()
MODEL = os.path.join(cli.SOURCE, "tests", "golden", "t3-v3")
PROMPTS = ["--prompt-ids", "5,6,7", "--prompt-ids", ",".join(str(7 * i % 150) for i in range(65)),
           "--max-tokens", "4"]
VERIFY = ["verify", "--model", MODEL, *PROMPTS]
# Temporary files of verify, to see that none is left.
TEMPORARY = {"TMPDIR": check.path("temporary")}
os.mkdir(TEMPORARY["TMPDIR"])


def launcher_of_another_model(model):
    """A launcher that gives this model to jobs of 2 ranks."""
    path = check.path("launch.sh", f"""#!/bin/sh
n=$1
shift
[ "$n" -ne 2 ] || export LATENTRANK_MODEL={model}
exec {" ".join(cli.MPIRUN)} -n "$n" "$@"
""")
    return ["--launch", f"sh {path} {{n}}"]


def test_agreement():
    for mode, layouts in (("off", "tp=2;tp=3,ep=1,kv=sharded;tp=4,comm=mpi"),
                          ("layout", "tp=2,kv=sharded;tp=8,comm=mpi")):
        value = check.run_json(*VERIFY, "--deterministic", mode, "--layouts", layouts,
                               variables=TEMPORARY)
        check.expect([row["layout"] for row in value["rows"]] == layouts.split(";") and
                     value["passed"] == len(value["rows"]) and value["failed"] == 0 and
                     value["prompts"] == 2, f"{mode}: {value}")
        for row in value["rows"]:
            check.expect(row["passed"] and row["same_tokens"] and row["max_rel_diff"] <= 2e-4,
                         f"{mode}: {row}")
            check.expect(mode == "off" or row["same_bits"] and row["max_rel_diff"] == 0,
                         f"{mode}: {row}")
    text = check.run(*VERIFY, "--layouts", "tp=2", variables=TEMPORARY).stdout.decode()
    check.expect(text.splitlines()[0].split() == ["layout", "max_rel_diff", "tokens", "bits"] and
                 text.splitlines()[1].split()[0] == "tp=2" and text.endswith("passed\n"), text)


def test_difference():
    bad = corrupt.copy(check.path("bad"), "t3-v3")
    corrupt.enlarge(bad, "model.layers.1.input_layernorm.weight")
    launch = launcher_of_another_model(bad)
    result = check.run(*VERIFY, *launch, "--layouts", "tp=2;tp=4", "--json", variables=TEMPORARY)
    value = json.loads(result.stdout)
    check.expect(result.returncode == 1 and
                 b"error: 1 of 2 layouts do not give what one rank gives" in result.stderr,
                 "a layout that differs", result)
    check.expect(not value["rows"][0]["passed"] and value["rows"][0]["max_rel_diff"] > 2e-4 and
                 value["rows"][1]["passed"] and value["failed"] == 1, f"{value}")
    first = value["rows"][0].get("first_difference", {})
    check.expect((first.get("step"), first.get("layer"), first.get("tensor")) ==
                 (0, 1, "input of attention") and first["difference"] > 2e-4 and
                 "ranks_say" not in value["rows"][0], f"where it differs first: {value}")
    result = check.run(*VERIFY, *launch, "--layouts", "tp=2", "--deterministic", "layout",
                       variables=TEMPORARY)
    check.expect(result.returncode == 1 and
                 b"FAILED; the first to differ: step 0, layer 1, input of attention" in result.stdout,
                 "bits that differ", result)


def test_experts():
    """Sums of 7 parts round otherwise, and turn one choice of experts; a router that differs is no tie."""
    base = ["verify", "--model", MODEL, "--max-tokens", "1"]
    value = check.run_json(*base, "--layouts", "tp=7", variables=TEMPORARY)["rows"][0]
    check.expect(value["passed"] and value["ties"] == 1 and value["max_rel_diff"] < 1e-5 and
                 value["first_difference"]["tensor"] == "chosen experts", f"a tie: {value}")
    bad = corrupt.copy(check.path("router"), "t3-v3")
    corrupt.enlarge(bad, "model.layers.1.mlp.gate.weight")
    result = check.run(*base, *launcher_of_another_model(bad), "--layouts", "tp=2", "--json",
                       variables=TEMPORARY)
    value = json.loads(result.stdout)["rows"][0]
    check.expect(not value["passed"] and value["ties"] == 0 and
                 value["first_difference"]["tensor"] == "router logits", f"another router: {value}")


def test_difference_of_a_rank():
    """Rank 1 alone has other weights, behind the same relative path."""
    for name in ("a", "b"):
        os.mkdir(check.path(name))
        model = corrupt.copy(os.path.join(check.path(name), "model"), "t3-v3")
        if name == "b":
            corrupt.enlarge(model, "model.layers.2.post_attention_layernorm.weight")
    path = check.path("two.sh", f"""#!/bin/sh
n=$1
shift
[ "$n" -eq 2 ] || exec {" ".join(cli.MPIRUN)} -n "$n" "$@"
exec {" ".join(cli.MPIRUN)} -n 1 "$@" : -n 1 -wdir {check.path("b")} "$@"
""")
    here = os.getcwd()
    os.chdir(check.path("a"))
    value = json.loads(check.run("verify", "--model", "model", *PROMPTS, "--launch",
                                     f"sh {path} {{n}}", "--layouts", "tp=2", "--json",
                                     variables=TEMPORARY).stdout)
    os.chdir(here)
    said = value["rows"][0].get("ranks_say", "")
    check.expect(value["failed"] == 1 and "layer 2: input of the FFN differs between ranks" in said
                 and "rank 1 (" in said, f"the rank that differs: {value}")


def test_jobs_that_fail():
    result = check.run(*VERIFY, "--deterministic", "layout", "--layouts", "tp=3;tp=2",
                       variables=TEMPORARY)
    lines = result.stdout.decode().splitlines()
    check.expect(result.returncode == 1 and "--deterministic layout with tp 3" in lines[1] and
                 lines[2].endswith("passed"), "a layout that is refused says why", result)
    check.expect_error([*VERIFY, "--launch", "no-such-launcher {n}"], 1,
                       "no-such-launcher: cannot be started", variables=TEMPORARY)
    check.expect_error(["verify", "--model", check.path("nothing")], 1, "config.json",
                       variables=TEMPORARY)
    check.expect_error([*VERIFY], 2, "run it without mpirun", ranks=2, variables=TEMPORARY)
    for layouts, text in (("tp=2;", "a layout of 0 characters"), ("ep=2", "has no tp=N"),
                          ("tp=two", "expected a number of ranks"), ("tp=2,tp=2", "'tp' twice"),
                          ("tp=2,dp=0", "found 'dp=0'"), ("dp=2,pp=2", "has no tp=N"),
                          ("tp=2,a2a", "found 'a2a'"),
                          ("tp=2,kv", "found 'kv'"), ("tp=2,x=1", "found 'x=1'")):
        check.expect_error([*VERIFY, "--layouts", layouts], 2, text, variables=TEMPORARY)


def test_signals():
    """The job ends too, and nothing is left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        launch = check.path("slow.sh", "#!/bin/sh\necho $$ >$TMPDIR/../pid\nexec sleep 60\n")
        pid_file = os.path.join(check.folder, "pid")
        with subprocess.Popen([check.program, *VERIFY, "--launch", f"sh {launch}"],
                              env={**os.environ, **TEMPORARY}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            while not os.path.exists(pid_file) or os.path.getsize(pid_file) == 0:
                time.sleep(0.01)
            process.send_signal(number)
            stderr = process.communicate(timeout=cli.TIMEOUT_S)[1]
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        os.remove(pid_file)
        check.expect(process.returncode == 130 and not os.path.exists(f"/proc/{pid}"),
                     f"signal {number}: code {process.returncode}, {stderr!r}")


test_agreement()
test_difference()
test_experts()
test_difference_of_a_rank()
test_jobs_that_fail()
test_signals()
check.expect(os.listdir(TEMPORARY["TMPDIR"]) == [], f"left: {os.listdir(TEMPORARY['TMPDIR'])}")
check.end()
