/* gemm.c - products with packed weights: one chain of fused multiply-adds per output.
 *
 * A chain cannot be shortened, so speed comes from many chains side by side:
 * 16 output rows in a register, several such blocks and several input rows at
 * once.  A strip is 8 blocks (128 outputs) by up to 96 input rows; per strip
 * and unit the columns go by in chunks whose widened weights stay in the
 * second-level cache.  One input row reads the weights as they stream by.
 *
 * Chains are cut only at unit boundaries (matrix.h), never by a tile: between
 * chunks the sums wait in memory, which rounds nothing.
 *
 * Quantized weights are multiplied by their scale when they are widened.  A run
 * is a stretch of columns with the same scales.
 */
#include "kernels/cpu/product.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

enum {
    STRIP_BLOCKS = 8,                    /* blocks of 16 outputs in a strip */
    STRIP = STRIP_BLOCKS * MATRIX_BLOCK, /* outputs of a strip */
    STRIP_ROWS = 96,                     /* input rows of a strip: a multiple of TILE_ROWS */
    CHUNK = 256,                         /* columns between two visits of the sums */
    FEW_ROWS = 4,                        /* input rows of a tile on unwidened weights */
    FEW_MOST = 8,                        /* from more rows on, weights are widened first */
    LEVELS = 4                           /* sums waiting for their partner in a tree of 8 */
};

/* The weights of a strip from one column on. */
struct strip {
    const void *block[STRIP_BLOCKS]; /* column 0 of each block; the last one repeats past n */
    enum dtype dtype;
    int n_blocks;
    const void *scale[STRIP_BLOCKS]; /* group 0 of each block; of quantized weights */
    enum dtype scale_dtype;
    int64_t group_first, group_step; /* column j is of group (j + group_first) / group_step */
};

static inline int is_quantized(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_I4;
}

/* The end of the run that `column` is in, at most `end`. */
static inline int64_t run_end(const struct strip *strip, int64_t column, int64_t end,
                              enum dtype dtype)
{
    if (!is_quantized(dtype))
        return end;
    int64_t next = (column + strip->group_first) / strip->group_step + 1;
    int64_t run = next * strip->group_step - strip->group_first;
    return run < end ? run : end;
}

/* What the weights of a block are multiplied by in the run of `column`. */
static inline struct lanes run_scale(const struct strip *strip, int block, int64_t column,
                                     enum dtype dtype)
{
    if (!is_quantized(dtype))
        return lanes_zero();
    int64_t group = (column + strip->group_first) / strip->group_step;
    struct lanes scale =
        lanes_load_as(strip->scale[block], group * MATRIX_BLOCK, strip->scale_dtype);
    return dtype == DTYPE_F8_E4M3 ? lanes_mul(scale, lanes_splat(0x1p8f))
                                  : scale; /* lanes_load_f8 */
}

/* The 16 weights of a column of a block, in f32. */
static inline struct lanes weights_at(const void *block, int64_t column, struct lanes scale,
                                      enum dtype dtype)
{
    const uint8_t *bytes = block;
    if (dtype == DTYPE_F8_E4M3)
        return lanes_mul(lanes_load_f8(bytes + column * MATRIX_BLOCK), scale);
    if (dtype == DTYPE_I4)
        return lanes_mul(lanes_load_i4(bytes + column / 2 * MATRIX_BLOCK, (int)(column % 2)),
                         scale);
    return lanes_load_as(block, column * MATRIX_BLOCK, dtype);
}

/* sums[STRIP], one input row over `columns` columns: ONE_BLOCKS chains of 16 side by side. */
static inline void one_row(float *sums, const float *x, const struct strip *strip, int64_t first,
                           int64_t columns, enum dtype dtype)
{
    for (int b = 0; b < strip->n_blocks; b += ONE_BLOCKS) {
        struct lanes sum[ONE_BLOCKS];
        for (int i = 0; i < ONE_BLOCKS; i++)
            sum[i] = lanes_zero();
        for (int64_t j = 0; j < columns;) {
            int64_t end = run_end(strip, first + j, first + columns, dtype) - first;
            struct lanes scale[ONE_BLOCKS];
            for (int i = 0; i < ONE_BLOCKS; i++)
                scale[i] = run_scale(strip, b + i, first + j, dtype);
            for (; j < end; j++) {
                struct lanes xj = lanes_splat(x[j]);
                for (int i = 0; i < ONE_BLOCKS; i++) {
                    struct lanes w = weights_at(strip->block[b + i], first + j, scale[i], dtype);
                    sum[i] = lanes_fma(w, xj, sum[i]);
                }
            }
        }
        for (int i = 0; i < ONE_BLOCKS; i++)
            lanes_store(sums + (b + i) * MATRIX_BLOCK, sum[i]);
    }
}

