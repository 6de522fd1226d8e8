#!/usr/bin/env python3
"""The benchmarks run, alone and on two ranks, and print the keys that stay.  No time is asserted."""

import json
import math
import os
import re
import subprocess

import cli

check = cli.Check()
MODEL = cli.make_model(check, "model")
LATENCY = ["bench", "latency", "--model", MODEL, "--input-len", "5", "--output-len", "4",
           "--repeat", "2"]
KERNELS = ["bench", "kernels", "--model-config", check.path("model.json"), "--repeat", "1"]

POSITIVE = ["ttft_ms", "tpot_ms", "output_throughput", "bytes_per_token", "gb_s", "probe_gb_s",
            "prefill_tok_s", "prefill_gflop_s", "fma_peak_gflop_s", "gb_s_ratio",
            "prefill_gflop_s_ratio", "bytes_per_step", "total_ms", "load_s"]


def is_positive(value):
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def packed(n, k, item=2):
    """Bytes of a bf16 matrix as multiplied from: rows are padded to 16."""
    return (n + 15) // 16 * 16 * k * item


def expected_step_bytes(experts, rows):
    """The tiny model, on one rank: all matrices but the embedding, once; `experts` of all layers."""
    attention = (packed(48, 64) + packed(4 * 24, 48) + packed(40, 64) + 4 * packed(32, 16) +
                 4 * packed(16, 32) + packed(64, 64))
    dense = 2 * packed(96, 64) + packed(64, 96)
    expert = 2 * packed(32, 64) + packed(64, 32)
    router = packed(8, 64)
    return (3 * attention + dense + 2 * (expert + router) + packed(4096, 64) + experts * expert +
            rows * 3 * 40 * 2)


def test_latency():
    for ranks in (0, 2):
        value = check.run_json(*LATENCY, "--batch-size", "3", ranks=ranks)
        for key in POSITIVE:
            check.expect(is_positive(value.get(key)), f"{key} on {ranks} ranks: {value}")
        for key, expected in [("batch", 3), ("input_len", 5), ("output_len", 4), ("repeat", 2),
                              ("model", MODEL), ("ranks", ranks or 1), ("tp", ranks or 1),
                              ("ep", ranks or 1), ("nodes", 1)]:
            check.expect(value.get(key) == expected, f"{key} is {expected}: {value}")
        check.expect(value["isa"] in ("avx512", "avx2", "plain") and value["threads"] > 0,
                     f"isa and threads: {value}")
        for key in ("ttft_ms", "tpot_ms", "total_ms"):
            check.expect(value["min_" + key] <= value[key] <= value["max_" + key],
                         f"{key} stands between its least and its most: {value}")
        check.expect(math.isclose(value["bytes_per_step"], 3 * value["bytes_per_token"]),
                     f"bytes of a step are those of 3 tokens: {value}")
        check.expect(2 * 2 <= value["experts_per_step"] <= 2 * 3 * 2,
                     f"2 layers, 1 to 3 times 2 experts each: {value['experts_per_step']}")


def test_dtypes():
    for chosen, expected in (([], ("auto", "f32", "bf16")),
                             (["--weight-dtype", "int8"], ("int8", "f32", "bf16")),
                             (["--activation-dtype", "bf16", "--kv-cache-dtype", "fp8_ds_mla"],
                              ("auto", "bf16", "fp8_ds_mla"))):
        value = check.run_json(*LATENCY, *chosen)
        found = tuple(value.get(key) for key in ("weight_dtype", "activation_dtype",
                                                 "kv_cache_dtype"))
        check.expect(found == expected, f"dtypes {found} with {chosen}, expected {expected}")


