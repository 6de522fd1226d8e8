/* norm.h - RMSNorm on the GPU, as rms_norm of kernels/ops.h. */
#ifndef KERNELS_CUDA_NORM_H
#define KERNELS_CUDA_NORM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_rms_norm {
    void *y;               /* [rows, n] F32 or BF16; may be x */
    float *x;              /* [rows, n]; written only with a residual: x += residual */
    const float *residual; /* [rows, n], or NULL: none */
    const float *gain;     /* [n] */
    int64_t rows, n;
    int64_t y_stride, x_stride, residual_stride; /* from row to row, in elements */
    enum dtype y_dtype;
    float epsilon;
};

/* y = x * gain / sqrt(mean(x^2) + epsilon), after x += residual where there is one.  Returns a cudaError_t. */
int cuda_rms_norm(const struct cuda_rms_norm *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
