/* product_tiles.h - the chains of one unit of a strip: what product.c is made of.
 *
 * A strip is some blocks of 16 outputs by up to 100 input rows:
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
 *
 * In bf16 arithmetic a column is a pair of columns of the matrix: a word of a line
 * times a word of an input row.
 */
#ifndef KERNELS_CPU_PRODUCT_TILES_H
#define KERNELS_CPU_PRODUCT_TILES_H

#include "kernels/core/matrix.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/lanes_bf16.h"

enum {
    STRIP_ROWS = 100,  /* input rows of a strip: whole tiles */
    STRIP_BLOCKS = 16, /* of 16 outputs; for each strip its rows are packed again */
    FEW_ROWS = 6,      /* take bundle by bundle, each from its first line to its last */
    CHUNK = 256,       /* columns between two visits of the sums: whole lines */
    /* Bytes that FEW_ROWS ask for before their use: with 6 rows of bf16 29 GB/s a core, at 64 KiB 24. */
    FEW_AHEAD = 16384
};

/* How a strip is multiplied.  It is a constant in each call below, so that no loop asks for it. */
enum form { FORM_F32, FORM_F16, FORM_BF16, FORM_F8, FORM_I4, FORM_PAIRS };

static ALWAYS_INLINE int line_columns(enum form form)
{
    return form == FORM_I4 ? 8 : form == FORM_F8 ? 4 : form == FORM_BF16 ? 2 : 1;
}

/* The weights of a strip, and the unit that is summed. */
struct strip {
    const char *block[STRIP_BLOCKS]; /* line 0 of each block; the last one repeats past n */
    enum form form;
    int n_blocks;
    int64_t step[STRIP_BLOCKS]; /* bytes from a line of the block to its next */
    int64_t next;               /* bytes from a block to the one at its place in the next strip */
    const void *scale[STRIP_BLOCKS]; /* group 0 of each block; of quantized weights */
    enum dtype scale_dtype;
    int64_t group_first, group_step; /* column j is of group (j + group_first) / group_step */
    int64_t begin, end, k;           /* columns of the unit, of the matrix */
    int64_t first, last; /* numbers of an input row in the unit: of pairs, half as many columns */
    int64_t width;       /* floats of a row of sums */
};

/* Where the chains of a tile wait, [rows][stride]. */
struct sums {
    float *unit;  /* of the unit so far */
    float *group; /* of a group that a chunk has cut: numbers not yet scaled */
    int64_t stride;
};

static ALWAYS_INLINE int is_quantized(enum form form)
{
    return form == FORM_F8 || form == FORM_I4;
}

/* The end of the run that `column` is in. */
static ALWAYS_INLINE int64_t run_end(const struct strip *strip, int64_t column, enum form form)
{
    if (!is_quantized(form))
        return strip->end;
    int64_t next = (column + strip->group_first) / strip->group_step + 1;
    int64_t end = next * strip->group_step - strip->group_first;
    return end < strip->end ? end : strip->end;
}

static ALWAYS_INLINE int run_begins(const struct strip *strip, int64_t column, enum form form)
{
    return column == strip->begin ||
           (is_quantized(form) && (column + strip->group_first) % strip->group_step == 0);
}

/* What the numbers of a block are multiplied by in the run of `column`. */
static ALWAYS_INLINE struct lanes run_scale(const struct strip *strip, int block, int64_t column,
                                            enum form form)
{
    int64_t group = (column + strip->group_first) / strip->group_step;
    struct lanes scale =
        lanes_load_as(strip->scale[block], group * MATRIX_BLOCK, strip->scale_dtype);
    return form == FORM_F8 ? lanes_mul(scale, lanes_splat(0x1p56f)) : scale;
}

/* The 16 words of column c of a line, in f32 but for pairs; those of fp8 times 2^-120, which is cheap to
 * leave in.  2^64 goes to the activations, whose range the rest would leave: 2^56 goes to run_scale. */
static ALWAYS_INLINE struct lanes line_column(const char *line, int c, enum form form)
{
    switch (form) {
    case FORM_F16:
        return lanes_load_f16((const uint16_t *)(const void *)line);
    case FORM_BF16:
        return lanes_line_bf16(line, c);
    case FORM_F8:
        return lanes_line_f8(line, c);
    case FORM_I4:
        return lanes_line_i4(line, c);
    default:
        return lanes_load((const float *)(const void *)line);
    }
}

