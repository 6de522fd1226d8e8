/* bench_comm.h - how long the collectives of parallel/comm.h take between the ranks of the job.
 *
 * A case is one operation on one size, timed over all backends.  A round takes each backend in turn:
 * a call on random numbers, whose result is compared with a serial one, then a barrier, then as many
 * calls as take about a millisecond, on vectors of zeros, which stay zeros.
 *
 *   bytes    of the vector that each rank begins or ends with: what is summed, all parts gathered, what was sent
 *   time_us  of a call on the slowest rank; median of the rounds
 *   algbw    bytes / time
 *   busbw    algbw times what the slowest link carries of it: 2 (P - 1) / P for all_reduce, (P - 1) / P
 *            for reduce_scatter, all_gather and all_to_all, 1 for broadcast (github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md)
 *   wrong    numbers on all ranks that differ in any bit from the serial result; of the library's sums,
 *            which have no fixed order, those farther from it than any order can be
 */
#ifndef LAUNCHER_BENCH_COMM_H
#define LAUNCHER_BENCH_COMM_H

#include "launcher/bench_formula.h"
#include "launcher/job.h"

#include <jansson.h>

enum {
    COMM_BACKENDS_MAX = 3,
    COMM_CHECK_BLOCK = 1024 /* numbers compared at a time */
};

struct comm_bench {
    const struct options *options;
    struct job *job;
    struct comm comm[COMM_BACKENDS_MAX]; /* between all ranks */
    int n_comms;
    char left_out[STATUS_TEXT_MAX]; /* why a backend is missing; "" */

    float *x, *y;    /* [max_bytes / 4 + 1] */
    float *parts;    /* [ranks, COMM_CHECK_BLOCK] */
    int64_t *counts; /* [ranks] of the parts of the case */
    int64_t *
        figures; /* [ranks, (repeat + 1) * n_comms]: times in ns of each round, then wrong numbers */
    int64_t *figure_counts; /* [ranks] */
    double *rounds;         /* [repeat] */

    int64_t n_wrong;
    json_t *rows; /* NULL: the table is printed as it comes */
};

struct comm_case {
    enum option_comm_op op;
    int64_t bytes, count;
};

struct comm_row {
    const char *backend;
    struct bench_spread time_us;
    double algbw_gb_s, busbw_gb_s;
    int64_t wrong;
};

/* Pure: the two bandwidths of a call that took time_us.median between `ranks` ranks. */
void comm_row_bandwidths(struct comm_row *row, const struct comm_case *c, int ranks);

/* One call on random numbers; leaves them in x and y.  *wrong: of this rank. */
enum status comm_check_call(int64_t *wrong, struct comm_bench *b, struct comm *comm,
                            const struct comm_case *c, int salt);

/* One call of the operation on the vectors x and y. */
enum status comm_call(struct comm_bench *b, struct comm *comm, const struct comm_case *c);

/* On rank 0. */
enum status comm_report_begin(struct comm_bench *b);
enum status comm_report_row(struct comm_bench *b, const struct comm_case *c,
                            const struct comm_row *row);
enum status comm_report_end(struct comm_bench *b);

#endif
