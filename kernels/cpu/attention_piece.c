/* attention_piece.c - scores, softmax and weighted sum of one piece of rows.
 *
 * Orders (the same on every CPU and for any number of queries):
 *
 *   score   16 chains over the width, step by step and in it the first group of
 *           lanes, then the second, met by lanes_sum; times the scale
 *   m       the largest score so far, after each run
 *   l       16 chains over the rows, row r of a run in chain r mod 16, met by
 *           lanes_sum at the end of the piece
 *   o       each number is one chain over the rows
 *
 * Before a run that raises m, l and o are multiplied by exp(m before - m after).
 * Exact zeros and -infinities fill up, which changes no sum.
 */
#include "kernels/cpu/attention_piece.h"
#include "kernels/cpu/math.h"

#include <assert.h>

enum { CACHE_LINE = 64 };

/* --- tiles: H queries by rows or by groups of lanes; H and dtype are constants in each call --- */

/* Group `group` of the step at `at`. */
static ALWAYS_INLINE struct lanes row_group(const char *at, int group, enum dtype dtype)
{
    if (dtype == DTYPE_BF16)
        return lanes_line_bf16(at, group);
    return lanes_keep(lanes_load((const float *)(const void *)at + group * LANES));
}

/* Bytes of n numbers. */
static ALWAYS_INLINE int64_t row_bytes(int64_t n, enum dtype dtype)
{
    return n * (dtype == DTYPE_BF16 ? 2 : 4);
}

/* The chains of ROWS rows from `first` on, the last row of the run in place of those behind it:
 * sum[H][stride], in its columns [0, ROWS). */
static ALWAYS_INLINE void score_chains(struct lanes *sum, int stride, const float *q,
                                       const struct run *run, const struct row_source *source,
                                       int64_t first, int H, int ROWS, enum dtype dtype)
{
    UNROLLED
    for (int h = 0; h < H; h++)
        UNROLLED
    for (int r = 0; r < ROWS; r++)
        sum[h * stride + r] = lanes_zero();
    for (int part = 0; part < 2; part++) {
        const char *row[LANES];
        UNROLLED
        for (int r = 0; r < ROWS; r++)
            row[r] = run->keys[part] +
                     (first + r < run->count ? first + r : run->count - 1) * run->key_stride[part];
        int64_t end = row_bytes(source->key_width[part], dtype);
        for (int64_t at = 0; at < end; at += row_bytes(STEP, dtype)) {
            UNROLLED
            for (int group = 0; group < 2; group++, q += QUERY_BLOCK * LANES) {
                struct lanes k[LANES];
                UNROLLED
                for (int r = 0; r < ROWS; r++)
                    k[r] = row_group(row[r] + at, group, dtype);
                UNROLLED
                for (int h = 0; h < H; h++) {
                    struct lanes qj = lanes_keep(lanes_load(q + h * LANES));
                    UNROLLED
                    for (int r = 0; r < ROWS; r++)
                        sum[h * stride + r] = lanes_fma(qj, k[r], sum[h * stride + r]);
                }
            }
        }
    }
}

/* Into the second-level cache: this share of rows [first, first + rows) of what is ahead. */
static ALWAYS_INLINE void fetch_rows(const struct run *run, int64_t first, int rows, int share,
                                     int shares)
{
    for (int k = 0; k < 2; k++) {
        const struct rows_ahead *ahead = &run->ahead[k];
        for (int64_t r = first + share; ahead->bytes > 0 && r < first + rows; r += shares) {
            const char *row = ahead->row + r * ahead->stride;
            for (int64_t at = 0; at < ahead->bytes; at += 2 * CACHE_LINE) {
                lanes_prefetch_2(row + at);
                lanes_prefetch_2(row + at + CACHE_LINE);
            }
        }
    }
}

/* The scores of some queries over a run: which of its parts, of how many, fetches what is ahead. */
struct score_part {
    const struct run *run;
    const struct row_source *source;
    float scale;
    int64_t begin, end; /* rows of the run */
    int share, shares;
};

