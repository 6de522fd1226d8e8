/* Rules of routing.  Expected ids and weights are worked out by hand or in double. */
#include "tests/kernels/kernel_test.h"

enum { E = 8 };

static void route(const struct router_params *params, const float *logits, const float *bias,
                  int32_t *ids, float *weights)
{
    float copy[64], bias_copy[64];
    int n = params->n_experts;
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    struct tensor tl = tensor_2d(copy, DTYPE_F32, 1, n), tb = tensor_1d(NULL, DTYPE_F32, n);
    struct tensor ti = tensor_2d(ids, DTYPE_I32, 1, params->n_chosen);
    struct tensor tw = tensor_2d(weights, DTYPE_F32, 1, params->n_chosen);
    if (bias != NULL) {
        memcpy(bias_copy, bias, (size_t)n * sizeof *bias);
        tb.data = bias_copy;
    }
    assert_ok(cpu_ops()->router(&ti, &tw, &tl, &tb, params, NULL));
}

static void assert_ids(const int32_t *found, const int32_t *expected, int count)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(found[i], expected[i]);
}

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static void greedy_takes_the_largest_in_order_and_ties_go_to_the_lowest_id(void **state)
{
    (void)state;
    static const float logits[E] = {1.0f, 2.0f, 0.5f, 2.0f, -1.0f, 2.0f, 1.0f, 0.0f};
    struct router_params params = {ROUTER_SOFTMAX, ROUTER_GREEDY, E, 5, 1, 1, 0, 1.0f};
    int32_t ids[5];
    float weights[5];
    double sum = 0.0, expected[5];
    route(&params, logits, NULL, ids, weights);
    assert_ids(ids, (const int32_t[]){1, 3, 5, 0, 6}, 5);
    for (int i = 0; i < E; i++)
        sum += exp((double)logits[i]);
    for (int k = 0; k < 5; k++)
        expected[k] = exp((double)logits[ids[k]]) / sum;
    assert_close(weights, expected, 5, 1e-6);
}

static void softmax_normalizes_or_scales(void **state)
{
    (void)state;
    static const float logits[E] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct router_params params = {ROUTER_SOFTMAX, ROUTER_GREEDY, E, 2, 1, 1, 1, 16.0f};
    int32_t ids[2];
    float weights[2];
    double expected[2] = {1.0 / (1.0 + exp(-1.0)), 1.0 / (1.0 + exp(1.0))};
    route(&params, logits, NULL, ids, weights);
    assert_ids(ids, (const int32_t[]){7, 6}, 2);
    assert_close(weights, expected, 2, 1e-6); /* normalized, hence not times 16 */

    double sum = 0.0;
    for (int i = 0; i < E; i++)
        sum += exp((double)logits[i] - 7.0);
    params.normalize = 0;
    route(&params, logits, NULL, ids, weights);
    expected[0] = 16.0 / sum;
    expected[1] = 16.0 * exp(-1.0) / sum;
    assert_close(weights, expected, 2, 1e-6);

    params.normalize = 1; /* of one expert, the weight stays as it is and is scaled */
    params.n_chosen = 1;
    route(&params, logits, NULL, ids, weights);
    assert_close(weights, expected, 1, 1e-6);
}

static void v2_keeps_the_groups_with_the_largest_score(void **state)
{
    (void)state;
    /* groups {0,1} {2,3} {4,5} {6,7}: best 5, 4, 4.5, 1; two are kept: 0 and 2 */
    static const float logits[E] = {5.0f, 0.0f, 4.0f, 3.9f, 4.5f, -2.0f, 1.0f, 0.9f};
    struct router_params params = {ROUTER_SOFTMAX, ROUTER_GROUP_LIMITED, E, 3, 4, 2, 0, 1.0f};
    int32_t ids[3];
    float weights[3];
    route(&params, logits, NULL, ids, weights);
    assert_ids(ids, (const int32_t[]){0, 4, 1}, 3);
}

static void v3_selects_by_biased_scores_and_weighs_by_unbiased_ones(void **state)
{
    (void)state;
    static const float logits[E] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f};
    static const float bias[E] = {0.9f, 0, 0, 0.5f, 0, 0, 0, 0};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, E, 3, 1, 1, 1, 2.5f};
    int32_t ids[3];
    float weights[3];
    double expected[3], sum = 0.0;
    route(&params, logits, bias, ids, weights);
    assert_ids(ids, (const int32_t[]){0, 3, 7}, 3);
    for (int k = 0; k < 3; k++)
        sum += expected[k] = sigmoid((double)logits[ids[k]]);
    for (int k = 0; k < 3; k++)
        expected[k] *= 2.5 / sum; /* normalized and scaled */
    assert_close(weights, expected, 3, 1e-6);

    route(&params, logits, NULL, ids, weights); /* a model without bias */
    assert_ids(ids, (const int32_t[]){7, 6, 5}, 3);
}

static void v3_scores_groups_by_their_two_largest(void **state)
{
    (void)state;
    /* sums of two: 1.0+0 against 0.7+0.7: the single best expert is in a group that is dropped */
    static const float logits[E] = {40, -40, -40, -40, 0.8f, 0.8f, -40, -40};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, E, 2, 2, 1, 0, 1.0f};
    int32_t ids[2];
    float weights[2];
    route(&params, logits, NULL, ids, weights);
    assert_ids(ids, (const int32_t[]){4, 5}, 2);
}

