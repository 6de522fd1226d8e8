#!/usr/bin/env python3
"""train.py - trains the demo model on a few CPU cores until a given time of day.

usage: train.py --corpus DIR --tokenizer tokenizer.json --out DIR --deadline HH:MM [--resume] [--workers 2]

The one idea: every worker is a process with one thread that takes the next micro-batch of the step from a shared
counter; the gradients are summed when the counter runs out.  A core that somebody else uses then costs its share
of the work, where threads in lock step would all wait for it at every operation.  Parameters, gradients and
optimizer state are flat tensors in shared memory; each worker updates its share of the parameters.

The schedule follows the wall clock: the fraction of the time used sets the learning rate (warm-up, constant, then a
linear decay over the last part) and the sequence length, which grows; a few steps have length 4096 from early on.  SIGTERM saves and stops.
"""
import argparse, csv, datetime, json, os, signal, time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
import torch.multiprocessing as mp

from model import LossFunction, Model, demo_config, parameter_count

LENGTHS = [(0.00, 256), (0.45, 512), (0.75, 1024), (0.93, 2048)]       # fraction of the time -> T of most steps
LONG = [(0.28, 40), (0.93, 5)]                        # from there on, every n-th step has T = 4096
LANES = 24
MTP_WEIGHT = 0.3
BIAS_STEP = 2e-3
NS = (3.4445, -4.7750, 2.0315)                        # Newton-Schulz coefficients of Muon (K. Jordan, 2024)


def token_stream(corpus, tokenizer, epoch):
    """All training documents in a random order as one array: BOS, text, EOS, BOS, ..."""
    cache = corpus / "train-tokens.npz"
    if not cache.exists():
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(str(tokenizer))
        docs = [json.loads(line)["text"] for line in open(corpus / "train.jsonl")]
        ids = [[0] + e.ids + [1] for e in tok.encode_batch(docs, add_special_tokens=False)]
        np.savez(cache, ids=np.concatenate([np.array(i, np.uint16) for i in ids]), ends=np.cumsum([len(i) for i in ids]))
    z = np.load(cache)
    parts = np.split(z["ids"], z["ends"][:-1])
    return np.concatenate([parts[i] for i in np.random.default_rng(1000 + epoch).permutation(len(parts))])


class Lanes:
    """LANES cursors, equally spaced over the stream; a batch takes its rows from successive lanes, so that its rows
    come from different documents and each token is seen once an epoch whatever the length."""

    def __init__(self, corpus, tokenizer):
        self.args, self.epoch, self.turn, self.tokens = (corpus, tokenizer), -1, 0, 0
        self.next_epoch()

    def next_epoch(self):
        self.epoch += 1
        self.stream = token_stream(*self.args, self.epoch)
        n = len(self.stream) // LANES
        self.at, self.end = [i * n for i in range(LANES)], [(i + 1) * n for i in range(LANES)]

    def row(self, T):
        for _ in range(LANES):
            lane = self.turn % LANES
            self.turn += 1
            if self.at[lane] + T + 1 <= self.end[lane]:
                a = self.at[lane]
                self.at[lane] += T
                self.tokens += T
                return self.stream[a:a + T + 1]
        self.next_epoch()
        return self.row(T)

    def batch(self, rows, T):
        return torch.from_numpy(np.stack([self.row(T) for _ in range(rows)]).astype(np.int64))

    def state(self):
        return {"epoch": self.epoch, "turn": self.turn, "tokens": self.tokens, "at": self.at}

    def load(self, s):
        while self.epoch < s["epoch"]:
            self.next_epoch()
        self.turn, self.tokens, self.at = s["turn"], s["tokens"], list(s["at"])


def is_muon(name, p):
    return p.ndim >= 2 and not any(s in name for s in ("embed_tokens", "lm_head", "mlp.gate.weight"))


def orthogonalize(g):
    """g[n, a, b] -> nearest semi-orthogonal matrices, roughly, by five Newton-Schulz steps."""
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = NS[0] * x + torch.baddbmm(a, a, a, beta=NS[1], alpha=NS[2]) @ x
    return x.transpose(1, 2) if tall else x