/* s[H][PAGE_ROWS] = scale q . rows; columns behind the last row get anything. */
static ALWAYS_INLINE void score_rows(float *s, const float *q, const struct score_part *part, int H,
                                     enum dtype dtype)
{
    const int rows = SCORE_TILE / H, pass = rows < 8 ? rows : 8;
    for (int64_t first = part->begin; first < part->end; first += rows) {
        struct lanes sum[SCORE_TILE];
        float sums[SCORE_TILE];
        fetch_rows(part->run, first, rows, part->share, part->shares);
        UNROLLED
        for (int r = 0; r < rows; r += pass)
            score_chains(sum + r, rows, q, part->run, part->source, first + r, H, pass, dtype);
        lanes_sums(sums, sum);
        for (int k = 0; k < SCORE_TILE; k++)
            sums[k] *= part->scale;
        UNROLLED
        for (int h = 0; h < H; h++)
            memcpy(s + h * PAGE_ROWS + first, sums + h * rows, (size_t)rows * sizeof *s);
    }
}

/* The sums of some queries over rows [begin, end) of a run; meanwhile what comes next is fetched
 * from next_at on, little by little: in bursts it is slower. */
struct sum_part {
    const struct run *run;
    int64_t begin, end;
    const char *next_at;
};

/* GROUPS groups of the sums, the first of which is number `group` of the step at `values`:
 * o[H][width] += p[H][PAGE_ROWS] . rows. */
static ALWAYS_INLINE void sum_tile(float *o, int64_t width, const float *p, const char *values,
                                   struct sum_part *part, int group, int H, int GROUPS,
                                   enum dtype dtype)
{
    /* Small tiles have no load to spare. */
    const int64_t bytes = COPIES_ROWS ? 0 : row_bytes(GROUPS * LANES, dtype) & -CACHE_LINE;
    const int64_t stride = part->run->value_stride, rows = part->end - part->begin;
    const int64_t next_step = part->run->next_end - part->next_at >= rows * bytes ? bytes : 0;
    const char *row = values + part->begin * stride, *next = part->next_at;
    struct lanes sum[SUM_TILE];
    UNROLLED
    for (int h = 0; h < H; h++)
        UNROLLED
    for (int g = 0; g < GROUPS; g++)
        sum[h * GROUPS + g] = lanes_load(o + h * width + g * LANES);
    for (int64_t r = part->begin; r < part->end; r++, row += stride, next += next_step) {
        struct lanes v[SUM_TILE];
        UNROLLED
        for (int g = 0; g < GROUPS; g++)
            v[g] =
                row_group(row + row_bytes((group + g) / 2 * STEP, dtype), (group + g) % 2, dtype);
        UNROLLED
        for (int64_t line = 0; line < bytes; line += CACHE_LINE)
            lanes_prefetch_2(next + line);
        UNROLLED
        for (int h = 0; h < H; h++) {
            struct lanes weight = lanes_splat(p[h * PAGE_ROWS + r]);
            UNROLLED
            for (int g = 0; g < GROUPS; g++)
                sum[h * GROUPS + g] = lanes_fma(weight, v[g], sum[h * GROUPS + g]);
        }
    }
    part->next_at = next;
    UNROLLED
    for (int h = 0; h < H; h++)
        UNROLLED
    for (int g = 0; g < GROUPS; g++)
        lanes_store(o + h * width + g * LANES, sum[h * GROUPS + g]);
}

/* Tiles of GROUPS groups of lanes, from number `at` of the width on, as long as they fit. */
static ALWAYS_INLINE int64_t sum_tiles(float *o, int64_t width, const float *p,
                                       struct sum_part *part, int64_t at, int H, int GROUPS,
                                       enum dtype dtype)
{
    const int whole = GROUPS > 2 ? GROUPS : 2; /* groups in whole steps */
    for (; at + whole * LANES <= width; at += whole * LANES)
        UNROLLED
    for (int g = 0; g < whole; g += GROUPS)
        sum_tile(o + at + g * LANES, width, p, part->run->values + row_bytes(at, dtype), part, g, H,
                 GROUPS, dtype);
    return at;
}

static ALWAYS_INLINE void sum_rows(float *o, int64_t width, const float *p, struct sum_part *part,
                                   int H, enum dtype dtype)
{
    const int groups = SUM_TILE / H < 8 ? SUM_TILE / H : 8;
    int64_t at = sum_tiles(o, width, p, part, 0, H, groups, dtype);
    if (groups > 2)
        sum_tiles(o, width, p, part, at, H, 2, dtype);
}

/* --- a run --- */

/* Queries of the next tile when `left` are left. */
static int tile_queries(int left, int most)
{
    int n = most;
    while (n > left)
        n /= 2;
    return n;
}

