/* test_cache_append.cu - rows in the cache have the CPU's bits, and nothing else is written. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/cache_append.cu
#include "kernels/cuda/cache_append.h"

#include "tests/cuda_emulator/reference.h"

enum { PAGES = 5, SEQUENCES = 2, MAX_PAGES = 3, TOKENS = 7, MAX_POSITION = MAX_PAGES * PAGE_ROWS };

static int32_t table[SEQUENCES * MAX_PAGES] = {3, 0, -1, 4, 1, 2};
static int32_t seq_of[TOKENS] = {0, 0, 0, 1, 1, 1, 1};
static int32_t position[TOKENS] = {0, 127, 130, 63, 64, 191, 0};

struct form {
    int64_t d_c, d_r;
    bool has_norm, has_rope;
};

static void check_rows(const char *found, const char *expected, enum dtype dtype, int64_t width,
                       const struct form *f)
{
    int64_t latent_bytes = dtype == DTYPE_U8 ? f->d_c : 0;
    for (int64_t row = 0; row < PAGES * PAGE_ROWS; row++) {
        const char *a = found + row * width * (int64_t)dtype_bytes(dtype);
        const char *b = expected + row * width * (int64_t)dtype_bytes(dtype);
        if (dtype != DTYPE_U8) {
            for (int64_t i = 0; i < width; i++) {
                float numbers[2];
                dtype_to_f32(&numbers[0], a + i * (int64_t)dtype_bytes(dtype), dtype, 1);
                dtype_to_f32(&numbers[1], b + i * (int64_t)dtype_bytes(dtype), dtype, 1);
                check_number(numbers[0], numbers[1], 0, "row", row * width + i);
            }
            continue;
        }
        for (int64_t i = 0; i < latent_bytes; i++) /* NaN of either sign is NaN */
            check(a[i] == b[i] || ((a[i] & 0x7f) == 0x7f && (b[i] & 0x7f) == 0x7f),
                  "row %lld, byte %lld: %02x, expected %02x", (long long)row, (long long)i,
                  a[i] & 0xff, b[i] & 0xff);
        for (int64_t i = latent_bytes; i < width; i += 2) {
            uint16_t halves[2];
            memcpy(&halves[0], a + i, 2);
            memcpy(&halves[1], b + i, 2);
            bool is_nan = (halves[0] & 0x7fff) > 0x7f80 && (halves[1] & 0x7fff) > 0x7f80;
            check(halves[0] == halves[1] || is_nan, "row %lld, bytes %lld: %04x, expected %04x",
                  (long long)row, (long long)i, halves[0], halves[1]);
        }
    }
}

static void check_append(enum dtype dtype, const struct form *f)
{
    int64_t width = cache_row_width(dtype, f->d_c, f->d_r), count = PAGES * PAGE_ROWS * width;
    int64_t bytes = count * (int64_t)dtype_bytes(dtype), c_stride = f->d_c + 3;
    float *c_kv = random_floats(TOKENS * c_stride, 1), *k_r = random_floats(TOKENS * f->d_r, 2);
    float *gain = random_floats(f->d_c, 3), *cos_sin = random_floats(MAX_POSITION * f->d_r, 4);
    char *rows = host_new<char>(bytes), *found = host_new<char>(bytes);
    for (int64_t i = 0; i < TOKENS * c_stride; i++)
        c_kv[i] *= i % 7 == 0 ? 1e-3f : 3.0f; /* all sizes of e4m3 */
    memset(c_kv + c_stride, 0, (size_t)f->d_c * sizeof *c_kv);
    if (f->d_c > 1) {
        c_kv[3 * c_stride + 1] = NAN;
        c_kv[4 * c_stride + 1] = INFINITY;
    }
    char *device_rows = device_copy(rows, bytes);
    struct cuda_cache_append p = {device_rows,
                                  device_copy(table, SEQUENCES * MAX_PAGES),
                                  device_copy(seq_of, TOKENS),
                                  device_copy(position, TOKENS),
                                  device_copy(c_kv, TOKENS * c_stride),
                                  f->has_norm ? device_copy(gain, f->d_c) : NULL,
                                  device_copy(k_r, TOKENS * f->d_r),
                                  f->has_rope ? device_copy(cos_sin, MAX_POSITION * f->d_r) : NULL,
                                  TOKENS,
                                  f->d_c,
                                  f->d_r,
                                  PAGE_ROWS * width,
                                  width,
                                  MAX_PAGES,
                                  c_stride,
                                  f->d_r,
                                  dtype,
                                  1e-6f};
    CUDA((cudaError_t)cuda_cache_append(&p, 0));
    host_copy(found, device_rows, bytes);

    struct tensor tc = rows_of(c_kv, DTYPE_F32, TOKENS, f->d_c, c_stride);
    struct tensor tk = tensor_2d(k_r, DTYPE_F32, TOKENS, f->d_r);
    struct tensor tk3 = tensor_3d(k_r, DTYPE_F32, TOKENS, 1, f->d_r);
    struct tensor tg = tensor_1d(gain, DTYPE_F32, f->d_c);
    struct tensor tp = tensor_1d(position, DTYPE_I32, TOKENS);
    struct tensor tcs = tensor_2d(cos_sin, DTYPE_F32, MAX_POSITION, f->d_r);
    struct page_view pages = {tensor_3d(rows, dtype, PAGES, PAGE_ROWS, width),
                              tensor_2d(table, DTYPE_I32, SEQUENCES, MAX_PAGES),
                              tensor_1d(seq_of, DTYPE_I32, TOKENS),
                              tp,
                              f->d_c,
                              f->d_r};
    if (f->has_norm)
        expect_ok(reference()->rms_norm(&tc, &tc, &tg, 1e-6f, NULL));
    if (f->has_rope)
        expect_ok(reference()->rope(&tk3, &tk3, &tp, &tcs, NULL));
    expect_ok(reference()->cache_append(&pages, &tc, &tk, NULL, 0, NULL, NULL));
    check_rows(found, rows, dtype, width, f);
}

static const struct form forms[] = {{512, 64, true, true},
                                    {512, 64, false, false},
                                    {132, 6, true, true},
                                    {256, 64, false, true},
                                    {36, 10, true, false}};

static void rows_of_f32()
{
    for (const struct form &f : forms)
        check_append(DTYPE_F32, &f);
}
static void rows_of_bf16()
{
    for (const struct form &f : forms)
        check_append(DTYPE_BF16, &f);
}
static void rows_of_fp8()
{
    for (const struct form &f : forms)
        check_append(DTYPE_U8, &f);
}

int main()
{
    static const struct check_group groups[] = {{"cache_append, f32", rows_of_f32},
                                                {"cache_append, bf16", rows_of_bf16},
                                                {"cache_append, fp8_ds_mla", rows_of_fp8}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
