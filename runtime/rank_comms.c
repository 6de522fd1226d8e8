#include "runtime/rank_comms.h"

enum status rank_comms_open(struct rank_comms *comms, struct comm *world, const struct mesh *mesh)
{
    const struct group *const groups[N_AXES] = {
        [AXIS_TP] = &mesh->tp,
        [AXIS_DP] = &mesh->dp,
        [AXIS_STAGE] = &mesh->stage,
        [AXIS_LINK_EVEN] = &mesh->link[0],
        [AXIS_LINK_ODD] = &mesh->link[1],
    };
    for (int axis = 0; axis < N_AXES; axis++) {
        if (groups[axis] == NULL || (axis == AXIS_STAGE && mesh->dp.size == 1))
            continue; /* that stage is tp, and nobody asks for it */
        TRY(comm_agree(world, comm_open(&comms->host[axis], groups[axis])));
    }
    return STATUS_OK;
}

enum status rank_comms_open_cache(struct rank_comms *comms, struct comm *world,
                                  const struct group *cache)
{
    return comm_agree(world, comm_open(&comms->host[AXIS_CACHE], cache));
}

enum status rank_comms_open_device(struct rank_comms *comms, struct comm *world,
                                   const struct comm_device *device)
{
    struct comm_device told = *device;
    for (int axis = 0; axis < N_AXES; axis++) {
        int any;
        struct comm *host = &comms->host[axis];
        TRY(world->ops->lowest(world, &any, host->ops != NULL && host->group.size > 1));
        if (any < 0)
            continue;
        TRY(comm_device_open(&comms->device[axis], host, world, &told));
        told.is_quiet = 1; /* the next ones are alike */
    }
    return STATUS_OK;
}

int rank_comms_are_stream_ordered(const struct rank_comms *comms)
{
    for (int axis = 0; axis < N_AXES; axis++) {
        const struct comm *host = &comms->host[axis], *device = &comms->device[axis];
        const struct comm *comm = device->ops != NULL ? device : host;
        if (comm->ops != NULL && comm->group.size > 1 && !comm->ops->is_stream_ordered)
            return 0;
    }
    return 1;
}

void rank_comms_close(struct rank_comms *comms)
{
    for (int axis = N_AXES; axis-- > 0;) {
        comm_close(&comms->device[axis]);
        comm_close(&comms->host[axis]);
    }
}
