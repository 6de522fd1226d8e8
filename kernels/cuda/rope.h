/* rope.h - rotary positions on the GPU, as rope of kernels/ops.h. */
#ifndef KERNELS_CUDA_ROPE_H
#define KERNELS_CUDA_ROPE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_rope {
    void *y;                    /* [tokens, heads, d_r] F32 or BF16; may be x when F32 */
    const float *x;             /* [tokens, heads, d_r] */
    const int32_t *position;    /* [tokens], each of them a row of cos_sin: checked by the caller */
    const float *cos_sin;       /* [max_position, d_r]: cos and sin of each pair side by side */
    int64_t tokens, heads, d_r; /* d_r even */
    int64_t y_token_stride, y_head_stride, x_token_stride, x_head_stride; /* in elements */
    enum dtype y_dtype;
};

/* y = x with its pairs (2 j, 2 j + 1) rotated by the angle of their token; f32 results have the CPU's bits.
 * Returns a cudaError_t. */
int cuda_rope(const struct cuda_rope *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
