#!/usr/bin/env python3
"""evaluate.py - held-out bits per byte, MTP acceptance, samples and reference tokens of the exported model.

usage: evaluate.py --model DIR --heldout DIR [--out DIR] [--hf] [--quick]
Reads model.safetensors (bf16), computes in f32.  Writes eval.json and reference.json into --out.
  --hf     also compares the main model's logits with transformers' DeepseekV3ForCausalLM loaded from DIR
  --quick  a few windows and prompts only, for a look at an early checkpoint

Score: windows of 4096 tokens that do not overlap; each is fed as BOS, w0 .. w(n-2) and every token of it is scored.
"""
import argparse, json, math, time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from model import Model

WINDOW = 4096
PROMPT, NEW = 48, 64                                  # tokens of a held-out prompt, tokens continued
REFERENCE_PROMPTS = [
    "In the beginning", "The function returns a list of", "If you want to install a package from the",
    "The old man looked at the king and said", "When the transaction is committed, the database", "And it came to pass in those days, that",
    "This chapter describes how to", "The dwarves of the northern mountains",
]
SAMPLE_PROMPTS = ["The king said to his men", "To install the new package, you should first", "And the Lord spoke unto"]


def load(path):
    cfg = json.load(open(path / "config.json"))
    model = Model(cfg).eval()
    model.load_hf_state(load_file(str(path / "model.safetensors")))
    return model


@torch.no_grad()
def scores(model, ids):
    """ids[n] -> nll[n], main argmax[n], MTP argmax[n]: entry i of the last predicts token i + 1 (n - 1 of use)."""
    inp = torch.tensor([[0] + ids[:-1]])
    h = model.hidden(inp)
    target = torch.tensor(ids)
    z = model.mtp_hidden(h, target[None])[0]
    h = h[0]
    nll, best, draft = [], [], []
    for a in range(0, len(ids), 512):
        logits = h[a:a + 512] @ model.lm_head.weight.t()
        nll.append(torch.nn.functional.cross_entropy(logits, target[a:a + 512], reduction="none"))
        best.append(logits.argmax(-1))
        draft.append((z[a:a + 512] @ model.lm_head.weight.t()).argmax(-1))
    return torch.cat(nll), torch.cat(best), torch.cat(draft)


@torch.no_grad()
def continue_greedy(model, prompts, n, temperature=0.0, seed=0, n_vocab=None):
    """prompts: lists of ids of one length, BOS included.  Returns their continuations of n tokens (EOS does not stop)."""
    gen = torch.Generator().manual_seed(seed)
    ids = torch.tensor(prompts)
    for _ in range(n):
        logits = model.lm_head(model.hidden(ids)[:, -1])[:, :n_vocab]
        if temperature:
            nxt = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=gen)
        else:
            nxt = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, nxt], 1)
    return ids


