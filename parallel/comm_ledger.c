/* comm_ledger.c - a backend that writes to the ledger what it hands on to another. */
#include "parallel/comm.h"

#include "parallel/ledger.h"
#include "parallel/ledger_board.h"
#include <stdlib.h>

struct watched {
    struct comm inner;
    struct comm_ops ops; /* those below, under the name of the backend */
};

static struct comm *inner_of(struct comm *comm)
{
    struct watched *watched = comm->state;
    return &watched->inner;
}

static int64_t bytes_of(const struct tensor *x)
{
    return tensor_count(x) * (int64_t)dtype_bytes(x->dtype);
}

static enum status ledger_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_ALL_REDUCE, &comm->group, bytes_of(x));
    enum status status = inner->ops->all_reduce(inner, x, stream);
    ledger_end();
    return status;
}

static enum status ledger_reduce_scatter(struct comm *comm, struct tensor *y,
                                         const struct tensor *x, const int64_t *counts,
                                         struct stream *stream)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_REDUCE_SCATTER, &comm->group, bytes_of(x));
    enum status status = inner->ops->reduce_scatter(inner, y, x, counts, stream);
    ledger_end();
    return status;
}

static enum status ledger_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *counts, struct stream *stream)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_ALL_GATHER, &comm->group, bytes_of(y));
    enum status status = inner->ops->all_gather(inner, y, x, counts, stream);
    ledger_end();
    return status;
}

static enum status ledger_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *received, const int64_t *sent,
                                     struct stream *stream)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_ALL_TO_ALL, &comm->group, bytes_of(x));
    enum status status = inner->ops->all_to_all(inner, y, x, received, sent, stream);
    ledger_end();
    return status;
}

static enum status ledger_broadcast(struct comm *comm, struct tensor *x, int root,
                                    struct stream *stream)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_BROADCAST, &comm->group, bytes_of(x));
    enum status status = inner->ops->broadcast(inner, x, root, stream);
    ledger_end();
    return status;
}

static enum status ledger_lowest(struct comm *comm, int *index, int flag)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_LOWEST, &comm->group, 0);
    enum status status = inner->ops->lowest(inner, index, flag);
    ledger_end();
    return status;
}

static enum status ledger_barrier(struct comm *comm)
{
    struct comm *inner = inner_of(comm);
    ledger_begin(LEDGER_BARRIER, &comm->group, 0);
    enum status status = inner->ops->barrier(inner);
    ledger_end();
    return status;
}

static void close_watched(struct comm *comm)
{
    comm_close(inner_of(comm));
    free(comm->state);
    comm->state = NULL;
}

enum status ledger_wrap(struct comm *comm)
{
    if (!ledger_is_on())
        return STATUS_OK;
    struct watched *watched = malloc(sizeof *watched);
    if (watched == NULL) {
        comm_close(comm);
        FAIL(STATUS_NO_MEMORY, "no memory to watch the %s group", comm->group.name);
    }
    watched->inner = *comm;
    watched->ops = (struct comm_ops){
        .name = comm->ops->name,
        .all_reduce = ledger_all_reduce,
        .reduce_scatter = ledger_reduce_scatter,
        .all_gather = ledger_all_gather,
        .all_to_all = ledger_all_to_all,
        .broadcast = ledger_broadcast,
        .lowest = ledger_lowest,
        .barrier = ledger_barrier,
        .close = close_watched,
    };
    comm->ops = &watched->ops;
    comm->state = watched;
    return STATUS_OK;
}
