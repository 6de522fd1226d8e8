/* test_product.cu - products with packed weights against sums in double precision. */
// sources: kernels/core/*.c kernels/cuda/product.cu
#include "tests/cuda_emulator/packed.h"

struct product_shape {
    struct packed_shape w;
    int rows, processors; /* many processors: the columns are cut over blocks */
};

static void check_product(const struct product_shape *s, bool is_tensor)
{
    const struct packed_shape *w = &s->w;
    struct packed weights = random_packed(w, 7);
    const int padded = input_columns(w->k);
    const int64_t rows = (int64_t)s->rows * w->count, outputs = rows * w->n;
    uint64_t seed = 11;
    float *x = host_new<float>(rows * w->k), *y = host_new<float>(outputs);
    for (int64_t i = 0; i < rows * w->k; i++)
        x[i] = random_float(&seed);
    struct cuda_product p = {};
    p.w = weights.device;
    p.y = device_new<float>(outputs);
    p.y_row = (int64_t)w->count * w->n;
    p.y_matrix = w->n;
    p.rows = s->rows;
    p.n_processors = s->processors;
    p.workspace = (float *)device_new<char>((int64_t)cuda_product_workspace_bytes());
    CUDA(cudaMemset(p.workspace, 0, cuda_product_workspace_bytes()));
    const float *device_x = device_copy(x, rows * w->k);
    if (is_tensor) {
        void *rounded = device_new<__nv_bfloat16>(rows * padded);
        CUDA((cudaError_t)cuda_round_inputs(rounded, device_x, w->k, rows, w->k, 0));
        p.x = rounded;
        p.x_row = (int64_t)w->count * padded;
        p.x_matrix = padded;
        check(cuda_product_tensor_takes(&p.w), "a shape for tensor cores is refused");
        CUDA((cudaError_t)cuda_product_tensor(&p, 0));
    } else {
        p.x = device_x;
        p.x_row = (int64_t)w->count * w->k;
        p.x_matrix = w->k;
        CUDA((cudaError_t)cuda_product_plain(&p, 0));
    }
    host_copy(y, p.y, outputs);
    for (int64_t i = 0; i < outputs; i++) {
        const float *row = x + i / w->n * w->k, *weight = weights.value + i % p.y_row * w->k;
        double expected = 0, size = 0;
        for (int j = 0; j < w->k; j++) {
            double term = (double)(is_tensor ? rounded_bf16(row[j]) : row[j]) * (double)weight[j];
            expected += term;
            size += fabs(term);
        }
        /* sums of k terms in f32, where tensor cores may cut bits off below those of the largest */
        double tolerance = 0x1p-22 * (4 + sqrt((double)w->k)) * size;
        check(fabs((double)y[i] - expected) <= tolerance,
              "%s, [%d, %d], output %lld: %.9g, expected %.9g", dtype_name(w->dtype), w->n, w->k,
              (long long)i, (double)y[i], expected);
    }
    float counters = 0;
    host_copy(&counters, p.workspace, 1);
    check(memcmp(&counters, "\0\0\0\0", 4) == 0, "the workspace's counters are not left zero");
}

static void check_tensor(enum dtype dtype, int step, enum dtype scales)
{
    const struct product_shape shapes[] = {
        {{dtype, 1, 64, 64, step, 0, scales}, 1, 1},
        {{dtype, 1, 100, 200, step, 0, scales}, 5, 1},
        {{dtype, 3, 80, 129, step, step / 128 * 32, scales}, 9, 1},
        {{dtype, 1, 144, 1024, step, 0, scales}, 3, 64},
        {{dtype, 1, 70, 1100, step, 0, scales}, 33, 16},
        {{dtype, 2, 65, 96, step, 0, scales}, 64, 1},
        {{dtype, 1, 17, 15, step, 0, scales}, 70, 1},
        {{dtype, 2, 64, 640, step, 0, scales}, 17, 32}};
    for (const struct product_shape &shape : shapes)
        check_product(&shape, true);
}

static void bf16()
{
    check_tensor(DTYPE_BF16, 1, DTYPE_F32);
}

static void f8()
{
    check_tensor(DTYPE_F8_E4M3, 128, DTYPE_F32);
    check_tensor(DTYPE_F8_E4M3, 128, DTYPE_BF16);
}

static void i4()
{
    check_tensor(DTYPE_I4, 32, DTYPE_F32);
    check_tensor(DTYPE_I4, 32, DTYPE_BF16);
}

static void plain()
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_I4};
    for (enum dtype dtype : dtypes) {
        const struct product_shape shapes[] = {{{dtype, 2, 50, 77, 24, 5, DTYPE_F32}, 3, 1},
                                               {{dtype, 1, 130, 64, 32, 0, DTYPE_BF16}, 2, 1}};
        for (const struct product_shape &shape : shapes)
            check_product(&shape, false);
    }
}

/* Groups that begin inside a step are left to the plain product. */
static void refusals()
{
    struct cuda_matrix w = {};
    w.type = PRODUCT_F8;
    w.step = 128;
    check(cuda_product_tensor_takes(&w), "groups of 128");
    w.first = 16;
    check(!cuda_product_tensor_takes(&w), "a first group of 112");
    w.first = 0;
    w.step = 24;
    check(!cuda_product_tensor_takes(&w), "groups of 24");
    w.type = PRODUCT_F32;
    check(!cuda_product_tensor_takes(&w), "f32");
}

int main()
{
    static const struct check_group groups[] = {{"bf16", bf16},
                                                {"f8_e4m3", f8},
                                                {"i4", i4},
                                                {"plain", plain},
                                                {"what tensor cores take", refusals}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
