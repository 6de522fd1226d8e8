/* router.cu - which experts a token goes to, and with what weights.
 *
 * A warp has a token, so nothing but the warp waits.  Scores, sums and
 * comparisons are those of kernels/cpu/router.c in their order: experts and
 * weights are the same bits, ties and NaNs included.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/router.h"

enum { WARP = 32, CHAINS = 16 };

/* Numbers to choose from, in shared memory, with a gap every 32 against bank conflicts. */
struct choice {
    float *values;
    unsigned char *taken;
    int n, first; /* first: the lowest not taken */
};

static __host__ __device__ constexpr int padded(int i)
{
    return i + i / WARP;
}

/* Where the parts of shared memory begin, in floats. */
struct router_layout {
    int selection, groups, chosen, taken, bytes;
};

static __host__ __device__ struct router_layout layout_of(const struct router_params &params)
{
    struct router_layout at;
    int most = params.n_experts > params.n_groups ? params.n_experts : params.n_groups;
    at.selection = params.n_experts;
    at.groups = at.selection + padded(params.n_experts) + 1;
    at.chosen = at.groups + padded(params.n_groups) + 1;
    at.taken = at.chosen + params.n_chosen;
    at.bytes = at.taken * (int)sizeof(float) + most;
    return at;
}

/* Softmax with the sum of kernels/cpu/router.c: 16 chains, which meet as i + (i + 8), then 4, 2, 1. */
static __device__ void softmax(float *scores, const float *logits, int n)
{
    int lane = (int)threadIdx.x;
    float largest = -INFINITY, total = 0.0f;
    for (int i = lane; i < n; i += WARP)
        largest = fmaxf(largest, logits[i]);
    for (int bits = WARP / 2; bits > 0; bits /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
    for (int i = lane; i < n; i += WARP)
        scores[i] = exp_f32(logits[i] - largest);
    __syncwarp();
    for (int i = lane % CHAINS; i < n; i += CHAINS)
        total += scores[i];
    for (int bits = CHAINS / 2; bits > 0; bits /= 2)
        total += __shfl_xor_sync(~0u, total, bits);
    __syncwarp(); /* all have read the scores of the others */
    for (int i = lane; i < n; i += WARP)
        scores[i] /= total;
}

static __device__ void sigmoid(float *scores, const float *logits, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += WARP)
        scores[i] = 1.0f / (1.0f + exp_f32(0.0f - logits[i]));
}

/* What an expert_group scores: its largest, or for V3 the sum of its two largest (of one, that one). */
static __device__ float group_score(const float *selection, int begin, int n, bool is_of_two)
{
    float first = selection[padded(begin)], second = -INFINITY;
    for (int i = begin + 1; i < begin + n; i++) {
        float score = selection[padded(i)];
        if (score > first) {
            second = first;
            first = score;
        } else if (score > second) {
            second = score;
        }
    }
    return is_of_two && n > 1 ? first + second : first;
}

