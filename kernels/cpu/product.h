/* product.h - work on rows anywhere in memory, on one thread: what operations and the experts share. */
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/core/matrix.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/lanes.h"

/* y[rows, n] = x[rows, k] . w[n, k]^T for w->count = 1, rows standing y_stride and x_stride floats
 * apart; only the outputs of blocks [begin, end) of w are written (block b: 16 b .. 16 b + 15), begin
 * being the first of a bundle.  Any count may be 0; k = 0 gives zeros. */
void ISA(product)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                  const struct matrix *w, int64_t begin, int64_t end);

/* The same for weights of other types than I8, and k > 0.  One form for each instruction set; AVX-512 has a
 * second, for CPUs with AVX512_BF16 and rows that are rounded to BF16, that product takes where it can. */
void ISA(product_form)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                       const struct matrix *w, int64_t begin, int64_t end);

/* The same for I8 weights and k > 0, which product calls.  One form for each instruction set; AVX-512 has
 * a second, for CPUs with VNNI, that product_i8 takes where it can. */
void ISA(product_i8)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                     const struct matrix *w, int64_t begin, int64_t end);
void ISA(product_i8_form)(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                          int64_t rows, const struct matrix *w, int64_t begin, int64_t end);

/* Which of n blocks are thread `thread`'s: whole bundles. */
static inline void blocks_part(int64_t n, int thread, int n_threads, int64_t *begin, int64_t *end)
{
    thread_part((n + MATRIX_BUNDLE - 1) / MATRIX_BUNDLE, thread, n_threads, begin, end);
    *begin *= MATRIX_BUNDLE;
    *end = *end * MATRIX_BUNDLE < n ? *end * MATRIX_BUNDLE : n;
}

/* y[n] = silu(gate) * up; y may be gate. */
void ISA(swiglu_row)(float *y, const float *gate, const float *up, int64_t n);

#endif
