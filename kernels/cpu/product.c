/* product.c - products with packed weights: one chain of fused multiply-adds per output.
 *
 * A chain cannot be shortened, so speed comes from many chains side by side: 16
 * output rows in a register, several such blocks and several input rows at once.
 * A strip is some blocks by up to 96 input rows.
 *
 *   1 row         the weights stream by, a bundle at once
 *   more          the columns go by in chunks; tiles of rows x blocks widen the
 *                 weights as they take them
 *
 * Weights come from memory while tiles work on those before them: a bundle's
 * chunk is one piece of memory, and asks for the next piece line by line.
 *
 * Chains are cut only where matrix.h says, never by a tile: between chunks the
 * sums wait in memory, which rounds nothing.  A run is a stretch of columns that
 * is one chain: a group of scales within a unit, or the whole unit without scales.
 */
#include "kernels/cpu/product.h"

#include <assert.h>

enum {
    STRIP_ROWS = 100, /* input rows of a strip: whole tiles */
    STRIP_BLOCKS =
        16, /* blocks of 16 outputs in a strip, for each of which its rows are packed again;
                          a single row takes bundle by bundle */
    SUMS = STRIP_ROWS * STRIP_BLOCKS * MATRIX_BLOCK, /* of a strip */
    CHUNK = 256, /* columns between two visits of the sums: whole lines */
    LEVELS = 4   /* sums waiting for their partner in a tree of 8 */
};

/* The weights of a strip, and the unit that is summed. */
struct strip {
    const char *block[STRIP_BLOCKS]; /* line 0 of each block; the last one repeats past n */
    enum dtype dtype;
    int n_blocks;
    int64_t step[STRIP_BLOCKS]; /* bytes from a line of the block to its next */
    int64_t next;               /* bytes from a block to the one at its place in the next strip */
    const void *scale[STRIP_BLOCKS]; /* group 0 of each block; of quantized weights */
    enum dtype scale_dtype;
    int64_t group_first, group_step; /* column j is of group (j + group_first) / group_step */
    int64_t begin, end;              /* columns of the unit */
    int64_t k;                       /* of the matrix */
    int64_t width;                   /* floats of a row of sums */
};

/* Where the chains of a tile wait, [rows][stride]. */
struct sums {
    float *unit;  /* of the unit so far */
    float *group; /* of a group that a chunk has cut: numbers not yet scaled */
    int64_t stride;
};

static ALWAYS_INLINE int is_quantized(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_I4;
}

/* The end of the run that `column` is in. */
static ALWAYS_INLINE int64_t run_end(const struct strip *strip, int64_t column, enum dtype dtype)
{
    if (!is_quantized(dtype))
        return strip->end;
    int64_t next = (column + strip->group_first) / strip->group_step + 1;
    int64_t end = next * strip->group_step - strip->group_first;
    return end < strip->end ? end : strip->end;
}

static ALWAYS_INLINE int run_begins(const struct strip *strip, int64_t column, enum dtype dtype)
{
    return column == strip->begin ||
           (is_quantized(dtype) && (column + strip->group_first) % strip->group_step == 0);
}

/* What the numbers of a block are multiplied by in the run of `column`. */
static ALWAYS_INLINE struct lanes run_scale(const struct strip *strip, int block, int64_t column,
                                            enum dtype dtype)
{
    int64_t group = (column + strip->group_first) / strip->group_step;
    struct lanes scale =
        lanes_load_as(strip->scale[block], group * MATRIX_BLOCK, strip->scale_dtype);
    return dtype == DTYPE_F8_E4M3 ? lanes_mul(scale, lanes_splat(0x1p56f)) : scale;
}

/* The 16 numbers of column c of a line, in f32; those of fp8 times 2^-120, which is cheap to leave in.
 * 2^64 goes to the activations, whose range the rest would leave: 2^56 goes to run_scale. */
static ALWAYS_INLINE struct lanes line_column(const char *line, int c, enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_BF16:
        return lanes_line_bf16(line, c);
    case DTYPE_F8_E4M3:
        return lanes_line_f8(line, c);
    case DTYPE_I4:
        return lanes_line_i4(line, c);
    default:
        return lanes_load_as(line, 0, dtype);
    }
}

