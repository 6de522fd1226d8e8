"""Second opinion: Hugging Face transformers' own classes on the golden checkpoints.

    python3 check_hf.py             all cases; writes hf_check.json and the "hf" key of golden.json
    python3 check_hf.py t3-v3 ...   some cases, prints only

Each case runs twice.  *as is*: the class as published, float64 weights, with the parts that it
computes in float32 (norms, router, softmax, RoPE).  *adapted*: where the class is known not to
follow the checkpoint (ADAPT says what and why) it is corrected, and its float32 parts are widened
to float64, so that agreement can be seen to 1e-10 and not only to 1e-6.  Quantized weights are
dequantized here for it: fp8 by torch's own types, int4 by compressed-tensors.
Numbers are max |difference| over max |logit|, over all prompts.
"""
import argparse
import contextlib
import glob
import json
import os
import tempfile
import warnings

import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file, save_file
from transformers import AXK1Config, DeepseekV2Config, DeepseekV3Config, Glm4MoeLiteConfig
from transformers import AXK1ForCausalLM, YoutuConfig, YoutuForCausalLM
from transformers import DeepseekV2ForCausalLM, DeepseekV3ForCausalLM, Glm4MoeLiteForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

import numpy as np
import oracle
from make_golden import CASES, HERE, write_json

CLASSES = {"DeepseekV2ForCausalLM": (DeepseekV2Config, DeepseekV2ForCausalLM),
           "DeepseekV3ForCausalLM": (DeepseekV3Config, DeepseekV3ForCausalLM),
           "Glm4MoeLiteForCausalLM": (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM),
           "AXK1ForCausalLM": (AXK1Config, AXK1ForCausalLM),
           "YoutuForCausalLM": (YoutuConfig, YoutuForCausalLM)}
LIMIT = 1e-11         # adapted, float64

# ---------------------------------------------------------------------------------------------
# What has to be corrected, and why
# ---------------------------------------------------------------------------------------------


def fix_latent_eps(model, config):
    for layer in model.model.layers:
        for name in ("q_a_layernorm", "kv_a_layernorm"):
            norm = getattr(layer.self_attn, name, None)
            if norm is not None:
                norm.variance_epsilon = config["rms_norm_eps"]


def fix_v2_norm(model, config):
    """DeepSeek's own V2 code normalizes the chosen weights and then leaves out the scaling."""
    for layer in model.model.layers:
        gate = getattr(layer.mlp, "gate", None)
        if gate is None:
            continue
        inner, factor = gate.forward, gate.routed_scaling_factor

        def forward(x, inner=inner, factor=factor):
            logits, w, ids = inner(x)
            w = w / factor
            return logits, w / (w.sum(-1, keepdim=True) + 1e-20), ids

        gate.forward = forward


RAGGED = ("weights dequantized here: transformers takes the block size to be weight shape over "
          "scale shape, and refuses or misplaces a ragged last block")
INT4 = "weights dequantized here: compressed-tensors rounds them to bf16"

ADAPT = {   # case: (reason, config changes, model change)
    "t2b-norm": ("the V2 class ignores norm_topk_prob and always scales", {}, fix_v2_norm),
    "t2c-layer-freq": ("the V2 class ignores moe_layer_freq; first_k_dense_replace 2 gives the "
                       "same layers here", {"first_k_dense_replace": 2}, None),
    "t4-k2": ("q_a and kv_a norms use eps 1e-6 whatever rms_norm_eps says", {}, None),
    "t4b-nested": ("no class reads kimi_k25; its text_config given to DeepseekV3, prefix removed; "
                   "eps as in t4-k2", {}, None),
    "t5-glm-lite": ("q_a and kv_a norms use eps 1e-6 whatever rms_norm_eps says", {}, None),
    "t6-moonlight": ("the V3 class cannot take n_group null; 1 and 1 mean the same",
                     {"n_group": 1, "topk_group": 1}, None),
    "t11-dense": ("the V3 class cannot take n_routed_experts null; every layer made dense instead",
                  {"n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1,
                   "n_group": 1, "topk_group": 1, "first_k_dense_replace": 3}, None),
    "t20-fp8": (RAGGED, {}, None),
    "t20b-fp8-pow2": (RAGGED, {}, None),
    "t20c-fp8-e8m0": (RAGGED, {}, None),
    "t20d-fp8-fused": ("weights dequantized here: without a GPU transformers skips the scales of "
                       "fused experts", {}, None),
    "t21-int4": (INT4 + "; text_config given to DeepseekV3, eps as in t4-k2", {}, None),
    "t21b-int4-odd": (INT4, {}, None),
}

# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def wide():
    """Every torch.float32, torch.float and .float() in the model code means float64."""
    kept = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept[:3]
        torch.set_default_dtype(kept[3])


