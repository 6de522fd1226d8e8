/* lanes.h - 16 floats that are computed with side by side, whatever the CPU.
 *
 * The files of this folder are compiled once for each instruction set (see
 * isa.cmake): one AVX-512 register, two AVX2 registers or 16 plain floats.
 * Every operation here is exact or rounds once, so the three give the same
 * bits; sums across lanes follow one fixed tree.  Tile sizes are chosen for the
 * number of registers.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include "kernels/core/dtype.h"

#include <math.h>

#if defined(ISA_AVX512)
#include <immintrin.h>
#if defined(ISA_VNNI) /* product_i8.c only */
#define ISA(name) name##_avx512vnni
#elif defined(ISA_BF16) /* product.c only */
#define ISA(name) name##_avx512bf16
#else
#define ISA(name) name##_avx512
#endif
#define ISA_NAME "avx512"
#elif defined(ISA_AVX2)
#include <immintrin.h>
#define ISA(name) name##_avx2
#define ISA_NAME  "avx2"
#else
#define ISA(name) name##_plain
#define ISA_NAME  "plain"
#endif

enum { LANES = 16 };

/* Tiles keep their sums in registers only when their loops are unrolled and their sizes constants: the
 * compiler is told, since it gives up on the larger ones. */
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLLED      _Pragma("GCC unroll 16")

/* 2^n is found by adding 1.5 x 2^23, which leaves n in the low bits of the sum. */
#define LANES_SHIFT 0x1.8p23f

#if defined(ISA_AVX512)

/* Tiles of product_tiles.h: blocks that 1 row takes, up to 3, up to 6, up to TILE_ROWS.  As many sums as
 * registers hold beside the weights, and blocks of one bundle. */
enum { ONE_ROW_BLOCKS = 4, THREE_ROW_BLOCKS = 4, SIX_ROW_BLOCKS = 4, TILE_BLOCKS = 2 };
enum { TILE_ROWS = 10 };
/* Sums of attention_piece.c, and the most queries that share them. */
enum { SCORE_TILE = 16, SCORE_QUERIES = 8, SUM_TILE = 16, SUM_QUERIES = 8 };
/* Rows that all queries take from the first-level cache (64, a whole run: from the second), and
 * whether tiles share a row among so few queries that rows are copied first, widened, side by side. */
enum { ROW_BATCH = 64, COPIES_ROWS = 0 };

struct lanes {
    __m512 v;
};

static inline struct lanes lanes_splat(float x)
{
    return (struct lanes){_mm512_set1_ps(x)};
}

static inline struct lanes lanes_load(const float *x)
{
    return (struct lanes){_mm512_loadu_ps(x)};
}

static inline void lanes_store(float *y, struct lanes x)
{
    _mm512_storeu_ps(y, x.v);
}

static inline struct lanes lanes_load_bf16(const uint16_t *x)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x));
    return (struct lanes){_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

static inline struct lanes lanes_load_f16(const uint16_t *x)
{
    return (struct lanes){_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)x))};
}

/* x 2^-8: an e4m3 shifted into an f16 (kernels/core/dtype.c).  With the sign extended, the shift leaves
 * it in bit 15, its copy in bit 14 is cleared. */
static inline struct lanes lanes_load_f8(const uint8_t *x)
{
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return (struct lanes){_mm512_cvtph_ps(half)};
}

/* Number c of pairs of BF16: the upper half of an f32 as it is, or moved up. */
static inline struct lanes lanes_of_pairs(struct lanes pairs, int c)
{
    __m512i words = _mm512_castps_si512(pairs.v);
    __m512i upper = c == 0 ? _mm512_slli_epi32(words, 16)
                           : _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000));
    return (struct lanes){_mm512_castsi512_ps(upper)};
}

