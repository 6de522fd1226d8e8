"""Writes the golden cases: tiny checkpoints in Hugging Face layout, and what the oracle says.

    python3 make_golden.py            all cases, seeds from the committed golden.json files
    python3 make_golden.py t3-v3 ...  some cases
    python3 make_golden.py --search   forget the committed seeds and search for good ones again
    python3 make_golden.py --check    regenerate into a temporary folder and compare every byte

A seed is good when no decision is near a tie: see LIMITS.  Weights and every prompt have seeds of
their own, so that one near tie costs one prompt and not the whole case.
"""
import argparse
import filecmp
import json
import math
import os
import re
import sys
import tempfile

import numpy as np

import oracle
from cases import CASES

HERE = os.path.dirname(os.path.abspath(__file__))
# Smallest accepted margins: selection score of experts and of groups (absolute), and greedy
# top-1 minus top-2 over the largest |logit| of the prompt.
LIMITS = {"expert": 1e-4, "group": 1e-4, "top2": 1e-3}
MIN_DISTINCT = 4          # distinct tokens in a continuation: a loop over one token tests little
SEED_TRIES = 4000
MTP_LONGEST = 70          # longer prompts have no mtp_logits: they would only add bytes

# ---------------------------------------------------------------------------------------------
# safetensors
# ---------------------------------------------------------------------------------------------


def to_bf16(x):
    """float to the nearest bf16 (ties to even), as u16."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def to_e4m3(x):
    """float to the nearest e4m3 (drawn numbers hit no tie), at most 448, as u8."""
    positive = oracle.decode_e4m3(np.arange(127))
    code = np.searchsorted((positive[1:] + positive[:-1]) / 2, np.abs(x))
    return (code + 128 * np.signbit(x)).astype(np.uint8)


def encode(x, dtype):
    if dtype == "BF16":
        return to_bf16(x)
    if dtype == "F8_E4M3":
        return to_e4m3(x)
    if dtype == "F8_E8M0":                                    # of powers of two
        return (np.log2(x) + 127).astype(np.uint8)
    kinds = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "I64": "<i8"}
    return np.ascontiguousarray(x, kinds[dtype])


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, array)}.  Wide types first, then by name: all stay aligned."""
    width = {"I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1}
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors, key=lambda n: (-width[tensors[n][0]], n)):
        dtype, x = tensors[name]
        blob = encode(x, dtype).tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(x)),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


# ---------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------


def layer_shapes(raw, c, layer):
    """{name: shape} of one decoder layer, as in the published checkpoints."""
    p, d = f"model.layers.{layer}.", c.d
    s = {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,)}
    a, q_out = p + "self_attn.", c.n_heads * (c.d_nope + c.d_rope)
    if c.q_rank:
        s[a + "q_a_proj.weight"] = (c.q_rank, d)
        s[a + "q_a_layernorm.weight"] = (c.q_rank,)
        s[a + "q_b_proj.weight"] = (q_out, c.q_rank)
    else:
        s[a + "q_proj.weight"] = (q_out, d)
    s[a + "kv_a_proj_with_mqa.weight"] = (c.d_c + c.d_rope, d)
    s[a + "kv_a_layernorm.weight"] = (c.d_c,)
    s[a + "kv_b_proj.weight"] = (c.n_heads * (c.d_nope + c.d_v), c.d_c)
    s[a + "o_proj.weight"] = (d, c.n_heads * c.d_v)
    if raw.get("attention_bias"):
        for name in ("q_a_proj", "kv_a_proj_with_mqa", "o_proj"):
            if a + name + ".weight" in s:
                s[a + name + ".bias"] = s[a + name + ".weight"][:1]

    def mlp(name, width):
        s[name + ".gate_proj.weight"] = s[name + ".up_proj.weight"] = (width, d)
        s[name + ".down_proj.weight"] = (d, width)

    if not c.is_moe[layer]:
        mlp(p + "mlp", raw["intermediate_size"])
        return s
    if c.expert_norm:
        s[p + "post_mlp_layernorm.weight"] = (d,)
    s[p + "mlp.gate.weight"] = (c.n_experts, d)
    if c.method == "noaux_tc":
        s[p + "mlp.gate.e_score_correction_bias"] = (c.n_experts,)
    for e in range(c.n_experts):
        mlp(f"{p}mlp.experts.{e}", raw["moe_intermediate_size"])
    if c.n_shared:
        mlp(p + "mlp.shared_experts", raw["moe_intermediate_size"] * c.n_shared)
    return s