def test_bytes():
    """One sequence touches 2 experts in each of 2 layers: all bytes are known."""
    value = check.run_json(*LATENCY, "--batch-size", "1")
    check.expect(value["experts_per_step"] == 4, f"experts: {value}")
    rows = 5 + 4 / 2
    check.expect(value["bytes_per_token"] == expected_step_bytes(4, rows),
                 f"bytes per token: {value['bytes_per_token']}, by hand "
                 f"{expected_step_bytes(4, rows)}")
    again = check.run_json(*LATENCY, "--batch-size", "4", "--seed", "3")
    other = check.run_json(*LATENCY, "--batch-size", "4", "--seed", "3", "--mla-mode", "expand",
                           "--max-num-batched-tokens", "7")
    check.expect(again["experts_per_step"] == other["experts_per_step"],
                 "the same seed, the same experts, whatever the chunks and the form")


def test_latency_limits():
    first = check.run_json(*LATENCY[:-4], "--output-len", "1", "--repeat", "1")
    check.expect(first["tpot_ms"] is None and first["gb_s"] is None and is_positive(first["ttft_ms"]),
                 f"without a decode step there is no tpot: {first}")
    value = check.run_json(*LATENCY, "--load-format", "dummy", "--threads", "2",
                           "--kv-cache-dtype", "f32", "--mla-mode", "absorb")
    check.expect(value["threads"] == 2, "--threads")
    table = check.run(*LATENCY, ranks=2)
    text = table.stdout.decode()
    check.expect(table.returncode == 0 and text.count("tpot_ms") > 0 and "probe_gb_s" in text and
                 text.count("median") == 1, "one table on two ranks", table)


def expect_rows(value, op, count):
    check.expect(len(value["rows"]) == count, f"{op}: {count} rows, found {len(value['rows'])}")
    for row in value["rows"]:
        check.expect(set(row) == {"op", "shape", "dtype", "rows", "time_us", "gb_s", "gflop_s",
                                  "ratio", "probe_gb_s", "fma_peak_gflop_s"}, f"keys of {row}")
        check.expect(is_positive(row["probe_gb_s"]) and is_positive(row["fma_peak_gflop_s"]),
                     f"probe and peak of {row}")
        check.expect(row["op"] == op and is_positive(row["time_us"]) and is_positive(row["gb_s"]),
                     f"numbers of {row}")
        for key in ("gflop_s", "ratio"):
            check.expect(row[key] is None or is_positive(row[key]), f"{key} of {row}")


def test_kernels():
    cases = [("rms_norm", [], 3), ("router", [], 3), ("cache_append", [], 6),
             ("expanded_attention", [], 3)]
    if "SANITIZED" not in os.environ: # a GiB of memory
        cases += [("gemm", ["--dtype", "i4"], 5 * 5 + 3), ("gemm_heads", ["--dtype", "bf16"], 10),
                  ("experts", ["--dtype", "f8_e4m3"], 3), ("experts", ["--dtype", "i8"], 3), ("latent_attention", ["--dtype", "f32"], 6)]
    for op, arguments, count in cases:
        expect_rows(check.run_json(*KERNELS, "--op", op, *arguments), op, count)
    default = check.run("bench", "kernels", "--op", "router", "--repeat", "1", ranks=2)
    lines = default.stdout.decode().splitlines()
    check.expect(default.returncode == 0 and lines[0].startswith("DeepSeek-V2-Lite:") and
                 sum(line.startswith("router ") and "6 of 64" in line for line in lines) == 3,
                 "the built-in shapes, once on two ranks", default)
    check.expect_error([*KERNELS, "--op", "rms_norm", "--dtype", "i4"], 2, "--op and --dtype")
    check.expect_error(["bench", "kernels", "--model-config", check.path("none")], 1, "none")