/* sum + w x */
static ALWAYS_INLINE struct lanes add_product(struct lanes sum, struct lanes w, struct lanes x,
                                              enum form form)
{
    return form == FORM_PAIRS ? pairs_dot(sum, w, x) : lanes_fma(w, x, sum);
}

static ALWAYS_INLINE struct lanes splat_word(const float *x, enum form form)
{
    return form == FORM_PAIRS ? pairs_splat(x) : lanes_splat(*x);
}

/* to[columns] = pairs [begin, end) of x, zeros where a pair reaches out of the unit */
static ALWAYS_INLINE void copy_pairs(float *to, const float *x, const struct strip *strip,
                                     int64_t begin, int64_t end)
{
    int64_t first = 2 * begin > strip->first ? 2 * begin : strip->first;
    int64_t last = 2 * end < strip->last ? 2 * end : strip->last;
    if (first > 2 * begin)
        to[0] = 0.0f;
    if (last < 2 * end)
        to[end - begin - 1] = 0.0f;
    pairs_round((char *)to + 2 * (first - 2 * begin), x + first, last - first);
}

/* to[columns] = columns [begin, end) of x as add_product takes them, times what line_column asks for */
static ALWAYS_INLINE void copy_columns(float *to, const float *x, const struct strip *strip,
                                       int64_t begin, int64_t end, enum form form)
{
    if (form == FORM_PAIRS)
        copy_pairs(to, x, strip, begin, end);
    else if (form == FORM_F8)
        for (int64_t j = begin; j < end; j++)
            to[j - begin] = x[j] * 0x1p64f;
    else
        memcpy(to, x + begin, (size_t)(end - begin) * sizeof *to);
}

/* The line of a block that `column` is in, and the column's place in it. */
static ALWAYS_INLINE int64_t line_of(int64_t column, enum form form)
{
    return column / line_columns(form);
}

static ALWAYS_INLINE int place_in_line(int64_t column, enum form form)
{
    return (int)(column % line_columns(form));
}

/* --- one row --- */

/* sum[ONE_ROW_BLOCKS] += column c of the lines `at` bytes behind the first of each block. */
static ALWAYS_INLINE void one_row_column(struct lanes *sum, const float *x,
                                         const char *const *block, int64_t at, int c,
                                         enum form form)
{
    struct lanes xj = splat_word(x, form);
    UNROLLED
    for (int i = 0; i < ONE_ROW_BLOCKS; i++)
        sum[i] = add_product(sum[i], line_column(block[i] + at, c, form), xj, form);
}

/* The chains of columns [j, end) in one run; x is at column j. */
static ALWAYS_INLINE void one_row_run(struct lanes *sum, const float *x, const char *const *block,
                                      int64_t step, int64_t j, int64_t end, enum form form)
{
    const int columns = line_columns(form);
    int64_t at = line_of(j, form) * step;
    if (place_in_line(j, form) != 0) {
        for (; j < end && place_in_line(j, form) != 0; j++)
            one_row_column(sum, x++, block, at, place_in_line(j, form), form);
        at += step;
    }
    for (; j + columns <= end; j += columns, x += columns, at += step)
        UNROLLED
    for (int c = 0; c < columns; c++)
        one_row_column(sum, x + c, block, at, c, form);
    for (; j < end; j++)
        one_row_column(sum, x++, block, at, place_in_line(j, form), form);
}

/* The same from a copy of x, which is at column 0. */
static ALWAYS_INLINE void one_row_copied_run(struct lanes *sum, const float *x,
                                             const struct strip *strip, int b, int64_t j,
                                             int64_t end, enum form form)
{
    _Alignas(64) float copy[CHUNK];
    for (int64_t next; j < end; j = next) {
        next = (j / CHUNK + 1) * CHUNK;
        next = next < end ? next : end;
        copy_columns(copy, x, strip, j, next, form);
        one_row_run(sum, copy, strip->block + b, strip->step[b], j, next, form);
    }
}

