/* lanes_i8.h - 16 integers side by side, and the dot products of bytes that product_i8.c is made of.
 *
 * A line of I8 weights (matrix.h) has 4 columns of 16 output rows, as number + 128;
 * a word has the same 4 columns of one input row, rounded to [-127, 127].  With
 * AVX-512 VNNI one instruction adds the products of a line and a word.  Elsewhere
 * bytes are widened to 16 bits first, since adding pairs of products in 16 bits
 * saturates; a word is then kept as two of 16-bit numbers: columns 0 and 2, 1 and 3.
 * All of it is exact.
 */
#ifndef KERNELS_CPU_LANES_I8_H
#define KERNELS_CPU_LANES_I8_H

#include "kernels/cpu/lanes.h"

enum { WORD_COLUMNS = 4 };

/* Asks for the cache line at `x`, which need not exist.  Inlined before gcc 12 looks for functions without
 * effect: it takes one that only fetches for such, and leaves calls of it out. */
static ALWAYS_INLINE void line_fetch(const char *x)
{
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    _mm_prefetch(x, _MM_HINT_T0);
#else
    (void)x;
#endif
}

#if defined(ISA_AVX512)

struct ints {
    __v16si
        v; /* __m512i counts 64-bit numbers: gcc 12 then copies sums before and after they are used */
};

static inline struct ints ints_splat(int32_t x)
{
    return (struct ints){(__v16si)_mm512_set1_epi32(x)};
}

static inline struct ints ints_add(struct ints a, struct ints b)
{
    return (struct ints){a.v + b.v};
}

static inline struct ints ints_max(struct ints a, struct ints b)
{
    return (struct ints){(__v16si)_mm512_max_epi32((__m512i)a.v, (__m512i)b.v)};
}

/* The bits of |x|, which are in the order of |x|: infinity above all numbers, NaN above it. */
static inline struct ints ints_magnitude(struct lanes x)
{
    return (struct ints){
        (__v16si)_mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff))};
}

/* To nearest, ties to even, of |x| < 2^22. */
static inline struct ints ints_round(struct lanes x)
{
    __m512i bits = _mm512_castps_si512(_mm512_add_ps(x.v, _mm512_set1_ps(LANES_SHIFT)));
    return (struct ints){(__v16si)_mm512_sub_epi32(bits, _mm512_set1_epi32(0x4b400000))};
}

static inline struct lanes lanes_of_ints(struct ints x)
{
    return (struct lanes){_mm512_cvtepi32_ps((__m512i)x.v)};
}

static inline int32_t ints_sum(struct ints x)
{
    return _mm512_reduce_add_epi32((__m512i)x.v);
}

static inline int32_t ints_largest(struct ints x)
{
    return _mm512_reduce_max_epi32((__m512i)x.v);
}

#if defined(ISA_VNNI)

enum { I8_ROWS = 12, I8_BLOCKS = 2, WORD_BYTES = 4 };

struct line {
    __m512i v;
};
struct word {
    __m512i v;
};

static inline struct line line_load(const char *line)
{
    return (struct line){_mm512_loadu_si512(line)};
}

static inline struct word word_load(const char *word)
{
    int32_t x;
    memcpy(&x, word, sizeof x);
    return (struct word){_mm512_set1_epi32(x)};
}

static inline struct ints ints_dot(struct ints sum, struct line w, struct word x)
{
    return (struct ints){(__v16si)_mm512_dpbusd_epi32((__m512i)sum.v, w.v, x.v)};
}

/* Four words of 4 columns each, `stride` bytes apart. */
static inline void words_store(char *to, int64_t stride, struct ints q)
{
    __m128i bytes = _mm512_cvtepi32_epi8((__m512i)q.v);
    int32_t word[] = {_mm_cvtsi128_si32(bytes), _mm_extract_epi32(bytes, 1),
                      _mm_extract_epi32(bytes, 2), _mm_extract_epi32(bytes, 3)};
    for (int i = 0; i < 4; i++)
        memcpy(to + i * stride, &word[i], sizeof word[i]);
}

#else

enum { I8_ROWS = 8, I8_BLOCKS = 2, WORD_BYTES = 8 };

struct line {
    __m512i even, odd; /* columns 0 and 2, 1 and 3 of each row */
};
struct word {
    __m512i even, odd;
};

static inline struct line line_load(const char *line)
{
    __m512i bytes = _mm512_loadu_si512(line);
    return (struct line){_mm512_and_si512(bytes, _mm512_set1_epi32(0x00ff00ff)),
                         _mm512_srli_epi16(bytes, 8)};
}

static inline struct word word_load(const char *word)
{
    int32_t x[2];
    memcpy(x, word, sizeof x);
    return (struct word){_mm512_set1_epi32(x[0]), _mm512_set1_epi32(x[1])};
}

static inline struct ints ints_dot(struct ints sum, struct line w, struct word x)
{
    sum.v += (__v16si)_mm512_madd_epi16(w.even, x.even);
    return (struct ints){sum.v + (__v16si)_mm512_madd_epi16(w.odd, x.odd)};
}

#endif

#elif defined(ISA_AVX2)

enum { I8_ROWS = 4, I8_BLOCKS = 1, WORD_BYTES = 8 };

struct ints {
    __m256i a, b;
};

