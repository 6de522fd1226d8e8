/* test_norm.cu - cuda_rms_norm against the CPU. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/norm.cu
#include "kernels/cuda/norm.h"

#include "tests/cuda_emulator/reference.h"

struct shape {
    int64_t rows, n, padding; /* padding: between rows, which must stay as it was */
};

static const struct shape shapes[] = {{1, 7168, 0}, {3, 512, 0}, {5, 1536, 4}, {4, 33, 0},
                                      {2, 1, 3},    {7, 100, 1}, {3, 2052, 0}, {0, 64, 0}};

static void check_norm(const struct shape *s, enum dtype dtype, bool has_residual, bool in_place)
{
    int64_t stride = s->n + s->padding, count = s->rows * stride;
    float *x = random_floats(count, 1), *residual = random_floats(count, 2);
    float *gain = random_floats(s->n, 3), *y = host_new<float>(count);
    if (s->rows > 2) { /* a row with a NaN, and one with an infinity */
        x[stride + s->n / 2] = NAN;
        x[2 * stride] = INFINITY;
    }
    float *device_x = device_copy(x, count);
    void *device_y = in_place ? (void *)device_x : (void *)device_new<float>(count);
    struct cuda_rms_norm p = {device_y,
                              device_x,
                              has_residual ? device_copy(residual, count) : NULL,
                              device_copy(gain, s->n),
                              s->rows,
                              s->n,
                              stride,
                              stride,
                              stride,
                              dtype,
                              1e-6f};
    CUDA((cudaError_t)cuda_rms_norm(&p, 0));

    struct tensor tx = rows_of(x, DTYPE_F32, s->rows, s->n, stride);
    struct tensor tr = rows_of(residual, DTYPE_F32, s->rows, s->n, stride);
    struct tensor tg = tensor_1d(gain, DTYPE_F32, s->n);
    if (has_residual)
        expect_ok(reference()->add(&tx, &tr, NULL));
    if (in_place)
        memcpy(y, x, (size_t)count * sizeof *y);
    struct tensor ty = rows_of(y, DTYPE_F32, s->rows, s->n, stride);
    expect_ok(reference()->rms_norm(&ty, &tx, &tg, 1e-6f, NULL));
    /* Both sums of n squares are within sqrt(n) roundings of the true one, as a random walk. */
    double tolerance = 0x1p-23 * (4 + sqrt((double)s->n));
    check_numbers(device_y, dtype, y, count, tolerance, "y");
    if (!in_place)
        check_numbers(device_x, DTYPE_F32, x, count, 0, "x");
}

static void norms()
{
    for (const struct shape &s : shapes)
        for (int i = 0; i < 4; i++)
            check_norm(&s, i % 2 == 0 ? DTYPE_F32 : DTYPE_BF16, i / 2 == 1, false);
}

static void norms_in_place()
{
    for (const struct shape &s : shapes)
        for (int i = 0; i < 2; i++)
            check_norm(&s, DTYPE_F32, i == 1, true);
}

int main()
{
    static const struct check_group groups[] = {{"rms_norm", norms},
                                                {"rms_norm, y = x", norms_in_place}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
