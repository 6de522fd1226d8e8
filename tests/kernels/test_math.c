/* Rules of exp and what is made of it: close to libm's double, and the same bits everywhere.  The
 * header is compiled into this test as plain C; the other instruction sets are reached through
 * swiglu, whose only inexact step is exp. */
#include "tests/kernels/kernel_test.h"

#include "kernels/cpu/math.h"

static double ulp_of(double x)
{
    int exponent;
    frexp(x, &exponent);
    return ldexp(1.0, exponent - 24 < -149 ? -149 : exponent - 24);
}

static void exp_is_within_2_ulp_over_its_range(void **state)
{
    (void)state;
    double worst = 0.0;
    for (int i = 0; i <= 2000000; i += LANES) {
        float x[LANES], y[LANES];
        for (int j = 0; j < LANES; j++)
            x[j] = -104.5f + (float)(i + j) * (194.0f / 2000000.0f);
        lanes_store(y, lanes_exp(lanes_load(x)));
        for (int j = 0; j < LANES; j++) {
            double expected = exp((double)x[j]);
            double error = fabs((double)y[j] - expected) / ulp_of(expected);
            if (expected >= 0x1.fffffp127)
                continue;
            if (error > 2.0)
                fail_msg("exp(%a) = %a, %.3f ulp from %a", (double)x[j], (double)y[j], error,
                         expected);
            worst = error > worst ? error : worst;
        }
    }
    print_message("exp: worst error %.3f ulp\n", worst);
}

static void exp_of_special_values(void **state)
{
    (void)state;
    assert_true(exp_f32(0.0f) == 1.0f && exp_f32(-0.0f) == 1.0f);
    assert_true(exp_f32(-INFINITY) == 0.0f && exp_f32(-1e30f) == 0.0f);
    assert_true(exp_f32(-103.0f) > 0.0f); /* subnormal, not flushed */
    assert_true(isinf(exp_f32(88.73f)) && isinf(exp_f32(INFINITY)));
    assert_true(isfinite(exp_f32(88.72f)));
    assert_true(isnan(exp_f32(NAN)));
}

static void sigmoid_and_silu_agree_with_double(void **state)
{
    (void)state;
    for (float x = -80.0f; x < 80.0f; x += 0.137f) {
        float y[LANES];
        double s = 1.0 / (1.0 + exp(-(double)x));
        lanes_store(y, lanes_sigmoid(lanes_splat(x)));
        assert_true(fabs((double)y[0] - s) <= 4e-7 * s);
        lanes_store(y, lanes_silu(lanes_splat(x)));
        assert_true(fabs((double)y[0] - (double)x * s) <= 4e-7 * fabs((double)x * s));
    }
}

static void instruction_sets_give_the_same_silu(void **state)
{
    (void)state;
    enum { N = 100003 };
    float *gate = floats(N), *up = floats(N), *expected = floats(N), *found = floats(N);
    uint64_t seed = 5;
    for (int i = 0; i < N; i++) {
        gate[i] = random_float(&seed) * (i % 3 == 0 ? 110.0f : i % 3 == 1 ? 3.0f : 1e-3f);
        up[i] = random_float(&seed);
    }
    struct tensor g = tensor_2d(gate, DTYPE_F32, 1, N), u = tensor_2d(up, DTYPE_F32, 1, N);
    struct tensor e = tensor_2d(expected, DTYPE_F32, 1, N), f = tensor_2d(found, DTYPE_F32, 1, N);
    assert_ok(cpu_ops_plain.swiglu(&e, &g, &u, NULL));
    for (int i = 1; i < ISA_COUNT; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i]);
        if (ops == NULL)
            continue;
        assert_ok(ops->swiglu(&f, &g, &u, NULL));
        assert_same_bits(found, expected, N);
    }
    free(gate);
    free(up);
    free(expected);
    free(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_2_ulp_over_its_range),
        cmocka_unit_test(exp_of_special_values),
        cmocka_unit_test(sigmoid_and_silu_agree_with_double),
        cmocka_unit_test(instruction_sets_give_the_same_silu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
