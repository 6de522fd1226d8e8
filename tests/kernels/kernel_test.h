/* kernel_test.h - what the tests of the operations share: numbers, tolerances, instruction sets. */
#ifndef TESTS_KERNELS_KERNEL_TEST_H
#define TESTS_KERNELS_KERNEL_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/core/matrix.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/tables.h"
#include "tests/random.h"

/* Instruction sets in the order of the tables; cpu_ops_for gives NULL where one is missing. */
static const char *const isa_names[] = {"plain", "avx2", "avx512"};
enum { ISA_COUNT = 3, THREAD_COUNTS = 5 };

static inline void assert_ok(enum status status)
{
    if (status != STATUS_OK)
        print_message("%s\n%s", status_text(), status_frames());
    assert_int_equal(status, STATUS_OK);
}

/* The table that the engine would take. */
static inline const struct ops *cpu_ops(void)
{
    const struct ops *ops = NULL;
    assert_ok(cpu_ops_choose(&ops));
    return ops;
}

/* Setup and teardown of a group: all its tests once more with several threads. */
static inline int open_three_threads(void **state)
{
    (void)state;
    cpu_threads_close(); /* those that a test has left */
    return cpu_threads_open(3) != STATUS_OK;
}

static inline int close_threads(void **state)
{
    (void)state;
    cpu_threads_close();
    return 0;
}

