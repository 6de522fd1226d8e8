/* Rules of products: one order of additions, whatever the rows, the instruction set or the split. */
#include "tests/kernels/kernel_test.h"

static const struct {
    int64_t rows, n, k;
} shapes[] = {
    {1, 1, 1},     {1, 16, 16},   {1, 130, 67},  {2, 17, 5},    {3, 128, 300},  {4, 96, 40},
    {5, 200, 513}, {8, 33, 257},  {9, 48, 64},   {12, 128, 31}, {13, 144, 300}, {25, 20, 256},
    {97, 144, 45}, {200, 16, 90}, {98, 32, 515}, {0, 16, 16},   {3, 0, 16},     {3, 16, 0},
};
static const enum dtype dtypes[] = {DTYPE_BF16,    DTYPE_F16, DTYPE_F32,
                                    DTYPE_F8_E4M3, DTYPE_I4,  DTYPE_I8};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };
enum { N_OF_FLOATS = N_DTYPES - 1 }; /* I8 rounds x: test_product_i8.c has its definition */

static void multiply(const struct ops *ops, float *y, int64_t y_stride, const float *x,
                     int64_t rows, const struct matrix *w)
{
    struct tensor ty = tensor_2d(y, DTYPE_F32, rows, w->n);
    float *copy = floats(rows * w->k); /* const x: tensors are not */
    memcpy(copy, x, (size_t)(rows * w->k) * sizeof *x);
    struct tensor tx = tensor_2d(copy, DTYPE_F32, rows, w->k);
    ty.stride[0] = y_stride;
    assert_ok(ops->gemm(&ty, &tx, w, NULL));
    free(copy);
}

static double *product_in_double(const float *x, const float *w, int64_t rows, int64_t n, int64_t k)
{
    double *y = calloc((size_t)(rows * n) + 1, sizeof *y);
    assert_non_null(y);
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < k; j++)
                y[t * n + i] += (double)x[t * k + j] * (double)w[i * k + j];
    return y;
}

static void products_agree_with_double_and_do_not_write_past_a_row(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int d = 0; d < N_OF_FLOATS; d++) {
            int64_t rows = shapes[s].rows, n = shapes[s].n, k = shapes[s].k, stride = n + 3;
            struct weights w = weights_open(dtypes[d], 1, n, k, 1 + s);
            float *x = random_floats(rows * k, 100 + s);
            double *expected = product_in_double(x, w.values, rows, n, k);
            for (int i = 0; i < ISA_COUNT; i++) {
                const struct ops *ops = cpu_ops_for(isa_names[i]);
                if (ops == NULL)
                    continue;
                float *y = floats(rows * stride);
                multiply(ops, y, stride, x, rows, &w.matrix);
                for (int64_t t = 0; t < rows; t++) {
                    assert_close(y + t * stride, expected + t * n, n, 2e-5);
                    for (int64_t j = n; j < stride; j++)
                        assert_true(isnan(y[t * stride + j]));
                }
                free(y);
            }
            free(x);
            free(expected);
            weights_close(&w);
        }
    }
}

/* The definition itself, for output row i and the columns of one unit: one chain of fmaf from 0 over k,
 * in order; of quantized weights one over the numbers of each group, and one over the groups. */
static float chain(const struct weights *w, int64_t i, const float *x)
{
    const struct matrix *m = &w->matrix;
    float sum = 0.0f, group_sum = 0.0f;
    for (int64_t j = 0; j < m->k; j++) {
        if (!matrix_is_quantized(m)) {
            sum = fmaf(w->values[i * m->k + j], x[j], sum);
            continue;
        }
        int64_t group = matrix_group(m, 0, j);
        unsigned code = (unsigned char)w->stored[i * m->k + j];
        float number = m->dtype == DTYPE_I4 ? (float)code - 8 : (float)f8_in_double(code);
        group_sum = fmaf(number, x[j], group_sum);
        if (j + 1 == m->k || matrix_group(m, 0, j + 1) != group) {
            sum = fmaf(w->scales[i * matrix_groups(m) + group], group_sum, sum);
            group_sum = 0.0f;
        }
    }
    return sum;
}

