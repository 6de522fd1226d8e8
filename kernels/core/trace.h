/* trace.h - counters of the paths that ran, for tests and for `generate --json`.
 *
 * A counter costs one addition; it is process-wide and counts calls, so a test
 * can assert that the path it means to test was really taken. */
#ifndef KERNELS_CORE_TRACE_H
#define KERNELS_CORE_TRACE_H

#include <stdint.h>

enum trace_counter {
    TRACE_ATTENTION_ABSORBED, /* layers that attended in the latent space  */
    TRACE_ATTENTION_EXPANDED, /* layers that decompressed keys and values  */
    TRACE_CACHE_EXCHANGES,    /* blocks of tokens whose attention over a sharded cache was merged */
    TRACE_CACHE_GATHERS,      /* chunks of rows that came from a sharded cache */
    TRACE_MOE_LAYERS,
    TRACE_DENSE_LAYERS,
    TRACE_STEPS,
    TRACE_ALL_REDUCES,  /* sums over more than one rank */
    TRACE_DECODE_STEPS, /* steps of one token a sequence */
    /* Of decode steps: experts of this rank that a token chose, each once a layer and step; and
     * the bytes of their weights. */
    TRACE_DECODE_EXPERTS,
    TRACE_DECODE_EXPERT_BYTES,
    TRACE_COUNTERS
};

void trace_add(enum trace_counter counter, int64_t count);
int64_t trace_value(enum trace_counter counter);
const char *trace_name(enum trace_counter counter);

#endif
