/* comm_self.c - a group of one: there is nobody to talk to. */
#include "parallel/comm.h"

#include <string.h>

static enum status self_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    (void)comm, (void)x, (void)stream;
    return STATUS_OK;
}

static enum status self_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                   const int64_t *counts, struct stream *stream)
{
    (void)comm, (void)stream;
    if (counts[0] > 0 && y->data != x->data)
        memcpy(y->data, x->data, (size_t)counts[0] * dtype_bytes(y->dtype));
    return STATUS_OK;
}

static enum status self_reduce_scatter(struct comm *comm, struct tensor *y, const struct tensor *x,
                                       const int64_t *counts, struct stream *stream)
{
    return self_all_gather(comm, y, x, counts, stream);
}

static enum status self_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                   const int64_t *received, const int64_t *sent,
                                   struct stream *stream)
{
    (void)received;
    return self_all_gather(comm, y, x, sent, stream);
}

static enum status self_broadcast(struct comm *comm, struct tensor *x, int root,
                                  struct stream *stream)
{
    (void)comm, (void)x, (void)root, (void)stream;
    return STATUS_OK;
}

static enum status self_lowest(struct comm *comm, int *index, int flag)
{
    (void)comm;
    *index = flag ? 0 : -1;
    return STATUS_OK;
}

static enum status self_barrier(struct comm *comm)
{
    (void)comm;
    return STATUS_OK;
}

static void self_close(struct comm *comm)
{
    (void)comm;
}

static const struct comm_ops self_ops = {
    .name = "self",
    .all_reduce = self_all_reduce,
    .reduce_scatter = self_reduce_scatter,
    .all_gather = self_all_gather,
    .all_to_all = self_all_to_all,
    .broadcast = self_broadcast,
    .lowest = self_lowest,
    .barrier = self_barrier,
    .close = self_close,
};

enum status comm_self_open(struct comm *comm, const struct group *group)
{
    if (group->size != 1)
        FAIL(STATUS_INVALID, "the %s group has %d members, comm_self serves one", group->name,
             group->size);
    *comm = (struct comm){.ops = &self_ops, .group = *group};
    return STATUS_OK;
}
