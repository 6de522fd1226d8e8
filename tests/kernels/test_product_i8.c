/* Rules of products in integers: the definition of matrix.h, bit by bit, in every form. */
#include "tests/kernels/product_test.h"

void product_i8_form_plain(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                           int64_t rows, const struct matrix *w, int64_t begin, int64_t end);
#if defined(__x86_64__)
void product_i8_form_avx2(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                          int64_t rows, const struct matrix *w, int64_t begin, int64_t end);
void product_i8_form_avx512(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                            int64_t rows, const struct matrix *w, int64_t begin, int64_t end);
void product_i8_form_avx512vnni(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                                int64_t rows, const struct matrix *w, int64_t begin, int64_t end);
#endif

/* The forms that this CPU can run. */
static int forms(product_form form[4])
{
    int n = 0;
    form[n++] = product_i8_form_plain;
#if defined(__x86_64__)
    if (cpu_ops_for("avx2") != NULL)
        form[n++] = product_i8_form_avx2;
    if (cpu_ops_for("avx512") != NULL)
        form[n++] = product_i8_form_avx512;
    if (cpu_ops_for("avx512") != NULL && __builtin_cpu_supports("avx512vnni"))
        form[n++] = product_i8_form_avx512vnni;
#endif
    return n;
}

/* One term of the chain: the columns [begin, end) of output i, all of one run. */
static float add_run(float sum, const struct weights *w, int64_t i, const float *x, int64_t begin,
                     int64_t end)
{
    const struct matrix *m = &w->matrix;
    float largest = 0.0f, x_scale = 0.0f, scale, dot;
    int64_t integer = 0;
    for (int64_t j = begin; j < end; j++) {
        if (!isfinite(x[j]))
            x_scale = NAN;
        largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
    }
    if (!isnan(x_scale) && largest >= 0x1p-100f) {
        float factor = 127.0f / largest;
        x_scale = largest / 127.0f;
        for (int64_t j = begin; j < end; j++) {
            float number = x[j] * factor;
            int64_t code = (unsigned char)w->stored[i * m->k + j];
            integer += (code - 128) * (int64_t)nearbyintf(number);
        }
    }
    scale = w->scales[i * matrix_groups(m) + matrix_group(m, 0, begin)] * x_scale;
    dot = (float)integer;
    return fmaf(scale, dot, sum);
}

static float unit_sum(const struct weights *w, int64_t i, const float *x, int64_t begin,
                      int64_t end)
{
    const struct matrix *m = &w->matrix;
    float sum = 0.0f;
    for (int64_t j = begin; j < end;) {
        int64_t next = j + 1;
        while (next < end && matrix_group(m, 0, next) == matrix_group(m, 0, j))
            next++;
        sum = add_run(sum, w, i, x, j, next);
        j = next;
    }
    return sum;
}

/* The columns of a group, where the first begins, and what the scales are stored as. */
static void regroup(struct weights *w, int64_t step, int64_t first, enum dtype scales,
                    uint64_t seed)
{
    struct matrix *m = &w->matrix;
    m->scales.step = step;
    m->scales.first = first;
    m->scales.dtype = scales;
    int64_t count = m->count * m->n * matrix_groups(m);
    free(w->scales);
    free(m->data);
    free(m->scales.data);
    w->scales = random_floats(count, seed);
    for (int64_t i = 0; i < count; i++)
        w->scales[i] = bf16_to_f32(bf16_from_f32(0.01f + fabsf(w->scales[i]) / 64));
    weights_pack(w);
}

static void every_form_gives_the_bits_of_the_definition(void **state)
{
    (void)state;
    static const struct {
        int64_t rows, n, k, step, first;
    } shapes[] = {
        {1, 1, 1, 128, 0},      {1, 16, 16, 128, 0},   {1, 130, 67, 16, 5},
        {2, 17, 5, 1, 0},       {3, 128, 300, 128, 1}, {4, 96, 40, 7, 6},
        {5, 50, 513, 128, 127}, {8, 33, 257, 64, 2},   {9, 48, 64, 3, 1},
        {11, 40, 129, 32, 31},  {12, 64, 31, 128, 0},  {13, 20, 1100, 1024, 9},
        {25, 20, 256, 128, 64}, {97, 34, 45, 20, 0},   {200, 16, 90, 13, 4},
        {513, 17, 21, 8, 3},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t rows = shapes[s].rows, k = shapes[s].k;
        struct weights w = weights_open(DTYPE_I8, 1, shapes[s].n, k, 1 + s);
        regroup(&w, shapes[s].step, shapes[s].first, s % 2 ? DTYPE_BF16 : DTYPE_F32, s);
        float *x = random_floats(rows * k, 100 + s);
        check(&w, x, rows);
        free(x);
        weights_close(&w);
    }
}

static void units_cut_runs_anywhere(void **state)
{
    (void)state;
    enum { N = 20, K = 61 };
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct weights w = weights_open(DTYPE_I8, 1, N, K, seed);
        regroup(&w, 1 + (int64_t)(seed % 24), (int64_t)(seed % 5 % (1 + seed % 24)), DTYPE_F32,
                seed);
        cut_units(&w.matrix, seed);
        int64_t rows = 1 + (int64_t)(seed % 14);
        float *x = random_floats(rows * K, seed);
        check(&w, x, rows);
        free(x);
        weights_close(&w);
    }
}

