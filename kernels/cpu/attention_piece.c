/* attention_piece.c - scores, softmax and weighted sum of one piece of rows.
 *
 * Orders (the same on every CPU and for any number of queries): a score is 16
 * chains over the width met by lanes_sum; l is 16 chains over the rows, row r
 * in chain r mod 16, met by lanes_sum; each number of o is one chain over the
 * rows.  Exact zeros and -infinities fill up, which changes no sum.
 */
#include "kernels/cpu/attention_piece.h"
#include "kernels/cpu/math.h"

#include <assert.h>

int ISA(queries_that_fit)(int64_t key_width, int64_t value_width)
{
    int64_t keys =
        (int64_t)(sizeof((struct queries *)NULL)->q / sizeof(float)) / lanes_round_up(key_width);
    int64_t values = PARTIAL_FLOATS / lanes_round_up(value_width);
    int64_t fit = keys < values ? keys : values;
    return fit > QUERIES ? QUERIES : (int)(fit / QUERY_TILE * QUERY_TILE);
}

void ISA(queries_begin)(struct queries *queries, int64_t q_width)
{
    queries->count = 0;
    queries->padded = 0;
    queries->most_visible = 0;
    queries->width = lanes_round_up(q_width);
}

void ISA(queries_push)(struct queries *queries, const float *q, int64_t q_width, int64_t visible)
{
    float *to = queries->q + queries->count * queries->width;
    memcpy(to, q, (size_t)q_width * sizeof *q);
    for (int64_t i = q_width; i < queries->width; i++)
        to[i] = 0.0f;
    queries->visible[queries->count++] = visible;
    if (visible > queries->most_visible)
        queries->most_visible = visible;
}

void ISA(queries_end)(struct queries *queries)
{
    queries->padded = (queries->count + QUERY_TILE - 1) / QUERY_TILE * QUERY_TILE;
    for (int i = queries->count; i < queries->padded; i++) {
        memset(queries->q + i * queries->width, 0, (size_t)queries->width * sizeof(float));
        queries->visible[i] = queries->visible[queries->count - 1];
    }
}

void ISA(partial_clear)(struct partial *partial)
{
    for (int i = 0; i < QUERIES; i++) {
        partial->m[i] = -INFINITY;
        partial->l[i] = 0.0f;
    }
}

/* s[SCORE_QUERIES][.., row, row + SCORE_ROWS) = scale q . rows */
static inline void score_tile(float *s, const float *q, const float *rows, int64_t width,
                              float scale)
{
    struct lanes sum[SCORE_TILE];
    for (int k = 0; k < SCORE_TILE; k++)
        sum[k] = lanes_zero();
    for (int64_t j = 0; j < width; j += LANES) {
        struct lanes row[SCORE_ROWS];
        for (int r = 0; r < SCORE_ROWS; r++)
            row[r] = lanes_load(rows + r * width + j);
        for (int i = 0; i < SCORE_QUERIES; i++) {
            struct lanes qj = lanes_load(q + i * width + j);
            for (int r = 0; r < SCORE_ROWS; r++)
                sum[i * SCORE_ROWS + r] = lanes_fma(qj, row[r], sum[i * SCORE_ROWS + r]);
        }
    }
    float sums[SCORE_TILE];
    lanes_sums(sums, sum);
    for (int i = 0; i < SCORE_QUERIES; i++)
        for (int r = 0; r < SCORE_ROWS; r++)
            s[i * PIECE_ROWS + r] = scale * sums[i * SCORE_ROWS + r];
}

/* Scores of a batch of rows, the first of which is row `first` and column `column` of the piece;
 * -infinity for rows a query does not see. */
static void score_batch(float *scores, const struct queries *queries, const float *rows, int count,
                        int64_t first, int column, float scale)
{
    for (int i = 0; i < queries->padded; i += SCORE_QUERIES)
        for (int r = 0; r < count; r += SCORE_ROWS)
            score_tile(scores + i * PIECE_ROWS + column + r, queries->q + i * queries->width,
                       rows + r * queries->width, queries->width, scale);
    for (int i = 0; i < queries->padded; i++) {
        int64_t visible = queries->visible[i] - first;
        for (int64_t r = visible < 0 ? 0 : visible; r < ROW_BATCH; r++)
            scores[i * PIECE_ROWS + column + r] = -INFINITY;
    }
}

/* m = max s, s = exp(s - m), l = sum of them; `columns` is whole lanes. */
static void exponentials(float *s, float *m, float *l, int columns)
{
    struct lanes largest = lanes_splat(-INFINITY), sum = lanes_zero();
    for (int j = 0; j < columns; j += LANES)
        largest = lanes_max(largest, lanes_load(s + j));
    *m = lanes_largest(largest);
    *l = 0.0f;
    if (*m == -INFINITY) { /* sees nothing of this piece */
        memset(s, 0, (size_t)columns * sizeof *s);
        return;
    }
    for (int j = 0; j < columns; j += LANES) {
        struct lanes p = lanes_exp(lanes_sub(lanes_load(s + j), lanes_splat(*m)));
        sum = lanes_add(sum, p);
        lanes_store(s + j, p);
    }
    *l = lanes_sum(sum);
}

