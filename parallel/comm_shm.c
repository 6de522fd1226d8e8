/* comm_shm.c - collectives through memory that the members on a node share.
 *
 * A sum of few numbers goes in one shot: each member copies its vector to its
 * slot, waits for the others, and adds all of them.  Long vectors go in two: each
 * member adds its slice of all vectors, leaves the sum in its slot, and collects
 * the other slices.  Both add along the tree of reduction_tree.h.
 *
 * Over several nodes only sums gain: the members of a node are a subtree when they
 * are an aligned block of 2^k neighbours.  They sum theirs, the first members of the nodes
 * exchange these sums along the rest of the tree with MPI, and hand the result
 * out.  All other operations are then those of comm_mpi. */
#include "parallel/comm.h"

#include "kernels/core/trace.h"
#include "parallel/comm_check.h"
#include "parallel/reduction_tree.h"
#include "parallel/shard_plan.h"
#include "parallel/shm_window.h"
#include <stdlib.h>
#include <string.h>

enum {
    SLOT_FLOATS = SHM_SLOT_BYTES / sizeof(float),
    SLICE_UNIT = 32, /* floats: slices begin on lines that no other member writes */
    /* Bytes of vectors that one shot reads more than two shots do, from which these are faster: they
     * wait a second time, some 0.5 us, in which 8 KiB come from another core.  An estimate from 2 cores. */
    TWO_SHOT_BYTES = 8 * 1024,
    /* Longer messages of one member go by MPI, which copies once where slots need two: 128 KiB take 12 us
     * against 15, 1 MiB 87 against 121 (2 ranks, bench comm, 2026-11-26). */
    BROADCAST_BYTES_MAX = 32 * 1024,
    EXCHANGE_MEMBERS_MAX = 64 /* a slot then has 2 KiB for each */
};

struct shm_state {
    struct shm_window window;
    struct comm mpi; /* of the whole group */
    struct comm
        leaders; /* first members of the nodes; on those only, and with several nodes only */
    int n_nodes;
    const float **part; /* [members on the node] */
};

static enum status reduce_in_one_shot(struct shm_state *state, float *x, int64_t count)
{
    struct shm_window *w = &state->window;
    int own = w->group.index, size = w->group.size;
    memcpy(shm_slot(w, own), x, (size_t)count * sizeof *x);
    shm_arrive(w);
    TRY(shm_wait_all(w));
    if (size == 2) {
        reduction_add(x, (const float *)(const void *)shm_slot(w, 1 - own), count);
        return STATUS_OK;
    }
    for (int i = 0; i < size; i++)
        state->part[i] = i == own ? x : (const float *)(const void *)shm_slot(w, i);
    reduction_tree_sum_of(x, state->part, size, count);
    return STATUS_OK;
}

static struct span slice_of(int64_t count, int size, int index)
{
    struct span units = span_part((count + SLICE_UNIT - 1) / SLICE_UNIT, size, index);
    int64_t begin = units.begin * SLICE_UNIT, end = units.end * SLICE_UNIT;
    return (struct span){.begin = begin < count ? begin : count, .end = end < count ? end : count};
}

/* The own slice of the own slot is read by nobody before the second arrival, so the sum goes there. */
static enum status reduce_in_two_shots(struct shm_state *state, float *x, int64_t count)
{
    struct shm_window *w = &state->window;
    int own = w->group.index, size = w->group.size;
    struct span mine = slice_of(count, size, own);
    float *slot = (float *)(void *)shm_slot(w, own);
    memcpy(slot, x, (size_t)mine.begin * sizeof *x);
    memcpy(slot + mine.end, x + mine.end, (size_t)(count - mine.end) * sizeof *x);
    shm_arrive(w);
    TRY(shm_wait_all(w));
    for (int i = 0; i < size; i++)
        state->part[i] = (i == own ? x : (const float *)(const void *)shm_slot(w, i)) + mine.begin;
    reduction_tree_sum_of(slot + mine.begin, state->part, size, span_size(mine));
    shm_arrive(w);
    memcpy(x + mine.begin, slot + mine.begin, (size_t)span_size(mine) * sizeof *x);
    for (int i = 1; i < size; i++) {
        int from = (own + i) % size;
        struct span theirs = slice_of(count, size, from);
        TRY(shm_wait(w, from));
        memcpy(x + theirs.begin, (const float *)(const void *)shm_slot(w, from) + theirs.begin,
               (size_t)span_size(theirs) * sizeof *x);
    }
    return STATUS_OK;
}

