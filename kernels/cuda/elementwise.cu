/* elementwise.cu - operations whose outputs each depend on one place of the input.
 *
 * A block has 1024 columns of one row: common.cuh.
 */
#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/common.cuh"

#include <cuda_fp16.h>

static __device__ __forceinline__ float widen(float x)
{
    return x;
}
static __device__ __forceinline__ float widen(__half x)
{
    return __half2float(x);
}
static __device__ __forceinline__ float widen(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* Grid: tokens, blocks of columns.  No shared memory. */
template <class T>
static __global__ void __launch_bounds__(COLUMN_THREADS) embed_kernel(struct cuda_embed p)
{
    dependents_launch();
    dependency_wait();
    int64_t row = p.ids[blockIdx.x] - p.first;
    bool is_here = row >= 0 && row < p.rows;
    const T *from = static_cast<const T *>(p.table) + (is_here ? row : 0) * p.table_stride;
    float *y = p.y + blockIdx.x * p.y_stride;
    for_columns(p.d, [&](int64_t i) { y[i] = is_here ? widen(from[i]) : 0.0f; });
}

/* Grid: rows, blocks of columns.  No shared memory. */
static __global__ void __launch_bounds__(COLUMN_THREADS) add_kernel(struct cuda_add p)
{
    dependents_launch();
    dependency_wait();
    float *x = p.x + blockIdx.x * p.x_stride;
    const float *y = p.y + blockIdx.x * p.y_stride;
    for_columns(p.n, [&](int64_t i) { x[i] += y[i]; });
}

/* Grid: rows, blocks of columns.  No shared memory. */
static __global__ void __launch_bounds__(COLUMN_THREADS) copy_kernel(struct cuda_copy p)
{
    dependents_launch();
    dependency_wait();
    int64_t outer = blockIdx.x / p.inner, inner = blockIdx.x % p.inner;
    float *y = p.y + outer * p.y_outer_stride + inner * p.y_inner_stride;
    const float *x = p.x + outer * p.x_outer_stride + inner * p.x_inner_stride;
    for_columns(p.n, [&](int64_t i) { y[i] = x[i]; });
}

/* Grid: rows, blocks of columns.  No shared memory. */
template <class T>
static __global__ void __launch_bounds__(COLUMN_THREADS) swiglu_kernel(struct cuda_swiglu p)
{
    dependents_launch();
    dependency_wait();
    const float *gate = p.gate + blockIdx.x * p.gate_stride, *up = p.up + blockIdx.x * p.up_stride;
    T *y = static_cast<T *>(p.y) + blockIdx.x * p.y_stride;
    for_columns(p.n, [&](int64_t i) {
        float x = gate[i];
        store(y + i, x / (1.0f + exp_f32(0.0f - x)) * up[i]);
    });
}

int cuda_embed(const struct cuda_embed *p, struct CUstream_st *stream)
{
    if (p->tokens == 0 || p->d == 0)
        return cudaSuccess;
    dim3 grid = column_grid(p->tokens, p->d), block(COLUMN_THREADS);
    switch (p->table_dtype) {
    case DTYPE_F32:
        return launch_dependent(embed_kernel<float>, grid, block, 0, stream, *p);
    case DTYPE_F16:
        return launch_dependent(embed_kernel<__half>, grid, block, 0, stream, *p);
    case DTYPE_BF16:
        return launch_dependent(embed_kernel<__nv_bfloat16>, grid, block, 0, stream, *p);
    default:
        return cudaErrorInvalidValue;
    }
}

int cuda_add(const struct cuda_add *p, struct CUstream_st *stream)
{
    if (p->rows == 0 || p->n == 0)
        return cudaSuccess;
    return launch_dependent(add_kernel, column_grid(p->rows, p->n), dim3(COLUMN_THREADS), 0, stream,
                            *p);
}

int cuda_copy(const struct cuda_copy *p, struct CUstream_st *stream)
{
    if (p->outer * p->inner == 0 || p->n == 0)
        return cudaSuccess;
    return launch_dependent(copy_kernel, column_grid(p->outer * p->inner, p->n),
                            dim3(COLUMN_THREADS), 0, stream, *p);
}

int cuda_swiglu(const struct cuda_swiglu *p, struct CUstream_st *stream)
{
    if (p->rows == 0 || p->n == 0)
        return cudaSuccess;
    dim3 grid = column_grid(p->rows, p->n), block(COLUMN_THREADS);
    return p->y_dtype == DTYPE_BF16
               ? launch_dependent(swiglu_kernel<__nv_bfloat16>, grid, block, 0, stream, *p)
               : launch_dependent(swiglu_kernel<float>, grid, block, 0, stream, *p);
}
