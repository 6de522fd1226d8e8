/* experts.h - which pairs (token, choice) belong to which expert of a rank, and their weighted sum. */
#ifndef KERNELS_CUDA_EXPERTS_H
#define KERNELS_CUDA_EXPERTS_H

#include <stdint.h>

struct CUstream_st; /* cudaStream_t points to it */

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory of lists over n_experts local experts and n_pairs pairs. */
struct cuda_expert_lists {
    int *begin;    /* [n_experts + 1]: first place in `pair` of each expert */
    int *pair;     /* [n_pairs]: token x choices + choice                   */
    int *expert;   /* [n_experts]: local experts that have pairs, ascending */
    int *n_active; /* how many of them                                      */
};

enum { EXPERTS_MAX_LOCAL = 1024 };

/* ids[n_pairs] are experts of the model; those outside [first, first + n_experts) belong to other ranks. */
int cuda_experts_list(const struct cuda_expert_lists *lists, const int *ids, int n_pairs, int first,
                      int n_experts, struct CUstream_st *stream);

/* u[t][d] = sum over the choices of token t that are local, in ascending id, of weight x y[t x choices + choice]. */
int cuda_experts_combine(float *u, int64_t u_row, const float *y, const int *ids,
                         const float *weights, int n_tokens, int choices, int width, int first,
                         int n_experts, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