/* The sum over the members on this node, to all of them. */
static enum status reduce_on_node(struct shm_state *state, float *x, int64_t count)
{
    struct shm_window *w = &state->window;
    for (int64_t begin = 0; begin < count && w->group.size > 1; begin += SLOT_FLOATS) {
        int64_t part = count - begin < SLOT_FLOATS ? count - begin : SLOT_FLOATS;
        int64_t more = (w->group.size - 2) * part * (int64_t)sizeof *x;
        shm_turn(w);
        TRY(shm_claim(w));
        TRY(more > TWO_SHOT_BYTES ? reduce_in_two_shots(state, x + begin, part)
                                  : reduce_in_one_shot(state, x + begin, part));
    }
    return STATUS_OK;
}

/* The root is at most two slots ahead of the slowest reader. */
static enum status broadcast_on_node(struct shm_state *state, char *data, int64_t bytes, int root)
{
    struct shm_window *w = &state->window;
    for (int64_t begin = 0; begin < bytes && w->group.size > 1; begin += SHM_SLOT_BYTES) {
        size_t part = (size_t)(bytes - begin < SHM_SLOT_BYTES ? bytes - begin : SHM_SLOT_BYTES);
        shm_turn(w);
        if (w->group.index == root) {
            TRY(shm_claim(w));
            memcpy(shm_slot(w, root), data + begin, part);
            shm_arrive(w);
        } else {
            shm_arrive(w);
            TRY(shm_wait(w, root));
            memcpy(data + begin, shm_slot(w, root), part);
        }
    }
    return STATUS_OK;
}

static enum status shm_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    struct shm_state *state = comm->state;
    int64_t count = tensor_count(x);
    TRY(comm_check_all_reduce(x));
    TRY(reduce_on_node(state, x->data, count));
    if (state->leaders.ops != NULL) /* it counts the sum too */
        TRY(state->leaders.ops->all_reduce(&state->leaders, x, stream));
    else
        trace_add(TRACE_ALL_REDUCES, 1);
    if (state->n_nodes > 1)
        TRY(broadcast_on_node(state, x->data, count * (int64_t)sizeof(float), 0));
    return STATUS_OK;
}

/* What of a part of `bytes` bytes goes in the round that starts at `begin` and takes up to `most`. */
static size_t piece_bytes(int64_t bytes, int64_t begin, int64_t most)
{
    int64_t left = bytes - begin;
    return left <= 0 ? 0 : (size_t)(left < most ? left : most);
}

static enum status gather_round(struct shm_state *state, char *y, const int64_t *counts,
                                const struct gather_shape *shape, int64_t begin)
{
    struct shm_window *w = &state->window;
    int own = w->group.index;
    size_t own_piece = piece_bytes(shape->own_bytes, begin, SHM_SLOT_BYTES);
    shm_turn(w);
    if (own_piece > 0) {
        TRY(shm_claim(w));
        memcpy(shm_slot(w, own), y + shape->own_offset + begin, own_piece);
    }
    shm_arrive(w);
    int64_t offset = 0;
    for (int i = 0; i < w->group.size; offset += counts[i++] * shape->width) {
        size_t piece = piece_bytes(counts[i] * shape->width, begin, SHM_SLOT_BYTES);
        if (i == own || piece == 0)
            continue;
        TRY(shm_wait(w, i));
        memcpy(y + offset + begin, shm_slot(w, i), piece);
    }
    return STATUS_OK;
}

