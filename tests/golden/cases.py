"""The golden cases: config.json keys and how weights are drawn.  `make_golden.py` writes them.

A case is a dict: `config` (the whole config.json), `prompts` (lengths), `new` (greedy tokens) and
optional drawing hints, each with its default in HINTS.
"""

HINTS = {
    "dtype": "BF16",            # of all weights
    "bias_dtype": "F32",        # of e_score_correction_bias
    "bias": ("uniform", 0.5),   # ("uniform", a): U(-a, a); ("normal", m): m + N; ("shift", m, a): m + U(-a, a)
    "logit_shift": None,        # per MoE layer: router logits moved by about this much
    "gate_std": 0.15,           # of the router
    "latent_std": 0.15,         # of q_a_proj and kv_a_proj_with_mqa
    "shards": 1,                # files; more than one adds model.safetensors.index.json
    "prefix": "",               # before every tensor name
    "foreign": {},              # {name: shape} of tensors a text engine must skip
}

YARN40_V2 = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32,
             "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}
YARN40 = {**YARN40_V2, "mscale": 1.0, "mscale_all_dim": 1.0}

V2 = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
    "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 96, "initializer_range": 0.02,
    "intermediate_size": 160, "kv_lora_rank": 32, "max_position_embeddings": 1024,
    "moe_intermediate_size": 16, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 8,
    "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 3,
    "num_experts_per_tok": 3, "num_hidden_layers": 3, "num_key_value_heads": 3, "q_lora_rank": None,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-6, "rope_scaling": YARN40_V2,
    "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
    "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy",
    "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 12, "vocab_size": 320,
}
V2_GROUP = {**V2, "q_lora_rank": 40, "n_routed_experts": 16, "n_group": 4, "topk_group": 2,
            "num_experts_per_tok": 4, "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 16.0, "rope_scaling": YARN40}
V3 = {
    **V2, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "ep_size": 1,
    "n_group": 4, "n_routed_experts": 16, "n_shared_experts": 1, "norm_topk_prob": True,
    "num_experts_per_tok": 4, "num_nextn_predict_layers": 1, "q_lora_rank": 40,
    "rope_scaling": YARN40, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "topk_group": 2, "topk_method": "noaux_tc",
}
# Variants are smaller in every direction that they do not exercise, to keep the repository small.
SMALL = {"hidden_size": 72, "intermediate_size": 104, "moe_intermediate_size": 12,
         "num_hidden_layers": 2, "vocab_size": 160}
NO_MTP = {"num_nextn_predict_layers": 0}


def heads(n):
    return {"num_attention_heads": n, "num_key_value_heads": n}


def case(about, config, prompts=(3, 70), new=16, **hints):
    return {"about": about, "config": config, "prompts": list(prompts), "new": new,
            **HINTS, **hints}


LONG = (5, 70, 133, 1)

CASES = {
    "t1-v2-greedy": case("V2-Lite shape: no q_lora, softmax greedy, 2 shared, YaRN 40 .707/.707",
                         V2, LONG, 20),
    "t2-v2-group": case("V2 shape: q_lora, expert groups by maximum, x16, YaRN 40 1/1",
                        {**V2_GROUP, **heads(4)}, LONG, 20),
    "t3-v3": case("V3 shape: sigmoid, correction bias, groups by top-2 sum, norm, x2.5, MTP layer 3",
                  {**V3, **heads(5)}, LONG, 20),
}
