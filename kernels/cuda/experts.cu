/* experts.cu - see experts.h. */
#include "kernels/cuda/experts.h"
#include "kernels/cuda/ptx.cuh"

enum { LIST_THREADS = EXPERTS_MAX_LOCAL, COMBINE_THREADS = 256 };

/* x summed over the threads before this one; *total over all.  `sums` holds LIST_THREADS numbers. */
DEVICE int sum_before(int *sums, int x, int *total)
{
    const int thread = threadIdx.x;
    __syncthreads();
    sums[thread] = x;
    for (int step = 1; step < LIST_THREADS; step *= 2) {
        __syncthreads();
        int other = thread >= step ? sums[thread - step] : 0;
        __syncthreads();
        sums[thread] += other;
    }
    __syncthreads();
    *total = sums[LIST_THREADS - 1];
    return sums[thread] - x;
}

/* One block; thread e has expert e. */
static __global__ void __launch_bounds__(LIST_THREADS)
    list_experts(const cuda_expert_lists lists, const int *ids, int n_pairs, int first,
                 int n_experts)
{
    DYNAMIC_SHARED(int, shared);
    int *count = shared, *next = shared + LIST_THREADS, *sums = shared + 2 * LIST_THREADS;
    const int thread = threadIdx.x;
    count[thread] = 0;
    dependents_launch();
    dependency_wait();
    __syncthreads();
    for (int i = thread; i < n_pairs; i += LIST_THREADS) {
        int expert = ids[i] - first;
        if (expert >= 0 && expert < n_experts)
            atomicAdd(&count[expert], 1);
    }
    __syncthreads();
    int total, n_active, mine = count[thread];
    int begin = sum_before(sums, mine, &total), active = sum_before(sums, mine > 0, &n_active);
    next[thread] = begin;
    if (thread < n_experts) {
        lists.begin[thread] = begin;
        if (mine > 0)
            lists.expert[active] = thread;
    }
    if (thread == 0) {
        lists.begin[n_experts] = total;
        *lists.n_active = n_active;
    }
    __syncthreads();
    /* the order of an expert's pairs is free: no sum goes over them */
    for (int i = thread; i < n_pairs; i += LIST_THREADS) {
        int expert = ids[i] - first;
        if (expert >= 0 && expert < n_experts)
            lists.pair[atomicAdd(&next[expert], 1)] = i;
    }
}

/* Grid (tokens); the block's first thread puts the choices in order. */
static __global__ void __launch_bounds__(COMBINE_THREADS)
    combine(float *u, int64_t u_row, const float *y, const int *ids, const float *weights,
            int choices, int width, int first, int n_experts)
{
    DYNAMIC_SHARED(int, order);
    const int token = blockIdx.x;
    dependents_launch();
    dependency_wait();
    if (threadIdx.x == 0) {
        int n = 0;
        for (int choice = 0; choice < choices; choice++) {
            int id = ids[token * choices + choice], place = n;
            if (id < first || id >= first + n_experts)
                continue;
            for (; place > 0 && ids[token * choices + order[1 + place - 1]] > id; place--)
                order[1 + place] = order[1 + place - 1];
            order[1 + place] = choice;
            n++;
        }
        order[0] = n;
    }
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += COMBINE_THREADS) {
        float sum = 0;
        for (int i = 0; i < order[0]; i++) {
            int64_t pair = token * choices + order[1 + i];
            sum = fmaf(weights[pair], y[pair * width + column], sum);
        }
        u[token * u_row + column] = sum;
    }
}

int cuda_experts_list(const struct cuda_expert_lists *lists, const int *ids, int n_pairs, int first,
                      int n_experts, cudaStream_t stream)
{
    if (n_experts > EXPERTS_MAX_LOCAL)
        return cudaErrorInvalidValue;
    return launch_dependent(list_experts, dim3(1), dim3(LIST_THREADS),
                            3 * LIST_THREADS * sizeof(int), stream, *lists, ids, n_pairs, first,
                            n_experts);
}

int cuda_experts_combine(float *u, int64_t u_row, const float *y, const int *ids,
                         const float *weights, int n_tokens, int choices, int width, int first,
                         int n_experts, cudaStream_t stream)
{
    if (n_tokens == 0)
        return cudaSuccess;
    return launch_dependent(combine, dim3(n_tokens), dim3(COMBINE_THREADS),
                            (choices + 1) * sizeof(int), stream, u, u_row, y, ids, weights, choices,
                            width, first, n_experts);
}
