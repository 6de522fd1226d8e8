/* Rules of RMSNorm. */
#include "tests/kernels/kernel_test.h"

static const int64_t widths[] = {1, 7, 16, 40, 129, 2048};
enum { ROWS = 3, GAP = 2 };

static void norm_agrees_with_double_on_strided_rows(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof widths / sizeof widths[0]; c++) {
        int64_t n = widths[c];
        float *x = random_floats(ROWS * (n + GAP), c), *gain = random_floats(n, 9);
        double *expected = calloc((size_t)n, sizeof *expected);
        assert_non_null(expected);
        for (int i = 0; i < ISA_COUNT; i++) {
            const struct ops *ops = cpu_ops_for(isa_names[i]);
            if (ops == NULL)
                continue;
            float *y = floats(ROWS * (n + GAP));
            struct tensor tx = tensor_2d(x, DTYPE_F32, ROWS, n), ty = tx;
            struct tensor tg = tensor_1d(gain, DTYPE_F32, n);
            ty.data = y;
            tx.stride[0] = ty.stride[0] = n + GAP;
            assert_ok(ops->rms_norm(&ty, &tx, &tg, 1e-2f, NULL));
            for (int t = 0; t < ROWS; t++) {
                double sum = 0.0;
                for (int64_t j = 0; j < n; j++)
                    sum += (double)x[t * (n + GAP) + j] * (double)x[t * (n + GAP) + j];
                double factor = 1.0 / sqrt(sum / (double)n + 1e-2);
                for (int64_t j = 0; j < n; j++)
                    expected[j] = (double)x[t * (n + GAP) + j] * factor * (double)gain[j];
                assert_close(y + t * (n + GAP), expected, n, 1e-6);
                assert_true(isnan(y[t * (n + GAP) + n]));
            }
            free(y);
        }
        free(x);
        free(gain);
        free(expected);
    }
}

static void norm_has_the_same_bits_on_every_instruction_set_and_in_place(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof widths / sizeof widths[0]; c++) {
        int64_t n = widths[c];
        float *x = random_floats(ROWS * n, c), *gain = random_floats(n, 9),
              *first = floats(ROWS * n);
        struct tensor tx = tensor_2d(x, DTYPE_F32, ROWS, n), tf = tx;
        struct tensor tg = tensor_1d(gain, DTYPE_F32, n);
        tf.data = first;
        assert_ok(cpu_ops_plain.rms_norm(&tf, &tx, &tg, 1e-6f, NULL));
        for (int i = 0; i < ISA_COUNT; i++) {
            const struct ops *ops = cpu_ops_for(isa_names[i]);
            float *y = floats(ROWS * n);
            struct tensor ty = tx;
            ty.data = y;
            memcpy(y, x, (size_t)(ROWS * n) * sizeof *y);
            if (ops != NULL) {
                assert_ok(ops->rms_norm(&ty, &ty, &tg, 1e-6f, NULL));
                assert_same_bits(y, first, ROWS * n);
            }
            free(y);
        }
        free(x);
        free(gain);
        free(first);
    }
}

static void no_rows_need_no_memory(void **state)
{
    (void)state;
    float gain[4] = {1, 1, 1, 1};
    struct tensor x = tensor_2d(NULL, DTYPE_F32, 0, 4), g = tensor_1d(gain, DTYPE_F32, 4);
    assert_ok(cpu_ops()->rms_norm(&x, &x, &g, 1e-6f, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_agrees_with_double_on_strided_rows),
        cmocka_unit_test(norm_has_the_same_bits_on_every_instruction_set_and_in_place),
        cmocka_unit_test(no_rows_need_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
