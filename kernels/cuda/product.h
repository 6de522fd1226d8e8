/* product.h - products with packed weights (kernels/core/matrix.h) on the GPU.
 *
 * Weights lie in device memory as the CPU packs them.  64 output rows (a bundle)
 * are one sequence of lines of 256 bytes, so a warp reads its operands straight
 * into registers, 16 bytes a thread, as the tensor cores take them.
 */
#ifndef KERNELS_CUDA_PRODUCT_H
#define KERNELS_CUDA_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

struct CUstream_st; /* cudaStream_t points to it */

#ifdef __cplusplus
extern "C" {
#endif

enum product_type { PRODUCT_F32, PRODUCT_F16, PRODUCT_BF16, PRODUCT_F8, PRODUCT_I4 };

enum {
    PRODUCT_INPUT_ALIGNMENT =
        64,                /* columns that rows of bf16 inputs are filled up to, with zeros */
    PRODUCT_MAX_ROWS = 64, /* input rows of one block; more take several */
    PRODUCT_F32_ROWS = 16  /* up to so many are rounded to bf16 on their way to the tensor cores */
};

/* `count` packed matrices [n, k]; see struct matrix. */
struct cuda_matrix {
    const void *data, *scales; /* scales NULL: none */
    enum product_type type;
    int scales_are_bf16;
    int count;
    int n, k;
    int64_t matrix_bytes, scale_bytes; /* of one matrix */
    int step, first, shift, groups;    /* of the scales */
};

/* y[t][i][n] = x[t][i][k] . w_i[n, k]^T for i < count.  Distances in elements. */
struct cuda_product {
    struct cuda_matrix w;
    float *y;
    int64_t y_row, y_matrix; /* from a row to the next, from a matrix to the next */
    const void *x; /* bf16 (cuda_product_tensor) or f32 (cuda_product_plain, or x_is_f32) */
    int x_is_f32;  /* cuda_product_tensor rounds x to bf16 itself, where takes_f32 */
    int64_t x_row, x_matrix;
    int rows;
    float *workspace; /* cuda_product_workspace_bytes, zero at first, left zero */
    int n_processors;
};

/* The experts of a rank, w.count of them; each takes the rows of its (token, choice) pairs.  Results of
 * pair p are row p of y. */
struct cuda_expert_product {
    struct cuda_product product; /* y_matrix, x_matrix unused; rows: tokens x choices */
    struct cuda_matrix up;       /* with gate in product.w: y = silu(gate) up, bf16 */
    const int *expert;           /* [n_active] local experts that have rows                   */
    const int *n_active;
    const int *begin; /* [w.count + 1] first pair of each in `pair`                */
    const int *pair;  /* [rows] token x choices + choice, by expert                */
    int choices;      /* x row of a pair is pair / choices; 1 after the first half */
    int max_active;   /* experts that can have rows                                */
};

/* y in bf16 [rows, columns rounded up to PRODUCT_INPUT_ALIGNMENT] of x in f32; the rest is 0. */
int cuda_round_inputs(void *y, const float *x, int64_t x_row, int64_t rows, int columns,
                      struct CUstream_st *stream);

size_t cuda_product_workspace_bytes(void);

/* With tensor cores, x in bf16, sums in f32.  BF16, F8 and I4, whose groups begin at multiples of 32
 * columns (cuda_product_tensor_takes). */
int cuda_product_tensor_takes(const struct cuda_matrix *w);
int cuda_product_takes_f32(const struct cuda_product *p);
int cuda_product_tensor(const struct cuda_product *p, struct CUstream_st *stream);

/* One fused multiply-add after another in f32, any type: for the router, and for odd shapes. */
int cuda_product_plain(const struct cuda_product *p, struct CUstream_st *stream);

/* h[pair] = silu(gate x) * up x in bf16, x in bf16 or, where takes_f32, f32, rows of `y_row` elements; then y[pair] = down h in f32. */
int cuda_experts_takes_f32(const struct cuda_expert_product *p);
int cuda_experts_gate_up(const struct cuda_expert_product *p, struct CUstream_st *stream);
int cuda_experts_down(const struct cuda_expert_product *p, struct CUstream_st *stream);

/* The same without tensor cores, x and h in f32, for any type; ids[rows] of the pairs, `first` local expert.
 * The lists are not used. */
int cuda_experts_plain_gate_up(const struct cuda_expert_product *p, const int *ids, int first,
                               struct CUstream_st *stream);
int cuda_experts_plain_down(const struct cuda_expert_product *p, const int *ids, int first,
                            struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
