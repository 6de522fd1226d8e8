/* comm_mpi.c - collectives over host memory with MPI.
 *
 * The sum is ours, since a library picks its own order: short vectors by
 * recursive doubling (each member adds the whole vector, log2 P messages in
 * sequence), long ones in slices (each member sums its slice of everybody's
 * vector, then hands it out: fewer bytes from three members on).  Both add
 * along the tree of reduction_tree.h, so they give the same bits.
 *
 * Messages are cut so that buffers stay bounded and counts fit MPI's int. */
#include "parallel/comm.h"

#include "kernels/core/trace.h"
#include "parallel/comm_check.h"
#include "parallel/mpi_internal.h"
#include "parallel/reduction_tree.h"
#include "parallel/shard_plan.h"
#include <stdlib.h>
#include <string.h>

/* Sizes measured with 2 and 4 ranks on one node of 2 cores, 2026-11-23: chunks of 256 KiB sum 1 MiB in
 * 0.37 ms where chunks of 1 MiB take 0.53 ms. */
enum {
    REDUCE_CHUNK = 64 * 1024,   /* elements of all_reduce in flight: bounds the buffer */
    SLICE_MIN = 4 * 1024,       /* elements from which slices are faster than doubling */
    SLICE_MIN_PAIR = 32 * 1024, /* the same for two members, where they save additions only */
    MESSAGE_MAX = 1 << 30,      /* bytes of one message */
    TAG = 1                     /* messages of a pair arrive in order, so one is enough */
};

struct mpi_state {
    MPI_Comm mpi;
    MPI_Request *requests; /* [2 size] */
    float *buffer;         /* [REDUCE_CHUNK + size]: what was received, not yet added */
};

static enum status exchange_floats(struct mpi_state *state, float *x, int count,
                                   const struct reduction_exchange *exchange)
{
    int n = 0;
    if (exchange->receive_from >= 0)
        MPI_TRY(MPI_Irecv(state->buffer, count, MPI_FLOAT, exchange->receive_from, TAG, state->mpi,
                          &state->requests[n++]));
    for (int to = exchange->send_to; to < exchange->send_end; to += exchange->send_step)
        MPI_TRY(MPI_Isend(x, count, MPI_FLOAT, to, TAG, state->mpi, &state->requests[n++]));
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    return STATUS_OK;
}

static enum status reduce_by_doubling(struct comm *comm, float *x, int count)
{
    struct mpi_state *state = comm->state;
    for (int stride = 1; stride < comm->group.size; stride *= 2) {
        struct reduction_exchange exchange =
            reduction_exchange_at(comm->group.size, comm->group.index, stride);
        TRY(exchange_floats(state, x, count, &exchange));
        if (exchange.receive_from >= 0)
            reduction_add(x, state->buffer, count);
    }
    return STATUS_OK;
}

static enum status reduce_by_slices(struct comm *comm, float *x, int count)
{
    struct mpi_state *state = comm->state;
    int size = comm->group.size, own = comm->group.index, n = 0;
    struct span mine = span_part(count, size, own);
    int mine_count = (int)span_size(mine);

    for (int i = 0; i < size; i++) {
        struct span theirs = span_part(count, size, i);
        float *part = state->buffer + (int64_t)i * mine_count;
        if (i == own) {
            memcpy(part, x + mine.begin, (size_t)mine_count * sizeof *x);
            continue;
        }
        MPI_TRY(MPI_Irecv(part, mine_count, MPI_FLOAT, i, TAG, state->mpi, &state->requests[n++]));
        MPI_TRY(MPI_Isend(x + theirs.begin, (int)span_size(theirs), MPI_FLOAT, i, TAG, state->mpi,
                          &state->requests[n++]));
    }
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    reduction_tree_sum(state->buffer, size, mine_count);
    memcpy(x + mine.begin, state->buffer, (size_t)mine_count * sizeof *x);

    n = 0;
    for (int i = 0; i < size; i++) {
        struct span theirs = span_part(count, size, i);
        if (i == own)
            continue;
        MPI_TRY(MPI_Irecv(x + theirs.begin, (int)span_size(theirs), MPI_FLOAT, i, TAG, state->mpi,
                          &state->requests[n++]));
        MPI_TRY(MPI_Isend(state->buffer, mine_count, MPI_FLOAT, i, TAG, state->mpi,
                          &state->requests[n++]));
    }
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    return STATUS_OK;
}

static enum status mpi_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    (void)stream;
    TRY(comm_check_all_reduce(x));
    trace_add(TRACE_ALL_REDUCES, 1);

    float *data = x->data;
    int64_t count = tensor_count(x), slice_min = comm->group.size > 2 ? SLICE_MIN : SLICE_MIN_PAIR;
    for (int64_t begin = 0; begin < count; begin += REDUCE_CHUNK) {
        int part = (int)(count - begin < REDUCE_CHUNK ? count - begin : REDUCE_CHUNK);
        if (part >= slice_min)
            TRY(reduce_by_slices(comm, data + begin, part));
        else
            TRY(reduce_by_doubling(comm, data + begin, part));
    }
    return STATUS_OK;
}

