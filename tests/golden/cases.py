"""The golden cases: config.json keys and how weights are drawn.  `make_golden.py` writes them.

A case is a dict: `config` (the whole config.json), `prompts` (lengths), `new` (greedy tokens) and
optional drawing hints, each with its default in HINTS.
"""

HINTS = {
    "dtype": "BF16",            # of all weights
    "bias_dtype": "F32",        # of e_score_correction_bias
    "bias": ("uniform", 0.5),   # U(-a, a); ("normal", m): m + N; ("shift", m, a): m + U(-a, a)
    "logit_shift": None,        # per MoE layer: router logits moved by about this much
    "gate_std": 0.15,           # of the router
    "latent_std": 0.15,         # of q_a_proj and kv_a_proj_with_mqa
    "head_std": 0.2,            # of q_b_proj and kv_b_proj
    "shards": 1,                # files; more than one adds model.safetensors.index.json
    "prefix": "",               # before every tensor name
    "foreign": {},              # {name: shape} of tensors a text engine must skip
    "fp8": None,                # projections in e4m3: {"scale": "random" or "power_of_two",
                                # "scale_dtype": ..., "code_std": of the stored fp8 numbers}
    "int4": None,               # routed experts in int4: dtype of weight_shape
    "fused": False,             # routed experts of a layer in two 3-D tensors
}

YARN40_V2 = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32,
             "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}
YARN40 = {**YARN40_V2, "mscale": 1.0, "mscale_all_dim": 1.0}

V2 = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
    "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 96, "initializer_range": 0.02,
    "intermediate_size": 136, "kv_lora_rank": 32, "max_position_embeddings": 1024,
    "moe_intermediate_size": 12, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 8,
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
SMALL = {"hidden_size": 60, "intermediate_size": 76, "moe_intermediate_size": 10,
         "num_hidden_layers": 2, "vocab_size": 160}
NO_MTP = {"num_nextn_predict_layers": 0}


def heads(n):
    return {"num_attention_heads": n, "num_key_value_heads": n}


# keys that a model without experts does not write
NO_EXPERTS = ("ep_size", "first_k_dense_replace", "moe_intermediate_size", "moe_layer_freq", "n_group",
              "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_experts_per_tok",
              "num_nextn_predict_layers", "routed_scaling_factor", "scoring_func", "topk_group",
              "topk_method")


def case(about, config, prompts=(3, 70), new=16, **hints):
    return {"about": about, "config": config, "prompts": list(prompts), "new": new,
            **HINTS, **hints}


# new-style keys (transformers 5): rope_theta inside rope_parameters, `dtype` for `torch_dtype`
NEW_STYLE = {"rope_scaling": None, "rope_theta": None, "torch_dtype": None, "dtype": "bfloat16"}


def without_none(config, keys):
    return {k: v for k, v in config.items() if not (k in keys and v is None)}


K2 = {**V3, **SMALL, **NO_MTP, "model_type": "kimi_k2", "n_group": 1, "topk_group": 1,
      "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "routed_scaling_factor": 2.827,
      "rope_scaling": {**YARN40, "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0}}

GLM = without_none({
    **V3, **SMALL, **NO_MTP, **heads(5), **NEW_STYLE, "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite", "eos_token_id": [1, 150, 157], "first_k_dense_replace": None,
    "mlp_layer_types": ["dense", "sparse"], "moe_layer_freq": None,
    "n_group": 1, "topk_group": 1, "n_routed_experts": 8, "qk_nope_head_dim": 24, "v_head_dim": 32,
    "rms_norm_eps": 1e-5, "rope_interleave": True, "routed_scaling_factor": 1.8,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
}, ("first_k_dense_replace", "moe_layer_freq", *NEW_STYLE))

# Quantized and fused: blocks of 128 x 128 are ragged in every direction.
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
       "weight_block_size": [128, 128]}
INT4 = {
    "quant_method": "compressed-tensors", "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
               "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {"group_0": {
        "targets": ["Linear"], "input_activations": None, "output_activations": None,
        "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                    "group_size": 32, "dynamic": False, "actorder": None, "block_structure": None,
                    "observer": "minmax"}}},
}


def experts(n, top_k):
    return {"n_routed_experts": n, "num_experts_per_tok": top_k, "n_group": 1, "topk_group": 1}


