/* attention_plain.h - latent attention of any shape and cache type on the GPU: for what attention_decode.h does
 * not take. */
#ifndef KERNELS_CUDA_ATTENTION_PLAIN_H
#define KERNELS_CUDA_ATTENTION_PLAIN_H

#include "kernels/core/dtype.h"

struct CUstream_st; /* cudaStream_t points to it */

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_attention_plain {
    float *o, *m, *l; /* state (kernels/ops.h): [tokens, heads, d_c] dense, [tokens, heads] dense */
    const float *q;   /* [tokens, heads, d_c + d_r] */
    const void *rows; /* [n_pages, PAGE_ROWS, cache_row_width] F32, BF16, or U8: fp8_ds_mla */
    const int32_t *table; /* [n_seq, table_stride]; pages with negative entries are skipped */
    const int32_t *seq_of, *position;                                /* [tokens] */
    int64_t tokens, heads, d_c, d_r;                                 /* d_c at most 1024 */
    int64_t q_token_stride, q_head_stride, row_stride, table_stride; /* in elements */
    enum dtype dtype;
    float scale;
};

/* As latent_attention of kernels/ops.h, summed in one go over all visible rows.  Returns a cudaError_t. */
int cuda_attention_plain(const struct cuda_attention_plain *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
