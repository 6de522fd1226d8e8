/* cache_append.cu - RMSNorm of c_kv, RoPE of k_r, and both into the cache, in one pass.
 *
 * A block has a token.  Everything is rounded as on the CPU, and the sum of
 * squares has the order of kernels/cpu/norm.c, so that a cached row has the
 * same bits wherever it was made.
 */
#include "kernels/cuda/cache_append.h"
#include "kernels/cuda/rotate.cuh"

extern "C" {
#include "kernels/ops.h"
}

enum { APPEND_THREADS = 128, CHAINS = 16 };

/* The factor of RMSNorm: 16 chains, element i in chain i mod 16, which meet as i + (i + 8), then 4, 2, 1.
 * Every warp computes it, each half the same. */
static __device__ float norm_factor(const float *x, int64_t n, float epsilon)
{
    float sum = 0.0f;
    for (int64_t i = threadIdx.x % CHAINS; i < n; i += CHAINS)
        sum = fmaf(x[i], x[i], sum);
    for (int bits = CHAINS / 2; bits > 0; bits /= 2)
        sum += __shfl_xor_sync(~0u, sum, bits);
    return 1.0f / sqrtf(sum / (float)n + epsilon);
}

/* Columns [begin, end) of c_kv as e4m3 numbers of one scale, by a warp. */
static __device__ void write_group(uint8_t *row, const float *c_kv, int64_t begin, int64_t end,
                                   float *scale_at)
{
    int lane = (int)threadIdx.x % 32;
    float largest = 0.0f;
    for (int64_t i = begin + lane; i < end; i += 32)
        largest = fmaxf(fabsf(c_kv[i]), largest); /* not a NaN */
    for (int bits = 16; bits > 0; bits /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
    float scale = fmaxf(largest / 448.0f, 0x1p-126f);
    for (int64_t i = begin + lane; i < end; i += 32)
        row[i] = __nv_cvt_float_to_fp8(c_kv[i] / scale, __NV_SATFINITE, __NV_E4M3);
    if (lane == 0)
        *scale_at = scale;
}

static __device__ void write_fp8(uint8_t *row, const float *c_kv, int64_t d_c)
{
    float *scales = reinterpret_cast<float *>(row + d_c);
    int64_t groups = (d_c + CACHE_SCALE_STEP - 1) / CACHE_SCALE_STEP;
    for (int64_t g = threadIdx.x / 32; g < groups; g += APPEND_THREADS / 32)
        write_group(row, c_kv, g * CACHE_SCALE_STEP, min((g + 1) * CACHE_SCALE_STEP, d_c),
                    scales + g);
}

template <class T>
static __device__ void write_k_r(T *to, const float *k_r, const float *cos_sin, int64_t d_r)
{
    for (int64_t i = 2 * (int64_t)threadIdx.x; i < d_r; i += 2 * APPEND_THREADS) {
        if (cos_sin != nullptr) {
            rotate_pair(to + i, k_r + i, cos_sin + i);
        } else {
            store(to + i, k_r[i]);
            store(to + i + 1, k_r[i + 1]);
        }
    }
}

template <class T> static __device__ void write_c_kv(T *to, const float *c_kv, int64_t d_c)
{
    for (int64_t i = threadIdx.x; i < d_c; i += APPEND_THREADS)
        store(to + i, c_kv[i]);
}

/* Grid: tokens.  Shared memory: d_c floats. */
static __global__ void __launch_bounds__(APPEND_THREADS) append_kernel(struct cuda_cache_append p)
{
    dependents_launch();
    dependency_wait();
    DYNAMIC_SHARED(float, c_kv);
    int64_t token = blockIdx.x, at = p.position[token];
    int32_t page = p.table[p.seq_of[token] * p.table_stride + at / PAGE_ROWS];
    if (page < 0)
        return;
    const float *from = p.c_kv + token * p.c_kv_stride;
    for (int64_t i = threadIdx.x; i < p.d_c; i += APPEND_THREADS)
        c_kv[i] = from[i];
    if (p.gain != nullptr) {
        __syncthreads();
        float factor = norm_factor(c_kv, p.d_c, p.epsilon);
        __syncthreads(); /* all have read what each now changes */
        for (int64_t i = threadIdx.x; i < p.d_c; i += APPEND_THREADS)
            c_kv[i] = c_kv[i] * factor * p.gain[i];
    }
    __syncthreads();
    int64_t place = page * p.page_stride + at % PAGE_ROWS * p.row_stride;
    const float *k_r = p.k_r + token * p.k_r_stride;
    const float *cos_sin = p.cos_sin != nullptr ? p.cos_sin + at * p.d_r : nullptr;
    if (p.dtype == DTYPE_U8) {
        uint8_t *row = static_cast<uint8_t *>(p.rows) + place;
        int64_t groups = (p.d_c + CACHE_SCALE_STEP - 1) / CACHE_SCALE_STEP;
        write_fp8(row, c_kv, p.d_c);
        write_k_r(reinterpret_cast<__nv_bfloat16 *>(row + p.d_c + 4 * groups), k_r, cos_sin, p.d_r);
    } else if (p.dtype == DTYPE_BF16) {
        __nv_bfloat16 *row = static_cast<__nv_bfloat16 *>(p.rows) + place;
        write_c_kv(row, c_kv, p.d_c);
        write_k_r(row + p.d_c, k_r, cos_sin, p.d_r);
    } else {
        float *row = static_cast<float *>(p.rows) + place;
        write_c_kv(row, c_kv, p.d_c);
        write_k_r(row + p.d_c, k_r, cos_sin, p.d_r);
    }
}

int cuda_cache_append(const struct cuda_cache_append *p, struct CUstream_st *stream)
{
    if (p->tokens == 0)
        return cudaSuccess;
    if (p->dtype == DTYPE_U8 &&
        (p->d_c % 4 != 0 || p->row_stride % 4 != 0 || p->page_stride % 4 != 0))
        return cudaErrorInvalidValue;
    return launch_dependent(append_kernel, dim3((unsigned)p->tokens), dim3(APPEND_THREADS),
                            (size_t)p->d_c * sizeof(float), stream, *p);
}