CASES = {
    "t1-v2-greedy": case("V2-Lite shape: no q_lora, softmax greedy, 2 shared, YaRN 40 .707/.707",
                         V2, (5, 133, 1)),
    "t2-v2-group": case("V2 shape: q_lora, expert groups by maximum, x16, YaRN 40 1/1; 4 heads",
                        {**V2_GROUP, **heads(4)}, (5, 70, 1)),
    "t2b-norm": case("norm_topk_prob true in V2: weights normalized and then not scaled; 4 heads",
                     {**V2_GROUP, **SMALL, **heads(4), "norm_topk_prob": True}),
    "t2c-layer-freq": case("moe_layer_freq 2: of three layers only layer 2 is MoE; 3 heads",
                           {**V2_GROUP, **SMALL, "num_hidden_layers": 3, "moe_layer_freq": 2}),
    "t2d-attention-bias": case("attention_bias: bias on q_a, kv_a and o; 6 heads",
                               {**V2_GROUP, **SMALL, **heads(6), "attention_bias": True}),
    "t3-v3": case("V3 shape: sigmoid, correction bias, groups by top-2 sum, norm, x2.5, MTP "
                  "layer 3; 5 heads", {**V3, **heads(5)}, (5, 70, 133, 1)),
    "t3b-negative-bias": case("correction bias -3 + N: masked groups must be -inf, not 0",
                              {**V3, **SMALL, **NO_MTP, **heads(4)}, bias=("normal", -3.0)),
    "t3c-tiny-sigmoid": case("router logits near -20 (layer 1) and -46 (layer 2), bias near 12: "
                             "(s + b) - b loses s, and 1e-20 shows in the normalization",
                             {**V3, **SMALL, **NO_MTP, **heads(5), "num_hidden_layers": 3},
                             bias=("shift", 12.0, 0.5), logit_shift={1: -20.0, 2: -46.0}),
    "t3d-mscale": case("mscale 1, mscale_all_dim 0.5: cos and sin amplitude not 1; 7 heads",
                       {**V3, **SMALL, **NO_MTP, **heads(7),
                        "rope_scaling": {**YARN40, "mscale_all_dim": 0.5}}),
    "t4-k2": case("Kimi-K2: no groups, YaRN 32 with beta 1/1 (a step), theta 5e4, x2.827, eps 1e-5 "
                  "with latents small enough to feel it; 8 heads",
                  {**K2, **heads(8)}, (1, 70), latent_std=0.002),
    "t4b-nested": case("Kimi-K2.5: text_config, tensors under language_model., foreign tensors to "
                       "skip, YaRN 64 32/1",
                       {"architectures": ["KimiK25ForConditionalGeneration"],
                        "model_type": "kimi_k25", "torch_dtype": "bfloat16",
                        "vision_config": {"hidden_size": 16, "num_hidden_layers": 1},
                        "text_config": {**K2, **heads(6),
                                        "rope_scaling": {**YARN40, "factor": 64.0}}},
                       prefix="language_model.",
                       foreign={"vision_tower.patch_embed.proj.weight": (16, 12),
                                "mm_projector.linear_1.weight": (60, 16)}),
    "t5-glm-lite": case("GLM-4.7-Flash: d_nope 24, d_v 32, rope_parameters default theta 1e6, "
                        "mlp_layer_types, eos list, x1.8", GLM),
    "t6-moonlight": case("no q_lora in V3, no rope scaling, n_group null, 10 experts, vocab 163, "
                         "kv_lora_rank 24, x2.446",
                         {**V3, **SMALL, **NO_MTP, **heads(3), "q_lora_rank": None, "n_group": None,
                          "topk_group": None, "n_routed_experts": 10, "n_shared_experts": 2,
                          "num_experts_per_tok": 3, "kv_lora_rank": 24, "vocab_size": 163,
                          "rope_scaling": None, "routed_scaling_factor": 2.446}),
    "t7-f16": case("f16 weights, 12 experts in 3 groups; 6 heads",
                   {**V2_GROUP, **SMALL, **heads(6), "n_routed_experts": 12, "n_group": 3,
                    "torch_dtype": "float16"}, dtype="F16"),
    "t8-f32": case("f32 weights, 8 experts in 2 groups of which 1 is kept",
                   {**V3, **SMALL, **NO_MTP, **heads(4), "n_routed_experts": 8, "n_group": 2,
                    "topk_group": 1, "num_experts_per_tok": 2, "torch_dtype": "float32"},
                   dtype="F32"),
    "t9-shards": case("three files with an index, correction bias stored in bf16, MTP layer 2; "
                      "7 heads", {**V3, **SMALL, **heads(7), "n_routed_experts": 8,
                                  "num_experts_per_tok": 3}, shards=3, bias_dtype="BF16"),
    "t10-tied": case("tie_word_embeddings: no lm_head tensor; 3 heads", {
        **V2, **SMALL, "tie_word_embeddings": True}),
    "t11-dense": case("no experts (n_routed_experts null), q_lora; 6 heads",
                      {**V3, **SMALL, **NO_MTP, **heads(6), "n_routed_experts": None,
                       "n_shared_experts": None, "num_experts_per_tok": None,
                       "num_hidden_layers": 3}),
    "t12-rope-parameters": case("rope_parameters with YaRN inside, original context 32, d_rope 16, "
                                "MoE from layer 0; 6 heads",
                                without_none({**V3, **SMALL, **NO_MTP, **heads(6), **NEW_STYLE,
                                              "qk_rope_head_dim": 16, "first_k_dense_replace": 0,
                                              "rope_parameters": {
                                                  "rope_type": "yarn", "rope_theta": 10000.0,
                                                  "factor": 40.0, "beta_fast": 32.0,
                                                  "beta_slow": 1.0, "mscale": 1.0,
                                                  "mscale_all_dim": 1.0,
                                                  "original_max_position_embeddings": 32}},
                                             NEW_STYLE)),
    "t20-fp8": case("fp8 with random f32 scales: kv_a of 1.5 blocks, kv_b heads of 160 rows; "
                    "3 heads, 5 experts",
                    {**V3, **SMALL, **NO_MTP, **heads(3), **experts(5, 2), "hidden_size": 192,
                     "q_lora_rank": 160, "kv_lora_rank": 128, "qk_rope_head_dim": 64,
                     "qk_nope_head_dim": 64, "v_head_dim": 96, "moe_intermediate_size": 96,
                     "intermediate_size": 320, "vocab_size": 100, "quantization_config": FP8},
                    fp8={"scale": "random", "scale_dtype": "F32", "code_std": 120},
                    latent_std=0.1, head_std=0.1),
    "t20b-fp8-pow2": case("fp8 with f32 scales that are powers of two, most codes subnormal, no "
                          "q_lora; 5 heads, 6 experts",
                          {**V3, **SMALL, **NO_MTP, **heads(5), **experts(6, 2),
                           "hidden_size": 132, "intermediate_size": 136, "q_lora_rank": None,
                           "qk_nope_head_dim": 24, "v_head_dim": 32, "moe_intermediate_size": 24,
                           "vocab_size": 101,
                           "quantization_config": {**FP8, "scale_fmt": "ue8m0"}},
                          fp8={"scale": "power_of_two", "scale_dtype": "F32", "code_std": 0.015}),
    "t20c-fp8-e8m0": case("fp8 with scales stored as E8M0, experts of 1.1 blocks; 7 heads, "
                          "5 experts",
                          {**V3, **SMALL, **NO_MTP, **heads(7), **experts(5, 2),
                           "moe_intermediate_size": 136, "v_head_dim": 24, "vocab_size": 101,
                           "quantization_config": {**FP8, "scale_fmt": "ue8m0"}},
                          fp8={"scale": "power_of_two", "scale_dtype": "F8_E8M0",
                               "code_std": 120}),
    "t20d-fp8-fused": case("fp8 experts in two 3-D tensors with 3-D scales, as the fp8 classes of "
                           "transformers keep them; 4 heads, 3 experts",
                           {**V3, **SMALL, **NO_MTP, **heads(4), **experts(3, 2),
                            "moe_intermediate_size": 256, "vocab_size": 101,
                            "quantization_config": FP8},
                           fp8={"scale": "random", "scale_dtype": "F32", "code_std": 120},
                           fused=True),
    "t21-int4": case("Kimi-K2.5 in int4: nested text_config holds quantization_config, prefix "
                     "language_model.; 6 heads, 5 experts",
                     {"architectures": ["KimiK25ForConditionalGeneration"],
                      "model_type": "kimi_k25", "torch_dtype": "bfloat16",
                      "text_config": {**K2, **heads(6), **experts(5, 2), "hidden_size": 64,
                                      "moe_intermediate_size": 64, "quantization_config": INT4}},
                     prefix="language_model.", int4="I32"),
    "t21b-int4-odd": case("int4 in a flat V3 config, rows of three groups, weight_shape i64; "
                          "5 heads, 7 experts",
                          {**V3, **SMALL, **NO_MTP, **heads(5), **experts(7, 3),
                           "hidden_size": 64, "moe_intermediate_size": 96,
                           "quantization_config": INT4}, int4="I64"),
    "t22-fused": case("experts of a layer in two 3-D tensors, three files; 5 heads, 7 experts",
                      {**V3, **SMALL, **NO_MTP, **heads(5), **experts(7, 3)},
                      fused=True, shards=3),
    "t24-axk1": case("A.X-K1: the sum of shared and routed experts normed before it is added; "
                     "3 heads", {**V3, **SMALL, **NO_MTP, **heads(3), "model_type": "axk1",
                                 "architectures": ["AXK1ForCausalLM"]}),
    "t25-youtu": case("Youtu-LLM: V3's attention, every layer dense, tied embeddings; 5 heads",
                      {k: v for k, v in {**V3, **SMALL, **heads(5), "model_type": "youtu",
                                         "architectures": ["YoutuForCausalLM"],
                                         "tie_word_embeddings": True}.items()
                       if k not in NO_EXPERTS}),
}
