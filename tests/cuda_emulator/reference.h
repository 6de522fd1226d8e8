/* reference.h - the CPU's operations as the reference of CUDA kernels, and how results are compared. */
#ifndef TESTS_CUDA_EMULATOR_REFERENCE_H
#define TESTS_CUDA_EMULATOR_REFERENCE_H

#include "tests/cuda_emulator/check.h"

extern "C" {
#include "kernels/ops.h"
}

/* The table in plain C. */
static inline const struct ops *reference()
{
    static const struct ops *ops;
    if (ops == NULL) {
        setenv("LATENTRANK_DEBUG_ISA", "plain", 1);
        if (cpu_ops_choose(&ops) != STATUS_OK)
            abort();
    }
    return ops;
}

/* The reference must not fail. */
static inline void expect_ok(enum status status)
{
    if (status != STATUS_OK) {
        printf("%s\n", status_text());
        exit(1);
    }
}

/* [rows, n] with rows `stride` apart. */
static inline struct tensor rows_of(void *data, enum dtype dtype, int64_t rows, int64_t n,
                                    int64_t stride)
{
    struct tensor t = tensor_2d(data, dtype, rows, n);
    t.stride[0] = stride;
    return t;
}

static inline float *random_floats(int64_t count, uint64_t seed)
{
    float *x = host_new<float>(count);
    for (int64_t i = 0; i < count; i++)
        x[i] = random_float(&seed);
    return x;
}

static inline bool is_same(float found, float expected)
{
    return (found != found && expected != expected) || memcmp(&found, &expected, sizeof found) == 0;
}

/* NaN where NaN is expected; else within tolerance x |expected|, or with tolerance 0 the same bits. */
static inline void check_number(float found, float expected, double tolerance, const char *what,
                                int64_t place)
{
    bool is_good = is_same(found, expected) ||
                   fabs((double)found - (double)expected) <= tolerance * fabs((double)expected);
    check(is_good, "%s, number %lld: %.9g, expected %.9g", what, (long long)place, (double)found,
          (double)expected);
}

/* A whole buffer of `count` numbers of F32 or BF16 on the device. */
static inline void check_numbers(const void *device, enum dtype dtype, const float *expected,
                                 int64_t count, double tolerance, const char *what)
{
    char *raw = host_new<char>(count * (int64_t)dtype_bytes(dtype));
    float *found = host_new<float>(count);
    host_copy(raw, (const char *)device, count * (int64_t)dtype_bytes(dtype));
    dtype_to_f32(found, raw, dtype, count);
    for (int64_t i = 0; i < count; i++) {
        float wanted = dtype == DTYPE_BF16 ? bf16_to_f32(bf16_from_f32(expected[i])) : expected[i];
        /* A value that lies near the middle between two of bf16 may be rounded to either. */
        double slack = tolerance > 0 && dtype == DTYPE_BF16 ? tolerance + 0x1p-8 : tolerance;
        check_number(found[i], wanted, slack, what, i);
    }
}

#endif
