/* product_i8.c - products with 8-bit weights, in integers (matrix.h).
 *
 * Input rows are rounded once per call into a panel: run after run, in each the
 * tiles of rows, in a tile line after line the words of its rows, so that a tile
 * walks through it with one pointer.  A word at either end of a run has zeros for
 * the columns of its neighbours: a line that two runs share is multiplied twice.
 *
 * Blocks of weights then stream by once for up to 96 rows: run by run all tiles
 * multiply the same few KiB, while the lines some way ahead are fetched.  Weights
 * are stored with 128 added, so the sums of a row begin at -128 times the sum of
 * the row's run.
 */
#include "kernels/cpu/lanes_i8.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/unit_tree.h"

#include <assert.h>

enum {
    PANEL_BYTES = 3 << 19, /* of rounded rows: 96 of 15,000 columns */
    PANEL_ROWS = 96,
    AHEAD = 8192, /* bytes of a bundle that are asked for before their use */
    TILE_WIDTH = I8_BLOCKS * MATRIX_BLOCK
};

/* Columns that are rounded and summed together. */
struct run {
    int64_t begin, end;
    int64_t group, group_end; /* of w's columns */
    int unit;
};

static void run_at(struct run *run, const struct matrix *w, int64_t column)
{
    run->begin = column;
    while (column < w->k && w->units.begin[run->unit + 1] <= column)
        run->unit++;
    int64_t unit_end = w->units.begin[run->unit + 1];
    run->end = run->group_end < unit_end ? run->group_end : unit_end;
}

static struct run run_first(const struct matrix *w)
{
    struct run run = {.group_end = w->scales.step - w->scales.first};
    run_at(&run, w, 0);
    return run;
}

static void run_next(struct run *run, const struct matrix *w)
{
    if (run->end == run->group_end) {
        run->group++;
        run->group_end += w->scales.step;
    }
    run_at(run, w, run->end);
}

static int64_t run_lines(const struct run *run)
{
    return (run->end + WORD_COLUMNS - 1) / WORD_COLUMNS - run->begin / WORD_COLUMNS;
}

/* --- the panel --- */

/* Rows of a panel: n_tiles of `height`, one of the heights that tiles are compiled for. */
struct tiles {
    int rows, n_tiles, height;
};

static int compiled_height(int rows)
{
    return rows > 4 ? (rows + 1) / 2 * 2 : rows;
}

static struct tiles tiles_of(int rows)
{
    struct tiles t = {.rows = rows, .n_tiles = (rows + I8_ROWS - 1) / I8_ROWS};
    t.height = compiled_height((rows + t.n_tiles - 1) / t.n_tiles);
    return t;
}

/* What a run keeps of each row beside its words. */
struct row_run {
    float scale;
    int32_t start; /* of the sums */
};

/* The bytes a row takes in the panel. */
static int64_t panel_row_bytes(const struct matrix *w)
{
    int64_t bytes = 0;
    for (struct run run = run_first(w); run.begin < w->k; run_next(&run, w))
        bytes += (int64_t)sizeof(struct row_run) + run_lines(&run) * WORD_BYTES;
    return bytes;
}

/* padded = columns [begin, end) of x at their places in whole lines, zeros around; returns the vectors
 * of 16 that this makes. */
static int pad_run(float *padded, const float *x, const struct run *run)
{
    int64_t before = run->begin % WORD_COLUMNS, n = run->end - run->begin;
    int64_t vectors = (before + n + LANES - 1) / LANES, after = before + n;
    for (int64_t i = 0; i < before; i++)
        padded[i] = 0.0f;
    memcpy(padded + before, x + run->begin, (size_t)n * sizeof *x);
    for (; after < vectors * LANES; after++)
        padded[after] = 0.0f;
    return (int)vectors;
}

/* The largest |x|, as bits: infinity is above all numbers, NaN above infinity. */
static int32_t largest_bits(const float *x, int vectors)
{
    struct ints largest = ints_splat(0);
    for (int i = 0; i < vectors; i++)
        largest = ints_max(largest, ints_magnitude(lanes_load(x + i * LANES)));
    return ints_largest(largest);
}