static void an_output_is_one_chain_of_fused_multiply_adds(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int d = 0; d < N_OF_FLOATS; d++) {
            int64_t rows = shapes[s].rows, n = shapes[s].n, k = shapes[s].k;
            struct weights w = weights_open(dtypes[d], 1, n, k, 1 + s);
            float *x = random_floats(rows * k, 100 + s), *expected = floats(rows * n);
            for (int64_t i = 0; i < rows * n; i++)
                expected[i] = chain(&w, i % n, x + i / n * k);
            for (int i = 0; i < ISA_COUNT; i++) {
                const struct ops *ops = cpu_ops_for(isa_names[i]);
                float *y = floats(rows * n);
                if (ops != NULL) {
                    multiply(ops, y, n, x, rows, &w.matrix);
                    assert_same_bits(y, expected, rows * n);
                }
                free(y);
            }
            free(x);
            free(expected);
            weights_close(&w);
        }
    }
}

/* Each type, then BF16 with input rows rounded to it. */
enum { N_KINDS = N_DTYPES + 1 };
static struct weights kind_open(size_t kind, int64_t n, int64_t k, uint64_t seed)
{
    struct weights w = weights_open(kind == N_DTYPES ? DTYPE_BF16 : dtypes[kind], 1, n, k, seed);
    if (kind == N_DTYPES)
        w.matrix.input = DTYPE_BF16;
    return w;
}

static void one_row_alone_has_the_bits_it_has_among_512(void **state)
{
    (void)state;
    enum { ROWS = 512, N = 50, K = 60 };
    for (int i = 0; i < ISA_COUNT + N_KINDS; i++) { /* each set, then each kind with the best */
        const struct ops *ops = i < ISA_COUNT ? cpu_ops_for(isa_names[i]) : cpu_ops();
        if (ops == NULL)
            continue;
        struct weights w = kind_open(i < ISA_COUNT ? 0 : (size_t)(i - ISA_COUNT), N, K, 7);
        w.matrix.units = units_of_span(12, 0, 12, 5);
        float *x = random_floats(ROWS * K, 8);
        float *all = floats(ROWS * N), *few = floats(ROWS * N);
        multiply(ops, all, N, x, ROWS, &w.matrix);
        for (int64_t t = 0, rows = 1; t < ROWS; t += rows, rows = rows % 40 + 1) {
            rows = rows < ROWS - t ? rows : ROWS - t;
            multiply(ops, few, N, x + t * K, rows, &w.matrix);
            assert_same_bits(few, all + t * N, rows * N);
        }
        free(all);
        free(few);
        free(x);
        weights_close(&w);
    }
}

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t rows = shapes[s].rows, n = shapes[s].n, k = shapes[s].k;
        struct weights w = weights_open(dtypes[s % N_DTYPES], 1, n, k, s);
        float *x = random_floats(rows * k, s), *first = floats(rows * n), *y = floats(rows * n);
        w.matrix.units = units_of_span(k, 0, k, 1);
        cpu_threads_close();
        multiply(cpu_ops(), first, n, x, rows, &w.matrix);
        for (int threads = 2; threads <= THREAD_COUNTS; threads++) {
            assert_ok(cpu_threads_open(threads));
            multiply(cpu_ops(), y, n, x, rows, &w.matrix);
            assert_same_bits(y, first, rows * n);
            cpu_threads_close();
        }
        free(x);
        free(y);
        free(first);
        weights_close(&w);
    }
}

/* a + b, NULL being an empty unit; takes over both */
static float *meet(float *a, float *b, int64_t count)
{
    if (a == NULL || b == NULL)
        return a == NULL ? b : a;
    for (int64_t i = 0; i < count; i++)
        a[i] += b[i];
    free(b);
    return a;
}