static enum status shm_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                  const int64_t *counts, struct stream *stream)
{
    struct shm_state *state = comm->state;
    if (state->n_nodes > 1)
        return state->mpi.ops->all_gather(&state->mpi, y, x, counts, stream);
    struct gather_shape shape;
    TRY(comm_check_all_gather(&shape, &comm->group, y, x, counts));
    char *data = y->data;
    if (shape.own_bytes > 0 && data + shape.own_offset != x->data)
        memmove(data + shape.own_offset, x->data, (size_t)shape.own_bytes);
    for (int64_t begin = 0; begin < shape.longest_bytes; begin += SHM_SLOT_BYTES)
        TRY(gather_round(state, data, counts, &shape, begin));
    return STATUS_OK;
}

/* A slot has room for `most` bytes to each member. */
static void write_pieces(struct shm_state *state, const char *x, const int64_t *sent, int64_t width,
                         int64_t begin, int64_t most)
{
    struct shm_window *w = &state->window;
    char *slot = shm_slot(w, w->group.index);
    int64_t offset = 0;
    for (int i = 0; i < w->group.size; offset += sent[i++] * width) {
        size_t piece = piece_bytes(sent[i] * width, begin, most);
        if (i != w->group.index && piece > 0)
            memcpy(slot + i * most, x + offset + begin, piece);
    }
}

static void read_pieces(struct shm_state *state, char *y, const int64_t *received, int64_t width,
                        int64_t begin, int64_t most)
{
    struct shm_window *w = &state->window;
    int own = w->group.index;
    int64_t offset = 0;
    for (int i = 0; i < w->group.size; offset += received[i++] * width) {
        size_t piece = piece_bytes(received[i] * width, begin, most);
        if (i != own && piece > 0)
            memcpy(y + offset + begin, shm_slot(w, i) + own * most, piece);
    }
}

/* As exchange_pieces; the counts of all are known here, so no round asks for more. */
static enum status scatter_rounds(struct shm_state *state, float *y, const float *x,
                                  const int64_t *counts, const struct gather_shape *shape)
{
    struct shm_window *w = &state->window;
    int own = w->group.index, size = w->group.size;
    int64_t most = SHM_SLOT_BYTES / size / 128 * 128, width = shape->width;
    const float *own_part = x + shape->own_offset / width;
    for (int64_t begin = 0; begin < shape->longest_bytes; begin += most) {
        size_t piece = piece_bytes(shape->own_bytes, begin, most);
        shm_turn(w);
        TRY(shm_claim(w));
        write_pieces(state, (const char *)x, counts, width, begin, most);
        shm_arrive(w);
        TRY(shm_wait_all(w));
        if (piece == 0)
            continue;
        for (int i = 0; i < size; i++)
            state->part[i] = i == own ? own_part + begin / width
                                      : (const float *)(const void *)(shm_slot(w, i) + own * most);
        reduction_tree_sum_of(y + begin / width, state->part, size, (int64_t)piece / width);
    }
    return STATUS_OK;
}

static enum status shm_reduce_scatter(struct comm *comm, struct tensor *y, const struct tensor *x,
                                      const int64_t *counts, struct stream *stream)
{
    struct shm_state *state = comm->state;
    if (state->n_nodes > 1 || comm->group.size > EXCHANGE_MEMBERS_MAX)
        return state->mpi.ops->reduce_scatter(&state->mpi, y, x, counts, stream);
    struct gather_shape shape;
    TRY(comm_check_reduce_scatter(&shape, &comm->group, y, x, counts));
    return scatter_rounds(state, y->data, x->data, counts, &shape);
}

