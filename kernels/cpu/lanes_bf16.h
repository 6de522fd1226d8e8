/* lanes_bf16.h - products of pairs of bf16, as matrix.h defines them.
 *
 * A line of BF16 weights has a pair of columns of 16 output rows; a word has the
 * same pair of one input row, rounded.  With AVX512_BF16 one instruction
 * multiplies and adds them.  Elsewhere both are widened, which is exact, and
 * numbers below 2^-126 are made 0 by the control word of the CPU - AVX2 and
 * AVX-512, between pairs_begin and pairs_end - or by hand.
 */
#ifndef KERNELS_CPU_LANES_BF16_H
#define KERNELS_CPU_LANES_BF16_H

#include "kernels/cpu/lanes.h"

static inline float pairs_flushed(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* to[2 count] = x, rounded; `to` in bytes, since others read it as words. */
static inline void pairs_round(char *to, const float *x, int64_t count)
{
    int64_t i = 0;
#if defined(ISA_BF16)
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + LANES), _mm512_loadu_ps(x + i));
        memcpy(to + 2 * i, &both, sizeof both);
    }
#endif
    for (; i < count; i++) {
        uint16_t number = bf16_from_f32(pairs_flushed(x[i]));
        memcpy(to + 2 * i, &number, sizeof number);
    }
}

/* The word at `word`, 16 times. */
static inline struct lanes pairs_splat(const float *word)
{
#if defined(ISA_AVX512)
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    return (struct lanes){_mm512_castsi512_ps(_mm512_set1_epi32(bits))};
#elif defined(ISA_AVX2)
    int32_t bits;
    memcpy(&bits, word, sizeof bits);
    __m256 pair = _mm256_castsi256_ps(_mm256_set1_epi32(bits));
    return (struct lanes){pair, pair};
#else
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        memcpy(&y.v[i], word, sizeof *word);
    return y;
#endif
}

#if !defined(ISA_AVX512) && !defined(ISA_AVX2)
/* a b + c.  Whether the sum is below 2^-126 is asked of the one that is rounded to 24 bits there too: 2^64
 * times as large.  Where the sum is tiny a, b and c are not so large that this overflows. */
static inline float pairs_fma(float a, float b, float c)
{
    a = pairs_flushed(a);
    b = pairs_flushed(b);
    float sum = fmaf(a, b, c);
    if (!(fabsf(sum) <= 0x1p-126f) || sum == 0.0f)
        return sum;
    int is_tiny = fabsf(fmaf(a * 0x1p32f, b * 0x1p32f, c * 0x1p64f)) < 0x1p-62f;
    return is_tiny ? copysignf(0.0f, sum) : sum;
}
#endif

/* sum + w_1 x_1, then + w_0 x_0, each rounded; sum is no number below 2^-126. */
static inline struct lanes pairs_dot(struct lanes sum, struct lanes w, struct lanes x)
{
#if defined(ISA_BF16)
    return (struct lanes){_mm512_dpbf16_ps(sum.v, (__m512bh)w.v, (__m512bh)x.v)};
#elif defined(ISA_AVX512) || defined(ISA_AVX2)
    sum = lanes_fma(lanes_of_pairs(w, 1), lanes_of_pairs(x, 1), sum);
    return lanes_fma(lanes_of_pairs(w, 0), lanes_of_pairs(x, 0), sum);
#else
    for (int c = 1; c >= 0; c--) {
        struct lanes wc = lanes_of_pairs(w, c), xc = lanes_of_pairs(x, c);
        for (int i = 0; i < LANES; i++)
            sum.v[i] = pairs_fma(wc.v[i], xc.v[i], sum.v[i]);
    }
    return sum;
#endif
}

/* Around a call of a function that is not inlined, in which pairs are multiplied. */
static inline unsigned pairs_begin(void)
{
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    enum { FLUSHES_RESULTS = 0x8000, FLUSHES_INPUTS = 0x40 };
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSHES_RESULTS | FLUSHES_INPUTS);
    return before;
#else
    return 0;
#endif
}

static inline void pairs_end(unsigned before)
{
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

#endif
