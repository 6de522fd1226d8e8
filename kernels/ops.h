/* ops.h - the mathematics a backend must provide.
 *
 * Outputs come first, as in y = f(x).  Every operation is queued on `stream`
 * and may return before the result is ready (the CPU runs it at once).
 * Activations are f32 and each row of the innermost dimension is contiguous.
 *
 * T: tokens of the step (rows, over all its sequences), H: heads on this rank,
 * d: hidden size, d_c: latent width, d_r: RoPE width, d_n: NoPE width of a
 * head, d_v: value width, E: routed experts of the model, K: experts of a
 * token.  Any of T, H, n, k and the number of local experts may be 0.
 *
 * Equation numbers are those of the DeepSeek-V3 report, arXiv 2412.19437, 2.1.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/core/device.h"
#include "kernels/core/matrix.h"
#include "kernels/core/tensor.h"

enum { PAGE_ROWS = 64 }; /* cached tokens in a page */

/* The cached rows of the sequences of a step, for one layer.  Row j of sequence s is row
 * j % PAGE_ROWS of page table[s][j / PAGE_ROWS]; a negative entry is a page held elsewhere: attention skips it,
 * cache_append does not write it, cache_read refuses it. */
struct page_view {
    struct tensor rows;     /* [n_pages, PAGE_ROWS, cache_row_width]: c^KV, then k^R         */
    struct tensor table;    /* [n_seq, max_pages] i32                                      */
    struct tensor seq_of;   /* [T] i32: the sequence (row of `table`) of each token        */
    struct tensor position; /* [T] i32: its position; it sees rows 0 .. position           */
    int64_t d_c, d_r;
};

/* Elements of a cached row: d_c + d_r numbers of F32 or BF16, or, with U8, the bytes of "fp8_ds_mla"
 * (FlashMLA, README): d_c e4m3 numbers; an f32 scale for each 128 of them, by which they are
 * multiplied; d_r bf16 numbers. */
enum { CACHE_SCALE_STEP = 128 };
static inline int64_t cache_row_width(enum dtype dtype, int64_t d_c, int64_t d_r)
{
    int64_t scales = (d_c + CACHE_SCALE_STEP - 1) / CACHE_SCALE_STEP;
    return dtype == DTYPE_U8 ? d_c + 4 * scales + 2 * d_r : d_c + d_r;
}

/* Unfinished softmax over some of the rows: o = sum exp(s - m) v, m = max s, l = sum exp(s - m).
 * An empty state has m = -infinity, l = 0, o = 0.  Strides between tokens and heads are free, also
 * those of m and l. */
struct attention_state {
    struct tensor o; /* [T, H, width], width = d_c (absorbed) or d_v (expanded) */
    struct tensor m; /* [T, H] */
    struct tensor l; /* [T, H] */
};

enum router_scoring { ROUTER_SOFTMAX, ROUTER_SIGMOID };
enum router_method {
    ROUTER_GREEDY,        /* the K largest scores                                   */
    ROUTER_GROUP_LIMITED, /* V2: groups by their largest score, then the K largest  */
    ROUTER_NOAUX_TC       /* V3: scores + bias select; groups by the sum of their two largest */
};

struct router_params {
    enum router_scoring scoring;
    enum router_method method;
    int n_experts, n_chosen;       /* E, K                                            */
    int n_groups, n_chosen_groups; /* 1, 1: no groups                                */
    int normalize;                 /* norm_topk_prob                                  */
    float scale;                   /* routed_scaling_factor                           */
};

/* The routed experts of one rank: whole experts [first, first + gate.count), each cut to the rank's
 * columns of its intermediate width.  Where experts are placed by their load, ids are slots: those that
 * `experts` gets too. */
struct expert_weights {
    struct matrix gate, up; /* count x [columns, d] */
    struct matrix down;     /* count x [d, columns]; units over the columns */
    int first;              /* id of the first local expert */
    int n_experts;          /* E: the units over experts are those of E items */
};

struct ops {
    const char *name;