def dequantize(stored):
    """The tensors of a quantized checkpoint in float64, experts still fused if they are."""
    plain = {}
    for name, x in stored.items():
        if name.endswith((".weight_scale", ".weight_shape", "_scale_inv")):
            continue
        if name.endswith(".weight_packed"):
            name = name.removesuffix("_packed")
            x = unpack_from_int32(x, 4, torch.Size(stored[name + "_shape"].tolist())).double()
            x = x.unflatten(1, (-1, 32)) * stored[name + "_scale"].double()[..., None]
            x = x.flatten(1)
        elif name + "_scale_inv" in stored:
            scale = stored[name + "_scale_inv"].double()
            rows, columns = x.shape[-2:]
            x = x.double()
            for r in range(0, rows, 128):
                for k in range(0, columns, 128):
                    x[..., r:r + 128, k:k + 128] *= scale[..., r // 128, k // 128, None, None]
        plain[name] = x.double()
    return plain


@contextlib.contextmanager
def unquantized(directory, config):
    """Directory and config to load: copies without quantization where the checkpoint has it."""
    if "quantization_config" not in config:
        yield directory, config
        return
    stored = {}
    for path in glob.glob(os.path.join(directory, "model*.safetensors")):
        stored.update(load_file(path))
    with tempfile.TemporaryDirectory() as copy:
        config = {k: v for k, v in config.items() if k != "quantization_config"}
        write_json(os.path.join(copy, "config.json"), config)
        save_file(dequantize(stored), os.path.join(copy, "model.safetensors"), {"format": "pt"})
        yield copy, config


def load(directory, raw, config):
    """The class named by the checkpoint, weights read and fused by transformers itself."""
    name = raw["architectures"][0]
    config_class, model_class = CLASSES[name]
    config = config_class(**{k: v for k, v in config.items() if k not in ("model_type",)})
    mapping = {"^language_model\\.": ""} if "text_config" in raw else None
    model, info = model_class.from_pretrained(
        directory, config=config, dtype=torch.float64, attn_implementation="eager",
        experts_implementation="eager", key_mapping=mapping, output_loading_info=True)
    missing = set(info["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} tensors missing, e.g. {sorted(missing)[0]}")
    for parameter in model.parameters():
        parameter.data = parameter.data.double()          # quantizers leave some in bf16
    return model.eval()


def read_golden(name):
    g = oracle.read_safetensors(os.path.join(HERE, name, "golden.safetensors"))
    return [{k: g[f"p{i}.{k}"] for k in ("ids", "logits", "mtp_logits") if f"p{i}.{k}" in g}
            for i in range(len(CASES[name]["prompts"]))]


def rel(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids[:-1].astype(np.int64))[None]).logits[0].double().numpy()


def load_mtp(model):
    """transformers' MtpModel; the V3 class names only layer 61 as its MTP layer."""
    n = model.config.num_hidden_layers
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{n}\..*"]
    mtp = MtpModel.from_pretrained(model).eval()
    for norm in (mtp.layers[0].mtp_block.self_attn.q_a_layernorm,
                 mtp.layers[0].mtp_block.self_attn.kv_a_layernorm):
        norm.variance_epsilon = model.config.rms_norm_eps
    return mtp


def mtp_logits_of(model, mtp, ids):
    """Row t: hidden state t of the main model (after model.norm) and token t+1."""
    ids = torch.tensor(ids.astype(np.int64))[None]
    cache = MtpCache(config=model.config.get_mtp_config())
    with torch.no_grad():
        hidden = model.model(ids[:, :-1]).last_hidden_state
        positions = torch.arange(1, ids.shape[1])[None]
        mtp.rotary_emb = model.model.rotary_emb
        out = mtp.forward_layer(0, hidden, positions, cache, input_ids=ids[:, 1:])
        return mtp._project_to_logits(out)[0].numpy()


def as_is(name, raw, text, golden):
    try:
        model = load(os.path.join(HERE, name), raw, text)
        return max(rel(logits_of(model, p["ids"]), p["logits"]) for p in golden)
    except Exception as e:                      # a reason is a result here
        return f"{type(e).__name__}: {str(e).splitlines()[0][:100]}"


def adapted(name, raw, text, golden, reference):
    _, changes, change_model = ADAPT.get(name, ("", {}, None))
    with unquantized(os.path.join(HERE, name), {**text, **changes}) as (directory, config):
        model = load(directory, raw, config)
    fix_latent_eps(model, text)
    if change_model:
        change_model(model, text)
    mtp_model = load_mtp(model) if text.get("num_nextn_predict_layers") else None
    with wide():
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        out = {"adapted": max(rel(logits_of(model, p["ids"]), reference.forward(p["ids"][:-1])[0])
                              for p in golden)}
        mtp = []
        for p in golden:
            if "mtp_logits" in p:
                h = reference.forward(p["ids"][:-1])[1]
                mtp.append(rel(mtp_logits_of(model, mtp_model, p["ids"]),
                               reference.forward_mtp(h, p["ids"][1:])[0]))
    if mtp:
        out["mtp"] = max(mtp)
    return out


def check(name):
    with open(os.path.join(HERE, name, "config.json")) as f:
        raw = json.load(f)
    text = raw.get("text_config", raw)
    if "text_config" in raw:
        raw = {**raw, "architectures": text["architectures"]}
    golden = read_golden(name)
    result = {"class": raw["architectures"][0], "as_is": as_is(name, raw, text, golden)}
    result.update(adapted(name, raw, text, golden, oracle.Model(os.path.join(HERE, name))))
    if name in ADAPT:
        result["reason"] = ADAPT[name][0]
    result = {k: float(f"{v:.1e}") if isinstance(v, float) else v for k, v in result.items()}
    result["agrees"] = all(result[k] < LIMIT for k in ("adapted", "mtp") if k in result)
    return result


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("cases", nargs="*")
    args = ap.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    results = {name: check(name) for name in args.cases or CASES}
    for name, r in results.items():
        print(name, json.dumps(r))
    if not args.cases:
        write_json(os.path.join(HERE, "hf_check.json"),
                   {"transformers": transformers.__version__, "torch": torch.__version__,
                    "unit": "max |difference| / max |logit|", "limit_adapted": LIMIT,
                    "cases": results})
        for name, r in results.items():
            path = os.path.join(HERE, name, "golden.json")
            with open(path) as f:
                golden = json.load(f)
            write_json(path, {**golden, "hf": {"transformers": transformers.__version__, **r}})
    raise SystemExit(0 if all(r["agrees"] for r in results.values()) else 1)


if __name__ == "__main__":
    main()
