/* attention_latent.c - absorbed attention over the pages of the latent cache.
 *
 * All heads look at the same rows: q . (c^KV, k^R) scores them and c^KV itself
 * is what the softmax weighs (DeepSeek-V3 (10), with W^UK moved into q).
 * Page p of a sequence belongs to unit p mod 8; units are visited as 0 4 2 6
 * 1 5 3 7, so that each meets its partner at once.  A page that another rank
 * holds (negative in the table) adds nothing.
 */
#include "kernels/cpu/attention_piece.h"
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
    int64_t whole = from->numbers / LANES * LANES;
    whole = whole > width ? width : whole;
    for (int r = 0; r < count; r++, row += row_bytes) {
        float *to = rows + r * width;
        for (int64_t j = 0; j < whole; j += LANES)
            lanes_store(to + j, lanes_load_as(row, j, cache->dtype));
        if (whole < width) {
            int64_t rest = from->numbers - whole;
            dtype_to_f32(to + whole, row + (size_t)whole * dtype_bytes(cache->dtype), cache->dtype,
                         rest);
            memset(to + whole + rest, 0, (size_t)(width - whole - rest) * sizeof *to);
        }
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

/* level[0] = all units, met along the tree of ops.h. */
static void attend(struct partial *level, const struct queries *queries,
                   const struct row_source *source, float scale)
{
    static const int order[UNITS] = {0, 4, 2, 6, 1, 5, 3, 7};
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

enum status ISA(latent_attention)(struct attention_state *state, const struct tensor *q,
                                  const struct page_view *pages, float scale, struct stream *stream)
{
    (void)stream;
    int64_t n_tokens = q->dim[0], n_heads = q->dim[1], width = q->dim[2], d_c = state->o.dim[2];
    const int32_t *seq_of = tensor_i32(&pages->seq_of), *position = tensor_i32(&pages->position);
    struct partial level[LEVELS];
    struct queries queries;

    assert(q->ndim == 3 && state->o.ndim == 3 && state->o.dim[0] == n_tokens);
    assert(state->o.dim[1] == n_heads && pages->rows.dim[2] == width && d_c <= width);
    if (n_tokens * n_heads == 0)
        return STATUS_OK;
    if (lanes_round_up(width) > ROW_WIDTH_MAX)
        FAIL(STATUS_UNSUPPORTED, "a cached row has %lld numbers, this build takes up to %d",
             (long long)width, ROW_WIDTH_MAX);

    /* Pairs (token, head), as many as fit from tokens of one sequence, go together. */
    int fit = ISA(queries_that_fit)(width, d_c);
    for (int64_t i = 0, next; i < n_tokens * n_heads; i = next) {
        int32_t seq = seq_of[i / n_heads];
        ISA(queries_begin)(&queries, width);
        for (next = i; next < n_tokens * n_heads && queries.count < fit; next++) {
            int64_t t = next / n_heads;
            if (seq_of[t] != seq)
                break;
            ISA(queries_push)
            (&queries, tensor_f32_2(q, t, next % n_heads), width, (int64_t)position[t] + 1);
        }
        ISA(queries_end)(&queries);
        struct sequence_rows rows = {.pages = pages, .seq = seq, .numbers = width};
        struct row_source source = {.keys = widen_rows,
                                    .values = widen_rows,
                                    .context = &rows,
                                    .key_width = lanes_round_up(width),
                                    .value_width = lanes_round_up(d_c)};
        attend(level, &queries, &source, scale);
        for (int64_t k = i; k < next; k++)
            ISA(partial_store)
        (&level[0], (int)(k - i), source.value_width,
         tensor_f32_2(&state->o, k / n_heads, k % n_heads), d_c,
         tensor_f32_2(&state->m, k / n_heads, k % n_heads),
         tensor_f32_2(&state->l, k / n_heads, k % n_heads));
    }
    return STATUS_OK;
}
