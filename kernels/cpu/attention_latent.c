/* attention_latent.c - absorbed attention over the pages of the latent cache.
 *
 * All heads look at the same rows: q . (c^KV, k^R) scores them and c^KV itself
 * is what the softmax weighs (DeepSeek-V3 (10), with W^UK moved into q).
 * Page p of a sequence belongs to unit p mod 8; units are visited as 0 4 2 6
 * 1 5 3 7, so that each meets its partner at once.  A page that another rank
 * holds (negative in the table) adds nothing.
 */
#include "kernels/cpu/attention_piece.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

enum { LEVELS = 4 }; /* unit sums waiting for their partner */

struct sequence_rows {
    const struct page_view *pages;
    int64_t seq;
    int64_t numbers; /* d_c + d_r */
};

/* As tiles read them: fp8_ds_mla is widened, others stay. */
static enum dtype read_dtype(const struct page_view *pages)
{
    return pages->rows.dtype == DTYPE_U8 ? DTYPE_F32 : pages->rows.dtype;
}

/* Rows of whole steps are read in the cache, others widened or copied behind each other. */
static void copy_rows(struct run *run, float *buffer, const struct sequence_rows *from,
                      const char *row, int64_t row_bytes)
{
    const int is_fp8 = from->pages->rows.dtype == DTYPE_U8;
    const int64_t numbers = from->numbers;
    const size_t bytes = (size_t)numbers * dtype_bytes(read_dtype(from->pages));
    const size_t padded = bytes / (size_t)numbers * (size_t)step_round_up(numbers);
    char *to = (char *)buffer;
    for (int64_t r = 0; r < run->count; r++, row += row_bytes, to += padded) {
        if (is_fp8)
            row_widen((float *)(void *)to, numbers, row, from->pages);
        else
            memcpy(to, row, bytes);
        memset(to + bytes, 0, padded - bytes);
    }
    run->keys[0] = (const char *)buffer;
    run->key_stride[0] = (int64_t)padded;
}

/* A row is the key, and its first d_c numbers the value: with d_c no whole steps a few of k^R
 * follow and are dropped at the end. */
static void read_rows(struct run *run, float *buffer, const void *context)
{
    const struct sequence_rows *from = context;
    const struct tensor *cache = &from->pages->rows;
    const char *row = page_row(from->pages, from->seq, run->first);
    const int64_t row_bytes = cache->stride[1] * (int64_t)dtype_bytes(cache->dtype);
    run->keys[0] = row;
    run->key_stride[0] = row_bytes;
    if (cache->dtype == DTYPE_U8 || from->numbers % STEP != 0)
        copy_rows(run, buffer, from, row, row_bytes);
    run->keys[1] = run->values = run->keys[0];
    run->key_stride[1] = run->value_stride = run->key_stride[0];
    if (run->next >= 0) {
        run->next_at = page_row(from->pages, from->seq, run->next);
        run->next_end = run->next_at + PAGE_ROWS * row_bytes;
    }
}

/* The page, if this rank holds it and some query sees it; else -1. */
static int64_t own_row(const struct sequence_rows *rows, int64_t page, int64_t n_pages)
{
    int64_t row = page * PAGE_ROWS;
    return page < n_pages && page_row(rows->pages, rows->seq, row) != NULL ? row : -1;
}

/* partial = unit `unit`: its pages in pieces of 16, merged in order.  `next_unit` will follow, or
 * none: -1. */
static void attend_unit(struct partial *partial, const struct queries *queries,
                        const struct row_source *source, int unit, int next_unit, float scale)
{
    const struct sequence_rows *rows = source->context;
    int64_t n_pages = (queries->most_visible + PAGE_ROWS - 1) / PAGE_ROWS;
    struct partial next;
    int is_first = 1;

    ISA(partial_clear)(partial);
    for (int64_t begin = unit; begin < n_pages; begin += UNITS * PIECE_PAGES) {
        struct piece piece = {.n_runs = 0};
        int64_t end = begin + UNITS * PIECE_PAGES;
        for (int64_t page = begin; page < end; page += UNITS)
            if (own_row(rows, page, n_pages) >= 0)
                piece.first[piece.n_runs++] = page * PAGE_ROWS;
        if (piece.n_runs == 0)
            continue;
        piece.first[piece.n_runs] = end < n_pages
                                        ? own_row(rows, end, n_pages)
                                        : (next_unit < 0 ? -1 : own_row(rows, next_unit, n_pages));
        ISA(partial_of_piece)(is_first ? partial : &next, queries, source, &piece, scale);
        if (!is_first)
            ISA(partial_merge)(partial, &next, queries->count, source->value_width);
        is_first = 0;
    }
}

