"""Writes ops.safetensors: inputs and expected results of single operations, for kernel tests.

    python3 make_vectors.py           writes ops.safetensors beside this file
    python3 make_vectors.py --check   compares with the committed file

Inputs are rounded to f32 (what a kernel reads) before the float64 oracle computes the expected
values, which are stored as f32.  README.md says what each tensor is.
"""
import os
import sys
import tempfile
from types import SimpleNamespace

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import oracle  # noqa: E402
from make_golden import write_safetensors  # noqa: E402

MARGIN = 1e-4     # between the last chosen and the first rejected expert or group


class Vectors:
    def __init__(self, seed):
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.tensors = {}

    def put(self, name, x):
        """Stores x as f32 and returns the stored values as float64."""
        x = np.atleast_1d(np.asarray(x, np.float64)).astype(np.float32)
        self.tensors[name] = ("F32", x)
        return x.astype(np.float64)

    def put_ids(self, name, x):
        self.tensors[name] = ("I32", np.atleast_1d(np.asarray(x, np.int32)))

    def normal(self, name, *shape, std=1.0, mean=0.0):
        return self.put(name, mean + std * self.rng.standard_normal(shape))


def add_rms_norm(v):
    for name, std, eps in (("rms_norm", 1.0, 1e-6), ("rms_norm_small", 3e-3, 1e-5)):
        x = v.normal(f"{name}.x", 3, 40, std=std)
        gamma = v.normal(f"{name}.gamma", 40, std=0.2, mean=1.0)
        eps = v.put(f"{name}.eps", eps)[0]
        v.put(f"{name}.y", oracle.rms_norm(x, gamma, eps))


def yarn(factor, mscale, mscale_all_dim, context=4096, beta_fast=32, beta_slow=1):
    return {"factor": factor, "original_max_position_embeddings": context, "mscale": mscale,
            "beta_fast": beta_fast, "beta_slow": beta_slow, "mscale_all_dim": mscale_all_dim}


# name: (d_nope, d_rope, theta, yarn, softmax scale of the published config)
ROPES = {
    "v2_lite": (128, 64, 1e4, yarn(40, 0.707, 0.707), 0.1147214),
    "v3": (128, 64, 1e4, yarn(40, 1, 1), 0.1352338),
    "k2": (128, 64, 5e4, yarn(32, 1, 1, beta_fast=1), 0.1308608),
    "k25": (128, 64, 5e4, yarn(64, 1, 1), 0.1446796),
    "glm": (192, 64, 1e6, None, 0.0625),
    "amplitude": (16, 8, 1e4, yarn(40, 1, 0.5, context=64), None),
}


def add_rope(v):
    for name, (d_nope, d_rope, theta, y, want) in ROPES.items():
        scale = oracle.softmax_scale(d_nope, d_rope, y)
        assert want is None or abs(scale - want) < 5e-8, (name, scale, want)
        inv_freq = v.put(f"rope.{name}.inv_freq", oracle.rope_inv_freq(d_rope, theta, y))
        v.put(f"rope.{name}.softmax_scale", scale)
        amplitude = v.put(f"rope.{name}.amplitude", oracle.rope_amplitude(y))[0]
        positions = np.array([0, 1, 2, 63, 64, 5000])
        v.put_ids(f"rope.{name}.positions", positions)
        x = v.normal(f"rope.{name}.x", len(positions), 2, d_rope)
        v.put(f"rope.{name}.y", oracle.rope(x, positions.astype(np.float64), inv_freq, amplitude))


def add_swiglu(v):
    x = v.normal("swiglu.x", 3, 40)
    gate, up = (v.normal(f"swiglu.w_{n}", 24, 40, std=0.3) for n in ("gate", "up"))
    down = v.normal("swiglu.w_down", 40, 24, std=0.3)
    g, u = v.put("swiglu.gate", x @ gate.T), v.put("swiglu.up", x @ up.T)
    v.put("swiglu.act", g * oracle.sigmoid(g) * u)
    v.put("swiglu.y", oracle.swiglu(x, gate, up, down))


def softmax_rule(top_k, n_group=1, topk_group=1, norm=False, scale=1.0):
    method = "group_limited_greedy" if n_group > 1 else "greedy"
    return SimpleNamespace(v2=True, scoring="softmax", method=method, top_k=top_k, n_group=n_group,
                           topk_group=topk_group, norm_topk=norm, route_scale=scale)


def sigmoid_rule(top_k, n_group=1, topk_group=1, norm=True, scale=2.5):
    return SimpleNamespace(v2=False, scoring="sigmoid", method="noaux_tc", top_k=top_k,
                           n_group=n_group, topk_group=topk_group, norm_topk=norm,
                           route_scale=scale)


