/* product.c - products with packed weights: one chain of fused multiply-adds per output.
 *
 * A chain cannot be shortened, so speed comes from many chains side by side: 16
 * output rows in a register, several such blocks and several input rows at once.
 * A strip is 8 blocks (128 outputs) by up to 96 input rows.
 *
 *   1 row         the weights stream by, 8 blocks at once
 *   up to 20      tiles of rows x blocks widen the weights as they take them
 *   more          the columns go by in chunks; those of a few blocks are widened
 *                 once into the first-level cache for all rows, and the next ones
 *                 are fetched from memory meanwhile
 *
 * Chains are cut only where matrix.h says, never by a tile: between chunks the
 * sums wait in memory, which rounds nothing.  A run is a stretch of columns that
 * is one chain: a group of scales within a unit, or the whole unit without scales.
 */
#include "kernels/cpu/product.h"

#include <assert.h>

enum {
    STRIP_BLOCKS = 8,                    /* blocks of 16 outputs in a strip */
    STRIP = STRIP_BLOCKS * MATRIX_BLOCK, /* outputs of a strip */
    STRIP_ROWS = 96,                     /* input rows of a strip: a multiple of TILE_ROWS */
    CHUNK = 256,                         /* columns between two visits of the sums */
    AHEAD = 8192,                        /* bytes of a strip that are asked for before their use */
    LEVELS = 4                           /* sums waiting for their partner in a tree of 8 */
};

/* The weights of a strip, and the unit that is summed. */
struct strip {
    const char *block[STRIP_BLOCKS]; /* line 0 of each block; the last one repeats past n */
    enum dtype dtype;
    int n_blocks;
    int64_t next; /* bytes from a block to the one at its place in the next strip */
    const void *scale[STRIP_BLOCKS]; /* group 0 of each block; of quantized weights */
    enum dtype scale_dtype;
    int64_t group_first, group_step; /* column j is of group (j + group_first) / group_step */
    int64_t begin, end;              /* columns of the unit */
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
    return dtype == DTYPE_F8_E4M3 ? lanes_mul(scale, lanes_splat(0x1p8f)) /* lanes_line_f8 */
                                  : scale;
}

/* The 16 numbers of column c of a line, in f32. */
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

/* The line that `column` is in, and the column's place in it. */
static ALWAYS_INLINE int64_t line_at(int64_t column, enum dtype dtype)
{
    return column / matrix_line_columns(dtype) * matrix_line_bytes(dtype);
}

static ALWAYS_INLINE int place_in_line(int64_t column, enum dtype dtype)
{
    return (int)(column % matrix_line_columns(dtype));
}

/* --- one row --- */

/* sum[ONE_BLOCKS] += column c of the lines at `at`. */
static ALWAYS_INLINE void one_row_column(struct lanes *sum, float x, const struct strip *strip,
                                         int block, int64_t at, int c, enum dtype dtype)
{
    struct lanes xj = lanes_splat(x);
    UNROLLED
    for (int i = 0; i < ONE_BLOCKS; i++)
        sum[i] = lanes_fma(line_column(strip->block[block + i] + at, c, dtype), xj, sum[i]);
}

/* The chains of columns [j, end) in one run; x is at column 0. */
static ALWAYS_INLINE void one_row_run(struct lanes *sum, const float *x, const struct strip *strip,
                                      int block, int64_t j, int64_t end, enum dtype dtype)
{
    const int columns = matrix_line_columns(dtype), ahead = AHEAD / ONE_BLOCKS;
    for (; j < end && place_in_line(j, dtype) != 0; j++)
        one_row_column(sum, x[j], strip, block, line_at(j, dtype), place_in_line(j, dtype), dtype);
    for (; j + columns <= end; j += columns) {
        int64_t at = line_at(j, dtype);
        UNROLLED
        for (int i = 0; i < ONE_BLOCKS; i++)
            lanes_prefetch(strip->block[block + i] + at + ahead);
        UNROLLED
        for (int c = 0; c < columns; c++)
            one_row_column(sum, x[j + c], strip, block, at, c, dtype);
    }
    for (; j < end; j++)
        one_row_column(sum, x[j], strip, block, line_at(j, dtype), place_in_line(j, dtype), dtype);
}