static void masked_groups_lose_against_negative_scores(void **state)
{
    (void)state;
    /* all biased scores are negative: a mask of 0 would win */
    static const float logits[E] = {0};
    static const float bias[E] = {-9, -9, -9, -9, -3, -4, -5, -6};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, E, 4, 2, 1, 0, 1.0f};
    int32_t ids[4];
    float weights[4];
    route(&params, logits, bias, ids, weights);
    assert_ids(ids, (const int32_t[]){4, 5, 6, 7}, 4);
}

static void a_group_of_one_expert_is_scored_by_it_alone(void **state)
{
    (void)state;
    static const float logits[4] = {3, 1, 4, 2}, bias[4] = {0, 0, 0, 0};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, 4, 2, 4, 2, 0, 1.0f};
    int32_t ids[2];
    float weights[2];
    route(&params, logits, bias, ids, weights);
    assert_ids(ids, (const int32_t[]){2, 0}, 2);
}

static void fewer_unmasked_experts_than_chosen_still_give_distinct_ids(void **state)
{
    (void)state;
    static const float logits[4] = {1, 2, 3, 4};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, 4, 3, 4, 1, 0, 1.0f};
    int32_t ids[3];
    float weights[3];
    route(&params, logits, NULL, ids, weights);
    assert_ids(ids, (const int32_t[]){3, 0, 1}, 3);
}

static void vanishing_sigmoids_do_not_divide_by_zero(void **state)
{
    (void)state;
    static const float logits[4] = {-200, -200, -200, -200};
    static const float bias[4] = {12, 12, 12, 12};
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, 4, 2, 1, 1, 1, 2.5f};
    int32_t ids[2];
    float weights[2];
    route(&params, logits, bias, ids, weights);
    assert_ids(ids, (const int32_t[]){0, 1}, 2);
    for (int k = 0; k < 2; k++)
        assert_true(weights[k] == 0.0f);
}

static void instruction_sets_agree(void **state)
{
    (void)state;
    enum { T = 50, N = 40, K = 6 };
    float *logits = random_floats(T * N, 1), *bias = random_floats(N, 2);
    for (int scoring = 0; scoring < 2; scoring++) {
        struct router_params params = {scoring ? ROUTER_SIGMOID : ROUTER_SOFTMAX,
                                       scoring ? ROUTER_NOAUX_TC : ROUTER_GROUP_LIMITED,
                                       N,
                                       K,
                                       4,
                                       2,
                                       1,
                                       2.5f};
        int32_t ids[ISA_COUNT][T * K];
        float weights[ISA_COUNT][T * K];
        struct tensor tl = tensor_2d(logits, DTYPE_F32, T, N), tb = tensor_1d(bias, DTYPE_F32, N);
        for (int i = 0; i < ISA_COUNT; i++) {
            const struct ops *ops = cpu_ops_for(isa_names[i]);
            if (ops == NULL)
                continue;
            struct tensor ti = tensor_2d(ids[i], DTYPE_I32, T, K);
            struct tensor tw = tensor_2d(weights[i], DTYPE_F32, T, K);
            assert_ok(ops->router(&ti, &tw, &tl, &tb, &params, NULL));
            assert_ids(ids[i], ids[0], T * K);
            assert_same_bits(weights[i], weights[0], T * K);
        }
    }
    free(logits);
    free(bias);
}

static void impossible_choices_are_refused(void **state)
{
    (void)state;
    struct router_params params = {ROUTER_SIGMOID, ROUTER_NOAUX_TC, 4, 5, 1, 1, 0, 1.0f};
    struct tensor ids = tensor_2d(NULL, DTYPE_I32, 0, 5),
                  weights = tensor_2d(NULL, DTYPE_F32, 0, 5);
    struct tensor logits = tensor_2d(NULL, DTYPE_F32, 0, 4), bias = tensor_1d(NULL, DTYPE_F32, 4);
    assert_int_equal(cpu_ops()->router(&ids, &weights, &logits, &bias, &params, NULL),
                     STATUS_INVALID);
    params.n_chosen = 2;
    params.n_groups = 3;
    ids.dim[1] = weights.dim[1] = 2;
    assert_int_equal(cpu_ops()->router(&ids, &weights, &logits, &bias, &params, NULL),
                     STATUS_INVALID);
    params.n_groups = 2;
    assert_ok(cpu_ops()->router(&ids, &weights, &logits, &bias, &params, NULL)); /* no tokens */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_in_order_and_ties_go_to_the_lowest_id),
        cmocka_unit_test(softmax_normalizes_or_scales),
        cmocka_unit_test(v2_keeps_the_groups_with_the_largest_score),
        cmocka_unit_test(v3_selects_by_biased_scores_and_weighs_by_unbiased_ones),
        cmocka_unit_test(v3_scores_groups_by_their_two_largest),
        cmocka_unit_test(masked_groups_lose_against_negative_scores),
        cmocka_unit_test(a_group_of_one_expert_is_scored_by_it_alone),
        cmocka_unit_test(fewer_unmasked_experts_than_chosen_still_give_distinct_ids),
        cmocka_unit_test(vanishing_sigmoids_do_not_divide_by_zero),
        cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(impossible_choices_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
