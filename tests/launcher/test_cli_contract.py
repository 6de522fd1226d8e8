#!/usr/bin/env python3
"""What commands promise: keys of --json, streams, stdin, precedence, the same answer on two ranks."""

import json
import os
import struct
import subprocess

import cli

check = cli.Check()
MODEL = cli.make_model(check, "model")
HAS_TEXT = cli.tokenizer_files() is not None
IDS = ["generate", "--model", MODEL, "--prompt-ids", "5,6,7", "--ignore-eos"]


def tensors(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items() if name != "__metadata__"}


def expect_keys(value, keys, what):
    check.expect(isinstance(value, dict) and set(keys) <= set(value), f"{what} has {keys}: {value}")


def test_generate_json():
    one = check.run_json(*IDS, "--max-tokens", "6", "--logprobs", "2")
    expect_keys(one, ["completions", "timing", "model", "ranks", "tp", "ep", "cache", "counters"],
                "generate")
    expect_keys(one["timing"], ["load_s", "ttft_ms", "tpot_ms"], "timing")
    expect_keys(one["cache"], ["bytes_per_token", "expanded_bytes_per_token"], "cache")
    check.expect(one["cache"] == {"bytes_per_token": 3 * 40 * 2,
                                  "expanded_bytes_per_token": 3 * 4 * 40 * 2,
                                  "placement": "replicated", "rank_bytes": 64 * 3 * 40 * 2,
                                  "replicated_rank_bytes": 64 * 3 * 40 * 2}, "cache bytes")
    completion = one["completions"][0]
    expect_keys(completion, ["ids", "text", "finish_reason", "prompt_tokens", "logprobs"],
                "completion")
    check.expect(len(completion["ids"]) == 6, "--max-tokens 6 gives 6 ids")
    check.expect(completion["finish_reason"] == "length", "finish_reason length")
    check.expect(completion["prompt_tokens"] == 3, "prompt_tokens 3")
    check.expect((completion["text"] is not None) == HAS_TEXT, "text is null without tokenizer")
    for token, logprob in zip(completion["ids"], completion["logprobs"]):
        check.expect(logprob["id"] == token and len(logprob["top"]) == 2, f"logprob {logprob}")
        check.expect(logprob["top"][0] == {"id": token, "logprob": logprob["logprob"]},
                     "the greedy token is the most likely one")
    two = check.run_json(*IDS, "--max-tokens", "6", ranks=2)
    check.expect(two["completions"][0]["ids"] == completion["ids"], "two ranks, the same ids")
    check.expect(two["ranks"] == 2 and two["tp"] == 2, "two ranks are reported")
    three = check.run_json(*IDS, "--max-tokens", "6", "--prompt-ids", "5,6,7", "--tp", "1")
    check.expect([c["ids"] for c in three["completions"]] == [completion["ids"]] * 2,
                 "two equal prompts, two equal completions")


def test_generate_limits():
    none = check.run_json(*IDS, "--max-tokens", "0")
    check.expect(none["completions"][0]["ids"] == [], "--max-tokens 0 gives no ids")
    full = check.run_json(*IDS, "--max-tokens", "100", "--max-model-len", "8")
    check.expect(len(full["completions"][0]["ids"]) == 5, "the context ends a completion")
    lines = check.path("p.jsonl", '{"ids": [5, 6, 7], "note": 1}\n\n{"ids": [8]}\n')
    several = check.run_json("generate", "--model", MODEL, "--prompt-file", lines,
                             "--max-tokens", "2")
    check.expect([c["prompt_tokens"] for c in several["completions"]] == [3, 1],
                 "a line of a .jsonl file is a prompt")


