/* forward.c - the transformer on one page.
 *
 * Symbols and equation numbers: DeepSeek-V3 report, arXiv 2412.19437, 2.1.
 * The T tokens of a step are flattened over its sequences.  Every sub-layer
 * returns a complete u: the sums over ranks happen inside it.  With pp a rank
 * has the layers of its stage: the residual stream x comes from the stage before
 * and goes to the one behind.
 */
#include "kernels/core/trace.h"
#include "parallel/ledger.h"
#include "runtime/decode_bytes.h"
#include "runtime/step.h"

/* x = embedding of the ids (each tp rank holds some rows of the table), or what the stage before hands on */
static enum status begin_stage(struct step *s, struct tensor *x)
{
    ledger_place((int)s->plan->layers.begin, LEDGER_LINK);
    if (!s->plan->has_embedding)
        return s->before->ops->broadcast(s->before, x, 0, s->stream);
    TRY(s->ops->embed(x, &s->batch->ids, &s->weights->embedding, s->plan->vocab.begin, s->stream));
    TRY(s->tp->ops->all_reduce(s->tp, x, s->stream));
    return step_check(s, -1, "embedding", x);
}

static enum status end_stage(struct step *s, struct tensor *x)
{
    if (s->plan->has_head)
        return STATUS_OK;
    ledger_place((int)s->plan->layers.end, LEDGER_LINK);
    return s->behind->ops->broadcast(s->behind, x, 0, s->stream);
}

/* A replica without tokens only lends its experts to the others. */
static enum status forward_idle(struct step *s, struct tensor *u, const struct tensor *h)
{
    for (int l = (int)s->plan->layers.begin; l < s->plan->layers.end; l++) {
        ledger_place(l, LEDGER_FFN);
        if (s->weights->layer[l].is_moe)
            TRY(moe_forward(s, l, u, h));
    }
    return STATUS_OK;
}

enum status step_forward(struct step *s)
{
    const struct ops *ops = s->ops;
    const float epsilon = s->model->epsilon;
    const int first = (int)s->plan->layers.begin, end = (int)s->plan->layers.end;
    struct tensor x = step_rows(s, &s->work->x); /* residual stream */
    struct tensor h = step_rows(s, &s->work->h); /* input of a sub-layer */
    struct tensor u = step_rows(s, &s->work->u); /* output of a sub-layer */

    trace_add(TRACE_STEPS, 1);
    trace_add(TRACE_DECODE_STEPS, decode_is_step(s->all->n_tokens, s->all->n_entries));
    if (s->batch->n_tokens == 0)
        return forward_idle(s, &u, &h);
    TRY(begin_stage(s, &x));
    TRY(ops->rms_norm(&h, &x, &s->weights->layer[first].attention_gain, epsilon, s->stream));
    for (int l = first; l < end; l++) {
        const struct layer_weights *w = &s->weights->layer[l];

        ledger_place(l, LEDGER_ATTENTION);
        TRY(step_check(s, l, "input of attention", &h));
        TRY(mla_forward(s, l, &u, &h)); /* (1)..(11) */
        TRY(step_check(s, l, "output of attention", &u));
        TRY(ops->add_rms_norm(&h, &x, &u, &w->ffn_gain, epsilon, s->stream));
        ledger_place(l, LEDGER_FFN);
        TRY(step_check(s, l, "input of the FFN", &h));
        if (w->is_moe)
            TRY(moe_forward(s, l, &u, &h)); /* (12)..(16) */
        else
            TRY(ffn_forward(s, l, &u, &h));
        TRY(step_check(s, l, "output of the FFN", &u));
        if (l + 1 == end)
            TRY(ops->add(&x, &u, s->stream));
        else
            TRY(ops->add_rms_norm(&h, &x, &u, &w[1].attention_gain, epsilon, s->stream));
    }
    return end_stage(s, &x);
}
