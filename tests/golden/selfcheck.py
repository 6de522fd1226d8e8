"""Checks of the oracle and of the cases; needs numpy only and writes selfcheck.json.

    python3 selfcheck.py

Identities: absorbed = expanded attention, prefill in chunks and token by token = one shot, the
vector router = a router written as plain loops, stored logits = recomputed ones.
Noise: the same graph in float32, and with the cache rounded to bf16: what a correct engine shows.
Mistakes: known wrong implementations.  Each must be far above the noise in
some case, or the cases would not guard against it.
"""
import json
import os
import sys

import numpy as np

import oracle
from make_golden import CASES, HERE, to_bf16, write_json

IDENTITY_LIMIT, MISTAKE_LIMIT = 1e-12, 1e-3


def rel(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


# ---------------------------------------------------------------------------------------------
# A second router, one token at a time, and its wrong versions
# ---------------------------------------------------------------------------------------------


def best(values, k):
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def route_token(c, logits, bias, wrong=None):
    n = len(logits)
    if c.scoring == "softmax":
        e = [np.exp(x - max(logits)) for x in logits]
        s = [x / sum(e) for x in e]
    else:
        s = [1 / (1 + np.exp(-x)) for x in logits]
    b = [s[i] + (0 if bias is None else bias[i]) for i in range(n)]
    choice = list(b)
    v3_groups = c.method == "noaux_tc"
    if c.n_group > 1 and wrong != "no_groups" and (v3_groups or c.method == "group_limited_greedy"):
        size = n // c.n_group
        members = [range(g * size, (g + 1) * size) for g in range(c.n_group)]
        top = 2 if v3_groups and wrong != "group_by_maximum" else 1
        score = [sum(sorted((b[i] for i in m), reverse=True)[:top]) for m in members]
        kept = best(score, c.topk_group)
        masked = -np.inf if v3_groups and wrong != "mask_with_zero" else 0.0
        choice = [b[i] if i // size in kept else masked for i in range(n)]
    ids = best(choice, c.top_k)
    w = [s[i] for i in ids]
    if wrong == "bias_in_weights":
        w = [b[i] for i in ids]
    if wrong == "weights_as_choice_minus_bias" and bias is not None:
        w = [np.float64(np.float32(np.float32(b[i]) - np.float32(bias[i]))) for i in ids]
    normalize = c.top_k > 1 and c.norm_topk
    if normalize:
        total = sum(w) + (0.0 if wrong == "no_1e-20" else 1e-20)
        w = [x / total if total else 0.0 for x in w]
    if wrong == "normalize_and_scale" or not (c.v2 and normalize):
        w = [x * c.route_scale for x in w]
    return ids, w


def plain_router(wrong=None):
    def route(c, logits, bias=None):
        rows = [route_token(c, row, bias, wrong) for row in logits]
        none = np.full(len(logits), np.inf)
        return (np.array([r[0] for r in rows]), np.array([r[1] for r in rows]),
                {"expert": none, "group": none})
    return route


# ---------------------------------------------------------------------------------------------
# Wrong models: each takes a Model and spoils it, or returns functions to replace in `oracle`
# ---------------------------------------------------------------------------------------------


def half_split_rope(x, positions, inv_freq, amplitude=1.0):
    half = x.shape[-1] // 2
    order = np.stack([np.arange(half), np.arange(half) + half], 1).ravel()
    return RIGHT["rope"](x[..., order], positions, inv_freq, amplitude)


def generic_yarn_amplitude(m):
    m.amplitude = oracle.yarn_mscale(m.c.yarn["factor"], 1) if m.c.yarn else 1.0


def latent_eps(m):
    norm = m.norm
    m.norm = lambda x, name: (oracle.rms_norm(x, m.get(name + ".weight"), 1e-6)
                              if "_a_layernorm" in name else norm(x, name))


def shared_scaled(m):
    mlp, scale = m.mlp, m.c.route_scale
    m.mlp = lambda x, name: mlp(x, name) * (scale if "shared" in name else 1)


def no_attention_bias(m):
    m.w = {k: v for k, v in m.w.items() if not k.endswith("_proj.bias")
           and not k.endswith("_mqa.bias")}


def set_scale(m, scale):
    m.scale = scale


def slice_blocks(n, n_pieces):
    """Scale index of each row (or column) for two tp ranks that count their blocks of 128 from
    the start of their slice; the right ones count from the start of the tensor."""
    cut = (n_pieces + 1) // 2 * (n // n_pieces)
    right = np.arange(n) // oracle.FP8_BLOCK
    return np.concatenate([right[:cut], right[cut] + right[:n - cut]]).clip(max=right[-1])


def fp8_scale_of_slice(m):
    stored = oracle.read_checkpoint(m.directory)[1]
    for name, codes in stored.items():
        kind = name.split(".")[-2]
        if name + "_scale_inv" not in stored or ".experts." in name or "_a_proj" in kind:
            continue                                      # no scales, or whole on every tp rank
        axis = 1 if kind in ("o_proj", "down_proj") else 0
        n = codes.shape[axis]
        block = slice_blocks(n, m.c.n_heads if "self_attn" in name else n)
        scale = np.repeat(stored[name + "_scale_inv"], oracle.FP8_BLOCK, axis=1 - axis)
        scale = np.take(scale, range(codes.shape[1 - axis]), axis=1 - axis)
        m.w[name] = codes * np.take(scale, block, axis=axis)


def transposed_table(scale):
    """A scale table [.., rows, columns] read as if it were stored [.., columns, rows]."""
    *lead, rows, columns = scale.shape
    return scale.reshape(*lead, columns, rows).swapaxes(-1, -2)


def unpack_int4_reversed(words):
    codes = RIGHT["unpack_int4"](words)
    return codes.reshape(len(words), -1, 8)[..., ::-1].reshape(codes.shape)


def unpack_int4_signed(words):
    unsigned = RIGHT["unpack_int4"](words) + 8
    return np.where(unsigned < 8, unsigned, unsigned - 16)


def decode_e4m3_normal_only(byte):
    x = RIGHT["decode_e4m3"](byte)
    return np.where(np.abs(x) < 2.0 ** -6, 0, x)


RIGHT = {name: getattr(oracle, name) for name in (
    "rope", "route", "latent_attention", "decode_e4m3", "decode_e8m0", "dequantize_fp8",
    "unpack_int4", "dequantize_int4", "split_gate_up")}
ROUTER_MISTAKES = ["no_groups", "group_by_maximum", "mask_with_zero", "bias_in_weights",
                   "weights_as_choice_minus_bias", "no_1e-20", "normalize_and_scale"]
MODEL_MISTAKES = {
    "no_softmax_mscale": lambda m: set_scale(m, (m.c.d_nope + m.c.d_rope) ** -0.5),
    "scale_of_latent_width": lambda m: set_scale(
        m, m.scale * ((m.c.d_nope + m.c.d_rope) / (m.c.d_c + m.c.d_rope)) ** 0.5),
    "no_yarn_frequencies": lambda m: setattr(
        m, "inv_freq", oracle.rope_inv_freq(m.c.d_rope, m.c.theta)),
    "generic_yarn_amplitude": generic_yarn_amplitude,
    "no_amplitude": lambda m: setattr(m, "amplitude", 1.0),
    "latent_eps_1e-6": latent_eps,
    "shared_expert_scaled": shared_scaled,
    "no_attention_bias": no_attention_bias,
    "fp8_scale_of_slice": fp8_scale_of_slice,
}
LOADING_MISTAKES = {            # name: (function of `oracle`, its wrong version)
    "fp8_scale_transposed": ("dequantize_fp8", lambda codes, scale: RIGHT["dequantize_fp8"](
        codes, transposed_table(scale))),
    "fp8_divide_by_scale_inv": ("dequantize_fp8", lambda codes, scale: RIGHT["dequantize_fp8"](
        codes, 1 / scale)),
    "fp8_subnormals_zero": ("decode_e4m3", decode_e4m3_normal_only),
    "e8m0_one_too_large": ("decode_e8m0", lambda byte: 2 * RIGHT["decode_e8m0"](byte)),
    "int4_scale_transposed": ("dequantize_int4", lambda codes, scale: RIGHT["dequantize_int4"](
        codes, transposed_table(scale))),
    "int4_nibbles_reversed": ("unpack_int4", unpack_int4_reversed),
    "int4_without_minus_8": ("unpack_int4", lambda words: RIGHT["unpack_int4"](words) + 8),
    "int4_twos_complement": ("unpack_int4", unpack_int4_signed),
    "fused_up_before_gate": ("split_gate_up", lambda x: RIGHT["split_gate_up"](x)[::-1]),
    "fused_gate_up_interleaved": ("split_gate_up", lambda x: (x[:, 0::2], x[:, 1::2])),
}


def logits_with(directory, ids, spoil=None, **replaced):
    """Logits of a fresh model, spoiled, with functions of `oracle` replaced meanwhile."""
    for name, f in replaced.items():
        setattr(oracle, name, f)
    try:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            model = oracle.Model(directory)
            if spoil:
                spoil(model)
            return model.forward(ids)[0]
    finally:
        for name in replaced:
            setattr(oracle, name, RIGHT[name])


def round_bf16(x):
    return (to_bf16(x).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def bf16_cache(q_c, q_r, c_kv, k_r, *rest):
    return RIGHT["latent_attention"](q_c, q_r, round_bf16(c_kv), round_bf16(k_r), *rest)


def to_float32(m):
    m.w = {k: v.astype(np.float32) for k, v in m.w.items()}


# ---------------------------------------------------------------------------------------------


def identities(model, golden, prompt):
    ids = golden[f"{prompt}.ids"][:-1]
    want, hidden, _ = model.forward(ids)
    out = {"stored": rel(golden[f"{prompt}.logits"], want),
           "absorbed": rel(model.forward(ids, form="absorbed")[0], want)}
    for form, chunks in (("absorbed", [1]), ("expanded", [1, 3, 5, 32])):
        cache, rows, at, i = model.new_cache(), [], 0, 0
        while at < len(ids):
            n = chunks[min(i, len(chunks) - 1)]
            rows.append(model.forward(ids[at:at + n], cache, form)[0])
            at, i = at + n, i + 1
        out["token_by_token" if len(chunks) == 1 else "chunks"] = rel(np.concatenate(rows), want)
    if model.c.n_experts:
        out["plain_router"] = rel(logits_with(model.directory, ids, route=plain_router()), want)
    if model.c.n_mtp:
        next_ids = golden[f"{prompt}.ids"][1:]
        out["mtp_absorbed"] = rel(model.forward_mtp(hidden, next_ids, "absorbed")[0],
                                  model.forward_mtp(hidden, next_ids)[0])
    return out


def mistakes(directory, c, ids, want):
    out = {"half_split_rope": rel(logits_with(directory, ids, rope=half_split_rope), want)}
    for name, (function, wrong) in LOADING_MISTAKES.items():
        out[name] = rel(logits_with(directory, ids, **{function: wrong}), want)
    for name, spoil in MODEL_MISTAKES.items():
        out[name] = rel(logits_with(directory, ids, spoil), want)
    if c.n_experts:
        for name in ROUTER_MISTAKES:
            out[name] = rel(logits_with(directory, ids, route=plain_router(name)), want)
    return {k: v for k, v in out.items() if v > 1e-9}         # the others do not apply


def codes_seen(directory):
    """Largest number of different int4 codes in one matrix; None without int4."""
    stored = oracle.read_checkpoint(directory)[1]
    packed = [x for name, x in stored.items() if name.endswith(".weight_packed")]
    return max((len(np.unique(oracle.unpack_int4(x))) for x in packed), default=None)


def check(name):
    directory = os.path.join(HERE, name)
    model = oracle.Model(directory)
    golden = oracle.read_safetensors(os.path.join(directory, "golden.safetensors"))
    ids = golden["p1.ids"][:-1]                              # the first long prompt
    want = model.forward(ids)[0]
    return {"identities": identities(model, golden, "p1"),
            "noise": {"float32": rel(logits_with(directory, ids, to_float32), want),
                      "bf16_cache": rel(logits_with(directory, ids, latent_attention=bf16_cache),
                                        want)},
            "mistakes": mistakes(directory, model.c, ids, want)}


def rounded(x):
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else float(f"{x:.1e}")


def main():
    cases = {name: check(name) for name in CASES}
    limit = {"stored": 1e-7}                                 # f32 in the file
    failed = [f"{name}: {k} {v:.1e}" for name, r in cases.items()
              for k, v in r["identities"].items() if v > limit.get(k, IDENTITY_LIMIT)]
    seen = {}
    for name, r in cases.items():
        for k, v in r["mistakes"].items():
            seen[k] = max(seen.get(k, ("", 0)), (name, v), key=lambda x: x[1])
    failed += [f"{name}: no matrix has all int4 codes" for name in CASES
               if codes_seen(os.path.join(HERE, name)) not in (None, 16)]
    for k in [*MODEL_MISTAKES, *LOADING_MISTAKES, *ROUTER_MISTAKES, "half_split_rope"]:
        if seen.get(k, ("", 0))[1] < MISTAKE_LIMIT:
            failed.append(f"no case shows the mistake {k}")
    write_json(os.path.join(HERE, "selfcheck.json"),
               {"numpy": np.__version__, "unit": "max |difference| / max |logit|, prompt 1",
                "best_case_per_mistake": {k: {"case": v[0], "difference": rounded(v[1])}
                                          for k, v in sorted(seen.items())},
                "cases": rounded(cases)})
    for k, v in sorted(seen.items()):
        print(f"{k:30s} {v[1]:.1e}  {v[0]}")
    print("worst identity", max((v, n, k) for n, r in cases.items()
                                for k, v in r["identities"].items() if k != "stored"))
    print("worst noise", *(max((r["noise"][k], k, n) for n, r in cases.items())
                           for k in ("float32", "bf16_cache")))
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
