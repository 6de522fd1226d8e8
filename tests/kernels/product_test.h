/* product_test.h - what the tests of products with a definition of their own share: every form of the product
 * must give its bits. */
#ifndef TESTS_KERNELS_PRODUCT_TEST_H
#define TESTS_KERNELS_PRODUCT_TEST_H

#include "tests/kernels/kernel_test.h"

typedef void (*product_form)(float *y, int64_t y_stride, const float *x, int64_t x_stride,
                             int64_t rows, const struct matrix *w, int64_t begin, int64_t end);

/* Of the test that includes this: the forms that this CPU can run, and the sum of the unit [begin, end) of
 * output i, as matrix.h defines it. */
static int forms(product_form form[4]);
static float unit_sum(const struct weights *w, int64_t i, const float *x, int64_t begin,
                      int64_t end);

/* Output i of one row: units along the tree; *is_empty says that [u, u + n) has no columns. */
static inline float defined(const struct weights *w, int64_t i, const float *x, int u, int n,
                            int *is_empty)
{
    const struct matrix *m = &w->matrix;
    if (n > 1) {
        int left_empty, right_empty;
        float left = defined(w, i, x, u, n / 2, &left_empty);
        float right = defined(w, i, x, u + n / 2, n / 2, &right_empty);
        *is_empty = left_empty && right_empty;
        return left_empty ? right : right_empty ? left : left + right;
    }
    *is_empty = m->units.begin[u] == m->units.begin[u + 1];
    return unit_sum(w, i, x, m->units.begin[u], m->units.begin[u + 1]);
}

static inline float *defined_product(const struct weights *w, const float *x, int64_t rows)
{
    int64_t n = w->matrix.n;
    float *y = floats(rows * n);
    for (int64_t i = 0; i < rows * n; i++) {
        int is_empty;
        y[i] = defined(w, i % n, x + i / n * w->matrix.k, 0, UNITS, &is_empty);
    }
    return y;
}

/* NaN is NaN, whatever its bits. */
static inline void assert_same(const float *found, const float *expected, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (isnan(expected[i]) ? !isnan(found[i])
                               : memcmp(found + i, expected + i, sizeof *found) != 0)
            fail_msg("element %lld of %lld: found %.9g (%a), expected %.9g (%a)", (long long)i,
                     (long long)count, (double)found[i], (double)found[i], (double)expected[i],
                     (double)expected[i]);
}

/* Every form, all blocks at once and in two parts, writes the defined bits and nothing past a row. */
static inline void check(const struct weights *w, const float *x, int64_t rows)
{
    int64_t n = w->matrix.n, blocks = matrix_blocks(&w->matrix), stride = n + 3;
    float *expected = defined_product(w, x, rows);
    product_form form[4];
    int n_forms = forms(form);
    for (int f = 0; f < n_forms; f++) {
        for (int part = 0; part < 2; part++) { /* cut between bundles */
            int64_t cut = part * (blocks / 2 + 1) / MATRIX_BUNDLE * MATRIX_BUNDLE;
            float *y = floats(rows * stride);
            form[f](y, stride, x, w->matrix.k, rows, &w->matrix, 0, cut);
            form[f](y, stride, x, w->matrix.k, rows, &w->matrix, cut, blocks);
            for (int64_t t = 0; t < rows; t++) {
                assert_same(y + t * stride, expected + t * n, n);
                for (int64_t j = n; j < stride; j++)
                    assert_true(isnan(y[t * stride + j]));
            }
            free(y);
        }
    }
    free(expected);
}

/* Random units, some of them empty. */
static inline void cut_units(struct matrix *m, uint64_t seed)
{
    for (int u = 1; u < UNITS; u++) {
        int64_t more = (int64_t)(random_bits(&seed) % 18);
        m->units.begin[u] = m->units.begin[u - 1] + (more < 4 ? 0 : more);
        if (m->units.begin[u] > m->k)
            m->units.begin[u] = m->k;
    }
}

/* The table gives each head of w its product, and with any number of threads the same. */
static inline void check_heads(const struct weights *w)
{
    enum { T = 11, GAP = 5 };
    int64_t H = w->matrix.count, N = w->matrix.n, K = w->matrix.k;
    for (int64_t heads = 1; heads <= H;
         heads += H - 1) { /* one x for every head, or x for all heads */
        float *x = random_floats(T * (heads * K + GAP), 4), *first = NULL;
        for (int threads = 1; threads <= THREAD_COUNTS; threads++) {
            float *y = floats(T * (H * N + GAP));
            struct tensor tx = tensor_3d(x, DTYPE_F32, T, heads, K);
            struct tensor ty = tensor_3d(y, DTYPE_F32, T, H, N);
            tx.stride[0] = heads * K + GAP;
            ty.stride[0] = H * N + GAP;
            cpu_threads_close();
            assert_ok(cpu_threads_open(threads));
            assert_ok(cpu_ops()->gemm_heads(&ty, &tx, &w->matrix, NULL));
            for (int h = 0; h < H && first == NULL; h++) {
                struct weights one = *w;
                one.matrix = matrix_at(&w->matrix, h);
                one.stored += h * N * K * (int64_t)stored_bytes(w->matrix.dtype);
                one.values += h * N * K;
                if (w->scales != NULL)
                    one.scales += h * N * matrix_groups(&w->matrix);
                for (int t = 0; t < T; t++) {
                    float *expected =
                        defined_product(&one, tensor_f32_2(&tx, t, heads == 1 ? 0 : h), 1);
                    assert_same(tensor_f32_2(&ty, t, h), expected, N);
                    free(expected);
                }
            }
            if (first != NULL)
                assert_same(y, first, T * (H * N + GAP));
            if (first == NULL)
                first = y;
            else
                free(y);
        }
        cpu_threads_close();
        free(first);
        free(x);
    }
}

#endif
