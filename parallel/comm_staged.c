/* comm_staged.c - collectives of device tensors through page-locked host memory and a host backend. */
#include "parallel/comm.h"

#include "parallel/comm_check.h"
#include <stdlib.h>

struct buffer {
    void *data;
    size_t bytes;
};

struct staged_state {
    struct comm *host; /* not owned */
    const struct device_ops *device, *pinned;
    struct buffer in, out;
};

static size_t bytes_of(const struct tensor *x)
{
    return (size_t)tensor_count(x) * dtype_bytes(x->dtype);
}

/* `staged` = x in `buffer`, which grows where it must; nothing is copied. */
static enum status place(struct staged_state *state, struct buffer *buffer, struct tensor *staged,
                         const struct tensor *x)
{
    size_t bytes = bytes_of(x);
    if (bytes > buffer->bytes) {
        if (buffer->data != NULL)
            state->pinned->release(buffer->data, buffer->bytes);
        *buffer = (struct buffer){0};
        TRY(state->pinned->allocate(&buffer->data, bytes));
        buffer->bytes = bytes;
    }
    *staged = tensor_1d(buffer->data, x->dtype, tensor_count(x));
    return STATUS_OK;
}

static enum status fetch(struct staged_state *state, struct tensor *staged, const struct tensor *x,
                         struct stream *stream)
{
    TRY(place(state, &state->in, staged, x));
    TRY(state->device->copy_out(staged->data, x->data, bytes_of(x), stream));
    return state->device->synchronize(stream);
}

/* Waits, since the next operation writes the same buffer. */
static enum status put_back(struct staged_state *state, struct tensor *x,
                            const struct tensor *staged, struct stream *stream)
{
    TRY(state->device->copy_in(x->data, staged->data, bytes_of(x), stream));
    return state->device->synchronize(stream);
}

static enum status staged_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    struct staged_state *state = comm->state;
    struct tensor staged;
    TRY(comm_check_all_reduce(x));
    TRY(fetch(state, &staged, x, stream));
    TRY(state->host->ops->all_reduce(state->host, &staged, NULL));
    return put_back(state, x, &staged, stream);
}

static enum status staged_reduce_scatter(struct comm *comm, struct tensor *y,
                                         const struct tensor *x, const int64_t *counts,
                                         struct stream *stream)
{
    struct staged_state *state = comm->state;
    struct gather_shape shape;
    struct tensor from, to;
    TRY(comm_check_reduce_scatter(&shape, &comm->group, y, x, counts));
    TRY(fetch(state, &from, x, stream));
    TRY(place(state, &state->out, &to, y));
    TRY(state->host->ops->reduce_scatter(state->host, &to, &from, counts, NULL));
    return put_back(state, y, &to, stream);
}

static enum status staged_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *counts, struct stream *stream)
{
    struct staged_state *state = comm->state;
    struct gather_shape shape;
    struct tensor from, to;
    TRY(comm_check_all_gather(&shape, &comm->group, y, x, counts));
    TRY(fetch(state, &from, x, stream));
    TRY(place(state, &state->out, &to, y));
    TRY(state->host->ops->all_gather(state->host, &to, &from, counts, NULL));
    return put_back(state, y, &to, stream);
}

static enum status staged_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *received, const int64_t *sent,
                                     struct stream *stream)
{
    struct staged_state *state = comm->state;
    struct exchange_shape shape;
    struct tensor from, to;
    TRY(comm_check_all_to_all(&shape, &comm->group, y, x, received, sent));
    TRY(fetch(state, &from, x, stream));
    TRY(place(state, &state->out, &to, y));
    TRY(state->host->ops->all_to_all(state->host, &to, &from, received, sent, NULL));
    return put_back(state, y, &to, stream);
}

static enum status staged_broadcast(struct comm *comm, struct tensor *x, int root,
                                    struct stream *stream)
{
    struct staged_state *state = comm->state;
    struct tensor staged;
    TRY(comm_check_broadcast(x));
    TRY(fetch(state, &staged, x, stream));
    TRY(state->host->ops->broadcast(state->host, &staged, root, NULL));
    return put_back(state, x, &staged, stream);
}

static enum status staged_lowest(struct comm *comm, int *index, int flag)
{
    struct staged_state *state = comm->state;
    return state->host->ops->lowest(state->host, index, flag);
}

static enum status staged_barrier(struct comm *comm)
{
    struct staged_state *state = comm->state;
    return state->host->ops->barrier(state->host);
}

static void staged_close(struct comm *comm)
{
    struct staged_state *state = comm->state;
    if (state->in.data != NULL)
        state->pinned->release(state->in.data, state->in.bytes);
    if (state->out.data != NULL)
        state->pinned->release(state->out.data, state->out.bytes);
    free(state);
    comm->state = NULL;
}

static const struct comm_ops staged_ops = {
    .name = "staged",
    .all_reduce = staged_all_reduce,
    .reduce_scatter = staged_reduce_scatter,
    .all_gather = staged_all_gather,
    .all_to_all = staged_all_to_all,
    .broadcast = staged_broadcast,
    .lowest = staged_lowest,
    .barrier = staged_barrier,
    .close = staged_close,
};

enum status comm_staged_open(struct comm *comm, struct comm *host, const struct device_ops *device,
                             const struct device_ops *pinned)
{
    struct staged_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the staging of the %s group", host->group.name);
    *state = (struct staged_state){.host = host, .device = device, .pinned = pinned};
    *comm = (struct comm){.ops = &staged_ops, .group = host->group, .state = state};
    return STATUS_OK;
}
