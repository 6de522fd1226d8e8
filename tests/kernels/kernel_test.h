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
#include "kernels/cpu/tables.h"

/* Instruction sets in the order of the tables; cpu_ops_for gives NULL where one is missing. */
static const char *const isa_names[] = {"plain", "avx2", "avx512"};
enum { ISA_COUNT = 3 };

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

/* splitmix64: the same numbers in every run */
static inline uint64_t random_bits(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* in [-1, 1) */
static inline float random_float(uint64_t *seed)
{
    return (float)(int64_t)(random_bits(seed) >> 40) * 0x1p-23f - 1.0f;
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

/* A packed matrix set with its row-major f32 values (already rounded to the type). */
struct weights {
    struct matrix matrix;
    float *values; /* [count][n][k] */
};

static inline struct weights weights_open(enum dtype dtype, int count, int64_t n, int64_t k,
                                          uint64_t seed)
{
    struct weights w = {.matrix = {.dtype = dtype, .count = count, .n = n, .k = k}};
    size_t bytes = dtype_bytes(dtype);
    char *stored = malloc((size_t)(count * n * k) * bytes + 1);
    assert_non_null(stored);
    w.values = random_floats(count * n * k, seed);
    dtype_from_f32(stored, dtype, w.values, count * n * k);
    dtype_to_f32(w.values, stored, dtype, count * n * k);
    w.matrix.units = units_whole(k);
    w.matrix.data = calloc(matrix_bytes(&w.matrix) + 1, 1);
    assert_non_null(w.matrix.data);
    for (int i = 0; i < count; i++)
        matrix_pack(&w.matrix, i, 0, n, stored + (size_t)(i * n * k) * bytes, k);
    free(stored);
    return w;
}

static inline void weights_close(struct weights *w)
{
    free(w->matrix.data);
    free(w->values);
}

/* Columns [begin, end) of a matrix as a matrix of their own: what a rank holds of w. */
static inline struct weights weights_columns(const struct weights *w, int64_t begin, int64_t end)
{
    struct weights part = {.matrix = w->matrix};
    int64_t n = w->matrix.n, k = w->matrix.k;
    size_t bytes = dtype_bytes(w->matrix.dtype);
    part.matrix.k = end - begin;
    part.matrix.units = units_whole(end - begin);
    part.matrix.data = calloc(matrix_bytes(&part.matrix) + 1, 1);
    part.values = floats(w->matrix.count * n * (end - begin));
    assert_non_null(part.matrix.data);
    for (int i = 0; i < w->matrix.count; i++) {
        char *stored = malloc((size_t)(n * (end - begin)) * bytes + 1);
        assert_non_null(stored);
        for (int64_t r = 0; r < n && end > begin; r++) {
            float *to = part.values + (i * n + r) * (end - begin);
            memcpy(to, w->values + (i * n + r) * k + begin, (size_t)(end - begin) * sizeof *to);
            dtype_from_f32(stored + (size_t)(r * (end - begin)) * bytes, w->matrix.dtype, to,
                           end - begin);
        }
        matrix_pack(&part.matrix, i, 0, n, stored, end - begin);
        free(stored);
    }
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