/* o[n_queries][SUM_LANES x 16] += p . rows, n_queries a constant in each call */
static inline void sum_tile(float *o, const float *p, const float *rows, int64_t width,
                            int64_t count, int n_queries, int n_lanes)
{
    struct lanes sum[QUERY_TILE][SUM_LANES];
    for (int i = 0; i < n_queries; i++)
        for (int j = 0; j < n_lanes; j++)
            sum[i][j] = lanes_load(o + i * width + j * LANES);
    for (int64_t r = 0; r < count; r++) {
        struct lanes row[SUM_LANES];
        for (int j = 0; j < n_lanes; j++)
            row[j] = lanes_load(rows + r * width + j * LANES);
        for (int i = 0; i < n_queries; i++) {
            struct lanes pr = lanes_splat(p[i * PIECE_ROWS + r]);
            for (int j = 0; j < n_lanes; j++)
                sum[i][j] = lanes_fma(pr, row[j], sum[i][j]);
        }
    }
    for (int i = 0; i < n_queries; i++)
        for (int j = 0; j < n_lanes; j++)
            lanes_store(o + i * width + j * LANES, sum[i][j]);
}

/* Rows [begin, end) of the batch for n_queries queries. */
static inline void sum_rows(float *o, const float *p, const float *rows, int64_t width,
                            int64_t begin, int64_t end, int n_queries)
{
    int64_t j = 0;
    if (begin >= end)
        return;
    for (; j + SUM_LANES * LANES <= width; j += SUM_LANES * LANES)
        sum_tile(o + j, p + begin, rows + begin * width + j, width, end - begin, n_queries,
                 SUM_LANES);
    for (; SUM_LANES > 2 && j + 2 * LANES <= width; j += 2 * LANES)
        sum_tile(o + j, p + begin, rows + begin * width + j, width, end - begin, n_queries, 2);
    for (; j < width; j += LANES)
        sum_tile(o + j, p + begin, rows + begin * width + j, width, end - begin, n_queries, 1);
}

/* o += p . rows for a batch.  Rows that a query does not see are never multiplied by its zeros, so
 * that nothing in them can show; those at the end of a tile's common rows go query by query. */
static void sum_batch(float *o, const float *scores, const struct queries *queries,
                      const float *rows, int64_t width, int count, int64_t first, int column)
{
    for (int i = 0; i < queries->padded; i += QUERY_TILE) {
        int64_t own[QUERY_TILE], common = count;
        for (int k = 0; k < QUERY_TILE; k++) {
            own[k] = queries->visible[i + k] - first;
            own[k] = own[k] < 0 ? 0 : own[k] > count ? count : own[k];
            common = own[k] < common ? own[k] : common;
        }
        const float *p = scores + i * PIECE_ROWS + column;
        sum_rows(o + i * width, p, rows, width, 0, common, QUERY_TILE);
        for (int k = 0; k < QUERY_TILE; k++)
            sum_rows(o + (i + k) * width, p + k * PIECE_ROWS, rows, width, common, own[k], 1);
    }
}

/* Rows of the run beginning at `first` that some query sees. */
static int64_t run_rows(const struct queries *queries, int64_t first)
{
    int64_t rows = queries->most_visible - first;
    return rows > PAGE_ROWS ? PAGE_ROWS : rows;
}

static int min_int(int64_t a, int64_t b)
{
    return (int)(a < b ? a : b);
}

void ISA(partial_of_piece)(struct partial *partial, const struct queries *queries,
                           const struct row_source *source, const struct piece *piece, float scale)
{
    _Alignas(64) float scores[QUERIES * PIECE_ROWS];
    _Alignas(64) float rows[ROW_BATCH * ROW_WIDTH_MAX];
    int64_t width = source->key_width;
    int column = 0;

    assert(source->key_width <= ROW_WIDTH_MAX && source->value_width <= ROW_WIDTH_MAX);
    for (int run = 0; run < piece->n_runs; run++) {
        int64_t n = run_rows(queries, piece->first[run]);
        for (int64_t at = 0; at < n; at += ROW_BATCH, column += ROW_BATCH) {
            int64_t first = piece->first[run] + at;
            int count = min_int(n - at, ROW_BATCH);
            source->keys(rows, width, source->context, first, count);
            memset(rows + count * width, 0,
                   (size_t)((SCORE_ROWS - count % SCORE_ROWS) % SCORE_ROWS * width) * sizeof *rows);
            score_batch(scores, queries, rows, count, first, column, scale);
        }
    }
    for (int i = 0; i < queries->padded; i++)
        exponentials(scores + i * PIECE_ROWS, &partial->m[i], &partial->l[i], column);

    width = source->value_width;
    memset(partial->o, 0, (size_t)(queries->padded * width) * sizeof *partial->o);
    column = 0;
    for (int run = 0; run < piece->n_runs; run++) {
        int64_t n = run_rows(queries, piece->first[run]);
        for (int64_t at = 0; at < n; at += ROW_BATCH, column += ROW_BATCH) {
            int64_t first = piece->first[run] + at;
            int count = min_int(n - at, ROW_BATCH);
            source->values(rows, width, source->context, first, count);
            sum_batch(partial->o, scores, queries, rows, width, count, first, column);
        }
    }
}
