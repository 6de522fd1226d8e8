/* moe.c - the feed-forward sub-layers: dense, and shared plus routed experts.
 *
 * Every tp rank holds the same tokens: the router runs on all of them with equal
 * bits, each rank computes its own experts (or its columns of every expert) and
 * its columns of the shared expert, and one sum over tp completes both.  Added
 * before that sum they round otherwise than on one rank, where each has been
 * summed by itself; where bits must not depend on the layout they travel side by
 * side, twice the bytes of one message.
 * Source: DeepSeek-V3, arXiv 2412.19437, 2.1.2.
 */
#include <assert.h>

#include "kernels/core/trace.h"
#include "runtime/decode_bytes.h"
#include "runtime/step.h"

enum status ffn_partial(struct step *s, struct tensor *u, const struct tensor *h,
                        const struct ffn_weights *w)
{
    const struct ops *ops = s->ops;
    struct tensor gate = step_rows(s, &s->work->gate), up = step_rows(s, &s->work->up);
    struct tensor own_gate = tensor_columns(&gate, 0, w->gate.n);
    struct tensor own_up = tensor_columns(&up, 0, w->up.n);

    TRY(ops->gemm(&own_gate, h, &w->gate, s->stream));
    TRY(ops->gemm(&own_up, h, &w->up, s->stream));
    TRY(ops->swiglu(&own_gate, &own_gate, &own_up, s->stream));
    return ops->gemm(u, &own_gate, &w->down, s->stream);
}

enum status ffn_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h)
{
    trace_add(TRACE_DENSE_LAYERS, 1);
    TRY(ffn_partial(s, u, h, &s->weights->layer[layer].ffn));
    return s->tp->ops->all_reduce(s->tp, u, s->stream);
}

/* Where `chosen` can be read without waiting for the device. */
static void count_experts(const struct step *s, const struct tensor *chosen,
                          const struct expert_weights *experts)
{
    if (!s->device->is_host || !decode_is_step(s->batch->n_tokens, s->batch->n_entries))
        return;
    int count = decode_experts(chosen, experts);
    trace_add(TRACE_DECODE_EXPERTS, count);
    trace_add(TRACE_DECODE_EXPERT_BYTES, count * decode_expert_bytes(experts));
}

enum status moe_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h)
{
    const struct ops *ops = s->ops;
    const struct layer_weights *w = &s->weights->layer[layer];
    struct tensor logits = step_rows(s, &s->work->router_logits);
    struct tensor chosen = step_rows(s, &s->work->chosen);
    struct tensor weight = step_rows(s, &s->work->chosen_weight);
    int64_t n = s->batch->n_tokens;
    /* h is read for the last time below */
    struct tensor shared =
        s->splits_moe ? tensor_rows(&s->work->u, n, 2 * n) : step_rows(s, &s->work->h);
    struct tensor sums = s->splits_moe ? tensor_rows(&s->work->u, 0, 2 * n) : *u;

    assert(u->data == s->work->u.data);
    trace_add(TRACE_MOE_LAYERS, 1);
    /* (13)..(16) which experts, and how much of each */
    TRY(ops->gemm(&logits, h, &w->router, s->stream));
    TRY(step_check(s, layer, "router logits", &logits));
    TRY(ops->router(&chosen, &weight, &logits, &w->router_bias, &s->model->router, s->stream));
    TRY(step_check(s, layer, STEP_CHOSEN_EXPERTS, &chosen));
    TRY(step_check(s, layer, "weights of the chosen experts", &weight));
    count_experts(s, &chosen, &w->experts);
    /* (12) u = sum of the chosen experts + the shared one */
    TRY(ops->experts(u, h, &chosen, &weight, &w->experts, s->work->experts_scratch, s->stream));
    int has_shared = s->model->n_shared_experts > 0;
    if (has_shared)
        TRY(ffn_partial(s, &shared, h, &w->ffn));
    if (has_shared && !s->splits_moe)
        TRY(ops->add(u, &shared, s->stream));
    TRY(s->tp->ops->all_reduce(s->tp, &sums, s->stream));
    if (s->splits_moe)
        TRY(ops->add(u, &shared, s->stream));
    if (!s->model->has_expert_norm)
        return STATUS_OK;
    return ops->rms_norm(u, u, &w->expert_norm_gain, s->model->epsilon, s->stream); /* A.X-K1 */
}
