/* random.h - random numbers of tests: the same in every run, in C and in CUDA sources. */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>

/* splitmix64 */
static inline uint64_t random_bits(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* in [-1, 1) */
static inline float random_float(uint64_t *seed)
{
    return (float)(int64_t)(random_bits(seed) >> 40) * 0x1p-23f - 1.0f;
}

#endif