/* FEW_ROWS rows of `x` (packed, CHUNK apart) times FEW_BLOCKS blocks from `block` on, added to what
 * sums hold. */
static inline void few_tile(float *sums, int64_t stride, int rows, const float *x,
                            const struct strip *strip, int block, int64_t first, int columns,
                            enum dtype dtype, int is_first)
{
    struct lanes sum[FEW_ROWS][FEW_BLOCKS];
    for (int r = 0; r < FEW_ROWS; r++)
        for (int b = 0; b < FEW_BLOCKS; b++)
            sum[r][b] = is_first || r >= rows ? lanes_zero()
                                              : lanes_load(sums + r * stride + b * MATRIX_BLOCK);
    for (int64_t j = 0; j < columns;) {
        int64_t end = run_end(strip, first + j, first + columns, dtype) - first;
        struct lanes scale[FEW_BLOCKS];
        for (int b = 0; b < FEW_BLOCKS; b++)
            scale[b] = run_scale(strip, block + b, first + j, dtype);
        for (; j < end; j++) {
            struct lanes w[FEW_BLOCKS];
            for (int b = 0; b < FEW_BLOCKS; b++)
                w[b] = weights_at(strip->block[block + b], first + j, scale[b], dtype);
            for (int r = 0; r < FEW_ROWS; r++) {
                struct lanes xj = lanes_splat(x[r * CHUNK + j]);
                for (int b = 0; b < FEW_BLOCKS; b++)
                    sum[r][b] = lanes_fma(w[b], xj, sum[r][b]);
            }
        }
    }
    for (int r = 0; r < FEW_ROWS && r < rows; r++)
        for (int b = 0; b < FEW_BLOCKS; b++)
            lanes_store(sums + r * stride + b * MATRIX_BLOCK, sum[r][b]);
}

/* TILE_ROWS rows of `x` (packed, CHUNK apart) times TILE_BLOCKS widened blocks of `panel`. */
static inline void tile(float *sums, int64_t stride, int rows, const float *x, const float *panel,
                        int columns, int is_first)
{
    struct lanes sum[TILE_ROWS][TILE_BLOCKS];
    for (int r = 0; r < TILE_ROWS; r++)
        for (int b = 0; b < TILE_BLOCKS; b++)
            sum[r][b] = is_first || r >= rows ? lanes_zero()
                                              : lanes_load(sums + r * stride + b * MATRIX_BLOCK);
    for (int j = 0; j < columns; j++) {
        struct lanes w[TILE_BLOCKS];
        for (int b = 0; b < TILE_BLOCKS; b++)
            w[b] = lanes_load(panel + (b * CHUNK + j) * MATRIX_BLOCK);
        for (int r = 0; r < TILE_ROWS; r++) {
            struct lanes xj = lanes_splat(x[r * CHUNK + j]);
            for (int b = 0; b < TILE_BLOCKS; b++)
                sum[r][b] = lanes_fma(w[b], xj, sum[r][b]);
        }
    }
    for (int r = 0; r < TILE_ROWS && r < rows; r++)
        for (int b = 0; b < TILE_BLOCKS; b++)
            lanes_store(sums + r * stride + b * MATRIX_BLOCK, sum[r][b]);
}

/* Copies `rows` rows of `columns` numbers next to each other, so that a tile addresses them all from
 * one pointer; rows up to `padded` are zero. */
static void pack_rows(float *packed, const float *x, int64_t x_stride, int rows, int padded,
                      int columns)
{
    for (int r = 0; r < rows; r++)
        memcpy(packed + r * CHUNK, x + r * x_stride, (size_t)columns * sizeof *x);
    for (int r = rows; r < padded; r++)
        memset(packed + r * CHUNK, 0, (size_t)columns * sizeof *x);
}