    /* y[T, n] = x[T, k] . w[n, k]^T, accumulated in f32 along the units of w. */
    enum status (*gemm)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                        struct stream *stream);

    /* y[T, H, n] = x[T, H, k] . w_h[n, k]^T with one matrix per head, w->count = H.  With x of dim 1 = 1
     * the same x[T, 1, k] goes to every head. */
    enum status (*gemm_heads)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                              struct stream *stream);

    /* y[T, d] = table[id - first] for the ids this rank holds, 0 for others; table[rows, d] of F32,
     * F16 or BF16, not packed. */
    enum status (*embed)(struct tensor *y, const struct tensor *ids, const struct tensor *table,
                         int64_t first, struct stream *stream);

    /* y[T, n] = x * gain / sqrt(mean(x^2) + epsilon); y may be x.  gain[n] f32. */
    enum status (*rms_norm)(struct tensor *y, const struct tensor *x, const struct tensor *gain,
                            float epsilon, struct stream *stream);

    /* x[T, n] += u[T, n], then y = rms_norm of x. */
    enum status (*add_rms_norm)(struct tensor *y, struct tensor *x, const struct tensor *u,
                                const struct tensor *gain, float epsilon, struct stream *stream);

    /* x[T, n] += y[T, n] */
    enum status (*add)(struct tensor *x, const struct tensor *y, struct stream *stream);

    /* y[a, b, n] = x[a, b, n]; strides between rows are free.  They do not overlap. */
    enum status (*copy)(struct tensor *y, const struct tensor *x, struct stream *stream);

    /* x[T, n] += bias[n], f32 */
    enum status (*add_bias)(struct tensor *x, const struct tensor *bias, struct stream *stream);

    /* y[T, H, d_r] = x with its pairs (2j, 2j + 1) rotated by the angle of their token; y may be x.
     * cos_sin[max_position, d_r] f32 holds cos and sin of pair j side by side:
     * (cos_0, sin_0, cos_1, sin_1, ...). */
    enum status (*rope)(struct tensor *y, const struct tensor *x, const struct tensor *position,
                        const struct tensor *cos_sin, struct stream *stream);

    /* Writes row position[t] of sequence seq_of[t]: rms_norm of c_kv[T, d_c] with gain[d_c], then k_r[T, d_r]
     * after rope, rounded to the type of the cache; a scale of fp8_ds_mla is the largest |number| / 448.
     * gain NULL, cos_sin NULL: as they are.  What c_kv and k_r hold afterwards is not said. */
    enum status (*cache_append)(const struct page_view *pages, struct tensor *c_kv,
                                struct tensor *k_r, const struct tensor *gain, float epsilon,
                                const struct tensor *cos_sin, struct stream *stream);

    /* y[end - begin, d_c + d_r] f32 = rows [begin, end) of sequence `seq`. */
    enum status (*cache_read)(struct tensor *y, const struct page_view *pages, int seq,
                              int64_t begin, int64_t end, struct stream *stream);

    /* Absorbed attention, (10) in the latent space: adds nothing, sets `state` (width d_c) to the
     * softmax of q[T, H, d_c + d_r] over the cached rows visible to each token.
     * Units: page p belongs to unit p mod 8; within a unit pieces of 16 of its pages are summed and
     * merged in order; units meet as 0-4, 2-6, 1-5, 3-7, then 0-2, 1-3, then 0-1 (design: page
     * classes of 2, 4, 8 members of a cache group are subtrees). */
    enum status (*latent_attention)(struct attention_state *state, const struct tensor *q,
                                    const struct page_view *pages, float scale,
                                    struct stream *stream);

    /* Expanded attention, (10) with keys and values per head: state (width d_v) of q[T, H, d_n + d_r]
     * over rows [begin, begin + L) of ONE sequence: k_c[L, H, d_n], k_r[L, d_r], v[L, H, d_v]; row
     * begin + j is visible to token t when begin + j <= position[t].  T is that sequence's tokens. */
    enum status (*expanded_attention)(struct attention_state *state, const struct tensor *q,
                                      const struct tensor *k_c, const struct tensor *k_r,
                                      const struct tensor *v, const struct tensor *position,
                                      int64_t begin, float scale, struct stream *stream);

    /* a = a merged with b, a being the lower unit; an empty state returns the other. */
    enum status (*merge_partials)(struct attention_state *a, const struct attention_state *b,
                                  struct stream *stream);

    /* o[T, H, width] = state.o / state.l; 0 where nothing was visible.  o may be state.o. */
    enum status (*attention_finish)(struct tensor *o, const struct attention_state *state,
                                    struct stream *stream);

    /* y[T, n] = silu(gate) * up; y may be gate. */
    enum status (*swiglu)(struct tensor *y, const struct tensor *gate, const struct tensor *up,
                          struct stream *stream);

    /* (13)..(16): ids[T, K] i32 and weights[T, K] f32 of the chosen experts, in descending order of
     * the selection score, ties to the lowest id; logits[T, E]; bias[E] f32 for ROUTER_NOAUX_TC (data
     * may be NULL: no bias).  Weights come from the unbiased scores; masked groups count as -infinity.
     * As DeepSeek's published modeling code: softmax normalizes OR scales, sigmoid normalizes AND scales. */
    enum status (*router)(struct tensor *ids, struct tensor *weights, const struct tensor *logits,
                          const struct tensor *bias, const struct router_params *params,
                          struct stream *stream);

    /* u[T, d] = the weighted sum of the local experts among the chosen ones (12), 0 for tokens that
     * chose none of them.  Within one of the 8 units of the E expert ids experts are added in
     * ascending id; the units meet along the tree of matrix.h.  `scratch` comes from
     * experts_scratch_bytes. */
    enum status (*experts)(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                           const struct tensor *weights, const struct expert_weights *w,
                           void *scratch, struct stream *stream);
    size_t (*experts_scratch_bytes)(int64_t max_tokens, const struct expert_weights *w,
                                    int n_chosen);
};

/* The CPU's operations, compiled for the best instruction set of this machine or for the one that
 * LATENTRANK_DEBUG_ISA names; the results are the same bits whichever is taken.
 * Owner: static.  Errors: STATUS_USAGE (a name that is unknown or not here). */
enum status cpu_ops_choose(const struct ops **ops);

#endif