def update(name, p, g, m, v, step, lr, lr_adam):
    """One optimizer step on one parameter, in place: Muon for matrices, Adam for the rest."""
    if is_muon(name, p):
        m.lerp_(g, 0.05)
        u = g.lerp(m, 0.95)
        if "gate_up" in name:
            u3 = u.view(-1, u.shape[1] // 2, u.shape[2])
        else:
            u3 = u.view(-1, u.shape[-2], u.shape[-1])
        o = orthogonalize(u3)
        p.mul_(1 - 0.03 * lr)
        p.add_(o.reshape(p.shape), alpha=-lr * max(1.0, o.shape[1] / o.shape[2]) ** 0.5)
    else:
        m.lerp_(g, 0.1)
        v.lerp_(g * g, 0.02)
        mh, vh = m / (1 - 0.9 ** step), v / (1 - 0.98 ** step)
        # A router that moves as fast as an embedding is noise to its experts.
        lr_adam *= 0.1 if "mlp.gate.weight" in name else 0.5 if "lm_head" in name else 1.0
        p.sub_(lr_adam * mh / (vh.sqrt() + 1e-10))


def loss_of(model, w, T, scale, backward=True, with_mtp=True):
    """w[B, T + 1] -> (main, MTP) summed nats: inputs BOS, w[0..T-2], targets w[0..T-1]; MTP predicts w[1..T]."""
    B = w.shape[0]
    ids = torch.cat([torch.zeros(B, 1, dtype=torch.int64), w[:, :T - 1]], 1)
    h = model.hidden(ids)
    main = LossFunction.apply(h.flatten(0, 1), model.lm_head.weight, w[:, :T].flatten(), scale)
    if not with_mtp:
        main.backward()
        return main.item(), 0.0
    z = model.mtp_hidden(h, w[:, :T])
    mtp = LossFunction.apply(z.flatten(0, 1), model.lm_head.weight, w[:, 1:].flatten(), scale * MTP_WEIGHT)
    if backward:
        (main + mtp).backward()
    return main.item(), mtp.item()


def worker(rank, a, shared, barrier, counter):
    torch.set_num_threads(1)
    if rank:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)                   # worker 0 says when to stop
    flat, grads, m1, m2, load, bias, data, ctl, result = shared
    model = Model(demo_config())
    at, owned, spent = 0, [], [0] * a.workers
    for name, p in model.named_parameters():
        n = p.numel()
        p.data = flat[at:at + n].view(p.shape)
        p.grad = grads[rank, at:at + n].view(p.shape)
        who = min(range(a.workers), key=lambda w: spent[w])              # balance the optimizer's work
        spent[who] += n if is_muon(name, p) else n // 3
        if who == rank:
            owned.append((name, p, slice(at, at + n)))
        at += n
    for i, moe in enumerate(model.moes()):
        moe.e_score_correction_bias.data, moe.load.data = bias[i], load[rank, i]
    lead = Leader(a, shared, model) if rank == 0 else None
    while True:
        if lead:
            lead.prepare(counter)                                       # next batch, learning rate, length, or stop
        barrier.wait()
        stop, step, T, n_micro, rows, lr, lr_adam, is_eval = ctl.tolist()
        if stop:
            break
        T, n_micro, rows, step = int(T), int(n_micro), int(rows), int(step)
        model.train(not is_eval)
        while True:
            with counter.get_lock():
                i = counter.value
                counter.value += 1
            if i >= n_micro:
                break
            w = data[i * rows * (T + 1):(i + 1) * rows * (T + 1)].view(rows, T + 1)
            if is_eval:
                with torch.no_grad():
                    main, mtp = loss_of(model, w, T, 1.0, backward=False)
            else:
                # Every other micro-batch trains the MTP layer: it costs a quarter of the work.
                main, mtp = loss_of(model, w, T, 1.0 / (n_micro * rows * T), with_mtp=i % 2 == 0)
            result[rank, 0] += main
            result[rank, 1] += mtp
            result[rank, 2] += rows * T
            result[rank, 3] += rows * T if mtp else 0
        barrier.wait()
        if not is_eval:
            with torch.no_grad():
                for name, p, s in owned:
                    g = grads[0, s]
                    for r in range(1, a.workers):
                        g.add_(grads[r, s])
                    update(name, p, g.view(p.shape), m1[s].view(p.shape), m2[s].view(p.shape), step, lr, lr_adam)
                    for r in range(a.workers):
                        grads[r, s].zero_()
                if lead:
                    total = load.sum(0)
                    bias.add_(torch.sign(total.mean(-1, keepdim=True) - total), alpha=BIAS_STEP * min(1.0, lr / a.lr))
                    lead.imbalance = (total.max(-1).values / total.mean(-1).clamp(min=1)).mean().item()
        barrier.wait()
        if lead:
            load.zero_()