/* Column c of a line of F8_E4M3, x 2^-120: sign, exponent and fraction at their places in an f32. */
static inline struct lanes lanes_line_f8(const void *line, int c)
{
    __m512i words = _mm512_loadu_si512(line);
    __m512i top = c == 0   ? _mm512_slli_epi32(words, 24)
                  : c == 1 ? _mm512_slli_epi32(words, 16)
                  : c == 2 ? _mm512_slli_epi32(words, 8)
                           : words;
    __m512i bits = _mm512_and_si512(_mm512_srai_epi32(top, 4), _mm512_set1_epi32((int)0x87f00000));
    return (struct lanes){_mm512_castsi512_ps(bits)};
}

/* Shifts by a constant are cheaper than by a register. */
static inline __m512i lanes_nibble(__m512i words, int c)
{
    switch (c) {
    case 1:
        return _mm512_srli_epi32(words, 4);
    case 2:
        return _mm512_srli_epi32(words, 8);
    case 3:
        return _mm512_srli_epi32(words, 12);
    case 4:
        return _mm512_srli_epi32(words, 16);
    case 5:
        return _mm512_srli_epi32(words, 20);
    case 6:
        return _mm512_srli_epi32(words, 24);
    case 7:
        return _mm512_srli_epi32(words, 28);
    default:
        return words;
    }
}

/* Column c of a line of I4, less 8: a look-up takes the low 4 bits of a lane. */
static inline struct lanes lanes_line_i4(const void *line, int c)
{
    const __m512 number = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return (struct lanes){_mm512_permutexvar_ps(lanes_nibble(_mm512_loadu_si512(line), c), number)};
}

/* a * b + c, rounded once */
static inline struct lanes lanes_fma(struct lanes a, struct lanes b, struct lanes c)
{
    return (struct lanes){_mm512_fmadd_ps(a.v, b.v, c.v)};
}

static inline struct lanes lanes_add(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_add_ps(a.v, b.v)};
}

static inline struct lanes lanes_sub(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_sub_ps(a.v, b.v)};
}

static inline struct lanes lanes_mul(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_mul_ps(a.v, b.v)};
}

static inline struct lanes lanes_div(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_div_ps(a.v, b.v)};
}

/* a > b ? a : b; b where either is NaN */
static inline struct lanes lanes_max(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_max_ps(a.v, b.v)};
}

/* a < b ? a : b; b where either is NaN */
static inline struct lanes lanes_min(struct lanes a, struct lanes b)
{
    return (struct lanes){_mm512_min_ps(a.v, b.v)};
}

/* x 2^n for shifted = n + LANES_SHIFT, |n| <= 252, rounded once */
static inline struct lanes lanes_scale(struct lanes x, struct lanes shifted)
{
    __m512 n = _mm512_sub_ps(shifted.v, _mm512_set1_ps(LANES_SHIFT));
    return (struct lanes){_mm512_scalef_ps(x.v, n)};
}

/* The tree of lanes_sum with maxima (any order gives the same one). */
static inline float lanes_largest(struct lanes x)
{
    __m512 v = _mm512_max_ps(x.v, _mm512_shuffle_f32x4(x.v, x.v, 0x4e));
    v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = _mm512_max_ps(v, _mm512_permute_ps(v, 0x4e));
    v = _mm512_max_ps(v, _mm512_permute_ps(v, 0xb1));
    return _mm512_cvtss_f32(v);
}

/* A step of the tree of lanes_sum on two vectors at once: each number meets its partner in one of
 * them, which a blend and a shuffle bring to the same place.  Blends are cheaper than shuffles. */
static inline __m512 lanes_join_8(__m512 a, __m512 b) /* a a b b, of halves */
{
    return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}

static inline __m512 lanes_join_4(__m512 a, __m512 b) /* a b a b, of quarters */
{
    const __m512i partner =
        _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
    return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, partner, b));
}

static inline __m512 lanes_join_2(__m512 a, __m512 b) /* in each quarter a a b b */
{
    return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}

static inline __m512 lanes_join_1(__m512 a, __m512 b) /* in each quarter a b a b */
{
    __m512 other = _mm512_permute_ps(_mm512_mask_blend_ps(0xaaaa, b, a), 0xb1);
    return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, a, b), other);
}

