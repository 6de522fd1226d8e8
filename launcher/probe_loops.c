/* probe_loops.c - the fastest read and the fastest arithmetic of an instruction set. */
#include "launcher/probe_loops.h"
#include "kernels/cpu/lanes.h"

/* Sums side by side: a unit finishes two multiply-adds a cycle, each after four or five cycles.  An AVX2
 * lane is two registers, of 16; plain C waits for no unit. */
#if defined(ISA_AVX512)
enum { CHAINS = 16 };
#elif defined(ISA_AVX2)
enum { CHAINS = 6 };
#else
enum { CHAINS = 2 };
#endif

enum { READ_CHAINS = 4 };

static float probe_read(const float *x, int64_t count)
{
    struct lanes sum[READ_CHAINS];
    for (int i = 0; i < READ_CHAINS; i++)
        sum[i] = lanes_splat(0);
    for (int64_t at = 0; at < count; at += READ_CHAINS * LANES)
        for (int i = 0; i < READ_CHAINS; i++)
            sum[i] = lanes_add(sum[i], lanes_load(x + at + i * LANES));
    return lanes_sum(lanes_add(lanes_add(sum[0], sum[1]), lanes_add(sum[2], sum[3])));
}

/* Each sum goes to b / (1 - a): nothing overflows or becomes subnormal. */
static float probe_fma(int64_t rounds)
{
    const struct lanes a = lanes_splat(0.75f), b = lanes_splat(0.25f);
    struct lanes sum[CHAINS], all;
    for (int i = 0; i < CHAINS; i++)
        sum[i] = lanes_splat((float)i);
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < CHAINS; i++)
            sum[i] = lanes_fma(sum[i], a, b);
    all = sum[0];
    for (int i = 1; i < CHAINS; i++)
        all = lanes_add(all, sum[i]);
    return lanes_sum(all);
}

const struct probe_loops ISA(probe_loops) = {
    .read = probe_read, .fma = probe_fma, .fma_flop = (int64_t)2 * CHAINS * LANES};
