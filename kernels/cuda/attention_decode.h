/* attention_decode.h - absorbed latent attention of a decode step on the GPU.
 *
 * All heads of a token share one key per cached row (DeepSeek-V2, arXiv
 * 2405.04434, 2.1.2, absorbed form): the row itself, 512 latent and 64 RoPE
 * numbers, and the value is its latent part.  So a row is read once for all
 * heads: the queries of a sequence, n_tokens x n_heads rows, are one matrix.
 *
 * Long contexts are cut over the multiprocessors: cuda_decode_schedule
 * gives every part of the grid the same number of pages, once a step for all
 * layers; sequences that meet a cut are finished by a second kernel. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_H
#define KERNELS_CUDA_ATTENTION_DECODE_H

#include <stddef.h>
#include <stdint.h>

struct CUstream_st; /* cudaStream_t points to it */

#ifdef __cplusplus
extern "C" {
#endif

enum { DECODE_D_C = 512, DECODE_D_R = 64, DECODE_ROW = DECODE_D_C + DECODE_D_R };

/* Which pages each part of the grid attends to; device memory of cuda_decode_plan_bytes. */
struct cuda_decode_plan {
    int n_sequences, n_tokens, n_heads;
    int n_parts;  /* parts of the grid along the pages                          */
    int *bound;   /* [n_parts + 1][2]: the sequence and page at which a part begins */
    int *part_of; /* [n_sequences][2]: first and last part of a sequence        */
    int *cost;    /* [n_sequences + 1]: pages before a sequence, with their overhead */
};

struct cuda_attention_decode {
    const void *q;    /* bf16 [n_sequences, n_tokens, n_heads, 576] dense               */
    const void *rows; /* bf16 [n_pages, 64, 576]: the cache of one layer                */
    int64_t n_pages;
    const int *table; /* [.., table_stride] pages of each sequence */
    int table_stride;
    const int *
        table_row; /* [n_sequences * n_tokens]: the row of `table` of a token's sequence; NULL: its number */
    const int *position; /* [n_sequences, n_tokens]; a token sees rows 0 .. position; -1: nothing */
    float scale;         /* of q . k                                                        */
    void *o;             /* [n_sequences, n_tokens, n_heads, 512], bf16 or f32                 */
    int o_is_f32;
    float *lse;      /* [n_sequences, n_tokens, n_heads] ln of the sum of exp(scale q . k)  */
    float *ones;     /* as lse, set to 1: with it o and lse are a softmax state; NULL: none */
    void *workspace; /* cuda_decode_workspace_bytes                                */
};

/* Bytes of device memory for a plan, and for the unfinished sums of cut sequences.  Any n_tokens >= 1. */
size_t cuda_decode_plan_bytes(int n_sequences, int n_processors);
size_t cuda_decode_workspace_bytes(int n_tokens, int n_heads, int n_processors);

/* Lays `plan` out in `memory`; host work only.  n_processors: multiprocessors of the device. */
void cuda_decode_plan_open(struct cuda_decode_plan *plan, void *memory, int n_sequences,
                           int n_tokens, int n_heads, int n_processors);

/* Fills the plan from the positions [n_sequences, n_tokens] on the device. */
int cuda_decode_schedule(const struct cuda_decode_plan *plan, const int *position,
                         struct CUstream_st *stream);

/* o and lse of every query.  Rows past a token's position have no influence, whatever they hold.
 * Errors: those of the launch; cudaErrorInvalidValue when q or rows are not 16-byte aligned. */
int cuda_attention_decode(const struct cuda_attention_decode *params,
                          const struct cuda_decode_plan *plan, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
