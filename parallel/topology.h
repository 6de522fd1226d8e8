/* topology.h - hwloc: what cores this job may use on this node, and which of them are this rank's.
 *
 * topology_bind widens the binding within what the job was given on this node,
 * divided into equal, contiguous shares of cores by node_rank.  What was given:
 *   - when mpirun bound the ranks (its default: one core each, even for one
 *     rank, and whatever its own affinity), all that cgroup and system allow;
 *   - else (srun with task affinity, mpirun --bind-to none, no launcher) the
 *     union of the bindings of the node's ranks, so that taskset counts. */
#ifndef PARALLEL_TOPOLOGY_H
#define PARALLEL_TOPOLOGY_H

#include "kernels/core/status.h"
#include "parallel/process.h"
#include <stdint.h>

struct topology {
    int n_packages, n_numa, n_cores, n_pus; /* of the node, as hwloc sees it */
    int64_t memory_bytes;                   /* of the node */
    int own_cores;                          /* cores this rank is bound to */
    char own_set[256];                      /* their PUs, as a list: "0-3,8" */
};

/* Loads the topology and binds this process.  Set `bind` 0 to only look: own_cores and own_set are
 * then what would be bound.  Collective over the ranks of the node.  A topology that is not this
 * machine (HWLOC_SYNTHETIC, HWLOC_XMLFILE) is described and shared out, but nothing is bound.
 * Errors: STATUS_IO when hwloc cannot load; a binding that the system refuses is only logged. */
enum status topology_bind(struct topology *topology, const struct process *process, int bind);

/* "own_set" of each of `node_size` ranks for a given set of cores: the pure part, for tests.
 * `first` and `count` of the cores of `node_rank`: equal shares, the first ones one larger; with
 * more ranks than cores, rank r shares core r % n_cores. */
void topology_share(int n_cores, int node_size, int node_rank, int *first, int *count);

#endif
