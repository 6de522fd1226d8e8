/* matrix.h - weights in the layout every product reads: blocks of 16 output rows.
 *
 * A matrix w[n, k] is stored as [ceil(n / 16)][k][16]: for each block of 16
 * output rows, column by column, the 16 weights of that column side by side;
 * rows past n are zero.  Each output is then one chain of fused
 * multiply-adds over k, in order, the same for 1 input row and for 512, for
 * vector code of any width and for plain C with fmaf.
 *
 * Where a layout can cut the sum over k (over heads in W^O, over FFN columns),
 * the chain breaks: k consists of up to 8 units, each summed in its own chain,
 * then added along one fixed binary tree,
 *     ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)),
 * an empty unit returning the other operand.  A rank that holds whole subtrees
 * computes them here; the exchange between ranks goes on along the same tree.
 */
#ifndef KERNELS_CORE_MATRIX_H
#define KERNELS_CORE_MATRIX_H

#include "kernels/core/tensor.h"

enum {
    MATRIX_BLOCK = 16, /* output rows stored side by side */
    UNITS = 8          /* reduction units of a sum that a layout can cut */
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

/* `count` matrices [n, k] of one shape, one after another (one per head or expert; 1 otherwise). */
struct matrix {
    void *data;       /* packed; device memory owned by an arena */
    enum dtype dtype; /* F32, F16 or BF16: the stored type, multiplied from as it is */
    int count;
    int64_t n, k;
    struct units units;
};

/* Elements of one of the `count` matrices, padding included. */
static inline int64_t matrix_elements(const struct matrix *w)
{
    return (w->n + MATRIX_BLOCK - 1) / MATRIX_BLOCK * MATRIX_BLOCK * w->k;
}

/* Bytes of all `count` matrices as packed. */
size_t matrix_bytes(const struct matrix *w);

/* Matrix `index` of the `count` alone. */
struct matrix matrix_at(const struct matrix *w, int index);

/* Packs rows [row, row + rows) of matrix `index` from row-major `source` (host memory, the same
 * dtype), whose rows stand `source_stride` elements apart.  `w->data` must be host memory that was
 * zero before; devices receive it by copy_in. */
void matrix_pack(struct matrix *w, int index, int64_t row, int64_t rows, const void *source,
                 int64_t source_stride);

/* Packs the transpose: column c of `source` [k, n] (row-major, stride `source_stride`) becomes row c
 * of matrix `index`. */
void matrix_pack_transposed(struct matrix *w, int index, const void *source, int64_t source_stride);

#endif