def shapes(raw):
    """{name: shape} of the whole checkpoint, MTP layers included."""
    raw = raw.get("text_config") or raw
    c = oracle.read_config(raw)
    s = {"model.embed_tokens.weight": (c.vocab, c.d), "model.norm.weight": (c.d,)}
    if not c.tie:
        s["lm_head.weight"] = (c.vocab, c.d)
    for layer in range(c.n_layers + c.n_mtp):
        s.update(layer_shapes(raw, c, layer))
    for layer in range(c.n_layers, c.n_layers + c.n_mtp):
        p = f"model.layers.{layer}."
        s.update({p + "enorm.weight": (c.d,), p + "hnorm.weight": (c.d,),
                  p + "eh_proj.weight": (c.d, 2 * c.d), p + "shared_head.norm.weight": (c.d,),
                  p + "shared_head.head.weight": (c.vocab, c.d),
                  p + "embed_tokens.weight": (c.vocab, c.d)})
    return s


def std_of(name, case):
    """Standard deviations that keep routing and attention decisive, neither flat nor one-hot."""
    if "mlp.gate.weight" in name:
        return case["gate_std"]
    if "q_a_proj" in name or "kv_a_proj" in name:
        return case["latent_std"]
    if "lm_head" in name or "embed_tokens" in name:
        return 0.3
    if "q_b_proj" in name or "kv_b_proj" in name:
        return case["head_std"]
    return 0.3 if name.endswith(".bias") else 0.15


def is_projection(name):
    """Attention and MLP matrices: all that an fp8 checkpoint quantizes."""
    return name.endswith(("_proj.weight", "_with_mqa.weight")) and "eh_proj" not in name


def correction_bias(rng, n, spec):
    kind, *a = spec
    if kind == "uniform":
        return rng.uniform(-a[0], a[0], n)
    if kind == "normal":
        return a[0] + rng.standard_normal(n)
    return a[0] + rng.uniform(-a[1], a[1], n)


def neighbour_factors(rng, shape, ratio):
    """1/ratio, 1 and ratio in turn along rows and columns: a wrong neighbour's scale shows."""
    row, column = np.indices(shape)
    return ratio ** ((row + 2 * column + rng.integers(3)) % 3 - 1.0)


