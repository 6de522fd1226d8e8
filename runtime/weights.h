/* weights.h - every tensor of a checkpoint: its name, its shape, and how it is split.
 *
 * One table (weights.c) describes both graphs; the loader, `inspect` and
 * `make-model` all walk it, so a name or a split stands in one place.
 * Names and shapes: Hugging Face layout of DeepSeek-V2 and V3.
 */
#ifndef RUNTIME_WEIGHTS_H
#define RUNTIME_WEIGHTS_H

#include "kernels/ops.h"
#include "parallel/shard_plan.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"

/* Part of a rank, by what is cut. */
enum weight_split {
    SPLIT_NONE,           /* every rank holds all of it            */
    SPLIT_VOCAB_ROWS,     /* embedding and lm_head                 */
    SPLIT_HEAD_ROWS,      /* rows of heads: q_proj, q_b, kv_b      */
    SPLIT_HEAD_COLUMNS,   /* columns of heads: o_proj              */
    SPLIT_DENSE_ROWS,     /* gate and up of a dense FFN            */
    SPLIT_DENSE_COLUMNS,  /* down of a dense FFN                   */
    SPLIT_SHARED_ROWS,    /* gate and up of the shared expert      */
    SPLIT_SHARED_COLUMNS, /* down of the shared expert             */
    SPLIT_EXPERT_ROWS,    /* gate and up: own experts, own columns */
    SPLIT_EXPERT_COLUMNS  /* down: own experts, own columns        */
};

enum weight_field {
    WEIGHT_EMBEDDING,
    WEIGHT_FINAL_GAIN,
    WEIGHT_HEAD,
    WEIGHT_ATTENTION_GAIN,
    WEIGHT_FFN_GAIN,
    WEIGHT_Q,  /* q_proj: without query compression */
    WEIGHT_DQ, /* q_a_proj: W^DQ */
    WEIGHT_DQ_BIAS,
    WEIGHT_CQ_GAIN,
    WEIGHT_UQ,  /* q_b_proj: W^UQ and W^QR, per head d_n then d_r rows */
    WEIGHT_DKV, /* kv_a_proj_with_mqa: W^DKV and W^KR, d_c then d_r rows */
    WEIGHT_DKV_BIAS,
    WEIGHT_CKV_GAIN,
    WEIGHT_UKV, /* kv_b_proj: per head d_n rows of W^UK, then d_v rows of W^UV */
    WEIGHT_O,
    WEIGHT_O_BIAS,
    WEIGHT_DENSE_GATE,
    WEIGHT_DENSE_UP,
    WEIGHT_DENSE_DOWN,
    WEIGHT_ROUTER,
    WEIGHT_ROUTER_BIAS,
    WEIGHT_EXPERT_NORM_GAIN,
    WEIGHT_EXPERT_GATE,
    WEIGHT_EXPERT_UP,
    WEIGHT_EXPERT_DOWN,
    WEIGHT_SHARED_GATE,
    WEIGHT_SHARED_UP,
    WEIGHT_SHARED_DOWN
};

/* Whether a field is a Linear layer of attention or of an FFN: neither the router nor the head. */
int weight_is_linear(enum weight_field field);
static inline int weight_is_expert(enum weight_field field)
{
    return field == WEIGHT_EXPERT_GATE || field == WEIGHT_EXPERT_UP || field == WEIGHT_EXPERT_DOWN;
}

/* One tensor of the checkpoint. */
struct weight_item {
    enum weight_field field;
    enum weight_split split;
    int layer;  /* -1: of no layer */
    int expert; /* -1: of no expert */
    int slot;   /* where it stands among the experts of the layer (parallel/expert_map.h), or -1 */
    int ndim;   /* 1 or 2 */
    int64_t dim[2];
    int is_f32; /* stored as f32 by make-model whatever its --dtype */
    char name[160];
};

/* How the numbers of a tensor stand in the checkpoint. */
struct weight_source {
    enum dtype dtype;                      /* F32, F16, BF16, F8_E4M3 or I4 */
    const struct safetensors_entry *value; /* I4: eight to an I32; NULL: random weights */
    /* The tensor's row 0 among the rows of `value`: routed experts may be one tensor
     * gate_up_proj [E, 2 columns, d] and one down_proj [E, d, columns] a layer. */
    int64_t first_row;

    /* Of quantized ones: weight (r, k) is its number times the scale in row scale_row +
     * (r + into_block) / scale_rows and column k / scale_columns of `scale`. */
    const struct safetensors_entry *scale;
    enum dtype scale_dtype; /* F32, F16, BF16 or F8_E8M0 */
    int scale_rows, scale_columns;
    int64_t scale_row, into_block;
};

/* Where a tensor stands in the checkpoint; with `checkpoint` NULL what make-model would write.
 * Errors: STATUS_INVALID (missing tensor, wrong shape), STATUS_UNSUPPORTED (a type we do not multiply
 * from); the text names file, tensor, found, expected. */