def test_load():
    """Keys, the bytes of the model, and both kinds of run, on any number of ranks."""
    files = os.path.join(MODEL, "model.safetensors")
    for ranks, arguments in [(0, []), (0, ["--cold", "--threads", "3"]), (2, ["--cold"])]:
        value = check.run_json("bench", "load", "--model", MODEL, "--repeat", "2", *arguments,
                               ranks=ranks)
        is_cold = "--cold" in arguments
        for key, expected in [("model", MODEL), ("ranks", ranks or 1), ("tp", ranks or 1),
                              ("ep", ranks or 1), ("nodes", 1), ("repeat", 2)]:
            check.expect(value.get(key) == expected, f"{key} is {expected}: {value}")
        for key in ("bytes", "seconds", "gb_s", "ratio", "best_ratio", "copy_gb_s"):
            check.expect(is_positive(value[key]), f"{key} on {ranks} ranks: {value}")
        for key in ("cold_seconds", "cold_gb_s", "cold_ratio", "direct_gb_s"):
            check.expect(is_positive(value[key]) if is_cold else value[key] is None,
                         f"{key} with {arguments}: {value}")
        for prefix in ("", "cold_") if is_cold else ("",):
            check.expect(value[prefix + "min_seconds"] <= value[prefix + "seconds"] <=
                         value[prefix + "max_seconds"], f"{prefix}seconds: {value}")
        check.expect(value["cached_bytes"] in (None, os.path.getsize(files)),
                     f"the whole file is in the page cache: {value}")
        all_once = os.path.getsize(files) - 65536 < value["bytes"] <= os.path.getsize(files)
        check.expect(all_once if ranks == 0 else value["bytes"] > os.path.getsize(files) - 65536,
                     f"bytes of all ranks, what each holds counted for each: {value}")
    table = check.run("bench", "load", "--model", MODEL, "--repeat", "1", "--cold", ranks=2)
    text = table.stdout.decode()
    check.expect(table.returncode == 0 and text.count("ratio") == 2 and "direct" in text,
                 "one table on two ranks", table)
    for ranks in (0, 2):
        check.expect_error(["bench", "load"], 2, "bench load needs --model", ranks=ranks)
        check.expect_error(["bench", "load", "--model", check.path("none")], 1, "none", ranks=ranks)
        check.expect_error(["bench", "load", "--model", MODEL, "--batch-size", "1"], 2,
                           "--batch-size", ranks=ranks)


COMM_KEYS = {"op", "backend", "bytes", "count", "type", "redop", "time_us", "min_time_us",
             "max_time_us", "algbw_gb_s", "busbw_gb_s", "wrong"}