# name: (tokens, experts, rule, mean of logits, (mean, half width) of the bias or None)
ROUTERS = {
    "softmax_greedy": (6, 8, softmax_rule(3), 0, None),
    "softmax_v2_lite": (4, 64, softmax_rule(6), 0, None),
    "softmax_group": (6, 16, softmax_rule(4, 4, 2, scale=16.0), 0, None),
    "softmax_v2": (4, 160, softmax_rule(6, 8, 3, scale=16.0), 0, None),
    "softmax_group_norm": (6, 16, softmax_rule(4, 4, 2, norm=True, scale=16.0), 0, None),
    "sigmoid_plain": (6, 10, sigmoid_rule(3), 0, (0, 0.5)),
    "sigmoid_group": (6, 16, sigmoid_rule(4, 4, 2), 0, (0, 0.5)),
    "sigmoid_v3": (4, 256, sigmoid_rule(8, 8, 4), 0, (0, 0.5)),
    "sigmoid_k2": (4, 384, sigmoid_rule(8, scale=2.827), 0, (0, 0.5)),
    "sigmoid_negative_bias": (6, 16, sigmoid_rule(4, 4, 2), 0, (-3, 1)),
    "sigmoid_tiny": (6, 16, sigmoid_rule(4, 4, 2), -45, (12, 0.5)),
    "sigmoid_no_norm": (6, 16, sigmoid_rule(4, 4, 2, norm=False), 0, (0, 0.5)),
}


def add_router(v):
    for name, (n_tokens, n_experts, rule, mean, spec) in ROUTERS.items():
        for _ in range(1000):                             # until no choice is near a tie
            logits = v.normal(f"router.{name}.logits", n_tokens, n_experts, std=1.5, mean=mean)
            bias = None
            if spec:
                bias = v.put(f"router.{name}.bias",
                             spec[0] + v.rng.uniform(-spec[1], spec[1], n_experts))
            ids, w, margin = oracle.route(rule, logits, bias)
            if min(margin["expert"].min(), margin["group"].min()) >= MARGIN:
                break
        else:
            raise SystemExit(f"router {name}: every draw was near a tie")
        v.put_ids(f"router.{name}.ids", ids)
        v.put(f"router.{name}.weights", w)
        v.put_ids(f"router.{name}.rule", [rule.top_k, rule.n_group, rule.topk_group,
                                          rule.norm_topk])
        v.put(f"router.{name}.scale", rule.route_scale)
    # equal scores in any arithmetic: the lowest indices win
    logits = v.put("router.ties.logits", [[0.0] * 8, [1, 2, 1, 2, 2, 0, 1, 2]])
    ids, w, _ = oracle.route(softmax_rule(3), logits)
    v.put_ids("router.ties.ids", ids)
    v.put("router.ties.weights", w)


def add_attention(v, name, n_heads, d_nope, d_rope, d_c, d_v, n_rows, n_queries):
    q_c = v.normal(f"{name}.q_c", n_queries, n_heads, d_nope)
    q_r = v.normal(f"{name}.q_r", n_queries, n_heads, d_rope)
    c_kv, k_r = v.normal(f"{name}.c_kv", n_rows, d_c), v.normal(f"{name}.k_r", n_rows, d_rope)
    w_uk = v.normal(f"{name}.w_uk", n_heads, d_nope, d_c, std=d_c ** -0.5)
    w_uv = v.normal(f"{name}.w_uv", n_heads, d_v, d_c, std=d_c ** -0.5)
    scale = v.put(f"{name}.scale", 1.3 * (d_nope + d_rope) ** -0.5)[0]
    q_lat = np.einsum("hnc,qhn->qhc", w_uk, q_c)
    s = (np.einsum("qhc,tc->qht", q_lat, c_kv) + np.einsum("qhr,tr->qht", q_r, k_r)) * scale
    last = n_rows - n_queries + np.arange(n_queries)      # query i sees rows 0..last[i]
    s = np.where(np.arange(n_rows) <= last[:, None, None], s, -np.inf)

    def attend(begin, end):
        part = s[..., begin:end]
        m = part.max(-1)
        p = np.exp(part - m[..., None])
        return np.einsum("qht,tc->qhc", p / p.sum(-1, keepdims=True), c_kv[begin:end]), \
            m + np.log(p.sum(-1))

    o_lat, lse = attend(0, n_rows)
    o = oracle.latent_attention(q_c, q_r, c_kv, k_r, w_uk, w_uv, scale, n_rows - n_queries,
                                "expanded")
    assert np.allclose(o, np.einsum("hvc,qhc->qhv", w_uv, o_lat), rtol=0, atol=1e-12)
    v.put(f"{name}.q_lat", q_lat)
    v.put(f"{name}.o_lat", o_lat)
    v.put(f"{name}.lse", lse)
    v.put(f"{name}.o", o)
    for part, (begin, end) in enumerate(((0, 64), (64, n_rows))):
        part_o, part_lse = attend(begin, end)
        v.put(f"{name}.part{part}.o_lat", part_o)
        v.put(f"{name}.part{part}.lse", part_lse)


def main():
    v = Vectors(1)
    add_rms_norm(v)
    add_rope(v)
    add_swiglu(v)
    add_router(v)
    add_attention(v, "attention", 5, 16, 8, 64, 12, 70, 3)
    add_attention(v, "attention_wide", 2, 8, 64, 512, 8, 70, 1)
    kept = os.path.join(HERE, "ops.safetensors")
    if "--check" in sys.argv:
        with tempfile.TemporaryDirectory() as tmp:
            made = os.path.join(tmp, "ops.safetensors")
            write_safetensors(made, v.tensors)
            with open(made, "rb") as a, open(kept, "rb") as b:
                sys.exit(0 if a.read() == b.read() else f"{kept}: differs")
    write_safetensors(kept, v.tensors)
    for name, (dtype, x) in v.tensors.items():
        print(f"{name:36s} {dtype} {list(x.shape)}")


if __name__ == "__main__":
    main()