/* A member knows the parts from and to itself only, so each says how many rounds it needs. */
static enum status exchange_pieces(struct shm_state *state, char *y, const char *x,
                                   const int64_t *received, const int64_t *sent,
                                   const struct exchange_shape *shape)
{
    struct shm_window *w = &state->window;
    int size = w->group.size;
    int64_t most = SHM_SLOT_BYTES / size / 128 * 128;
    int n_rounds = (int)((shape->longest_bytes + most - 1) / most);
    for (int round = 0; round == 0 || round < n_rounds; round++) {
        shm_turn(w);
        TRY(shm_claim(w));
        *shm_flag(w, w->group.index) = n_rounds;
        write_pieces(state, x, sent, shape->width, round * most, most);
        shm_arrive(w);
        TRY(shm_wait_all(w));
        for (int i = 0; i < size; i++)
            n_rounds = *shm_flag(w, i) > n_rounds ? *shm_flag(w, i) : n_rounds;
        read_pieces(state, y, received, shape->width, round * most, most);
    }
    return STATUS_OK;
}

static enum status shm_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                  const int64_t *received, const int64_t *sent,
                                  struct stream *stream)
{
    struct shm_state *state = comm->state;
    if (state->n_nodes > 1 || comm->group.size > EXCHANGE_MEMBERS_MAX)
        return state->mpi.ops->all_to_all(&state->mpi, y, x, received, sent, stream);
    struct exchange_shape shape;
    TRY(comm_check_all_to_all(&shape, &comm->group, y, x, received, sent));
    if (shape.own_bytes > 0)
        memcpy((char *)y->data + shape.own_to, (const char *)x->data + shape.own_from,
               (size_t)shape.own_bytes);
    return exchange_pieces(state, y->data, x->data, received, sent, &shape);
}

static enum status shm_broadcast(struct comm *comm, struct tensor *x, int root,
                                 struct stream *stream)
{
    struct shm_state *state = comm->state;
    int64_t bytes = tensor_count(x) * (int64_t)dtype_bytes(x->dtype);
    if (state->n_nodes > 1 || bytes > BROADCAST_BYTES_MAX)
        return state->mpi.ops->broadcast(&state->mpi, x, root, stream);
    TRY(comm_check_broadcast(x));
    return broadcast_on_node(state, x->data, bytes, root);
}

static enum status shm_lowest(struct comm *comm, int *index, int flag)
{
    struct shm_state *state = comm->state;
    struct shm_window *w = &state->window;
    if (state->n_nodes > 1)
        return state->mpi.ops->lowest(&state->mpi, index, flag);
    shm_turn(w);
    TRY(shm_claim(w));
    *shm_flag(w, w->group.index) = flag;
    shm_arrive(w);
    TRY(shm_wait_all(w));
    int found = 0;
    while (found < w->group.size && *shm_flag(w, found) == 0)
        found++;
    *index = found < w->group.size ? found : -1;
    return STATUS_OK;
}

static enum status shm_barrier(struct comm *comm)
{
    struct shm_state *state = comm->state;
    if (state->n_nodes > 1)
        return state->mpi.ops->barrier(&state->mpi);
    shm_arrive(&state->window);
    return shm_wait_all(&state->window);
}

static void state_free(struct shm_state *state)
{
    if (state == NULL)
        return;
    comm_close(&state->leaders);
    if (state->window.group.size > 0)
        shm_close_window(&state->window);
    comm_close(&state->mpi);
    free(state->part);
    free(state);
}

static void shm_close(struct comm *comm)
{
    state_free(comm->state);
    comm->state = NULL;
}

static const struct comm_ops shm_ops = {
    .name = "shm",
    .all_reduce = shm_all_reduce,
    .reduce_scatter = shm_reduce_scatter,
    .all_gather = shm_all_gather,
    .all_to_all = shm_all_to_all,
    .broadcast = shm_broadcast,
    .lowest = shm_lowest,
    .barrier = shm_barrier,
    .close = shm_close,
};

/* --- opening --- */