static float float_of_bits(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The words of one row in one run, `stride` bytes from line to line. */
static struct row_run round_row(char *words, int64_t stride, const float *x, const struct run *run)
{
    enum { INFINITY_BITS = 0x7f800000, SMALLEST_BITS = (127 - 100) << 23 };
    _Alignas(64) float padded[MATRIX_I8_STEP + 2 * LANES];
    int vectors = pad_run(padded, x, run);
    int32_t bits = largest_bits(padded, vectors);
    int64_t lines = run_lines(run);
    float m = float_of_bits(bits);
    int is_number = bits >= SMALLEST_BITS && bits < INFINITY_BITS;
    struct lanes factor = lanes_splat(is_number ? 127.0f / m : 0.0f);
    struct ints sum = ints_splat(0);
    char last[LANES * WORD_BYTES];
    for (int64_t i = 0; i < vectors; i++) {
        struct ints q = ints_splat(0);
        if (is_number)
            q = ints_round(lanes_mul(lanes_load(padded + i * LANES), factor));
        sum = ints_add(sum, q);
        int64_t left = lines - i * 4; /* a vector has 4 lines */
        if (left >= 4) {
            words_store(words + i * 4 * stride, stride, q);
            continue;
        }
        words_store(last, WORD_BYTES, q);
        for (int64_t l = 0; l < left; l++)
            memcpy(words + (i * 4 + l) * stride, last + l * WORD_BYTES, WORD_BYTES);
    }
    return (struct row_run){.scale = bits >= INFINITY_BITS ? NAN
                                     : is_number           ? m / 127.0f
                                                           : 0.0f,
                            .start = -128 * ints_sum(sum)};
}

/* Rounds all rows; rows that only fill up tiles are zero. */
static void panel_fill(char *panel, const float *x, int64_t x_stride, const struct tiles *tiles,
                       const struct matrix *w)
{
    int padded = tiles->n_tiles * tiles->height;
    int64_t stride = tiles->height * WORD_BYTES;
    for (struct run run = run_first(w); run.begin < w->k; run_next(&run, w)) {
        struct row_run *row = (struct row_run *)(void *)panel;
        int64_t lines = run_lines(&run);
        panel += (size_t)padded * sizeof *row;
        if (tiles->rows < padded)
            memset(panel + (tiles->n_tiles - 1) * lines * stride, 0, (size_t)(lines * stride));
        for (int r = 0; r < padded; r++) {
            char *words = panel + r / tiles->height * lines * stride +
                          r % tiles->height * (int64_t)WORD_BYTES;
            row[r] = r < tiles->rows ? round_row(words, stride, x + r * x_stride, &run)
                                     : (struct row_run){0};
        }
        panel += padded * lines * WORD_BYTES;
    }
}

/* --- tiles --- */

/* I8_BLOCKS blocks of weights and one run of them. */
struct stripe {
    const char *line[I8_BLOCKS]; /* the first of the run */
    const void *scale[I8_BLOCKS];
    enum dtype scale_dtype;
    int64_t n_lines, step; /* bytes from a line of a block to its next */
    int begins_unit;
};

/* sums[R][TILE_WIDTH] of R rows += the run; R is a constant in each call.  Of the lines to fetch this
 * tile, number `t` of n_tiles, asks for its part. */
static ALWAYS_INLINE void tile_run(float *sums, int R, const struct row_run *row, const char *words,
                                   const struct stripe *stripe, int t, int n_tiles)
{
    enum { B = I8_BLOCKS };
    struct ints sum[I8_ROWS][B];
    const int64_t n_lines = stripe->n_lines, step = stripe->step / n_tiles;
    int64_t fetch = AHEAD + n_lines * t * step;
    UNROLLED
    for (int r = 0; r < R; r++)
        UNROLLED
    for (int b = 0; b < B; b++)
        sum[r][b] = ints_splat(row[r].start);
    int64_t i = 0;
    do { /* a run has a line: `for` made gcc 12 copy every sum in each round */
        struct line w[B];
        UNROLLED
        for (int b = 0; b < B; b++) {
            w[b] = line_load(stripe->line[b] + i * stripe->step);
            line_fetch(stripe->line[b] + fetch);
        }
        UNROLLED
        for (int r = 0; r < R; r++) {
            struct word x = word_load(words + r * WORD_BYTES);
            UNROLLED
            for (int b = 0; b < B; b++)
                sum[r][b] = ints_dot(sum[r][b], w[b], x);
        }
        words += R * WORD_BYTES;
        fetch += step;
    } while (++i < n_lines);
    UNROLLED
    for (int b = 0; b < B; b++) {
        struct lanes scale = lanes_load_as(stripe->scale[b], 0, stripe->scale_dtype);
        UNROLLED
        for (int r = 0; r < R; r++) {
            float *to = sums + r * TILE_WIDTH + b * MATRIX_BLOCK;
            struct lanes before = stripe->begins_unit ? lanes_zero() : lanes_load(to);
            struct lanes both = lanes_mul(scale, lanes_splat(row[r].scale));
            lanes_store(to, lanes_fma(both, lanes_of_ints(sum[r][b]), before));
        }
    }
}

/* All tiles of a run. */
static ALWAYS_INLINE void tiles_run_of(float *sums, int R, const struct row_run *row,
                                       const char *words, const struct stripe *stripe, int n_tiles)
{
    for (int t = 0; t < n_tiles; t++)
        tile_run(sums + t * R * TILE_WIDTH, R, row + t * R,
                 words + t * R * stripe->n_lines * WORD_BYTES, stripe, t, n_tiles);
}

static void tiles_run(float *sums, int height, const struct row_run *row, const char *words,
                      const struct stripe *stripe, int n_tiles)
{
    switch (height) {
    case 1:
        tiles_run_of(sums, 1, row, words, stripe, n_tiles);
        break;
    case 2:
        tiles_run_of(sums, 2, row, words, stripe, n_tiles);
        break;
    case 3:
        tiles_run_of(sums, 3, row, words, stripe, n_tiles);
        break;
    case 4:
        tiles_run_of(sums, 4, row, words, stripe, n_tiles);
        break;
#if defined(ISA_AVX512)
    case 6:
        tiles_run_of(sums, 6, row, words, stripe, n_tiles);
        break;
    case 8:
        tiles_run_of(sums, 8, row, words, stripe, n_tiles);
        break;
#endif
#if defined(ISA_VNNI)
    case 10:
        tiles_run_of(sums, 10, row, words, stripe, n_tiles);
        break;
    case 12:
        tiles_run_of(sums, 12, row, words, stripe, n_tiles);
        break;
#endif
    default:
        assert(0 && "a height that compiled_height does not give");
    }
}

/* --- blocks --- */

/* What blocks [block, block + I8_BLOCKS) of w are read from; the last one repeats past `end`. */
struct source {
    const char *line[I8_BLOCKS], *scale[I8_BLOCKS];
    int64_t step;
};

static struct source source_of(const struct matrix *w, int64_t block, int64_t end)
{
    struct source source = {.step = matrix_line_step(w, block)};
    size_t scale_bytes = matrix_scale_bytes(w) / (size_t)matrix_blocks(w);
    for (int b = 0; b < I8_BLOCKS; b++) {
        int64_t at = block + b < end ? block + b : end - 1;
        source.line[b] = (const char *)w->data + matrix_block_at(w, at);
        source.scale[b] = (const char *)w->scales.data + (size_t)at * scale_bytes;
    }
    return source;
}

static struct stripe stripe_of(const struct matrix *w, const struct source *source,
                               const struct run *run)
{
    struct stripe stripe = {.n_lines = run_lines(run),
                            .step = source->step,
                            .scale_dtype = w->scales.dtype,
                            .begins_unit = run->begin == w->units.begin[run->unit]};
    int64_t at = run->begin / WORD_COLUMNS * source->step;
    int64_t scale = run->group * MATRIX_BLOCK * (int64_t)dtype_bytes(w->scales.dtype);
    for (int b = 0; b < I8_BLOCKS; b++) {
        stripe.line[b] = source->line[b] + at;
        stripe.scale[b] = source->scale[b] + scale;
    }
    return stripe;
}

/* level[0] = the outputs of I8_BLOCKS blocks for all rows of the panel */
static void blocks_product(float (*level)[PANEL_ROWS * TILE_WIDTH], const char *panel,
                           const struct tiles *tiles, const struct matrix *w,
                           const struct source *source)
{
    int padded = tiles->n_tiles * tiles->height;
    struct unit_tree tree = {.rows = 1, .n = (int64_t)padded * TILE_WIDTH};
    for (int i = 0; i < TREE_LEVELS; i++)
        tree.level[i] = level[i];
    for (struct run run = run_first(w); run.begin < w->k; run_next(&run, w)) {
        const struct row_run *row = (const struct row_run *)(const void *)panel;
        const struct stripe stripe = stripe_of(w, source, &run);
        panel += (size_t)padded * sizeof *row;
        unit_tree_move(&tree, run.unit);
        tree.has[tree.depth] = 1;
        tiles_run(tree.level[tree.depth], tiles->height, row, panel, &stripe, tiles->n_tiles);
        panel += padded * stripe.n_lines * WORD_BYTES;
    }
    unit_tree_move(&tree, UNITS);
    assert(tree.has[0]);
}

/* `rows` that fit the panel */
static void panel_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int rows,
                          const struct matrix *w, int64_t begin, int64_t end)
{
    _Alignas(64) char panel[PANEL_BYTES];
    _Alignas(64) float level[TREE_LEVELS][PANEL_ROWS * TILE_WIDTH];
    const struct tiles tiles = tiles_of(rows);
    panel_fill(panel, x, x_stride, &tiles, w);
    for (int64_t block = begin; block < end; block += I8_BLOCKS) {
        const struct source source = source_of(w, block, end);
        int64_t row = block * MATRIX_BLOCK, last = end * MATRIX_BLOCK;
        last = last < w->n ? last : w->n;
        int64_t width = last - row < TILE_WIDTH ? last - row : TILE_WIDTH;
        blocks_product(level, panel, &tiles, w, &source);
        for (int r = 0; r < rows; r++)
            memcpy(y + r * y_stride + row, level[0] + r * TILE_WIDTH, (size_t)width * sizeof *y);
    }
}

