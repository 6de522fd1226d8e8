/* comm_nccl.c - collectives of device tensors by the library of the devices: NCCL.
 *
 * They are queued on the stream and the host goes on, so they may stand in
 * graphs.  Sums have NCCL's order, which is the same on every member but not the
 * tree of comm.h.  `lowest` and `barrier`, which are host data, go to the host's
 * communicator. */
#include "parallel/comm.h"

#include "parallel/comm_check.h"
#include "parallel/ledger_board.h"
#include <stdlib.h>
#include <string.h>

struct nccl_state {
    struct comm *host; /* not owned */
    const struct device_comm_ops *library;
    struct device_comm *comm;
    size_t *bytes;                  /* [size] */
    struct device_message *message; /* [size] */
    const struct device_ops *pinned;
    uint64_t *passed; /* page-locked: operations that the stream has passed; NULL: no watch */
    struct ledger_queue *queue; /* NULL: no watch */
};

/* After an operation that was entered. */
static enum status count(const struct nccl_state *state, struct stream *stream)
{
    return state->queue == NULL ? STATUS_OK : state->library->count(state->passed, stream);
}

static int64_t bytes_of(const struct tensor *x)
{
    return tensor_count(x) * (int64_t)dtype_bytes(x->dtype);
}

static enum status nccl_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    struct nccl_state *state = comm->state;
    TRY(comm_check_all_reduce(x));
    if (tensor_count(x) == 0)
        return STATUS_OK;
    ledger_queue_push(state->queue, LEDGER_ALL_REDUCE, &comm->group, bytes_of(x));
    TRY(state->library->all_reduce(state->comm, x->data, tensor_count(x), stream));
    return count(state, stream);
}

static enum status nccl_reduce_scatter(struct comm *comm, struct tensor *y, const struct tensor *x,
                                       const int64_t *counts, struct stream *stream)
{
    struct nccl_state *state = comm->state;
    struct gather_shape shape;
    TRY(comm_check_reduce_scatter(&shape, &comm->group, y, x, counts));
    if (tensor_count(x) == 0)
        return STATUS_OK;
    ledger_queue_push(state->queue, LEDGER_REDUCE_SCATTER, &comm->group, bytes_of(x));
    TRY(state->library->reduce_scatter(state->comm, y->data, x->data, counts, stream));
    return count(state, stream);
}

static enum status nccl_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                   const int64_t *counts, struct stream *stream)
{
    struct nccl_state *state = comm->state;
    struct gather_shape shape;
    TRY(comm_check_all_gather(&shape, &comm->group, y, x, counts));
    if (tensor_count(y) == 0)
        return STATUS_OK;
    for (int i = 0; i < comm->group.size; i++)
        state->bytes[i] = (size_t)(counts[i] * shape.width);
    ledger_queue_push(state->queue, LEDGER_ALL_GATHER, &comm->group, bytes_of(y));
    TRY(state->library->all_gather(state->comm, y->data, x->data, state->bytes, stream));
    return count(state, stream);
}

static enum status nccl_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                   const int64_t *received, const int64_t *sent,
                                   struct stream *stream)
{
    struct nccl_state *state = comm->state;
    struct exchange_shape shape;
    TRY(comm_check_all_to_all(&shape, &comm->group, y, x, received, sent));
    const unsigned char *from = x->data;
    unsigned char *to = y->data;
    int is_empty = 1;
    for (int i = 0; i < comm->group.size; i++) {
        size_t sent_bytes = (size_t)(sent[i] * shape.width);
        size_t received_bytes = (size_t)(received[i] * shape.width);
        state->message[i] = (struct device_message){.sent = from,
                                                    .received = to,
                                                    .sent_bytes = sent_bytes,
                                                    .received_bytes = received_bytes};
        if (sent_bytes > 0)
            from += sent_bytes;
        if (received_bytes > 0)
            to += received_bytes;
        is_empty = is_empty && sent_bytes == 0 && received_bytes == 0;
    }
    ledger_queue_push(state->queue, LEDGER_ALL_TO_ALL, &comm->group, bytes_of(x));
    if (!is_empty) /* of this member: others may have messages among them */
        TRY(state->library->exchange(state->comm, state->message, stream));
    return count(state, stream);
}

static enum status nccl_broadcast(struct comm *comm, struct tensor *x, int root,
                                  struct stream *stream)
{
    struct nccl_state *state = comm->state;
    TRY(comm_check_broadcast(x));
    int64_t bytes = bytes_of(x);
    if (bytes == 0)
        return STATUS_OK;
    ledger_queue_push(state->queue, LEDGER_BROADCAST, &comm->group, bytes);
    TRY(state->library->broadcast(state->comm, x->data, (size_t)bytes, root, stream));
    return count(state, stream);
}

static enum status nccl_lowest(struct comm *comm, int *index, int flag)
{
    struct nccl_state *state = comm->state;
    return state->host->ops->lowest(state->host, index, flag);
}

static enum status nccl_barrier(struct comm *comm)
{
    struct nccl_state *state = comm->state;
    return state->host->ops->barrier(state->host);
}

static void free_state(struct nccl_state *state)
{
    if (state == NULL)
        return;
    ledger_queue_close(state->queue);
    if (state->passed != NULL)
        state->pinned->release(state->passed, sizeof *state->passed);
    free(state->bytes);
    free(state->message);
    free(state);
}

