/* product.h - y = x . w^T on rows anywhere in memory: what gemm and the experts share. */
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/core/matrix.h"
#include "kernels/cpu/lanes.h"

/* y[rows, n] = x[rows, k] . w[n, k]^T for w->count = 1, rows standing y_stride and x_stride floats
 * apart.  Any of the three may be 0; k = 0 gives zeros. */
void ISA(product)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                  const struct matrix *w);

#endif
