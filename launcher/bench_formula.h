/* bench_formula.h - what a measured time is held against.  Arithmetic only.
 *
 *   bytes of a decode step   of a rank: weight matrices that every step reads (runtime/decode_bytes.h)
 *                            + experts that the router chose, mean over decode steps
 *                            + batch x mean cached rows x bytes of a row in all layers, over the
 *                            ranks that share them;
 *                            of a node or job: the sum over its ranks
 *   gb_s                     bytes of a step on rank 0's node / time of a step
 *   operations of a prefill  2 for each multiplication and addition of two numbers:
 *                            tokens x parameters used by a token, lm_head for the last token of each
 *                            sequence only, + query x visible row pairs x layers x heads x
 *                            (d_n + d_r + d_v): keys and values per head, whatever form was run
 */
#ifndef LAUNCHER_BENCH_FORMULA_H
#define LAUNCHER_BENCH_FORMULA_H

#include "runtime/model_config.h"

/* What the decode steps of a run read on one rank. */
struct bench_reads {
    int64_t dense_bytes;  /* weights of every step; with stages a step is a round of all parties */
    int64_t expert_bytes; /* of all `n_steps` together */
    int64_t n_steps;      /* decode steps counted */
    int64_t cache_token_bytes; /* a cached row, all layers of the rank */
    int64_t cache_members; /* ranks that share the rows, each reading its part; 1: all of them */
};

/* Bytes of one decode step of `batch` sequences, mean over the steps after the first token; not a
 * number when there was none. */
double bench_step_bytes(const struct bench_reads *reads, int64_t batch, int64_t input_len,
                        int64_t output_len);

/* Operations of the prompts of a batch. */
double bench_prefill_flop(const struct model_config *config, int64_t batch, int64_t input_len);

struct bench_spread {
    double median, min, max;
};

/* Of value[count], which is sorted; not numbers for count 0. */
struct bench_spread bench_spread_of(double *value, int count);

#endif