/* A step's attention, the same for all threads. */
struct latent_work {
    struct attention_state *state;
    const struct tensor *q;
    const struct page_view *pages;
    float scale;
    int fit; /* queries that go over the rows together */
    struct partial
        *unit; /* [UNITS] shared, in the order of `order`; NULL: blocks are split instead */
};

/* Visited so that each unit meets its partner at once. */
static const int order[UNITS] = {0, 4, 2, 6, 1, 5, 3, 7};

/* The pairs (token, head) of the block that begins at pair `begin`: as many as fit from tokens of one
 * sequence; the last two blocks of a sequence are shared out, so that none goes over all rows for a
 * query or two. */
static int64_t block_end(const struct latent_work *work, int64_t begin)
{
    int64_t n_heads = work->q->dim[1], fit = work->fit, t = begin / n_heads;
    const int32_t *seq_of = tensor_i32(&work->pages->seq_of), seq = seq_of[t];
    while (t < work->q->dim[0] && seq_of[t] == seq && t * n_heads < begin + 2 * fit)
        t++;
    int64_t left = t * n_heads - begin;
    if (left <= fit || left >= 2 * fit)
        return begin + (left < fit ? left : fit);
    int64_t half = (left / 2 + QUERY_BLOCK - 1) / QUERY_BLOCK * QUERY_BLOCK;
    return begin + (half < fit ? half : fit);
}

static void load_queries(struct queries *queries, const struct latent_work *work, int64_t begin,
                         int64_t end)
{
    const int32_t *position = tensor_i32(&work->pages->position);
    int64_t n_heads = work->q->dim[1], width = work->q->dim[2];
    ISA(queries_begin)(queries, width, read_dtype(work->pages));
    for (int64_t i = begin; i < end; i++)
        ISA(queries_push)
    (queries, tensor_f32_2(work->q, i / n_heads, i % n_heads), width,
     (int64_t)position[i / n_heads] + 1);
}

/* Queries [first, end) of a block whose result is `partial`, to where they belong. */
static void store_queries(const struct latent_work *work, const struct partial *partial,
                          const struct row_source *source, int64_t block, int first, int end)
{
    int64_t n_heads = work->q->dim[1], d_c = work->state->o.dim[2];
    for (int i = first; i < end; i++) {
        int64_t t = (block + i) / n_heads, h = (block + i) % n_heads;
        ISA(partial_store)
        (partial, i, source, tensor_f32_2(&work->state->o, t, h), d_c,
         tensor_f32_2(&work->state->m, t, h), tensor_f32_2(&work->state->l, t, h));
    }
}

/* Which units have a page that this rank holds, among the first `n_pages`: their places in `order`. */
struct held_units {
    int place[UNITS], count;
};

static struct held_units held_units(const struct sequence_rows *rows, int64_t n_pages)
{
    struct held_units held = {.count = 0};
    for (int i = 0; i < UNITS; i++) {
        int64_t page = order[i];
        while (page < n_pages && own_row(rows, page, n_pages) < 0)
            page += UNITS;
        if (page < n_pages)
            held.place[held.count++] = i;
    }
    return held;
}

/* The units of the places [begin, end) of `held`, to where they stand in `order`. */
static void attend_held(struct partial *unit, const struct queries *queries,
                        const struct row_source *source, const struct held_units *held,
                        int64_t begin, int64_t end, float scale)
{
    for (int64_t i = begin; i < end; i++)
        attend_unit(&unit[held->place[i]], queries, source, order[held->place[i]],
                    i + 1 < end ? order[held->place[i + 1]] : -1, scale);
}

/* level[0] = all units, met along the tree of ops.h. */
static void attend(struct partial *level, const struct queries *queries,
                   const struct row_source *source, float scale)
{
    int depth = 0;
    for (int i = 0; i < UNITS; i++) {
        attend_unit(&level[depth++], queries, source, order[i], i + 1 < UNITS ? order[i + 1] : -1,
                    scale);
        for (int done = i + 1; done % 2 == 0; done /= 2) {
            depth--;
            ISA(partial_merge)
            (&level[depth - 1], &level[depth], queries->count, source->value_width);
        }
    }
}

/* One block by all threads: the units that are held first, then, each for some of the queries, the
 * tree. */
static void attend_together(const struct latent_work *work, const struct queries *queries,
                            const struct row_source *source, int64_t block, int thread,
                            int n_threads)
{
    int64_t begin, end, width = source->value_width;
    const struct held_units held =
        held_units(source->context, (queries->most_visible + PAGE_ROWS - 1) / PAGE_ROWS);
    for (int i = 0, next = 0; thread == 0 && i < UNITS; i++) {
        if (next < held.count && held.place[next] == i)
            next++;
        else
            ISA(partial_clear)(&work->unit[i]);
    }
    thread_part(held.count, thread, n_threads, &begin, &end);
    attend_held(work->unit, queries, source, &held, begin, end, work->scale);
    cpu_threads_meet();
    thread_part(queries->count, thread, n_threads, &begin, &end);
    for (int step = 1; step < UNITS; step *= 2)
        for (int u = 0; u < UNITS; u += 2 * step)
            for (int64_t i = begin; i < end; i++) {
                struct partial *a = &work->unit[u], *b = &work->unit[u + step];
                ISA(merge_one)
                (a->o + i * width, &a->m[i], &a->l[i], b->o + i * width, b->m[i], b->l[i], width);
            }
    store_queries(work, &work->unit[0], source, block, (int)begin, (int)end);
    cpu_threads_meet();
}