enum status weights_find(const struct model_config *config, const struct safetensors *checkpoint,
                         const struct weight_item *item, struct weight_source *source);

/* Bytes of rows x columns of a tensor as stored, with the scales that belong to them alone. */
int64_t weight_source_bytes(const struct weight_source *source, const struct span *rows,
                            const struct span *columns);

/* Calls `visit` for every tensor the graph needs, in the order of the forward pass, until it fails.
 * MTP layers are not visited. */
typedef enum status (*weight_visitor)(void *context, const struct weight_item *item);
enum status weights_each(const struct model_config *config, weight_visitor visit, void *context);

/* The same with the experts of each layer in the order of their slots, an expert once for each of its copies;
 * maps[n_layers], or NULL: weights_each. */
enum status weights_each_slot(const struct model_config *config, const struct expert_map *maps,
                              weight_visitor visit, void *context);

/* The rows and columns of a tensor that a rank of this plan holds of it, were it to hold that expert;
 * one of the two may be empty. */
void weight_cut(const struct model_config *config, const struct shard_plan *plan,
                const struct weight_item *item, struct span *rows, struct span *columns);

/* 1 when the rank's stage needs the tensor: a layer of its own, the embedding, the head. */
int weight_is_held(const struct model_config *config, const struct shard_plan *plan,
                   const struct weight_item *item);

/* The rows and columns of a tensor that a rank of this plan reads; both empty when it reads nothing.  With
 * expert maps an item of weights_each_slot is asked for. */
void weight_slice(const struct model_config *config, const struct shard_plan *plan,
                  const struct weight_item *item, struct span *rows, struct span *columns);

/* What a plan cuts, for shard_plan_build; without expert maps. */
struct model_extent weights_extent(const struct model_config *config);

/* Bytes of the tensors, as stored, that a rank of this plan reads.  With `checkpoint` NULL those that
 * make-model would write: the config's dtype (f32 where is_f32) and quantization. */
enum status weights_rank_bytes(const struct model_config *config,
                               const struct safetensors *checkpoint, const struct shard_plan *plan,
                               int64_t *bytes);

/* The same as --weight-dtype int8 keeps them (runtime/weight_quantize.h). */
enum status weights_rank_i8_bytes(const struct model_config *config,
                                  const struct safetensors *checkpoint,
                                  const struct shard_plan *plan, int64_t *bytes);

/* Checks that the checkpoint has every tensor with the right shape and a dtype we multiply from.
 * Errors: STATUS_INVALID, STATUS_UNSUPPORTED; the text names file, tensor, found, expected.  A tensor
 * that belongs to no known part (a graph we do not have) is refused by name; MTP tensors
 * (model.layers.{n_layers ..}) and rotary_emb.inv_freq are skipped. */
enum status weights_check(const struct model_config *config, const struct safetensors *checkpoint);

/* The weights of one rank, in device memory. */
struct mla_weights {
    struct matrix w_dq, w_uq; /* w_uq [H (d_n + d_r), d_cq or d]; w_dq.n = 0 without compression */
    struct tensor cq_gain;
    struct matrix w_dkv; /* [d_c + d_r, d] */
    struct tensor ckv_gain;
    struct matrix w_uk_t; /* H x [d_c, d_n]: absorbed into the query */
    struct matrix w_uk;   /* H x [d_n, d_c]: expanded keys; n = 0 when never expanded */
    struct matrix w_uv;   /* H x [d_v, d_c] */
    struct matrix w_o;    /* [d, H d_v]; units over heads */
    struct tensor dq_bias, dkv_bias, o_bias; /* data NULL: none */
};

struct ffn_weights {
    struct matrix gate, up; /* [columns, d] */
    struct matrix down;     /* [d, columns]; units over columns */
};

struct layer_weights {
    struct tensor attention_gain, ffn_gain;
    struct mla_weights mla;
    int is_moe;
    struct ffn_weights ffn; /* the dense FFN, or the shared expert (columns 0: none) */
    struct matrix router;   /* [E, d] */
    struct tensor router_bias;
    struct tensor expert_norm_gain; /* data NULL: none */
    struct expert_weights experts;
};

/* Points everything in `weights` that lies at `from` and beyond to the same place of `to`: the memory has
 * been copied. */
struct weights;
void weights_move(struct weights *weights, int n_layers, const void *from, void *to);

struct weights {
    struct tensor embedding;     /* [own vocabulary rows, d], stored type; of the first stage */
    struct tensor final_gain;    /* of the last stage, as the head */
    struct matrix head;          /* [own vocabulary rows, d] */
    struct layer_weights *layer; /* [n_layers], those of other stages empty */
    int64_t bytes_read;          /* from files */
    int64_t bytes_resident;      /* in device memory */
};

#endif
