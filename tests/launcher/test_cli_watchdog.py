#!/usr/bin/env python3
"""A rank that is stopped or killed in the middle of a completion: the job ends, and says whose fault it
was where the launcher does not."""

import os
import re
import signal
import subprocess
import sys
import time

import cli

check = cli.Check()
if cli.tokenizer_files() is None:
    print("skipped: there is no tokenizer, so no text that shows that decoding has begun")
    sys.exit(77)
MODEL = cli.make_model(check, "model", max_position_embeddings=1 << 20)
GENERATE = ["generate", "--model", MODEL, "--prompt", "x", "--max-tokens", "400000", "--ignore-eos",
            "--kv-cache-dtype", "bf16"]


def process_of(mpirun, rank):
    """The process of a rank of this mpirun, which is its parent."""
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if parent == mpirun and f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables:
            return int(pid)
    return None


def disturb(ranks, rank, number, *arguments, launcher=(), variables=None):
    """Sends a signal to one rank once text comes; exit code, stdout and stderr of the job."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LATENTRANK_")}
    env.update({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_orte_tmpdir_base": check.folder, **(variables or {})})
    command = cli.MPIRUN + list(launcher) + ["-n", str(ranks), check.program] + GENERATE + list(arguments)
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as job:
        first = job.stdout.read(64)
        pid = process_of(job.pid, rank)
        check.expect(len(first) == 64 and pid is not None, f"rank {rank} of {ranks} decodes")
        if pid is not None:
            os.kill(pid, number)
        try:
            _, stderr = job.communicate(timeout=cli.TIMEOUT_S)
        except subprocess.TimeoutExpired:
            if pid is not None and process_of(job.pid, rank) == pid:
                os.kill(pid, signal.SIGCONT)
            job.terminate()
            _, stderr = job.communicate()
            check.expect(False, f"the job ends when rank {rank} gets signal {number}")
    return subprocess.CompletedProcess(command, job.returncode, b"", stderr)


def error_lines(result):
    return [line for line in result.stderr.decode(errors="replace").splitlines()
            if line.startswith("latentrank: error:")]


def test_stopped():
    """Over both backends; the last rank of three, so that two wait and one speaks."""
    for ranks, *layout in [(2, "--comm", "mpi"), (2,), (3,), (3, "--comm", "mpi"), (2, "--dp", "2"),
                           (2, "--pp", "2"), (4, "--dp", "2", "--pp", "2"), (4, "--dp", "2")]:
        rank = ranks - 1
        result = disturb(ranks, rank, signal.SIGSTOP, *layout, "--watchdog-timeout", "1")
        lines = error_lines(result)
        check.expect(result.returncode == 1 and len(lines) == 1, f"one line, code 1: {layout}", result)
        line = lines[0] if lines else ""
        # the signal finds it between two operations or inside one
        fault = r"(never entered \w+ \d+|entered \w+ \d+.*, but its process has not run for)"
        check.expect(re.match(rf"latentrank: error: rank {rank} \(.+\) {fault}", line) and
                     ", step " in line and "--watchdog-timeout" in line,
                     f"the line names rank {rank}: {line}", result)
        dumps = [text for text in result.stderr.decode(errors="replace").splitlines()
                 if "ledger: " in text and "waits for" in text]
        # mpirun wakes the stopped one before it ends it, which may then show its own
        check.expect(1 <= len(dumps) <= ranks, f"ranks that wait show their ring: {dumps}", result)


def test_stopped_on_a_stream():
    """Collectives that are queued, alone and in a graph: the watch knows what the stream waits for."""
    folder = os.path.join(os.path.dirname(check.program), "tests", "cuda_emulator")
    nccl = {"LATENTRANK_DEBUG_CUDA_LIBRARY": os.path.join(folder, "liblatentrank_cuda_emulated.so"),
            "LATENTRANK_DEBUG_NCCL_LIBRARY": os.path.join(folder, "libnccl_twin.so"),
            "CUDA_EMULATOR_DEVICES": "3"}
    if not os.path.exists(nccl["LATENTRANK_DEBUG_NCCL_LIBRARY"]):
        return
    for graphs in ("on", "off"):
        result = disturb(3, 2, signal.SIGSTOP, "--backend", "cuda", "--comm", "nccl", "--mla-mode", "absorb",
                         "--max-model-len", "4096", "--max-tokens", "4000", "--watchdog-timeout", "1",
                         variables={**nccl, "CUDA_EMULATOR_GRAPHS": graphs})
        lines = error_lines(result)
        fault = r"(never entered \w+ \d+|entered \w+ \d+.*, but its process has not run for)"
        check.expect(result.returncode == 1 and len(lines) == 1 and
                     re.match(rf"latentrank: error: rank 2 \(.+\) {fault}", lines[0]),
                     f"rank 2 is named, graphs {graphs}: {lines}", result)
        check.expect(b"queued)" in result.stderr, "the ring shows what was queued", result)


def test_killed():
    for comm in ("mpi", "shm"):
        started = time.monotonic()
        result = disturb(2, 1, signal.SIGKILL, "--comm", comm, "--watchdog-timeout", "100")
        check.expect(result.returncode != 0, f"a killed rank ends the job: {comm}", result)
        check.expect(time.monotonic() - started < 90, f"before the deadline: {comm}", result)


def test_dead_without_a_launcher_that_cares():
    """mpirun is told to go on when a rank dies: over shared memory the others see it themselves, in a
    broadcast as in a sum."""
    for ranks in (2, 3):
        rank = ranks - 1
        result = disturb(ranks, rank, signal.SIGKILL, "--comm", "shm",
                         launcher=["--mca", "orte_enable_recovery", "1"])
        lines = error_lines(result)
        check.expect(lines and all(f"rank {rank}, which the " in line and
                                   "group waits for, has ended" in line for line in lines),
                     f"rank {rank} has ended: {lines}", result)


def test_quiet():
    """A watch over a job where all goes well changes nothing."""
    arguments = ["--model", MODEL, "--prompt-ids", "1,2,3", "--max-tokens", "16"]
    for ranks in (0, 1, 3):
        plain = check.run_json("generate", *arguments, ranks=ranks)
        watched = check.run_json("generate", *arguments, "--watchdog-timeout", "60", ranks=ranks)
        check.expect(plain["completions"] == watched["completions"], f"the same on {ranks} ranks")


test_stopped()
test_stopped_on_a_stream()
test_killed()
test_dead_without_a_launcher_that_cares()
test_quiet()
check.end()
