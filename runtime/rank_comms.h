/* rank_comms.h - the communicators of a rank: one for each axis of the mesh, of host tensors, and on a device
 * those of its tensors. */
#ifndef RUNTIME_RANK_COMMS_H
#define RUNTIME_RANK_COMMS_H

#include "kernels/backend.h"
#include "parallel/comm.h"

/* As the groups of struct mesh. */
enum comm_axis {
    AXIS_TP,
    AXIS_DP,
    AXIS_STAGE,
    AXIS_CACHE, /* members of tp that share the pages of the cache; when these are not all of them */
    AXIS_LINK_EVEN, /* link[0] */
    AXIS_LINK_ODD,  /* link[1] */
    N_AXES
};

struct rank_comms {
    struct comm host[N_AXES];
    struct comm device[N_AXES]; /* ops NULL: the host's serves */
};

/* Of link[i] of the mesh. */
static inline enum comm_axis axis_of_link(int i)
{
    return i == 0 ? AXIS_LINK_EVEN : AXIS_LINK_ODD;
}

/* But for AXIS_CACHE.  Collective over `world`.  Owner: caller; end with rank_comms_close.
 * Errors, on all ranks: STATUS_COMM, STATUS_NO_MEMORY. */
enum status rank_comms_open(struct rank_comms *comms, struct comm *world, const struct mesh *mesh);

/* AXIS_CACHE.  As rank_comms_open. */
enum status rank_comms_open_cache(struct rank_comms *comms, struct comm *world,
                                  const struct group *cache);

/* Those of tensors of `device`, which is not the host, for all axes that have several ranks somewhere; `world` are
 * all ranks.  Collective.  Errors: as comm_device_open. */
enum status rank_comms_open_device(struct rank_comms *comms, struct comm *world,
                                   const struct comm_device *device);

/* 1 when the host never waits in a collective of tensors: there are none, or they are operations of a stream. */
int rank_comms_are_stream_ordered(const struct rank_comms *comms);

void rank_comms_close(struct rank_comms *comms);

/* The communicator of tensors where the weights are. */
static inline struct comm *rank_comms_of(struct rank_comms *comms, enum comm_axis axis)
{
    return comms->device[axis].ops != NULL ? &comms->device[axis] : &comms->host[axis];
}

#endif