/* to[n] = x[n], times what line_column asks for */
static ALWAYS_INLINE void copy_columns(float *to, const float *x, int64_t n, enum dtype dtype)
{
    if (dtype != DTYPE_F8_E4M3)
        memcpy(to, x, (size_t)n * sizeof *to);
    else
        for (int64_t j = 0; j < n; j++)
            to[j] = x[j] * 0x1p64f;
}

/* The line of a block that `column` is in, and the column's place in it. */
static ALWAYS_INLINE int64_t line_of(int64_t column, enum dtype dtype)
{
    return column / matrix_line_columns(dtype);
}

static ALWAYS_INLINE int place_in_line(int64_t column, enum dtype dtype)
{
    return (int)(column % matrix_line_columns(dtype));
}

/* --- one row --- */

/* sum[ONE_BLOCKS] += column c of the lines `at` bytes behind the first of each block. */
static ALWAYS_INLINE void one_row_column(struct lanes *sum, float x, const char *const *block,
                                         int64_t at, int c, enum dtype dtype)
{
    struct lanes xj = lanes_splat(x);
    UNROLLED
    for (int i = 0; i < ONE_BLOCKS; i++)
        sum[i] = lanes_fma(line_column(block[i] + at, c, dtype), xj, sum[i]);
}

/* The chains of columns [j, end) in one run; x is at column j. */
static ALWAYS_INLINE void one_row_run(struct lanes *sum, const float *x, const char *const *block,
                                      int64_t step, int64_t j, int64_t end, enum dtype dtype)
{
    const int columns = matrix_line_columns(dtype);
    int64_t at = line_of(j, dtype) * step;
    if (place_in_line(j, dtype) != 0) {
        for (; j < end && place_in_line(j, dtype) != 0; j++)
            one_row_column(sum, *x++, block, at, place_in_line(j, dtype), dtype);
        at += step;
    }
    for (; j + columns <= end; j += columns, x += columns, at += step)
        UNROLLED
    for (int c = 0; c < columns; c++)
        one_row_column(sum, x[c], block, at, c, dtype);
    for (; j < end; j++)
        one_row_column(sum, *x++, block, at, place_in_line(j, dtype), dtype);
}

/* The same, activations copied with their factors. */
static ALWAYS_INLINE void one_row_scaled_run(struct lanes *sum, const float *x,
                                             const char *const *block, int64_t step, int64_t j,
                                             int64_t end, enum dtype dtype)
{
    _Alignas(64) float scaled[CHUNK];
    for (int64_t next; j < end; x += next - j, j = next) {
        next = (j / CHUNK + 1) * CHUNK;
        next = next < end ? next : end;
        copy_columns(scaled, x, next - j, dtype);
        one_row_run(sum, scaled, block, step, j, next, dtype);
    }
}

/* The sums of one input row, ONE_BLOCKS chains of 16 side by side */
static ALWAYS_INLINE void one_row(float *sums, const float *x, const struct strip *strip,
                                  enum dtype dtype)
{
    for (int b = 0; b < strip->n_blocks; b += ONE_BLOCKS) {
        struct lanes unit[ONE_BLOCKS], sum[ONE_BLOCKS];
        const char *const *block = strip->block + b;
        UNROLLED
        for (int i = 0; i < ONE_BLOCKS; i++)
            unit[i] = lanes_zero();
        for (int64_t j = strip->begin; j < strip->end;) {
            int64_t end = run_end(strip, j, dtype);
            UNROLLED
            for (int i = 0; i < ONE_BLOCKS; i++)
                sum[i] = lanes_zero();
            if (dtype == DTYPE_F8_E4M3)
                one_row_scaled_run(sum, x + j, block, strip->step[b], j, end, dtype);
            else
                one_row_run(sum, x + j, block, strip->step[b], j, end, dtype);
            UNROLLED
            for (int i = 0; i < ONE_BLOCKS; i++)
                unit[i] = is_quantized(dtype)
                              ? lanes_fma(run_scale(strip, b + i, j, dtype), sum[i], unit[i])
                              : sum[i];
            j = end;
        }
        UNROLLED
        for (int i = 0; i < ONE_BLOCKS; i++)
            lanes_store(sums + (b + i) * MATRIX_BLOCK, unit[i]);
    }
}