static inline void few_rows(float *sums, int64_t stride, const float *x, int64_t x_stride, int rows,
                            const struct strip *strip, int64_t first, int64_t columns,
                            enum dtype dtype)
{
    _Alignas(64) float packed[FEW_ROWS * CHUNK];
    for (int64_t at = 0; at < columns; at += CHUNK) {
        int n = (int)(columns - at < CHUNK ? columns - at : CHUNK);
        for (int r = 0; r < rows; r += FEW_ROWS) {
            int n_rows = rows - r < FEW_ROWS ? rows - r : FEW_ROWS;
            pack_rows(packed, x + r * x_stride + at, x_stride, n_rows, FEW_ROWS, n);
            for (int b = 0; b < strip->n_blocks; b += FEW_BLOCKS)
                few_tile(sums + r * stride + b * MATRIX_BLOCK, stride, n_rows, packed, strip, b,
                         first + at, n, dtype, at == 0);
        }
    }
}

/* panel[n_blocks][CHUNK][16] = `columns` columns of the strip, widened */
static inline void widen(float *panel, const struct strip *strip, int n_blocks, int64_t first,
                         int columns, enum dtype dtype)
{
    for (int b = 0; b < n_blocks; b++) {
        for (int64_t j = 0; j < columns;) {
            int64_t end = run_end(strip, first + j, first + columns, dtype) - first;
            struct lanes scale = run_scale(strip, b, first + j, dtype);
            for (; j < end; j++)
                lanes_store(panel + (b * CHUNK + j) * MATRIX_BLOCK,
                            weights_at(strip->block[b], first + j, scale, dtype));
        }
    }
}

static void widen_any(float *panel, const struct strip *strip, int n_blocks, int64_t first,
                      int columns)
{
    switch (strip->dtype) {
    case DTYPE_BF16:
        widen(panel, strip, n_blocks, first, columns, DTYPE_BF16);
        break;
    case DTYPE_F16:
        widen(panel, strip, n_blocks, first, columns, DTYPE_F16);
        break;
    case DTYPE_F8_E4M3:
        widen(panel, strip, n_blocks, first, columns, DTYPE_F8_E4M3);
        break;
    case DTYPE_I4:
        widen(panel, strip, n_blocks, first, columns, DTYPE_I4);
        break;
    default:
        widen(panel, strip, n_blocks, first, columns, DTYPE_F32);
    }
}

static void many_rows(float *sums, int64_t stride, const float *x, int64_t x_stride, int rows,
                      const struct strip *strip, int64_t first, int64_t columns)
{
    _Alignas(64) float panel[STRIP_BLOCKS * CHUNK * MATRIX_BLOCK];
    _Alignas(64) float packed[TILE_ROWS * CHUNK];
    int n_blocks = (strip->n_blocks + TILE_BLOCKS - 1) / TILE_BLOCKS * TILE_BLOCKS;
    for (int64_t at = 0; at < columns; at += CHUNK) {
        int n = (int)(columns - at < CHUNK ? columns - at : CHUNK);
        widen_any(panel, strip, n_blocks, first + at, n);
        for (int r = 0; r < rows; r += TILE_ROWS) {
            int n_rows = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
            pack_rows(packed, x + r * x_stride + at, x_stride, n_rows, TILE_ROWS, n);
            for (int b = 0; b < n_blocks; b += TILE_BLOCKS)
                tile(sums + r * stride + b * MATRIX_BLOCK, stride, n_rows, packed,
                     panel + b * CHUNK * MATRIX_BLOCK, n, at == 0);
        }
    }
}

/* Up to FEW_MOST rows; the type is a constant in each call, so that no loop asks for it. */
static inline void thin_sums(float *sums, int64_t stride, const float *x, int64_t x_stride,
                             int rows, const struct strip *strip, int64_t first, int64_t columns,
                             enum dtype dtype)
{
    if (rows == 1)
        one_row(sums, x, strip, first, columns, dtype);
    else
        few_rows(sums, stride, x, x_stride, rows, strip, first, columns, dtype);
}

