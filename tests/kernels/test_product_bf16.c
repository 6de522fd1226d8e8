/* Rules of products in bf16 arithmetic: the definition of matrix.h, bit by bit, in every form. */
#include "tests/kernels/product_test.h"

void product_form_plain(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                        const struct matrix *w, int64_t begin, int64_t end);
#if defined(__x86_64__)
void product_form_avx2(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                       const struct matrix *w, int64_t begin, int64_t end);
void product_form_avx512(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows,
                         const struct matrix *w, int64_t begin, int64_t end);
void product_form_avx512bf16(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                             int64_t rows, const struct matrix *w, int64_t begin, int64_t end);
#endif

static int forms(product_form form[4])
{
    int n = 0;
    form[n++] = product_form_plain;
#if defined(__x86_64__)
    if (cpu_ops_for("avx2") != NULL)
        form[n++] = product_form_avx2;
    if (cpu_ops_for("avx512") != NULL)
        form[n++] = product_form_avx512;
    if (cpu_ops_for("avx512") != NULL && __builtin_cpu_supports("avx512bf16"))
        form[n++] = product_form_avx512bf16;
#endif
    return n;
}

static float flushed(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* x as the nearest bf16, ties to even: all numbers of both types are exact in double. */
static float rounded(float x)
{
    int exponent;
    x = flushed(x);
    if (x == 0.0f || !isfinite(x))
        return x;
    double fraction = frexp((double)x, &exponent); /* 8 bits of it stay */
    return (float)ldexp(nearbyint(ldexp(fraction, 8)), exponent - 8);
}

/* fma(a, b, c), 0 where it is below 2^-126 with 24 bits and any exponent.  Small ones are computed 2^100
 * times as large: that is the number with any exponent. */
static float add_product(float a, float b, float c)
{
    int of_a, of_b;
    double product = fabs((double)a * (double)b);
    if (!(fabsf(c) < 0x1p-20f && product > 0.0 && product < 0x1p-20))
        return fmaf(a, b, c);
    a = frexpf(a, &of_a);
    b = frexpf(b, &of_b);
    float large = fmaf(a, ldexpf(b, of_a + of_b + 100), c * 0x1p100f);
    return fabsf(large) < 0x1p-26f ? copysignf(0.0f, large) : ldexpf(large, -100);
}

/* Column j of output i times x, where it is in the unit [begin, end). */
static float add_column(float sum, const struct weights *w, int64_t i, const float *x, int64_t j,
                        int64_t begin, int64_t end)
{
    if (j >= w->matrix.k)
        return sum; /* weights and x are 0 there */
    float xj = begin <= j && j < end ? rounded(x[j]) : 0.0f;
    return add_product(flushed(w->values[i * w->matrix.k + j]), xj, sum);
}

static float unit_sum(const struct weights *w, int64_t i, const float *x, int64_t begin,
                      int64_t end)
{
    float sum = 0.0f;
    for (int64_t j = begin / 2 * 2; j < end; j += 2) {
        sum = add_column(sum, w, i, x, j + 1, begin, end);
        sum = add_column(sum, w, i, x, j, begin, end);
    }
    return sum;
}

static struct weights bf16_open(int count, int64_t n, int64_t k, uint64_t seed)
{
    struct weights w = weights_open(DTYPE_BF16, count, n, k, seed);
    w.matrix.input = DTYPE_BF16;
    return w;
}

/* The same with these numbers as weights. */
static void set_values(struct weights *w, const float *values)
{
    int64_t count = w->matrix.count * w->matrix.n * w->matrix.k;
    dtype_from_f32(w->stored, DTYPE_BF16, values, count);
    dtype_to_f32(w->values, w->stored, DTYPE_BF16, count);
    free(w->matrix.data);
    free(w->matrix.scales.data);
    weights_pack(w);
}

static void every_form_gives_the_bits_of_the_definition(void **state)
{
    (void)state;
    static const struct {
        int64_t rows, n, k;
    } shapes[] = {{1, 1, 1},    {1, 16, 2},    {1, 130, 67},  {1, 70, 1030}, {2, 17, 5},
                  {3, 128, 30}, {4, 96, 40},   {5, 50, 513},  {6, 64, 512},  {7, 80, 3},
                  {8, 33, 257}, {9, 48, 1025}, {10, 300, 64}, {11, 40, 129}, {16, 273, 77},
                  {99, 34, 45}, {100, 20, 31}, {101, 16, 90}, {205, 17, 21}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct weights w = bf16_open(1, shapes[s].n, shapes[s].k, 1 + s);
        float *x = random_floats(shapes[s].rows * shapes[s].k, 100 + s);
        check(&w, x, shapes[s].rows);
        free(x);
        weights_close(&w);
    }
}

static void units_cut_pairs_anywhere(void **state)
{
    (void)state;
    enum { N = 20, K = 61 };
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct weights w = bf16_open(1, N, K, seed);
        int64_t rows = 1 + (int64_t)(seed % 14);
        float *x = random_floats(rows * K, seed);
        cut_units(&w.matrix, seed);
        check(&w, x, rows);
        free(x);
        weights_close(&w);
    }
}

/* Random numbers times 2^[least, least + range). */
static float *scaled_floats(int64_t count, int least, unsigned range, uint64_t seed)
{
    float *x = random_floats(count, seed);
    for (int64_t i = 0; i < count; i++)
        x[i] = ldexpf(x[i], least + (int)(random_bits(&seed) % range));
    return x;
}

