/* test_router.cu - the same experts and the same bits of their weights as on the CPU. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/router.cu
#include "kernels/cuda/router.h"

#include "tests/cuda_emulator/reference.h"

enum { TOKENS = 9 };

/* E, K, expert groups, chosen groups */
static const int sizes[][4] = {{256, 8, 8, 4}, {160, 6, 8, 3}, {64, 6, 1, 1},   {33, 5, 1, 1},
                               {8, 2, 8, 2},   {384, 8, 1, 1}, {72, 12, 36, 6}, {16, 16, 2, 1}};

/* Random logits; then with many ties, with NaNs, with infinities. */
static void fill_logits(float *logits, int n, int64_t stride)
{
    uint64_t seed = (uint64_t)n;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < n; i++) {
            float x = 4.0f * random_float(&seed);
            if (t == 3 || t == 4)
                x = floorf(x);
            if (t == 5)
                x = 0.5f;
            if (t == 6 && (i == 0 || i == n / 2))
                x = NAN;
            if (t == 7 && i == n - 1)
                x = NAN;
            if (t == 8 && i % 5 == 1)
                x = -INFINITY;
            logits[t * stride + i] = x;
        }
}

static void check_router(const struct router_params *params, bool has_bias)
{
    int n = params->n_experts, k = params->n_chosen;
    int64_t stride = n + 3, count = TOKENS * (k + 1);
    float *logits = random_floats(TOKENS * stride, 1), *bias = random_floats(n, 2);
    float *weights = host_new<float>(count);
    int32_t *ids = host_new<int32_t>(count), *found = host_new<int32_t>(count);
    char what[128];
    fill_logits(logits, n, stride);
    snprintf(what, sizeof what, "E %d, K %d, groups %d of %d, method %d, scoring %d, bias %d", n, k,
             params->n_chosen_groups, params->n_groups, (int)params->method, (int)params->scoring,
             has_bias);
    int32_t *device_ids = device_new<int32_t>(count);
    float *device_weights = device_new<float>(count);
    struct cuda_router p = {device_ids,
                            device_weights,
                            device_copy(logits, TOKENS * stride),
                            has_bias ? device_copy(bias, n) : NULL,
                            TOKENS,
                            k + 1,
                            k + 1,
                            stride,
                            *params};
    CUDA((cudaError_t)cuda_router(&p, 0));
    host_copy(found, device_ids, count);

    struct tensor ti = rows_of(ids, DTYPE_I32, TOKENS, k, k + 1);
    struct tensor tw = rows_of(weights, DTYPE_F32, TOKENS, k, k + 1);
    struct tensor tl = rows_of(logits, DTYPE_F32, TOKENS, n, stride);
    struct tensor tb = tensor_1d(has_bias ? bias : NULL, DTYPE_F32, n);
    expect_ok(reference()->router(&ti, &tw, &tl, &tb, params, NULL));
    for (int64_t i = 0; i < count; i++)
        check(found[i] == ids[i], "%s, token %lld, choice %lld: expert %d, expected %d", what,
              (long long)(i / (k + 1)), (long long)(i % (k + 1)), found[i], ids[i]);
    check_numbers(device_weights, DTYPE_F32, weights, count, 0, what);
}

static void check_method(enum router_method method)
{
    for (const int(&size)[4] : sizes)
        for (int i = 0; i < 4; i++) {
            struct router_params params = {i % 2 == 0 ? ROUTER_SOFTMAX : ROUTER_SIGMOID,
                                           method,
                                           size[0],
                                           size[1],
                                           size[2],
                                           size[3],
                                           i / 2,
                                           2.5f};
            check_router(&params, false);
            if (method == ROUTER_NOAUX_TC)
                check_router(&params, true);
        }
}

static void greedy()
{
    check_method(ROUTER_GREEDY);
}
static void group_limited()
{
    check_method(ROUTER_GROUP_LIMITED);
}
static void noaux_tc()
{
    check_method(ROUTER_NOAUX_TC);
}

int main()
{
    static const struct check_group groups[] = {{"router, greedy", greedy},
                                                {"router, group limited", group_limited},
                                                {"router, noaux_tc", noaux_tc}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
