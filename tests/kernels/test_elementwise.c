/* Rules of embed, add, add_bias and swiglu. */
#include "tests/kernels/kernel_test.h"

enum { ROWS = 3, N = 37, STRIDE = 40 };

static struct tensor strided(float *x)
{
    struct tensor t = tensor_2d(x, DTYPE_F32, ROWS, N);
    t.stride[0] = STRIDE;
    return t;
}

static void ids_held_elsewhere_embed_to_zero(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    int32_t id[5] = {10, 9, 13, 14, 12};
    enum { FIRST = 10, TABLE = 4, D = 6 };
    for (int d = 0; d < 3; d++) {
        float *values = random_floats(TABLE * D, 1), y[5 * D];
        uint32_t stored[TABLE * D];
        dtype_from_f32(stored, dtypes[d], values, TABLE * D);
        dtype_to_f32(values, stored, dtypes[d], TABLE * D);
        struct tensor ty = tensor_2d(y, DTYPE_F32, 5, D), ids = tensor_1d(id, DTYPE_I32, 5);
        struct tensor table = tensor_2d(stored, dtypes[d], TABLE, D);
        assert_ok(cpu_ops()->embed(&ty, &ids, &table, FIRST, NULL));
        for (int t = 0; t < 5; t++)
            for (int j = 0; j < D; j++)
                assert_true(y[t * D + j] == (id[t] < FIRST || id[t] >= FIRST + TABLE
                                                 ? 0.0f
                                                 : values[(id[t] - FIRST) * D + j]));
        table = tensor_2d(NULL, dtypes[d], 0, D); /* a rank without rows of the table */
        assert_ok(cpu_ops()->embed(&ty, &ids, &table, FIRST, NULL));
        for (int j = 0; j < 5 * D; j++)
            assert_true(y[j] == 0.0f);
        free(values);
    }
}

static void sums_touch_their_rows_only(void **state)
{
    (void)state;
    float *x = random_floats(ROWS * STRIDE, 1), *y = random_floats(ROWS * STRIDE, 2);
    float *before = random_floats(ROWS * STRIDE, 1);
    struct tensor tx = strided(x), ty = strided(y), bias = tensor_1d(y, DTYPE_F32, N);
    assert_ok(cpu_ops()->add(&tx, &ty, NULL));
    for (int i = 0; i < ROWS * STRIDE; i++)
        assert_true(x[i] == (i % STRIDE < N ? before[i] + y[i] : before[i]));
    memcpy(before, x, ROWS * STRIDE * sizeof *x);
    assert_ok(cpu_ops()->add_bias(&tx, &bias, NULL));
    for (int i = 0; i < ROWS * STRIDE; i++)
        assert_true(x[i] == (i % STRIDE < N ? before[i] + y[i % STRIDE] : before[i]));
    free(x);
    free(y);
    free(before);
}

/* Heads of tokens to tokens of heads and back; what lies between stays. */
static void a_copy_moves_rows_only(void **state)
{
    (void)state;
    float *x = random_floats(ROWS * STRIDE, 1), *y = random_floats(ROWS * STRIDE, 2);
    float *before = random_floats(ROWS * STRIDE, 2);
    enum { OUTER = ROWS / 2, INNER = 2 };
    struct tensor from = tensor_3d(x, DTYPE_F32, OUTER, INNER, N), to = from;
    from.stride[0] = INNER * STRIDE;
    from.stride[1] = STRIDE;
    to.data = y;
    to.stride[0] = STRIDE;
    to.stride[1] = OUTER * STRIDE;
    assert_ok(cpu_ops()->copy(&to, &from, NULL));
    for (int i = 0; i < OUTER * INNER * STRIDE; i++) {
        int row = i / STRIDE, outer = row % OUTER, inner = row / OUTER, at = i % STRIDE;
        assert_true(y[i] == (at < N ? x[(outer * INNER + inner) * STRIDE + at] : before[i]));
    }
    free(x);
    free(y);
    free(before);
}

static void swiglu_agrees_with_double_in_place(void **state)
{
    (void)state;
    for (int i = 0; i < ISA_COUNT; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i]);
        if (ops == NULL)
            continue;
        float *gate = random_floats(ROWS * STRIDE, 1), *up = random_floats(ROWS * STRIDE, 2);
        float *before = random_floats(ROWS * STRIDE, 1);
        struct tensor g = strided(gate), u = strided(up);
        assert_ok(ops->swiglu(&g, &g, &u, NULL));
        for (int k = 0; k < ROWS * STRIDE; k++) {
            double x = (double)before[k], expected = x / (1.0 + exp(-x)) * (double)up[k];
            if (k % STRIDE < N)
                assert_close(gate + k, &expected, 1, 1e-6);
            else
                assert_true(gate[k] == before[k]);
        }
        free(gate);
        free(up);
        free(before);
    }
}

static void empty_tensors_need_no_memory(void **state)
{
    (void)state;
    struct tensor none = tensor_2d(NULL, DTYPE_F32, 0, 5),
                  narrow = tensor_2d(NULL, DTYPE_F32, 5, 0);
    struct tensor ids = tensor_1d(NULL, DTYPE_I32, 0), bias = tensor_1d(NULL, DTYPE_F32, 0);
    struct tensor table = tensor_2d(NULL, DTYPE_BF16, 0, 5);
    assert_ok(cpu_ops()->embed(&none, &ids, &table, 0, NULL));
    assert_ok(cpu_ops()->add(&none, &none, NULL));
    assert_ok(cpu_ops()->add(&narrow, &narrow, NULL));
    assert_ok(cpu_ops()->add_bias(&narrow, &bias, NULL));
    assert_ok(cpu_ops()->swiglu(&none, &none, &none, NULL));
    assert_ok(cpu_ops()->swiglu(&narrow, &narrow, &narrow, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_held_elsewhere_embed_to_zero),
        cmocka_unit_test(sums_touch_their_rows_only),
        cmocka_unit_test(a_copy_moves_rows_only),
        cmocka_unit_test(swiglu_agrees_with_double_in_place),
        cmocka_unit_test(empty_tensors_need_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
