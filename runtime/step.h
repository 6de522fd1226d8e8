/* step.h - all that one forward pass reads and writes.
 *
 * Shapes: T tokens of the step in this rank's replica, A of all replicas, H heads of this rank, d hidden size, d_c latent
 * width, d_r RoPE width, d_n NoPE width, d_v value width of a head.  Every
 * sub-layer returns a complete u: the sums over ranks happen inside it. */
#ifndef RUNTIME_STEP_H
#define RUNTIME_STEP_H

#include "parallel/comm.h"
#include "parallel/mailbox.h"
#include "runtime/batch.h"
#include "runtime/replica_plan.h"
#include "runtime/step_trace.h"
#include "runtime/weights.h"

/* What moe_dispatch.c needs: rows that this rank sends to others, those it receives, and whose they are. */
struct dispatch_work {
    int64_t capacity;        /* rows sent at most */
    struct tensor sent_h;    /* [capacity, d], and the partial sums that come back */
    struct tensor sent_pair; /* [capacity, 2 K] i32: chosen experts, the bits of their weights */
    struct tensor received_pair; /* [A, 2 K] */
    int32_t *counts;             /* [2 stage] rows for each rank, rows from each */
    int32_t *place;              /* [stage, own rows]: row of sent_h, -1: not sent */
    const float **part;          /* [stage] */
    float *zeros;                /* [d] */
};

/* Activations, f32, each with room for the largest step. */
struct workspace {
    struct tensor x, h, u;         /* [T, d] residual stream, input and output of a sub-layer;
                                    * u has [2 T, d] where the sums of moe_forward are apart  */
    struct tensor c_q;             /* [T, d_cq] compressed query                           */
    struct tensor q;               /* [T, H (d_n + d_r)]                                   */
    struct tensor c_kv_k_r;        /* [T, d_c + d_r] latent and RoPE key                   */
    struct tensor q_latent;        /* [T, H, d_c + d_r] absorbed query                     */
    struct attention_state latent; /* width d_c                                            */
    struct tensor o_latent;        /* [block of T, H, d_c], where pages are shared         */
    struct tensor o;               /* [T, H d_v]                                           */
    struct tensor gate, up;        /* [T, FFN columns of this rank]                        */
    struct tensor router_logits;   /* [T, E]                                               */
    struct tensor chosen;          /* [T, K] i32                                           */
    struct tensor chosen_weight;   /* [T, K]                                               */
    void *experts_scratch;
    /* Only with several replicas, whose experts see the tokens of all: moe_exchange.c. */
    struct tensor all_h, all_u;      /* [A, d] inputs of experts, their sums */
    struct tensor all_chosen;        /* [A, K] i32 */
    struct tensor all_chosen_weight; /* [A, K] */
    struct dispatch_work dispatch;   /* only with --all2all-backend alltoall */
    struct tensor rows;              /* [EXPANDED_ROWS, d_c + d_r] cached rows, read back    */
    struct tensor k_c;               /* [EXPANDED_ROWS, H, d_n]                              */
    struct tensor v;                 /* [EXPANDED_ROWS, H, d_v]                              */
    struct attention_state expanded; /* width d_v                                            */
    struct attention_state partial;  /* width d_v                                            */
    /* Only with a sharded cache, which then needs no q_latent and latent: sharded_attend.c. */
    int64_t sharded_tokens;     /* tokens attended at a time                            */
    struct tensor sharded_q;    /* [heads of all that share, tokens, d_c + d_r] absorbed queries */
    struct tensor sharded_sent; /* [the same heads, tokens, d_c + 2] states over own pages */
    struct tensor sharded_received; /* [members, H, tokens, d_c + 2]                        */
    /* where the device is not the host, whose attention takes tokens in order: the same, token after token */
    struct tensor sharded_all_q;        /* [tokens, heads of all that share, d_c + d_r] */
    struct attention_state sharded_all; /* width d_c, of the same heads */
    struct tensor sharded_pages;        /* [EXPANDED_ROWS, d_c + d_r] as they arrive            */
    struct tensor logits;               /* [LOGITS_ROWS, own vocabulary rows]                   */
    /* on the host */
    struct tensor host_logits; /* as logits; data NULL where the device is the host */
    struct tensor gathered;    /* [LOGITS_ROWS * vocabulary]                        */
    float *joined;             /* [vocabulary] one row                              */
};

enum {
    EXPANDED_ROWS = 256, /* cached rows decompressed at a time */
    SHARDED_PAIRS = 4096 /* (token, head) pairs that attend a sharded cache at a time */
};

/* Numbers of a state of one token and head, as it travels. */
static inline int64_t sharded_state_width(int64_t d_c)
{
    return d_c + 2;
}

struct step {
    const struct model_config *model;
    const struct weights *weights;
    const struct shard_plan *plan;
    const struct ops *ops;
    const struct device_ops *device;
    struct comm *cache_comm;        /* members of tp that share the pages of the cache */
    int cache_first;                /* its first member's place in tp */
    struct comm *tp, *dp, *stage;   /* stage: with several replicas only */
    struct comm *before, *behind;   /* the same place of the stages next to this one; pp */
    struct comm *host_tp, *host_dp; /* of the same members, for host tensors */
    struct mailbox *letters;        /* from the last stage to the first; NULL: they are one */
    float *came;                    /* where letters go that are expected; NULL: not yet expected */
    const struct group *ep;         /* of this rank in its stage */
    const struct step_plan *all;    /* of all replicas; */
    const struct replica_plan *own; /* this one's part */
    struct stream *stream;
    struct latent_cache *cache;
    const struct batch *batch;
    const struct tensor *cos_sin; /* [max_model_len, d_r] */
    float softmax_scale;
    int expands;     /* attention decompresses keys and values in this step */
    int splits_moe;  /* shared and routed experts are summed over tp apart */
    int dispatches;  /* tokens go to the ranks of their experts, else to all */
    int may_be_kept; /* no operation waits on the host, none has another shape next time */
    int checks;      /* step_check compares */
    FILE *trace;     /* and writes here; NULL: not */
    struct expert_load *expert_load; /* where chosen experts are counted; NULL: not here */
    const int64_t *vocab_counts;     /* [tp->group.size] vocabulary rows of each member */
    int64_t *gather_counts, *sent_counts, *received_counts; /* [dp x tp] scratch */
    struct workspace *work;                                 /* capacity */
};

