/* random_numbers.h - random data of benches and checks: the same on every rank and in every run. */
#ifndef LAUNCHER_RANDOM_NUMBERS_H
#define LAUNCHER_RANDOM_NUMBERS_H

#include <stdint.h>
#include <xxhash.h>

/* Number `index` of the sequence that `seed` names. */
static inline uint64_t random_number(uint64_t seed, int32_t index)
{
    return XXH3_64bits_withSeed(&index, sizeof index, seed);
}

#endif