/* sums[rows][strip] = the chains over columns [first, first + columns), columns > 0; x is at `first`. */
static void unit_sums(float *sums, int64_t stride, const float *x, int64_t x_stride, int rows,
                      const struct strip *strip, int64_t first, int64_t columns)
{
    if (rows > FEW_MOST) {
        many_rows(sums, stride, x, x_stride, rows, strip, first, columns);
        return;
    }
    switch (strip->dtype) {
    case DTYPE_BF16:
        thin_sums(sums, stride, x, x_stride, rows, strip, first, columns, DTYPE_BF16);
        break;
    case DTYPE_F16:
        thin_sums(sums, stride, x, x_stride, rows, strip, first, columns, DTYPE_F16);
        break;
    case DTYPE_F8_E4M3:
        thin_sums(sums, stride, x, x_stride, rows, strip, first, columns, DTYPE_F8_E4M3);
        break;
    case DTYPE_I4:
        thin_sums(sums, stride, x, x_stride, rows, strip, first, columns, DTYPE_I4);
        break;
    default:
        thin_sums(sums, stride, x, x_stride, rows, strip, first, columns, DTYPE_F32);
    }
}

static void add_sums(float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES)
        lanes_store(a + i, lanes_add(lanes_load(a + i), lanes_load(b + i)));
}

/* sums[rows][STRIP] = all units, met along the tree of matrix.h.  Unit 1 waits one level above unit 0
 * and joins it at once, and so on: at most LEVELS sums wait. */
static const float *tree_sums(float (*level)[STRIP_ROWS * STRIP], const float *x, int64_t x_stride,
                              int rows, const struct strip *strip, const struct units *units)
{
    int has[LEVELS], depth = 0;
    for (int u = 0; u < UNITS; u++) {
        int64_t begin = units->begin[u], columns = units->begin[u + 1] - begin;
        if (columns > 0)
            unit_sums(level[depth], STRIP, x + begin, x_stride, rows, strip, begin, columns);
        has[depth++] = columns > 0;
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
    struct strip strip = {.dtype = w->dtype, .n_blocks = n_blocks};
    size_t bytes = matrix_block_bytes(w), scale_bytes = 0;
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

/* y[rows][columns of the strip that begins at output `row` of w] */
static void strip_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int rows,
                          const struct matrix *w, int64_t row)
{
    _Alignas(64) float level[LEVELS][STRIP_ROWS * STRIP];
    int64_t width = w->n - row < STRIP ? w->n - row : STRIP;
    int64_t last = (width - 1) / MATRIX_BLOCK;
    struct strip strip = strip_of(w, row / MATRIX_BLOCK, (int)last + 1);

    if (width == STRIP && w->units.begin[1] == w->k) {
        unit_sums(y, y_stride, x, x_stride, rows, &strip, 0, w->k);
        return;
    }
    const float *sums = tree_sums(level, x, x_stride, rows, &strip, &w->units);
    for (int r = 0; r < rows; r++)
        memcpy(y + r * y_stride, sums + r * STRIP, (size_t)width * sizeof *y);
}

void ISA(product)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                  const struct matrix *w)
{
    for (int64_t r = 0; r < rows && w->k == 0; r++)
        memset(y + r * y_stride, 0, (size_t)w->n * sizeof *y);
    for (int64_t r = 0; r < rows && w->k > 0; r += STRIP_ROWS) {
        int n_rows = (int)(rows - r < STRIP_ROWS ? rows - r : STRIP_ROWS);
        for (int64_t row = 0; row < w->n; row += STRIP)
            strip_product(y + r * y_stride + row, y_stride, x + r * x_stride, x_stride, n_rows, w,
                          row);
    }
}

enum status ISA(gemm)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                      struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 2 && x->ndim == 2 && w->count == 1);
    assert(y->dim[0] == x->dim[0] && y->dim[1] == w->n && x->dim[1] == w->k);
    if (y->dim[0] > 0 && w->n > 0)
        ISA(product)(y->data, y->stride[0], x->data, x->stride[0], y->dim[0], w);
    return STATUS_OK;
}

enum status ISA(gemm_heads)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                            struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 3 && x->ndim == 3 && y->dim[1] == w->count);
    assert(x->dim[1] == w->count || x->dim[1] == 1);
    assert(y->dim[0] == x->dim[0] && y->dim[2] == w->n && x->dim[2] == w->k);
    for (int h = 0; h < w->count && y->dim[0] > 0 && w->n > 0; h++) {
        struct matrix one = matrix_at(w, h);
        const float *xh = x->data;
        if (xh != NULL && x->dim[1] > 1)
            xh += h * x->stride[1];
        ISA(product)(tensor_f32_2(y, 0, h), y->stride[0], xh, x->stride[0], y->dim[0], &one);
    }
    return STATUS_OK;
}