/* Rows of this width fill the panel by the dozen, so there are several. */
static void wide_rows_go_in_parts(void **state)
{
    (void)state;
    enum { N = 17, K = 1 << 16, ROWS = 26 };
    struct weights w = weights_open(DTYPE_I8, 1, N, K, 1);
    regroup(&w, 128, 3, DTYPE_F32, 2);
    w.matrix.units = units_of_span(K / 8, 0, K / 8, 8);
    float *x = random_floats(ROWS * K, 3), *expected = floats(0);
    product_form form[4];
    int n_forms = forms(form);
    free(expected);
    expected = defined_product(&w, x, ROWS);
    for (int f = n_forms > 1; f < n_forms; f++) {
        float *y = floats(ROWS * N);
        form[f](y, N, x, K, ROWS, &w.matrix, 0, matrix_blocks(&w.matrix));
        assert_same(y, expected, ROWS * N);
        free(y);
    }
    free(x);
    free(expected);
    weights_close(&w);
}

static void rows_of_zeros_tiny_and_huge_numbers_keep_the_definition(void **state)
{
    (void)state;
    enum { N = 20, K = 200, ROWS = 14 };
    static const float special[] = {0.0f,       -0.0f,    0x1p-149f, 0x1p-101f, 0x1p-100f,
                                    0x1.8p-99f, 0x1p-60f, 0x1p60f,   1e38f,     3.4e38f};
    struct weights w = weights_open(DTYPE_I8, 1, N, K, 5);
    regroup(&w, 64, 10, DTYPE_F32, 6);
    for (int64_t i = 0; i < N * matrix_groups(&w.matrix); i += 3)
        w.scales[i] = 0.0f;
    free(w.matrix.data);
    free(w.matrix.scales.data);
    weights_pack(&w);
    for (size_t s = 0; s < sizeof special / sizeof special[0]; s++) {
        float *x = random_floats(ROWS * K, 7);
        for (int64_t i = 0; i < ROWS * K; i++)
            if (i % K < 60 || i / K % 2 == 0)
                x[i] *= special[s];
        check(&w, x, ROWS);
        for (int64_t i = 0; i < ROWS * K; i++) /* halves: ties go to the even number */
            x[i] = (float)(i % 255 - 127) * 0.5f * (i % K == 0 ? 1.0f : 2.0f);
        check(&w, x, ROWS);
        free(x);
    }
    weights_close(&w);
}

static void an_infinity_or_nan_makes_its_row_nan_and_no_other(void **state)
{
    (void)state;
    enum { N = 40, K = 150, ROWS = 5 };
    struct weights w = weights_open(DTYPE_I8, 1, N, K, 5);
    regroup(&w, 128, 0, DTYPE_F32, 6);
    for (int bad = 0; bad < 3; bad++) {
        for (int64_t at = 0; at < K; at += 37) {
            float *x = random_floats(ROWS * K, 7), y[ROWS * N];
            product_form form[4];
            int n_forms = forms(form);
            x[2 * K + at] = bad == 0 ? NAN : bad == 1 ? INFINITY : -INFINITY;
            check(&w, x, ROWS);
            for (int f = 0; f < n_forms; f++) {
                form[f](y, N, x, K, ROWS, &w.matrix, 0, matrix_blocks(&w.matrix));
                for (int i = 0; i < ROWS * N; i++)
                    assert_int_equal(isnan(y[i]), i / N == 2);
            }
            free(x);
        }
    }
    weights_close(&w);
}

/* 8 bits a number: a product of random numbers is as close to that of the weights and x as they allow. */
static void rounding_x_costs_less_than_a_hundredth(void **state)
{
    (void)state;
    enum { N = 64, K = 1024 };
    struct weights w = weights_open(DTYPE_I8, 1, N, K, 8);
    float *x = random_floats(K, 9), y[N];
    double error = 0.0, size = 0.0;
    regroup(&w, 128, 0, DTYPE_F32, 10);
    product_i8_form_plain(y, N, x, K, 1, &w.matrix, 0, matrix_blocks(&w.matrix));
    for (int64_t i = 0; i < N; i++) {
        double sum = 0.0;
        for (int64_t j = 0; j < K; j++)
            sum += (double)w.scales[i * 8 + j / 128] * ((unsigned char)w.stored[i * K + j] - 128) *
                   (double)x[j];
        error += (sum - (double)y[i]) * (sum - (double)y[i]);
        size += sum * sum;
    }
    assert_true(sqrt(error / size) < 0.01);
    free(x);
    weights_close(&w);
}

static void the_table_multiplies_each_head_and_any_threads_alike(void **state)
{
    (void)state;
    struct weights w = weights_open(DTYPE_I8, 3, 20, 24, 3);
    check_heads(&w);
    weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_gives_the_bits_of_the_definition),
        cmocka_unit_test(units_cut_runs_anywhere),
        cmocka_unit_test(wide_rows_go_in_parts),
        cmocka_unit_test(rows_of_zeros_tiny_and_huge_numbers_keep_the_definition),
        cmocka_unit_test(an_infinity_or_nan_makes_its_row_nan_and_no_other),
        cmocka_unit_test(rounding_x_costs_less_than_a_hundredth),
        cmocka_unit_test(the_table_multiplies_each_head_and_any_threads_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