/* The sums of one input row, ONE_ROW_BLOCKS chains of 16 side by side */
static ALWAYS_INLINE void one_row(float *sums, const float *x, const struct strip *strip,
                                  enum form form)
{
    for (int b = 0; b < strip->n_blocks; b += ONE_ROW_BLOCKS) {
        struct lanes unit[ONE_ROW_BLOCKS], sum[ONE_ROW_BLOCKS];
        UNROLLED
        for (int i = 0; i < ONE_ROW_BLOCKS; i++)
            unit[i] = lanes_zero();
        for (int64_t j = strip->begin; j < strip->end;) {
            int64_t end = run_end(strip, j, form);
            UNROLLED
            for (int i = 0; i < ONE_ROW_BLOCKS; i++)
                sum[i] = lanes_zero();
            if (form == FORM_F8 || form == FORM_PAIRS)
                one_row_copied_run(sum, x, strip, b, j, end, form);
            else
                one_row_run(sum, x + j, strip->block + b, strip->step[b], j, end, form);
            UNROLLED
            for (int i = 0; i < ONE_ROW_BLOCKS; i++)
                unit[i] = is_quantized(form)
                              ? lanes_fma(run_scale(strip, b + i, j, form), sum[i], unit[i])
                              : sum[i];
            j = end;
        }
        UNROLLED
        for (int i = 0; i < ONE_ROW_BLOCKS; i++)
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
                                               int64_t chunk_end, enum form form)
{
    int64_t end = run_end(strip, begin, form);
    struct stretch s = {.begin = begin, .end = end, .ends = end <= chunk_end};
    s.begins = run_begins(strip, begin, form);
    if (!s.ends)
        s.end = chunk_end;
    return s;
}

/* sum[R][B] = where the chains stand.  R and B are constants in each call, here and below. */
static ALWAYS_INLINE void tile_begin(struct lanes sum[][MATRIX_BUNDLE], int R, int B,
                                     const struct sums *sums, int rows, int block,
                                     const struct stretch *stretch, enum form form)
{
    const float *from = is_quantized(form) ? sums->group : sums->unit;
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
                                   int block, const struct stretch *stretch, enum form form)
{
    const int scales = is_quantized(form) && stretch->ends;
    float *to = is_quantized(form) && !scales ? sums->group : sums->unit;
    int is_first = stretch->begin == strip->begin ||
                   (stretch->ends && run_end(strip, strip->begin, form) == stretch->end);
    UNROLLED
    for (int b = 0; b < B; b++) {
        struct lanes scale =
            scales ? run_scale(strip, block + b, stretch->begin, form) : lanes_zero();
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
                                      const float *x, const char *const *block, int64_t at, int c,
                                      enum form form)
{
    struct lanes w[MATRIX_BUNDLE];
    UNROLLED
    for (int b = 0; b < B; b++)
        w[b] = lanes_keep(line_column(block[b] + at, c, form));
    UNROLLED
    for (int r = 0; r < R; r++) {
        struct lanes xj = splat_word(x + r * CHUNK, form);
        UNROLLED
        for (int b = 0; b < B; b++)
            sum[r][b] = add_product(sum[r][b], w[b], xj, form);
    }
}

/* `rows` <= R rows of x, which is at the stretch's first column, times B packed blocks of a bundle; asks
 * for what stands `ahead` bytes behind them, or FEW_AHEAD. */
static ALWAYS_INLINE void tile_product(const struct sums *sums, int R, int B, int rows,
                                       const float *x, const struct strip *strip, int block,
                                       int64_t ahead, const struct stretch *stretch, enum form form)
{
    const int columns = line_columns(form);
    /* With so little to do for a line, the CPU's own prefetch is faster: 2 rows of bf16 28 GB/s, not 21. */
    const int streams = B == MATRIX_BUNDLE && R * columns <= 4;
    struct lanes sum[TILE_ROWS][MATRIX_BUNDLE];
    const char *const *from = strip->block + block;
    int64_t j = stretch->begin, end = stretch->end, step = strip->step[block];
    int64_t at = line_of(j, form) * step;
    tile_begin(sum, R, B, sums, rows, block, stretch, form);
    if (place_in_line(j, form) != 0) {
        for (; j < end && place_in_line(j, form) != 0; j++, x++)
            tile_column(sum, R, B, x, from, at, place_in_line(j, form), form);
        at += step;
    }
    for (; j + columns <= end; j += columns, x += columns, at += step) {
        UNROLLED
        for (int b = 0; b < B && !streams; b++)
            lanes_prefetch_2(from[b] + at + (R <= FEW_ROWS ? FEW_AHEAD : ahead));
        UNROLLED
        for (int c = 0; c < columns; c++)
            tile_column(sum, R, B, x + c, from, at, c, form);
    }
    for (; j < end; j++, x++)
        tile_column(sum, R, B, x, from, at, place_in_line(j, form), form);
    tile_end(sum, R, B, sums, rows, strip, block, stretch, form);
}

/* --- chunks --- */

/* packed[rows][CHUNK] = columns [begin, end) of each row, so that a tile addresses its rows from one
 * pointer; and a row of zeros, since tiles have at most one row more than there are. */
static ALWAYS_INLINE void pack_rows(float *packed, const float *x, int64_t x_stride, int rows,
                                    const struct strip *strip, int64_t begin, int64_t end,
                                    enum form form)
{
    for (int r = 0; r < rows; r++)
        copy_columns(packed + r * CHUNK, x + r * x_stride, strip, begin, end, form);
    memset(packed + rows * CHUNK, 0, (size_t)(end - begin) * sizeof *packed);
}

/* Line `column` is in, of a block. */
static ALWAYS_INLINE const char *block_line(const struct strip *strip, int block, int64_t column,
                                            enum form form)
{
    return strip->block[block] + line_of(column, form) * strip->step[block];
}

/* Where the piece after columns [begin, end) of a bundle is: that of the next bundle, else the next chunk
 * of the strip's first one, else the next strip, which need not exist. */
static ALWAYS_INLINE const char *next_piece(const struct strip *strip, int bundle, int64_t begin,
                                            int64_t end, enum form form)
{
    if (bundle + MATRIX_BUNDLE < strip->n_blocks)
        return block_line(strip, bundle + MATRIX_BUNDLE, begin, form);
    return end < strip->k ? block_line(strip, 0, end, form) : strip->block[0] + strip->next;
}

/* A bundle for `rows` <= R rows and one stretch. */
static ALWAYS_INLINE void tile_blocks(const struct sums *sums, int R, int B, int rows,
                                      const float *x, const struct strip *strip, int bundle,
                                      int64_t ahead, const struct stretch *stretch, enum form form)
{
    for (int b = bundle; b < strip->n_blocks && b < bundle + MATRIX_BUNDLE; b += B)
        tile_product(sums, R, B, rows, x, strip, b, ahead, stretch, form);
}

static ALWAYS_INLINE void tile_rows(const struct sums *sums, int rows, const float *x,
                                    const struct strip *strip, int bundle, int64_t ahead,
                                    const struct stretch *stretch, enum form form)
{
    if (rows <= 2)
        tile_blocks(sums, 2, THREE_ROW_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
    else if (rows == 3)
        tile_blocks(sums, 3, THREE_ROW_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
    else if (rows == 4)
        tile_blocks(sums, 4, SIX_ROW_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
    else if (rows <= 6)
        tile_blocks(sums, 6, SIX_ROW_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
    else if (TILE_ROWS > 6 && rows <= 8)
        tile_blocks(sums, 8, TILE_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
    else
        tile_blocks(sums, TILE_ROWS, TILE_BLOCKS, rows, x, strip, bundle, ahead, stretch, form);
}

/* Columns [begin, end), all of `packed`, of a bundle. */
static ALWAYS_INLINE void piece_product(const struct sums *sums, const float *packed, int rows,
                                        const struct strip *strip, int bundle, int64_t begin,
                                        int64_t end, enum form form)
{
    int64_t ahead =
        next_piece(strip, bundle, begin, end, form) - block_line(strip, bundle, begin, form);
    for (int64_t j = begin; j < end;) {
        const struct stretch stretch = stretch_at(strip, j, end, form);
        for (int r = 0; r < rows; r += TILE_ROWS) {
            const struct sums own = {sums->unit + r * sums->stride, sums->group + r * sums->stride,
                                     sums->stride};
            tile_rows(&own, rows - r < TILE_ROWS ? rows - r : TILE_ROWS,
                      packed + r * CHUNK + (j - begin), strip, bundle, ahead, &stretch, form);
        }
        j = stretch.end;
    }
}

static ALWAYS_INLINE void some_rows(const struct sums *sums, const float *x, int64_t x_stride,
                                    int rows, const struct strip *strip, enum form form)
{
    _Alignas(64) float packed[(STRIP_ROWS + 1) * CHUNK];
    for (int64_t at = strip->begin; at < strip->end; at += CHUNK) {
        int64_t end = at + CHUNK < strip->end ? at + CHUNK : strip->end;
        pack_rows(packed, x, x_stride, rows, strip, at, end, form);
        for (int b = 0; b < strip->n_blocks; b += MATRIX_BUNDLE)
            piece_product(sums, packed, rows, strip, b, at, end, form);
    }
}

/* sums->unit[rows][strip] = the chains of the strip's unit, which has columns; x is at column 0 */
static ALWAYS_INLINE void unit_sums_of(const struct sums *sums, const float *x, int64_t x_stride,
                                       int rows, const struct strip *strip, enum form form)
{
    if (rows == 1)
        one_row(sums->unit, x, strip, form);
    else
        some_rows(sums, x, x_stride, rows, strip, form);
}

#endif