void ISA(product_i8_form)(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                          int64_t rows, const struct matrix *w, int64_t begin, int64_t end)
{
    assert(w->k > 0 && w->scales.step <= MATRIX_I8_STEP);
    int64_t most = PANEL_BYTES / panel_row_bytes(w);
    assert(most > 0); /* with groups that are not tiny: up to MATRIX_I8_WIDTH columns */
    most = most >= PANEL_ROWS ? PANEL_ROWS : most >= I8_ROWS ? most / I8_ROWS * I8_ROWS : 1;
    for (int64_t r = 0; r < rows && begin < end; r += most) {
        int n = (int)(rows - r < most ? rows - r : most);
        panel_product(y + r * y_stride, y_stride, x + r * x_stride, x_stride, n, w, begin, end);
    }
}

#if !defined(ISA_VNNI)

void product_i8_form_avx512vnni(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                                int64_t rows, const struct matrix *w, int64_t begin, int64_t end);

void ISA(product_i8)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                     const struct matrix *w, int64_t begin, int64_t end)
{
#if defined(ISA_AVX512)
    if (__builtin_cpu_supports("avx512vnni")) {
        product_i8_form_avx512vnni(y, y_stride, x, x_stride, rows, w, begin, end);
        return;
    }
#endif
    ISA(product_i8_form)(y, y_stride, x, x_stride, rows, w, begin, end);
}

#endif