/* --- tiles of rows x blocks --- */

/* A stretch of columns of one run, for a tile: the part of a chunk. */
struct stretch {
    int64_t begin, end;
    int begins, ends; /* the run does so here */
};

static ALWAYS_INLINE struct stretch stretch_at(const struct strip *strip, int64_t begin,
                                               int64_t chunk_end, enum dtype dtype)
{
    int64_t end = run_end(strip, begin, dtype);
    struct stretch s = {.begin = begin, .end = end, .ends = end <= chunk_end};
    s.begins = run_begins(strip, begin, dtype);
    if (!s.ends)
        s.end = chunk_end;
    return s;
}

/* sum[R][B] = where the chains stand.  R and B are constants in each call, here and below. */
static ALWAYS_INLINE void tile_begin(struct lanes sum[][MATRIX_BUNDLE], int R, int B,
                                     const struct sums *sums, int rows, int block,
                                     const struct stretch *stretch, enum dtype dtype)
{
    const float *from = is_quantized(dtype) ? sums->group : sums->unit;
    UNROLLED
    for (int r = 0; r < R; r++)
        UNROLLED
    for (int b = 0; b < B; b++)
        sum[r][b] = stretch->begins || r >= rows
                        ? lanes_zero()
                        : lanes_load(from + r * sums->stride + (block + b) * MATRIX_BLOCK);
}

static ALWAYS_INLINE void tile_end(struct lanes sum[][MATRIX_BUNDLE], int R, int B,
                                   const struct sums *sums, int rows, const struct strip *strip,
                                   int block, const struct stretch *stretch, enum dtype dtype)
{
    const int scales = is_quantized(dtype) && stretch->ends;
    float *to = is_quantized(dtype) && !scales ? sums->group : sums->unit;
    int is_first = stretch->begin == strip->begin ||
                   (stretch->ends && run_end(strip, strip->begin, dtype) == stretch->end);
    UNROLLED
    for (int b = 0; b < B; b++) {
        struct lanes scale =
            scales ? run_scale(strip, block + b, stretch->begin, dtype) : lanes_zero();
        UNROLLED
        for (int r = 0; r < R; r++) {
            float *at = to + r * sums->stride + (block + b) * MATRIX_BLOCK;
            if (r >= rows)
                continue;
            if (scales)
                sum[r][b] = lanes_fma(scale, sum[r][b], is_first ? lanes_zero() : lanes_load(at));
            lanes_store(at, sum[r][b]);
        }
    }
}

/* One column: sum[r][b] += w[b] x[r]; rows of x are CHUNK apart. */
static ALWAYS_INLINE void tile_column(struct lanes sum[][MATRIX_BUNDLE], int R, int B,
                                      const float *x, const struct lanes *w)
{
    UNROLLED
    for (int r = 0; r < R; r++) {
        struct lanes xj = lanes_splat(x[r * CHUNK]);
        UNROLLED
        for (int b = 0; b < B; b++)
            sum[r][b] = lanes_fma(w[b], xj, sum[r][b]);
    }
}

static ALWAYS_INLINE void packed_column(struct lanes sum[][MATRIX_BUNDLE], int R, int B,
                                        const float *x, const char *const *block, int64_t at, int c,
                                        enum dtype dtype)
{
    struct lanes w[MATRIX_BUNDLE];
    UNROLLED
    for (int b = 0; b < B; b++)
        w[b] = line_column(block[b] + at, c, dtype);
    tile_column(sum, R, B, x, w);
}

/* `rows` <= R rows of x, which is at the stretch's first column, times B packed blocks of a bundle; asks
 * for what stands `ahead` bytes behind them. */
