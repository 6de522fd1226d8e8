/* sharded_attend.c - attention when the members of the cache group share the pages.
 *
 * Absorbed: queries travel, rows do not.  Every member gets the queries of all
 * members' heads, attends the pages it holds, and gives each member the unfinished softmaxes of
 * that member's heads, which are merged along the tree over classes of pages
 * (parallel/cache_placement.h): with 1, 2, 4 or 8 members the bits of a whole
 * cache.  Tokens go in blocks, so that memory does not grow with the step.
 * Queries travel after W^UK: d_c + d_r numbers a head instead of d_n + d_r, but
 * no member reads W^UK of all heads.
 *
 * Expanded: rows travel, a few pages at a time, and each member attends its own
 * heads; queries and unfinished softmaxes of a long prompt would be gigabytes.
 *
 * Queries and states lie head after head, all tokens of a head together, so that
 * the part of each member is in one piece wherever it goes.
 */
#include <assert.h>

#include "kernels/core/trace.h"
#include "parallel/cache_placement.h"
#include "runtime/step.h"

/* [T, H, width] of rows of `row` numbers that lie head after head */
static struct tensor by_head(float *data, int64_t tokens, int64_t heads, int64_t width, int64_t row)
{
    return (struct tensor){.data = data,
                           .dtype = DTYPE_F32,
                           .ndim = 3,
                           .dim = {tokens, heads, width},
                           .stride = {row, tokens * row, 1}};
}

/* A state as it travels: o, m and l of a token and head side by side */
static struct attention_state state_by_head(float *data, int64_t tokens, int64_t heads, int64_t d_c)
{
    int64_t row = sharded_state_width(d_c);
    struct attention_state state = {.o = by_head(data, tokens, heads, d_c, row),
                                    .m = by_head(data + d_c, tokens, heads, 1, row),
                                    .l = by_head(data + d_c + 1, tokens, heads, 1, row)};
    state.m.ndim = state.l.ndim = 2;
    return state;
}

/* Of a member of the cache group, which is also one of tp. */
static struct span heads_of(const struct step *s, int member)
{
    return span_part(s->model->n_heads, s->tp->group.size, s->cache_first + member);
}

/* Of all members together. */
static struct span heads_of_all(const struct step *s)
{
    return (struct span){.begin = heads_of(s, 0).begin,
                         .end = heads_of(s, s->cache_comm->group.size - 1).end};
}

/* all = q~ and q^R of all heads, for the tokens [begin, end) of the step; q of our heads */
static enum status gather_queries(struct step *s, const struct mla_weights *w, struct tensor *all,
                                  const struct tensor *q, int64_t begin, int64_t end)
{
    const struct ops *ops = s->ops;
    int64_t d_n = s->model->d_n, d_r = s->model->d_r, d_c = s->model->d_c, row = d_c + d_r;
    struct span heads = heads_of_all(s);
    int64_t tokens = end - begin, count = tokens * span_size(heads) * row;
    struct tensor q_block = tensor_rows(q, begin, end);
    struct tensor q_c = tensor_columns(&q_block, 0, d_n);
    struct tensor q_r = tensor_columns(&q_block, d_n, d_n + d_r);
    struct tensor position = tensor_rows(&s->batch->position, begin, end);
    float *data = s->work->sharded_q.data;
    float *mine = data + (s->plan->heads.begin - heads.begin) * tokens * row;
    struct tensor own = by_head(mine, tokens, q->dim[1], row, row);
    struct tensor own_c = tensor_columns(&own, 0, d_c);
    struct tensor own_r = tensor_columns(&own, d_c, row);
    struct tensor x = tensor_1d(mine, DTYPE_F32, tokens * q->dim[1] * row);
    struct tensor y = tensor_1d(data, DTYPE_F32, count);

    /* (2) absorbed: q~ = (W^UK)^T q^C; (8) q^R */
    TRY(ops->gemm_heads(&own_c, &q_c, &w->w_uk_t, s->stream));
    TRY(ops->rope(&own_r, &q_r, &position, s->cos_sin, s->stream));
    for (int m = 0; m < s->cache_comm->group.size; m++)
        s->gather_counts[m] = tokens * span_size(heads_of(s, m)) * row;
    *all = by_head(data, tokens, span_size(heads), row, row);
    return s->cache_comm->ops->all_gather(s->cache_comm, &y, &x, s->gather_counts, s->stream);
}

/* From states of all heads over own pages to states of own heads over the pages of each member,
 * member after member. */
static enum status exchange_states(struct step *s, int64_t tokens)
{
    int64_t row = sharded_state_width(s->model->d_c), own = span_size(s->plan->heads);
    int size = s->cache_comm->group.size;
    struct tensor x =
        tensor_1d(s->work->sharded_sent.data, DTYPE_F32, tokens * span_size(heads_of_all(s)) * row);
    struct tensor y =
        tensor_1d(s->work->sharded_received.data, DTYPE_F32, size * tokens * own * row);