def test_dump_logits_of_several():
    """Files of their own, as of each prompt alone."""
    both, alone = check.path("both"), [check.path("first"), check.path("second")]
    prompts = ["5,6,7", ",".join(str(i) for i in range(9, 80))]
    base = ["generate", "--model", MODEL, "--max-tokens", "3", "--ignore-eos", "--kv-cache-dtype", "f32",
            "--deterministic", "batch"]
    for ids, path in zip(prompts, alone):
        check.run(*base, "--prompt-ids", ids, "--dump-logits", path)
    for ranks, layout in ((0, []), (2, ["--dp", "2"]), (2, ["--pp", "2"])):
        result = check.run(*base, "--prompt-ids", prompts[0], "--prompt-ids", prompts[1], "--dump-logits",
                           both, *layout, ranks=ranks)
        check.expect(result.returncode == 0, f"two prompts, {layout}", result)
        for i, path in enumerate(alone):
            same = [open(name, "rb").read() for name in (f"{both}-{i}", path)]
            check.expect(same[0] == same[1], f"prompt {i} with {layout} as alone")


def test_dump_logits():
    path = check.path("logits.safetensors")
    result = check.run(*IDS, "--max-tokens", "4", "--dump-logits", path,
                       "--max-num-batched-tokens", "2")
    check.expect(result.returncode == 0, "--dump-logits works", result)
    dump = tensors(path)
    check.expect(dump["logits"][:2] == ("F32", [6, 4096]), f"logits {dump['logits'][:2]}")
    check.expect(dump["ids"][:2] == ("I32", [7]), f"ids {dump['ids'][:2]}")
    ids = struct.unpack("<7i", dump["ids"][2])
    check.expect(ids[:3] == (5, 6, 7), f"ids begin with the prompt: {ids}")
    for row in range(2, 6):
        logits = struct.unpack("<4096f", dump["logits"][2][row * 16384:(row + 1) * 16384])
        check.expect(logits.index(max(logits)) == ids[row + 1], f"row {row} predicts id {row + 1}")
    check.run(*IDS, "--max-tokens", "0", "--dump-logits", path)
    check.expect(tensors(path)["logits"][1] == [3, 4096], "--max-tokens 0 gives a row per prompt id")
    check.expect(os.listdir(check.folder).count("logits.safetensors") == 1 and
                 not [n for n in os.listdir(check.folder) if n.startswith("logits.safetensors.")],
                 "no temporary file is left")


def test_side_by_side():
    """Several prompts in a step give each what it gets alone, in the order of the input."""
    lines = check.path("many.jsonl", "".join(
        json.dumps({"ids": [(7 * i + 3 * j) % 4096 for j in range(1 + 37 * i % 90)]}) + "\n"
        for i in range(7)))
    base = ["generate", "--model", MODEL, "--prompt-file", lines, "--max-tokens", "12",
            "--max-num-batched-tokens", "24"]
    for sampling in ([], ["--temperature", "0.9", "--top-p", "0.95", "--seed", "5"]):
        alone = check.run_json(*base, *sampling, "--max-num-seqs", "1")["completions"]
        check.expect([c["prompt_tokens"] for c in alone] == [1 + 37 * i % 90 for i in range(7)],
                     "completions in the order of the prompts")
        for seqs, ranks in (("4", 0), ("4", 2), ("16", 0), ("1", 2)):
            value = check.run_json(*base, *sampling, "--max-num-seqs", seqs, ranks=ranks)
            check.expect(value["completions"] == alone,
                         f"--max-num-seqs {seqs} on {ranks} ranks, {sampling}: the same ids")
            steps = value["counters"]["steps"]
            check.expect(seqs == "1" or steps < 7 * 12, f"{steps} steps with {seqs} sequences")
    first = check.run("generate", "--model", MODEL, "--prompt-ids", "9", "--prompt-ids", "5,6,7",
                      "--max-tokens", "12")
    second = check.run("generate", "--model", MODEL, "--prompt-ids", "9", "--prompt-ids", "5,6,7",
                       "--max-tokens", "12", "--max-num-seqs", "1")
    check.expect(first.stdout == second.stdout, "and the same text", first)


