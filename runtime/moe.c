/* moe.c - the feed-forward sub-layers: dense, and shared plus routed experts.
 *
 * The members of tp hold the same tokens: the router runs on all of them with equal
 * bits, each rank computes its own experts (or its columns of every expert) and
 * its columns of the shared expert, and one sum over tp completes both.  With
 * several replicas the experts are shared by all of them: moe_exchange.c and
 * moe_dispatch.c.  Added before that sum, routed and shared experts round otherwise
 * than on one rank, where each has been summed by itself; where bits must not
 * depend on the layout they travel side by side, twice the bytes of one message.
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
void step_count_experts(const struct step *s, const struct tensor *chosen,
                        const struct expert_weights *experts)
{
    if (!s->device->is_host || !decode_is_step(s->all->n_tokens, s->all->n_entries))
        return;
    int count = decode_experts(chosen, experts);
    trace_add(TRACE_DECODE_EXPERTS, count);
    trace_add(TRACE_DECODE_EXPERT_BYTES, count * decode_expert_bytes(experts));
}

/* (13)..(16) which experts, and how much of each */
static enum status route(struct step *s, int layer, struct tensor *chosen, struct tensor *weight,
                         const struct tensor *h)
{
    const struct layer_weights *w = &s->weights->layer[layer];
    struct tensor logits = step_rows(s, &s->work->router_logits);
    TRY(s->ops->gemm(&logits, h, &w->router, s->stream));
    TRY(step_check(s, layer, "router logits", &logits));
    TRY(s->ops->router(chosen, weight, &logits, &w->router_bias, &s->model->router, s->stream));
    TRY(step_check(s, layer, STEP_CHOSEN_EXPERTS, chosen));
    return step_check(s, layer, "weights of the chosen experts", weight);
}

/* (12) u = sum of the chosen experts + the shared one, all tokens being on all ranks that have experts */
static enum status sum_here(struct step *s, int layer, struct tensor *u, const struct tensor *h,
                            const struct tensor *chosen, const struct tensor *weight)
{
    const struct ops *ops = s->ops;
    const struct layer_weights *w = &s->weights->layer[layer];
    int64_t n = s->batch->n_tokens;
    int has_shared = s->model->n_shared_experts > 0;
    /* h is read for the last time below */
    struct tensor shared =
        s->splits_moe ? tensor_rows(&s->work->u, n, 2 * n) : step_rows(s, &s->work->h);
    struct tensor sums = s->splits_moe ? tensor_rows(&s->work->u, 0, 2 * n) : *u;

    assert(u->data == s->work->u.data);
    step_count_experts(s, chosen, &w->experts);
    TRY(ops->experts(u, h, chosen, weight, &w->experts, s->work->experts_scratch, s->stream));
    if (has_shared)
        TRY(ffn_partial(s, &shared, h, &w->ffn));
    if (has_shared && !s->splits_moe)
        TRY(ops->add(u, &shared, s->stream));
    TRY(s->tp->ops->all_reduce(s->tp, &sums, s->stream));
    return s->splits_moe ? ops->add(u, &shared, s->stream) : STATUS_OK;
}

/* The same, when other replicas have other tokens.  The shared expert is of this replica alone. */
static enum status sum_between_replicas(struct step *s, int layer, struct tensor *u,
                                        const struct tensor *h, const struct tensor *chosen,
                                        const struct tensor *weight)
{
    int has_shared = s->model->n_shared_experts > 0;
    int is_apart = has_shared && (s->splits_moe || s->dispatches);
    struct tensor routed = is_apart ? step_rows(s, &s->work->h) : *u; /* h is read before */
    if (has_shared)
        TRY(ffn_partial(s, u, h, &s->weights->layer[layer].ffn));
    if (is_apart)
        TRY(s->tp->ops->all_reduce(s->tp, u, s->stream));
    if (s->dispatches)
        TRY(moe_dispatch(s, layer, &routed, h, chosen, weight));
    else
        TRY(moe_exchange(s, layer, &routed, h, chosen, weight, has_shared && !is_apart ? u : NULL));
    return is_apart ? s->ops->add(u, &routed, s->stream) : STATUS_OK;
}

enum status moe_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h)
{
    const struct layer_weights *w = &s->weights->layer[layer];
    struct tensor chosen = step_rows(s, &s->work->chosen);
    struct tensor weight = step_rows(s, &s->work->chosen_weight);

    trace_add(TRACE_MOE_LAYERS, 1);
    TRY(route(s, layer, &chosen, &weight, h));
    step_place_experts(s, layer, &chosen);
    if (s->own->n_replicas == 1)
        TRY(sum_here(s, layer, u, h, &chosen, &weight));
    else
        TRY(sum_between_replicas(s, layer, u, h, &chosen, &weight));
    if (!s->model->has_expert_norm)
        return STATUS_OK;
    return s->ops->rms_norm(u, u, &w->expert_norm_gain, s->model->epsilon, s->stream); /* A.X-K1 */
}