/* sums[i] = lanes_sum(x[i]), SCORE_TILE at once: a step of the tree on two vectors gives one */
static inline void lanes_sums(float *sums, const struct lanes *x)
{
    __m512 w[4];
    for (int i = 0; i < 4; i++) { /* x[i], x[i + 4], x[i + 8], x[i + 12] in the quarters */
        __m512 low = lanes_join_8(x[i].v, x[i + 8].v), high = lanes_join_8(x[i + 4].v, x[i + 12].v);
        w[i] = lanes_join_4(low, high);
    }
    _mm512_storeu_ps(sums, lanes_join_1(lanes_join_2(w[0], w[2]), lanes_join_2(w[1], w[3])));
}

#elif defined(ISA_AVX2)

enum { ONE_ROW_BLOCKS = 4, THREE_ROW_BLOCKS = 2, SIX_ROW_BLOCKS = 1, TILE_BLOCKS = 1 };
enum { TILE_ROWS = 6 };
enum { SCORE_TILE = 4, SCORE_QUERIES = 2, SUM_TILE = 4, SUM_QUERIES = 4 };
enum { ROW_BATCH = 32, COPIES_ROWS = 1 };

struct lanes {
    __m256 a, b;
};

static inline struct lanes lanes_splat(float x)
{
    return (struct lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline struct lanes lanes_load(const float *x)
{
    return (struct lanes){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}

static inline void lanes_store(float *y, struct lanes x)
{
    _mm256_storeu_ps(y, x.a);
    _mm256_storeu_ps(y + 8, x.b);
}

static inline __m128i lanes_half(const uint16_t *x)
{
    return _mm_loadu_si128((const __m128i *)(const void *)x);
}

static inline struct lanes lanes_load_bf16(const uint16_t *x)
{
    __m256i a = _mm256_cvtepu16_epi32(lanes_half(x)), b = _mm256_cvtepu16_epi32(lanes_half(x + 8));
    return (struct lanes){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

static inline struct lanes lanes_load_f16(const uint16_t *x)
{
    return (struct lanes){_mm256_cvtph_ps(lanes_half(x)), _mm256_cvtph_ps(lanes_half(x + 8))};
}

static inline struct lanes lanes_load_f8(const uint8_t *x)
{
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return (struct lanes){_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
                          _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}

static inline __m256i lanes_words(const void *line, int half)
{
    return _mm256_loadu_si256((const __m256i *)line + half);
}

static inline __m256 lanes_half_pairs(__m256 pairs, int c)
{
    __m256i words = _mm256_castps_si256(pairs);
    return _mm256_castsi256_ps(c == 0
                                   ? _mm256_slli_epi32(words, 16)
                                   : _mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000)));
}

static inline struct lanes lanes_of_pairs(struct lanes pairs, int c)
{
    return (struct lanes){lanes_half_pairs(pairs.a, c), lanes_half_pairs(pairs.b, c)};
}

static inline __m256 lanes_half_f8(__m256i words, int c)
{
    __m256i top = _mm256_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * c));
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_srai_epi32(top, 4), _mm256_set1_epi32((int)0x87f00000)));
}

static inline struct lanes lanes_line_f8(const void *line, int c)
{
    return (struct lanes){lanes_half_f8(lanes_words(line, 0), c),
                          lanes_half_f8(lanes_words(line, 1), c)};
}

static inline __m256 lanes_half_i4(__m256i words, int c)
{
    __m256i nibble =
        _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128(4 * c)), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(nibble, _mm256_set1_epi32(8)));
}

static inline struct lanes lanes_line_i4(const void *line, int c)
{
    return (struct lanes){lanes_half_i4(lanes_words(line, 0), c),
                          lanes_half_i4(lanes_words(line, 1), c)};
}

