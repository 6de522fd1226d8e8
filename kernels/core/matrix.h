/* matrix.h - weights in the layout every product reads: blocks of 16 output rows.
 *
 * A matrix w[n, k] is stored as ceil(n / 16) blocks of 16 output rows, a block as
 * a sequence of lines.  A line has one word of each of the 16 rows side by side,
 * and a word the next few columns of its row, the first in the lowest bits, as
 * checkpoints store them:
 *
 *     type      bytes of a word  columns  lines of a block
 *     F32             4             1     [k][16]
 *     F16             2             1     [k][16]
 *     BF16            4             2     [ceil(k / 2)][16][2]
 *     F8_E4M3         4             4     [ceil(k / 4)][16][4]
 *     I8              4             4     [ceil(k / 4)][16][4], number + 128
 *     I4              4             8     [ceil(k / 8)][16][8], half a byte each, number + 8
 *
 * Rows past n and columns past k are zero bits.  A vector of 16 lanes takes a
 * column out of a line with one or two operations.
 *
 * Four blocks, two of I8, make a bundle (the last may have fewer), and the lines of its blocks
 * take turns: line 0 of each, then line 1 of each.  A core needs the chains of
 * several blocks side by side, and reads them as one sequence, which is what
 * memory is fastest at (0.95 to 1.08 of a streaming read on Zen 4, where eight
 * sequences with prefetches give 0.6).
 *
 * An output is one chain of fused multiply-adds over k, in order, the same for 1
 * input row and for 512, for vector code of any width and for plain C with fmaf.
 *
 * Where a layout can cut the sum over k (over heads in W^O, over FFN columns),
 * the chain breaks: k consists of up to 8 units, each summed in its own chain,
 * then added along one fixed binary tree,
 *     ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)),
 * an empty unit returning the other operand.  A rank that holds whole subtrees
 * computes them here; the exchange between ranks goes on along the same tree.
 *
 * Quantized weights stay as stored.  A weight is its number times a scale that
 * each output row has for every `step` columns (a group).  The chain of a group,
 * cut where a unit cuts it, is over the numbers alone, from zero; the unit's sum
 * is the chain fma(scale, group, sum) over its groups, from zero.  A slice may
 * begin inside a group of the whole tensor, so the first group may be shorter.
 * A backend may multiply a number by a power of two and the activation by its
 * inverse, which changes nothing but where numbers overflow or lose bits.
 *
 * I8 is multiplied in integers.  The columns of a run - a group, cut where a unit
 * cuts it - are rounded to 8 bits for each input row, with m the largest |x| of
 * them and every operation rounded once, to nearest, ties to even:
 *     q_j = round(x_j * (127 / m)),  x_scale = m / 127,
 * and both are 0 where m < 2^-100.  The unit's sum is the chain
 *     fma(scale * x_scale, sum over the run of number_j * q_j, sum)
 * over its runs, from zero; the inner sum is exact.  A run with an infinity or NaN
 * in x has x_scale NaN, and so has every output of that row.
 *
 * BF16 may be multiplied in bf16 arithmetic, which does two columns at a time on
 * CPUs that have it.  Numbers of input rows are rounded to bf16.  The chain goes
 * over the pairs of columns that share a word, in order, and over each from the
 * second to the first:
 *     sum = fma(w_1, x_1, sum), then sum = fma(w_0, x_0, sum).
 * Every operation rounds once, to nearest, ties to even.  What it takes and what
 * it gives are 0 when below 2^-126, where a result is judged as rounded to 24
 * bits there too.  A unit that begins or ends inside a pair has x = 0 for the
 * other column.  A slice that begins at an odd column of its tensor has other
 * pairs, and may differ in last bits; widths of published models have none.
 */
#ifndef KERNELS_CORE_MATRIX_H
#define KERNELS_CORE_MATRIX_H

#include "kernels/core/tensor.h"

enum {
    MATRIX_BLOCK = 16,     /* output rows stored side by side */
    MATRIX_BUNDLE = 4,     /* blocks whose lines take turns, at most */
    UNITS = 8,             /* reduction units of a sum that a layout can cut */
    MATRIX_I8_STEP = 1024, /* most columns of a group of I8: its sums are exact in f32 */
    MATRIX_I8_WIDTH =
        1 << 18 /* most columns of an I8 matrix: of a row that products keep rounded */
};

/* First of the items that unit u of n items holds; unit u is [unit_begin(u, n), unit_begin(u+1, n)). */
static inline int64_t unit_begin(int unit, int64_t n)
{
    return (int64_t)unit * n / UNITS;
}

/* Where the chains over the local k break: unit u is [begin[u], begin[u + 1]), begin[0] = 0,
 * begin[UNITS] = k.  A sum that no layout cuts is one unit: begin[1..8] = k. */
