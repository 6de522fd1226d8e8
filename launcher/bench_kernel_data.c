/* bench_kernel_data.c - random data of the cases. */
#include "launcher/bench_kernels.h"
#include "launcher/random_numbers.h"

enum {
    PATTERN = 8192, /* numbers; they repeat, the addresses do not */
    MOST_COPIES = 1 << 16
};

void kernel_begin(struct kernel_bench *bench)
{
    bench->cold.used = bench->warm.used = 0;
}

int kernel_copies(const struct kernel_bench *bench, size_t bytes)
{
    size_t room = bench->cold.capacity / bytes;
    size_t wanted = (size_t)bench->working_set / bytes + 1;
    size_t copies = wanted < room ? wanted : room;
    return copies < 1 ? 1 : copies < MOST_COPIES ? (int)copies : MOST_COPIES;
}

/* Random numbers in [-1, 1) of any type that weights have, the same few thousand over and over. */
static void fill(void *data, size_t bytes, enum dtype dtype)
{
    static float number[PATTERN];
    static char pattern[PATTERN * sizeof(float)];
    size_t length = PATTERN;
    for (int i = 0; i < PATTERN; i++)
        number[i] = (float)(random_number(0, i) >> 40) * 0x1p-23f - 1.0f;
    if (dtype == DTYPE_I4 || dtype == DTYPE_I8) {
        for (int i = 0; i < PATTERN; i++)
            pattern[i] = (char)random_number(1, i);
    } else {
        dtype_from_f32(pattern, dtype, number, PATTERN);
        length *= dtype_bytes(dtype);
    }
    for (size_t at = 0; at < bytes; at += length)
        memcpy((char *)data + at, pattern, bytes - at < length ? bytes - at : length);
}

void kernel_fill_cold(struct kernel_bench *bench, enum dtype dtype)
{
    if (bench->filled_dtype != dtype)
        bench->filled = 0;
    bench->filled_dtype = dtype;
    if (bench->cold.used <= bench->filled)
        return;
    fill(bench->cold.data + bench->filled, bench->cold.used - bench->filled, dtype);
    bench->filled = bench->cold.used;
}

enum status kernel_tensor(struct kernel_bench *bench, struct tensor *tensor, int64_t n0, int64_t n1,
                          int64_t n2)
{
    const int64_t dim[] = {n0, n1, n2};
    TRY(arena_tensor(&bench->warm, tensor, DTYPE_F32, n1 == 0 ? 1 : n2 == 0 ? 2 : 3, dim));
    fill(tensor->data, (size_t)tensor_count(tensor) * sizeof(float), DTYPE_F32);
    return STATUS_OK;
}

/* Scales as published checkpoints have them, DeepSeek-V3 fp8 and Kimi-K2 int4; as --weight-dtype int8
 * makes them. */
static struct matrix shape_of(enum dtype dtype, int count, int64_t n, int64_t k)
{
    struct matrix w = {.dtype = dtype, .count = count, .n = n, .k = k, .units = units_whole(k)};
    if (dtype == DTYPE_F8_E4M3 || dtype == DTYPE_I8)
        w.scales = (struct matrix_scales){.dtype = DTYPE_F32, .step = 128};
    if (dtype == DTYPE_I4)
        w.scales = (struct matrix_scales){.dtype = DTYPE_BF16, .step = 32};
    return w;
}

size_t kernel_matrix_bytes(enum dtype dtype, int count, int64_t n, int64_t k)
{
    struct matrix w = shape_of(dtype, count, n, k);
    return matrix_bytes(&w) + matrix_scale_bytes(&w);
}

/* Each scale 2^-7. */
static void fill_scales(const struct matrix *w)
{
    size_t bytes = matrix_scale_bytes(w);
    const float f32 = 0x1p-7f;
    const uint16_t bf16 = bf16_from_f32(f32);
    for (size_t at = 0; at < bytes; at += dtype_bytes(w->scales.dtype))
        memcpy((char *)w->scales.data + at,
               w->scales.dtype == DTYPE_F32 ? (const void *)&f32 : (const void *)&bf16,
               dtype_bytes(w->scales.dtype));
}

enum status kernel_matrices(struct kernel_bench *bench, struct matrix *w, int copies,
                            enum dtype dtype, int count, int64_t n, int64_t k)
{
    for (int i = 0; i < copies; i++) {
        w[i] = shape_of(dtype, count, n, k);
        if (dtype == DTYPE_BF16 && bench->options->activation_dtype == ACTIVATION_BF16)
            w[i].input = DTYPE_BF16;
        TRY(arena_take(&bench->cold, &w[i].data, matrix_bytes(&w[i])));
        if (matrix_is_quantized(&w[i]))
            TRY(arena_take(&bench->cold, &w[i].scales.data, matrix_scale_bytes(&w[i])));
    }
    kernel_fill_cold(bench, dtype);
    for (int i = 0; i < copies; i++)
        fill_scales(&w[i]);
    return STATUS_OK;
}