static ALWAYS_INLINE void packed_tile(const struct sums *sums, int R, int B, int rows,
                                      const float *x, const struct strip *strip, int block,
                                      int64_t ahead, const struct stretch *stretch,
                                      enum dtype dtype)
{
    const int columns = matrix_line_columns(dtype);
    struct lanes sum[TILE_ROWS][MATRIX_BUNDLE];
    const char *const *from = strip->block + block;
    int64_t j = stretch->begin, end = stretch->end, step = strip->step[block];
    int64_t at = line_of(j, dtype) * step;
    tile_begin(sum, R, B, sums, rows, block, stretch, dtype);
    if (place_in_line(j, dtype) != 0) {
        for (; j < end && place_in_line(j, dtype) != 0; j++, x++)
            packed_column(sum, R, B, x, from, at, place_in_line(j, dtype), dtype);
        at += step;
    }
    for (; j + columns <= end; j += columns, x += columns, at += step) {
        UNROLLED
        for (int b = 0; b < B; b++)
            lanes_prefetch_2(from[b] + at + ahead);
        UNROLLED
        for (int c = 0; c < columns; c++)
            packed_column(sum, R, B, x + c, from, at, c, dtype);
    }
    for (; j < end; j++, x++)
        packed_column(sum, R, B, x, from, at, place_in_line(j, dtype), dtype);
    tile_end(sum, R, B, sums, rows, strip, block, stretch, dtype);
}

/* --- chunks --- */

/* packed[rows][CHUNK] = `columns` columns of each row, so that a tile addresses its rows from one pointer;
 * and a row of zeros, since tiles have at most one row more than there are. */
static ALWAYS_INLINE void pack_rows(float *packed, const float *x, int64_t x_stride, int rows,
                                    int64_t columns, enum dtype dtype)
{
    for (int r = 0; r < rows; r++)
        copy_columns(packed + r * CHUNK, x + r * x_stride, columns, dtype);
    memset(packed + rows * CHUNK, 0, (size_t)columns * sizeof *x);
}

/* Line `column` is in, of a block. */
static ALWAYS_INLINE const char *block_line(const struct strip *strip, int block, int64_t column,
                                            enum dtype dtype)
{
    return strip->block[block] + line_of(column, dtype) * strip->step[block];
}

/* Where the piece after columns [begin, end) of a bundle is: that of the next bundle, else the next chunk
 * of the strip's first one, else the next strip, which need not exist. */
static ALWAYS_INLINE const char *next_piece(const struct strip *strip, int bundle, int64_t begin,
                                            int64_t end, enum dtype dtype)
{
    if (bundle + MATRIX_BUNDLE < strip->n_blocks)
        return block_line(strip, bundle + MATRIX_BUNDLE, begin, dtype);
    return end < strip->k ? block_line(strip, 0, end, dtype) : strip->block[0] + strip->next;
}

/* A bundle for `rows` <= R rows and one stretch. */
static ALWAYS_INLINE void packed_blocks(const struct sums *sums, int R, int B, int rows,
                                        const float *x, const struct strip *strip, int bundle,
                                        int64_t ahead, const struct stretch *stretch,
                                        enum dtype dtype)
{
    for (int b = bundle; b < strip->n_blocks && b < bundle + MATRIX_BUNDLE; b += B)
        packed_tile(sums, R, B, rows, x, strip, b, ahead, stretch, dtype);
}

