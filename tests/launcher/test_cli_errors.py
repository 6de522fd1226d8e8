#!/usr/bin/env python3
"""Bad inputs: exactly one error line per job, the right exit code, alone and on two ranks."""

import json
import os
import shutil
import subprocess

import cli

check = cli.Check()
MODEL = cli.make_model(check, "model")
EMPTY = check.path("empty")
os.mkdir(EMPTY)
BAD_JSONL = check.path("bad.jsonl", '{"ids": [1, 2]}\n\n{"promt": "x"}\n')
LONG_JSONL = check.path("long.jsonl", '{"ids": [1]}\n{"ids": [1, 4096]}\n')
TYPED_JSONL = check.path("typed.jsonl", '{"ids": [1, "2"]}\n')
BROKEN_JSONL = check.path("broken.jsonl", '{"ids": [1}\n')
NO_JSONL = check.path("no.jsonl", "\n")
RUN_JSON = check.path("run.json", '{"temprature": 1}')
NOT_JSON = check.path("not.json", "{")
with open(os.path.join(cli.SOURCE, "tests/golden/t3-v3/config.json")) as file:
    QUANTIZED = check.path("quantized.json", json.dumps(
        {**json.load(file), "quantization_config": {"quant_method": "awq"}}))

GENERATE = ["generate", "--model", MODEL, "--max-tokens", "2"]
IDS = GENERATE + ["--prompt-ids", "1,2"]

# 671 billion parameters are refused before any is made up
HUGE = check.path("huge")
os.mkdir(HUGE)
shutil.copy(os.path.join(cli.SOURCE, "configs/models/deepseek-v3.json"),
            os.path.join(HUGE, "config.json"))
DUMMY = ["generate", "--model", HUGE, "--load-format", "dummy", "--prompt-ids", "1"]

# arguments, exit code, part of the line; found before MPI starts
USAGE = [
    ([], 2, "no command"),
    (["genrate"], 2, "did you mean generate?"),
    (["chat"], 2, "not in this version"),
    (["bench", "serve"], 2, "not in this version"),
    (["bench"], 2, "latency, kernels, load or comm"),
    (["generate", "--modle", MODEL], 2, "did you mean --model?"),
    (["generate", "--prompt", "x"], 2, "needs --model"),
    (GENERATE, 2, "needs a prompt"),
    (IDS + ["--kv-placement", "nowhere"], 2, "expected replicated, node, sharded or auto"),
    (IDS + ["--kv-placement", "shard"], 2, "replicated, node, sharded or auto"),
    (IDS + ["--kv-cache-dtype", "fp8"], 2, "fp8_ds_mla"),
    (IDS + ["--weight-dtype", "fp8"], 2, "--weight-dtype: found 'fp8', expected auto or int8"),
    (["tokenize", "--model", MODEL, "--weight-dtype", "int8"], 2, "does not take --weight-dtype"),
    (IDS + ["--quantization", "int8"], 2, "did you mean --weight-dtype?"),
    (IDS + ["--temperature", "nan"], 2, "found 'nan'"),
    (IDS + ["--max-tokens"], 2, "missing value"),
    (IDS + ["--layers", "2"], 2, "does not take --layers"),
    (IDS + ["extra"], 2, "unexpected argument"),
    (IDS + ["--config", RUN_JSON], 2, 'did you mean "temperature"?'),
    (IDS + ["--config", NOT_JSON], 2, "line"),
    (IDS + ["--config", check.path("missing")], 2, "missing"),
    (IDS + ["--logprobs", "1"], 2, "--json"),
]

