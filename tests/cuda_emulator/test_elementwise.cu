/* test_elementwise.cu - embed, add, copy, add_bias and swiglu have the CPU's bits. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/elementwise.cu
#include "kernels/cuda/elementwise.h"

#include "tests/cuda_emulator/reference.h"

struct shape {
    int64_t rows, n, padding;
};

static const struct shape shapes[] = {{3, 1024, 0}, {2, 2500, 5}, {1, 1, 0}, {4, 33, 2}, {0, 8, 0}};

static void check_embed(const struct shape *s, enum dtype dtype)
{
    enum { TABLE_ROWS = 6, FIRST = 10 };
    int64_t stride = s->n + s->padding, count = s->rows * stride, table_count = TABLE_ROWS * stride;
    float *numbers = random_floats(table_count, 1), *y = host_new<float>(count);
    char *table = host_new<char>(table_count * (int64_t)dtype_bytes(dtype));
    int32_t *ids = host_new<int32_t>(s->rows), some[] = {FIRST + 5, FIRST - 1, FIRST, FIRST + 6};
    for (int64_t i = 0; i < s->rows; i++)
        ids[i] = some[i % 4];
    dtype_from_f32(table, dtype, numbers, table_count);
    float *device_y = device_new<float>(count);
    struct cuda_embed p = {device_y,
                           device_copy(ids, s->rows),
                           device_copy(table, table_count * (int64_t)dtype_bytes(dtype)),
                           s->rows,
                           s->n,
                           TABLE_ROWS,
                           FIRST,
                           stride,
                           stride,
                           dtype};
    CUDA((cudaError_t)cuda_embed(&p, 0));
    struct tensor ty = rows_of(y, DTYPE_F32, s->rows, s->n, stride);
    struct tensor ti = tensor_1d(ids, DTYPE_I32, s->rows);
    struct tensor tt = rows_of(table, dtype, TABLE_ROWS, s->n, stride);
    expect_ok(reference()->embed(&ty, &ti, &tt, FIRST, NULL));
    check_numbers(device_y, DTYPE_F32, y, count, 0, "embed");
}

static void embeddings()
{
    for (const struct shape &s : shapes)
        for (enum dtype dtype : {DTYPE_F32, DTYPE_F16, DTYPE_BF16})
            check_embed(&s, dtype);
}

static void check_add(const struct shape *s, bool is_bias)
{
    int64_t stride = s->n + s->padding, count = s->rows * stride;
    float *x = random_floats(count, 1), *y = random_floats(is_bias ? s->n : count, 2);
    float *device_x = device_copy(x, count);
    struct cuda_add p = {device_x, device_copy(y, is_bias ? s->n : count),
                         s->rows,  s->n,
                         stride,   is_bias ? 0 : stride};
    CUDA((cudaError_t)cuda_add(&p, 0));
    struct tensor tx = rows_of(x, DTYPE_F32, s->rows, s->n, stride);
    struct tensor ty = rows_of(y, DTYPE_F32, s->rows, s->n, stride);
    struct tensor tb = tensor_1d(y, DTYPE_F32, s->n);
    expect_ok(is_bias ? reference()->add_bias(&tx, &tb, NULL) : reference()->add(&tx, &ty, NULL));
    check_numbers(device_x, DTYPE_F32, x, count, 0, is_bias ? "add_bias" : "add");
}

static void sums()
{
    for (const struct shape &s : shapes) {
        check_add(&s, false);
        check_add(&s, true);
    }
}

static void check_swiglu(const struct shape *s, enum dtype dtype, bool in_place)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 88.5f, -88.5f, -104.5f};
    int64_t stride = s->n + s->padding, count = s->rows * stride;
    float *gate = random_floats(count, 1), *up = random_floats(count, 2);
    float *y = host_new<float>(count);
    for (int64_t i = 0; i < count; i++)
        gate[i] *= 20.0f;
    for (int64_t i = 0; i < 8 && s->n >= 8 && count > 0; i++)
        gate[i] = special[i];
    float *device_gate = device_copy(gate, count);
    void *device_y = in_place ? (void *)device_gate : (void *)device_new<float>(count);
    struct cuda_swiglu p = {device_y, device_gate, device_copy(up, count),
                            s->rows,  s->n,        stride,
                            stride,   stride,      dtype};
    CUDA((cudaError_t)cuda_swiglu(&p, 0));
    struct tensor ty = rows_of(in_place ? gate : y, DTYPE_F32, s->rows, s->n, stride);
    struct tensor tg = rows_of(gate, DTYPE_F32, s->rows, s->n, stride);
    struct tensor tu = rows_of(up, DTYPE_F32, s->rows, s->n, stride);
    expect_ok(reference()->swiglu(&ty, &tg, &tu, NULL));
    check_numbers(device_y, dtype, in_place ? gate : y, count, 0, "swiglu");
}

static void gates()
{
    for (const struct shape &s : shapes) {
        check_swiglu(&s, DTYPE_F32, false);
        check_swiglu(&s, DTYPE_F32, true);
        check_swiglu(&s, DTYPE_BF16, false);
    }
}

/* Rows of heads of tokens into rows of tokens of heads; what lies between stays. */
static void copies()
{
    for (const struct shape &s : shapes) {
        enum { INNER = 3 };
        int64_t stride = s.n + s.padding, rows = s.rows * INNER, count = rows * stride;
        float *x = random_floats(count, 1), *y = random_floats(count, 2);
        float *device_y = device_copy(y, count);
        struct cuda_copy p = {device_y, device_copy(x, count), s.rows,         INNER, s.n,
                              stride,   s.rows * stride,       INNER * stride, stride};
        CUDA((cudaError_t)cuda_copy(&p, 0));
        struct tensor tx = tensor_3d(x, DTYPE_F32, s.rows, INNER, s.n), ty = tx;
        tx.stride[0] = INNER * stride;
        tx.stride[1] = stride;
        ty.data = y;
        ty.stride[0] = stride;
        ty.stride[1] = s.rows * stride;
        expect_ok(reference()->copy(&ty, &tx, NULL));
        check_numbers(device_y, DTYPE_F32, y, count, 0, "copy");
    }
}

int main()
{
    static const struct check_group groups[] = {
        {"embed", embeddings}, {"add, add_bias", sums}, {"copy", copies}, {"swiglu", gates}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
