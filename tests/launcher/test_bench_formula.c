/* test_bench_formula.c - the yardsticks of `bench latency`, against sums by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "launcher/bench_formula.h"

static void a_step_reads_dense_weights_experts_and_cached_rows(void **state)
{
    const struct bench_reads reads = {.dense_bytes = 1000,
                                      .expert_bytes = 700,
                                      .n_steps = 7,
                                      .cache_token_bytes = 10,
                                      .cache_members = 1};
    (void)state;
    /* 1000 + 100 and the rows: steps of 33 .. 35 rows after 32 tokens, mean 34, 2 sequences */
    assert_true(bench_step_bytes(&reads, 2, 32, 4) == 1000 + 100 + 2 * 34 * 10);
    /* one step after the first token sees 33 rows */
    assert_true(bench_step_bytes(&reads, 1, 32, 2) == 1000 + 100 + 33 * 10);
}

static void ranks_that_share_the_rows_read_each_of_them_once(void **state)
{
    const struct bench_reads reads = {
        .dense_bytes = 1000, .n_steps = 7, .cache_token_bytes = 10, .cache_members = 4};
    (void)state;
    assert_true(4 * bench_step_bytes(&reads, 2, 32, 4) == 4 * 1000 + 2 * 34 * 10);
}

static void without_decode_steps_there_are_no_bytes(void **state)
{
    struct bench_reads reads = {.dense_bytes = 1000, .n_steps = 7};
    (void)state;
    assert_true(isnan(bench_step_bytes(&reads, 1, 32, 1)));
    reads.n_steps = 0;
    assert_true(isnan(bench_step_bytes(&reads, 1, 32, 8)));
}

/* V2, d 8, one dense layer and one with 2 of 4 experts and a shared one. */
static void prefill_operations_are_those_of_the_parameters_and_of_attention(void **state)
{
    static const char json[] =
        "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\","
        "\"hidden_size\": 8, \"intermediate_size\": 10, \"moe_intermediate_size\": 3,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"vocab_size\": 100,"
        "\"q_lora_rank\": null, \"kv_lora_rank\": 6, \"qk_nope_head_dim\": 4,"
        "\"qk_rope_head_dim\": 2, \"v_head_dim\": 5, \"n_routed_experts\": 4,"
        "\"num_experts_per_tok\": 2, \"n_shared_experts\": 1, \"first_k_dense_replace\": 1,"
        "\"moe_layer_freq\": 1, \"norm_topk_prob\": false, \"routed_scaling_factor\": 1.0,"
        "\"scoring_func\": \"softmax\", \"topk_method\": \"greedy\", \"rms_norm_eps\": 1e-6,"
        "\"rope_theta\": 10000, \"max_position_embeddings\": 64, \"tie_word_embeddings\": false,"
        "\"torch_dtype\": \"bfloat16\"}";
    struct model_config config;
    (void)state;
    if (model_config_parse(&config, json, strlen(json), "by hand") != STATUS_OK)
        fail_msg("%s", status_text());
    /* gains stand among the parameters */
    const double q = 2 * 6 * 8, kv = 8 * 8 + 6 + 2 * (4 + 5) * 6, o = 8 * 10, gains = 2 * 8;
    const double attention = q + kv + o + gains;
    const double dense = 3 * 8 * 10, moe = 4 * 8 + 3 * 8 * 3 * (2 + 1), last_gain = 8;
    const double per_token = 2 * attention + dense + moe + last_gain;
    const double head = 100 * 8, pair = 2 /* layers */ * 2 /* heads */ * (4 + 2 + 5);
    /* 3 prompts of 4 tokens: each 1 + 2 + 3 + 4 pairs */
    const double expected = 2 * (12 * per_token + 3 * head + 3 * 10 * pair);
    assert_true(fabs(bench_prefill_flop(&config, 3, 4) - expected) < 0.5);
}

static void the_median_is_in_the_middle(void **state)
{
    double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2};
    struct bench_spread spread = bench_spread_of(odd, 3);
    (void)state;
    assert_true(spread.median == 3 && spread.min == 1 && spread.max == 5);
    spread = bench_spread_of(even, 4);
    assert_true(spread.median == 2.5 && spread.min == 1 && spread.max == 4);
    assert_true(isnan(bench_spread_of(odd, 0).median));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_reads_dense_weights_experts_and_cached_rows),
        cmocka_unit_test(ranks_that_share_the_rows_read_each_of_them_once),
        cmocka_unit_test(without_decode_steps_there_are_no_bytes),
        cmocka_unit_test(prefill_operations_are_those_of_the_parameters_and_of_attention),
        cmocka_unit_test(the_median_is_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
