/* packed.h - random matrices for tests of products: packed by the CPU's code, on the device, and as numbers. */
#ifndef TESTS_CUDA_EMULATOR_PACKED_H
#define TESTS_CUDA_EMULATOR_PACKED_H

#include "kernels/cuda/product.h"

#include "tests/cuda_emulator/check.h"

extern "C" {
#include "kernels/core/matrix.h"
}

struct packed {
    struct cuda_matrix device;
    float *value; /* [count, n, k] */
};

struct packed_shape {
    enum dtype dtype;
    int count, n, k;
    int step, first;   /* of quantized types */
    enum dtype scales; /* F32 or BF16 */
};

/* One number as stored in `to`, and its value; `number` is its place in a row of `raw`. */
static inline float random_number(void *raw, enum dtype dtype, int64_t number, uint64_t *seed)
{
    uint8_t *byte = (uint8_t *)raw + number;
    if (dtype == DTYPE_I4) {
        *byte = (uint8_t)(random_bits(seed) & 15);
        return (float)*byte - 8;
    }
    if (dtype == DTYPE_F8_E4M3) {
        do
            *byte = (uint8_t)random_bits(seed);
        while ((*byte & 0x7f) == 0x7f); /* NaN */
        return f8_e4m3_to_f32(*byte);
    }
    float value = random_float(seed);
    void *to = (char *)raw + (size_t)number * dtype_bytes(dtype);
    dtype_from_f32(to, dtype, &value, 1);
    dtype_to_f32(&value, to, dtype, 1);
    return value;
}

static inline void random_scales(struct matrix *w, float *value, int index, uint64_t *seed)
{
    for (int64_t row = 0; row < w->n; row++)
        for (int64_t column = 0, last = -1; column < w->k; column++) {
            static float scale;
            int64_t group = matrix_group(w, index, column);
            if (group != last) {
                scale = 0x1p-6f * (float)(1 + (random_bits(seed) & 127)); /* exact in bf16 */
                matrix_set_scale(w, index, row, group, scale);
                last = group;
            }
            value[row * w->k + column] *= scale;
        }
}

static inline struct packed random_packed(const struct packed_shape *s, uint64_t seed)
{
    struct packed p = {};
    struct matrix w = {};
    w.dtype = s->dtype;
    w.count = s->count;
    w.n = s->n;
    w.k = s->k;
    w.units = units_whole(s->k);
    if (matrix_is_quantized(&w)) {
        w.scales.dtype = s->scales;
        w.scales.step = s->step;
        w.scales.first = s->first;
    }
    const int64_t size = (int64_t)s->n * s->k, bytes = (int64_t)matrix_bytes(&w);
    const int64_t scale_bytes = (int64_t)matrix_scale_bytes(&w);
    char *data = host_new<char>(bytes), *scales = host_new<char>(scale_bytes),
         *raw = host_new<char>(size * 4);
    memset(data, 0, (size_t)bytes);
    memset(scales, 0, (size_t)scale_bytes);
    w.data = data;
    w.scales.data = scales;
    p.value = host_new<float>(s->count * size);
    for (int index = 0; index < s->count; index++) {
        float *value = p.value + index * size;
        for (int64_t i = 0; i < size; i++)
            value[i] = random_number(raw, s->dtype, i, &seed);
        matrix_pack(&w, index, 0, s->n, raw, s->k);
        if (matrix_is_quantized(&w))
            random_scales(&w, value, index, &seed);
    }
    p.device.data = device_copy(data, bytes);
    p.device.type = s->dtype == DTYPE_F32    ? PRODUCT_F32
                    : s->dtype == DTYPE_F16  ? PRODUCT_F16
                    : s->dtype == DTYPE_BF16 ? PRODUCT_BF16
                    : s->dtype == DTYPE_I4   ? PRODUCT_I4
                                             : PRODUCT_F8;
    p.device.count = s->count;
    p.device.n = s->n;
    p.device.k = s->k;
    p.device.matrix_bytes = bytes / s->count;
    if (matrix_is_quantized(&w)) {
        p.device.scales = device_copy(scales, scale_bytes);
        p.device.scales_are_bf16 = s->scales == DTYPE_BF16;
        p.device.scale_bytes = scale_bytes / s->count;
        p.device.step = s->step;
        p.device.first = s->first;
        p.device.groups = (int)matrix_groups(&w);
    }
    return p;
}

static inline float rounded_bf16(float x)
{
    return bf16_to_f32(bf16_from_f32(x));
}

/* Columns as rows of bf16 inputs have them. */
static inline int input_columns(int columns)
{
    return (columns + PRODUCT_INPUT_ALIGNMENT - 1) / PRODUCT_INPUT_ALIGNMENT *
           PRODUCT_INPUT_ALIGNMENT;
}

#endif
