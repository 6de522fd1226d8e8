/* merge_partials.cu - merging unfinished softmaxes, and finishing them.
 *
 * A block has one head of one token.  The parts are merged one after the
 * other, as kernels/cpu/attention_state.c does: with m = max(m_a, m_b),
 *     l = exp(m_a - m) l_a + exp(m_b - m) l_b, and o likewise.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/merge_partials.h"

enum { STATE_THREADS = 128 };

/* Grid: tokens x heads.  No shared memory: every thread follows m and l, and writes its part of o. */
static __global__ void __launch_bounds__(STATE_THREADS) merge_kernel(struct cuda_merge_partials p)
{
    dependents_launch();
    dependency_wait();
    int64_t token = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
    float *a_m = p.a.m + token * p.a.m_token_stride + head * p.a.m_head_stride;
    float *a_l = p.a.l + token * p.a.l_token_stride + head * p.a.l_head_stride;
    float *a_o = p.a.o + token * p.a.o_token_stride + head * p.a.o_head_stride;
    float m = *a_m, l = *a_l;
    for (int64_t part = 0; part < p.parts; part++) {
        const float *b_o =
            p.b.o + token * p.b.o_token_stride + head * p.b.o_head_stride + part * p.o_part_stride;
        float b_m =
            p.b.m[token * p.b.m_token_stride + head * p.b.m_head_stride + part * p.m_part_stride];
        float b_l =
            p.b.l[token * p.b.l_token_stride + head * p.b.l_head_stride + part * p.l_part_stride];
        if (b_m == -INFINITY)
            continue;
        if (m == -INFINITY) {
            for (int64_t i = threadIdx.x; i < p.width; i += STATE_THREADS)
                a_o[i] = b_o[i];
            m = b_m;
            l = b_l;
            continue;
        }
        float larger = m > b_m ? m : b_m;
        float a_factor = exp_f32(__fsub_rn(m, larger)), b_factor = exp_f32(__fsub_rn(b_m, larger));
        for (int64_t i = threadIdx.x; i < p.width; i += STATE_THREADS)
            a_o[i] = fmaf(b_o[i], b_factor, __fmul_rn(a_o[i], a_factor));
        l = fmaf(b_l, b_factor, __fmul_rn(l, a_factor));
        m = larger;
    }
    __syncthreads(); /* all have read a's m and l */
    if (threadIdx.x == 0) {
        *a_m = m;
        *a_l = l;
    }
}

/* Grid: tokens x heads.  No shared memory. */
template <class T>
static __global__ void __launch_bounds__(STATE_THREADS)
    finish_kernel(struct cuda_attention_finish p)
{
    dependents_launch();
    dependency_wait();
    int64_t token = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
    const float *from = p.state.o + token * p.state.o_token_stride + head * p.state.o_head_stride;
    T *to = static_cast<T *>(p.o) + token * p.o_token_stride + head * p.o_head_stride;
    bool is_empty =
        p.state.m[token * p.state.m_token_stride + head * p.state.m_head_stride] == -INFINITY;
    float l = p.state.l[token * p.state.l_token_stride + head * p.state.l_head_stride];
    for (int64_t i = threadIdx.x; i < p.width; i += STATE_THREADS)
        store(to + i, is_empty ? 0.0f : from[i] / l);
}

int cuda_merge_partials(const struct cuda_merge_partials *p, struct CUstream_st *stream)
{
    if (p->tokens * p->heads == 0 || p->parts == 0)
        return cudaSuccess;
    return launch_dependent(merge_kernel, dim3((unsigned)(p->tokens * p->heads)),
                            dim3(STATE_THREADS), 0, stream, *p);
}

int cuda_attention_finish(const struct cuda_attention_finish *p, struct CUstream_st *stream)
{
    dim3 grid((unsigned)(p->tokens * p->heads)), block(STATE_THREADS);
    if (p->tokens * p->heads == 0 || p->width == 0)
        return cudaSuccess;
    return p->o_dtype == DTYPE_BF16
               ? launch_dependent(finish_kernel<__nv_bfloat16>, grid, block, 0, stream, *p)
               : launch_dependent(finish_kernel<float>, grid, block, 0, stream, *p);
}