/* The bytes of round `round` of a part of `bytes` bytes that starts at `offset`. */
static struct span round_span(int64_t offset, int64_t bytes, int64_t round)
{
    int64_t begin = round * MESSAGE_MAX < bytes ? round * MESSAGE_MAX : bytes;
    int64_t end = bytes - begin < MESSAGE_MAX ? bytes : begin + MESSAGE_MAX;
    return (struct span){.begin = offset + begin, .end = offset + end};
}

/* Up to `most` elements of every part, from `begin` on: each member gets its own of all, and adds them. */
static enum status scatter_round(struct comm *comm, float *y, const float *x, const int64_t *counts,
                                 int64_t begin, int64_t most)
{
    struct mpi_state *state = comm->state;
    int own = comm->group.index, size = comm->group.size, n = 0;
    int64_t left = counts[own] - begin, offset = 0;
    int mine = (int)(left < 0 ? 0 : left < most ? left : most);
    for (int i = 0; i < size; offset += counts[i++]) {
        int64_t of_theirs = counts[i] - begin;
        int theirs = (int)(of_theirs < 0 ? 0 : of_theirs < most ? of_theirs : most);
        float *part = state->buffer + (int64_t)i * mine;
        if (i == own && mine > 0)
            memcpy(part, x + offset + begin, (size_t)mine * sizeof *x);
        if (i != own && mine > 0)
            MPI_TRY(MPI_Irecv(part, mine, MPI_FLOAT, i, TAG, state->mpi, &state->requests[n++]));
        if (i != own && theirs > 0)
            MPI_TRY(MPI_Isend(x + offset + begin, theirs, MPI_FLOAT, i, TAG, state->mpi,
                              &state->requests[n++]));
    }
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    reduction_tree_sum(state->buffer, size, mine);
    if (mine > 0)
        memcpy(y + begin, state->buffer, (size_t)mine * sizeof *y);
    return STATUS_OK;
}

static enum status mpi_reduce_scatter(struct comm *comm, struct tensor *y, const struct tensor *x,
                                      const int64_t *counts, struct stream *stream)
{
    (void)stream;
    struct gather_shape shape;
    TRY(comm_check_reduce_scatter(&shape, &comm->group, y, x, counts));
    int64_t most = REDUCE_CHUNK / comm->group.size + 1, longest = shape.longest_bytes / shape.width;
    for (int64_t begin = 0; begin < longest; begin += most)
        TRY(scatter_round(comm, y->data, x->data, counts, begin, most));
    return STATUS_OK;
}

/* Everybody sends its piece of the round to everybody; pieces may be empty. */
static enum status gather_round(struct comm *comm, char *y, const int64_t *counts, int64_t width,
                                int64_t own_offset, int64_t round)
{
    struct mpi_state *state = comm->state;
    int own = comm->group.index, n = 0;
    struct span mine = round_span(own_offset, counts[own] * width, round);
    int64_t offset = 0;
    for (int i = 0; i < comm->group.size; offset += counts[i++] * width) {
        struct span theirs = round_span(offset, counts[i] * width, round);
        if (i != own && span_size(theirs) > 0)
            MPI_TRY(MPI_Irecv(y + theirs.begin, (int)span_size(theirs), MPI_BYTE, i, TAG,
                              state->mpi, &state->requests[n++]));
        if (i != own && span_size(mine) > 0)
            MPI_TRY(MPI_Isend(y + mine.begin, (int)span_size(mine), MPI_BYTE, i, TAG, state->mpi,
                              &state->requests[n++]));
    }
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    return STATUS_OK;
}

static enum status mpi_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                  const int64_t *counts, struct stream *stream)
{
    (void)stream;
    struct gather_shape shape;
    TRY(comm_check_all_gather(&shape, &comm->group, y, x, counts));
    char *data = y->data;
    if (shape.own_bytes > 0 && data + shape.own_offset != x->data)
        memmove(data + shape.own_offset, x->data, (size_t)shape.own_bytes);
    for (int64_t round = 0; round * MESSAGE_MAX < shape.longest_bytes; round++)
        TRY(gather_round(comm, data, counts, shape.width, shape.own_offset, round));
    return STATUS_OK;
}

/* The pieces of one round to and from every other member. */
static enum status exchange_round(struct comm *comm, char *y, const char *x,
                                  const int64_t *received, const int64_t *sent, int64_t width,
                                  int64_t round)
{
    struct mpi_state *state = comm->state;
    int64_t y_offset = 0, x_offset = 0;
    int n = 0;
    for (int i = 0; i < comm->group.size; i++) {
        struct span in = round_span(y_offset, received[i] * width, round);
        struct span out = round_span(x_offset, sent[i] * width, round);
        if (i != comm->group.index && span_size(in) > 0)
            MPI_TRY(MPI_Irecv(y + in.begin, (int)span_size(in), MPI_BYTE, i, TAG, state->mpi,
                              &state->requests[n++]));
        if (i != comm->group.index && span_size(out) > 0)
            MPI_TRY(MPI_Isend(x + out.begin, (int)span_size(out), MPI_BYTE, i, TAG, state->mpi,
                              &state->requests[n++]));
        y_offset += received[i] * width;
        x_offset += sent[i] * width;
    }
    MPI_TRY(MPI_Waitall(n, state->requests, MPI_STATUSES_IGNORE));
    return STATUS_OK;
}

