/* Expected numbers: the published values of each family (computed from their config.json with the
 * formulas of the YaRN paper), or the formula in its shortest form. */
#include "runtime/model_config.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct model_config with_yarn(float factor, float mscale, float theta, float beta_fast)
{
    struct model_config config = {.d_n = 128, .d_r = 64};
    config.rope = (struct rope_config){.is_yarn = 1,
                                       .theta = theta,
                                       .factor = factor,
                                       .beta_fast = beta_fast,
                                       .beta_slow = 1,
                                       .mscale = mscale,
                                       .mscale_all_dim = mscale,
                                       .has_mscale = 1,
                                       .has_mscale_all_dim = 1,
                                       .original_max_position = 4096};
    return config;
}

static struct model_config v2_lite(void)
{
    return with_yarn(40, 0.707f, 1e4f, 32);
}
static struct model_config v3(void)
{
    return with_yarn(40, 1, 1e4f, 32);
}
static struct model_config k2(void)
{
    return with_yarn(32, 1, 5e4f, 1);
}
static struct model_config k25(void)
{
    return with_yarn(64, 1, 5e4f, 32);
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("found %.12g, expected %.12g within %g", found, expected, tolerance);
}

static void softmax_scale_of_published_models(void **state)
{
    (void)state;
    struct model_config config = v2_lite();
    assert_near((double)model_config_softmax_scale(&config), 0.1147214, 5e-8);
    config = v3();
    assert_near((double)model_config_softmax_scale(&config), 0.1352338, 5e-8);
    config = k2();
    assert_near((double)model_config_softmax_scale(&config), 0.1308608, 5e-8);
    config = k25();
    assert_near((double)model_config_softmax_scale(&config), 0.1446796, 5e-8);
    config = (struct model_config){.d_n = 192, .d_r = 64, .rope = {.theta = 1e6f, .factor = 1}};
    assert_true(model_config_softmax_scale(&config) == 0.0625f);
}

static void softmax_scale_ignores_mscale_without_all_dim(void **state)
{
    (void)state;
    struct model_config config = v3();
    config.rope.has_mscale_all_dim = 0;
    config.rope.mscale_all_dim = 0;
    assert_near((double)model_config_softmax_scale(&config), 1 / sqrt(192), 1e-8);
    config = v3();
    config.rope.mscale_all_dim = 0; /* written as 0 */
    assert_near((double)model_config_softmax_scale(&config), 1 / sqrt(192), 1e-8);
}

/* Pairs up to `low` keep their frequency, pairs from `high` on have it divided by the factor, and
 * the part between is a straight line. */
static void check_ramp(struct model_config config, int low, int high)
{
    double inv_freq[32];
    model_config_inv_freq(&config, inv_freq);
    for (int j = 0; j < 32; j++) {
        double base = exp(-2.0 * j / 64 * log((double)config.rope.theta));
        double part = j <= low ? 0 : j >= high ? 1 : (j - low) / (double)(high - low);
        double expected = base * (1 - part) + base * part / (double)config.rope.factor;
        assert_near(inv_freq[j] / expected, 1, 1e-12);
    }
}

static void ramps_of_published_models(void **state)
{
    (void)state;
    check_ramp(v2_lite(), 10, 23);
    check_ramp(v3(), 10, 23);
    check_ramp(k2(), 19, 20); /* beta_fast = beta_slow: a step */
    check_ramp(k25(), 8, 20);
}

static void a_ramp_of_no_width_is_a_step(void **state)
{
    (void)state;
    struct model_config config = v3();
    config.rope.original_max_position = 1; /* both ends fall on 0 */
    config.rope.beta_fast = config.rope.beta_slow = 0.2f;
    check_ramp(config, 0, 1);
}

static void without_yarn_frequencies_are_powers_of_theta(void **state)
{
    (void)state;
    struct model_config config = {.d_n = 24, .d_r = 8, .rope = {.theta = 1e4f, .factor = 1}};
    double inv_freq[4];
    model_config_inv_freq(&config, inv_freq);
    assert_near(inv_freq[0], 1, 0);
    assert_near(inv_freq[1], 0.1, 1e-15);
    assert_near(inv_freq[2], 0.01, 1e-16);
    assert_near(inv_freq[3], 0.001, 1e-17);
}

static void table_holds_cos_and_sin_side_by_side(void **state)
{
    (void)state;
    struct model_config config = {.d_n = 24, .d_r = 8, .rope = {.theta = 1e4f, .factor = 1}};
    enum { N = 5001 };
    float *table = malloc(N * 8 * sizeof *table);
    const double inv_freq[4] = {1, 0.1, 0.01, 0.001};
    assert_non_null(table);
    model_config_cos_sin(&config, table, N);
    for (int t = 0; t < N; t++) {
        for (int j = 0; j < 4; j++) {
            double angle = t * inv_freq[j];
            assert_near((double)table[t * 8 + 2 * j], cos(angle), 1e-7);
            assert_near((double)table[t * 8 + 2 * j + 1], sin(angle), 1e-7);
        }
    }
    free(table);
}

/* Radius of the rotation of pair 0 at position 3. */
static double radius(const struct model_config *config)
{
    float table[4 * 64];
    model_config_cos_sin(config, table, 4);
    return hypot((double)table[3 * 64], (double)table[3 * 64 + 1]);
}

static void amplitude_is_the_ratio_of_both_mscales(void **state)
{
    (void)state;
    struct model_config config = v3();
    assert_near(radius(&config), 1, 1e-7);
    config = v2_lite();
    assert_near(radius(&config), 1, 1e-7);
    config = v3();
    config.rope.mscale_all_dim = 0.5f;
    assert_near(radius(&config), 1.3688879 / 1.1844440, 1e-6); /* 1 + 0.1 ln 40, 1 + 0.05 ln 40 */
}

static void amplitude_falls_back_to_m_of_the_factor(void **state)
{
    (void)state;
    struct model_config config = v3();
    config.rope.has_mscale = config.rope.has_mscale_all_dim = 0;
    config.rope.mscale = config.rope.mscale_all_dim = 0;
    assert_near(radius(&config), 1.3688879, 1e-6);
    config.rope.attention_factor = 0.75f; /* wins over everything */
    assert_near(radius(&config), 0.75, 1e-7);
    config = (struct model_config){.d_n = 128, .d_r = 64, .rope = {.theta = 1e4f, .factor = 1}};
    assert_near(radius(&config), 1, 1e-7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(softmax_scale_of_published_models),
        cmocka_unit_test(softmax_scale_ignores_mscale_without_all_dim),
        cmocka_unit_test(ramps_of_published_models),
        cmocka_unit_test(a_ramp_of_no_width_is_a_step),
        cmocka_unit_test(without_yarn_frequencies_are_powers_of_theta),
        cmocka_unit_test(table_holds_cos_and_sin_side_by_side),
        cmocka_unit_test(amplitude_is_the_ratio_of_both_mscales),
        cmocka_unit_test(amplitude_falls_back_to_m_of_the_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