class Leader:
    """What only worker 0 does: schedule, data, log, checkpoints."""

    def __init__(self, a, shared, model):
        self.a, self.shared, self.model = a, shared, model
        self.flat, _, self.m1, self.m2, _, self.bias, self.data, self.ctl, self.result = shared
        self.lanes = Lanes(a.corpus, a.tokenizer)
        self.step, self.start, self.is_eval, self.imbalance, self.stop = 0, time.time(), False, 0.0, False
        self.last_eval = self.last_save = time.time()
        self.deadline = deadline(a.deadline)
        self.window = [0.0, 0.0, 0.0, 0.0, time.time()]
        a.out.mkdir(parents=True, exist_ok=True)
        if a.resume:
            s = torch.load(a.out / "last.pt", weights_only=False)
            for k in ("flat", "m1", "m2", "bias"):
                getattr(self, k).copy_(s[k])
            self.step, self.lanes_state = s["step"], s["lanes"]
            self.lanes.load(s["lanes"])
            self.start = s["start"]
        else:
            with torch.no_grad():
                torch.manual_seed(a.seed)
                model.init()
            with open(a.out / "loss.csv", "w") as f:
                f.write("kind,seconds,step,tokens,length,lr,main_nats,mtp_nats,imbalance,tokens_per_s\n")
        held = [x for x in sorted((a.corpus / "heldout").glob("*.txt"))]
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(str(a.tokenizer))
        text = [[0] + tok.encode(x.read_text(), add_special_tokens=False).ids + [1] for x in held]
        ids = np.concatenate([np.array(t, np.int64) for t in text])
        self.held_bytes_per_token = sum(x.stat().st_size for x in held) / sum(len(t) - 2 for t in text)
        n = len(ids) // 513
        self.held = torch.from_numpy(ids[:n * 513].reshape(n, 513)[::max(1, n // 64)].copy())     # about 64 windows of 512
        self.held = self.held[:len(self.held) // 2 * 2]
        signal.signal(signal.SIGTERM, self.on_term)

    def on_term(self, *_):
        self.stop = True

    def prepare(self, counter):
        now = time.time()
        fraction = (now - self.start) / (self.deadline - self.start)
        if self.step or self.is_eval:
            self.collect(now)
        if self.stop or fraction >= 1:
            if self.last_eval >= 0 and not self.stop:                   # one evaluation more, then stop
                self.stop = True
                return self.submit_eval(counter)
            self.save()
            self.ctl[0] = 1
            return
        if now - self.last_save > 120:
            self.save()
        if now - self.last_eval > self.a.eval_every:
            return self.submit_eval(counter)
        T = [t for f, t in LENGTHS if fraction >= f][-1]
        long = [n for f, n in LONG if fraction >= f]
        if long and self.step % long[-1] == long[-1] - 1:
            T = 4096
        if T <= 1024:
            rows, n_micro = max(1, 1024 // T), self.a.micro
        else:
            rows, n_micro = 1, max(2, self.a.micro * 1024 // T)
        lr = self.a.lr * min(1.0, (self.step + 1) / 60) * max(0.02, min(1.0, (1 - fraction) / self.a.decay))
        self.step += 1
        self.is_eval = False
        self.fill(self.lanes.batch(rows * n_micro, T), T, n_micro, rows, lr, counter)

    def submit_eval(self, counter):
        self.is_eval, self.last_eval = True, time.time()
        self.fill(self.held, 512, len(self.held) // 2, 2, 0.0, counter)

    def fill(self, w, T, n_micro, rows, lr, counter):
        self.data[:w.numel()] = w.flatten()
        self.ctl.copy_(torch.tensor([0, self.step, T, n_micro, rows, lr, lr * self.a.lr_adam / self.a.lr, self.is_eval], dtype=torch.float64))
        self.result.zero_()
        counter.value = 0

    def collect(self, now):
        main, mtp, n, n_mtp = self.result.sum(0).tolist()
        if n == 0:
            return
        T, lr = int(self.ctl[2]), float(self.ctl[5])
        if self.is_eval:
            bpb = main / n / np.log(2) / self.held_bytes_per_token
            self.log("heldout", now, T, lr, main / n, mtp / n_mtp, 0)
            print(f"   held out (512): {main / n:.4f} nats, mtp {mtp / n_mtp:.4f}, about {bpb:.3f} bits a byte", flush=True)
            self.window[4] += now - self.last_eval
            return
        for i, x in enumerate((main, mtp, n, n_mtp)):
            self.window[i] += x
        if self.step % 20 == 0:
            m, t, n, n_mtp, t0 = self.window
            self.log("train", now, T, lr, m / n, t / n_mtp, n / (now - t0))
            print(f"step {self.step:5} T {T:4} epoch {self.lanes.epoch} tokens {self.lanes.tokens / 1e6:.3f}M lr {lr:.4f} loss {m / n:.4f} mtp {t / n_mtp:.4f} "
                  f"imbalance {self.imbalance:.2f} {n / (now - t0):.0f} tok/s", flush=True)
            self.window = [0.0, 0.0, 0.0, 0.0, now]

    def log(self, kind, now, T, lr, m, t, rate):
        with open(self.a.out / "loss.csv", "a") as f:
            csv.writer(f).writerow([kind, f"{now - self.start:.0f}", self.step, self.lanes.tokens, T, f"{lr:.5f}", f"{m:.4f}", f"{t:.4f}",
                                    f"{self.imbalance:.3f}", f"{rate:.0f}"])

    def save(self):
        self.last_save = time.time()
        s = {"flat": self.flat, "m1": self.m1, "m2": self.m2, "bias": self.bias, "step": self.step, "lanes": self.lanes.state(), "start": self.start}
        torch.save(s, self.a.out / "last.tmp")
        os.replace(self.a.out / "last.tmp", self.a.out / "last.pt")


def deadline(text):
    now = datetime.datetime.now(datetime.timezone.utc)
    h, m = map(int, text.split(":"))
    t = now.replace(hour=h, minute=m, second=0, microsecond=0)
    return (t if t > now else t + datetime.timedelta(days=1)).timestamp()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corpus", type=Path, required=True)
    ap.add_argument("--tokenizer", type=Path, default=Path(__file__).parent / "tokenizer.json")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--deadline", required=True, help="UTC time of day at which training ends, HH:MM")
    ap.add_argument("--decay", type=float, default=0.25, help="share of the time over which the learning rate falls to 0")
    ap.add_argument("--lr", type=float, default=0.02, help="Muon")
    ap.add_argument("--lr-adam", type=float, default=0.004)
    ap.add_argument("--micro", type=int, default=6, help="micro-batches of 1024 tokens a step")
    ap.add_argument("--eval-every", type=float, default=300)
    ap.add_argument("--workers", type=int, default=2)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--resume", action="store_true")
    a = ap.parse_args()
    cfg = demo_config()
    model = Model(cfg)
    n = sum(p.numel() for p in model.parameters())
    n_moe, E = len(model.moes()), cfg["n_routed_experts"]
    token_stream(a.corpus, a.tokenizer, 0)
    share = lambda *s, dtype=torch.float32: torch.zeros(*s, dtype=dtype).share_memory_()
    shared = (share(n), share(a.workers, n), share(n), share(n), share(a.workers, n_moe, E), share(n_moe, E),
              share(1 << 17, dtype=torch.int64), share(8, dtype=torch.float64), share(a.workers, 4, dtype=torch.float64))
    print(f"{parameter_count(model) / 1e6:.2f} M parameters", flush=True)
    ctx = mp.get_context("fork")
    barrier, counter = ctx.Barrier(a.workers), ctx.Value("l", 0)
    others = [ctx.Process(target=worker, args=(r, a, shared, barrier, counter), daemon=True) for r in range(1, a.workers)]
    for p in others:
        p.start()
    worker(0, a, shared, barrier, counter)
    for p in others:
        p.join()


if __name__ == "__main__":
    main()
