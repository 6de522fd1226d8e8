/* finite.h - whether numbers of a file are finite, many at a time.
 *
 * A number is NaN or infinite when all bits of its exponent are set (f8_e4m3: all
 * but the sign).  Adding the lowest of them to the exponent then carries into the
 * sign's place, and never further: 8 bytes of numbers are looked at in one word. */
#ifndef KERNELS_CORE_FINITE_H
#define KERNELS_CORE_FINITE_H

#include "kernels/core/dtype.h"

struct finite_check {
    uint64_t exponent, lowest; /* bits of each number in 8 bytes */
    uint64_t carries;          /* of all numbers seen */
};

/* Of types other than F32, F16, BF16 and F8_E4M3 every number is finite. */
static inline struct finite_check finite_begin(enum dtype dtype)
{
    uint64_t exponent = 0, each = 0;
    if (dtype == DTYPE_F32) {
        exponent = 0x7f800000u;
        each = 0x0000000100000001u;
    } else if (dtype == DTYPE_F16 || dtype == DTYPE_BF16) {
        exponent = dtype == DTYPE_F16 ? 0x7c00u : 0x7f80u;
        each = 0x0001000100010001u;
    } else if (dtype == DTYPE_F8_E4M3) {
        exponent = 0x7fu;
        each = 0x0101010101010101u;
    }
    return (struct finite_check){exponent * each, (exponent & (0 - exponent)) * each, 0};
}

/* What 8 bytes of numbers add to `carries`. */
static inline uint64_t finite_carries(const struct finite_check *check, uint64_t x)
{
    return (x & check->exponent) + check->lowest;
}

/* Bytes of any number. */
static inline void finite_look(struct finite_check *check, const char *from, size_t bytes)
{
    const struct finite_check kept = *check; /* `from` may alias it, as far as the compiler knows */
    uint64_t carries = 0, x;
    size_t i = 0;
    for (; i + sizeof x <= bytes; i += sizeof x) {
        memcpy(&x, from + i, sizeof x);
        carries |= finite_carries(&kept, x);
    }
    x = 0;
    memcpy(&x, from + i, bytes - i);
    check->carries |= carries | finite_carries(&kept, x);
}

static inline int finite_end(const struct finite_check *check)
{
    return (check->carries & (check->exponent + check->lowest)) == 0;
}

#endif
