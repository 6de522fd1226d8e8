#include "runtime/rank_comms.h"

enum status rank_comms_open(struct rank_comms *comms, const struct mesh *mesh)
{
    const struct group *const groups[N_AXES] = {
        [AXIS_TP] = &mesh->tp,
        [AXIS_DP] = &mesh->dp,
        [AXIS_STAGE] = &mesh->stage,
        [AXIS_LINK_EVEN] = &mesh->link[0],
        [AXIS_LINK_ODD] = &mesh->link[1],
    };
    for (int axis = 0; axis < N_AXES; axis++)
        if (axis != AXIS_STAGE || mesh->dp.size > 1) /* else it is tp, and nobody asks for it */
            TRY(comm_open(&comms->host[axis], groups[axis]));
    return STATUS_OK;
}

enum status rank_comms_open_device(struct rank_comms *comms, const struct backend *backend)
{
    for (int axis = 0; axis < N_AXES && !backend->device->is_host; axis++)
        if (comms->host[axis].ops != NULL && comms->host[axis].group.size > 1)
            TRY(comm_staged_open(&comms->device[axis], &comms->host[axis], backend->device,
                                 backend->host));
    return STATUS_OK;
}

void rank_comms_close(struct rank_comms *comms)
{
    for (int axis = N_AXES; axis-- > 0;) {
        comm_close(&comms->device[axis]);
        comm_close(&comms->host[axis]);
    }
}
