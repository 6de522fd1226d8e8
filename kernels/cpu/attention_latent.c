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

/* Widens rows [first, first + count) of one page.  Values are the first d_c numbers of the same row:
 * with d_c no multiple of 16 a few of k^R follow and are dropped at the end. */
static void widen_rows(float *rows, int64_t width, const void *context, int64_t first, int count)
{
    const struct sequence_rows *from = context;
    const struct tensor *cache = &from->pages->rows;
    const char *row = page_row(from->pages, from->seq, first);
    size_t row_bytes = (size_t)cache->stride[1] * dtype_bytes(cache->dtype);
    int64_t numbers = from->numbers < width ? from->numbers : width;
    for (int r = 0; r < count; r++, row += row_bytes) {
        float *to = rows + r * width;
        row_widen(to, numbers, row, from->pages);
        memset(to + numbers, 0, (size_t)(width - numbers) * sizeof *to);
    }
}

/* partial = unit `unit`: its pages in pieces of 16, merged in order. */
static void attend_unit(struct partial *partial, const struct queries *queries,
                        const struct row_source *source, int unit, float scale)
{
    const struct sequence_rows *rows = source->context;
    int64_t n_pages = (queries->most_visible + PAGE_ROWS - 1) / PAGE_ROWS;
    struct partial next;
    int is_first = 1;

    ISA(partial_clear)(partial);
    for (int64_t begin = unit; begin < n_pages; begin += UNITS * PIECE_PAGES) {
        struct piece piece = {.n_runs = 0};
        for (int64_t page = begin; page < n_pages && page < begin + UNITS * PIECE_PAGES;
             page += UNITS)
            if (page_row(rows->pages, rows->seq, page * PAGE_ROWS) != NULL)
                piece.first[piece.n_runs++] = page * PAGE_ROWS;
        if (piece.n_runs == 0)
            continue;
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
 * sequence. */
static int64_t block_end(const struct latent_work *work, int64_t begin)
{
    int64_t n_heads = work->q->dim[1], pairs = work->q->dim[0] * n_heads, end = begin;
    const int32_t *seq_of = tensor_i32(&work->pages->seq_of);
    while (end < pairs && end < begin + work->fit &&
           seq_of[end / n_heads] == seq_of[begin / n_heads])
        end++;
    return end;
}

static void load_queries(struct queries *queries, const struct latent_work *work, int64_t begin,
                         int64_t end)
{
    const int32_t *position = tensor_i32(&work->pages->position);
    int64_t n_heads = work->q->dim[1], width = work->q->dim[2];
    ISA(queries_begin)(queries, width);
    for (int64_t i = begin; i < end; i++)
        ISA(queries_push)
    (queries, tensor_f32_2(work->q, i / n_heads, i % n_heads), width,
     (int64_t)position[i / n_heads] + 1);
    ISA(queries_end)(queries);
}

/* Queries [first, end) of a block whose result is `partial`, to where they belong. */
static void store_queries(const struct latent_work *work, const struct partial *partial,
                          int64_t block, int first, int end)
{
    int64_t n_heads = work->q->dim[1], d_c = work->state->o.dim[2];
    for (int i = first; i < end; i++) {
        int64_t t = (block + i) / n_heads, h = (block + i) % n_heads;
        ISA(partial_store)
        (partial, i, lanes_round_up(d_c), tensor_f32_2(&work->state->o, t, h), d_c,
         tensor_f32_2(&work->state->m, t, h), tensor_f32_2(&work->state->l, t, h));
    }
}

/* level[0] = all units, met along the tree of ops.h. */
static void attend(struct partial *level, const struct queries *queries,
                   const struct row_source *source, float scale)
{
    int depth = 0;
    for (int i = 0; i < UNITS; i++) {
        attend_unit(&level[depth++], queries, source, order[i], scale);
        for (int done = i + 1; done % 2 == 0; done /= 2) {
            depth--;
            ISA(partial_merge)
            (&level[depth - 1], &level[depth], queries->count, source->value_width);
        }
    }
}

/* One block by all threads: units first, then, each for some of the queries, the tree. */
static void attend_together(const struct latent_work *work, const struct queries *queries,
                            const struct row_source *source, int64_t block, int thread,
                            int n_threads)
{
    int64_t begin, end, width = source->value_width;
    thread_part(UNITS, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        attend_unit(&work->unit[i], queries, source, order[i], work->scale);
    cpu_threads_meet();
    thread_part(queries->count, thread, n_threads, &begin, &end);
    for (int step = 1; step < UNITS; step *= 2)
        for (int u = 0; u < UNITS; u += 2 * step)
            for (int64_t i = begin; i < end; i++) {
                struct partial *a = &work->unit[u], *b = &work->unit[u + step];
                ISA(merge_one)
                (a->o + i * width, &a->m[i], &a->l[i], b->o + i * width, b->m[i], b->l[i], width);
            }
    store_queries(work, &work->unit[0], block, (int)begin, (int)end);
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
        struct row_source source = {.keys = widen_rows,
                                    .values = widen_rows,
                                    .context = &rows,
                                    .key_width = lanes_round_up(work->q->dim[2]),
                                    .value_width = lanes_round_up(work->state->o.dim[2])};
        load_queries(&queries, work, begin, end);
        if (work->unit != NULL) {
            attend_together(work, &queries, &source, begin, thread, n_threads);
            continue;
        }
        attend(level, &queries, &source, work->scale);
        store_queries(work, &level[0], begin, 0, queries.count);
    }
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
    if (lanes_round_up(width) > ROW_WIDTH_MAX)
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
        work.unit = unit;
    cpu_threads_run(latent_part, &work);
    return STATUS_OK;
}