/* Sums near 2^-126 from either side, and numbers below it. */
static void tiny_numbers_and_sums_are_flushed_as_defined(void **state)
{
    (void)state;
    enum { N = 64, K = 8, ROWS = 23 };
    static const int least[][2] = {{-64, -66}, {-126, -2}, {-130, 0}, {0, -140}, {-20, -110}};
    for (size_t s = 0; s < sizeof least / sizeof least[0]; s++) {
        for (uint64_t seed = 1; seed <= 8; seed++) {
            struct weights w = bf16_open(1, N, K, seed);
            float *values = scaled_floats(N * K, least[s][0], 6, seed);
            float *x = scaled_floats(ROWS * K, least[s][1], 6, seed + 50);
            set_values(&w, values);
            check(&w, x, ROWS);
            free(values);
            free(x);
            weights_close(&w);
        }
    }
}

/* Any bits at all in x, weights from 2^-126 to the largest: infinities and NaN come out alike, too. */
static void random_bits_give_the_same_in_every_form(void **state)
{
    (void)state;
    enum { N = 64, K = 6, ROWS = 23 };
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct weights w = bf16_open(1, N, K, seed);
        float *values = scaled_floats(N * K, -126, 254, seed);
        float *x = random_floats(ROWS * K, seed);
        uint64_t random = seed;
        for (int64_t i = 0; i < ROWS * K; i++) {
            uint32_t bits = (uint32_t)random_bits(&random);
            memcpy(x + i, &bits, sizeof bits);
        }
        set_values(&w, values);
        check(&w, x, ROWS);
        free(values);
        free(x);
        weights_close(&w);
    }
}

/* Ties, the numbers beside them, and what rounds to infinity or from below 2^-126. */
static void inputs_are_rounded_to_the_nearest_even(void **state)
{
    (void)state;
    enum { N = 16, K = 36 };
    static const uint32_t upper[] = {0x3f80, 0x3f81, 0xbf7f, 0x0080, 0x007f, 0x7f7f,
                                     0xff7e, 0x0000, 0x8000, 0x7f80, 0xff80, 0x0100};
    static const uint32_t lower[] = {0x0000, 0x7fff, 0x8000, 0x8001, 0xffff, 0x0001};
    float x[K], values[N * K];
    for (size_t u = 0; u < sizeof upper / sizeof upper[0]; u++) {
        for (size_t l = 0; l < sizeof lower / sizeof lower[0]; l++) {
            struct weights w = bf16_open(1, N, K, 3);
            uint32_t bits = upper[u] << 16 | lower[l];
            memset(x, 0, sizeof x);
            memcpy(&x[(u * 5 + l) % K], &bits, sizeof bits);
            for (int i = 0; i < N * K; i++)
                values[i] = i / K % 2 ? 1.0f : -0.5f;
            set_values(&w, values);
            check(&w, x, 1);
            weights_close(&w);
        }
    }
}

/* 2^-9 of each |w x| at most for the rounding of x, and f32 sums. */
static void rounding_costs_half_a_unit_of_bf16_in_each_input(void **state)
{
    (void)state;
    enum { N = 64, K = 1024 };
    struct weights w = bf16_open(1, N, K, 8);
    float *x = random_floats(K, 9), y[N];
    double error = 0.0, size = 0.0;
    product_form_plain(y, N, x, K, 1, &w.matrix, 0, matrix_blocks(&w.matrix));
    for (int64_t i = 0; i < N; i++) {
        double sum = 0.0, most = 0.0;
        for (int64_t j = 0; j < K; j++) {
            double term = (double)w.values[i * K + j] * (double)x[j];
            sum += term;
            most += fabs(term);
        }
        assert_true(fabs(sum - (double)y[i]) <= most * (0x1p-9 + K * 0x1p-24));
        error += (sum - (double)y[i]) * (sum - (double)y[i]);
        size += sum * sum;
    }
    assert_true(sqrt(error / size) < 0x1p-9);
    assert_true(sqrt(error / size) > 0x1p-12); /* x is rounded */
    free(x);
    weights_close(&w);
}

static void the_table_multiplies_each_head_and_any_threads_alike(void **state)
{
    (void)state;
    struct weights w = bf16_open(3, 20, 27, 3);
    check_heads(&w);
    weights_close(&w);
}

/* Flushing stays inside products: a sum after one keeps its numbers below 2^-126. */
static void numbers_below_2_to_the_minus_126_live_on_outside(void **state)
{
    (void)state;
    struct weights w = bf16_open(1, 16, 4, 3);
    float x[4] = {1, 2, 3, 4}, y[16];
    volatile float tiny = 0x1p-127f;
    product_form form[4];
    int n_forms = forms(form);
    for (int f = 0; f < n_forms; f++) {
        form[f](y, 16, x, 4, 1, &w.matrix, 0, 1);
        assert_true(tiny + tiny == 0x1p-126f && tiny / 2 > 0.0f);
    }
    weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_gives_the_bits_of_the_definition),
        cmocka_unit_test(units_cut_pairs_anywhere),
        cmocka_unit_test(tiny_numbers_and_sums_are_flushed_as_defined),
        cmocka_unit_test(random_bits_give_the_same_in_every_form),
        cmocka_unit_test(inputs_are_rounded_to_the_nearest_even),
        cmocka_unit_test(rounding_costs_half_a_unit_of_bf16_in_each_input),
        cmocka_unit_test(the_table_multiplies_each_head_and_any_threads_alike),
        cmocka_unit_test(numbers_below_2_to_the_minus_126_live_on_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
