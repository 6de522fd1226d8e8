#!/usr/bin/env python3
"""generate on 2 and 4 virtual nodes, over TCP between them: the tokens of one rank, and its bits where they are
promised."""

import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(SOURCE, "tests", "launcher"))
import cli # noqa: E402

check = cli.Check()
CLUSTER = os.path.join(SOURCE, "cluster", "virtual", "cluster")
MODEL = os.path.join(SOURCE, "tests", "golden", "t3-v3") # 5 heads, 3 layers
NAME = f"test{os.getpid()}"
PROMPT = ",".join(str((7 * i * i + 3 * i) % 300 + 8) for i in range(150))
FORBIDDEN = 77


def cluster(command, *arguments, place=()):
    result = subprocess.run([CLUSTER, command, *place, "--name", NAME, *arguments],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=cli.TIMEOUT_S, check=False)
    if result.returncode == FORBIDDEN:
        print("skipped:", result.stderr.decode(errors="replace").strip())
        shutil.rmtree(check.folder)
        sys.exit(77)
    return result


def job(ranks, *arguments, model=MODEL):
    """On the nodes that are up; 0 ranks: without them.  What --json says, and the logits as they are."""
    logits = check.path("logits.safetensors")
    arguments = ["generate", "--model", model, "--prompt-ids", PROMPT, "--max-tokens", "8",
                 "--ignore-eos", "--json", "--dump-logits", logits, *arguments]
    if os.path.exists(logits):
        os.remove(logits)
    if ranks == 0:
        result = check.run(*arguments)
    else:
        result = cluster("run", "-n", str(ranks), check.program, *arguments)
    if result.returncode != 0:
        check.expect(False, f"{arguments} on {ranks} ranks", result)
        return None, None
    with open(logits, "rb") as file:
        data = file.read()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    at = json.loads(data[8:begin])["logits"]["data_offsets"]
    return json.loads(result.stdout), data[begin + at[0]:begin + at[1]]


def expect_tokens(one, ranks, *arguments):
    value, _ = job(ranks, *arguments)
    if value is not None:
        check.expect(value["ranks"] == max(ranks, 1) and
                     value["completions"][0]["ids"] == one["completions"][0]["ids"],
                     f"the tokens of one rank on {ranks} ranks, {arguments}: {value}")


def expect_bits(bits, ranks, *arguments):
    _, found = job(ranks, *arguments)
    check.expect(found is not None and len(found) > 0 and found == bits,
                 f"the bits of one rank on {ranks} ranks, {arguments}")


def test_nodes_are_hosts():
    """MPI and the engine see machines that share nothing: names, memory, processes."""
    result = cluster("run", "-n", "4", "sh", "-c",
                     "echo $OMPI_COMM_WORLD_RANK $(hostname) $OMPI_COMM_WORLD_LOCAL_SIZE "
                     "$(stat -fc %i /dev/shm) $(readlink /proc/self/ns/net)")
    rows = sorted(line.split() for line in result.stdout.decode().splitlines())
    check.expect(len(rows) == 4 and [row[:3] for row in rows] ==
                 [[str(r), f"{NAME}-{r // 2}", "2"] for r in range(4)], f"ranks in blocks: {rows}", result)
    check.expect(len({tuple(row[3:]) for row in rows}) == 2, f"two memories, two networks: {rows}")


def test_two_nodes():
    """4 ranks have memory that 2 of them share; 2 and 3 do not, or not in equal blocks."""
    one, _ = job(0)
    for ranks in (2, 3, 4):
        expect_tokens(one, ranks)
    expect_tokens(one, 4, "--comm", "mpi")
    for placement in ("replicated", "node", "sharded", "auto"):
        expect_tokens(one, 4, "--kv-placement", placement, "--watchdog-timeout", "60")
    for layout in (["--dp", "2"], ["--dp", "4", "--all2all-backend", "alltoall"], ["--pp", "2"],
                   ["--pp", "2", "--dp", "2"]):
        expect_tokens(one, 4, *layout)


def test_bits():
    layout = ["--deterministic", "layout"]
    _, bits = job(0, *layout)
    for ranks in (2, 4):
        for arguments in ([], ["--comm", "mpi"], ["--kv-placement", "sharded"],
                          ["--kv-placement", "node"], ["--dp", "2"], ["--pp", "2"]):
            expect_bits(bits, ranks, *layout, *arguments)


def test_four_nodes():
    one, _ = job(0)
    _, bits = job(0, "--deterministic", "layout")
    expect_tokens(one, 4, "--kv-placement", "sharded")
    expect_bits(bits, 4, "--deterministic", "layout")
    expect_bits(bits, 8, "--deterministic", "layout", "--kv-placement", "sharded")


def test_bad_network():
    """Packets that come late, out of step or not at all change nothing but the time."""
    _, bits = job(0, "--deterministic", "layout")
    result = cluster("set", "--delay", "20", place=["all"])
    check.expect(result.returncode == 0, "links are shaped while the nodes run", result)
    refused = cluster("enter", sys.executable, "-c",
                      "import socket, time\nbegin = time.monotonic()\n"
                      f"print(socket.socket().connect_ex(('{NAME}-1', 9)), time.monotonic() - begin)",
                      place=["0"])
    code, seconds = refused.stdout.split()
    check.expect(int(code) == errno.ECONNREFUSED and float(seconds) >= 0.04,
                 "there and back takes two delays", refused)
    cluster("set", "--delay", "1", "--loss", "1", place=["all"])
    expect_bits(bits, 4, "--deterministic", "layout", "--kv-placement", "sharded")


def test_verify():
    result = check.run("verify", "--model", MODEL, "--prompt-ids", "5,6,7", "--max-tokens", "4",
                       "--layouts", "tp=2;tp=4,kv=sharded", "--launch",
                       f"{CLUSTER} run --name {NAME} -n {{n}}")
    if " " in CLUSTER:
        return # words of --launch are divided at blanks
    check.expect(result.returncode == 0 and result.stdout.count(b"passed") == 2,
                 "a cluster is a launcher for verify", result)


def test_it_ends():
    """Nodes of one job go with it, also when it is stopped; and errors have their codes."""
    with subprocess.Popen([CLUSTER, "run", "--nodes", "2", "--name", NAME + "x", "-n", "2", "sh", "-c",
                           "echo here; sleep 1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code = process.wait(cli.TIMEOUT_S)
    listed = subprocess.run([CLUSTER, "list"], stdout=subprocess.PIPE, check=True).stdout.decode()
    check.expect(code != 0 and NAME + "x-0" not in listed and NAME + "-0" in listed,
                 f"an interrupted job leaves no nodes: {code}\n{listed}")
    for arguments, text in ((["run", "--name", NAME + "y", "true"], b"there is no cluster"),
                            (["up", "0"], b"expected 1 to"), (["set", "9", "--name", NAME], b"node 9"),
                            (["fly"], b"no such command")):
        result = subprocess.run([CLUSTER, *arguments], stderr=subprocess.PIPE, check=False)
        check.expect(result.returncode == 2 and text in result.stderr, f"{arguments} is refused", result)


def main():
    cluster("up", place=["2"])
    try:
        if "SANITIZED" in os.environ: # the whole takes minutes then
            expect_tokens(job(0)[0], 4, "--dp", "2", "--kv-placement", "node", "--watchdog-timeout", "60")
            return
        test_nodes_are_hosts()
        test_two_nodes()
        test_bits()
        test_verify()
        test_it_ends()
        cluster("down")
        cluster("up", place=["4"])
        test_four_nodes()
        test_bad_network()
    finally:
        cluster("down")


main()
check.end()
