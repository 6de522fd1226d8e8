/* math.h - exp and what is made of it, with the same bits on every CPU.
 *
 * libm's exp differs between machines and versions; this one is a fixed chain
 * of fused multiply-adds: x = n ln 2 + r, exp(x) = 2^n exp(r).
 */
#ifndef KERNELS_CPU_MATH_H
#define KERNELS_CPU_MATH_H

#include "kernels/cpu/lanes.h"

/* exp(x) within 2 ulp, down to the subnormals; exp(-infinity) = 0, NaN stays NaN. */
static inline struct lanes lanes_exp(struct lanes x)
{
    /* Beyond these the result is 0 or infinity anyway; a NaN passes both. */
    x = lanes_max(lanes_splat(-104.0f), x);
    x = lanes_min(lanes_splat(89.0f), x);

    struct lanes shift = lanes_splat(LANES_SHIFT);
    struct lanes shifted = lanes_fma(x, lanes_splat(0x1.715476p0f), shift); /* 1 / ln 2 */
    struct lanes n = lanes_sub(shifted, shift);
    struct lanes r = lanes_fma(n, lanes_splat(-0x1.62e4p-1f), x); /* ln 2 in two parts */
    r = lanes_fma(n, lanes_splat(-0x1.7f7d1cp-20f), r);

    /* The Taylor polynomial: |r| <= ln 2 / 2, so r^8 / 8! is below 2^-27. */
    struct lanes p = lanes_splat(1.0f / 5040.0f);
    p = lanes_fma(p, r, lanes_splat(1.0f / 720.0f));
    p = lanes_fma(p, r, lanes_splat(1.0f / 120.0f));
    p = lanes_fma(p, r, lanes_splat(1.0f / 24.0f));
    p = lanes_fma(p, r, lanes_splat(1.0f / 6.0f));
    p = lanes_fma(p, r, lanes_splat(0.5f));
    p = lanes_fma(p, r, lanes_splat(1.0f));
    p = lanes_fma(p, r, lanes_splat(1.0f));
    return lanes_scale(p, shifted);
}

/* 1 / (1 + exp(-x)) */
static inline struct lanes lanes_sigmoid(struct lanes x)
{
    struct lanes one = lanes_splat(1.0f);
    return lanes_div(one, lanes_add(one, lanes_exp(lanes_sub(lanes_zero(), x))));
}

/* x sigmoid(x) */
static inline struct lanes lanes_silu(struct lanes x)
{
    struct lanes one = lanes_splat(1.0f);
    return lanes_div(x, lanes_add(one, lanes_exp(lanes_sub(lanes_zero(), x))));
}

static inline float exp_f32(float x)
{
    float y[LANES];
    lanes_store(y, lanes_exp(lanes_splat(x)));
    return y[0];
}

#endif
