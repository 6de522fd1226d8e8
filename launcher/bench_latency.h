/* bench_latency.h - what `bench latency` measured, between the command and its report. */
#ifndef LAUNCHER_BENCH_LATENCY_H
#define LAUNCHER_BENCH_LATENCY_H

#include "launcher/bench_formula.h"
#include "parallel/mesh.h"
#include "runtime/engine.h"

struct latency_result {
    const char *model;
    struct mesh mesh;
    int n_threads, n_nodes, repeat; /* n_threads: of a rank */
    const char *isa;
    const char *weight_dtype, *activation_dtype, *kv_cache_dtype; /* the values of these options */
    int64_t batch, input_len, output_len;
    enum kv_placement kv_placement;
    int cache_members; /* ranks that share the cached rows; 1: every rank holds all */
    int64_t cache_bytes, replicated_cache_bytes; /* of a rank; if it held every row */
    double load_s;
    struct bench_spread ttft_ms, tpot_ms, total_ms;
    struct bench_spread probe_gb_s, fma_peak_gflop_s; /* around each run */
    /* What the machine could have read in the tpot of a run, and computed in its ttft. */
    struct bench_spread readable_bytes, computable_flop;
    double job_step_bytes,
        node_step_bytes;     /* of a decode step: all ranks; those of rank 0's node */
    double experts_per_step; /* touched in a decode step, all layers and ranks */
    double prefill_flop;
};

/* Prints it as a table, or as JSON.  Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status latency_report(const struct latency_result *result, int as_json);

#endif