/* `count` floats on the heap; at least one, so that malloc may not say NULL. */
static inline float *floats(int64_t count)
{
    float *x = malloc((size_t)(count + 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        x[i] = NAN; /* what is not written shows */
    return x;
}

static inline float *random_floats(int64_t count, uint64_t seed)
{
    float *x = floats(count);
    for (int64_t i = 0; i < count; i++)
        x[i] = random_float(&seed);
    return x;
}

/* A packed matrix set, with its numbers as matrix_pack takes them and what they stand for in f32. */
struct weights {
    struct matrix matrix;
    char *stored;  /* [count][n][k] */
    float *scales; /* [count][n][groups], of quantized ones */
    float *values; /* [count][n][k] */
};

static inline size_t stored_bytes(enum dtype dtype)
{
    return dtype == DTYPE_I4 ? 1 : dtype_bytes(dtype);
}

/* What a stored number of I8 or I4 stands for. */
static inline int integer_of_code(enum dtype dtype, unsigned code)
{
    return (int)code - (dtype == DTYPE_I8 ? 128 : 8);
}

/* e4m3 from its definition: (-1)^s 2^(e - 7) 1.f, subnormals 2^-6 0.f */
static inline double f8_in_double(unsigned bits)
{
    int exponent = bits >> 3 & 15, fraction = bits & 7;
    double sign = bits & 0x80 ? -1.0 : 1.0;
    if (exponent == 15 && fraction == 7)
        return (double)NAN;
    return sign * (exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10));
}

/* Packs `stored` and `scales`. */
static inline void weights_pack(struct weights *w)
{
    struct matrix *m = &w->matrix;
    size_t bytes = stored_bytes(m->dtype);
    m->data = calloc(matrix_bytes(m) + 1, 1);
    m->scales.data = calloc(matrix_scale_bytes(m) + 1, 1);
    assert_true(m->data && m->scales.data);
    for (int i = 0; i < m->count; i++) {
        matrix_pack(m, i, 0, m->n, w->stored + (size_t)(i * m->n * m->k) * bytes, m->k);
        for (int64_t r = 0; r < m->n && matrix_is_quantized(m); r++)
            for (int64_t g = 0; g < matrix_groups(m); g++)
                matrix_set_scale(m, i, r, g, w->scales[(i * m->n + r) * matrix_groups(m) + g]);
    }
}

/* Random codes and scales: groups of `step` columns, the first of matrix i begun by i * 5 + 3. */
static inline void weights_quantize(struct weights *w, uint64_t seed)
{
    struct matrix *m = &w->matrix;
    int is_i4 = m->dtype == DTYPE_I4;
    m->scales = (struct matrix_scales){.dtype = is_i4 ? DTYPE_BF16 : DTYPE_F32,
                                       .step = is_i4 ? 8 : 20,
                                       .first = 3,
                                       .shift = m->count > 1 ? 5 : 0};
    int64_t groups = matrix_groups(m);
    w->scales = random_floats(m->count * m->n * groups, seed);
    for (int64_t i = 0; i < m->count * m->n * groups; i++)
        w->scales[i] = bf16_to_f32(bf16_from_f32(0.01f + fabsf(w->scales[i]) / 64));
    for (int64_t i = 0; i < m->count * m->n * m->k; i++) {
        int64_t row = i / m->k, index = row / m->n;
        int64_t group =
            (i % m->k + (3 + index * m->scales.shift) % m->scales.step) / m->scales.step;
        unsigned code = (unsigned)random_bits(&seed) & (is_i4 ? 15u : 255u);
        code = m->dtype == DTYPE_F8_E4M3 && (code & 127u) == 127u ? code - 1 : code; /* no NaN */
        float number = m->dtype == DTYPE_F8_E4M3 ? (float)f8_in_double(code)
                                                 : (float)integer_of_code(m->dtype, code);
        w->stored[i] = (char)code;
        w->values[i] = number * w->scales[row * groups + group];
    }
}

static inline struct weights weights_open(enum dtype dtype, int count, int64_t n, int64_t k,
                                          uint64_t seed)
{
    struct weights w = {.matrix = {.dtype = dtype, .count = count, .n = n, .k = k}};
    w.stored = malloc((size_t)(count * n * k) * stored_bytes(dtype) + 1);
    assert_non_null(w.stored);
    w.values = random_floats(count * n * k, seed);
    w.matrix.units = units_whole(k);
    if (matrix_is_quantized(&w.matrix)) {
        weights_quantize(&w, seed);
    } else {
        dtype_from_f32(w.stored, dtype, w.values, count * n * k);
        dtype_to_f32(w.values, w.stored, dtype, count * n * k);
    }
    weights_pack(&w);
    return w;
}

static inline void weights_close(struct weights *w)
{
    free(w->matrix.data);
    free(w->matrix.scales.data);
    free(w->stored);
    free(w->scales);
    free(w->values);
}

/* Columns [begin, end) of a matrix as a matrix of their own: what a rank holds of w. */
static inline struct weights weights_columns(const struct weights *w, int64_t begin, int64_t end)
{
    struct weights part = {.matrix = w->matrix};
    struct matrix *m = &part.matrix;
    int64_t k = w->matrix.k, rows = m->count * m->n;
    size_t bytes = stored_bytes(m->dtype);
    m->k = end - begin;
    m->units = units_whole(m->k);
    part.stored = malloc((size_t)(rows * m->k) * bytes + 1);
    part.values = floats(rows * m->k);
    assert_non_null(part.stored);
    for (int64_t r = 0; r < rows && m->k > 0; r++) {
        memcpy(part.stored + (size_t)(r * m->k) * bytes,
               w->stored + (size_t)(r * k + begin) * bytes, (size_t)m->k * bytes);
        memcpy(part.values + r * m->k, w->values + r * k + begin,
               (size_t)m->k * sizeof *part.values);
    }
    if (matrix_is_quantized(m)) {
        m->scales.first = (w->matrix.scales.first + begin) % m->scales.step;
        int64_t groups = matrix_groups(m);
        part.scales = floats(rows * groups);
        for (int64_t r = 0; r < rows; r++) {
            int64_t skipped = matrix_group(&w->matrix, (int)(r / m->n), begin);
            int64_t whole = matrix_groups(&w->matrix);
            for (int64_t g = 0; g < groups; g++)
                part.scales[r * groups + g] =
                    g + skipped < whole ? w->scales[r * whole + skipped + g] : 0.0f;
        }
    }
    weights_pack(&part);
    return part;
}

/* Fails with the place and both values unless |found - expected| <= tolerance x scale. */
static inline void assert_close(const float *found, const double *expected, int64_t count,
                                double tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        double error = fabs((double)found[i] - expected[i]);
        if (!(error <= tolerance * (1.0 + fabs(expected[i]))))
            fail_msg("element %lld of %lld: found %.9g, expected %.9g", (long long)i,
                     (long long)count, (double)found[i], expected[i]);
    }
}

static inline void assert_same_bits(const float *found, const float *expected, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (memcmp(found + i, expected + i, sizeof *found) != 0)
            fail_msg("element %lld of %lld: found %.9g (%a), expected %.9g (%a)", (long long)i,
                     (long long)count, (double)found[i], (double)found[i], (double)expected[i],
                     (double)expected[i]);
}

#endif