static void nccl_close(struct comm *comm)
{
    struct nccl_state *state = comm->state;
    state->library->close(state->comm, 0);
    free_state(state);
    comm->state = NULL;
}

static const struct comm_ops nccl_ops = {
    .name = "nccl",
    .is_stream_ordered = 1,
    .all_reduce = nccl_all_reduce,
    .reduce_scatter = nccl_reduce_scatter,
    .all_gather = nccl_all_gather,
    .all_to_all = nccl_all_to_all,
    .broadcast = nccl_broadcast,
    .lowest = nccl_lowest,
    .barrier = nccl_barrier,
    .close = nccl_close,
};

/* --- opening --- */

/* Each of the ways in which NCCL moves data once, short and long, since it connects members and takes memory
 * for a way when it is first gone: before the memory that is left is counted. */
static enum status warm_up(struct nccl_state *state, const struct comm_device *d, void *data,
                           int64_t count)
{
    int size = state->host->group.size;
    int64_t part = count / (2 * size);
    unsigned char *to = data, *from = to + (size_t)count / 2 * sizeof(float);
    TRY(state->library->all_reduce(state->comm, data, 256, d->stream));
    TRY(state->library->all_reduce(state->comm, data, count, d->stream));
    for (int i = 0; i < size; i++) {
        size_t bytes = (size_t)part * sizeof(float);
        state->bytes[i] = bytes;
        state->message[i] = (struct device_message){.sent = from + (size_t)i * bytes,
                                                    .received = to + (size_t)i * bytes,
                                                    .sent_bytes = bytes,
                                                    .received_bytes = bytes};
    }
    TRY(state->library->all_gather(state->comm, to, from, state->bytes, d->stream));
    TRY(state->library->exchange(state->comm, state->message, d->stream));
    state->bytes[0] /= 2; /* uneven */
    TRY(state->library->all_gather(state->comm, to, from, state->bytes, d->stream));
    TRY(state->library->broadcast(state->comm, data, (size_t)count * sizeof(float), 0, d->stream));
    return d->device->synchronize(d->stream);
}

static enum status warm_up_in_own_memory(struct nccl_state *state, const struct comm_device *d)
{
    enum { COUNT = 1 << 20 };
    size_t bytes = COUNT * sizeof(float);
    void *data;
    TRY(comm_agree(state->host, d->device->allocate(&data, bytes)));
    enum status status = warm_up(state, d, data, COUNT);
    d->device->release(data, bytes);
    return status;
}

/* The group's id, from its first member. */
static enum status exchange_id(unsigned char id[DEVICE_COMM_ID_BYTES], struct comm *host,
                               const struct device_comm_ops *library)
{
    enum status status = STATUS_OK;
    memset(id, 0, DEVICE_COMM_ID_BYTES);
    if (host->group.index == 0)
        status = library->make_id(id);
    TRY(comm_agree(host, status));
    return comm_broadcast_bytes(host, id, DEVICE_COMM_ID_BYTES, 0);
}

static enum status open_state(struct nccl_state **state, struct comm *host,
                              const struct device_comm_ops *library)
{
    struct nccl_state *new_state = calloc(1, sizeof *new_state);
    size_t size = (size_t)host->group.size;
    if (new_state != NULL) {
        new_state->host = host;
        new_state->library = library;
        new_state->bytes = calloc(size, sizeof *new_state->bytes);
        new_state->message = calloc(size, sizeof *new_state->message);
    }
    *state = new_state;
    if (new_state == NULL || new_state->bytes == NULL || new_state->message == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the %s group", host->group.name);
    return STATUS_OK;
}

/* Who was left alone by a member that failed lets that one speak. */
static enum status join(struct nccl_state *state, const unsigned char *id)
{
    struct comm *host = state->host;
    enum status status =
        state->library->open(&state->comm, id, host->group.size, host->group.index);
    TRY(comm_agree(host, status == STATUS_TIMEOUT ? STATUS_OK : status));
    return comm_agree(host, status);
}

/* Where there is a watch. */
static enum status open_queue(struct nccl_state *state, const struct comm_device *device)
{
    void *passed;
    if (!ledger_is_on())
        return STATUS_OK;
    state->pinned = device->pinned;
    TRY(state->pinned->allocate(&passed, sizeof *state->passed));
    state->passed = passed;
    return ledger_queue_open(&state->queue, state->passed);
}

enum status comm_nccl_open(struct comm *comm, struct comm *host, const struct comm_device *device)
{
    const struct device_comm_ops *library = device->library;
    struct nccl_state *state;
    unsigned char id[DEVICE_COMM_ID_BYTES];
    enum status status = comm_agree(host, open_state(&state, host, library));
    if (status == STATUS_OK)
        status = exchange_id(id, host, library);
    if (status == STATUS_OK)
        status = join(state, id);
    if (status == STATUS_OK)
        status = warm_up_in_own_memory(state, device);
    if (status == STATUS_OK)
        status = comm_agree(host, open_queue(state, device));
    if (status != STATUS_OK) {
        if (state != NULL)
            library->close(state->comm, 1);
        free_state(state);
        return status;
    }
    *comm = (struct comm){.ops = &nccl_ops, .group = host->group, .state = state};
    return STATUS_OK;
}
