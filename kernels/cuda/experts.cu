/* experts.cu - see experts.h. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/experts.h"

enum { LIST_THREADS = EXPERTS_MAX_LOCAL };

DEVICE int warp_sum_until(int x)
{
    const int lane = threadIdx.x % 32;
    for (int step = 1; step < 32; step *= 2) {
        int other = __shfl_up_sync(~0u, x, step);
        x += lane >= step ? other : 0;
    }
    return x;
}

/* x summed over the threads before this one; *total over all.  `sums` holds 32 numbers, one for each warp. */
DEVICE int sum_before(int *sums, int x, int *total)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp_sum_until(x);
    __syncthreads();
    if (lane == 31)
        sums[warp] = own;
    __syncthreads();
    const int until = warp_sum_until(sums[lane]); /* every warp for itself */
    *total = __shfl_sync(~0u, until, 31);
    const int before = __shfl_sync(~0u, until, warp > 0 ? warp - 1 : 0);
    return own - x + (warp > 0 ? before : 0);
}
static_assert(LIST_THREADS == 32 * 32, "a lane has the sum of a warp");

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

/* Whether local expert `a` of choice i comes before `b` of choice j; others come last. */
DEVICE int comes_before(int a, int i, int b, int j)
{
    return a != b ? (unsigned)a < (unsigned)b : i < j;
}

/* Grid (tokens, blocks of columns).  Shared memory: the local choices in ascending order of experts, and their
 * weights; a thread finds the place of one choice. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
    combine(float *u, int64_t u_row, const float *y, const int *ids, const float *weights,
            int choices, int width, int first, int n_experts)
{
    DYNAMIC_SHARED(int, order);
    float *weight = (float *)(order + choices);
    const int *chosen = ids + (int64_t)blockIdx.x * choices;
    dependents_launch();
    dependency_wait();
    int n = 0;
    for (int i = 0; i < choices; i++)
        n += (unsigned)(chosen[i] - first) < (unsigned)n_experts;
    for (int choice = threadIdx.x; choice < choices; choice += COLUMN_THREADS) {
        const int expert = chosen[choice] - first;
        int place = 0;
        for (int i = 0; i < choices; i++)
            place += comes_before(chosen[i] - first, i, expert, choice);
        if ((unsigned)expert < (unsigned)n_experts) {
            order[place] = choice;
            weight[place] = weights[(int64_t)blockIdx.x * choices + choice];
        }
    }
    __syncthreads();
    const float *rows = y + (int64_t)blockIdx.x * choices * width;
    for_columns(width, [&](int64_t column) {
        float sum = 0;
#pragma unroll 4
        for (int i = 0; i < n; i++)
            sum = fmaf(weight[i], rows[(int64_t)order[i] * width + column], sum);
        u[blockIdx.x * u_row + column] = sum;
    });
}

int cuda_experts_list(const struct cuda_expert_lists *lists, const int *ids, int n_pairs, int first,
                      int n_experts, cudaStream_t stream)
{
    if (n_experts > EXPERTS_MAX_LOCAL)
        return cudaErrorInvalidValue;
    return launch_dependent(list_experts, dim3(1), dim3(LIST_THREADS),
                            (2 * LIST_THREADS + 32) * sizeof(int), stream, *lists, ids, n_pairs,
                            first, n_experts);
}

int cuda_experts_combine(float *u, int64_t u_row, const float *y, const int *ids,
                         const float *weights, int n_tokens, int choices, int width, int first,
                         int n_experts, cudaStream_t stream)
{
    if (n_tokens == 0)
        return cudaSuccess;
    return launch_dependent(combine, column_grid(n_tokens, width), dim3(COLUMN_THREADS),
                            choices * (sizeof(int) + sizeof(float)), stream, u, u_row, y, ids,
                            weights, choices, width, first, n_experts);
}