def test_golden():
    """Ids and logits of the independent oracle, through the command line."""
    for case in ("t1-v2-greedy", "t2-v2-group", "t3-v3"):
        folder = os.path.join(cli.SOURCE, "tests", "golden", case)
        golden = tensors(os.path.join(folder, "golden.safetensors"))
        _, (count,), ids = golden["p0.ids"]
        ids = struct.unpack(f"<{count}i", ids)
        prompt = struct.unpack("<i", golden["p0.n_prompt"][2])[0]
        for ranks in (0, 2):
            path = check.path("golden.safetensors")
            value = check.run_json(
                "generate", "--model", folder, "--prompt-ids", ",".join(map(str, ids[:prompt])),
                "--max-tokens", str(count - prompt), "--ignore-eos", "--dump-logits", path,
                "--kv-cache-dtype", "f32", ranks=ranks)
            check.expect(value["completions"][0]["ids"] == list(ids[prompt:]),
                         f"{case} on {ranks} ranks: ids {value['completions'][0]['ids']}")
            dump = tensors(path)
            check.expect(struct.unpack(f"<{count}i", dump["ids"][2]) == ids, f"{case}: dumped ids")
            check.expect(dump["logits"][1] == golden["p0.logits"][1], f"{case}: shape of logits")
            form = f"<{len(dump['logits'][2]) // 4}f"
            pairs = list(zip(struct.unpack(form, dump["logits"][2]),
                             struct.unpack(form, golden["p0.logits"][2])))
            largest = max(abs(b) for _, b in pairs)
            difference = max(abs(a - b) for a, b in pairs)
            check.expect(difference < 1e-4 * largest, f"{case}: logits differ by {difference}")


def test_text():
    base = ["generate", "--model", MODEL, "--ignore-eos", "--max-tokens", "24"]
    answer = check.run_json(*base, "--prompt", "hello there")
    text = answer["completions"][0]["text"]
    for ranks in (0, 2):
        streamed = check.run(*base, "--prompt", "hello there", ranks=ranks)
        check.expect(streamed.stdout.decode() == text + "\n", "the stream is the text of --json",
                     streamed)
        lines = streamed.stderr.decode().splitlines()
        check.expect(sum("tokens/s" in line and "cache" in line for line in lines) == 1,
                     "one summary line", streamed)
    several = check.run(*base, "--prompt", "hello there", "--prompt", "hello there")
    check.expect(several.stdout.decode() == (text + "\n") * 2, "a newline after each", several)
    piped = check.run(*base, "--prompt-file", "-", stdin=b"hello there")
    check.expect(piped.stdout.decode() == text + "\n", "a prompt from stdin", piped)
    if text:
        stopped = check.run_json(*base, "--prompt", "hello there", "--stop", text[3:6])
        cut = stopped["completions"][0]
        check.expect(cut["text"] == text[:text.index(text[3:6])] and
                     cut["finish_reason"] == "stop", f"--stop {text[3:6]!r} cuts {text!r}: {cut}")
    empty = check.run_json(*base, "--prompt", "")
    check.expect(empty["completions"][0]["prompt_tokens"] == 1, "an empty text is BOS alone")
    off = check.run_json(*base, "--prompt", "hello there", "--add-bos", "off")
    check.expect(off["completions"][0]["prompt_tokens"] ==
                 answer["completions"][0]["prompt_tokens"] - 1, "--add-bos off")


def test_tokenize():
    text = "Hello, wörld!\n\n \t 123\n"
    plain = check.run("tokenize", "--model", MODEL, "--text", text)
    piped = check.run("tokenize", "--model", MODEL, stdin=text.encode())
    check.expect(plain.returncode == 0 and plain.stdout == piped.stdout,
                 "--text and stdin give the same", piped)
    ids = check.run_json("tokenize", "--model", MODEL, "--text", text)["ids"]
    check.expect(plain.stdout.decode() == ",".join(map(str, ids)) + "\n", "ids on one line", plain)
    bos = check.run_json("tokenize", "--model", MODEL, "--text", text, "--add-bos", "on")["ids"]
    check.expect(bos == [0] + ids, "--add-bos on")
    back = check.run("detokenize", "--model", MODEL, stdin=plain.stdout)
    check.expect(back.stdout == text.encode(), "detokenize gives the bytes back", back)
    value = check.run_json("detokenize", "--model", MODEL, "--text", ",".join(map(str, ids)))
    check.expect(value == {"text": text}, f"detokenize --json: {value}")
    ranks = check.run("tokenize", "--model", MODEL, "--text", text, ranks=2)
    check.expect(ranks.returncode == 0 and ranks.stdout == plain.stdout, "once on two ranks", ranks)
    nothing = check.run("tokenize", "--model", MODEL)
    check.expect(nothing.stdout == b"\n", "an empty text has no ids", nothing)


