/* rotate.cuh - the rotation of one pair, rounded as kernels/cpu/rope.c rounds it. */
#ifndef KERNELS_CUDA_ROTATE_CUH
#define KERNELS_CUDA_ROTATE_CUH

#include "kernels/cuda/common.cuh"

template <class T>
static __device__ __forceinline__ void rotate_pair(T *y, const float *x, const float *cos_sin)
{
    float even = x[0], odd = x[1], c = cos_sin[0], s = cos_sin[1];
    store(y, __fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s)));
    store(y + 1, __fadd_rn(__fmul_rn(even, s), __fmul_rn(odd, c)));
}

#endif
