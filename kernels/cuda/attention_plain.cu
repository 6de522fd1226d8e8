/* attention_plain.cu - one block for each token and head; a page at a time, a softmax that goes along. */
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/common.cuh"

extern "C" {
#include "kernels/ops.h"
}

enum { PLAIN_THREADS = 128, MAX_D_C = 1024, MAX_COLUMNS = MAX_D_C / PLAIN_THREADS };

/* Number `i` of a cached row. */
static __device__ float row_number(const void *row, enum dtype dtype, int64_t d_c, int64_t i)
{
    if (dtype == DTYPE_F32)
        return ((const float *)row)[i];
    if (dtype == DTYPE_BF16)
        return __bfloat162float(((const __nv_bfloat16 *)row)[i]);
    const uint8_t *bytes = (const uint8_t *)row;
    int64_t groups = (d_c + CACHE_SCALE_STEP - 1) / CACHE_SCALE_STEP;
    if (i >= d_c)
        return __bfloat162float(((const __nv_bfloat16 *)(bytes + d_c + 4 * groups))[i - d_c]);
    uint32_t byte = bytes[i];
    float small = __uint_as_float((byte & 0x80) << 24 | (byte & 0x7f) << 20); /* 2^-120 too small */
    float number = (byte & 0x7f) == 0x7f ? NAN : small * 0x1p120f;
    return number * ((const float *)(bytes + d_c))[i / CACHE_SCALE_STEP];
}

/* Grid (heads, tokens).  Shared: q, then the scores of a page and the parts of sums over the block. */
static __global__ void __launch_bounds__(PLAIN_THREADS)
    attention_plain(const struct cuda_attention_plain p)
{
    dependents_launch();
    dependency_wait();
    DYNAMIC_SHARED(float, q);
    const int64_t width = p.d_c + p.d_r, token = blockIdx.y, head = blockIdx.x;
    float *scores = q + width;
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int32_t *table = p.table + (int64_t)p.seq_of[token] * p.table_stride;
    const int last = p.position[token];
    const int64_t number_bytes = p.dtype == DTYPE_F32 ? 4 : p.dtype == DTYPE_BF16 ? 2 : 1;

    for (int64_t i = thread; i < width; i += PLAIN_THREADS)
        q[i] = p.q[token * p.q_token_stride + head * p.q_head_stride + i];
    __syncthreads();
    float o[MAX_COLUMNS] = {}, m = -INFINITY, l = 0;
    for (int page = 0; page * PAGE_ROWS <= last; page++) {
        if (table[page] < 0)
            continue;
        const int n_rows = min((int)PAGE_ROWS, last + 1 - page * PAGE_ROWS);
        const char *rows =
            (const char *)p.rows + (int64_t)table[page] * PAGE_ROWS * p.row_stride * number_bytes;
        for (int row = warp; row < n_rows; row += PLAIN_THREADS / 32) {
            const void *at = rows + row * p.row_stride * number_bytes;
            float sum = 0;
            for (int64_t i = lane; i < width; i += 32)
                sum = fmaf(q[i], row_number(at, p.dtype, p.d_c, i), sum);
            sum = warp_sum(sum);
            if (lane == 0)
                scores[row] = sum * p.scale;
        }
        __syncthreads();
        float largest = m;
        for (int row = 0; row < n_rows; row++)
            largest = fmaxf(largest, scores[row]);
        const float reference = largest == -INFINITY ? 0 : largest;
        const float factor = exp_f32((m == -INFINITY ? -INFINITY : m) - reference);
        l *= factor;
        for (int c = 0; c < MAX_COLUMNS; c++)
            o[c] *= factor;
        for (int row = 0; row < n_rows; row++) {
            const void *at = rows + row * p.row_stride * number_bytes;
            const float weight = exp_f32(scores[row] - reference);
            l += weight;
            for (int c = 0; c < MAX_COLUMNS; c++) {
                int64_t column = thread + c * PLAIN_THREADS;
                if (column < p.d_c)
                    o[c] = fmaf(weight, row_number(at, p.dtype, p.d_c, column), o[c]);
            }
        }
        m = largest;
        __syncthreads();
    }
    const int64_t query = token * p.heads + head;
    for (int c = 0; c < MAX_COLUMNS; c++) {
        int64_t column = thread + c * PLAIN_THREADS;
        if (column < p.d_c)
            p.o[query * p.d_c + column] = o[c];
    }
    if (thread == 0) {
        p.m[query] = m;
        p.l[query] = l;
    }
}

int cuda_attention_plain(const struct cuda_attention_plain *p, struct CUstream_st *stream)
{
    if (p->tokens == 0 || p->heads == 0)
        return cudaSuccess;
    if (p->d_c > MAX_D_C)
        return cudaErrorInvalidValue;
    size_t shared = (size_t)(p->d_c + p->d_r + PAGE_ROWS) * sizeof(float);
    return launch_dependent(attention_plain, dim3((unsigned)p->heads, (unsigned)p->tokens),
                            dim3(PLAIN_THREADS), shared, stream, *p);
}
