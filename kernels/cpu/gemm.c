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
#include "kernels/cpu/cpu_threads.h"
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
    if (dtype == DTYPE_I4) {
        struct lanes half[2];
        lanes_load_i4(&half[0], &half[1], bytes + column / 2 * MATRIX_BLOCK);
        return lanes_mul(half[column % 2], scale);
    }
    return lanes_load_as(block, column * MATRIX_BLOCK, dtype);
}

/* Columns `column`, even, and the next one of an int4 block. */
static inline void weight_pair_at(struct lanes w[2], const void *block, int64_t column,
                                  struct lanes scale)
{
    lanes_load_i4(&w[0], &w[1], (const uint8_t *)block + column / 2 * MATRIX_BLOCK);
    w[0] = lanes_mul(w[0], scale);
    w[1] = lanes_mul(w[1], scale);
}

/* Bytes of a column of a block, two columns for int4. */
static inline int64_t column_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 64 : dtype == DTYPE_BF16 || dtype == DTYPE_F16 ? 32 : 16;
}

/* sum[ONE_BLOCKS] += `step` columns from `column` on, step a constant in each call; int4 by pairs. */
static inline void one_row_columns(struct lanes *sum, const float *x, const struct strip *strip,
                                   int b, int64_t column, int step, const struct lanes *scale,
                                   enum dtype dtype)
{
    for (int j = 0; j < step; j++) {
        struct lanes xj = lanes_splat(x[j]);
        for (int i = 0; i < ONE_BLOCKS; i++)
            sum[i] =
                lanes_fma(weights_at(strip->block[b + i], column + j, scale[i], dtype), xj, sum[i]);
    }
}

static inline void one_row_pairs(struct lanes *sum, const float *x, const struct strip *strip,
                                 int b, int64_t column, int step, const struct lanes *scale)
{
    for (int j = 0; j < step; j += 2) {
        struct lanes xj = lanes_splat(x[j]), next = lanes_splat(x[j + 1]);
        for (int i = 0; i < ONE_BLOCKS; i++) {
            struct lanes w[2];
            weight_pair_at(w, strip->block[b + i], column + j, scale[i]);
            sum[i] = lanes_fma(w[1], next, lanes_fma(w[0], xj, sum[i]));
        }
    }
}

/* sums[STRIP], one input row over `columns` columns: ONE_BLOCKS chains of 16 side by side.  A cache
 * line of each block at a time; the line that comes AHEAD bytes later is asked for meanwhile. */
