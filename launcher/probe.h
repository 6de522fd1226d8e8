/* probe.h - what this job's threads get from the machine when all of them do nothing else: bytes read
 * in a second, fused multiply-adds in a second.  Measured speeds are compared with these.
 *
 *   read_gb_s    all threads of all ranks of rank 0's node read their parts of at least 1 GiB (4 last-level
 *                caches if that is more; an eighth of the free memory if that is less), front to back,
 *                in huge pages; bytes / time from the first that begins to the last that ends; best of 3
 *   fma_gflop_s  f32 multiply-adds on registers, widest vectors of the instruction set in use, by all
 *                threads at once; summed over nodes; 2 operations each; best of 3
 *
 * What a machine gives changes from minute to minute where others share it.  So a benchmark samples
 * before and after each measured run, and holds the run against the mean of the two.
 */
#ifndef LAUNCHER_PROBE_H
#define LAUNCHER_PROBE_H

#include "parallel/comm.h"
#include "parallel/process.h"

struct probe {
    double read_gb_s, fma_gflop_s;
};

/* The memory that is read. */
struct prober;

/* Collective over the world, like all here; `world` and `process` are borrowed until probe_close.
 * Owner: caller; end with probe_close.
 * Errors: STATUS_NO_MEMORY, STATUS_COMM, STATUS_USAGE (LATENTRANK_DEBUG_ISA). */
enum status probe_open(struct prober **prober, struct comm *world, const struct process *process);

/* Some 200 ms on the threads of the open pool (kernels/cpu/cpu_threads.h), which must be as many as at
 * probe_open; the same result on all ranks.  Errors: STATUS_COMM. */
enum status probe_sample(struct probe *sample, struct prober *prober);

void probe_close(struct prober *prober);

/* The mean of two samples. */
struct probe probe_mean(const struct probe *a, const struct probe *b);

#endif
