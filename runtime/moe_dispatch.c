/* moe_dispatch.c - experts whose tokens are on several replicas: each token to the ranks that have its
 * experts, and their sums back.
 *
 * The members of tp, which hold the same tokens, each see to a share of the rows.  A
 * row goes once to every rank that has an expert of it, with all of its chosen
 * experts and weights; that rank sums those it has, as if it had all rows.  The owner
 * adds what comes back along the tree over the stage, absent ranks giving 0, so
 * the bits are those of moe_exchange.c.  How many rows go where only the router knows:
 * ranks tell each other first.
 */
#include <assert.h>
#include <string.h>

#include "parallel/reduction_tree.h"
#include "runtime/step.h"

/* One layer's exchange. */
struct exchange {
    struct step *s;
    struct span mine;           /* rows of this rank among those of its replica */
    int n_experts;              /* of all ranks, or their slots */
    int64_t n_sent, n_received; /* rows */
};

/* Whether rank `member` of the stage has one of the chosen experts. */
static int is_wanted(const struct exchange *x, const int32_t *chosen, int64_t n_chosen, int member)
{
    int etp = x->s->stage->group.size / x->s->ep->size;
    struct span experts = span_part(x->n_experts, x->s->ep->size, member / etp);
    for (int64_t k = 0; k < n_chosen; k++)
        if (experts.begin <= chosen[k] && chosen[k] < experts.end)
            return 1;
    return 0;
}

/* Copies what goes to each rank, in order of ranks, and counts it. */
static void pack(struct exchange *x, const struct tensor *h, const struct tensor *chosen,
                 const struct tensor *weight)
{
    struct dispatch_work *work = &x->s->work->dispatch;
    int64_t n_chosen = chosen->dim[1], d = h->dim[1], n_own = span_size(x->mine);
    x->n_sent = 0;
    for (int member = 0; member < x->s->stage->group.size; member++) {
        int64_t before = x->n_sent;
        for (int64_t i = 0; i < n_own; i++) {
            const int32_t *ids = tensor_i32(chosen) + (x->mine.begin + i) * n_chosen;
            int32_t *pair = (int32_t *)work->sent_pair.data + x->n_sent * 2 * n_chosen;
            int32_t *place = &work->place[member * n_own + i];
            *place = -1;
            if (!is_wanted(x, ids, n_chosen, member))
                continue;
            assert(x->n_sent < work->capacity);
            *place = (int32_t)x->n_sent;
            memcpy(tensor_f32(&work->sent_h, x->n_sent++), tensor_f32(h, x->mine.begin + i),
                   (size_t)d * sizeof(float));
            memcpy(pair, ids, (size_t)n_chosen * sizeof *pair);
            memcpy(pair + n_chosen, tensor_f32(weight, x->mine.begin + i),
                   (size_t)n_chosen * sizeof *pair);
        }
        work->counts[member] = (int32_t)(x->n_sent - before);
    }
}

static enum status exchange_counts(struct exchange *x)
{
    struct step *s = x->s;
    int32_t *counts = s->work->dispatch.counts;
    int size = s->stage->group.size;
    struct tensor sent = tensor_1d(counts, DTYPE_I32, size);
    struct tensor received = tensor_1d(counts + size, DTYPE_I32, size);
    for (int i = 0; i < size; i++)
        s->sent_counts[i] = s->received_counts[i] = 1;
    TRY(s->stage->ops->all_to_all(s->stage, &received, &sent, s->received_counts, s->sent_counts,
                                  s->stream));
    x->n_received = 0;
    for (int i = 0; i < size; i++)
        x->n_received += counts[size + i];
    return STATUS_OK;
}

/* Rows of `width` numbers, out or back. */
static enum status exchange_rows(struct exchange *x, struct tensor *to, const struct tensor *from,
                                 int is_back)
{
    struct step *s = x->s;
    const int32_t *counts = s->work->dispatch.counts;
    int size = s->stage->group.size;
    int64_t width = from->dim[1];
    for (int i = 0; i < size; i++) {
        s->sent_counts[i] = counts[is_back ? size + i : i] * width;
        s->received_counts[i] = counts[is_back ? i : size + i] * width;
    }
    return s->stage->ops->all_to_all(s->stage, to, from, s->received_counts, s->sent_counts,
                                     s->stream);
}

/* The own experts of all rows that came, and the sums back to their owners. */
static enum status run_experts(struct exchange *x, int layer)
{
    struct step *s = x->s;
    struct dispatch_work *work = &s->work->dispatch;
    const struct expert_weights *experts = &s->weights->layer[layer].experts;
    int64_t n_chosen = s->model->router.n_chosen, n = x->n_received;
    struct tensor sent_h = tensor_rows(&work->sent_h, 0, x->n_sent);
    struct tensor sent_pair = tensor_rows(&work->sent_pair, 0, x->n_sent);
    struct tensor h = tensor_rows(&s->work->all_h, 0, n), u = tensor_rows(&s->work->all_u, 0, n);
    struct tensor pair = tensor_rows(&work->received_pair, 0, n);
    struct tensor ids = tensor_columns(&pair, 0, n_chosen);
    struct tensor weight = tensor_columns(&pair, n_chosen, 2 * n_chosen);
    weight.dtype = DTYPE_F32;
    TRY(exchange_rows(x, &h, &sent_h, 0));
    TRY(exchange_rows(x, &pair, &sent_pair, 0));
    step_count_experts(s, &ids, experts);
    TRY(s->ops->experts(&u, &h, &ids, &weight, experts, s->work->experts_scratch, s->stream));
    return exchange_rows(x, &sent_h, &u, 1);
}

static void add_parts(const struct exchange *x, struct tensor *routed)
{
    const struct dispatch_work *work = &x->s->work->dispatch;
    int size = x->s->stage->group.size;
    int64_t n_own = span_size(x->mine);
    for (int64_t i = 0; i < n_own; i++) {
        for (int member = 0; member < size; member++) {
            int32_t place = work->place[member * n_own + i];
            work->part[member] = place < 0 ? work->zeros : tensor_f32(&work->sent_h, place);
        }
        reduction_tree_sum_of(tensor_f32(routed, x->mine.begin + i), work->part, size,
                              routed->dim[1]);
    }
}

enum status moe_dispatch(struct step *s, int layer, struct tensor *routed, const struct tensor *h,
                         const struct tensor *chosen, const struct tensor *weight)
{
    struct exchange x = {.s = s,
                         .mine =
                             span_part(s->batch->n_tokens, s->tp->group.size, s->tp->group.index),
                         .n_experts = s->weights->layer[layer].experts.n_experts};
    assert(s->device->is_host);
    pack(&x, h, chosen, weight);
    TRY(exchange_counts(&x));
    TRY(run_experts(&x, layer));
    add_parts(&x, routed);
    return step_join_rows(s, routed);
}
