/* Rules of rotary positions. */
#include "tests/kernels/kernel_test.h"

enum { T = 4, H = 3, D = 8, POSITIONS = 50 };

static double angle(int64_t position, int64_t j)
{
    return (double)position * pow(10000.0, -2.0 * (double)j / D);
}

static struct tensor table(float *values)
{
    for (int p = 0; p < POSITIONS; p++) {
        for (int j = 0; j < D / 2; j++) {
            values[p * D + 2 * j] = (float)cos(angle(p, j));
            values[p * D + 2 * j + 1] = (float)sin(angle(p, j));
        }
    }
    return tensor_2d(values, DTYPE_F32, POSITIONS, D);
}

/* (x_2j + i x_2j+1) e^(i angle), pairs side by side and not halves */
static void pairs_turn_by_the_angle_of_their_token(void **state)
{
    (void)state;
    int32_t positions[T] = {0, 1, 17, 49};
    float values[POSITIONS * D], y[T * H * D];
    struct tensor cos_sin = table(values), position = tensor_1d(positions, DTYPE_I32, T);
    enum { WIDTH = H * (D + 4) }; /* as in a row of queries: NoPE numbers stand between */
    float *x = random_floats(T * WIDTH, 1);
    struct tensor tx = tensor_3d(x, DTYPE_F32, T, H, D), ty = tensor_3d(y, DTYPE_F32, T, H, D);
    tx.stride[0] = WIDTH;
    tx.stride[1] = D + 4;
    assert_ok(cpu_ops()->rope(&ty, &tx, &position, &cos_sin, NULL));
    for (int t = 0; t < T; t++) {
        for (int h = 0; h < H; h++) {
            double expected[D];
            const float *from = tensor_f32_2(&tx, t, h);
            for (int j = 0; j < D / 2; j++) {
                double a = angle(positions[t], j), even = (double)from[2 * j];
                double odd = (double)from[2 * j + 1];
                expected[2 * j] = even * cos(a) - odd * sin(a);
                expected[2 * j + 1] = even * sin(a) + odd * cos(a);
            }
            assert_close(tensor_f32_2(&ty, t, h), expected, D, 1e-6);
        }
    }
    assert_ok(cpu_ops()->rope(&tx, &tx, &position, &cos_sin, NULL)); /* in place */
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++)
            assert_same_bits(tensor_f32_2(&tx, t, h), tensor_f32_2(&ty, t, h), D);
    free(x);
}

/* The property RoPE is made for: q at m times k at n depends on m - n alone. */
static void products_depend_on_the_distance_alone(void **state)
{
    (void)state;
    int32_t positions[4] = {5, 2, 40, 37};
    float values[POSITIONS * D], *q = random_floats(D, 1), *k = random_floats(D, 2), x[4 * D];
    for (int i = 0; i < 4; i++)
        memcpy(x + i * D, i % 2 == 0 ? q : k, D * sizeof *x);
    struct tensor cos_sin = table(values), position = tensor_1d(positions, DTYPE_I32, 4);
    struct tensor tx = tensor_3d(x, DTYPE_F32, 4, 1, D);
    assert_ok(cpu_ops()->rope(&tx, &tx, &position, &cos_sin, NULL));
    double near = 0.0, far = 0.0;
    for (int j = 0; j < D; j++) {
        near += (double)x[j] * (double)x[D + j];
        far += (double)x[2 * D + j] * (double)x[3 * D + j];
    }
    assert_true(fabs(near - far) < 1e-5);
    free(q);
    free(k);
}

static void a_position_past_the_table_is_refused(void **state)
{
    (void)state;
    int32_t positions[1] = {POSITIONS};
    float values[POSITIONS * D], x[D] = {0};
    struct tensor cos_sin = table(values), position = tensor_1d(positions, DTYPE_I32, 1);
    struct tensor tx = tensor_3d(x, DTYPE_F32, 1, 1, D);
    assert_int_equal(cpu_ops()->rope(&tx, &tx, &position, &cos_sin, NULL), STATUS_INVALID);
    positions[0] = -1;
    assert_int_equal(cpu_ops()->rope(&tx, &tx, &position, &cos_sin, NULL), STATUS_INVALID);
    tx = tensor_3d(NULL, DTYPE_F32, 0, 1, D);
    assert_ok(
        cpu_ops()->rope(&tx, &tx, &(struct tensor){.dtype = DTYPE_I32, .ndim = 1}, &cos_sin, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_turn_by_the_angle_of_their_token),
        cmocka_unit_test(products_depend_on_the_distance_alone),
        cmocka_unit_test(a_position_past_the_table_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
