/* memory_plan.h - whether what every rank will need fits its node, asked before weights are read.
 *
 * Ranks of a node share its memory: their needs are added up and compared with what
 * is free there (kernels/core/device.h). */
#ifndef RUNTIME_MEMORY_PLAN_H
#define RUNTIME_MEMORY_PLAN_H

#include "parallel/comm.h"
#include "parallel/process.h"

struct memory_plan {
    int64_t weights, workspace, cache; /* bytes this rank will take */
};

/* Bytes that this rank could give its cache, were the memory left on its node shared evenly; the
 * smallest of all ranks, the same on all of them.  May be negative.
 * Collective.  Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status memory_plan_room(int64_t *cache_bytes, const struct memory_plan *plan,
                             const struct process *process, const struct device_ops *device,
                             struct comm *world);

/* Fails on every rank of a node that cannot hold what its ranks need; the text has wanted and free
 * bytes and `advice`.  Collective; follow it with comm_agree.
 * Errors: STATUS_NO_MEMORY, STATUS_COMM. */
enum status memory_plan_check(const struct memory_plan *plan, const struct process *process,
                              const struct device_ops *device, struct comm *world,
                              const char *advice);

#endif
