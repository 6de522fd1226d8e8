/* bench_load.h - how fast weights come into memory, beside what the machine gives.
 *
 *   load    what every command does: the ranks' slices read, checked, packed into fresh memory
 *   copy    as many bytes of the same files from the page cache into fresh memory of the same kind, by
 *           the same threads, in large reads and nothing else
 *   direct  the same bytes past the page cache into a few buffers, 8 large reads at a time on each
 *           rank; a read through the page cache where the file system has none such
 *
 * gb_s are bytes of all ranks as stored / time of the slowest rank, memory taken and touched included.
 * Runs of load and copy, then of load and direct, alternate. */
#ifndef LAUNCHER_BENCH_LOAD_H
#define LAUNCHER_BENCH_LOAD_H

#include "launcher/bench_formula.h"
#include "parallel/shard_plan.h"
#include "runtime/weights.h"

/* A stretch of a file. */
struct plain_range {
    int file;
    int64_t begin, end;
};

/* The bytes that a rank loads, without their meaning. */
struct plain_reads {
    struct plain_range *range; /* in order of file and place; neighbours are one */
    int n_ranges, n_files;
    int *fd; /* [n_files] */
    int64_t bytes;
};

/* As many bytes of each tensor as the rank of `plan` reads, in one stretch.
 * Owner: caller; end with plain_reads_close, also after a failure.
 * Errors: STATUS_IO, STATUS_NO_MEMORY, those of weights_find. */
enum status plain_reads_open(struct plain_reads *reads, const struct model_config *config,
                             const struct safetensors *checkpoint, const struct shard_plan *plan);
void plain_reads_close(struct plain_reads *reads);

/* Reads all into fresh memory, which is given back after the clock is read.  *ns: time it took. */
enum status plain_copy(int64_t *ns, const struct plain_reads *reads);

/* Reads all past the page cache, into buffers. */
enum status plain_direct(int64_t *ns, const struct plain_reads *reads);

/* Asks the system to forget the files; reads them whole, so that they are in the page cache.  How many
 * of their bytes are there (-1: unknown), and how many they have. */
void plain_forget(const struct plain_reads *reads);
enum status plain_warm(const struct plain_reads *reads);
void plain_cached(int64_t *cached, int64_t *bytes, const struct plain_reads *reads);

#endif
