/* elementwise.h - embed, add, copy, add_bias and swiglu of kernels/ops.h on the GPU; f32 results have the CPU's bits.
 *
 * Strides are from row to row, in elements.  All return a cudaError_t.
 */
#ifndef KERNELS_CUDA_ELEMENTWISE_H
#define KERNELS_CUDA_ELEMENTWISE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_embed {
    float *y;           /* [tokens, d] */
    const int32_t *ids; /* [tokens] */
    const void *table;  /* [rows, d] F32, F16 or BF16 */
    int64_t tokens, d, rows, first, y_stride, table_stride;
    enum dtype table_dtype;
};

/* y = table[id - first] for the ids of this rank, 0 for others. */
int cuda_embed(const struct cuda_embed *p, struct CUstream_st *stream);

struct cuda_add {
    float *x;       /* [rows, n] */
    const float *y; /* [rows, n]; with y_stride 0 one row for all: a bias */
    int64_t rows, n, x_stride, y_stride;
};

/* x += y */
int cuda_add(const struct cuda_add *p, struct CUstream_st *stream);

struct cuda_copy {
    float *y;       /* [outer, inner, n] */
    const float *x; /* [outer, inner, n] */
    int64_t outer, inner, n, y_outer_stride, y_inner_stride, x_outer_stride, x_inner_stride;
};

/* y = x, which do not overlap */
int cuda_copy(const struct cuda_copy *p, struct CUstream_st *stream);

struct cuda_swiglu {
    void *y;                /* [rows, n] F32 or BF16; may be gate or up when F32 */
    const float *gate, *up; /* [rows, n] */
    int64_t rows, n, y_stride, gate_stride, up_stride;
    enum dtype y_dtype;
};

/* y = silu(gate) * up */
int cuda_swiglu(const struct cuda_swiglu *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