static inline struct lanes lanes_fma(struct lanes x, struct lanes y, struct lanes z)
{
    return (struct lanes){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline struct lanes lanes_add(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

static inline struct lanes lanes_sub(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

static inline struct lanes lanes_mul(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

static inline struct lanes lanes_div(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}

static inline struct lanes lanes_max(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

static inline struct lanes lanes_min(struct lanes x, struct lanes y)
{
    return (struct lanes){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

static inline __m256 lanes_scale_half(__m256 x, __m256 shifted)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(n, 1);
    __m256i rest = _mm256_sub_epi32(n, half), bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

static inline struct lanes lanes_scale(struct lanes x, struct lanes shifted)
{
    return (struct lanes){lanes_scale_half(x.a, shifted.a), lanes_scale_half(x.b, shifted.b)};
}

/* sums[i] = lanes_sum(x[i]), SCORE_TILE at once */
static inline void lanes_sums(float *sums, const struct lanes *x)
{
    __m256 v[4], w[2];
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_add_ps(x[i].a, x[i].b);
    for (int i = 0; i < 2; i++)
        w[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[2 * i], v[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(v[2 * i], v[2 * i + 1], 0x31));
    __m256 pairs =
        _mm256_add_ps(_mm256_shuffle_ps(w[0], w[1], 0x44), _mm256_shuffle_ps(w[0], w[1], 0xee));
    __m256 all = _mm256_add_ps(_mm256_shuffle_ps(pairs, pairs, 0x88),
                               _mm256_shuffle_ps(pairs, pairs, 0xdd)); /* 0 2 0 2 1 3 1 3 */
    __m128 even = _mm256_castps256_ps128(all), odd = _mm256_extractf128_ps(all, 1);
    _mm_storeu_ps(sums, _mm_unpacklo_ps(even, odd));
}

#else

enum { ONE_ROW_BLOCKS = 4, THREE_ROW_BLOCKS = 2, SIX_ROW_BLOCKS = 1, TILE_BLOCKS = 1 };
enum { TILE_ROWS = 6 };
enum { SCORE_TILE = 4, SCORE_QUERIES = 2, SUM_TILE = 4, SUM_QUERIES = 4 };
enum { ROW_BATCH = 32, COPIES_ROWS = 1 };

struct lanes {
    float v[LANES];
};

static inline struct lanes lanes_splat(float x)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = x;
    return y;
}

static inline struct lanes lanes_load(const float *x)
{
    struct lanes y;
    memcpy(y.v, x, sizeof y.v);
    return y;
}

static inline void lanes_store(float *y, struct lanes x)
{
    memcpy(y, x.v, sizeof x.v);
}

static inline struct lanes lanes_load_bf16(const uint16_t *x)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = bf16_to_f32(x[i]);
    return y;
}

static inline struct lanes lanes_load_f16(const uint16_t *x)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = f16_to_f32(x[i]);
    return y;
}

static inline struct lanes lanes_load_f8(const uint8_t *x)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = f8_e4m3_to_f32(x[i]) * 0x1p-8f;
    return y;
}

static inline uint32_t lanes_word(const void *line, int i)
{
    uint32_t word;
    memcpy(&word, (const char *)line + (size_t)i * sizeof word, sizeof word);
    return word;
}

static inline struct lanes lanes_of_pairs(struct lanes pairs, int c)
{
    for (int i = 0; i < LANES; i++)
        pairs.v[i] = bf16_to_f32((uint16_t)(lanes_word(pairs.v, i) >> (16 * c)));
    return pairs;
}

static inline struct lanes lanes_line_f8(const void *line, int c)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = f8_e4m3_to_f32(((const uint8_t *)line)[4 * i + c]) * 0x1p-120f;
    return y;
}

static inline struct lanes lanes_line_i4(const void *line, int c)
{
    struct lanes y;
    for (int i = 0; i < LANES; i++)
        y.v[i] = (float)((int)(lanes_word(line, i) >> (4 * c) & 15u) - 8);
    return y;
}

static inline struct lanes lanes_fma(struct lanes a, struct lanes b, struct lanes c)
{
    for (int i = 0; i < LANES; i++)
        c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}

static inline struct lanes lanes_add(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] += b.v[i];
    return a;
}

static inline struct lanes lanes_sub(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] -= b.v[i];
    return a;
}

static inline struct lanes lanes_mul(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] *= b.v[i];
    return a;
}

static inline struct lanes lanes_div(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] /= b.v[i];
    return a;
}

