/* dtype.h - element types of tensors and files, and conversion to and from f32.
 *
 * bf16 is the upper half of an f32; f16 is IEEE 754 binary16; f8_e4m3 (the "fn"
 * variant, arXiv 2209.05433) has bias 7, largest 448, no infinity, NaN 0x7f;
 * f8_e8m0 is a power of two (OCP Microscaling 1.0), NaN 0xff.  Rounding is to
 * nearest, ties to even; NaN stays NaN.
 */
#ifndef KERNELS_CORE_DTYPE_H
#define KERNELS_CORE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F8_E4M3,
    DTYPE_F8_E8M0,
    DTYPE_I32,
    DTYPE_I64,
    DTYPE_U8,
    DTYPE_I8, /* in packed matrices (matrix.h) value + 128 */
    DTYPE_I4, /* only in packed matrices (matrix.h): two to a byte, value + 8 */
    DTYPE_COUNT
};

/* Bytes of one element; not of I4. */
size_t dtype_bytes(enum dtype dtype);

/* "f32", "bf16", ... as on the command line. */
const char *dtype_name(enum dtype dtype);

/* Finds a type by its name on the command line; returns 0 when there is none. */
int dtype_by_name(enum dtype *dtype, const char *name);

/* y[count] = x[count], widened; `dtype` is F32, F16, BF16, F8_E4M3 or F8_E8M0. */
void dtype_to_f32(float *y, const void *x, enum dtype dtype, int64_t count);

/* y[count] = x[count], rounded; `dtype` is F32, F16, BF16 or F8_E4M3 (which saturates at 448). */
void dtype_from_f32(void *y, enum dtype dtype, const float *x, int64_t count);

static inline float bf16_to_f32(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t bf16_from_f32(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((wide >> 16) | 0x40u);
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits);
uint16_t f16_from_f32(float value);
float f8_e4m3_to_f32(uint8_t bits);
uint8_t f8_e4m3_from_f32(float value);
float f8_e8m0_to_f32(uint8_t bits);

#endif
