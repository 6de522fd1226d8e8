/* comm_library.c - the MPI library's own collectives, in its own order of additions: for comparison only. */
#include "parallel/comm.h"

#include "parallel/comm_check.h"
#include "parallel/mpi_internal.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct library_state {
    struct comm mpi; /* what it leaves to the library too */
    MPI_Comm comm;
    int *bytes, *offset, *sent_bytes, *sent_offset; /* [size] */
};

static enum status fits_int(int64_t bytes)
{
    if (bytes > INT_MAX)
        FAIL(STATUS_UNSUPPORTED, "a message of %lld bytes; the library's counts end at %d",
             (long long)bytes, INT_MAX);
    return STATUS_OK;
}

static enum status library_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    (void)stream;
    struct library_state *state = comm->state;
    TRY(comm_check_all_reduce(x));
    TRY(fits_int(tensor_count(x)));
    MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, x->data, (int)tensor_count(x), MPI_FLOAT, MPI_SUM,
                          state->comm));
    return STATUS_OK;
}

/* Counts of elements as the library takes them. */
static void lay_out(int *bytes, int *offset, const int64_t *counts, int size, int64_t width)
{
    int end = 0;
    for (int i = 0; i < size; end += bytes[i++]) {
        bytes[i] = (int)(counts[i] * width);
        offset[i] = end;
    }
}

static enum status library_reduce_scatter(struct comm *comm, struct tensor *y,
                                          const struct tensor *x, const int64_t *counts,
                                          struct stream *stream)
{
    (void)stream;
    struct library_state *state = comm->state;
    struct gather_shape shape;
    TRY(comm_check_reduce_scatter(&shape, &comm->group, y, x, counts));
    TRY(fits_int(tensor_count(x)));
    lay_out(state->bytes, state->offset, counts, comm->group.size, 1);
    MPI_TRY(MPI_Reduce_scatter(x->data, y->data, state->bytes, MPI_FLOAT, MPI_SUM, state->comm));
    return STATUS_OK;
}

static enum status library_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                      const int64_t *counts, struct stream *stream)
{
    (void)stream;
    struct library_state *state = comm->state;
    struct gather_shape shape;
    TRY(comm_check_all_gather(&shape, &comm->group, y, x, counts));
    TRY(fits_int(tensor_count(y) * shape.width));
    lay_out(state->bytes, state->offset, counts, comm->group.size, shape.width);
    char *data = y->data;
    if (shape.own_bytes > 0 && data + shape.own_offset != x->data)
        memmove(data + shape.own_offset, x->data, (size_t)shape.own_bytes);
    MPI_TRY(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, state->bytes, state->offset,
                           MPI_BYTE, state->comm));
    return STATUS_OK;
}

static enum status library_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                      const int64_t *received, const int64_t *sent,
                                      struct stream *stream)
{
    (void)stream;
    struct library_state *state = comm->state;
    struct exchange_shape shape;
    TRY(comm_check_all_to_all(&shape, &comm->group, y, x, received, sent));
    TRY(fits_int(tensor_count(y) * shape.width));
    TRY(fits_int(tensor_count(x) * shape.width));
    lay_out(state->bytes, state->offset, received, comm->group.size, shape.width);
    lay_out(state->sent_bytes, state->sent_offset, sent, comm->group.size, shape.width);
    MPI_TRY(MPI_Alltoallv(x->data, state->sent_bytes, state->sent_offset, MPI_BYTE, y->data,
                          state->bytes, state->offset, MPI_BYTE, state->comm));
    return STATUS_OK;
}

static enum status library_broadcast(struct comm *comm, struct tensor *x, int root,
                                     struct stream *stream)
{
    struct library_state *state = comm->state;
    return state->mpi.ops->broadcast(&state->mpi, x, root, stream);
}

static enum status library_lowest(struct comm *comm, int *index, int flag)
{
    struct library_state *state = comm->state;
    return state->mpi.ops->lowest(&state->mpi, index, flag);
}

static enum status library_barrier(struct comm *comm)
{
    struct library_state *state = comm->state;
    return state->mpi.ops->barrier(&state->mpi);
}

static void library_close(struct comm *comm)
{
    struct library_state *state = comm->state;
    if (state == NULL)
        return;
    comm_close(&state->mpi);
    mpi_comm_closed(&state->comm);
    free(state->bytes); /* all four */
    free(state);
    comm->state = NULL;
}

static const struct comm_ops library_ops = {
    .name = "mpi-library",
    .all_reduce = library_all_reduce,
    .reduce_scatter = library_reduce_scatter,
    .all_gather = library_all_gather,
    .all_to_all = library_all_to_all,
    .broadcast = library_broadcast,
    .lowest = library_lowest,
    .barrier = library_barrier,
    .close = library_close,
};

enum status comm_library_open(struct comm *comm, const struct group *group)
{
    struct library_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the %s group", group->name);
    struct comm opened = {.ops = &library_ops, .group = *group, .state = state};
    enum status status = STATUS_OK;
    state->comm = MPI_COMM_NULL;
    state->bytes = calloc(4 * (size_t)group->size, sizeof *state->bytes);
    if (state->bytes == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for the %s group",
                             group->name);
    if (status == STATUS_OK) {
        state->offset = state->bytes + group->size;
        state->sent_bytes = state->offset + group->size;
        state->sent_offset = state->sent_bytes + group->size;
        status = comm_mpi_open(&state->mpi, group);
    }
    if (status == STATUS_OK)
        status = mpi_comm_of_group(&state->comm, group);
    if (status != STATUS_OK) {
        comm_close(&opened);
        return status;
    }
    *comm = opened;
    return STATUS_OK;
}