    trace_add(TRACE_CACHE_EXCHANGES, 1);
    for (int m = 0; m < size; m++) {
        s->gather_counts[m] = tokens * own * row;
        s->sent_counts[m] = tokens * span_size(heads_of(s, m)) * row;
    }
    return s->cache_comm->ops->all_to_all(s->cache_comm, &y, &x, s->gather_counts, s->sent_counts,
                                          s->stream);
}

/* Received states of `tokens` tokens: rows [begin, end) of class `class` of a sequence. */
static struct attention_state class_state(struct step *s, int offset, int class, int64_t tokens,
                                          int64_t begin, int64_t end)
{
    int64_t d_c = s->model->d_c, own = span_size(s->plan->heads);
    int64_t member = cache_placement_member(s->cache->n_members, offset, class);
    float *data = s->work->sharded_received.data;
    struct attention_state whole =
        state_by_head(data + member * tokens * own * sharded_state_width(d_c), tokens, own, d_c);
    return (struct attention_state){.o = tensor_rows(&whole.o, begin, end),
                                    .m = tensor_rows(&whole.m, begin, end),
                                    .l = tensor_rows(&whole.l, begin, end)};
}

/* o~[end - begin, H, d_c] of tokens [begin, end) of the block, which are of one sequence */
static enum status merge_classes(struct step *s, struct tensor *o_latent, int offset,
                                 int64_t tokens, int64_t begin, int64_t end)
{
    const struct ops *ops = s->ops;
    int size = s->cache->n_members;
    for (int stride = cache_placement_stride(size); stride > 0; stride /= 2)
        for (int c = 0; c < stride && c + stride < size; c++) {
            struct attention_state a = class_state(s, offset, c, tokens, begin, end);
            struct attention_state b = class_state(s, offset, c + stride, tokens, begin, end);
            TRY(ops->merge_partials(&a, &b, s->stream));
        }
    struct attention_state all = class_state(s, offset, 0, tokens, begin, end);
    return ops->attention_finish(o_latent, &all, s->stream);
}

/* The sequences of the block one after another: each has its own offset. */
static enum status merge_block(struct step *s, struct tensor *o_latent, int64_t begin, int64_t end)
{
    for (int i = 0; i < s->batch->n_entries; i++) {
        const struct batch_entry *entry = &s->batch->entry[i];
        int64_t first = entry->begin > begin ? entry->begin : begin;
        int64_t last = entry->end < end ? entry->end : end;
        if (first >= last)
            continue;
        struct tensor rows = tensor_rows(o_latent, first - begin, last - begin);
        TRY(merge_classes(s, &rows, s->cache->offset[entry->sequence], end - begin, first - begin,
                          last - begin));
    }
    return STATUS_OK;
}

/* What latent_attention does, on a device whose kernels take tokens in order and one row of heads after the
 * other. */
static enum status attend_in_order(struct step *s, struct attention_state *state,
                                   const struct tensor *q, const struct page_view *pages)
{
    const struct ops *ops = s->ops;
    int64_t tokens = q->dim[0], heads = q->dim[1];
    struct tensor all_q =
        tensor_3d(s->work->sharded_all_q.data, DTYPE_F32, tokens, heads, q->dim[2]);
    struct attention_state all = {
        .o = tensor_3d(s->work->sharded_all.o.data, DTYPE_F32, tokens, heads, s->model->d_c),
        .m = tensor_2d(s->work->sharded_all.m.data, DTYPE_F32, tokens, heads),
        .l = tensor_2d(s->work->sharded_all.l.data, DTYPE_F32, tokens, heads)};
    struct tensor m = tensor_3d(all.m.data, DTYPE_F32, tokens, heads, 1), to_m = state->m;
    struct tensor l = tensor_3d(all.l.data, DTYPE_F32, tokens, heads, 1), to_l = state->l;
    to_m.ndim = to_l.ndim = 3; /* of one number each */

    TRY(ops->copy(&all_q, q, s->stream));
    TRY(ops->latent_attention(&all, &all_q, pages, s->softmax_scale, s->stream));
    TRY(ops->copy(&state->o, &all.o, s->stream));
    TRY(ops->copy(&to_m, &m, s->stream));
    return ops->copy(&to_l, &l, s->stream);
}