static inline struct ints ints_splat(int32_t x)
{
    return (struct ints){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

static inline struct ints ints_add(struct ints x, struct ints y)
{
    return (struct ints){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}

static inline struct ints ints_max(struct ints x, struct ints y)
{
    return (struct ints){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}

static inline struct ints ints_magnitude(struct lanes x)
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return (struct ints){_mm256_and_si256(_mm256_castps_si256(x.a), mask),
                         _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
}

static inline struct ints ints_round(struct lanes x)
{
    const __m256 shift = _mm256_set1_ps(LANES_SHIFT);
    const __m256i zero = _mm256_set1_epi32(0x4b400000);
    __m256i a = _mm256_castps_si256(_mm256_add_ps(x.a, shift));
    __m256i b = _mm256_castps_si256(_mm256_add_ps(x.b, shift));
    return (struct ints){_mm256_sub_epi32(a, zero), _mm256_sub_epi32(b, zero)};
}

static inline struct lanes lanes_of_ints(struct ints x)
{
    return (struct lanes){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

struct line {
    __m256i even[2], odd[2]; /* columns 0 and 2, 1 and 3 of each row */
};
struct word {
    __m256i even, odd;
};

static inline struct line line_load(const char *line)
{
    const __m256i mask = _mm256_set1_epi32(0x00ff00ff);
    __m256i a = lanes_words(line, 0), b = lanes_words(line, 1);
    return (struct line){{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)},
                         {_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)}};
}

static inline struct word word_load(const char *word)
{
    int32_t x[2];
    memcpy(x, word, sizeof x);
    return (struct word){_mm256_set1_epi32(x[0]), _mm256_set1_epi32(x[1])};
}

static inline __m256i dot_half(__m256i sum, __m256i even, __m256i odd, struct word x)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, x.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, x.odd));
}

static inline struct ints ints_dot(struct ints sum, struct line w, struct word x)
{
    return (struct ints){dot_half(sum.a, w.even[0], w.odd[0], x),
                         dot_half(sum.b, w.even[1], w.odd[1], x)};
}

#else

enum { I8_ROWS = 4, I8_BLOCKS = 1, WORD_BYTES = 4 };

struct ints {
    int32_t v[LANES];
};

static inline struct ints ints_splat(int32_t x)
{
    struct ints y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = x;
    return y;
}

static inline struct ints ints_add(struct ints a, struct ints b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] += b.v[i];
    return a;
}

static inline struct ints ints_max(struct ints a, struct ints b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}

static inline struct ints ints_magnitude(struct lanes x)
{
    struct ints y;
    memcpy(y.v, x.v, sizeof y.v);
    for (int i = 0; i < LANES; i++)
        y.v[i] &= 0x7fffffff;
    return y;
}

static inline struct ints ints_round(struct lanes x)
{
    struct ints y;
    for (int i = 0; i < LANES; i++)
        x.v[i] += LANES_SHIFT;
    memcpy(y.v, x.v, sizeof y.v);
    for (int i = 0; i < LANES; i++)
        y.v[i] -= 0x4b400000;
    return y;
}

static inline struct lanes lanes_of_ints(struct ints x)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = (float)x.v[i];
    return y;
}

struct line {
    uint8_t v[LANES * WORD_COLUMNS];
};
struct word {
    int8_t v[WORD_COLUMNS];
};

static inline struct line line_load(const char *line)
{
    struct line y;
    memcpy(y.v, line, sizeof y.v);
    return y;
}

static inline struct word word_load(const char *word)
{
    struct word y;
    memcpy(y.v, word, sizeof y.v);
    return y;
}

static inline struct ints ints_dot(struct ints sum, struct line w, struct word x)
{
    for (int i = 0; i < LANES; i++)
        for (int c = 0; c < WORD_COLUMNS; c++)
            sum.v[i] += w.v[i * WORD_COLUMNS + c] * x.v[c];
    return sum;
}

#endif

#if !defined(ISA_AVX512)

static inline void ints_store(int32_t *y, struct ints x)
{
    memcpy(y, &x, LANES * sizeof *y);
}

static inline int32_t ints_sum(struct ints x)
{
    int32_t v[LANES], sum = 0;
    ints_store(v, x);
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

static inline int32_t ints_largest(struct ints x)
{
    int32_t v[LANES], largest = INT32_MIN;
    ints_store(v, x);
    for (int i = 0; i < LANES; i++)
        largest = v[i] > largest ? v[i] : largest;
    return largest;
}

#endif

#if defined(ISA_AVX512) && !defined(ISA_VNNI)

static inline void words_store(char *to, int64_t stride, struct ints q)
{
    const __m128i even_odd =
        _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m512i v = (__m512i)q.v;
    const __m128i part[] = {_mm512_castsi512_si128(v), _mm512_extracti32x4_epi32(v, 1),
                            _mm512_extracti32x4_epi32(v, 2), _mm512_extracti32x4_epi32(v, 3)};
    for (int i = 0; i < 4; i++)
        _mm_storel_epi64((__m128i *)(void *)(to + i * stride), _mm_shuffle_epi8(part[i], even_odd));
}

#elif defined(ISA_AVX2)

static inline void words_store(char *to, int64_t stride, struct ints q)
{
    const __m128i even_odd =
        _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i part[] = {_mm256_castsi256_si128(q.a), _mm256_extracti128_si256(q.a, 1),
                            _mm256_castsi256_si128(q.b), _mm256_extracti128_si256(q.b, 1)};
    for (int i = 0; i < 4; i++)
        _mm_storel_epi64((__m128i *)(void *)(to + i * stride), _mm_shuffle_epi8(part[i], even_odd));
}

#elif !defined(ISA_VNNI)

static inline void words_store(char *to, int64_t stride, struct ints q)
{
    for (int i = 0; i < LANES; i++)
        to[i / WORD_COLUMNS * stride + i % WORD_COLUMNS] = (char)q.v[i];
}

#endif

#endif
