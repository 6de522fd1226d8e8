/* moe_exchange.c - experts whose tokens are on several replicas: all tokens to all ranks, the sums back to
 * the owners.
 *
 * Inputs, chosen experts and weights are gathered over dp; every rank of the stage
 * computes its own experts on all tokens; a reduce_scatter over the stage gives each
 * member of tp a share of the rows of its replica, and a gather over tp the rest.
 * No count depends on what the router chose, so steps keep their shapes.
 */
#include "runtime/step.h"

/* y[A, n] = x[T, n] of all replicas */
static enum status gather_rows(struct step *s, struct tensor *y, const struct tensor *x)
{
    for (int r = 0; r < s->own->n_replicas; r++)
        s->gather_counts[r] = s->own->tokens[r] * x->dim[1];
    return s->dp->ops->all_gather(s->dp, y, x, s->gather_counts, s->stream);
}

/* Own rows among those of all replicas. */
static struct tensor own_rows(const struct step *s, const struct tensor *all)
{
    int64_t begin = 0;
    for (int r = 0; r < s->dp->group.index; r++)
        begin += s->own->tokens[r];
    return tensor_rows(all, begin, begin + s->batch->n_tokens);
}

/* routed[T, d] = the rows of this replica of the sum over the stage of all_u[A, d] */
static enum status sum_rows(struct step *s, struct tensor *routed, const struct tensor *all_u)
{
    int64_t d = s->model->d, n = s->batch->n_tokens;
    int tp = s->tp->group.size;
    for (int r = 0; r < s->own->n_replicas; r++)
        for (int m = 0; m < tp; m++)
            s->gather_counts[r * tp + m] = span_size(span_part(s->own->tokens[r], tp, m)) * d;
    struct span mine = span_part(n, tp, s->tp->group.index);
    struct tensor part = tensor_rows(routed, mine.begin, mine.end);
    TRY(s->stage->ops->reduce_scatter(s->stage, &part, all_u, s->gather_counts, s->stream));
    return step_join_rows(s, routed);
}

enum status step_join_rows(struct step *s, struct tensor *rows)
{
    int tp = s->tp->group.size;
    if (tp == 1)
        return STATUS_OK;
    struct span mine = span_part(rows->dim[0], tp, s->tp->group.index);
    struct tensor part = tensor_rows(rows, mine.begin, mine.end);
    for (int m = 0; m < tp; m++)
        s->gather_counts[m] = span_size(span_part(rows->dim[0], tp, m)) * rows->dim[1];
    return s->tp->ops->all_gather(s->tp, rows, &part, s->gather_counts, s->stream);
}

enum status moe_exchange(struct step *s, int layer, struct tensor *routed, const struct tensor *h,
                         const struct tensor *chosen, const struct tensor *weight,
                         const struct tensor *shared)
{
    int64_t all = s->own->all_tokens;
    struct tensor all_h = tensor_rows(&s->work->all_h, 0, all);
    struct tensor all_u = tensor_rows(&s->work->all_u, 0, all);
    struct tensor all_chosen = tensor_rows(&s->work->all_chosen, 0, all);
    struct tensor all_weight = tensor_rows(&s->work->all_chosen_weight, 0, all);
    const struct expert_weights *experts = &s->weights->layer[layer].experts;

    TRY(gather_rows(s, &all_h, h));
    TRY(gather_rows(s, &all_chosen, chosen));
    TRY(gather_rows(s, &all_weight, weight));
    step_count_experts(s, &all_chosen, experts);
    TRY(s->ops->experts(&all_u, &all_h, &all_chosen, &all_weight, experts, s->work->experts_scratch,
                        s->stream));
    struct tensor own_u = own_rows(s, &all_u);
    if (shared != NULL)
        TRY(s->ops->add(&own_u, shared, s->stream));
    return sum_rows(s, routed, &all_u);
}
