/* test_decode_bytes.c - bytes of a decode step, against sums by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/decode_bytes.h"

static struct matrix matrix_of(enum dtype dtype, int count, int64_t n, int64_t k)
{
    struct matrix w = {.dtype = dtype, .count = count, .n = n, .k = k};
    if (matrix_is_quantized(&w))
        w.scales = (struct matrix_scales){.dtype = DTYPE_F32, .step = 32};
    return w;
}

/* d 64, 4 heads, d_c 32, d_r 8, d_n = d_v = 16, d_cq 48, vocabulary 160: one dense layer of 96 columns in
 * bf16, one with 8 experts of 32 columns and a shared one. */
static void fill(struct weights *weights, struct layer_weights *layer, enum dtype expert_dtype)
{
    for (int l = 0; l < 2; l++) {
        struct mla_weights *mla = &layer[l].mla;
        int64_t columns = l == 0 ? 96 : 32;
        layer[l] = (struct layer_weights){.is_moe = l == 1};
        mla->w_dq = matrix_of(DTYPE_BF16, 1, 48, 64);
        mla->w_uq = matrix_of(DTYPE_BF16, 1, 96, 48);
        mla->w_dkv = matrix_of(DTYPE_BF16, 1, 40, 64); /* 48 rows as packed */
        mla->w_uk_t = matrix_of(DTYPE_BF16, 4, 32, 16);
        mla->w_uk = matrix_of(DTYPE_BF16, 4, 16, 32); /* not read by the absorbed form */
        mla->w_uv = matrix_of(DTYPE_BF16, 4, 16, 32);
        mla->w_o = matrix_of(DTYPE_BF16, 1, 64, 64);
        layer[l].ffn.gate = layer[l].ffn.up = matrix_of(DTYPE_BF16, 1, columns, 64);
        layer[l].ffn.down = matrix_of(DTYPE_BF16, 1, 64, columns);
    }
    layer[1].router = matrix_of(DTYPE_F32, 1, 8, 64); /* 16 rows as packed */
    layer[1].experts = (struct expert_weights){.first = 8, .n_experts = 16};
    layer[1].experts.gate = layer[1].experts.up = matrix_of(expert_dtype, 8, 32, 64);
    layer[1].experts.down = matrix_of(expert_dtype, 8, 64, 32);
    *weights = (struct weights){.layer = layer, .head = matrix_of(DTYPE_BF16, 1, 160, 64)};
}

static void dense_bytes_are_all_matrices_once_but_the_experts(void **state)
{
    struct weights weights;
    struct layer_weights layer[2];
    (void)state;
    fill(&weights, layer, DTYPE_BF16);
    const int64_t attention =
        2 * (48 * 64 + 96 * 48 + 48 * 64 + 4 * 32 * 16 + 4 * 16 * 32 + 64 * 64);
    const int64_t dense = 2 * 3 * 96 * 64, shared = 2 * 3 * 32 * 64, router = 4 * 16 * 64;
    const int64_t head = 2 * 160 * 64;
    assert_int_equal(decode_dense_bytes(&weights, 2),
                     2 * attention + dense + shared + router + head);
    assert_int_equal(decode_dense_bytes(&weights, 1), attention + dense + head);
}

static void an_expert_counts_with_its_scales(void **state)
{
    struct weights weights;
    struct layer_weights layer[2];
    (void)state;
    fill(&weights, layer, DTYPE_BF16);
    assert_int_equal(decode_expert_bytes(&layer[1].experts), 2 * 3 * 32 * 64);
    /* an f32 scale for 32 columns: two a row of gate and up */
    fill(&weights, layer, DTYPE_F8_E4M3);
    assert_int_equal(decode_expert_bytes(&layer[1].experts),
                     3 * 32 * 64 + 4 * (2 * 32 + 2 * 32 + 64));
    layer[1].experts.gate.count = 0;
    assert_int_equal(decode_expert_bytes(&layer[1].experts), 0);
}

static void chosen_experts_count_once_and_only_those_here(void **state)
{
    struct weights weights;
    struct layer_weights layer[2];
    int32_t ids[3][4] = {{8, 0, 15, 16}, {15, 7, 9, 8}, {1, 2, 3, 9}};
    struct tensor chosen = tensor_2d(ids, DTYPE_I32, 3, 4);
    (void)state;
    fill(&weights, layer, DTYPE_BF16);
    assert_int_equal(decode_experts(&chosen, &layer[1].experts), 3); /* 8, 9, 15 */
    chosen = tensor_rows(&chosen, 0, 1);
    assert_int_equal(decode_experts(&chosen, &layer[1].experts), 2);
    chosen = tensor_rows(&chosen, 0, 0);
    assert_int_equal(decode_experts(&chosen, &layer[1].experts), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_bytes_are_all_matrices_once_but_the_experts),
        cmocka_unit_test(an_expert_counts_with_its_scales),
        cmocka_unit_test(chosen_experts_count_once_and_only_those_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
