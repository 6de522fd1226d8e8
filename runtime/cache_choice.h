/* cache_choice.h - --kv-placement auto: who holds which cached rows, from what this job measures.
 *
 * Sharing the rows over P ranks leaves each 1 / P of them to keep and to read in a
 * decode step, and adds two exchanges to every layer.  What an exchange takes and how
 * fast memory is read are measured when the engine opens. */
#ifndef RUNTIME_CACHE_CHOICE_H
#define RUNTIME_CACHE_CHOICE_H

#include "parallel/comm.h"
#include "runtime/engine.h"

/* One way to place them. */
struct cache_choice {
    enum kv_placement placement;
    int64_t bytes;      /* of cache on the rank that has the most */
    int fits;           /* on all ranks */
    double read_us;     /* of a decode step and layer: rows read at the speed of memory */
    double exchange_us; /* of its exchanges; 0 for a whole cache */
};

/* The index of the best of choice[n], which go from a whole cache to the most shared one: the fastest of those
 * that fit, of equal ones (within a tenth) the first; the last one when none fits.  Pure. */
int cache_choice_best(const struct cache_choice *choice, int n);

/* Why, in one line. */
void cache_choice_explain(char *text, size_t size, const struct cache_choice *choice, int n,
                          int best);

/* us of the two exchanges of a layer, for `tokens` tokens of which this rank has `heads` heads, `all_heads` of
 * the group together: the slowest rank of `world`.  Collective over both.
 * Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status cache_choice_time_exchange(double *us, struct comm *group, struct comm *world,
                                       int64_t tokens, const int64_t *heads, int64_t width);

/* Bytes per us that all ranks of a node together read at the same time, a rank's share of it; the slowest
 * rank.  Collective over `world`. */
enum status cache_choice_time_read(double *bytes_per_us, struct comm *world,
                                   const struct device_ops *device);

#endif
