#include "kernels/core/dtype.h"

#include <assert.h>

static const struct {
    const char *name;
    size_t bytes;
} types[DTYPE_COUNT] = {
    [DTYPE_F32] = {"f32", 4},         [DTYPE_F16] = {"f16", 2},         [DTYPE_BF16] = {"bf16", 2},
    [DTYPE_F8_E4M3] = {"f8_e4m3", 1}, [DTYPE_F8_E8M0] = {"f8_e8m0", 1}, [DTYPE_I32] = {"i32", 4},
    [DTYPE_I64] = {"i64", 8},         [DTYPE_U8] = {"u8", 1},           [DTYPE_I8] = {"i8", 1},
    [DTYPE_I4] = {"i4", 0},
};

size_t dtype_bytes(enum dtype dtype)
{
    assert(dtype != DTYPE_I4);
    return types[dtype].bytes;
}

const char *dtype_name(enum dtype dtype)
{
    return types[dtype].name;
}

int dtype_by_name(enum dtype *dtype, const char *name)
{
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *dtype = (enum dtype)i;
            return 1;
        }
    }
    return 0;
}

float f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t fraction = bits & 0x3ffu;
    uint32_t wide;
    float value;

    if (exponent == 0) { /* zero or subnormal: fraction x 2^-24, exact in f32 */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    if (exponent == 31)
        wide = sign | 0x7f800000u | (fraction << 13);
    else
        wide = sign | ((exponent + 112u) << 23) | (fraction << 13);
    memcpy(&value, &wide, sizeof value);
    return value;
}

uint16_t f16_from_f32(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    uint16_t sign = (uint16_t)((wide >> 16) & 0x8000u);
    uint32_t magnitude = wide & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: the sum aligns the bits and rounds them */
        float shifted;
        uint32_t bits;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}

/* The same bits as an f16 are x 2^-8: both have the sign first and 3 of their fraction's bits alike. */
float f8_e4m3_to_f32(uint8_t bits)
{
    if ((bits & 0x7fu) == 0x7fu)
        return f16_to_f32(0x7e00u);
    return f16_to_f32((uint16_t)((bits & 0x80u) << 8 | (bits & 0x7fu) << 7)) * 0x1p8f;
}

uint8_t f8_e4m3_from_f32(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    uint8_t sign = (uint8_t)(wide >> 24 & 0x80u);
    uint32_t magnitude = wide & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (magnitude >= 0x43e00000u) /* 448 and above */
        return (uint8_t)(sign | 0x7eu);
    if (magnitude < 0x3c800000u) { /* below 2^-6: the sum aligns the bits and rounds them */
        float shifted;
        uint32_t bits;
        memcpy(&shifted, &magnitude, sizeof shifted);
        shifted += 0x1p14f; /* its last bit counts 2^-9 */
        memcpy(&bits, &shifted, sizeof bits);
        return (uint8_t)(sign | (bits - 0x46800000u));
    }
    magnitude += 0x7ffffu + ((magnitude >> 20) & 1u);
    return (uint8_t)(sign | ((magnitude - 0x3c000000u) >> 20));
}

float f8_e8m0_to_f32(uint8_t bits)
{
    uint32_t wide = bits == 0xffu ? 0x7fc00000u : bits == 0 ? 0x00400000u : (uint32_t)bits << 23;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

void dtype_to_f32(float *y, const void *x, enum dtype dtype, int64_t count)
{
    const uint16_t *half = x;
    const uint8_t *byte = x;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(y, x, (size_t)count * sizeof *y);
        break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < count; i++)
            y[i] = bf16_to_f32(half[i]);
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < count; i++)
            y[i] = f16_to_f32(half[i]);
        break;
    case DTYPE_F8_E4M3:
        for (int64_t i = 0; i < count; i++)
            y[i] = f8_e4m3_to_f32(byte[i]);
        break;
    case DTYPE_F8_E8M0:
        for (int64_t i = 0; i < count; i++)
            y[i] = f8_e8m0_to_f32(byte[i]);
        break;
    default:
        assert(0 && "dtype_to_f32 takes floating-point types");
    }
}

void dtype_from_f32(void *y, enum dtype dtype, const float *x, int64_t count)
{
    uint16_t *half = y;
    uint8_t *byte = y;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(y, x, (size_t)count * sizeof *x);
        break;
    case DTYPE_BF16:
        for (int64_t i = 0; i < count; i++)
            half[i] = bf16_from_f32(x[i]);
        break;
    case DTYPE_F16:
        for (int64_t i = 0; i < count; i++)
            half[i] = f16_from_f32(x[i]);
        break;
    case DTYPE_F8_E4M3:
        for (int64_t i = 0; i < count; i++)
            byte[i] = f8_e4m3_from_f32(x[i]);
        break;
    default:
        assert(0 && "dtype_from_f32 takes floating-point types but F8_E8M0");
    }
}