static ALWAYS_INLINE void score_n(float *s, const float *q, const struct score_part *part, int n,
                                  enum dtype dtype)
{
    if (n == 8 && SCORE_QUERIES >= 8)
        score_rows(s, q, part, 8, dtype);
    else if (n == 4 && SCORE_QUERIES >= 4)
        score_rows(s, q, part, 4, dtype);
    else if (n == 2)
        score_rows(s, q, part, 2, dtype);
    else
        score_rows(s, q, part, 1, dtype);
}

static void score_queries(float *s, const float *q, const struct score_part *part, int n)
{
    if (!COPIES_ROWS && part->run->dtype == DTYPE_BF16)
        score_n(s, q, part, n, DTYPE_BF16);
    else
        score_n(s, q, part, n, DTYPE_F32);
}

static ALWAYS_INLINE void sum_n(float *o, int64_t width, const float *p, struct sum_part *part,
                                int n, enum dtype dtype)
{
    if (n == 8 && SUM_QUERIES >= 8)
        sum_rows(o, width, p, part, 8, dtype);
    else if (n == 4)
        sum_rows(o, width, p, part, 4, dtype);
    else if (n == 2)
        sum_rows(o, width, p, part, 2, dtype);
    else
        sum_rows(o, width, p, part, 1, dtype);
}

static void sum_queries(float *o, const float *p, struct sum_part *part,
                        const struct row_source *source, int n)
{
    if (!COPIES_ROWS && part->run->dtype == DTYPE_BF16)
        sum_n(o, source->value_width, p, part, n, DTYPE_BF16);
    else
        sum_n(o, source->value_width, p, part, n, DTYPE_F32);
}

static int64_t clip(int64_t n, int64_t least, int64_t most)
{
    return n < least ? least : n > most ? most : n;
}

/* Rows of the run that query i sees. */
static int64_t rows_seen(const struct queries *queries, const struct run *run, int i)
{
    return clip(queries->visible[i] - run->first, 0, run->count);
}

static void score_run(float *scores, const struct queries *queries, const struct run *run,
                      const struct row_source *source, float scale)
{
    struct score_part part = {.run = run, .source = source, .scale = scale};
    part.shares = (queries->count + SCORE_QUERIES - 1) / SCORE_QUERIES;
    for (; part.begin < run->count; part.begin = part.end) {
        part.end = clip(part.begin + ROW_BATCH, 0, run->count);
        for (int i = 0, n; i < queries->count; i += n) {
            n = tile_queries(queries->count - i, SCORE_QUERIES);
            part.share = i / SCORE_QUERIES;
            score_queries(scores + i * PAGE_ROWS, queries->q + query_at(i, queries->width), &part,
                          n);
        }
    }
}

/* One query's scores s of a run become exp(s - m), 0 behind the rows it sees; m and the chains of l
 * go on.  Returns what its o is to be multiplied by. */
static float softmax_run(float *s, float *m, struct lanes *l, int64_t seen)
{
    struct lanes largest = lanes_splat(-INFINITY);
    for (int64_t r = seen; r < PAGE_ROWS; r++)
        s[r] = -INFINITY;
    for (int r = 0; r < PAGE_ROWS; r += LANES)
        largest = lanes_max(largest, lanes_load(s + r));
    float before = *m, of_run = lanes_largest(largest), factor = 1.0f;
    *m = before > of_run ? before : of_run;
    if (*m == -INFINITY) { /* nothing seen so far */
        memset(s, 0, PAGE_ROWS * sizeof *s);
        return factor;
    }
    if (*m != before) {
        factor = exp_f32(before - *m);
        *l = lanes_mul(*l, lanes_splat(factor));
    }
    for (int r = 0; r < PAGE_ROWS; r += LANES) {
        struct lanes p = lanes_exp(lanes_sub(lanes_load(s + r), lanes_splat(*m)));
        *l = lanes_add(*l, p);
        lanes_store(s + r, p);
    }
    return factor;
}

static void rescale(float *o, int64_t width, float factor)
{
    for (int64_t j = 0; j < width; j += LANES)
        lanes_store(o + j, lanes_mul(lanes_load(o + j), lanes_splat(factor)));
}

/* o += p . rows [begin, end) for queries [i, i + n).  Rows that a query does not see are never
 * multiplied by its zeros, so that nothing in them can show; those behind the rows that all of them
 * see go query by query. */
