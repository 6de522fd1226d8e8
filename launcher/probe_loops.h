/* probe_loops.h - the two loops of probe.c, compiled for each instruction set. */
#ifndef LAUNCHER_PROBE_LOOPS_H
#define LAUNCHER_PROBE_LOOPS_H

#include <stdint.h>

struct probe_loops {
    /* The sum of x[count], read once, front to back; count is a multiple of 64. */
    float (*read)(const float *x, int64_t count);
    /* `rounds` rounds of fused multiply-adds on registers; something that depends on all of them. */
    float (*fma)(int64_t rounds);
    int64_t fma_flop; /* of a round: 2 for each fused multiply-add */
};

extern const struct probe_loops probe_loops_plain;
extern const struct probe_loops probe_loops_avx2;
extern const struct probe_loops probe_loops_avx512;

#endif