static inline struct lanes lanes_max(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}

static inline struct lanes lanes_min(struct lanes a, struct lanes b)
{
    for (int i = 0; i < LANES; i++)
        a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}

static inline struct lanes lanes_scale(struct lanes x, struct lanes shifted)
{
    for (int i = 0; i < LANES; i++) {
        uint32_t bits, powers[2];
        float factors[2];
        memcpy(&bits, &shifted.v[i], sizeof bits);
        uint32_t n = bits - 0x4b400000u;              /* two's complement */
        uint32_t half = (n >> 1) | (n & 0x80000000u); /* n / 2, rounded down */
        powers[0] = (half + 127u) << 23;
        powers[1] = (n - half + 127u) << 23;
        memcpy(factors, powers, sizeof factors);
        x.v[i] = x.v[i] * factors[0] * factors[1];
    }
    return x;
}

#endif

/* Asks for the cache line at `x`, which need not exist, in the second-level cache.  Inlined always: gcc 12
 * takes a function that only prefetches for one without effects and drops its calls. */
static ALWAYS_INLINE void lanes_prefetch_2(const void *x)
{
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    _mm_prefetch(x, _MM_HINT_T1);
#else
    (void)x;
#endif
}

/* x, in a register: gcc may else load it again for each of two uses, and loads are what tiles are
 * short of (AVX-512: one in each cycle of a Zen 4). */
static inline struct lanes lanes_keep(struct lanes x)
{
#if defined(ISA_AVX512)
    __asm__("" : "+v"(x.v));
#elif defined(ISA_AVX2)
    __asm__("" : "+x"(x.a), "+x"(x.b));
#endif
    return x;
}

static inline struct lanes lanes_zero(void)
{
    return lanes_splat(0.0f);
}

/* The first `count` < LANES floats of x, then `fill`. */
static inline struct lanes lanes_load_part(const float *x, int64_t count, float fill)
{
    float y[LANES];
    for (int i = 0; i < LANES; i++)
        y[i] = i < count ? x[i] : fill;
    return lanes_load(y);
}

static inline void lanes_store_part(float *y, int64_t count, struct lanes x)
{
    float part[LANES];
    lanes_store(part, x);
    for (int i = 0; i < count; i++)
        y[i] = part[i];
}

/* 16 elements of an array of F32, F16 or BF16, from element `at`, widened. */
static inline struct lanes lanes_load_as(const void *x, int64_t at, enum dtype dtype)
{
    if (dtype == DTYPE_BF16)
        return lanes_load_bf16((const uint16_t *)x + at);
    if (dtype == DTYPE_F16)
        return lanes_load_f16((const uint16_t *)x + at);
    return lanes_load((const float *)x + at);
}

/* Column c of a line (matrix.h) of BF16. */
static inline struct lanes lanes_line_bf16(const void *line, int c)
{
    return lanes_of_pairs(lanes_load(line), c);
}

/* The sum of the lanes: i + (i + 8), then + 4, + 2, + 1. */
static inline float lanes_sum(struct lanes x)
{
    float v[LANES];
    lanes_store(v, x);
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            v[i] += v[i + step];
    return v[0];
}

#if !defined(ISA_AVX512) && !defined(ISA_AVX2)
/* sums[i] = lanes_sum(x[i]), SCORE_TILE at once */
static inline void lanes_sums(float *sums, const struct lanes *x)
{
    for (int i = 0; i < SCORE_TILE; i++)
        sums[i] = lanes_sum(x[i]);
}
#endif

#if !defined(ISA_AVX512)
/* The largest lane (any order gives the same one). */
static inline float lanes_largest(struct lanes x)
{
    float v[LANES];
    lanes_store(v, x);
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            v[i] = v[i] > v[i + step] ? v[i] : v[i + step];
    return v[0];
}
#endif

#endif