static enum status mpi_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                  const int64_t *received, const int64_t *sent,
                                  struct stream *stream)
{
    (void)stream;
    struct exchange_shape shape;
    TRY(comm_check_all_to_all(&shape, &comm->group, y, x, received, sent));
    if (shape.own_bytes > 0)
        memcpy((char *)y->data + shape.own_to, (const char *)x->data + shape.own_from,
               (size_t)shape.own_bytes);
    for (int64_t round = 0; round * MESSAGE_MAX < shape.longest_bytes; round++)
        TRY(exchange_round(comm, y->data, x->data, received, sent, shape.width, round));
    return STATUS_OK;
}

static enum status mpi_broadcast(struct comm *comm, struct tensor *x, int root,
                                 struct stream *stream)
{
    (void)stream;
    struct mpi_state *state = comm->state;
    TRY(comm_check_broadcast(x));
    int64_t bytes = tensor_count(x) * (int64_t)dtype_bytes(x->dtype);
    for (int64_t round = 0; round * MESSAGE_MAX < bytes; round++) {
        struct span part = round_span(0, bytes, round);
        MPI_TRY(MPI_Bcast((char *)x->data + part.begin, (int)span_size(part), MPI_BYTE, root,
                          state->mpi));
    }
    return STATUS_OK;
}

static enum status mpi_lowest(struct comm *comm, int *index, int flag)
{
    struct mpi_state *state = comm->state;
    int size = comm->group.size, own = flag ? comm->group.index : size, lowest = size;
    MPI_TRY(MPI_Allreduce(&own, &lowest, 1, MPI_INT, MPI_MIN, state->mpi));
    *index = lowest < size ? lowest : -1;
    return STATUS_OK;
}

static enum status mpi_barrier(struct comm *comm)
{
    struct mpi_state *state = comm->state;
    MPI_TRY(MPI_Barrier(state->mpi));
    return STATUS_OK;
}

static void mpi_close(struct comm *comm)
{
    struct mpi_state *state = comm->state;
    if (state == NULL)
        return;
    mpi_comm_closed(&state->mpi);
    free(state->requests);
    free(state->buffer);
    free(state);
    comm->state = NULL;
}

static const struct comm_ops mpi_ops = {
    .name = "mpi",
    .all_reduce = mpi_all_reduce,
    .reduce_scatter = mpi_reduce_scatter,
    .all_gather = mpi_all_gather,
    .all_to_all = mpi_all_to_all,
    .broadcast = mpi_broadcast,
    .lowest = mpi_lowest,
    .barrier = mpi_barrier,
    .close = mpi_close,
};

enum status mpi_comm_of_group(MPI_Comm *mpi, const struct group *group)
{
    if (mpi_world() == MPI_COMM_NULL)
        FAIL(STATUS_COMM,
             "the %s group has %d members but MPI is not started: use mpirun or srun "
             "--mpi=pmix",
             group->name, group->size);
    MPI_Group all = MPI_GROUP_NULL, members = MPI_GROUP_NULL;
    int last = group->first + (group->size - 1) * group->stride;
    int range[1][3] = {{group->first, last, group->stride}};
    enum status status = STATUS_OK;
    MPI_TRY_GOTO(status, done, MPI_Comm_group(mpi_world(), &all));
    MPI_TRY_GOTO(status, done, MPI_Group_range_incl(all, 1, range, &members));
    MPI_TRY_GOTO(status, done, MPI_Comm_create_group(mpi_world(), members, TAG, mpi));
    status = mpi_comm_opened(*mpi);
done:
    if (members != MPI_GROUP_NULL)
        MPI_Group_free(&members);
    if (all != MPI_GROUP_NULL)
        MPI_Group_free(&all);
    return status;
}

enum status comm_mpi_open(struct comm *comm, const struct group *group)
{
    MPI_Comm mpi = MPI_COMM_NULL;
    TRY(mpi_comm_of_group(&mpi, group));

    /* After the collective part, so that a rank without memory leaves nobody waiting. */
    struct mpi_state *state = malloc(sizeof *state);
    MPI_Request *requests = malloc(2 * (size_t)group->size * sizeof(MPI_Request));
    float *buffer = malloc((REDUCE_CHUNK + (size_t)group->size) * sizeof *buffer);
    if (state == NULL || requests == NULL || buffer == NULL) {
        free(state);
        free(requests);
        free(buffer);
        mpi_comm_closed(&mpi);
        FAIL(STATUS_NO_MEMORY, "no memory for the buffers of the %s group", group->name);
    }
    *state = (struct mpi_state){.mpi = mpi, .requests = requests, .buffer = buffer};
    *comm = (struct comm){.ops = &mpi_ops, .group = *group, .state = state};
    return STATUS_OK;
}
