"""Float64 numpy forward pass of the DeepSeek-V2 and V3 graphs: the project's oracle.

Written from the papers (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437) and the keys
of the published config files, never from the engine, so that a mistake has to be made twice to go
unnoticed.  Names follow the papers: c_kv, k_r, q_c, w_uk, w_uv.

Needs numpy only.  Reads a Hugging Face directory (config.json and *.safetensors), decodes
bf16/f16/f32/fp8/int4 exactly to float64 and computes everything in float64.

    python3 oracle.py DIR --ids 5,17,3 --max-tokens 8      prints ids and the largest logits
"""
import argparse
import json
import math
import os
from types import SimpleNamespace

import numpy as np

# ---------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------


def decode_e4m3(byte):
    """e4m3fn: sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinity, 0x7f and 0xff NaN."""
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    x = np.where(exponent == 0, mantissa * 2.0 ** -9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.where(byte & 127 == 127, np.nan, np.where(byte & 128, -x, x))


def decode_e8m0(byte):
    """Powers of two, 2^-127 to 2^127; 255 is NaN."""
    return np.where(byte == 255, np.nan, 2.0 ** (byte - 127.0))


def decode(raw, dtype, shape):
    """Little-endian bytes to float64.  bf16 is the upper half of an f32, so decoding is exact."""
    if dtype == "BF16":
        f32 = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        return f32.astype(np.float64).reshape(shape)
    if dtype.startswith("F8_"):
        byte = np.frombuffer(raw, np.uint8).reshape(shape)
        return {"F8_E4M3": decode_e4m3, "F8_E8M0": decode_e8m0}[dtype](byte)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
    values = np.frombuffer(raw, kinds[dtype]).reshape(shape)
    return values.astype(np.float64) if dtype[0] == "F" else values


def read_safetensors(path):
    """{name: array}: u64 header length, JSON header, then the tensors at their data_offsets."""
    with open(path, "rb") as f:
        data = f.read()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        out[name] = decode(data[8 + n + begin:8 + n + end], t["dtype"], t["shape"])
    return out


def read_checkpoint(directory):
    """Config and tensors, as stored, of a directory: single file or shards named by the index."""
    with open(os.path.join(directory, "config.json")) as f:
        config = json.load(f)
    index = os.path.join(directory, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if os.path.exists(index):
        with open(index) as f:
            files = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for name in files:
        tensors.update(read_safetensors(os.path.join(directory, name)))
    return config, tensors


# ---------------------------------------------------------------------------------------------
# Quantized and fused weights (DeepSeek-V3 README_WEIGHTS.md; compressed-tensors pack-quantized;
# in-memory form of transformers 5)
# ---------------------------------------------------------------------------------------------

FP8_BLOCK, INT4_GROUP = 128, 32


def dequantize_fp8(codes, scale):
    """W[.., r, k] = codes[.., r, k] * scale[.., r // 128, k // 128]: the "inverse" multiplies."""
    rows, columns = codes.shape[-2:]
    scale = np.repeat(np.repeat(scale, FP8_BLOCK, axis=-2), FP8_BLOCK, axis=-1)
    return codes * scale[..., :rows, :columns]


def unpack_int4(words):
    """Element 8w + j of a row is nibble j of word w, least significant first, minus 8."""
    nibbles = (words[..., None] >> 4 * np.arange(8)) & 15
    return nibbles.reshape(len(words), -1) - 8.0


def dequantize_int4(codes, scale):
    """W[r][k] = codes[r][k] * scale[r][k // 32]."""
    return codes * np.repeat(scale, INT4_GROUP, axis=-1)


def split_gate_up(gate_up):
    """gate[E, mi, h] and up[E, mi, h] of gate_up[E, 2 mi, h]: gate rows first."""
    return np.split(gate_up, 2, axis=1)


def plain_weights(stored):
    """{name: matrix} with the names of an unquantized checkpoint, one matrix per projection."""
    w = {}
    for name, x in stored.items():
        if name.endswith((".weight_scale", ".weight_shape", "_scale_inv")):
            continue                                      # read with the weight they belong to
        if name.endswith(".weight_packed"):
            name = name.removesuffix("_packed")
            x = dequantize_int4(unpack_int4(x), stored[name + "_scale"])
            if list(x.shape) != list(stored[name + "_shape"]):
                raise ValueError(f"{name}: unpacks to {x.shape}, not to its weight_shape")
        elif name + "_scale_inv" in stored:
            x = dequantize_fp8(x, stored[name + "_scale_inv"])
        w[name] = x
    for name in [n for n in w if n.endswith(".experts.gate_up_proj")]:
        p = name.removesuffix("gate_up_proj")
        gate, up = split_gate_up(w.pop(name))
        for kind, x in ("gate", gate), ("up", up), ("down", w.pop(p + "down_proj")):
            w.update({f"{p}{e}.{kind}_proj.weight": x[e] for e in range(len(x))})
    return w


# ---------------------------------------------------------------------------------------------
# Config
# ---------------------------------------------------------------------------------------------


def read_config(raw):
    """The keys that change the mathematics, with their defaults."""
    raw = raw.get("text_config") or raw
    v2 = "DeepseekV2" in (raw.get("architectures") or [""])[0] or raw["model_type"] == "deepseek_v2"
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "yarn"):
        raise ValueError(f"rope type {rope_type!r}: the oracle knows default and yarn")
    c = SimpleNamespace(
        v2=v2, n_layers=raw["num_hidden_layers"], d=raw["hidden_size"], vocab=raw["vocab_size"],
        n_heads=raw["num_attention_heads"], q_rank=raw.get("q_lora_rank") or 0,
        d_c=raw["kv_lora_rank"], d_nope=raw["qk_nope_head_dim"], d_rope=raw["qk_rope_head_dim"],
        d_v=raw["v_head_dim"], n_experts=raw.get("n_routed_experts") or 0,
        top_k=raw.get("num_experts_per_tok") or 0, n_shared=raw.get("n_shared_experts") or 0,
        first_dense=raw.get("first_k_dense_replace") or 0, moe_freq=raw.get("moe_layer_freq") or 1,
        mlp_types=raw.get("mlp_layer_types"),
        scoring=raw.get("scoring_func") or ("softmax" if v2 else "sigmoid"),
        method=raw.get("topk_method") or ("greedy" if v2 else "noaux_tc"),
        n_group=raw.get("n_group") or 1, topk_group=raw.get("topk_group") or 1,
        norm_topk=raw.get("norm_topk_prob", not v2),
        route_scale=raw.get("routed_scaling_factor", 1.0),
        eps=raw.get("rms_norm_eps", 1e-6), tie=raw.get("tie_word_embeddings", False),
        n_mtp=raw.get("num_nextn_predict_layers") or 0,
        expert_norm="AXK1" in (raw.get("architectures") or [""])[0],
        theta=rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
        yarn=rope if rope_type == "yarn" else None)
    c.is_moe = [bool(c.n_experts) and
                (c.mlp_types[i] == "sparse" if c.mlp_types and i < len(c.mlp_types)
                 else i >= c.first_dense and i % c.moe_freq == 0) for i in range(c.n_layers)]
    c.is_moe += [bool(c.n_experts)] * c.n_mtp
    return c


# ---------------------------------------------------------------------------------------------
# RoPE and YaRN (YaRN paper arXiv 2309.00071 section 3)
# ---------------------------------------------------------------------------------------------


def yarn_mscale(factor, a):
    return 1.0 if factor <= 1 else 0.1 * a * math.log(factor) + 1.0


def rope_inv_freq(d_rope, theta, yarn=None):
    """theta^(-2j/d_rope), under YaRN blended with the same / factor by the ramp over j."""
    j = np.arange(d_rope // 2, dtype=np.float64)
    f = theta ** (-2.0 * j / d_rope)
    if not yarn:
        return f

    def corr(n_rotations):
        context = yarn["original_max_position_embeddings"]
        return d_rope * math.log(context / (2 * math.pi * n_rotations)) / (2 * math.log(theta))

    low, high = corr(yarn.get("beta_fast") or 32), corr(yarn.get("beta_slow") or 1)
    if yarn.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d_rope - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((j - low) / (high - low), 0, 1)
    return f / yarn["factor"] * ramp + f * (1 - ramp)


def rope_amplitude(yarn):
    """Factor on cos and sin: m(mscale) / m(mscale_all_dim); 1 where the two are equal."""
    if not yarn:
        return 1.0
    if yarn.get("attention_factor") is not None:
        return yarn["attention_factor"]
    if yarn.get("mscale") and yarn.get("mscale_all_dim"):
        return (yarn_mscale(yarn["factor"], yarn["mscale"]) /
                yarn_mscale(yarn["factor"], yarn["mscale_all_dim"]))
    return yarn_mscale(yarn["factor"], 1)


def softmax_scale(d_nope, d_rope, yarn):
    """(d_nope + d_rope)^-0.5, times m(factor, mscale_all_dim)^2 under YaRN, at every length."""
    scale = (d_nope + d_rope) ** -0.5
    if yarn and yarn.get("mscale_all_dim"):
        scale *= yarn_mscale(yarn["factor"], yarn["mscale_all_dim"]) ** 2
    return scale


def rope(x, positions, inv_freq, amplitude=1.0):
    """Rotates the pairs (x[2j], x[2j+1]) of x[T, ..., d_rope] by position * inv_freq_j."""
    angle = positions[:, None] * inv_freq[None, :]
    angle = angle.reshape((len(positions),) + (1,) * (x.ndim - 2) + (-1,))
    cos, sin = np.cos(angle) * amplitude, np.sin(angle) * amplitude
    even, odd = x[..., 0::2], x[..., 1::2]
    y = np.empty_like(x)
    y[..., 0::2] = even * cos - odd * sin
    y[..., 1::2] = even * sin + odd * cos
    return y


# ---------------------------------------------------------------------------------------------
# Small operations
# ---------------------------------------------------------------------------------------------


def rms_norm(x, gamma, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gamma


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def swiglu(x, gate, up, down):
    """down(silu(gate x) * up x); Linear weights are [out, in]."""
    g = x @ gate.T
    return (g * sigmoid(g) * (x @ up.T)) @ down.T


# ---------------------------------------------------------------------------------------------
# Router (V2 paper 2.2; V3 paper equations 12-16)
# ---------------------------------------------------------------------------------------------


def top_indices(scores, k):
    """The k largest per row, best first, ties to the lowest index; and the margin to the next."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, -1)
    if k == scores.shape[-1]:
        return order[:, :k], np.full(len(scores), np.inf)
    return order[:, :k], sorted_scores[:, k - 1] - sorted_scores[:, k]


def route(c, logits, bias=None):
    """ids[T, K] (best first), weights[T, K], and the margins of both selections for each token."""
    n_tokens, n_experts = logits.shape
    s = softmax(logits) if c.scoring == "softmax" else sigmoid(logits)
    choice = s if bias is None else s + bias              # the bias selects, it never weighs
    margin = {"group": np.full(n_tokens, np.inf)}
    grouped = c.n_group > 1 and c.method in ("group_limited_greedy", "noaux_tc")
    if grouped:
        g = choice.reshape(n_tokens, c.n_group, n_experts // c.n_group)
        if c.method == "noaux_tc":                        # V3: sum of the two best of a group
            group_score = np.sort(g, axis=-1)[..., -2:].sum(-1)
        else:                                             # V2: the best of a group
            group_score = g.max(-1)
        kept, margin["group"] = top_indices(group_score, c.topk_group)
        mask = np.zeros((n_tokens, c.n_group), bool)
        np.put_along_axis(mask, kept, True, axis=1)
        mask = np.repeat(mask, n_experts // c.n_group, axis=1)
        choice = np.where(mask, choice, 0.0 if c.method == "group_limited_greedy" else -np.inf)
    ids, margin["expert"] = top_indices(choice, c.top_k)
    w = np.take_along_axis(s, ids, -1)
    normalize = c.top_k > 1 and c.norm_topk
    if normalize:
        w = w / (w.sum(-1, keepdims=True) + 1e-20)
    if not (c.v2 and normalize):                          # V2 normalizes OR scales, V3 does both
        w = w * c.route_scale
    return ids, w, margin


# ---------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------


class Model:
    """Weights of one checkpoint and the forward pass; a cache is a list of (c_kv, k_r) by layer."""

    def __init__(self, directory):
        raw, stored = read_checkpoint(directory)
        self.directory, self.w = directory, plain_weights(stored)
        self.c = c = read_config(raw)
        self.prefix = "language_model." if "language_model.model.norm.weight" in self.w else ""
        self.inv_freq = rope_inv_freq(c.d_rope, c.theta, c.yarn)
        self.amplitude = rope_amplitude(c.yarn)
        self.scale = softmax_scale(c.d_nope, c.d_rope, c.yarn)

    def get(self, name):
        return self.w[self.prefix + name]

    def linear(self, x, name):
        y = x @ self.get(name + ".weight").T
        bias = self.w.get(self.prefix + name + ".bias")   # attention_bias: q_a, kv_a, o only
        return y if bias is None else y + bias

    def norm(self, x, name):
        return rms_norm(x, self.get(name + ".weight"), self.c.eps)

    def new_cache(self):
        c = self.c
        return [(np.zeros((0, c.d_c)), np.zeros((0, c.d_rope))) for _ in c.is_moe]

    def attention(self, x, layer, cache, form):
        """V2 paper equations 37-47 (V3: 1-11).  Reads back what it has put into the cache."""
        c, p = self.c, f"model.layers.{layer}.self_attn."
        past, n = len(cache[layer][0]), len(x)
        positions = np.arange(past, past + n, dtype=np.float64)
        if c.q_rank:
            q = self.linear(self.norm(self.linear(x, p + "q_a_proj"), p + "q_a_layernorm"),
                            p + "q_b_proj")
        else:
            q = self.linear(x, p + "q_proj")
        q = q.reshape(n, c.n_heads, c.d_nope + c.d_rope)
        q_c = q[..., :c.d_nope]
        q_r = rope(q[..., c.d_nope:], positions, self.inv_freq, self.amplitude)

        kv = self.linear(x, p + "kv_a_proj_with_mqa")
        c_kv = self.norm(kv[:, :c.d_c], p + "kv_a_layernorm")
        k_r = rope(kv[:, c.d_c:], positions, self.inv_freq, self.amplitude)
        c_kv = np.concatenate([cache[layer][0], c_kv])
        k_r = np.concatenate([cache[layer][1], k_r])
        cache[layer] = (c_kv, k_r)

        w_ukv = self.get(p + "kv_b_proj.weight").reshape(c.n_heads, c.d_nope + c.d_v, c.d_c)
        w_uk, w_uv = w_ukv[:, :c.d_nope], w_ukv[:, c.d_nope:]
        o = latent_attention(q_c, q_r, c_kv, k_r, w_uk, w_uv, self.scale, past, form)
        return self.linear(o.reshape(n, c.n_heads * c.d_v), p + "o_proj")

    def mlp(self, x, name):
        return swiglu(x, *(self.get(f"{name}.{w}_proj.weight") for w in ("gate", "up", "down")))

    def moe(self, x, layer, diag):
        c, p = self.c, f"model.layers.{layer}.mlp."
        bias = self.w.get(self.prefix + p + "gate.e_score_correction_bias")
        ids, w, margin = route(c, x @ self.get(p + "gate.weight").T, bias)
        diag.append({"layer": layer, "ids": ids, "weights": w, **margin})
        y = np.zeros_like(x)
        for e in np.unique(ids):
            token, slot = np.nonzero(ids == e)
            y[token] += w[token, slot, None] * self.mlp(x[token], f"{p}experts.{e}")
        if c.n_shared:                                    # one MLP of width n_shared * mi, unscaled
            y += self.mlp(x, p + "shared_experts")
        return y

    def block(self, x, layer, cache, form, diag):
        p = f"model.layers.{layer}."
        x = x + self.attention(self.norm(x, p + "input_layernorm"), layer, cache, form)
        y = self.norm(x, p + "post_attention_layernorm")
        if self.c.is_moe[layer]:
            y = self.moe(y, layer, diag)
            if self.c.expert_norm:                        # A.X-K1: the sum is normed before it is added
                y = self.norm(y, p + "post_mlp_layernorm")
            return x + y
        return x + self.mlp(y, p + "mlp")

    def forward(self, ids, cache=None, form="expanded"):
        """logits[T, vocab], normed hidden states[T, d], router diagnostics per MoE layer.
        Layers from n_layers on (MTP) take no part."""
        cache = self.new_cache() if cache is None else cache
        diag = []
        x = self.get("model.embed_tokens.weight")[np.asarray(ids)]
        for layer in range(self.c.n_layers):
            x = self.block(x, layer, cache, form, diag)
        h = self.norm(x, "model.norm")
        head = "model.embed_tokens.weight" if self.c.tie else "lm_head.weight"
        return h @ self.get(head).T, h, diag

    def forward_mtp(self, h, next_ids, form="expanded"):
        """First MTP layer (V3 equations 21-23): row i takes h_i (after model.norm)
        and token i+1, and predicts token i+2.  The embedding half comes first in eh_proj."""
        layer, diag = self.c.n_layers, []
        p = f"model.layers.{layer}."
        e = self.get("model.embed_tokens.weight")[np.asarray(next_ids)]
        z = np.concatenate([self.norm(e, p + "enorm"), self.norm(h, p + "hnorm")], axis=-1)
        z = self.block(self.linear(z, p + "eh_proj"), layer, self.new_cache(), form, diag)
        return self.norm(z, p + "shared_head.norm") @ self.get("lm_head.weight").T, diag

    def generate(self, prompt, n_new, form="absorbed"):
        """Greedy continuation, one token at a time over the latent cache; ids of prompt and new."""
        ids, cache, feed = list(map(int, prompt)), self.new_cache(), prompt
        for _ in range(n_new):
            logits, _, _ = self.forward(feed, cache, form)
            feed = [int(np.argmax(logits[-1]))]
            ids += feed
        return ids


def latent_attention(q_c, q_r, c_kv, k_r, w_uk, w_uv, scale, past, form):
    """o[T, H, d_v] of queries at positions past..past+T-1 over all cached rows, causal.
    expanded: k = w_uk c, v = w_uv c.  absorbed: w_uk moves to q, w_uv behind the sum."""
    if form == "expanded":
        k_c = np.einsum("hnc,tc->thn", w_uk, c_kv)
        v = np.einsum("hvc,tc->thv", w_uv, c_kv)
        scores = np.einsum("qhn,thn->hqt", q_c, k_c)
    else:
        scores = np.einsum("qhc,tc->hqt", np.einsum("hnc,qhn->qhc", w_uk, q_c), c_kv)
    scores = (scores + np.einsum("qhr,tr->hqt", q_r, k_r)) * scale
    visible = np.arange(len(c_kv))[None, :] <= past + np.arange(len(q_c))[:, None]
    p = softmax(np.where(visible, scores, -np.inf))
    if form == "expanded":
        return np.einsum("hqt,thv->qhv", p, v)
    return np.einsum("hvc,qhc->qhv", w_uv, np.einsum("hqt,tc->qhc", p, c_kv))


def margins(logits, diag):
    """Smallest distances to another decision: experts, expert groups (absolute, in selection
    score) and greedy token (top-1 minus top-2 over the largest |logit| of all rows)."""
    top2 = np.sort(logits, axis=-1)[:, -2:]
    return {"expert": min([float(d["expert"].min()) for d in diag], default=math.inf),
            "group": min([float(d["group"].min()) for d in diag], default=math.inf),
            "top2": float((top2[:, 1] - top2[:, 0]).min() / np.abs(logits).max())}


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("directory")
    ap.add_argument("--ids", required=True, help="prompt ids, comma separated")
    ap.add_argument("--max-tokens", type=int, default=8)
    args = ap.parse_args()
    model = Model(args.directory)
    ids = model.generate([int(t) for t in args.ids.split(",")], args.max_tokens)
    logits, _, diag = model.forward(ids)
    print("ids", ids)
    print("margins", margins(logits, diag))
    for i, row in enumerate(logits):
        best = np.argsort(-row)[:4]
        print(i, ids[i], " ".join(f"{t}:{row[t]:.6f}" for t in best))


if __name__ == "__main__":
    main()