struct units {
    int64_t begin[UNITS + 1];
};

/* One unit over all of k. */
struct units units_whole(int64_t k);

/* The units of [begin, end) of `n` items, each `width` columns wide, in local columns: unit
 * boundaries outside the span are clamped to it, so units held elsewhere are empty here. */
struct units units_of_span(int64_t n, int64_t begin, int64_t end, int64_t width);

/* Scales [count][ceil(n / 16)][groups][16]: of 16 output rows side by side, like the weights. */
struct matrix_scales {
    void *data;       /* as packed; device memory owned by an arena */
    enum dtype dtype; /* F32 or BF16 */
    int64_t step;     /* columns of a group */
    /* Column 0 of matrix i is column (first + i * shift) mod step of its group. */
    int64_t first, shift;
};

/* `count` matrices [n, k] of one shape, one after another (one per head or expert; 1 otherwise). */
struct matrix {
    void *data;       /* packed; device memory owned by an arena */
    enum dtype dtype; /* F32, F16, BF16, F8_E4M3, I8 or I4: multiplied from as it is stored */
    enum dtype input; /* BF16: weights of BF16 take input rows rounded to it; else F32 */
    int count;
    int64_t n, k;
    struct units units;
    struct matrix_scales scales; /* of F8_E4M3, I8 and I4 */
};

static inline int matrix_is_quantized(const struct matrix *w)
{
    return w->dtype == DTYPE_F8_E4M3 || w->dtype == DTYPE_I8 || w->dtype == DTYPE_I4;
}

/* Columns of a line, and its bytes. */
static inline int matrix_line_columns(enum dtype dtype)
{
    return dtype == DTYPE_I4                             ? 8
           : dtype == DTYPE_I8 || dtype == DTYPE_F8_E4M3 ? 4
           : dtype == DTYPE_BF16                         ? 2
                                                         : 1;
}
static inline int matrix_line_bytes(enum dtype dtype)
{
    return MATRIX_BLOCK * (dtype == DTYPE_F16 ? 2 : 4);
}

/* Blocks of a bundle: as many as products of the type take at once. */
static inline int64_t matrix_bundle(enum dtype dtype)
{
    return dtype == DTYPE_I8 ? MATRIX_BUNDLE / 2 : MATRIX_BUNDLE;
}

/* Blocks of 16 output rows in one of the `count` matrices, and bytes of a block. */
static inline int64_t matrix_blocks(const struct matrix *w)
{
    return (w->n + MATRIX_BLOCK - 1) / MATRIX_BLOCK;
}
size_t matrix_block_bytes(const struct matrix *w);

/* Bytes from the start of a matrix to line 0 of a block, and from a line of that block to its next. */
size_t matrix_block_at(const struct matrix *w, int64_t block);
static inline int64_t matrix_line_step(const struct matrix *w, int64_t block)
{
    int64_t bundle = matrix_bundle(w->dtype), left = matrix_blocks(w) - block / bundle * bundle;
    return (left < bundle ? left : bundle) * matrix_line_bytes(w->dtype);
}

/* Bytes of all `count` matrices as packed, without and with only their scales. */
size_t matrix_bytes(const struct matrix *w);
size_t matrix_scale_bytes(const struct matrix *w);

/* Groups that every row has scales for, the last of which may be unused. */
int64_t matrix_groups(const struct matrix *w);

/* The group of column `column` of matrix `index`. */
int64_t matrix_group(const struct matrix *w, int index, int64_t column);

/* Matrix `index` of the `count` alone. */
struct matrix matrix_at(const struct matrix *w, int index);

/* Packs rows [row, row + rows) of matrix `index` from row-major `source` (host memory, the same
 * dtype; for I4 a byte for each number, 0 .. 15, for I8 number + 128), whose rows stand
 * `source_stride` elements apart.
 * `w->data` must be host memory that was zero before; devices receive it by copy_in.
 * Returns 0 when one of the numbers is NaN or infinite: looking costs next to nothing here, where all
 * are in registers. */
int matrix_pack(struct matrix *w, int index, int64_t row, int64_t rows, const void *source,
                int64_t source_stride);

/* Stores numbers of I8 (each + 128), columns [column, column + count) of one row. */
void matrix_put_i8(struct matrix *w, int index, int64_t row, int64_t column, const uint8_t *numbers,
                   int64_t count);

/* Packs the transpose: column c of `source` [k, n] (row-major, stride `source_stride`) becomes row c
 * of matrix `index`.  Not for I4. */
void matrix_pack_transposed(struct matrix *w, int index, const void *source, int64_t source_stride);

/* Sets the scale of one row and group of matrix `index`; exact where the scale has the stored type. */
void matrix_set_scale(struct matrix *w, int index, int64_t row, int64_t group, float scale);

#endif