static ALWAYS_INLINE void packed_rows(const struct sums *sums, int rows, const float *x,
                                      const struct strip *strip, int bundle, int64_t ahead,
                                      const struct stretch *stretch, enum dtype dtype)
{
    if (rows <= 2)
        packed_blocks(sums, 2, THREE_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
    else if (rows == 3)
        packed_blocks(sums, 3, THREE_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
    else if (rows == 4)
        packed_blocks(sums, 4, SIX_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
    else if (rows <= 6)
        packed_blocks(sums, 6, SIX_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
    else if (TILE_ROWS > 6 && rows <= 8)
        packed_blocks(sums, 8, TILE_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
    else
        packed_blocks(sums, TILE_ROWS, TILE_BLOCKS, rows, x, strip, bundle, ahead, stretch, dtype);
}

/* Columns [begin, end), all of `packed`, of a bundle. */
static ALWAYS_INLINE void packed_piece(const struct sums *sums, const float *packed, int rows,
                                       const struct strip *strip, int bundle, int64_t begin,
                                       int64_t end, enum dtype dtype)
{
    int64_t ahead =
        next_piece(strip, bundle, begin, end, dtype) - block_line(strip, bundle, begin, dtype);
    for (int64_t j = begin; j < end;) {
        const struct stretch stretch = stretch_at(strip, j, end, dtype);
        for (int r = 0; r < rows; r += TILE_ROWS) {
            const struct sums own = {sums->unit + r * sums->stride, sums->group + r * sums->stride,
                                     sums->stride};
            packed_rows(&own, rows - r < TILE_ROWS ? rows - r : TILE_ROWS,
                        packed + r * CHUNK + (j - begin), strip, bundle, ahead, &stretch, dtype);
        }
        j = stretch.end;
    }
}

static ALWAYS_INLINE void some_rows(const struct sums *sums, const float *x, int64_t x_stride,
                                    int rows, const struct strip *strip, enum dtype dtype)
{
    _Alignas(64) float packed[(STRIP_ROWS + 1) * CHUNK];
    for (int64_t at = strip->begin; at < strip->end; at += CHUNK) {
        int64_t end = at + CHUNK < strip->end ? at + CHUNK : strip->end;
        pack_rows(packed, x + at, x_stride, rows, end - at, dtype);
        for (int b = 0; b < strip->n_blocks; b += MATRIX_BUNDLE)
            packed_piece(sums, packed, rows, strip, b, at, end, dtype);
    }
}

/* The type is a constant in each call, so that no loop asks for it. */
static ALWAYS_INLINE void unit_sums_of(const struct sums *sums, const float *x, int64_t x_stride,
                                       int rows, const struct strip *strip, enum dtype dtype)
{
    if (rows == 1)
        one_row(sums->unit, x, strip, dtype);
    else
        some_rows(sums, x, x_stride, rows, strip, dtype);
}

/* sums->unit[rows][strip] = the chains of the strip's unit, which has columns; x is at column 0. */
static void unit_sums(const struct sums *sums, const float *x, int64_t x_stride, int rows,
                      const struct strip *strip)
{
    switch (strip->dtype) {
    case DTYPE_BF16:
        unit_sums_of(sums, x, x_stride, rows, strip, DTYPE_BF16);
        break;
    case DTYPE_F16:
        unit_sums_of(sums, x, x_stride, rows, strip, DTYPE_F16);
        break;
    case DTYPE_F8_E4M3:
        unit_sums_of(sums, x, x_stride, rows, strip, DTYPE_F8_E4M3);
        break;
    case DTYPE_I4:
        unit_sums_of(sums, x, x_stride, rows, strip, DTYPE_I4);
        break;
    default:
        unit_sums_of(sums, x, x_stride, rows, strip, DTYPE_F32);
    }
}

/* --- units and strips --- */

static void add_sums(float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES)
        lanes_store(a + i, lanes_add(lanes_load(a + i), lanes_load(b + i)));
}

/* The sums of all units, met along the tree of matrix.h.  Unit 1 waits one level above unit 0
 * and joins it at once, and so on: at most LEVELS sums wait. */
static const float *tree_sums(float (*level)[SUMS], float *group, const float *x, int64_t x_stride,
                              int rows, struct strip *strip, const struct units *units)
{
    int has[LEVELS], depth = 0;
    for (int u = 0; u < UNITS; u++) {
        strip->begin = units->begin[u];
        strip->end = units->begin[u + 1];
        has[depth] = strip->end > strip->begin;
        if (has[depth])
            unit_sums(&(struct sums){level[depth], group, strip->width}, x, x_stride, rows, strip);
        depth++;
        for (int done = u + 1; done % 2 == 0; done /= 2) {
            depth--;
            if (has[depth] && has[depth - 1])
                add_sums(level[depth - 1], level[depth], rows * strip->width);
            else if (has[depth])
                memcpy(level[depth - 1], level[depth],
                       (size_t)(rows * strip->width) * sizeof(float));
            has[depth - 1] |= has[depth];
        }
    }
    assert(has[0]);
    return level[0];
}

/* `n_blocks` of w from block `first` on; strips have `most`. */
static struct strip strip_of(const struct matrix *w, int64_t first, int n_blocks, int most)
{
    struct strip strip = {.dtype = w->dtype,
                          .n_blocks = n_blocks,
                          .end = w->k,
                          .k = w->k,
                          .width = (int64_t)most * MATRIX_BLOCK};
    size_t bytes = matrix_block_bytes(w), scale_bytes = 0;
    strip.next = most * (int64_t)bytes;
    if (matrix_is_quantized(w)) {
        scale_bytes = matrix_scale_bytes(w) / (size_t)matrix_blocks(w);
        strip.scale_dtype = w->scales.dtype;
        strip.group_first = w->scales.first;
        strip.group_step = w->scales.step;
    }
    for (int b = 0; b < most; b++) {
        int64_t block = first + (b < n_blocks ? b : n_blocks - 1);
        strip.block[b] = (const char *)w->data + matrix_block_at(w, block);
        strip.step[b] = matrix_line_step(w, block);
        if (matrix_is_quantized(w))
            strip.scale[b] = (const char *)w->scales.data + (size_t)block * scale_bytes;
    }
    return strip;
}

/* y[rows][outputs of `n_blocks` blocks of w from `block` on] */
static void strip_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int rows,
                          const struct matrix *w, int64_t block, int n_blocks, int most)
{
    _Alignas(64) float level[LEVELS][SUMS];
    _Alignas(64) float group[SUMS];
    int64_t row = block * MATRIX_BLOCK, width = (int64_t)n_blocks * MATRIX_BLOCK;
    struct strip strip = strip_of(w, block, n_blocks, most);

    /* Rows of y may be a power of two apart, on one line of the cache: only a single one is summed there. */
    if (rows == 1 && n_blocks == MATRIX_BUNDLE && row + width <= w->n &&
        w->units.begin[1] == w->k) {
        unit_sums(&(struct sums){y + row, NULL, y_stride}, x, x_stride, rows, &strip);
        return;
    }
    const float *sums = tree_sums(level, group, x, x_stride, rows, &strip, &w->units);
    width = w->n - row < width ? w->n - row : width;
    for (int r = 0; r < rows; r++)
        memcpy(y + r * y_stride + row, sums + r * strip.width, (size_t)width * sizeof *y);
}

static void zero_outputs(float *y, int64_t y_stride, int64_t rows, const struct matrix *w,
                         int64_t begin, int64_t end)
{
    int64_t first = begin * MATRIX_BLOCK, last = end * MATRIX_BLOCK;
    last = last < w->n ? last : w->n;
    for (int64_t r = 0; r < rows && first < last; r++)
        memset(y + r * y_stride + first, 0, (size_t)(last - first) * sizeof *y);
}

void ISA(product)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                  const struct matrix *w, int64_t begin, int64_t end)
{
    assert(begin % MATRIX_BUNDLE == 0);
    if (w->k == 0) {
        zero_outputs(y, y_stride, rows, w, begin, end);
        return;
    }
    if (w->dtype == DTYPE_I8) {
        ISA(product_i8)(y, y_stride, x, x_stride, rows, w, begin, end);
        return;
    }
    int most = rows == 1 ? MATRIX_BUNDLE : STRIP_BLOCKS;
    for (int64_t block = begin; block < end; block += most) {
        int n_blocks = (int)(end - block < most ? end - block : most);
        for (int64_t r = 0; r < rows; r += STRIP_ROWS) {
            int n_rows = (int)(rows - r < STRIP_ROWS ? rows - r : STRIP_ROWS);
            strip_product(y + r * y_stride, y_stride, x + r * x_stride, x_stride, n_rows, w, block,
                          n_blocks, most);
        }
    }
}