static void sums_of_ranks_along_the_tree_are_the_whole(void **state)
{
    (void)state;
    static const int64_t items_of[] = {40, 5, 8, 1, 13, 24, 21};
    enum { N = 37, WIDTH = 6 };
    for (size_t c = 0; c < sizeof items_of / sizeof items_of[0]; c++) {
        for (int64_t rows = 1; rows < 40; rows += 12) {
            int64_t items = items_of[c], k = items * WIDTH;
            struct weights w = kind_open(c, N, k, c); /* as many kinds as counts */
            float *x = random_floats(rows * k, 50 + c), *whole = floats(rows * N);
            w.matrix.units = units_of_span(items, 0, items, WIDTH);
            multiply(cpu_ops(), whole, N, x, rows, &w.matrix);
            for (int ranks = 2; ranks <= UNITS; ranks *= 2) {
                float *sum[UNITS] = {NULL};
                for (int r = 0; r < ranks; r++) {
                    int64_t begin = unit_begin(r * UNITS / ranks, items);
                    int64_t end = unit_begin((r + 1) * UNITS / ranks, items);
                    int64_t columns = (end - begin) * WIDTH;
                    if (columns == 0)
                        continue;
                    struct weights part = weights_columns(&w, begin * WIDTH, end * WIDTH);
                    part.matrix.units = units_of_span(items, begin, end, WIDTH);
                    float *own = floats(rows * columns);
                    for (int64_t t = 0; t < rows; t++)
                        memcpy(own + t * columns, x + t * k + begin * WIDTH,
                               (size_t)columns * sizeof *x);
                    sum[r] = floats(rows * N);
                    multiply(cpu_ops(), sum[r], N, own, rows, &part.matrix);
                    free(own);
                    weights_close(&part);
                }
                for (int step = 1; step < ranks; step *= 2)
                    for (int r = 0; r < ranks; r += 2 * step)
                        sum[r] = meet(sum[r], sum[r + step], rows * N);
                assert_same_bits(sum[0], whole, rows * N);
                free(sum[0]);
            }
            free(x);
            free(whole);
            weights_close(&w);
        }
    }
}

static void each_head_multiplies_its_own_columns(void **state)
{
    (void)state;
    enum { T = 11, H = 3, N = 20, K = 24, GAP = 5 };
    for (int c = 0; c < 2 * N_OF_FLOATS; c++) {
        int heads = c % 2 == 0 ? 1 : H; /* one x for every head, or x for all heads */
        struct weights w = weights_open(dtypes[c / 2], H, N, K, 3);
        float *x = random_floats(T * (heads * K + GAP), 4), *y = floats(T * (H * N + GAP));
        struct tensor tx = tensor_3d(x, DTYPE_F32, T, heads, K);
        struct tensor ty = tensor_3d(y, DTYPE_F32, T, H, N);
        tx.stride[0] = heads * K + GAP;
        ty.stride[0] = H * N + GAP;
        assert_ok(cpu_ops()->gemm_heads(&ty, &tx, &w.matrix, NULL));
        for (int t = 0; t < T; t++) {
            for (int h = 0; h < H; h++) {
                const float *xh = tensor_f32_2(&tx, t, heads == 1 ? 0 : h);
                double *expected = product_in_double(xh, w.values + h * N * K, 1, N, K);
                assert_close(tensor_f32_2(&ty, t, h), expected, N, 1e-5);
                free(expected);
            }
            for (int j = 0; j < GAP; j++)
                assert_true(isnan(y[(t + 1) * (H * N + GAP) - GAP + j]));
        }
        free(x);
        free(y);
        weights_close(&w);
    }
}

static void no_tokens_or_no_heads_do_nothing(void **state)
{
    (void)state;
    struct matrix none = {.dtype = DTYPE_BF16, .count = 0, .n = 4, .k = 4};
    struct tensor y = tensor_3d(NULL, DTYPE_F32, 3, 0, 4), x = y;
    none.units = units_whole(4);
    assert_ok(cpu_ops()->gemm_heads(&y, &x, &none, NULL));
    struct weights w = weights_open(DTYPE_BF16, 1, 4, 4, 1);
    y = x = tensor_2d(NULL, DTYPE_F32, 0, 4);
    assert_ok(cpu_ops()->gemm(&y, &x, &w.matrix, NULL));
    weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_double_and_do_not_write_past_a_row),
        cmocka_unit_test(an_output_is_one_chain_of_fused_multiply_adds),
        cmocka_unit_test(one_row_alone_has_the_bits_it_has_among_512),
        cmocka_unit_test(sums_of_ranks_along_the_tree_are_the_whole),
        cmocka_unit_test(each_head_multiplies_its_own_columns),
        cmocka_unit_test(no_tokens_or_no_heads_do_nothing),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
    };
    const struct CMUnitTest threads[] = {
        cmocka_unit_test(products_agree_with_double_and_do_not_write_past_a_row),
        cmocka_unit_test(each_head_multiplies_its_own_columns),
        cmocka_unit_test(no_tokens_or_no_heads_do_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) +
           cmocka_run_group_tests_name("three threads", threads, open_three_threads, close_threads);
}
