/* forward.c - the transformer on one page.
 *
 * Symbols and equation numbers: DeepSeek-V3 report, arXiv 2412.19437, 2.1.
 * The T tokens of a step are flattened over its sequences.  Every sub-layer
 * returns a complete u: the sums over ranks happen inside it.
 */
#include "kernels/core/trace.h"
#include "parallel/ledger.h"
#include "runtime/decode_bytes.h"
#include "runtime/step.h"

/* x = embedding of the ids: each tp rank holds some rows of the table */
static enum status embed(struct step *s, struct tensor *x)
{
    TRY(s->ops->embed(x, &s->batch->ids, &s->weights->embedding, s->plan->vocab.begin, s->stream));
    return s->tp->ops->all_reduce(s->tp, x, s->stream);
}

enum status step_forward(struct step *s)
{
    const struct ops *ops = s->ops;
    const float epsilon = s->model->epsilon;
    struct tensor x = step_rows(s, &s->work->x); /* residual stream */
    struct tensor h = step_rows(s, &s->work->h); /* input of a sub-layer */
    struct tensor u = step_rows(s, &s->work->u); /* output of a sub-layer */

    trace_add(TRACE_STEPS, 1);
    trace_add(TRACE_DECODE_STEPS, decode_is_step(s->batch->n_tokens, s->batch->n_entries));
    TRY(embed(s, &x));
    TRY(step_check(s, -1, "embedding", &x));
    TRY(ops->rms_norm(&h, &x, &s->weights->layer[0].attention_gain, epsilon, s->stream));
    for (int l = 0; l < s->model->n_layers; l++) {
        const struct layer_weights *w = &s->weights->layer[l];

        ledger_layer(l);
        TRY(step_check(s, l, "input of attention", &h));
        TRY(mla_forward(s, l, &u, &h)); /* (1)..(11) */
        TRY(step_check(s, l, "output of attention", &u));
        TRY(ops->add_rms_norm(&h, &x, &u, &w->ffn_gain, epsilon, s->stream));
        TRY(step_check(s, l, "input of the FFN", &h));
        if (w->is_moe)
            TRY(moe_forward(s, l, &u, &h)); /* (12)..(16) */
        else
            TRY(ffn_forward(s, l, &u, &h));
        TRY(step_check(s, l, "output of the FFN", &u));
        if (l + 1 == s->model->n_layers)
            return ops->add(&x, &u, s->stream);
        TRY(ops->add_rms_norm(&h, &x, &u, &w[1].attention_gain, epsilon, s->stream));
    }
    return STATUS_OK;
}