@torch.no_grad()
def drafts(model, ids):
    """ids[B, T]: MTP argmax at position i (from h_i and token i + 1), a guess of token i + 2; [B, T - 1]."""
    h = model.hidden(ids[:, :-1])
    return model.lm_head(model.mtp_hidden(h, ids[:, 1:])).argmax(-1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--heldout", type=Path, required=True)
    ap.add_argument("--out", type=Path)
    ap.add_argument("--hf", action="store_true")
    ap.add_argument("--quick", action="store_true")
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    start = time.time()
    model, tok = load(a.model), Tokenizer.from_file(str(a.model / "tokenizer.json"))
    V = tok.get_vocab_size()
    enc = lambda s: tok.encode(s, add_special_tokens=False).ids
    result = {"window": WINDOW, "weights": "bf16", "arithmetic": "f32", "files": {}}

    if a.hf:
        from transformers import AutoModelForCausalLM
        hf = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="eager").eval()
        ids = [0] + enc(sorted(a.heldout.glob("*.txt"))[0].read_text())[:400]
        with torch.no_grad():
            x = hf(torch.tensor([ids])).logits[0].double()
            y = model.lm_head(model.hidden(torch.tensor([ids])))[0].double()
        result["transformers"] = {"class": type(hf).__name__, "positions": len(ids), "max_abs_diff": (x - y).abs().max().item(),
                                  "relative_l2": ((x - y).norm() / y.norm()).item(),
                                  "same_argmax": (x.argmax(-1) == y.argmax(-1)).float().mean().item()}
        print("transformers", json.dumps(result["transformers"]), flush=True)
        del hf

    total = {"tokens": 0, "nll": 0.0, "bytes": 0}
    agree = drafted = correct = 0
    short = 0.0                                       # the same tokens in windows of 512
    edges = [0, 64, 256, 512, 1024, 2048, 4096]
    by_pos = [[0.0, 0] for _ in edges[1:]]
    files = sorted(a.heldout.glob("*.txt"))
    for f in files[::6] if a.quick else files:
        text = f.read_text()
        ids, nll = enc(text), 0.0
        for w in range(0, len(ids), WINDOW):
            win = ids[w:w + WINDOW]
            n, best, draft = scores(model, win)
            nll += n.double().sum().item()
            agree += (draft[:-1] == best[1:]).sum().item()
            correct += (draft[:-1] == torch.tensor(win[1:])).sum().item()
            drafted += len(win) - 1
            if len(win) == WINDOW:                    # the same text in every bucket's average: full windows only
                for i in range(len(edges) - 1):
                    part = n[edges[i]:edges[i + 1]]
                    by_pos[i][0] += part.double().sum().item()
                    by_pos[i][1] += len(part)
        for w in range(0, len(ids), 512):
            short += scores(model, ids[w:w + 512])[0].double().sum().item()
        n_bytes = len(text.encode())
        result["files"][f.name] = {"tokens": len(ids), "nll": nll, "ppl": math.exp(nll / len(ids)), "bytes": n_bytes,
                                   "bits_per_byte": nll / math.log(2) / n_bytes}
        for k, v in (("tokens", len(ids)), ("nll", nll), ("bytes", n_bytes)):
            total[k] += v
    total["ppl"] = math.exp(total["nll"] / total["tokens"])
    total["bits_per_byte"] = total["nll"] / math.log(2) / total["bytes"]
    total["bits_per_byte_window_512"] = short / math.log(2) / total["bytes"]
    result["total"] = total
    result["nats_by_position"] = {f"{edges[i]}-{edges[i + 1] - 1}": s / n for i, (s, n) in enumerate(by_pos) if n}
    result["mtp"] = {"teacher_forced": {"acceptance": agree / drafted, "target_accuracy": correct / drafted, "positions": drafted}}
    print(json.dumps(total), json.dumps(result["nats_by_position"]), json.dumps(result["mtp"]), flush=True)

    prompts = []
    for f in files:
        ids = enc(f.read_text())
        prompts.append([0] + ids[:PROMPT - 1])
    prompts = prompts[::10] if a.quick else prompts[::2]
    ids = continue_greedy(model, prompts, NEW, n_vocab=V)
    d = drafts(model, ids)
    # Position i drafts token i + 2; tokens PROMPT + 1 .. are continuations of a continued token.
    hit = d[:, PROMPT - 1:-1] == ids[:, PROMPT + 1:]
    result["mtp"]["greedy"] = {"acceptance": hit.float().mean().item(), "positions": hit.numel(), "prompts": len(prompts)}
    print(json.dumps(result["mtp"]["greedy"]), flush=True)

    reference = []
    for text in REFERENCE_PROMPTS:
        p = [0] + enc(text)
        full = continue_greedy(model, [p], NEW, n_vocab=V)
        with torch.no_grad():
            h = model.hidden(full)
            logits = model.lm_head(h)[0]
            draft = model.lm_head(model.mtp_hidden(h[:, :-1], full[:, 1:]))[0].argmax(-1)
        top = logits[len(p) - 1:-1].topk(2, -1).values
        margin = (top[:, 0] - top[:, 1]).min().item()
        last = logits[len(p) - 1]
        reference.append({"prompt": text, "prompt_ids": p, "greedy_ids": full[0, len(p):].tolist(), "min_margin": margin,
                          "text": tok.decode(full[0, len(p):].tolist()),
                          "mtp_draft_ids": draft[len(p) - 1:].tolist(),
                          "first_logits": {"sum": last.double().sum().item(), "l2": last.double().norm().item(),
                                           "head": [round(x, 5) for x in last[:8].tolist()]},
                          "all_logits": {"positions": logits.shape[0], "sum": logits.double().sum().item(), "l2": logits.double().norm().item()}})
    reference.sort(key=lambda r: -r["min_margin"])    # the prompts whose choices are clearest make the steadiest tests
    reference = reference[:4]
    result["reference_logits"] = [{k: r[k] for k in ("prompt", "first_logits", "all_logits", "min_margin")} for r in reference]
    samples = []
    for seed, text in enumerate(SAMPLE_PROMPTS, 1):
        p = [0] + enc(text)
        g = continue_greedy(model, [p], 80, n_vocab=V)[0, len(p):].tolist()
        t = continue_greedy(model, [p], 80, temperature=0.8, seed=seed, n_vocab=V)[0, len(p):].tolist()
        cut = lambda x: x[:x.index(1)] if 1 in x else x
        samples.append({"prompt": text, "greedy": tok.decode(cut(g)), "temperature_0.8": tok.decode(cut(t))})
        print(json.dumps(samples[-1], ensure_ascii=False), flush=True)
    result["samples"] = samples
    result["seconds"] = round(time.time() - start)
    if a.out:
        json.dump(result, open(a.out / "eval.json", "w"), indent=1, ensure_ascii=False)
        note = ("greedy_ids: argmax in f32 arithmetic from the bf16 weights, BOS is in prompt_ids, EOS does not stop; min_margin: smallest "
                "difference of the two largest logits; mtp_draft_ids[i]: MTP argmax from the hidden state of position len(prompt_ids) - 1 + i and "
                "greedy_ids[i], a guess of greedy_ids[i + 1]")
        json.dump({"note": note, "prompts": reference}, open(a.out / "reference.json", "w"), indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
