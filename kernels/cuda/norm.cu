/* norm.cu - RMSNorm, with the sum of the residual stream before it.
 *
 * A block has a row.  Each thread reads its numbers twice, the second time
 * from the first-level cache, and adds the residual in between; the sum of
 * squares is over the threads' own sums, so it differs from the CPU's in order.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/norm.h"

enum { NORM_THREADS_MAX = 512 };

template <int WIDTH>
static __device__ __forceinline__ void load_some(float (&to)[WIDTH], const float *from)
{
    if constexpr (WIDTH == 4) {
        float4 four = *reinterpret_cast<const float4 *>(from);
        to[0] = four.x;
        to[1] = four.y;
        to[2] = four.z;
        to[3] = four.w;
    } else {
        to[0] = *from;
    }
}

template <int WIDTH>
static __device__ __forceinline__ void store_some(float *to, const float (&from)[WIDTH])
{
    if constexpr (WIDTH == 4)
        *reinterpret_cast<float4 *>(to) = make_float4(from[0], from[1], from[2], from[3]);
    else
        *to = from[0];
}

template <int WIDTH>
static __device__ __forceinline__ void store_some(__nv_bfloat16 *to, const float (&from)[WIDTH])
{
    if constexpr (WIDTH == 4) {
        __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(from[0], from[1]),
                                   __floats2bfloat162_rn(from[2], from[3])};
        *reinterpret_cast<uint2 *>(to) = *reinterpret_cast<const uint2 *>(pairs);
    } else {
        *to = __float2bfloat16_rn(from[0]);
    }
}

/* Grid: rows.  Shared memory: 32 floats. */
template <class T, int WIDTH>
static __global__ void __launch_bounds__(NORM_THREADS_MAX) norm_kernel(struct cuda_rms_norm p)
{
    dependents_launch();
    dependency_wait();
    DYNAMIC_SHARED(float, parts);
    int64_t row = blockIdx.x, begin = (int64_t)threadIdx.x * WIDTH,
            step = (int64_t)blockDim.x * WIDTH;
    float *x = p.x + row * p.x_stride;
    T *y = static_cast<T *>(p.y) + row * p.y_stride;
    float v[WIDTH], other[WIDTH], sum = 0.0f;
    for (int64_t i = begin; i < p.n; i += step) {
        load_some(v, x + i);
        if (p.residual != nullptr) {
            load_some(other, p.residual + row * p.residual_stride + i);
            for (int j = 0; j < WIDTH; j++)
                v[j] += other[j];
            store_some(x + i, v);
        }
        for (int j = 0; j < WIDTH; j++)
            sum = fmaf(v[j], v[j], sum);
    }
    float factor = 1.0f / sqrtf(block_sum(parts, sum) / (float)p.n + p.epsilon);
    for (int64_t i = begin; i < p.n; i += step) {
        load_some(v, x + i);
        load_some(other, p.gain + i);
        for (int j = 0; j < WIDTH; j++)
            v[j] = v[j] * factor * other[j];
        store_some(y + i, v);
    }
}

/* Whether rows of this kind can be read four numbers at a time. */
static bool is_fourfold(const void *data, int64_t stride, size_t element)
{
    return (uintptr_t)data % (4 * element) == 0 && stride % 4 == 0;
}

template <class T> static cudaError_t norm(const struct cuda_rms_norm *p, cudaStream_t stream)
{
    bool by_four =
        p->n % 4 == 0 && is_fourfold(p->x, p->x_stride, sizeof(float)) &&
        is_fourfold(p->y, p->y_stride, sizeof(T)) && is_fourfold(p->gain, 0, sizeof(float)) &&
        (p->residual == nullptr || is_fourfold(p->residual, p->residual_stride, sizeof(float)));
    int64_t threads = (p->n / (by_four ? 4 : 1) + 31) / 32 * 32;
    threads = threads < 32 ? 32 : threads > NORM_THREADS_MAX ? (int64_t)NORM_THREADS_MAX : threads;
    dim3 grid((unsigned)p->rows), block((unsigned)threads);
    size_t shared_bytes = 32 * sizeof(float);
    if (by_four)
        return launch_dependent(norm_kernel<T, 4>, grid, block, shared_bytes, stream, *p);
    return launch_dependent(norm_kernel<T, 1>, grid, block, shared_bytes, stream, *p);
}

int cuda_rms_norm(const struct cuda_rms_norm *p, struct CUstream_st *stream)
{
    if (p->rows == 0 || p->n == 0)
        return cudaSuccess;
    return p->y_dtype == DTYPE_BF16 ? norm<__nv_bfloat16>(p, stream) : norm<float>(p, stream);
}