/* sums[STRIP] of one input row, ONE_BLOCKS chains of 16 side by side */
static ALWAYS_INLINE void one_row(float *sums, const float *x, const struct strip *strip,
                                  enum dtype dtype)
{
    for (int b = 0; b < strip->n_blocks; b += ONE_BLOCKS) {
        struct lanes unit[ONE_BLOCKS], sum[ONE_BLOCKS];
        UNROLLED
        for (int i = 0; i < ONE_BLOCKS; i++)
            unit[i] = lanes_zero();
        for (int64_t j = strip->begin; j < strip->end;) {
            int64_t end = run_end(strip, j, dtype);
            UNROLLED
            for (int i = 0; i < ONE_BLOCKS; i++)
                sum[i] = lanes_zero();
            one_row_run(sum, x, strip, b, j, end, dtype);
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
static ALWAYS_INLINE void tile_begin(struct lanes sum[][STRIP_BLOCKS], int R, int B,
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

static ALWAYS_INLINE void tile_end(struct lanes sum[][STRIP_BLOCKS], int R, int B,
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
static ALWAYS_INLINE void tile_column(struct lanes sum[][STRIP_BLOCKS], int R, int B,
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

static ALWAYS_INLINE void packed_column(struct lanes sum[][STRIP_BLOCKS], int R, int B,
                                        const float *x, const struct strip *strip, int block,
                                        int64_t at, int c, enum dtype dtype)
{
    struct lanes w[STRIP_BLOCKS];
    UNROLLED
    for (int b = 0; b < B; b++)
        w[b] = line_column(strip->block[block + b] + at, c, dtype);
    tile_column(sum, R, B, x, w);
}

/* `rows` <= R rows of x, which is at the stretch's first column, times B packed blocks. */
static ALWAYS_INLINE void packed_tile(const struct sums *sums, int R, int B, int rows,
                                      const float *x, const struct strip *strip, int block,
                                      const struct stretch *stretch, enum dtype dtype)
{
    const int columns = matrix_line_columns(dtype), ahead = AHEAD / B;
    struct lanes sum[PACKED_ROWS][STRIP_BLOCKS];
    int64_t j = stretch->begin, end = stretch->end;
    tile_begin(sum, R, B, sums, rows, block, stretch, dtype);
    for (; j < end && place_in_line(j, dtype) != 0; j++, x++)
        packed_column(sum, R, B, x, strip, block, line_at(j, dtype), place_in_line(j, dtype),
                      dtype);
    for (; j + columns <= end; j += columns, x += columns) {
        int64_t at = line_at(j, dtype);
        UNROLLED
        for (int b = 0; b < B; b++)
            lanes_prefetch(strip->block[block + b] + at + ahead);
        UNROLLED
        for (int c = 0; c < columns; c++)
            packed_column(sum, R, B, x + c, strip, block, at, c, dtype);
    }
    for (; j < end; j++, x++)
        packed_column(sum, R, B, x, strip, block, line_at(j, dtype), place_in_line(j, dtype),
                      dtype);
    tile_end(sum, R, B, sums, rows, strip, block, stretch, dtype);
}

/* What is fetched from memory while tiles work on a panel: the weights of the next one. */
struct fetch {
    const char *line[TILE_BLOCKS];
    int64_t step; /* bytes for each column of a tile */
};

/* The same with a panel [columns][B][16] of widened numbers. */
static ALWAYS_INLINE void panel_tile(const struct sums *sums, int R, int rows, const float *x,
                                     const float *panel, const struct strip *strip, int block,
                                     const struct stretch *stretch, struct fetch *fetch,
                                     enum dtype dtype)
{
    enum { B = TILE_BLOCKS };
    struct lanes sum[TILE_ROWS][STRIP_BLOCKS];
    int columns = (int)(stretch->end - stretch->begin);
    tile_begin(sum, R, B, sums, rows, block, stretch, dtype);
    for (int j = 0; j < columns; j++) {
        struct lanes w[B];
        UNROLLED
        for (int b = 0; b < B; b++)
            lanes_prefetch_2(fetch->line[b] + j * fetch->step);
        UNROLLED
        for (int b = 0; b < B; b++)
            w[b] = lanes_load(panel + (j * B + b) * MATRIX_BLOCK);
        tile_column(sum, R, B, x + j, w);
    }
    tile_end(sum, R, B, sums, rows, strip, block, stretch, dtype);
    for (int b = 0; b < B; b++)
        fetch->line[b] += columns * fetch->step;
}

/* --- chunks --- */

/* packed[rows][CHUNK] = `columns` columns of each row, so that a tile addresses its rows from one
 * pointer; rows up to `padded` are zero. */
static void pack_rows(float *packed, const float *x, int64_t x_stride, int rows, int padded,
                      int64_t columns)
{
    for (int r = 0; r < rows; r++)
        memcpy(packed + r * CHUNK, x + r * x_stride, (size_t)columns * sizeof *x);
    for (int r = rows; r < padded; r++)
        memset(packed + r * CHUNK, 0, (size_t)columns * sizeof *x);
}

/* The tiles of `height` rows that `rows` rows are cut into, as even as can be. */
static ALWAYS_INLINE int tile_height(int rows, int most)
{
    int n_tiles = (rows + most - 1) / most;
    return (rows + n_tiles - 1) / n_tiles;
}

/* All blocks of the strip for `rows` <= R rows and one stretch. */
static ALWAYS_INLINE void packed_blocks(const struct sums *sums, int R, int B, int rows,
                                        const float *x, const struct strip *strip,
                                        const struct stretch *stretch, enum dtype dtype)
{
    for (int b = 0; b < strip->n_blocks; b += B)
        packed_tile(sums, R, B, rows, x, strip, b, stretch, dtype);
}

static ALWAYS_INLINE void packed_rows(const struct sums *sums, int rows, const float *x,
                                      const struct strip *strip, const struct stretch *stretch,
                                      enum dtype dtype)
{
    if (rows <= 2)
        packed_blocks(sums, 2, THREE_BLOCKS, rows, x, strip, stretch, dtype);
    else if (rows == 3)
        packed_blocks(sums, 3, THREE_BLOCKS, rows, x, strip, stretch, dtype);
    else if (rows == 4)
        packed_blocks(sums, 4, SIX_BLOCKS, rows, x, strip, stretch, dtype);
    else if (rows <= 6)
        packed_blocks(sums, 6, SIX_BLOCKS, rows, x, strip, stretch, dtype);
    else if (PACKED_ROWS > 6 && rows <= 8)
        packed_blocks(sums, 8, TILE_BLOCKS, rows, x, strip, stretch, dtype);
    else
        packed_blocks(sums, PACKED_ROWS, TILE_BLOCKS, rows, x, strip, stretch, dtype);
}

static ALWAYS_INLINE void few_rows(const struct sums *sums, const float *x, int64_t x_stride,
                                   int rows, const struct strip *strip, enum dtype dtype)
{
    _Alignas(64) float packed[2 * PACKED_ROWS * CHUNK];
    int height = tile_height(rows, PACKED_ROWS);
    for (int64_t at = strip->begin; at < strip->end; at += CHUNK) {
        int64_t end = at + CHUNK < strip->end ? at + CHUNK : strip->end;
        pack_rows(packed, x + at, x_stride, rows, 2 * PACKED_ROWS, end - at);
        for (int64_t j = at; j < end;) {
            const struct stretch stretch = stretch_at(strip, j, end, dtype);
            for (int r = 0; r < rows; r += height) {
                const struct sums own = {sums->unit + r * sums->stride,
                                         sums->group + r * sums->stride, sums->stride};
                packed_rows(&own, rows - r < height ? rows - r : height,
                            packed + r * CHUNK + (j - at), strip, &stretch, dtype);
            }
            j = stretch.end;
        }
    }
}

/* panel[columns][TILE_BLOCKS][16] = columns [begin, end) of TILE_BLOCKS blocks, widened */
static ALWAYS_INLINE void widen(float *panel, const struct strip *strip, int block, int64_t begin,
                                int64_t end, enum dtype dtype)
{
    enum { STEP = TILE_BLOCKS * MATRIX_BLOCK };
    const int columns = matrix_line_columns(dtype);
    for (int b = 0; b < TILE_BLOCKS; b++) {
        float *to = panel + b * MATRIX_BLOCK;
        const char *from = strip->block[block + b];
        int64_t j = begin;
        for (; j < end && place_in_line(j, dtype) != 0; j++, to += STEP)
            lanes_store(to, line_column(from + line_at(j, dtype), place_in_line(j, dtype), dtype));
        for (; j + columns <= end; j += columns, to += columns * STEP)
            UNROLLED
        for (int c = 0; c < columns; c++)
            lanes_store(to + c * STEP, line_column(from + line_at(j, dtype), c, dtype));
        for (; j < end; j++, to += STEP)
            lanes_store(to, line_column(from + line_at(j, dtype), place_in_line(j, dtype), dtype));
    }
}

/* What follows the chunk [begin, end) of the blocks from `block` on: the next blocks, else the next
 * chunk, else the next strip; spread over the tiles of `n_tiles` rows. */
static ALWAYS_INLINE struct fetch fetch_next(const struct strip *strip, int block, int64_t begin,
                                             int64_t end, int n_tiles, enum dtype dtype)
{
    int next = block + TILE_BLOCKS < strip->n_blocks ? block + TILE_BLOCKS : 0;
    int64_t column = next > 0 ? begin : end;
    struct fetch fetch = {.step = line_at(CHUNK, dtype) / CHUNK / n_tiles};
    for (int b = 0; b < TILE_BLOCKS; b++)
        fetch.line[b] = strip->block[next + b] + line_at(column, dtype) +
                        (column >= strip->end ? strip->next : 0);
    return fetch;
}

/* Rows [0, rows) times one panel, stretch by stretch. */
static ALWAYS_INLINE void panel_rows(const struct sums *sums, const float *packed, int rows,
                                     const float *panel, const struct strip *strip, int block,
                                     int64_t begin, int64_t end, enum dtype dtype)
{
    int height = tile_height(rows, TILE_ROWS);
    struct fetch fetch = fetch_next(strip, block, begin, end, (rows + height - 1) / height, dtype);
    for (int r = 0; r < rows; r += height) {
        int n = rows - r < height ? rows - r : height;
        const struct sums own = {sums->unit + r * sums->stride, sums->group + r * sums->stride,
                                 sums->stride};
        for (int64_t j = begin; j < end;) {
            const struct stretch stretch = stretch_at(strip, j, end, dtype);
            const float *x = packed + r * CHUNK + (j - begin);
            const float *w = panel + (j - begin) * TILE_BLOCKS * MATRIX_BLOCK;
            if (n > TILE_ROWS * 5 / 6)
                panel_tile(&own, TILE_ROWS, n, x, w, strip, block, &stretch, &fetch, dtype);
            else if (n > TILE_ROWS * 2 / 3)
                panel_tile(&own, TILE_ROWS * 5 / 6, n, x, w, strip, block, &stretch, &fetch, dtype);
            else
                panel_tile(&own, TILE_ROWS * 2 / 3, n, x, w, strip, block, &stretch, &fetch, dtype);
            j = stretch.end;
        }
    }
}

static ALWAYS_INLINE void many_rows(const struct sums *sums, const float *x, int64_t x_stride,
                                    int rows, const struct strip *strip, enum dtype dtype)
{
    _Alignas(64) float panel[CHUNK * TILE_BLOCKS * MATRIX_BLOCK];
    _Alignas(64) float packed[(STRIP_ROWS + TILE_ROWS) * CHUNK];
    for (int64_t at = strip->begin; at < strip->end; at += CHUNK) {
        int64_t end = at + CHUNK < strip->end ? at + CHUNK : strip->end;
        pack_rows(packed, x + at, x_stride, rows, rows + TILE_ROWS, end - at);
        for (int b = 0; b < strip->n_blocks; b += TILE_BLOCKS) {
            widen(panel, strip, b, at, end, dtype);
            panel_rows(sums, packed, rows, panel, strip, b, at, end, dtype);
        }
    }
}

/* The type is a constant in each call, so that no loop asks for it. */
static ALWAYS_INLINE void unit_sums_of(const struct sums *sums, const float *x, int64_t x_stride,
                                       int rows, const struct strip *strip, enum dtype dtype)
{
    if (rows == 1)
        one_row(sums->unit, x, strip, dtype);
    else if (rows <= 2 * PACKED_ROWS)
        few_rows(sums, x, x_stride, rows, strip, dtype);
    else
        many_rows(sums, x, x_stride, rows, strip, dtype);
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

/* sums[rows][STRIP] = all units, met along the tree of matrix.h.  Unit 1 waits one level above unit 0
 * and joins it at once, and so on: at most LEVELS sums wait. */
static const float *tree_sums(float (*level)[STRIP_ROWS * STRIP], float *group, const float *x,
                              int64_t x_stride, int rows, struct strip *strip,
                              const struct units *units)
{
    int has[LEVELS], depth = 0;
    for (int u = 0; u < UNITS; u++) {
        strip->begin = units->begin[u];
        strip->end = units->begin[u + 1];
        has[depth] = strip->end > strip->begin;
        if (has[depth])
            unit_sums(&(struct sums){level[depth], group, STRIP}, x, x_stride, rows, strip);
        depth++;
        for (int done = u + 1; done % 2 == 0; done /= 2) {
            depth--;
            if (has[depth] && has[depth - 1])
                add_sums(level[depth - 1], level[depth], (int64_t)rows * STRIP);
            else if (has[depth])
                memcpy(level[depth - 1], level[depth], (size_t)rows * STRIP * sizeof(float));
            has[depth - 1] |= has[depth];
        }
    }
    assert(has[0]);
    return level[0];
}

/* `n_blocks` blocks of w from block `first` on */
static struct strip strip_of(const struct matrix *w, int64_t first, int n_blocks)
{
    struct strip strip = {.dtype = w->dtype, .n_blocks = n_blocks, .end = w->k};
    size_t bytes = matrix_block_bytes(w), scale_bytes = 0;
    strip.next = STRIP_BLOCKS * (int64_t)bytes;
    if (matrix_is_quantized(w)) {
        scale_bytes = matrix_scale_bytes(w) / (size_t)matrix_blocks(w);
        strip.scale_dtype = w->scales.dtype;
        strip.group_first = w->scales.first;
        strip.group_step = w->scales.step;
    }
    for (int b = 0; b < STRIP_BLOCKS; b++) {
        size_t block = (size_t)(first + (b < n_blocks ? b : n_blocks - 1));
        strip.block[b] = (const char *)w->data + block * bytes;
        if (matrix_is_quantized(w))
            strip.scale[b] = (const char *)w->scales.data + block * scale_bytes;
    }
    return strip;
}

/* y[rows][outputs of `n_blocks` blocks of w from `block` on] */
static void strip_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int rows,
                          const struct matrix *w, int64_t block, int n_blocks)
{
    _Alignas(64) float level[LEVELS][STRIP_ROWS * STRIP];
    _Alignas(64) float group[STRIP_ROWS * STRIP];
    int64_t row = block * MATRIX_BLOCK, width = (int64_t)n_blocks * MATRIX_BLOCK;
    struct strip strip = strip_of(w, block, n_blocks);

    /* Rows of y may be a power of two apart, on one line of the cache: only a single one is summed there. */
    if (rows == 1 && n_blocks == STRIP_BLOCKS && row + width <= w->n && w->units.begin[1] == w->k) {
        unit_sums(&(struct sums){y + row, NULL, y_stride}, x, x_stride, rows, &strip);
        return;
    }
    const float *sums = tree_sums(level, group, x, x_stride, rows, &strip, &w->units);
    width = w->n - row < width ? w->n - row : width;
    for (int r = 0; r < rows; r++)
        memcpy(y + r * y_stride + row, sums + r * STRIP, (size_t)width * sizeof *y);
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
    if (w->k == 0) {
        zero_outputs(y, y_stride, rows, w, begin, end);
        return;
    }
    if (w->dtype == DTYPE_I8) {
        ISA(product_i8)(y, y_stride, x, x_stride, rows, w, begin, end);
        return;
    }
    for (int64_t block = begin; block < end; block += STRIP_BLOCKS) {
        int n_blocks = (int)(end - block < STRIP_BLOCKS ? end - block : STRIP_BLOCKS);
        for (int64_t r = 0; r < rows; r += STRIP_ROWS) {
            int n_rows = (int)(rows - r < STRIP_ROWS ? rows - r : STRIP_ROWS);
            strip_product(y + r * y_stride, y_stride, x + r * x_stride, x_stride, n_rows, w, block,
                          n_blocks);
        }
    }
}
