/* product.c - products with packed weights: one chain of fused multiply-adds per output.
 *
 * A chain cannot be shortened, so speed comes from many chains side by side: 16
 * output rows in a register, several such blocks and several input rows at once
 * (product_tiles.h).  Here are the strips that a product is divided into, and the
 * units of their sums.
 */
#include "kernels/cpu/product.h"
#include "kernels/cpu/product_tiles.h"
#include "kernels/cpu/unit_tree.h"

#include <assert.h>

enum { SUMS = STRIP_ROWS * STRIP_BLOCKS * MATRIX_BLOCK }; /* of a strip */

#if defined(ISA_BF16)

static void unit_sums(const struct sums *sums, const float *x, int64_t x_stride, int rows,
                      const struct strip *strip)
{
    assert(strip->form == FORM_PAIRS);
    unit_sums_of(sums, x, x_stride, rows, strip, FORM_PAIRS);
}

#else

static __attribute__((noinline)) void pairs_sums(const struct sums *sums, const float *x,
                                                 int64_t x_stride, int rows,
                                                 const struct strip *strip)
{
    unit_sums_of(sums, x, x_stride, rows, strip, FORM_PAIRS);
}

static void unit_sums(const struct sums *sums, const float *x, int64_t x_stride, int rows,
                      const struct strip *strip)
{
    unsigned before;
    switch (strip->form) {
    case FORM_BF16:
        unit_sums_of(sums, x, x_stride, rows, strip, FORM_BF16);
        break;
    case FORM_F16:
        unit_sums_of(sums, x, x_stride, rows, strip, FORM_F16);
        break;
    case FORM_F8:
        unit_sums_of(sums, x, x_stride, rows, strip, FORM_F8);
        break;
    case FORM_I4:
        unit_sums_of(sums, x, x_stride, rows, strip, FORM_I4);
        break;
    case FORM_PAIRS:
        before = pairs_begin();
        pairs_sums(sums, x, x_stride, rows, strip);
        pairs_end(before);
        break;
    default:
        unit_sums_of(sums, x, x_stride, rows, strip, FORM_F32);
    }
}

#endif

/* Columns [begin, end) of the matrix are summed next. */
static void strip_take_unit(struct strip *strip, int64_t begin, int64_t end)
{
    int of_pairs = strip->form == FORM_PAIRS && end > begin;
    strip->first = begin;
    strip->last = end;
    strip->begin = of_pairs ? begin / 2 : begin;
    strip->end = of_pairs ? (end + 1) / 2 : end;
}

/* The sums of all units, met along the tree of matrix.h. */
static const float *tree_sums(struct unit_tree *tree, float *group, const float *x,
                              int64_t x_stride, struct strip *strip, const struct units *units)
{
    for (int u = 0; u < UNITS; u++) {
        unit_tree_move(tree, u);
        strip_take_unit(strip, units->begin[u], units->begin[u + 1]);
        tree->has[tree->depth] = strip->end > strip->begin;
        if (tree->has[tree->depth])
            unit_sums(&(struct sums){tree->level[tree->depth], group, strip->width}, x, x_stride,
                      (int)tree->rows, strip);
    }
    unit_tree_move(tree, UNITS);
    assert(tree->has[0]);
    return tree->level[0];
}

static enum form form_of(const struct matrix *w)
{
    switch (w->dtype) {
    case DTYPE_BF16:
        return w->input == DTYPE_BF16 ? FORM_PAIRS : FORM_BF16;
    case DTYPE_F16:
        return FORM_F16;
    case DTYPE_F8_E4M3:
        return FORM_F8;
    case DTYPE_I4:
        return FORM_I4;
    default:
        return FORM_F32;
    }
}

/* `n_blocks` of w from block `first` on, and its first unit; strips have `most`. */
static struct strip strip_of(const struct matrix *w, int64_t first, int n_blocks, int most)
{
    struct strip strip = {
        .form = form_of(w), .n_blocks = n_blocks, .width = (int64_t)most * MATRIX_BLOCK};
    strip.k = strip.form == FORM_PAIRS ? (w->k + 1) / 2 : w->k;
    strip_take_unit(&strip, 0, w->units.begin[1]);
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
    _Alignas(64) float level[TREE_LEVELS][SUMS];
    _Alignas(64) float group[SUMS];
    int64_t row = block * MATRIX_BLOCK, width = (int64_t)n_blocks * MATRIX_BLOCK;
    struct strip strip = strip_of(w, block, n_blocks, most);

    /* Rows of y may be a power of two apart, on one line of the cache: only a single one is summed there. */
    if (rows == 1 && n_blocks == MATRIX_BUNDLE && row + width <= w->n &&
        w->units.begin[1] == w->k) {
        unit_sums(&(struct sums){y + row, NULL, y_stride}, x, x_stride, rows, &strip);
        return;
    }
    struct unit_tree tree = {.rows = rows, .stride = strip.width, .n = strip.width};
    for (int i = 0; i < TREE_LEVELS; i++)
        tree.level[i] = level[i];
    const float *sums = tree_sums(&tree, group, x, x_stride, &strip, &w->units);
    width = w->n - row < width ? w->n - row : width;
    for (int r = 0; r < rows; r++)
        memcpy(y + r * y_stride + row, sums + r * strip.width, (size_t)width * sizeof *y);
}

void ISA(product_form)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                       const struct matrix *w, int64_t begin, int64_t end)
{
    int most = rows <= FEW_ROWS ? MATRIX_BUNDLE : STRIP_BLOCKS;
    for (int64_t block = begin; block < end; block += most) {
        int n_blocks = (int)(end - block < most ? end - block : most);
        for (int64_t r = 0; r < rows; r += STRIP_ROWS) {
            int n_rows = (int)(rows - r < STRIP_ROWS ? rows - r : STRIP_ROWS);
            strip_product(y + r * y_stride, y_stride, x + r * x_stride, x_stride, n_rows, w, block,
                          n_blocks, most);
        }
    }
}

#if !defined(ISA_BF16)

static void zero_outputs(float *y, int64_t y_stride, int64_t rows, const struct matrix *w,
                         int64_t begin, int64_t end)
{
    int64_t first = begin * MATRIX_BLOCK, last = end * MATRIX_BLOCK;
    last = last < w->n ? last : w->n;
    for (int64_t r = 0; r < rows && first < last; r++)
        memset(y + r * y_stride + first, 0, (size_t)(last - first) * sizeof *y);
}

void product_form_avx512bf16(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                             int64_t rows, const struct matrix *w, int64_t begin, int64_t end);

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
#if defined(ISA_AVX512)
    if (form_of(w) == FORM_PAIRS && __builtin_cpu_supports("avx512bf16")) {
        product_form_avx512bf16(y, y_stride, x, x_stride, rows, w, begin, end);
        return;
    }
#endif
    ISA(product_form)(y, y_stride, x, x_stride, rows, w, begin, end);
}

#endif