# found by the command
COMMAND = [
    (GENERATE + ["--prompt-ids", ""], 2, "empty prompt"),
    (GENERATE + ["--prompt-ids", "1,x"], 2, "found 'x'"),
    (GENERATE + ["--prompt-ids", "1,4096"], 2, "id 4096 at position 1"),
    (GENERATE + ["--prompt-ids", ",".join(["1"] * 513)], 2, "513 tokens"),
    (IDS + ["--max-model-len", "1"], 2, "--max-model-len"),
    (IDS + ["--max-model-len", "513"], 2, "513"),
    (IDS + ["--ep", "3"], 2, "--ep 3"),
    (IDS + ["--tp", "5"], 2, "--tp 5"),
    (["generate", "--model", check.path("missing"), "--prompt-ids", "1"], 1, "missing"),
    (["generate", "--model", EMPTY, "--prompt-ids", "1"], 1, "config.json"),
    (GENERATE + ["--prompt-file", check.path("missing")], 1, "missing"),
    (GENERATE + ["--prompt-file", BAD_JSONL], 1, "bad.jsonl: line 3"),
    (GENERATE + ["--prompt-file", LONG_JSONL], 2, "long.jsonl: line 2: id 4096"),
    (GENERATE + ["--prompt-file", TYPED_JSONL], 1, "typed.jsonl: line 1"),
    (GENERATE + ["--prompt-file", BROKEN_JSONL], 1, "broken.jsonl: line 1"),
    (GENERATE + ["--prompt-file", NO_JSONL], 1, "no prompts"),
    (IDS + ["--dump-logits", check.path("no/d")], 1, "--dump-logits"),
    (IDS + ["--logprobs", "5000", "--json"], 2, "--logprobs 5000"),
    (["bench", "latency", "--model", MODEL, "--output-len", "512"], 2, "make 544 tokens"),
    (["bench", "latency", "--model", check.path("missing")], 1, "missing"),
]

# one rank, no MPI
LOCAL = [
    (["inspect", "--model", check.path("missing")], 1, "missing"),
    (["inspect", "--model", EMPTY], 1, "config.json"),
    (["inspect", "--model", MODEL, "--tp", "4", "--ep", "3"], 2, "--ep 3"),
    (["tokenize", "--model", check.path("missing"), "--text", "x"], 1, "missing"),
    (["tokenize", "--model", EMPTY, "--text", "x"], 1, "tokenizer.json"),
    (["make-model", "--model-config", QUANTIZED, "--out", check.path("q")], 1, "by awq"),
    (["make-model", "--model-config", check.path("missing"), "--out", check.path("q")], 1,
     "missing"),
    (["make-model", "--model-config", check.path("model.json"), "--out", MODEL], 2, "not empty"),
    (["make-model", "--model-config", check.path("model.json"), "--out", check.path("a/b")], 1,
     "a/b"),
]

if cli.tokenizer_files() is None:
    COMMAND.append((GENERATE + ["--prompt", "x"], 2, "tokenizer.json"))
else:
    COMMAND += [
        (GENERATE + ["--prompt", "", "--add-bos", "off"], 2, "empty prompt"),
        (["eval", "--model", MODEL, "--text-file", check.path("missing")], 1, "missing"),
        (["eval", "--model", MODEL, "--text-file", check.path("e", "")], 2, "none to score"),
    ]
    LOCAL.append((["detokenize", "--model", MODEL, "--text", "1,99999"], 2, "id 99999"))

COMMAND.append((DUMMY, 1, "not enough memory for "))

for arguments, code, text in USAGE + COMMAND + LOCAL:
    check.expect_error(arguments, code, text)
for arguments, code, text in USAGE[:7] + COMMAND + LOCAL[:2]:
    check.expect_error(arguments, code, text, ranks=2)

check.expect_error(IDS, 2, "did you mean LATENTRANK_MAX_TOKENS?",
                   variables={"LATENTRANK_MAX_TOKEN": "3"})
check.expect_error(IDS, 2, "LATENTRANK_TP: found", variables={"LATENTRANK_TP": "x"}, ranks=2)
check.expect_error(IDS, 2, "not in this version", variables={"LATENTRANK_BLOCK_SIZE": "2"})

# ranks that were told different things: the line names the rank
parts = IDS + ["--seed", "1", ":", "-n", "1", check.program] + IDS + ["--seed", "2"]
check.expect_error(parts, 1, "rank 1", ranks=1)

parts = IDS + [":", "-n", "1", check.program] + IDS + ["--config", check.path("missing")]
check.expect_error(parts, 2, "rank 1", ranks=1)
check.expect_error(IDS + ["--config", RUN_JSON], 2, "temprature", ranks=2)

# output that goes nowhere
with open("/dev/full", "wb") as full:
    check.expect_error(IDS, 1, "standard output", stdout=full)
closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", check.program] + IDS,
                        capture_output=True, check=False)
check.expect(closed.returncode == 1 and b"error: cannot write" in closed.stderr,
             "a closed stdout is an error", closed)

check.end()