static void sum_tile_of_queries(float *o, const float *p, const struct queries *queries, int i,
                                int n, struct sum_part *part, const struct row_source *source,
                                int64_t begin, int64_t end)
{
    int64_t width = source->value_width, common = end;
    for (int k = i; k < i + n; k++)
        common = clip(rows_seen(queries, part->run, k), begin, common);
    part->begin = begin;
    part->end = common;
    if (part->begin < part->end)
        sum_queries(o + i * width, p + i * PAGE_ROWS, part, source, n);
    part->begin = common;
    for (int k = i; k < i + n; k++) {
        part->end = clip(rows_seen(queries, part->run, k), begin, end);
        if (part->begin < part->end)
            sum_queries(o + k * width, p + k * PAGE_ROWS, part, source, 1);
    }
}

static void sum_run(float *o, const float *p, const struct queries *queries, const struct run *run,
                    const struct row_source *source)
{
    struct sum_part part = {.run = run, .next_at = run->next_at};
    for (int64_t begin = 0; begin < run->count; begin += ROW_BATCH)
        for (int i = 0, n; i < queries->count; i += n) {
            n = tile_queries(queries->count - i, SUM_QUERIES);
            sum_tile_of_queries(o, p, queries, i, n, &part, source, begin,
                                clip(begin + ROW_BATCH, 0, run->count));
        }
}

/* Rows of BF16, widened in the order of their groups; the keys are one part and begin with the
 * values. */
static void widen_run(struct run *run, float *to, const struct row_source *source)
{
    const int64_t width = source->key_width[0];
    assert(source->key_width[1] == 0 && run->values == run->keys[0]);
    for (int64_t r = 0; r < run->count; r++) {
        const char *row = run->keys[0] + r * run->key_stride[0];
        for (int64_t j = 0; j < width; j += STEP, row += row_bytes(STEP, DTYPE_BF16)) {
            lanes_store(to + r * width + j, lanes_line_bf16(row, 0));
            lanes_store(to + r * width + j + LANES, lanes_line_bf16(row, 1));
        }
    }
    run->dtype = DTYPE_F32;
    run->keys[0] = run->keys[1] = run->values = (const char *)to;
    run->key_stride[0] = run->key_stride[1] = run->value_stride = width * (int64_t)sizeof *to;
}

void ISA(partial_of_piece)(struct partial *partial, const struct queries *queries,
                           const struct row_source *source, const struct piece *piece, float scale)
{
    _Alignas(64) float buffer[2 * PAGE_ROWS * ROW_WIDTH_MAX];
    _Alignas(64) float scores[QUERIES * PAGE_ROWS];
    struct lanes l[QUERIES];
    int64_t width = source->value_width;

    assert(source->key_width[0] + source->key_width[1] == queries->width);
    assert(queries->width <= ROW_WIDTH_MAX && width <= ROW_WIDTH_MAX);
    memset(partial->o, 0, (size_t)(queries->count * width) * sizeof *partial->o);
    for (int i = 0; i < queries->count; i++) {
        partial->m[i] = -INFINITY;
        l[i] = lanes_zero();
    }
    for (int k = 0; k < piece->n_runs; k++) {
        int64_t first = piece->first[k], count = queries->most_visible - first;
        struct run run = {.first = first,
                          .count = count < PAGE_ROWS ? count : PAGE_ROWS,
                          .dtype = source->dtype,
                          .next = piece->first[k + 1]};
        source->read(&run, buffer, source->context);
        if (COPIES_ROWS && run.dtype == DTYPE_BF16)
            widen_run(&run, buffer + PAGE_ROWS * ROW_WIDTH_MAX, source);
        if (run.next_at == NULL)
            run.next_at = run.next_end = run.values;
        score_run(scores, queries, &run, source, scale);
        for (int i = 0; i < queries->count; i++) {
            int has_sums = partial->m[i] != -INFINITY;
            float factor = softmax_run(scores + i * PAGE_ROWS, &partial->m[i], &l[i],
                                       rows_seen(queries, &run, i));
            if (has_sums && factor != 1.0f)
                rescale(partial->o + i * width, width, factor);
        }
        sum_run(partial->o, scores, queries, &run, source);
    }
    for (int i = 0; i < queries->count; i++)
        partial->l[i] = lanes_sum(l[i]);
}
