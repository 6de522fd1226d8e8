/* cache_append.h - rows into the latent cache, on the GPU. */
#ifndef KERNELS_CUDA_CACHE_APPEND_H
#define KERNELS_CUDA_CACHE_APPEND_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_cache_append {
    void *rows;            /* [n_pages, PAGE_ROWS, cache_row_width] F32, BF16, or U8: fp8_ds_mla */
    const int32_t *table;  /* [n_seq, max_pages]; a negative entry is not written */
    const int32_t *seq_of; /* [tokens] */
    const int32_t *position;  /* [tokens], within table and cos_sin: checked by the caller */
    const float *c_kv;        /* [tokens, d_c] */
    const float *gain;        /* [d_c]: RMSNorm of c_kv first; NULL: none */
    const float *k_r;         /* [tokens, d_r] */
    const float *cos_sin;     /* [max_position, d_r]: RoPE of k_r first; NULL: none */
    int64_t tokens, d_c, d_r; /* d_r even; with U8 d_c a multiple of 4 */
    int64_t page_stride, row_stride, table_stride, c_kv_stride, k_r_stride; /* in elements */
    enum dtype dtype;
    float epsilon;
};

/* As rms_norm, rope and cache_append of kernels/ops.h, with the CPU's bits in the cache.
 * Returns a cudaError_t. */
int cuda_cache_append(const struct cuda_cache_append *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