def test_eval():
    path = check.path("text.txt", "The quick brown fox jumps over the lazy dog. " * 20)
    count = len(check.run_json("tokenize", "--model", MODEL,
                               stdin=open(path, "rb").read())["ids"])
    base = ["eval", "--model", MODEL, "--text-file", path, "--kv-cache-dtype", "f32"]
    one = check.run_json(*base, "--max-model-len", "64")
    expect_keys(one, ["tokens", "nll", "ppl", "bits_per_byte", "bytes"], "eval")
    check.expect(one["tokens"] == count, f"all {count} tokens are scored: {one}")
    check.expect(one["bytes"] == 45 * 20, "bytes of the text")
    chunks = check.run_json(*base, "--max-model-len", "64", "--max-num-batched-tokens", "7")
    check.expect(abs(chunks["nll"] / one["nll"] - 1) < 1e-4, f"chunks do not matter: {chunks} {one}")
    two = check.run_json(*base, "--max-model-len", "64", ranks=2)
    check.expect(abs(two["nll"] / one["nll"] - 1) < 1e-4, "nor do ranks")
    off = check.run_json(*base, "--max-model-len", "64", "--add-bos", "off")
    windows = -(-count // 64)
    check.expect(off["tokens"] == count - windows, "without BOS each window loses its first token")
    expect_same_as_logits(path, base)


def expect_same_as_logits(path, base):
    """The same sum from the logits that generate writes down: another road to one number."""
    import math
    short = check.path("short.txt", open(path, "rb").read()[:120])
    dump = check.path("eval.safetensors")
    base = [short if argument == path else argument for argument in base]
    scored = check.run_json(*base)
    check.run("generate", "--model", MODEL, "--prompt-file", short, "--max-tokens", "0",
              "--dump-logits", dump, "--kv-cache-dtype", "f32")
    logits, ids = tensors(dump)["logits"], tensors(dump)["ids"]
    count = ids[1][0]
    ids = struct.unpack(f"<{count}i", ids[2])
    nll = 0.0
    for row in range(count - 1):
        values = struct.unpack("<4096f", logits[2][row * 16384:(row + 1) * 16384])
        top = max(values)
        nll += top + math.log(sum(math.exp(v - top) for v in values)) - values[ids[row + 1]]
    check.expect(scored["tokens"] == count - 1 and abs(nll / scored["nll"] - 1) < 1e-4,
                 f"eval {scored} against {nll} of {count - 1} tokens from the logits")


def test_inspect():
    value = check.run_json("inspect", "--model", MODEL, "--tp", "4", "--ep", "2")
    expect_keys(value, ["parameters", "mtp_parameters", "active_parameters", "weight_bytes",
                        "cache", "ranks", "supported", "reason"], "inspect")
    expect_keys(value["cache"], ["row_bytes", "bytes_per_token", "expanded_bytes_per_token",
                                 "ratio", "paper_ratio"], "cache")
    check.expect(value["cache"]["row_bytes"] == {"f32": 160, "bf16": 80, "fp8_ds_mla": 52},
                 "bytes of a row")
    check.expect(value["supported"] and value["reason"] is None, "the model is supported")
    check.expect([r["rank"] for r in value["ranks"]] == [0, 1, 2, 3], "four ranks")
    check.expect(all(0 < r["weight_bytes"] < value["weight_bytes"] for r in value["ranks"]),
                 "each rank holds a part")
    stored = sum(len(data) for _, _, data in tensors(os.path.join(MODEL, "model.safetensors")).values())
    check.expect(value["weight_bytes"] == stored, "weight_bytes as stored")
    rounded = check.run_json("inspect", "--model", MODEL, "--tp", "4", "--ep", "2",
                             "--weight-dtype", "int8")
    check.expect(rounded["weight_bytes"] == stored, "weight_bytes stay those of the files")
    check.expect((value["rank_weight_dtype"], rounded["rank_weight_dtype"]) == ("auto", "int8"),
                 "rank_weight_dtype")
    for one, other in zip(value["ranks"], rounded["ranks"]): # embedding, norms, kv_b_proj stay
        share = other["weight_bytes"] / one["weight_bytes"]
        check.expect(0.5 < share < 0.85, f"bytes of a rank in int8: {share} of bf16")
    table = check.run("inspect", "--model", MODEL, ranks=2)
    check.expect(table.stdout.count(b"parameters") == 1, "one table on two ranks", table)


def test_weight_dtype():
    base = ["generate", "--model", MODEL, "--prompt-ids", "5,6,7,8,9,10", "--max-tokens", "12",
            "--ignore-eos", "--kv-cache-dtype", "f32"]
    stored = check.run_json(*base)
    rounded = check.run_json(*base, "--weight-dtype", "int8")
    check.expect(rounded["completions"][0]["ids"][:1] != [] and rounded["ranks"] == 1, "int8 runs")
    for ranks in (2, 4):
        found = check.run_json(*base, "--weight-dtype", "int8", ranks=ranks)
        check.expect(found["completions"][0]["ids"] == rounded["completions"][0]["ids"],
                     f"int8 weights on {ranks} ranks give the ids of one: {found}")
    one = check.run_json(*base, variables={"LATENTRANK_WEIGHT_DTYPE": "int8"})
    check.expect(one["completions"] == rounded["completions"], "the variable is the option")
    config = check.path("int8.json", json.dumps({"weight-dtype": "int8"}))
    one = check.run_json(*base, "--config", config)
    check.expect(one["completions"] == rounded["completions"], "and so is the file")
    dummy = check.run_json(*base, "--load-format", "dummy", "--weight-dtype", "int8")
    again = check.run_json(*base, "--load-format", "dummy")
    check.expect(dummy["completions"][0]["ids"] and again["completions"][0]["ids"],
                 "random weights can be rounded too")
    check.expect(stored["completions"][0]["ids"], "as stored")


def test_inspect_published():
    folder = os.path.join(cli.SOURCE, "configs", "models")
    for name, ratio, paper, token in [("deepseek-v2.json", 0.0141, 0.0176, 60 * 1152),
                                      ("deepseek-v3.json", 0.0141, 0.0176, 70272)]:
        value = check.run_json("inspect", "--model-config", os.path.join(folder, name))["cache"]
        check.expect(round(value["ratio"], 4) == ratio, f"{name}: ratio {value}")
        check.expect(round(value["paper_ratio"], 4) == paper, f"{name}: paper_ratio {value}")
        check.expect(value["bytes_per_token"] == token, f"{name}: bytes per token {value}")
        check.expect(value["row_bytes"] == {"f32": 2304, "bf16": 1152, "fp8_ds_mla": 656},
                     f"{name}: bytes of a row {value}")


def test_make_model():
    config = check.path("model.json")
    whole = tensors(os.path.join(MODEL, "model.safetensors"))
    out = check.path("two-layers")
    result = check.run("make-model", "--model-config", config, "--out", out, "--layers", "2",
                       "--seed", "7")
    check.expect(result.returncode == 0 and b"MTP layers left out" in result.stderr,
                 "make-model says that MTP is left out", result)
    part = tensors(os.path.join(out, "model.safetensors"))
    written = json.load(open(os.path.join(out, "config.json")))
    check.expect(written["num_hidden_layers"] == 2 and written["num_nextn_predict_layers"] == 0,
                 f"config.json: {written}")
    check.expect(set(part) < set(whole) and all(part[n] == whole[n] for n in part),
                 "--layers leaves the other tensors as they are")
    check.expect(not any(".layers.2." in name for name in part), "layer 2 is gone")
    check.expect(os.path.exists(os.path.join(out, "generation_config.json")), "generation_config")
    check.expect(part["model.norm.weight"][0] == "BF16", "bf16 is the default")
    other = check.path("other-seed")
    check.run("make-model", "--model-config", config, "--out", other, "--dtype", "f32")
    values = tensors(os.path.join(other, "model.safetensors"))
    check.expect(values["lm_head.weight"][0] == "F32", "--dtype f32")
    dummy = check.run_json(*IDS, "--max-tokens", "4", "--load-format", "dummy")
    check.expect(len(dummy["completions"][0]["ids"]) == 4, "--load-format dummy generates")


def test_precedence():
    config = check.path("run.json", json.dumps({"model": MODEL, "max-tokens": 2, "layers": 9,
                                                "prompt-ids": ["5,6,7"]}))
    for arguments, variables, count in [
            ([], {}, 2), ([], {"LATENTRANK_MAX_TOKENS": "3"}, 3),
            (["--max-tokens", "4"], {"LATENTRANK_MAX_TOKENS": "3"}, 4)]:
        value = check.run_json("generate", "--config", config, *arguments, variables=variables)
        check.expect(len(value["completions"][0]["ids"]) == count, f"{arguments} {variables}: {count}")
    printed = check.run("generate", "--config", config, "--print-config", ranks=2)
    again = check.run("generate", "--config", check.path("again.json", printed.stdout),
                      "--print-config")
    check.expect(printed.stdout == again.stdout and json.loads(printed.stdout)["max-tokens"] == 2,
                 "--print-config is read back by --config", printed)


def test_help_and_version():
    for arguments in (["--help"], ["generate", "--help"], ["--version"], ["inspect", "--version"]):
        alone, ranks = check.run(*arguments), check.run(*arguments, ranks=2)
        check.expect(alone.returncode == 0 and alone.stdout, f"{arguments} succeeds", alone)
        check.expect(ranks.stdout == alone.stdout, f"{arguments} once on two ranks", ranks)
    check.expect(b"Open MPI" in check.run("--version").stdout, "--version names the MPI library")


def test_interrupt():
    """Ctrl-C while text streams: code 130, and the unfinished line gets its newline."""
    slow = cli.make_model(check, "slow", max_position_embeddings=100000, num_hidden_layers=8)
    arguments = ["generate", "--model", slow, "--ignore-eos", "--max-tokens", "90000",
                 "--kv-cache-dtype", "f32", "--prompt", "hello"]
    process = subprocess.Popen([check.program] + arguments, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    first = process.stdout.read(40)
    cli.interrupt(process)
    rest, errors = process.communicate(timeout=cli.TIMEOUT_S)
    check.expect(process.returncode == 130, f"exit code {process.returncode}, not 130")
    check.expect((first + rest).endswith(b"\n"), "the last line ends")
    check.expect(b"error:" not in errors, f"no error line: {errors}")

    process = subprocess.Popen(check.command(arguments, 2), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.read(40)
    cli.interrupt(process)
    process.communicate(timeout=cli.TIMEOUT_S)
    check.expect(process.returncode != 0, "mpirun ends with a failure")

    process = subprocess.Popen([check.program] + arguments, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.read(40)
    process.stdout.close()
    errors = process.stderr.read()
    check.expect(process.wait(timeout=cli.TIMEOUT_S) == -13 and b"error" not in errors,
                 f"a reader that goes ends it quietly: {process.returncode} {errors}")
    process.stderr.close()


test_generate_json()
test_generate_limits()
test_dump_logits()
test_dump_logits_of_several()
test_side_by_side()
test_golden()
test_inspect()
test_inspect_published()
test_weight_dtype()
test_make_model()
test_precedence()
test_help_and_version()
if HAS_TEXT:
    test_text()
    test_tokenize()
    test_eval()
    test_interrupt()
else:
    print("skipped: texts, since configs/demo has no tokenizer yet")
check.end()