static inline void one_row(float *sums, const float *x, const struct strip *strip, int64_t first,
                           int64_t columns, enum dtype dtype)
{
    enum { LINE = 64, AHEAD = 2048 };
    const int is_i4 = dtype == DTYPE_I4;
    const int line = (int)(LINE / column_bytes(dtype)) * (is_i4 ? 2 : 1);
    for (int b = 0; b < strip->n_blocks; b += ONE_BLOCKS) {
        struct lanes sum[ONE_BLOCKS];
        for (int i = 0; i < ONE_BLOCKS; i++)
            sum[i] = lanes_zero();
        for (int64_t j = 0; j < columns;) {
            int64_t end = run_end(strip, first + j, first + columns, dtype) - first;
            struct lanes scale[ONE_BLOCKS];
            for (int i = 0; i < ONE_BLOCKS; i++)
                scale[i] = run_scale(strip, b + i, first + j, dtype);
            if (is_i4 && (first + j) % 2 != 0 && j < end) {
                one_row_columns(sum, x + j, strip, b, first + j, 1, scale, dtype);
                j++;
            }
            for (; j + line <= end; j += line) {
                int64_t at = (first + j) / (is_i4 ? 2 : 1) * column_bytes(dtype) + AHEAD;
                for (int i = 0; i < ONE_BLOCKS && !is_i4; i++) /* int4 waits for no memory */
                    lanes_prefetch((const char *)strip->block[b + i] + at);
                if (is_i4)
                    one_row_pairs(sum, x + j, strip, b, first + j, line, scale);
                else
                    one_row_columns(sum, x + j, strip, b, first + j, line, scale, dtype);
            }
            for (; j < end; j++)
                one_row_columns(sum, x + j, strip, b, first + j, 1, scale, dtype);
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
        for (; dtype == DTYPE_I4 && (first + j) % 2 == 0 && j + 1 < end; j += 2) {
            struct lanes w[FEW_BLOCKS][2];
            for (int b = 0; b < FEW_BLOCKS; b++)
                weight_pair_at(w[b], strip->block[block + b], first + j, scale[b]);
            for (int r = 0; r < FEW_ROWS; r++) {
                struct lanes xj = lanes_splat(x[r * CHUNK + j]);
                struct lanes next = lanes_splat(x[r * CHUNK + j + 1]);
                for (int b = 0; b < FEW_BLOCKS; b++)
                    sum[r][b] = lanes_fma(w[b][1], next, lanes_fma(w[b][0], xj, sum[r][b]));
            }
        }
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
            for (; dtype == DTYPE_I4 && (first + j) % 2 == 0 && j + 1 < end; j += 2) {
                struct lanes w[2];
                weight_pair_at(w, strip->block[b], first + j, scale);
                lanes_store(panel + (b * CHUNK + j) * MATRIX_BLOCK, w[0]);
                lanes_store(panel + (b * CHUNK + j + 1) * MATRIX_BLOCK, w[1]);
            }
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

/* y[rows][outputs of `n_blocks` blocks of w from `block` on] */
static void strip_product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int rows,
                          const struct matrix *w, int64_t block, int n_blocks)
{
    _Alignas(64) float level[LEVELS][STRIP_ROWS * STRIP];
    int64_t row = block * MATRIX_BLOCK, width = (int64_t)n_blocks * MATRIX_BLOCK;
    struct strip strip = strip_of(w, block, n_blocks);

    if (n_blocks == STRIP_BLOCKS && row + width <= w->n && w->units.begin[1] == w->k) {
        unit_sums(y + row, y_stride, x, x_stride, rows, &strip, 0, w->k);
        return;
    }
    const float *sums = tree_sums(level, x, x_stride, rows, &strip, &w->units);
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
    for (int64_t r = 0; r < rows; r += STRIP_ROWS) {
        int n_rows = (int)(rows - r < STRIP_ROWS ? rows - r : STRIP_ROWS);
        for (int64_t block = begin; block < end; block += STRIP_BLOCKS) {
            int n_blocks = (int)(end - block < STRIP_BLOCKS ? end - block : STRIP_BLOCKS);
            strip_product(y + r * y_stride, y_stride, x + r * x_stride, x_stride, n_rows, w, block,
                          n_blocks);
        }
    }
}

/* y[T, H, n] = x[T, H or 1, k] . w_h: the blocks of all heads, one after another, are split over
 * threads. */
struct gemm_work {
    struct tensor *y;
    const struct tensor *x;
    const struct matrix *w;
};

static void gemm_part(void *context, int thread, int n_threads)
{
    const struct gemm_work *work = context;
    const struct tensor *x = work->x, *y = work->y;
    int64_t blocks = matrix_blocks(work->w), begin, end;
    thread_part(blocks * work->w->count, thread, n_threads, &begin, &end);
    for (int64_t next; begin < end; begin = next) {
        int64_t h = begin / blocks;
        struct matrix one = matrix_at(work->w, (int)h);
        const float *xh = x->data;
        if (xh != NULL && x->dim[1] > 1)
            xh += h * x->stride[1];
        next = (h + 1) * blocks < end ? (h + 1) * blocks : end;
        ISA(product)
        (tensor_f32_2(y, 0, h), y->stride[0], xh, x->stride[0], y->dim[0], &one, begin - h * blocks,
         next - h * blocks);
    }
}

enum status ISA(gemm_heads)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                            struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 3 && x->ndim == 3 && y->dim[1] == w->count);
    assert(x->dim[1] == w->count || x->dim[1] == 1);
    assert(y->dim[0] == x->dim[0] && y->dim[2] == w->n && x->dim[2] == w->k);
    struct gemm_work work = {y, x, w};
    if (y->dim[0] > 0 && w->n > 0 && w->count > 0)
        cpu_threads_run(gemm_part, &work);
    return STATUS_OK;
}

/* [T, n] as [T, 1, n] */
static struct tensor one_head(const struct tensor *t)
{
    struct tensor view = *t;
    view.ndim = 3;
    view.dim[1] = 1;
    view.dim[2] = t->dim[1];
    view.stride[1] = t->dim[1];
    view.stride[2] = 1;
    return view;
}

enum status ISA(gemm)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                      struct stream *stream)
{
    assert(y->ndim == 2 && x->ndim == 2 && w->count == 1);
    struct tensor y_heads = one_head(y), x_heads = one_head(x);
    return ISA(gemm_heads)(&y_heads, &x_heads, w, stream);
}