struct workspace_shape {
    int64_t max_tokens; /* of a step */
    int expands;        /* 0 leaves out what only the expanded form of attention needs */
    int splits_moe;     /* step.h: of struct step */
    int dispatches;
    int is_apart;           /* the device is not the host */
    int n_replicas, tp, ep; /* of a stage */
    int cache_members;      /* that share the pages of the cache; 1: replicated */
    int64_t cache_heads;    /* of them together */
};

/* Lays the workspace out; an arena that only counts gives the size.
 * Errors: STATUS_NO_MEMORY. */
enum status workspace_open(struct workspace *work, struct arena *arena,
                           const struct model_config *model, const struct weights *weights,
                           const struct shard_plan *plan, const struct ops *ops,
                           const struct workspace_shape *shape);

/* The host's part, in host memory. */
enum status workspace_open_host(struct workspace *work, struct arena *arena,
                                const struct model_config *model, const struct shard_plan *plan,
                                const struct device_ops *device);

/* The first T rows of a workspace tensor. */
static inline struct tensor step_rows(const struct step *s, const struct tensor *capacity)
{
    return tensor_rows(capacity, 0, s->batch->n_tokens);
}

/* Of t[T, n], which every rank of tp computes for itself or has from a sum; layer -1: before the first.
 * With LATENTRANK_DEBUG_CHECK=1 on a host its bits are compared between the ranks, with
 * LATENTRANK_DEBUG_TRACE=FILE rank 0 appends it to that file (step_trace.h).
 * Errors: STATUS_IO; STATUS_INVALID on member 0, naming the tensor and the lowest rank that differs: the others
 * wait for the end of the job. */
enum status step_check(struct step *s, int layer, const char *name, const struct tensor *t);

/* x after all layers, before the final norm, in s->work->x. */
enum status step_forward(struct step *s);

/* u[T, d] = MLA(h[T, d]), rows appended to the cache of `layer`. */
enum status mla_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h);

/* o[T, H, d_v] from q[T, H, d_n + d_r] (its RoPE part not yet rotated) and the cached rows. */
enum status latent_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q);
enum status expanded_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q);

/* latent_attend over a cache whose pages some or all members of tp share. */
enum status sharded_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q);

/* rows[end - begin, d_c + d_r] = rows [begin, end) of a sequence, from the members of tp that share
 * its pages; `begin` is the first row of a page, and at most EXPANDED_ROWS are read. */
enum status sharded_read(struct step *s, struct tensor *rows, int layer, int sequence,
                         int64_t begin, int64_t end);

/* 1 when decompressing keys and values costs fewer multiplications than the absorbed form. */
int step_expanding_is_cheaper(const struct model_config *model, const struct batch *batch);

/* u[T, d] = FFN(h[T, d]): a dense layer. */
enum status ffn_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h);

/* u[T, d] = shared expert + routed experts of h[T, d]. */
enum status moe_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h);

/* routed[T, d] = the routed experts of h[T, d], on all members of tp, when replicas with other tokens share
 * them; chosen and weight [T, K].  `shared`[T, d], not NULL: this rank's part of a sum over tp, which is
 * added. */
enum status moe_exchange(struct step *s, int layer, struct tensor *routed, const struct tensor *h,
                         const struct tensor *chosen, const struct tensor *weight,
                         const struct tensor *shared);

/* The same, by sending each token to the ranks that have its experts; `shared` is not added. */
enum status moe_dispatch(struct step *s, int layer, struct tensor *routed, const struct tensor *h,
                         const struct tensor *chosen, const struct tensor *weight);

/* rows[T, d]: each member of tp has its span of the rows, and gets the others. */
enum status step_join_rows(struct step *s, struct tensor *rows);

/* Counts chosen[T, K] where that is asked for; ids of experts become those of their slots where experts are placed
 * by load.  Which copy serves a token follows from its id and position, so that it is the same on all ranks and
 * whatever else is in the step. */
void step_place_experts(struct step *s, int layer, struct tensor *chosen);

/* Counts the experts of this rank that chosen[*, K] names, for what a decode step must read. */
void step_count_experts(const struct step *s, const struct tensor *chosen,
                        const struct expert_weights *experts);

/* This rank's columns of down(silu(gate h) * up h): a part of a sum over tp. */
enum status ffn_partial(struct step *s, struct tensor *u, const struct tensor *h,
                        const struct ffn_weights *w);

/* Rank 0, when the last stage is elsewhere: says that the logits of the step of all replicas go to
 * s->came[rows wanted, vocabulary]. */
enum status step_expect_logits(struct step *s);

/* Computes the logits that the step of all replicas asks for, on the last stage, and brings them to rank 0, which
 * hands them to `sink`, those of an entry in order.  A failing sink does not stop the exchange between
 * ranks: its status goes to *sunk (set to STATUS_OK before).  Rank 0 needs no forward pass of the step
 * before when it is not of the last stage. */
enum status step_logits(struct step *s, logits_sink sink, void *context, enum status *sunk);

#endif
