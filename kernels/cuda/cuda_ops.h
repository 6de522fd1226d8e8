/* cuda_ops.h - the operations of kernels/ops.h on the GPU.
 *
 * Not in this version: expanded attention and cache_read, matrices of I8.
 * Products with BF16, F8 and I4 weights round their input rows to bf16, except
 * where a BF16 matrix says otherwise (struct matrix, input). */
#ifndef KERNELS_CUDA_CUDA_OPS_H
#define KERNELS_CUDA_CUDA_OPS_H

#include "kernels/backend.h"

extern const struct ops cuda_ops;

/* CUDA_BACKEND_OPEN of kernels/backend.h. */
enum status latentrank_cuda_open(struct backend *backend, int local_rank);

#endif