static void latent_part(void *context, int thread, int n_threads)
{
    const struct latent_work *work = context;
    int64_t n_heads = work->q->dim[1], pairs = work->q->dim[0] * n_heads;
    struct partial level[LEVELS];
    struct queries queries;
    int64_t n = 0;
    for (int64_t begin = 0, end; begin < pairs; begin = end, n++) {
        end = block_end(work, begin);
        if (work->unit == NULL && n % n_threads != thread)
            continue; /* in turn: later blocks of a prompt see more rows */
        struct sequence_rows rows = {.pages = work->pages,
                                     .seq = tensor_i32(&work->pages->seq_of)[begin / n_heads],
                                     .numbers = work->q->dim[2]};
        struct row_source source = {.dtype = read_dtype(work->pages),
                                    .key_width = {step_round_up(work->q->dim[2]), 0},
                                    .value_width = step_round_up(work->state->o.dim[2]),
                                    .read = read_rows,
                                    .context = &rows};
        load_queries(&queries, work, begin, end);
        if (work->unit != NULL) {
            attend_together(work, &queries, &source, begin, thread, n_threads);
            continue;
        }
        attend(level, &queries, &source, work->scale);
        store_queries(work, &level[0], &source, begin, 0, queries.count);
    }
}

/* Most units that a block finds. */
static int most_units(const struct latent_work *work)
{
    int64_t n_heads = work->q->dim[1], pairs = work->q->dim[0] * n_heads;
    const int32_t *seq_of = tensor_i32(&work->pages->seq_of);
    const int32_t *position = tensor_i32(&work->pages->position);
    int most = 0;
    for (int64_t begin = 0, end; begin < pairs && most < UNITS; begin = end) {
        end = block_end(work, begin);
        struct sequence_rows rows = {.pages = work->pages, .seq = seq_of[begin / n_heads]};
        struct held_units held = held_units(&rows, position[(end - 1) / n_heads] / PAGE_ROWS + 1);
        most = held.count > most ? held.count : most;
    }
    return most;
}

/* How few blocks occupy all threads: together on the units of each, or, where a rank
 * holds few units (pages of a cache group, short sequences), each on smaller blocks. */
static void occupy_threads(struct latent_work *work, struct partial unit[UNITS])
{
    int64_t n_threads = cpu_threads_count(), pairs = work->q->dim[0] * work->q->dim[1];
    int64_t least = QUERY_BLOCK / 2, units = most_units(work);
    int64_t small = (pairs + n_threads * least - 1) / (n_threads * least) * least;
    int64_t n_blocks = (pairs + small - 1) / small;
    if (units < UNITS && units < n_threads && units < n_blocks && small < work->fit)
        work->fit = (int)small;
    else
        work->unit = unit;
}

enum status ISA(latent_attention)(struct attention_state *state, const struct tensor *q,
                                  const struct page_view *pages, float scale, struct stream *stream)
{
    (void)stream;
    int64_t pairs = q->dim[0] * q->dim[1], width = q->dim[2], d_c = state->o.dim[2], n_blocks = 0;
    struct partial unit[UNITS];

    assert(q->ndim == 3 && state->o.ndim == 3 && state->o.dim[0] == q->dim[0]);
    assert(state->o.dim[1] == q->dim[1] && d_c == pages->d_c && width == d_c + pages->d_r);
    assert(pages->rows.dim[2] == cache_row_width(pages->rows.dtype, d_c, pages->d_r));
    if (pairs == 0)
        return STATUS_OK;
    if (step_round_up(width) > ROW_WIDTH_MAX)
        FAIL(STATUS_UNSUPPORTED, "a cached row has %lld numbers, this build takes up to %d",
             (long long)width, ROW_WIDTH_MAX);
    struct latent_work work = {.state = state,
                               .q = q,
                               .pages = pages,
                               .scale = scale,
                               .fit = ISA(queries_that_fit)(width, d_c)};
    for (int64_t begin = 0; begin < pairs; begin = block_end(&work, begin))
        n_blocks++;
    if (n_blocks < 2 * cpu_threads_count())
        occupy_threads(&work, unit);
    cpu_threads_run(latent_part, &work);
    return STATUS_OK;
}
