/* router.h - which experts a token goes to, on the GPU, as router of kernels/ops.h, with the CPU's bits. */
#ifndef KERNELS_CUDA_ROUTER_H
#define KERNELS_CUDA_ROUTER_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_router {
    int32_t *ids;        /* [tokens, n_chosen] */
    float *weights;      /* [tokens, n_chosen] */
    const float *logits; /* [tokens, n_experts] */
    const float *bias;   /* [n_experts], for ROUTER_NOAUX_TC; NULL: none */
    int64_t tokens, ids_stride, weights_stride, logits_stride; /* in elements */
    struct router_params params; /* at most 4096 experts; the rest as the CPU's router checks it */
};

/* Returns a cudaError_t. */
int cuda_router(const struct cuda_router *p, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
