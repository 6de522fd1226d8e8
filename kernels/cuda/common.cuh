/* common.cuh - what small kernels share: sums over a block, exp, rounding to the type of the output. */
#ifndef KERNELS_CUDA_COMMON_CUH
#define KERNELS_CUDA_COMMON_CUH

#include "kernels/cuda/ptx.cuh"

static __device__ __forceinline__ float warp_sum(float value)
{
    for (int bits = 16; bits > 0; bits /= 2)
        value += __shfl_xor_sync(~0u, value, bits);
    return value;
}

/* The sum over the block, in every thread; `parts` has 32 floats of shared memory, used once. */
static __device__ __forceinline__ float block_sum(float *parts, float value)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    value = warp_sum(value);
    if (lane == 0)
        parts[warp] = value;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x / 32 ? parts[lane] : 0.0f);
}

/* exp(x) with the bits of kernels/cpu/math.h, which has the why: 0.91 ulp, NaN stays NaN. */
static __device__ __forceinline__ float exp_f32(float x)
{
    const float shift = 0x1.8p23f;
    x = -104.0f > x ? -104.0f : x;
    x = 89.0f < x ? 89.0f : x;
    float shifted = fmaf(x, 0x1.715476p0f, shift);
    float n = __fsub_rn(shifted, shift);
    float r = fmaf(n, -0x1.62e4p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    /* p 2^n in two factors, so that subnormals are rounded once */
    uint32_t exponent = __float_as_uint(shifted) - 0x4b400000u;
    uint32_t half = exponent >> 1 | (exponent & 0x80000000u); /* exponent / 2, rounded down */
    float first = __uint_as_float((half + 127) << 23);
    float second = __uint_as_float((exponent - half + 127) << 23);
    return __fmul_rn(__fmul_rn(p, first), second); /* never fused into a sum */
}

DEVICE uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* The number as the output stores it. */
static __device__ __forceinline__ void store(float *to, float value)
{
    *to = value;
}
static __device__ __forceinline__ void store(__nv_bfloat16 *to, float value)
{
    *to = __float2bfloat16_rn(value);
}

/* Rows of numbers: a block has COLUMNS columns of one row, a thread COLUMNS / COLUMN_THREADS of them. */
enum { COLUMN_THREADS = 256, COLUMNS = 1024 };

static inline dim3 column_grid(int64_t rows, int64_t n)
{
    return dim3((unsigned)rows, (unsigned)((n + COLUMNS - 1) / COLUMNS));
}

/* Calls f(column) for the columns of this thread. */
template <class F> static __device__ __forceinline__ void for_columns(int64_t n, F f)
{
    int64_t begin = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
#pragma unroll
    for (int i = 0; i < COLUMNS; i += COLUMN_THREADS)
        if (begin + i < n)
            f(begin + i);
}

#endif
