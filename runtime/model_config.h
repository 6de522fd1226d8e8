/* model_config.h - config.json of the DeepSeek-V2 and V3 graphs.
 *
 * One structure describes both; what differs between them is data.  Names are
 * those of the paper (arXiv 2405.04434, 2412.19437), in brackets the key.
 */
#ifndef RUNTIME_MODEL_CONFIG_H
#define RUNTIME_MODEL_CONFIG_H

#include "kernels/core/dtype.h"
#include "kernels/core/status.h"
#include "kernels/ops.h"

enum { MODEL_MAX_LAYERS = 256, MODEL_MAX_EOS = 8 };

struct rope_config {
    int is_yarn;
    float theta;                        /* rope_theta */
    float factor, beta_fast, beta_slow; /* YaRN */
    float mscale, mscale_all_dim;
    float attention_factor; /* 0: absent */
    int has_mscale, has_mscale_all_dim;
    int original_max_position; /* original_max_position_embeddings */
};

/* How the checkpoint stores the weights of its Linear layers. */
enum quantization {
    QUANTIZED_NONE,
    QUANTIZED_FP8, /* e4m3, a scale for each block: attention, FFNs, experts (DeepSeek-V3, 3.3) */
    QUANTIZED_INT4 /* 4 bits, a scale for each group of a row: routed experts only (Kimi-K2) */
};

struct model_config {
    char architecture[64]; /* architectures[0] */
    char model_type[64];
    int is_v3;        /* the V3 graph: sigmoid routing by default */
    int n_layers;     /* num_hidden_layers, without MTP */
    int n_mtp_layers; /* num_nextn_predict_layers, skipped here */
    int64_t d;        /* hidden_size */
    int64_t vocab_size;
    int n_heads;                 /* num_attention_heads */
    int64_t d_cq;                /* q_lora_rank; 0: q_proj without compression */
    int64_t d_c;                 /* kv_lora_rank */
    int64_t d_n, d_r, d_v;       /* qk_nope_head_dim, qk_rope_head_dim, v_head_dim */
    int64_t dense_columns;       /* intermediate_size */
    int64_t expert_columns;      /* moe_intermediate_size */
    int n_shared_experts;        /* one FFN of n_shared_experts * expert_columns */
    struct router_params router; /* n_experts 0: a dense model */
    unsigned char is_moe[MODEL_MAX_LAYERS];
    struct rope_config rope;
    float epsilon;          /* rms_norm_eps, also of the latent norms */
    int has_expert_norm;    /* u of experts is normed once more, before it is added (A.X-K1) */
    int has_attention_bias; /* q_a_proj, kv_a_proj_with_mqa, o_proj; never q_proj */
    int ties_embeddings;    /* lm_head is the embedding */
    int max_position;       /* max_position_embeddings */
    enum dtype dtype;       /* torch_dtype or dtype; BF16 when absent */
    enum quantization quantization;
    int scale_rows, scale_columns; /* the weights that share a scale: 128 x 128, 1 x 32 */
    int bos_id;                    /* -1: none */
    int n_eos, eos_id[MODEL_MAX_EOS];
    char tensor_prefix[32]; /* "" or "language_model." */
    int n_index_heads;      /* index_n_heads: the indexer of sparse attention, only counted here */
    int64_t index_head_dim; /* index_head_dim */
    /* Empty, or why this version cannot run it ("not in this version: an indexer (DeepSeek sparse
     * attention)").  Counting parameters works all the same where `is_countable`; else only the first
     * two members are set. */
    char unsupported[256];
    int is_countable;
};

/* Reads `path`, a config.json, or a directory that holds one (generation_config.json beside it gives
 * the eos ids, if there).  Nested text_config is followed.  Every value is checked for type and range;
 * absurd or contradictory ones are refused.
 * Errors: STATUS_IO, STATUS_INVALID (text: file, key, found, expected).  A graph we do not have is
 * not an error here: see `unsupported`. */
enum status model_config_load(struct model_config *config, const char *path);

/* The same from JSON text; `name` stands in messages. */
enum status model_config_parse(struct model_config *config, const char *json, size_t length,
                               const char *name);

/* Fails with STATUS_UNSUPPORTED, naming `path`, the graph and what is lacking, unless this version runs
 * the model.  Sizes are not set in a config that is not countable: call this before using them. */
enum status model_config_check_supported(const struct model_config *config, const char *path);

/* (d_n + d_r)^-0.5, times the square of YaRN's m(factor, mscale_all_dim) (arXiv 2405.04434, B). */
float model_config_softmax_scale(const struct model_config *config);

/* cos_sin[n_positions, d_r] of ops.h `rope`, in host memory; angles in double, stored as f32. */
void model_config_cos_sin(const struct model_config *config, float *cos_sin, int64_t n_positions);

/* inv_freq[d_r / 2]. */
void model_config_inv_freq(const struct model_config *config, double *inv_freq);

/* Sizes in numbers of parameters. */
struct model_size {
    int64_t parameters; /* without MTP */
    int64_t mtp_parameters;
    int64_t active_parameters; /* used per token: without the embedding table, with lm_head */
};

/* Counts from the shapes that the config implies, no weights needed. */
void model_config_size(const struct model_config *config, struct model_size *size);

#endif