def draw_fp8(rng, name, shape, std, spec):
    blocks = [-(-n // oracle.FP8_BLOCK) for n in shape]
    if spec["scale"] == "power_of_two":
        scale = 2 ** np.rint(np.log2(std / spec["code_std"])) * neighbour_factors(rng, blocks, 2.0)
    else:
        scale = (std / spec["code_std"] * neighbour_factors(rng, blocks, 1.7)
                 * rng.uniform(0.95, 1.05, blocks))
    return {name: ("F8_E4M3", spec["code_std"] * rng.standard_normal(shape)),
            name + "_scale_inv": (spec["scale_dtype"], scale)}


def draw_int4(rng, name, shape, std, shape_dtype):
    code_std = 2.7                            # -8 and 7 are then rare, but not in 4096 numbers
    code = np.clip(np.rint(code_std * rng.standard_normal(shape)), -8, 7).astype(np.int64) + 8
    words = sum(code[:, j::8] << 4 * j for j in range(8)).astype(np.uint32).view(np.int32)
    groups = (shape[0], shape[1] // oracle.INT4_GROUP)
    scale = std / code_std * neighbour_factors(rng, groups, 1.7) * rng.uniform(0.95, 1.05, groups)
    return {name + "_packed": ("I32", words), name + "_scale": ("BF16", scale),
            name + "_shape": (shape_dtype, np.array(shape))}


def fuse_experts(tensors):
    """gate_up_proj[E, 2 mi, h] and down_proj[E, h, mi] for the matrices of single experts."""
    single = re.compile(r"(.*\.experts\.)(\d+)\.(gate|up|down)_proj\.weight(|_scale_inv)")
    parts, fused = {}, {}
    for name, (dtype, x) in tensors.items():
        match = single.fullmatch(name)
        if not match:
            fused[name] = (dtype, x)
            continue
        p, e, kind, suffix = match.groups()
        target = p + ("down_proj" if kind == "down" else "gate_up_proj") + suffix
        fused[target] = (dtype, None)                     # keeps the place of the first one
        parts.setdefault(target, {}).setdefault(int(e), []).append(x)
    for target, experts in parts.items():
        fused[target] = (fused[target][0], np.stack([np.concatenate(x) for x in experts.values()]))
    return fused


def draw_weights(case, seed):
    """{name: (dtype, float array)} from one PCG64 stream, in the order of shapes()."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = {}
    for name, shape in shapes(case["config"]).items():
        dtype = case["dtype"]
        if "e_score_correction_bias" in name:
            x, dtype = correction_bias(rng, shape[0], case["bias"]), case["bias_dtype"]
        elif "norm" in name:
            x = 1 + 0.2 * rng.standard_normal(shape)
        else:
            std = std_of(name, case)
            if case["fp8"] and is_projection(name):
                tensors.update(draw_fp8(rng, name, shape, std, case["fp8"]))
                continue
            if case["int4"] and ".experts." in name:
                tensors.update(draw_int4(rng, name, shape, std, case["int4"]))
                continue
            x = std * rng.standard_normal(shape)
        tensors[name] = (dtype, x)
    for name in tensors:                       # the MTP copies are byte duplicates
        if name.startswith("model.layers.") and name.endswith("embed_tokens.weight"):
            tensors[name] = tensors["model.embed_tokens.weight"]
        if name.endswith("shared_head.head.weight"):
            tensors[name] = tensors["lm_head.weight"]
    if case["logit_shift"]:
        shift_logits(case, tensors)
    if case["fused"]:
        tensors = fuse_experts(tensors)
    tensors = {case["prefix"] + name: t for name, t in tensors.items()}
    for name, shape in case["foreign"].items():
        tensors[name] = (case["dtype"], 0.1 * rng.standard_normal(shape))
    return tensors


def shift_logits(case, tensors):
    """Moves all router logits of a layer by about `logit_shift`: hidden channel 0 is made the same
    large number for every token (no layer writes to it), and only the router reads it."""
    big, after_norm = 6.0, 3.0
    for name, (_, x) in tensors.items():
        if name.endswith("embed_tokens.weight"):
            x[:, 0] = big
        if name.endswith(("o_proj.weight", "down_proj.weight", "eh_proj.weight")):
            x[0] = 0
        if name.endswith(("lm_head.weight", "q_proj.weight", "q_a_proj.weight", "_with_mqa.weight",
                          "gate_proj.weight", "up_proj.weight")):
            x[:, 0] = 0
        if name.endswith("post_attention_layernorm.weight"):
            x[0] = 1
    for layer, shift in case["logit_shift"].items():
        gate = tensors[f"model.layers.{layer}.mlp.gate.weight"][1]
        gate[:, 0] = shift / after_norm


def write_checkpoint(directory, case, tensors):
    os.makedirs(directory, exist_ok=True)
    write_json(os.path.join(directory, "config.json"), case["config"])
    n = case["shards"]
    if n == 1:
        write_safetensors(os.path.join(directory, "model.safetensors"), tensors)
        return
    names, weight_map, total = list(tensors), {}, 0
    for i in range(n):
        part = names[i * len(names) // n:(i + 1) * len(names) // n]
        file = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
        write_safetensors(os.path.join(directory, file), {k: tensors[k] for k in part})
        weight_map.update({k: file for k in part})
        total += sum(encode(tensors[k][1], tensors[k][0]).nbytes for k in part)
    write_json(os.path.join(directory, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": weight_map})


# ---------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------


def is_good(m):
    return all(m[k] >= LIMITS[k] for k in LIMITS)


def run_prompt(model, config, length, n_new, seed):
    """Result of one prompt, or None when a decision is too near a tie."""
    raw = config.get("text_config") or config
    rng = np.random.Generator(np.random.PCG64(seed))
    prompt = rng.integers(2, model.c.vocab, length)           # 0 and 1 are bos and eos
    logits, _, diag = model.forward(prompt)
    if not is_good(oracle.margins(logits, diag)):
        return None
    ids = model.generate(prompt, n_new)
    eos = raw["eos_token_id"]
    new = ids[length:]
    if len(set(new)) < min(MIN_DISTINCT, n_new) or set(new) & set(np.atleast_1d(eos).tolist()):
        return None
    logits, hidden, diag = model.forward(ids[:-1])
    margin = oracle.margins(logits, diag)
    if not is_good(margin) or list(np.argmax(logits[length - 1:], -1)) != new:
        return None
    out = {"ids": ids, "logits": logits, "margin": margin, "seed": seed}
    if model.c.n_mtp and length <= MTP_LONGEST:
        out["mtp_logits"], mtp_diag = model.forward_mtp(hidden, ids[1:])
        m = oracle.margins(out["mtp_logits"], mtp_diag)
        if not is_good({**m, "top2": 1}):                     # a draft may be near a tie
            return None
    return out


def search_prompt(model, case, index, hint):
    """The first good seed from `hint` (a committed seed) or from 1000 * index on."""
    first = 1000 * index if hint is None else hint
    for seed in range(first, first + SEED_TRIES):
        result = run_prompt(model, case["config"], case["prompts"][index], case["new"], seed)
        if result:
            return result
    raise SystemExit(f"no good seed for prompt {index} in {SEED_TRIES} tries")


def sanitize(m):
    """Three digits are enough to read; infinity (no decision of that kind) becomes null."""
    return {k: None if math.isinf(v) else float(f"{v:.3g}") for k, v in m.items()}


def make_case(root, name, hints):
    """Writes one case; the checkpoint is read back, so that results belong to the stored values."""
    case, directory = CASES[name], os.path.join(root, name)
    weight_seed = hints.get("weight_seed", 1)
    write_checkpoint(directory, case, draw_weights(case, weight_seed))
    model = oracle.Model(directory)
    tensors, prompts = {}, []
    known = hints.get("prompts", [])
    for i, length in enumerate(case["prompts"]):
        r = search_prompt(model, case, i, known[i]["seed"] if i < len(known) else None)
        tensors[f"p{i}.ids"] = ("I32", np.array(r["ids"]))
        tensors[f"p{i}.n_prompt"] = ("I32", np.array([length]))
        tensors[f"p{i}.logits"] = ("F32", r["logits"])
        if "mtp_logits" in r:
            tensors[f"p{i}.mtp_logits"] = ("F32", r["mtp_logits"])
        prompts.append({"seed": r["seed"], "n_prompt": length, "n_new": case["new"],
                        "margin": sanitize(r["margin"])})
    write_safetensors(os.path.join(directory, "golden.safetensors"), tensors)
    worst = {k: min(oracle_none(p["margin"][k]) for p in prompts) for k in LIMITS}
    golden = {"case": name, "about": case["about"], "weight_seed": weight_seed,
              "prompts": prompts, "margin": sanitize(worst), "limits": LIMITS,
              "numpy": np.__version__, "generator": "PCG64"}
    if "hf" in hints:                              # written by check_hf.py, kept here
        golden["hf"] = hints["hf"]
    write_json(os.path.join(directory, "golden.json"), golden)
    size = sum(os.path.getsize(os.path.join(directory, f)) for f in os.listdir(directory))
    print(f"{name:24s} {size:8d} B  expert {worst['expert']:.2g}  group {worst['group']:.2g}"
          f"  top2 {worst['top2']:.2g}  seeds {[p['seed'] for p in prompts]}", flush=True)


def oracle_none(v):
    return math.inf if v is None else v


def committed(name):
    path = os.path.join(HERE, name, "golden.json")
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return json.load(f)


def check_case(name):
    """True when regenerating gives the committed bytes."""
    with tempfile.TemporaryDirectory() as tmp:
        make_case(tmp, name, committed(name))
        made, kept = os.path.join(tmp, name), os.path.join(HERE, name)
        bad = [f for f in sorted(set(os.listdir(made)) | set(os.listdir(kept)))
               if not (os.path.exists(os.path.join(made, f)) and os.path.exists(
                   os.path.join(kept, f)) and filecmp.cmp(os.path.join(made, f),
                                                          os.path.join(kept, f), False))]
    for f in bad:
        print(f"{name}/{f}: differs from the committed file")
    return not bad


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("cases", nargs="*", help="names (default: all)")
    ap.add_argument("--search", action="store_true", help="ignore the committed seeds")
    ap.add_argument("--check", action="store_true", help="compare with the committed files")
    args = ap.parse_args()
    names = args.cases or list(CASES)
    if args.check:
        sys.exit(0 if all([check_case(n) for n in names]) else 1)
    for name in names:
        make_case(HERE, name, {} if args.search else committed(name))


if __name__ == "__main__":
    main()
