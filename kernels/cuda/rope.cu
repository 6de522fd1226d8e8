/* rope.cu - rotary positions of queries.
 *
 * A thread has one pair of one head of one token.
 */
#include "kernels/cuda/rope.h"
#include "kernels/cuda/rotate.cuh"

enum { ROPE_THREADS = 256 };

/* Grid: all pairs of all heads of all tokens.  No shared memory. */
template <class T>
static __global__ void __launch_bounds__(ROPE_THREADS) rope_kernel(struct cuda_rope p)
{
    dependents_launch();
    dependency_wait();
    int64_t i = (int64_t)blockIdx.x * ROPE_THREADS + threadIdx.x, pairs = p.d_r / 2;
    if (i >= p.tokens * p.heads * pairs)
        return;
    int64_t column = i % pairs * 2, head = i / pairs % p.heads, token = i / pairs / p.heads;
    rotate_pair(static_cast<T *>(p.y) + token * p.y_token_stride + head * p.y_head_stride + column,
                p.x + token * p.x_token_stride + head * p.x_head_stride + column,
                p.cos_sin + p.position[token] * p.d_r + column);
}

int cuda_rope(const struct cuda_rope *p, struct CUstream_st *stream)
{
    int64_t pairs = p->tokens * p->heads * (p->d_r / 2);
    if (pairs == 0)
        return cudaSuccess;
    dim3 grid((unsigned)((pairs + ROPE_THREADS - 1) / ROPE_THREADS)), block(ROPE_THREADS);
    return p->y_dtype == DTYPE_BF16
               ? launch_dependent(rope_kernel<__nv_bfloat16>, grid, block, 0, stream, *p)
               : launch_dependent(rope_kernel<float>, grid, block, 0, stream, *p);
}
