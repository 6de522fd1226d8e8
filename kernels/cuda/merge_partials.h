/* merge_partials.h - merging unfinished softmaxes and finishing them, on the GPU.
 *
 * As merge_partials and attention_finish of kernels/ops.h, with the CPU's
 * bits in f32.  Strides are in elements; both return a cudaError_t.
 */
#ifndef KERNELS_CUDA_MERGE_PARTIALS_H
#define KERNELS_CUDA_MERGE_PARTIALS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

/* struct attention_state of ops.h, in device memory. */
struct cuda_attention_state {
    float *o, *m, *l; /* [tokens, heads, width], [tokens, heads], [tokens, heads] */
    int64_t o_token_stride, o_head_stride, m_token_stride, m_head_stride, l_token_stride,
        l_head_stride;
};

struct cuda_merge_partials {
    struct cuda_attention_state a, b;
    int64_t tokens, heads, width;
    int64_t parts;                                       /* of b; 1: as in ops.h */
    int64_t o_part_stride, m_part_stride, l_part_stride; /* from one part of b to the next */
};

/* a = a merged with the parts of b in order, a being the lowest unit; an empty state returns the other. */
int cuda_merge_partials(const struct cuda_merge_partials *p, struct CUstream_st *stream);

struct cuda_attention_finish {
    void *o; /* [tokens, heads, width] F32 or BF16; may be state.o when F32 */
    struct cuda_attention_state state;
    int64_t tokens, heads, width, o_token_stride, o_head_stride;
    enum dtype o_dtype;
};

/* o = state.o / state.l; 0 where nothing was visible. */
int cuda_attention_finish(const struct cuda_attention_finish *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
