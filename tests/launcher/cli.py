"""Runs the program for the scripts of this folder, alone or on several ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
# When a rank has failed, mpirun waits 2 seconds for the others; ours all end by themselves.
QUICK_END = ["--mca", "odls_base_sigkill_timeout", "0"]
# Generous: a test never asserts a time, and the machine may be busy with others.
TIMEOUT_S = 120


class Check:
    """Counts and prints what failed."""

    def __init__(self):
        if len(sys.argv) != 2:
            sys.exit(f"usage: {sys.argv[0]} PROGRAM")
        self.program = os.path.abspath(sys.argv[1])
        self.failed = 0
        self.done = 0
        self.folder = tempfile.mkdtemp(prefix="latentrank_test_")

    def expect(self, condition, what, result=None):
        self.done += 1
        if condition:
            return
        self.failed += 1
        print(f"FAILED: {what}")
        if result is not None:
            print(f"  arguments: {result.args}\n  exit code: {result.returncode}")
            stdout = (result.stdout or b"")[-1500:] # None: it went to a file
            print(f"  stdout: {stdout!r}\n  stderr: {result.stderr[-1500:]!r}")

    def path(self, name, text=None):
        path = os.path.join(self.folder, name)
        if text is not None:
            with open(path, "wb") as file:
                file.write(text if isinstance(text, bytes) else text.encode())
        return path

    def end(self):
        shutil.rmtree(self.folder)
        print(f"{self.done - self.failed} of {self.done} checks passed")
        sys.exit(1 if self.failed else 0)

    def command(self, arguments, ranks, launcher=()):
        launch = [] if ranks == 0 else MPIRUN + list(launcher) + ["-n", str(ranks)]
        return launch + [self.program] + list(arguments)

    def run(self, *arguments, ranks=0, stdin=b"", variables=None, stdout=subprocess.PIPE,
            launcher=()):
        """ranks 0: without mpirun, else with these options of it too.  Exit code 124: it hung."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("LATENTRANK_")}
        # Two mpiruns that end and begin at once may remove each other's session directory.
        env.setdefault("OMPI_MCA_orte_tmpdir_base", self.folder)
        env.update({"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
        env.update(variables or {})
        command = ["timeout", "-k", "5", str(TIMEOUT_S)] + self.command(
            arguments, ranks, launcher)
        return subprocess.run(command, input=stdin, env=env, stdout=stdout,
                              stderr=subprocess.PIPE, check=False)

    def run_json(self, *arguments, **options):
        result = self.run(*arguments, "--json", **options)
        self.expect(result.returncode == 0, f"{arguments} succeeds", result)
        try:
            return json.loads(result.stdout)
        except ValueError:
            self.expect(False, f"{arguments} prints one JSON object", result)
            return self.end()

    def expect_error(self, arguments, code, text, **options):
        """Exactly one error line, with `text` in it, and nothing on stdout."""
        result = self.run(*arguments, launcher=QUICK_END, **options)
        lines = [line for line in result.stderr.decode(errors="replace").splitlines()
                 if line.startswith("latentrank: error:")]
        ranks = options.get("ranks", 0)
        self.expect(len(lines) == 1, f"one error line for {arguments} on {ranks} ranks", result)
        self.expect(result.returncode == code, f"exit code {code} for {arguments}", result)
        self.expect(bool(lines) and text in lines[0], f"'{text}' in the line of {arguments}", result)
        self.expect(result.stdout in (b"", None), f"nothing on stdout for {arguments}", result)


def interrupt(process):
    process.send_signal(signal.SIGINT)


def tokenizer_files():
    """The demo's tokenizer; None while it is not there."""
    folder = os.path.join(SOURCE, "configs", "demo")
    names = ["tokenizer.json", "tokenizer_config.json"]
    paths = [os.path.join(folder, name) for name in names]
    return paths if all(os.path.exists(path) for path in paths) else None


def tiny_config(**changes):
    """A V3 graph of a few hundred thousand parameters, every part in it."""
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 4096,
        "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 2, "topk_group": 1,
        "norm_topk_prob": True, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
        "tie_word_embeddings": False, "num_nextn_predict_layers": 1, "torch_dtype": "bfloat16"}
    config.update(changes)
    return config


def make_model(check, name, **changes):
    """A random model with make-model, with the demo's tokenizer where that is there."""
    config = check.path(name + ".json", json.dumps(tiny_config(**changes)))
    out = check.path(name)
    result = check.run("make-model", "--model-config", config, "--out", out, "--seed", "7")
    check.expect(result.returncode == 0, "make-model writes a model", result)
    for path in tokenizer_files() or []:
        shutil.copy(path, out)
    return out
