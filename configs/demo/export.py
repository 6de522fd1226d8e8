#!/usr/bin/env python3
"""export.py - writes config.json and model.safetensors (bf16, published names) from a training checkpoint.

usage: export.py --checkpoint last.pt --out DIR [--tokenizer-dir DIR]
shared_head.head and embed_tokens of the MTP layer are left out: they are the main lm_head and embedding.
e_score_correction_bias stays F32.
"""
import argparse, json, shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Model, demo_config


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--checkpoint", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--tokenizer-dir", type=Path, help="copy tokenizer.json, tokenizer_config.json, generation_config.json from there")
    a = ap.parse_args()
    s = torch.load(a.checkpoint, weights_only=False)
    model = Model(demo_config())
    at = 0
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(s["flat"][at:at + p.numel()].view(p.shape))
            at += p.numel()
        for moe, b in zip(model.moes(), s["bias"]):
            moe.e_score_correction_bias.copy_(b)
    assert at == s["flat"].numel()
    tensors = {k: (v.float() if "e_score" in k else v.to(torch.bfloat16)).contiguous().clone() for k, v in model.hf_state().items()}
    for k, v in tensors.items():
        assert torch.isfinite(v).all(), k
    a.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(a.out / "model.safetensors"), metadata={"format": "pt"})
    (a.out / "model.safetensors").chmod(0o644)
    json.dump(demo_config(), open(a.out / "config.json", "w"), indent=2)
    open(a.out / "config.json", "a").write("\n")
    if a.tokenizer_dir and a.tokenizer_dir.resolve() != a.out.resolve():
        for f in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copy(a.tokenizer_dir / f, a.out / f)
    n = sum(v.numel() for v in tensors.values())
    print(f"step {s['step']}, {s['lanes']['tokens'] / 1e6:.2f} M tokens: {len(tensors)} tensors, {n} parameters, "
          f"{(a.out / 'model.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
