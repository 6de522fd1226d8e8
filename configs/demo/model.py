"""model.py - the DeepSeek-V3 graph in PyTorch, written to train fast on a CPU in f32.

One class holds the main layers and the multi-token-prediction (MTP) layer; parameter names are those of the
published checkpoints, so the state dict is the checkpoint (experts are stacked here and cut apart on export).
Source: DeepSeek-V3 technical report, section 2; auxiliary-loss-free balancing, section 2.1.2.

What is arranged for speed: attention in expanded form through scaled_dot_product_attention, v padded to the width
of q (the CPU's fused kernel asks for equal widths); RoPE as one complex product over the whole head, whose nope part
multiplies by 1; experts on tokens sorted by expert; the loss and its gradient chunk by chunk, so that the
logits of a batch never exist at once.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_table(cfg, n):
    """cis[n, (dn + dr) / 2]: 1 for the nope pairs, then exp(i pos theta^(-2j/dr)) for pair j of the rope part."""
    dn, dr = cfg["qk_nope_head_dim"], cfg["qk_rope_head_dim"]
    freq = cfg["rope_theta"] ** (-torch.arange(0, dr, 2, dtype=torch.float64) / dr)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * freq
    cis = torch.polar(torch.ones_like(angle), angle)
    return torch.cat([torch.ones(n, dn // 2, dtype=cis.dtype), cis], 1).to(torch.complex64)


def rotate(x, cis):
    """Interleaved RoPE: pairs (x[2j], x[2j+1]) as complex numbers.  x[..., 2 n], cis broadcast to x[..., n]."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * cis).flatten(-2)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        h, H = cfg["hidden_size"], cfg["num_attention_heads"]
        self.H, self.dn, self.dr, self.dv = H, cfg["qk_nope_head_dim"], cfg["qk_rope_head_dim"], cfg["v_head_dim"]
        self.c, cq = cfg["kv_lora_rank"], cfg["q_lora_rank"]
        eps = cfg["rms_norm_eps"]
        self.q_a_proj = nn.Linear(h, cq, bias=False)
        self.q_a_layernorm = RMSNorm(cq, eps)
        self.q_b_proj = nn.Linear(cq, H * (self.dn + self.dr), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(h, self.c + self.dr, bias=False)
        self.kv_a_layernorm = RMSNorm(self.c, eps)
        self.kv_b_proj = nn.Linear(self.c, H * (self.dn + self.dv), bias=False)
        self.o_proj = nn.Linear(H * self.dv, h, bias=False)

    def forward(self, x, cis):
        B, T, _ = x.shape
        d = self.dn + self.dr
        a = F.linear(x, torch.cat([self.q_a_proj.weight, self.kv_a_proj_with_mqa.weight]))
        q_c, c_kv, k_r = a.split([self.q_a_proj.out_features, self.c, self.dr], -1)
        q = self.q_b_proj(self.q_a_layernorm(q_c)).view(B, T, self.H, d)
        q = rotate(q, cis[:, None, :])
        k_r = rotate(k_r.contiguous(), cis[:, self.dn // 2:])
        kv = self.kv_b_proj(self.kv_a_layernorm(c_kv)).view(B, T, self.H, self.dn + self.dv)
        k_n, v = kv.split([self.dn, self.dv], -1)
        k = torch.cat([k_n, k_r[:, :, None, :].expand(B, T, self.H, self.dr)], -1)
        v = F.pad(v, (0, d - self.dv))
        o = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=d ** -0.5)
        o = o.transpose(1, 2)[..., :self.dv].reshape(B, T, self.H * self.dv)
        return self.o_proj(o)


class MLP(nn.Module):
    def __init__(self, h, n):
        super().__init__()
        self.gate_proj = nn.Linear(h, n, bias=False)
        self.up_proj = nn.Linear(h, n, bias=False)
        self.down_proj = nn.Linear(n, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ExpertsFunction(torch.autograd.Function):
    """y[N, h] = down_e(silu(gate_e x) * up_e x) for rows x[N, h] sorted by expert; offsets[E + 1] cut the rows."""

    @staticmethod
    def forward(ctx, x, gate_up, down, offsets):
        n_mi = down.shape[2]
        gu = x.new_empty(x.shape[0], 2 * n_mi)
        y = torch.empty_like(x)
        act = x.new_empty(x.shape[0], n_mi)
        for e in range(down.shape[0]):
            s = slice(offsets[e], offsets[e + 1])
            torch.mm(x[s], gate_up[e].t(), out=gu[s])
        torch.mul(F.silu(gu[:, :n_mi]), gu[:, n_mi:], out=act)
        for e in range(down.shape[0]):
            s = slice(offsets[e], offsets[e + 1])
            torch.mm(act[s], down[e].t(), out=y[s])
        ctx.save_for_backward(x, gate_up, down, gu, act)
        ctx.offsets = offsets
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gate_up, down, gu, act = ctx.saved_tensors
        o, n_mi = ctx.offsets, down.shape[2]
        dact, dx = torch.empty_like(act), torch.empty_like(x)
        dgu, ddown = torch.empty_like(gate_up), torch.empty_like(down)
        for e in range(down.shape[0]):
            s = slice(o[e], o[e + 1])
            torch.mm(dy[s], down[e], out=dact[s])
            torch.mm(dy[s].t(), act[s], out=ddown[e])
        g, u = gu[:, :n_mi], gu[:, n_mi:]
        sig = torch.sigmoid(g)
        silu = g * sig
        d = torch.empty_like(gu)
        torch.mul(dact, silu, out=d[:, n_mi:])
        sig.add_(silu * (1 - sig))                     # silu'(g) = s + g s (1 - s)
        torch.mul(dact.mul_(u), sig, out=d[:, :n_mi])
        for e in range(down.shape[0]):
            s = slice(o[e], o[e + 1])
            torch.mm(d[s], gate_up[e], out=dx[s])
            torch.mm(d[s].t(), x[s], out=dgu[e])
        return dx, dgu, ddown, None


class MoE(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        h, E, mi = cfg["hidden_size"], cfg["n_routed_experts"], cfg["moe_intermediate_size"]
        self.E, self.K, self.G, self.TG = E, cfg["num_experts_per_tok"], cfg["n_group"], cfg["topk_group"]
        self.scale = cfg["routed_scaling_factor"]
        self.gate = nn.Linear(h, E, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(E))
        self.register_buffer("load", torch.zeros(E), persistent=False)          # since the last bias update
        self.gate_up = nn.Parameter(torch.empty(E, 2 * mi, h))
        self.down = nn.Parameter(torch.empty(E, h, mi))
        self.shared_experts = MLP(h, mi * cfg["n_shared_experts"])

    def route(self, x):
        """noaux_tc: sigmoid scores, biased for the choice of groups and experts, unbiased as weights."""
        s = torch.sigmoid(F.linear(x, self.gate.weight))
        with torch.no_grad():
            b = s + self.e_score_correction_bias
            if self.G > 1:
                score = b.view(-1, self.G, self.E // self.G).topk(2, -1).values.sum(-1)
                keep = torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.topk(self.TG, -1).indices, True)
                b = b.masked_fill(~keep.repeat_interleave(self.E // self.G, 1), float("-inf"))
            idx = b.topk(self.K, -1).indices
        w = s.gather(1, idx)
        return idx, w / (w.sum(-1, keepdim=True) + 1e-20) * self.scale

    def forward(self, x3):
        x = x3.flatten(0, -2)
        idx, w = self.route(x)
        flat = idx.flatten()
        count = torch.bincount(flat, minlength=self.E)
        if self.training:
            self.load += count
        order = flat.argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel())
        offsets = [0] + count.cumsum(0).tolist()
        y = ExpertsFunction.apply(x.index_select(0, order // self.K), self.gate_up, self.down, offsets)
        y = torch.bmm(w[:, None, :], y.index_select(0, inverse).view(-1, self.K, x.shape[-1])).squeeze(1)
        return (y + self.shared_experts(x)).view_as(x3)


class Layer(nn.Module):
    def __init__(self, cfg, moe):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg["hidden_size"], cfg["rms_norm_eps"])
        self.mlp = MoE(cfg) if moe else MLP(cfg["hidden_size"], cfg["intermediate_size"])

    def forward(self, x, cis):
        x = x + self.self_attn(self.input_layernorm(x), cis)
        return x + self.mlp(self.post_attention_layernorm(x))


class LossFunction(torch.autograd.Function):
    """Sum of cross entropies of rows h[N, d] against target[N] with the head w[V, d], and its gradient at once."""

    @staticmethod
    def forward(ctx, h, w, target, scale):
        n, chunk = h.shape[0], 512
        need = h.requires_grad or w.requires_grad
        dh = torch.empty_like(h)
        dw = torch.zeros_like(w)
        total = 0.0
        for a in range(0, n, chunk):
            hc, tc = h[a:a + chunk], target[a:a + chunk]
            logits = hc @ w.t()
            picked = logits.gather(1, tc[:, None])
            top = logits.amax(1, keepdim=True)
            p = logits.sub_(top).exp_()
            z = p.sum(1, keepdim=True)
            total += (z.log() + top - picked).sum().item()
            p.mul_(scale / z)
            p.scatter_add_(1, tc[:, None], torch.full_like(z, -scale))
            torch.mm(p, w, out=dh[a:a + chunk])
            dw.addmm_(p.t(), hc)
        ctx.save_for_backward(dh, dw)
        return torch.tensor(total)

    @staticmethod
    def backward(ctx, g):
        dh, dw = ctx.saved_tensors
        return dh, dw, None, None                     # the scale is inside: call backward() with gradient 1


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        h, V, L = cfg["hidden_size"], cfg["vocab_size"], cfg["num_hidden_layers"]
        self.embed_tokens = nn.Embedding(V, h)
        self.layers = nn.ModuleList(Layer(cfg, i >= cfg["first_k_dense_replace"]) for i in range(L))
        self.norm = RMSNorm(h, cfg["rms_norm_eps"])
        self.lm_head = nn.Linear(h, V, bias=False)
        self.mtp = Layer(cfg, True)
        self.enorm = RMSNorm(h, cfg["rms_norm_eps"])
        self.hnorm = RMSNorm(h, cfg["rms_norm_eps"])
        self.eh_proj = nn.Linear(2 * h, h, bias=False)
        self.mtp_norm = RMSNorm(h, cfg["rms_norm_eps"])
        self.register_buffer("cis", rope_table(cfg, cfg["max_position_embeddings"]), persistent=False)
        self.init()

    def init(self):
        for name, p in self.named_parameters():
            if p.ndim < 2:
                nn.init.ones_(p)
            elif "embed_tokens" in name:
                nn.init.normal_(p, std=0.1)
            elif "lm_head" in name:
                nn.init.normal_(p, std=0.01)
            elif "o_proj" in name or "down" in name:
                nn.init.zeros_(p)
            else:
                nn.init.normal_(p, std=0.7 * p.shape[-1] ** -0.5)

    def hidden(self, ids):
        """ids[B, T] -> hidden states after the final norm, [B, T, h]."""
        cis = self.cis[:ids.shape[1]]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cis)
        return self.norm(x)

    def mtp_hidden(self, h, next_ids):
        """h[B, T, h] from hidden(), next_ids[B, T] = the token after each position -> rows that predict the one after that."""
        z = self.eh_proj(torch.cat([self.enorm(self.embed_tokens(next_ids)), self.hnorm(h)], -1))
        return self.mtp_norm(self.mtp(z, self.cis[:next_ids.shape[1]]))

    def moes(self):
        return [m for m in self.modules() if isinstance(m, MoE)]

    def hf_state(self):
        """The checkpoint: {published name: tensor}, experts cut apart."""
        out = {}
        L = self.cfg["num_hidden_layers"]
        for name, t in self.state_dict().items():
            if name.startswith("mtp."):
                name = f"layers.{L}." + name[4:]
            elif name.split(".")[0] in ("enorm", "hnorm", "eh_proj"):
                name = f"layers.{L}." + name
            elif name.startswith("mtp_norm."):
                name = f"layers.{L}.shared_head.norm.weight"
            name = name if name.startswith("lm_head") else "model." + name
            if name.endswith("mlp.gate_up"):
                mi = t.shape[1] // 2
                for e in range(t.shape[0]):
                    out[f"{name[:-7]}experts.{e}.gate_proj.weight"] = t[e, :mi]
                    out[f"{name[:-7]}experts.{e}.up_proj.weight"] = t[e, mi:]
            elif name.endswith("mlp.down"):
                for e in range(t.shape[0]):
                    out[f"{name[:-4]}experts.{e}.down_proj.weight"] = t[e]
            else:
                out[name.replace("mlp.e_score", "mlp.gate.e_score")] = t
        return out

    def load_hf_state(self, tensors):
        """The inverse of hf_state(): tensors as read from model.safetensors."""
        mine = self.hf_state()                        # views of the parameters for all but reshaped names
        assert set(mine) == set(tensors), set(mine) ^ set(tensors)
        with torch.no_grad():
            for name, t in mine.items():
                assert t.shape == tensors[name].shape, name
                t.copy_(tensors[name].float())


def demo_config():
    """config.json of the demo model."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
        "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 384, "moe_intermediate_size": 64,
        "num_hidden_layers": 5, "num_nextn_predict_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8,
        "q_lora_rank": 96, "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
        "n_routed_experts": 16, "num_experts_per_tok": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True,
        "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None, "rope_interleave": True,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "initializer_range": 0.02, "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def parameter_count(model):
    return sum(p.numel() for p in model.parameters()) + sum(m.E for m in model.moes())
