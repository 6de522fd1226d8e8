/* expanded_attend.c - attention with keys and values decompressed from the cache.
 *
 * (2) k^C = W^UK c^KV, (5) v = W^UV c^KV of the cached rows, EXPANDED_ROWS at a
 * time, so that memory does not grow with the context; the partial softmaxes are
 * merged.  Cheaper than the absorbed form for prompts (640 against
 * 2176 operations per head, query and row in DeepSeek-V3), dearer for decode.
 */
#include "runtime/step.h"

/* Multiplications per head; the projections common to both forms left out. */
int step_expanding_is_cheaper(const struct model_config *c, const struct batch *batch)
{
    double absorbed = 0, expanded = 0;
    for (int i = 0; i < batch->n_entries; i++) {
        const struct batch_entry *e = &batch->entry[i];
        double n = (double)(e->end - e->begin), rows = (double)e->position + n;
        double pairs = n * ((double)e->position + (n + 1) / 2);
        double fold = (double)(c->d_c * (c->d_n + c->d_v));
        absorbed += pairs * (double)(2 * c->d_c + c->d_r) + n * fold;
        expanded += pairs * (double)(c->d_n + c->d_r + c->d_v) + rows * fold;
    }
    return expanded < absorbed;
}

static struct attention_state state_rows(const struct attention_state *state, int64_t begin,
                                         int64_t end)
{
    return (struct attention_state){.o = tensor_rows(&state->o, begin, end),
                                    .m = tensor_rows(&state->m, begin, end),
                                    .l = tensor_rows(&state->l, begin, end)};
}

/* state = attention of the entry's queries over its sequence's rows [begin, end) */
static enum status attend_rows(struct step *s, int layer, struct attention_state *state,
                               const struct tensor *q, const struct batch_entry *entry,
                               int64_t begin, int64_t end)
{
    const struct ops *ops = s->ops;
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    const struct page_view pages = batch_pages(s->batch, s->cache, layer);
    int64_t d_c = s->model->d_c, d_r = s->model->d_r;
    struct tensor rows = tensor_rows(&s->work->rows, 0, end - begin);
    struct tensor c_kv = tensor_columns(&rows, 0, d_c);
    struct tensor c_kv_head = tensor_split(&c_kv, d_c); /* the same for every head */
    struct tensor k_r = tensor_columns(&rows, d_c, d_c + d_r);
    struct tensor k_c = tensor_rows(&s->work->k_c, 0, end - begin);
    struct tensor v = tensor_rows(&s->work->v, 0, end - begin);
    struct tensor position = tensor_rows(&s->batch->position, entry->begin, entry->end);

    if (s->cache->n_members > 1)
        TRY(sharded_read(s, &rows, layer, entry->sequence, begin, end));
    else
        TRY(ops->cache_read(&rows, &pages, entry->sequence, begin, end, s->stream));
    TRY(ops->gemm_heads(&k_c, &c_kv_head, &w->w_uk, s->stream)); /* (2) */
    TRY(ops->gemm_heads(&v, &c_kv_head, &w->w_uv, s->stream));   /* (5) */
    return ops->expanded_attention(state, q, &k_c, &k_r, &v, &position, begin, s->softmax_scale,
                                   s->stream);
}

enum status expanded_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q)
{
    const struct ops *ops = s->ops;
    int64_t d_n = s->model->d_n, d_r = s->model->d_r;
    struct tensor q_r = tensor_columns(q, d_n, d_n + d_r);

    TRY(ops->rope(&q_r, &q_r, &s->batch->position, s->cos_sin, s->stream)); /* (8) */
    for (int i = 0; i < s->batch->n_entries; i++) {
        const struct batch_entry *entry = &s->batch->entry[i];
        struct tensor q_own = tensor_rows(q, entry->begin, entry->end);
        struct tensor o_own = tensor_rows(o, entry->begin, entry->end);
        struct attention_state whole = state_rows(&s->work->expanded, entry->begin, entry->end);
        struct attention_state part = state_rows(&s->work->partial, entry->begin, entry->end);
        int64_t n_rows = entry->position + entry->end - entry->begin;

        for (int64_t begin = 0; begin < n_rows; begin += EXPANDED_ROWS) {
            int64_t end = begin + EXPANDED_ROWS < n_rows ? begin + EXPANDED_ROWS : n_rows;
            TRY(attend_rows(s, layer, begin == 0 ? &whole : &part, &q_own, entry, begin, end));
            if (begin > 0)
                TRY(ops->merge_partials(&whole, &part, s->stream));
        }
        TRY(ops->attention_finish(&o_own, &whole, s->stream));
    }
    return STATUS_OK;
}