def test_comm():
    """All backends give right numbers for every operation, on one rank to several."""
    sizes = [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
    for ranks in (0, 1, 2, 3, 4):
        size = max(ranks, 1)
        value = check.run_json("bench", "comm", "--min-bytes", "4", "--max-bytes", "65536",
                               "--repeat", "3", ranks=ranks)
        backends = ["self"] if size == 1 else ["mpi", "shm", "mpi-library"]
        check.expect((value["ranks"], value["nodes"], value["repeat"], value["left_out"]) ==
                     (size, 1, 3, None), f"head: {value}")
        expected = [(op, bytes, backend) for op in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")
                    for bytes in sizes for backend in backends]
        expected += [(op, 0, backend) for op in ("lowest", "barrier") for backend in backends]
        rows = value["rows"]
        check.expect([(row["op"], row["bytes"], row["backend"]) for row in rows] == expected,
                     f"rows on {ranks} ranks: {[list(row.values())[:3] for row in rows]}")
        factor = {"all_reduce": 2 * (size - 1) / size, "reduce_scatter": (size - 1) / size,
                  "all_gather": (size - 1) / size, "all_to_all": (size - 1) / size}
        for row in rows:
            check.expect(set(row) == COMM_KEYS and row["wrong"] == 0, f"keys and numbers: {row}")
            check.expect(0 < row["min_time_us"] <= row["time_us"] <= row["max_time_us"] and
                         row["count"] * 4 == row["bytes"], f"times and count: {row}")
            check.expect(math.isclose(row["algbw_gb_s"],
                                      row["bytes"] * 1e-3 / row["time_us"]) and
                         math.isclose(row["busbw_gb_s"],
                                      row["algbw_gb_s"] * factor.get(row["op"], 1)),
                         f"bandwidths: {row}")
    table = check.run("bench", "comm", "--op", "all_gather", "--min-bytes", "6", "--max-bytes",
                      "20", "--repeat", "1", ranks=2)
    lines = table.stdout.decode().splitlines()
    check.expect(table.returncode == 0 and len(lines) == 3 + 2 * 3 and
                 all(line.split()[-1] == "0" for line in lines[3:]) and
                 [line.split()[2] for line in lines[3:]] == ["4"] * 3 + ["12"] * 3,
                 "a table of whole numbers of f32", table)
    check.expect_error(["bench", "comm", "--comm", "shm"], 2, "--comm", ranks=2)


def test_comm_without_room():
    """A small /dev/shm, as containers have: messages go by MPI, and nobody hangs."""
    command = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && "
               "mount -t tmpfs -o size=500k none /dev/shm && exec \"$@\"", "sh"]
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    if subprocess.run(command + ["true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("not tested: a small /dev/shm needs the right to mount one")
        return
    command += ["timeout", str(cli.TIMEOUT_S)] + cli.MPIRUN + ["--mca", "btl", "self,tcp", "-n", "2",
                                                               check.program]
    result = subprocess.run(command + ["bench", "comm", "--op", "lowest", "--repeat", "1", "--json"],
                            env=env, capture_output=True, check=False)
    check.expect(result.returncode == 0, "bench comm without room", result)
    value = json.loads(result.stdout or b"{}")
    check.expect([row["backend"] for row in value.get("rows", [])] == ["mpi", "mpi-library"] and
                 "/dev/shm has" in (value.get("left_out") or ""), f"shm is left out: {value}")
    generate = ["generate", "--model", MODEL, "--prompt-ids", "1", "--max-tokens", "2", "--json"]
    result = subprocess.run(command + generate, env=env, capture_output=True, check=False)
    check.expect(result.returncode == 0, "generate without room", result)
    result = subprocess.run(command + generate + ["--comm", "shm"], env=env, capture_output=True,
                            check=False)
    check.expect(result.returncode == 1 and b"latentrank: error: " in result.stderr and
                 b"/dev/shm has" in result.stderr, "--comm shm without room is an error", result)


def test_comm_option():
    """The same tokens whatever carries the sums."""
    for ranks in (0, 2, 3):
        ids = [check.run_json("generate", "--model", MODEL, "--prompt-ids", "1,2,3",
                              "--max-tokens", "8", "--comm", comm,
                              ranks=ranks)["completions"][0]["ids"]
               for comm in ("auto", "mpi", "shm")]
        check.expect(ids[0] == ids[1] == ids[2] and len(ids[0]) == 8, f"{ranks} ranks: {ids}")
    printed = json.loads(check.run("generate", "--model", MODEL, "--prompt", "x", "--comm", "shm",
                                   "--print-config").stdout)
    check.expect(printed["comm"] == "shm", f"--print-config: {printed}")


def test_summary():
    """However short loading was, it ends with a line of bytes, seconds and speed."""
    for ranks in (0, 2):
        result = check.run("generate", "--model", MODEL, "--prompt-ids", "1", "--max-tokens", "1",
                           ranks=ranks)
        lines = re.findall(r"^latentrank: loaded [\d.]+ GB in [\d.]+ s, [\d.]+ GB/s",
                           result.stderr.decode(), re.MULTILINE)
        check.expect(len(lines) == 1, f"one summary on {ranks} ranks", result)


def test_help():
    for command in ("latency", "kernels", "load", "comm"):
        text = check.run("bench", command, "--help").stdout.decode()
        check.expect(f"latentrank bench {command}:" in text and "--repeat N" in text, text)
    printed = check.run(*LATENCY, "--print-config")
    value = json.loads(printed.stdout)
    check.expect(value["input-len"] == 5 and value["batch-size"] == 1, "--print-config", printed)


test_latency()
test_dtypes()
test_bytes()
test_latency_limits()
test_kernels()
test_load()
test_comm()
test_comm_without_room()
test_comm_option()
test_summary()
test_help()
check.end()