/* Tokens [begin, end) of the step. */
static enum status attend_block(struct step *s, int layer, struct tensor *o, const struct tensor *q,
                                int64_t begin, int64_t end)
{
    const struct ops *ops = s->ops;
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    struct page_view pages = batch_own_pages(s->batch, s->cache, layer);
    struct tensor all_q, o_block = tensor_rows(o, begin, end);
    struct tensor o_latent = tensor_rows(&s->work->o_latent, 0, end - begin);
    struct attention_state state = state_by_head(s->work->sharded_sent.data, end - begin,
                                                 span_size(heads_of_all(s)), s->model->d_c);
    pages.seq_of = tensor_rows(&pages.seq_of, begin, end);
    pages.position = tensor_rows(&pages.position, begin, end);

    TRY(gather_queries(s, w, &all_q, q, begin, end));
    /* (10) over our pages only, for all heads */
    if (s->device->is_host)
        TRY(ops->latent_attention(&state, &all_q, &pages, s->softmax_scale, s->stream));
    else
        TRY(attend_in_order(s, &state, &all_q, &pages));
    TRY(exchange_states(s, end - begin));
    TRY(merge_block(s, &o_latent, begin, end));
    /* (5) absorbed: o = W^UV o~ */
    return ops->gemm_heads(&o_block, &o_latent, &w->w_uv, s->stream);
}

enum status sharded_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q)
{
    int64_t n_tokens = s->batch->n_tokens, block = s->work->sharded_tokens;
    assert(s->cache->n_members == s->cache_comm->group.size);
    for (int64_t begin = 0; begin < n_tokens; begin += block)
        TRY(attend_block(s, layer, o, q, begin,
                         begin + block < n_tokens ? begin + block : n_tokens));
    return STATUS_OK;
}

/* Pages [first, end) of a sequence, as they arrive: member after member, each in order of pages. */
struct arrival {
    int size, offset;
    int64_t first, end;
};

/* How many of the pages member `index` gives. */
static int64_t given(const struct arrival *a, int index)
{
    return cache_placement_count(a->size, a->offset, index, a->end) -
           cache_placement_count(a->size, a->offset, index, a->first);
}

/* Where page `page` arrives. */
static int64_t place_of(const struct arrival *a, int64_t page)
{
    int member = cache_placement_member(a->size, a->offset, page);
    int64_t place = cache_placement_count(a->size, a->offset, member, page) -
                    cache_placement_count(a->size, a->offset, member, a->first);
    for (int i = 0; i < member; i++)
        place += given(a, i);
    return place;
}

enum status sharded_read(struct step *s, struct tensor *rows, int layer, int sequence,
                         int64_t begin, int64_t end)
{
    const struct ops *ops = s->ops;
    const struct page_view pages = batch_pages(s->batch, s->cache, layer);
    const struct arrival a = {.size = s->cache->n_members,
                              .offset = s->cache->offset[sequence],
                              .first = begin / PAGE_ROWS,
                              .end = (end + PAGE_ROWS - 1) / PAGE_ROWS};
    int64_t width = s->model->d_c + s->model->d_r, page_size = PAGE_ROWS * width, own = 0;
    float *data = s->work->sharded_pages.data, *mine = NULL;
    int32_t place[EXPANDED_ROWS / PAGE_ROWS];
    assert(begin % PAGE_ROWS == 0 && begin < end && end - begin <= EXPANDED_ROWS);

    trace_add(TRACE_CACHE_GATHERS, 1);
    for (int64_t p = a.first; p < a.end; p++) {
        place[p - a.first] = (int32_t)place_of(&a, p);
        if (cache_placement_member(a.size, a.offset, p) != s->cache->member)
            continue;
        /* whole pages: what stands behind the last row is not read from them again */
        float *page = data + place[p - a.first] * page_size;
        struct tensor y = tensor_2d(page, DTYPE_F32, PAGE_ROWS, width);
        TRY(ops->cache_read(&y, &pages, sequence, p * PAGE_ROWS, (p + 1) * PAGE_ROWS, s->stream));
        mine = own++ == 0 ? page : mine;
    }
    struct tensor x = tensor_1d(mine, DTYPE_F32, own * page_size);
    struct tensor y = tensor_1d(data, DTYPE_F32, (a.end - a.first) * page_size);
    for (int i = 0; i < a.size; i++)
        s->gather_counts[i] = given(&a, i) * page_size;
    TRY(s->cache_comm->ops->all_gather(s->cache_comm, &y, &x, s->gather_counts, s->stream));

    /* into order: a cache of one sequence whose table is `place` */
    const struct page_view arrived = {
        .rows = tensor_3d(data, DTYPE_F32, a.end - a.first, PAGE_ROWS, width),
        .table = tensor_2d(place, DTYPE_I32, 1, a.end - a.first),
        .d_c = s->model->d_c,
        .d_r = s->model->d_r};
    return ops->cache_read(rows, &arrived, 0, 0, end - begin, s->stream);
}