/* Larger numbers have larger keys, equal ones the same (no score is -0); 0 is below all, and for NaN. */
static __device__ uint32_t order_key(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ void choice_begin(struct choice *c)
{
    for (int i = (int)threadIdx.x; i < c->n; i += WARP)
        c->taken[i] = 0;
    c->first = 0;
    __syncwarp();
}

/* Takes the largest of those not yet taken, the lowest index of equals.  A comparison with NaN is false on
 * the CPU, which goes through them in order: so a NaN is chosen when it is the first, and else not. */
static __device__ int take_largest(struct choice *c)
{
    int lane = (int)threadIdx.x, chosen = c->first;
    float lowest = c->values[padded(c->first)];
    if (lowest == lowest) {
        uint32_t best = 0, index = ~0u;
        for (int i = lane; i < c->n; i += WARP) {
            uint32_t key = c->taken[i] ? 0 : order_key(c->values[padded(i)]);
            if (key > best) {
                best = key;
                index = (uint32_t)i;
            }
        }
        uint32_t largest = __reduce_max_sync(~0u, best);
        chosen = (int)__reduce_min_sync(~0u, best == largest ? index : ~0u);
    }
    __syncwarp(); /* all have looked */
    if (lane == 0)
        c->taken[chosen] = 1;
    __syncwarp();
    while (c->first < c->n && c->taken[c->first])
        c->first++;
    return chosen;
}

/* Sets the scores of all but the chosen expert groups to -infinity. */
static __device__ void mask_groups(float *selection, struct choice *groups,
                                   const struct router_params &params)
{
    int lane = (int)threadIdx.x, size = params.n_experts / params.n_groups;
    for (int g = lane; g < params.n_groups; g += WARP)
        groups->values[padded(g)] =
            group_score(selection, g * size, size, params.method == ROUTER_NOAUX_TC);
    choice_begin(groups);
    for (int i = 0; i < params.n_chosen_groups; i++)
        take_largest(groups);
    for (int i = lane; i < params.n_experts; i += WARP)
        if (!groups->taken[i / size])
            selection[padded(i)] = -INFINITY;
    __syncwarp();
}

/* V2 normalizes OR scales, V3 normalizes AND scales. */
static __device__ void write_weights(float *weights, const float *scores, const int *chosen,
                                     const struct router_params &params)
{
    bool normalizes = params.normalize && params.n_chosen > 1;
    float sum = 0.0f;
    for (int k = 0; k < params.n_chosen; k++)
        sum += scores[chosen[k]];
    for (int k = (int)threadIdx.x; k < params.n_chosen; k += WARP) {
        float weight = scores[chosen[k]];
        if (normalizes)
            weight /= sum + 1e-20f;
        if (!normalizes || params.scoring == ROUTER_SIGMOID)
            weight *= params.scale;
        weights[k] = weight;
    }
}

/* Grid: tokens, of one warp each.  Shared memory: layout_of. */
static __global__ void __launch_bounds__(WARP) router_kernel(struct cuda_router p)
{
    dependents_launch();
    dependency_wait();
    DYNAMIC_SHARED(float, scores);
    struct router_layout at = layout_of(p.params);
    int lane = (int)threadIdx.x, n = p.params.n_experts;
    float *selection = scores + at.selection;
    int *chosen = reinterpret_cast<int *>(scores + at.chosen);
    unsigned char *taken = reinterpret_cast<unsigned char *>(scores + at.taken);
    const float *logits = p.logits + blockIdx.x * p.logits_stride;

    if (p.params.scoring == ROUTER_SOFTMAX)
        softmax(scores, logits, n);
    else
        sigmoid(scores, logits, n);
    bool has_bias = p.bias != nullptr && p.params.method == ROUTER_NOAUX_TC;
    for (int i = lane; i < n; i += WARP)
        selection[padded(i)] = has_bias ? scores[i] + p.bias[i] : scores[i];
    __syncwarp();
    if (p.params.method != ROUTER_GREEDY && p.params.n_groups > 1) {
        struct choice groups = {scores + at.groups, taken, p.params.n_groups, 0};
        mask_groups(selection, &groups, p.params);
    }
    struct choice experts = {selection, taken, n, 0};
    choice_begin(&experts);
    for (int k = 0; k < p.params.n_chosen; k++) {
        int id = take_largest(&experts);
        if (lane == 0) {
            chosen[k] = id;
            p.ids[blockIdx.x * p.ids_stride + k] = id;
        }
    }
    __syncwarp();
    write_weights(p.weights + blockIdx.x * p.weights_stride, scores, chosen, p.params);
}

int cuda_router(const struct cuda_router *p, struct CUstream_st *stream)
{
    if (p->tokens == 0 || p->params.n_chosen == 0)
        return cudaSuccess;
    return launch_dependent(router_kernel, dim3((unsigned)p->tokens), dim3(WARP),
                            (size_t)layout_of(p->params).bytes, stream, *p);
}