/* Who shares a node with whom: first_on_node[i] is the lowest member on the node of member i. */
static enum status find_nodes(MPI_Comm *node, int *first_on_node, MPI_Comm all,
                              const struct group *group, int node_members)
{
    int first = group->index;
    if (node_members > 0)
        MPI_TRY(MPI_Comm_split(all, group->index / node_members, group->index, node));
    else
        MPI_TRY(MPI_Comm_split_type(all, MPI_COMM_TYPE_SHARED, group->index, MPI_INFO_NULL, node));
    TRY(mpi_comm_opened(*node));
    MPI_TRY(MPI_Bcast(&first, 1, MPI_INT, 0, *node));
    MPI_TRY(MPI_Allgather(&first, 1, MPI_INT, first_on_node, 1, MPI_INT, all));
    return STATUS_OK;
}

/* Takes `node`.  Collective, as all that follows; every step is agreed, since members that find no
 * memory must not leave the others waiting. */
static enum status open_node(struct shm_state *state, const struct group *group, MPI_Comm all,
                             MPI_Comm node, int block)
{
    int first = group->index / block * block;
    const struct group on_node = {
        .name = group->name,
        .size = group->size - first < block ? group->size - first : block,
        .index = group->index - first,
        .first = group->first + first * group->stride,
        .stride = group->stride,
    };
    state->n_nodes = (group->size + block - 1) / block;
    enum status opened = shm_open_window(&state->window, &on_node, node);
    if (mpi_agree(all, opened) != STATUS_OK)
        return status_prefix(STATUS_UNSUPPORTED, "the %s group got no shared memory", group->name);
    return STATUS_OK;
}

static enum status open_leaders(struct shm_state *state, const struct group *group, int block)
{
    const struct group leaders = {
        .name = group->name,
        .size = state->n_nodes,
        .index = group->index / block,
        .first = group->first,
        .stride = group->stride * block,
    };
    if (state->n_nodes == 1 || group->index % block != 0)
        return STATUS_OK;
    return comm_mpi_open(&state->leaders, &leaders);
}

static enum status open_state(struct shm_state *state, const struct group *group, MPI_Comm all,
                              int *first_on_node, int node_members)
{
    MPI_Comm node = MPI_COMM_NULL;
    enum status status = mpi_agree(all, find_nodes(&node, first_on_node, all, group, node_members));
    int block = status == STATUS_OK ? shm_block(first_on_node, group->size) : 0;
    if (status != STATUS_OK || block < 2) {
        mpi_comm_closed(&node);
        TRY(status);
        FAIL(STATUS_UNSUPPORTED,
             "the %d members of the %s group are not placed in blocks of 2, 4, 8, ... neighbours "
             "on a node",
             group->size, group->name);
    }
    TRY(open_node(state, group, all, node, block));
    TRY(mpi_agree(all, comm_mpi_open(&state->mpi, group)));
    return mpi_agree(all, open_leaders(state, group, block));
}

enum status comm_shm_open(struct comm *comm, const struct group *group, int node_members)
{
    MPI_Comm all = MPI_COMM_NULL;
    TRY(mpi_comm_of_group(&all, group));
    struct shm_state *state = calloc(1, sizeof *state);
    const float **part = calloc((size_t)group->size, sizeof *part);
    int *first_on_node = calloc((size_t)group->size, sizeof *first_on_node);
    enum status status = STATUS_OK;
    if (state == NULL || part == NULL || first_on_node == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for the %s group",
                             group->name);
    status = mpi_agree(all, status);
    if (status == STATUS_OK)
        status = open_state(state, group, all, first_on_node, node_members);
    mpi_comm_closed(&all);
    free(first_on_node);
    if (state != NULL)
        state->part = part;
    if (status != STATUS_OK) {
        state_free(state);
        return status;
    }
    *comm = (struct comm){.ops = &shm_ops, .group = *group, .state = state};
    return STATUS_OK;
}
