/* The collectives of comm.h against serial results, on every member, over every backend. */
#include "mpi_check.h"

#include "kernels/core/trace.h"
#include "parallel/comm.h"
#include "parallel/ledger.h"
#include "parallel/shard_plan.h"
#include "parallel/shm_window.h"
#include <math.h>
#include <sched.h>

/* Of very different sizes, so that another order of additions shows. */
static float random_float(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    float value = (float)(int32_t)(*state >> 32) / 2147483648.0f;
    return ldexpf(value, (int)(*state >> 20 & 15));
}

static uint64_t seed_of(int world_rank, int64_t salt)
{
    return UINT64_C(0x9e3779b97f4a7c15) * (uint64_t)(world_rank + 1) + (uint64_t)salt;
}

static int world_rank(const struct group *group, int index)
{
    return group->first + index * group->stride;
}

/* The tree by its recursive definition: the left half is the largest power of two below the size. */
static float recursive_sum(const float *parts, int n)
{
    int half = 1;
    if (n == 1)
        return parts[0];
    while (half * 2 < n)
        half *= 2;
    return recursive_sum(parts, half) + recursive_sum(parts + half, n - half);
}

static void *claim(size_t bytes)
{
    void *data = calloc(bytes + 1, 1);
    REQUIRE(data != NULL);
    return data;
}

/* Bytes past the end must stay as they are. */
static void check_all_reduce(struct comm *comm, int64_t count, int64_t salt)
{
    enum { GUARD = 16 };
    int size = comm->group.size;
    uint64_t *states = claim((size_t)size * sizeof *states);
    float *parts = claim((size_t)size * sizeof *parts);
    float *x = claim((size_t)(count + GUARD) * sizeof *x);
    float *expected = claim((size_t)(count + GUARD) * sizeof *expected);
    for (int i = 0; i < size; i++)
        states[i] = seed_of(world_rank(&comm->group, i), salt);
    for (int64_t k = 0; k < count; k++) {
        for (int i = 0; i < size; i++)
            parts[i] = random_float(&states[i]);
        x[k] = parts[comm->group.index];
        expected[k] = recursive_sum(parts, size);
    }

    struct tensor t = tensor_1d(x, DTYPE_F32, count);
    int64_t before = trace_value(TRACE_ALL_REDUCES);
    CHECK(comm->ops->all_reduce(comm, &t, NULL) == STATUS_OK);
    CHECK(memcmp(x, expected, (size_t)(count + GUARD) * sizeof *x) == 0);
    CHECK(trace_value(TRACE_ALL_REDUCES) - before == (size > 1));
    free(states);
    free(parts);
    free(x);
    free(expected);
}

static void all_reduce_gives_the_bits_of_the_serial_tree(struct comm *comm)
{
    const int64_t counts[] = {0, 1, 7, 8, 1000, 4095, 4096, 4097, 16384};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        check_all_reduce(comm, counts[i], (int64_t)i);
}

/* At and beyond what is in flight at once. */
static void long_vectors_are_cut_into_chunks(struct comm *comm)
{
    const int64_t counts[] = {32767, 32768, 65535, 65536, 65537, 1000000};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        check_all_reduce(comm, counts[i], (int64_t)i);
}

static void all_reduce_refuses_what_it_cannot_sum(struct comm *comm)
{
    float data[12] = {0};
    struct tensor whole = tensor_2d(data, DTYPE_F32, 3, 4), strided = tensor_columns(&whole, 0, 2);
    struct tensor halves = tensor_1d(data, DTYPE_BF16, 12);
    if (comm->group.size == 1)
        return;
    CHECK(comm->ops->all_reduce(comm, &strided, NULL) == STATUS_INVALID);
    CHECK(comm->ops->all_reduce(comm, &halves, NULL) == STATUS_INVALID);
}

/* Member i gives counts[i] values that name the member and the place. */
static void check_all_gather(struct comm *comm, const int64_t *counts, int in_place)
{
    int64_t total = 0, offset = 0, own = counts[comm->group.index];
    for (int i = 0; i < comm->group.size; i++) {
        offset += i < comm->group.index ? counts[i] : 0;
        total += counts[i];
    }
    int32_t *y = claim((size_t)(total + 1) * sizeof *y);
    int32_t *x = in_place ? y + offset : claim((size_t)own * sizeof *x);
    y[total] = -1;
    for (int64_t k = 0; k < own; k++)
        x[k] = (int32_t)(comm->group.index * 10000000 + k);

    struct tensor ty = tensor_1d(y, DTYPE_I32, total), tx = tensor_1d(x, DTYPE_I32, own);
    CHECK(comm->ops->all_gather(comm, &ty, &tx, counts, NULL) == STATUS_OK);
    int wrong = y[total] != -1;
    for (int i = 0, place = 0; i < comm->group.size; i++)
        for (int64_t k = 0; k < counts[i]; k++)
            wrong += y[place++] != (int32_t)(i * 10000000 + k);
    CHECK(wrong == 0);
    if (!in_place)
        free(x);
    free(y);
}

static void all_gather_takes_uneven_and_empty_counts(struct comm *comm)
{
    int size = comm->group.size;
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (int shape = 0; shape < 6; shape++) {
        for (int i = 0; i < size; i++) {
            const int64_t shapes[] = {0,        1, i, i == size - 1 ? 1000 : 0, 100000 + i * 77,
                                      i % 2 * 5};
            counts[i] = shapes[shape];
        }
        check_all_gather(comm, counts, 0);
        check_all_gather(comm, counts, 1);
    }
    free(counts);
}

static void all_gather_refuses_counts_that_do_not_fit(struct comm *comm)
{
    if (comm->group.size == 1)
        return;
    int64_t *counts = claim((size_t)comm->group.size * sizeof *counts);
    float data[4] = {0};
    struct tensor x = tensor_1d(data, DTYPE_F32, 3), y = tensor_1d(data, DTYPE_F32, 4);
    CHECK(comm->ops->all_gather(comm, &y, &x, counts, NULL) == STATUS_INVALID);
    free(counts);
}

/* Every member's part of a sum of random numbers; a guard behind it stays. */
static void check_reduce_scatter(struct comm *comm, const int64_t *counts, int64_t salt)
{
    int size = comm->group.size, own = comm->group.index;
    int64_t total = 0, begin = 0;
    for (int i = 0; i < size; i++) {
        begin += i < own ? counts[i] : 0;
        total += counts[i];
    }
    uint64_t *states = claim((size_t)size * sizeof *states);
    float *parts = claim((size_t)size * sizeof *parts), *x = claim((size_t)total * sizeof *x);
    float *y = claim((size_t)(counts[own] + 1) * sizeof *y);
    float *expected = claim((size_t)(counts[own] + 1) * sizeof *expected);
    for (int i = 0; i < size; i++)
        states[i] = seed_of(world_rank(&comm->group, i), salt);
    for (int64_t k = 0; k < total; k++) {
        for (int i = 0; i < size; i++)
            parts[i] = random_float(&states[i]);
        x[k] = parts[own];
        if (k >= begin && k < begin + counts[own])
            expected[k - begin] = recursive_sum(parts, size);
    }
    struct tensor ty = tensor_1d(y, DTYPE_F32, counts[own]), tx = tensor_1d(x, DTYPE_F32, total);
    CHECK(comm->ops->reduce_scatter(comm, &ty, &tx, counts, NULL) == STATUS_OK);
    CHECK(memcmp(y, expected, (size_t)(counts[own] + 1) * sizeof *y) == 0);
    free(states);
    free(parts);
    free(x);
    free(y);
    free(expected);
}

static void reduce_scatter_gives_each_its_part_of_the_tree(struct comm *comm)
{
    int size = comm->group.size;
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (int shape = 0; shape < 6; shape++) {
        for (int i = 0; i < size; i++) {
            const int64_t shapes[] = {0, 1, i, i == size - 1 ? 1000 : 0, 40000, 70000 + i * 77};
            counts[i] = shapes[shape];
        }
        check_reduce_scatter(comm, counts, shape);
    }
    free(counts);
}

static void reduce_scatter_refuses_what_it_cannot_sum(struct comm *comm)
{
    if (comm->group.size == 1)
        return;
    int64_t *counts = claim((size_t)comm->group.size * sizeof *counts);
    float data[8] = {0};
    counts[comm->group.index] = 3;
    struct tensor x = tensor_1d(data, DTYPE_F32, 3), y = tensor_1d(data + 4, DTYPE_F32, 2);
    CHECK(comm->ops->reduce_scatter(comm, &y, &x, counts, NULL) == STATUS_INVALID);
    y = tensor_1d(data + 4, DTYPE_I32, 3);
    CHECK(comm->ops->reduce_scatter(comm, &y, &x, counts, NULL) == STATUS_INVALID);
    free(counts);
}

/* How much member `from` has for member `to`, by shape. */
static int64_t exchanged(int shape, int from, int to, int size)
{
    const int64_t shapes[] = {
        0, 1, from, to, from == size - 1 ? 0 : 70000 + 13 * from - 7 * to, (from + 2 * to) % 3 * 5};
    return shapes[shape];
}

/* The value at place k of what `from` has for `to`. */
static int32_t exchanged_value(int from, int to, int64_t k)
{
    return (int32_t)(from * 100000000 + to * 1000000 + k);
}

static void check_all_to_all(struct comm *comm, int shape)
{
    int size = comm->group.size, own = comm->group.index;
    int64_t *received = claim((size_t)size * sizeof *received), n_received = 0;
    int64_t *sent = claim((size_t)size * sizeof *sent), n_sent = 0, place = 0;
    for (int i = 0; i < size; i++) {
        n_received += received[i] = exchanged(shape, i, own, size);
        n_sent += sent[i] = exchanged(shape, own, i, size);
    }
    int32_t *y = claim((size_t)(n_received + 1) * sizeof *y);
    int32_t *x = claim((size_t)n_sent * sizeof *x);
    for (int i = 0; i < size; i++)
        for (int64_t k = 0; k < sent[i]; k++)
            x[place++] = exchanged_value(own, i, k);
    y[n_received] = -1;

    struct tensor ty = tensor_1d(y, DTYPE_I32, n_received), tx = tensor_1d(x, DTYPE_I32, n_sent);
    CHECK(comm->ops->all_to_all(comm, &ty, &tx, received, sent, NULL) == STATUS_OK);
    int wrong = y[n_received] != -1;
    place = 0;
    for (int i = 0; i < size; i++)
        for (int64_t k = 0; k < received[i]; k++)
            wrong += y[place++] != exchanged_value(i, own, k);
    CHECK(wrong == 0);
    free(received);
    free(sent);
    free(y);
    free(x);
}

static void all_to_all_hands_each_member_its_part(struct comm *comm)
{
    for (int shape = 0; shape < 6; shape++)
        check_all_to_all(comm, shape);
}

static void all_to_all_refuses_counts_that_do_not_fit(struct comm *comm)
{
    if (comm->group.size == 1)
        return;
    int64_t *counts = claim((size_t)comm->group.size * sizeof *counts);
    int64_t *others = claim((size_t)comm->group.size * sizeof *others);
    float data[8] = {0};
    struct tensor x = tensor_1d(data, DTYPE_F32, 3), y = tensor_1d(data + 4, DTYPE_F32, 3);
    CHECK(comm->ops->all_to_all(comm, &y, &x, counts, counts, NULL) == STATUS_INVALID);
    counts[comm->group.index] = 3;
    others[(comm->group.index + 1) % comm->group.size] = 3;
    CHECK(comm->ops->all_to_all(comm, &y, &x, counts, others, NULL) == STATUS_INVALID);
    free(counts);
    free(others);
}

static void broadcast_reaches_all_from_any_root(struct comm *comm)
{
    const int64_t counts[] = {0, 1, 13, 4096, 300001};
    for (int root = 0; root < comm->group.size; root++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            uint16_t *data = claim((size_t)counts[c] * sizeof *data);
            int is_root = comm->group.index == root, wrong = 0;
            for (int64_t k = 0; k < counts[c]; k++)
                data[k] = (uint16_t)(is_root ? k * 3 + root : 0xffff);
            struct tensor t = tensor_1d(data, DTYPE_BF16, counts[c]);
            CHECK(comm->ops->broadcast(comm, &t, root, NULL) == STATUS_OK);
            for (int64_t k = 0; k < counts[c]; k++)
                wrong += data[k] != (uint16_t)(k * 3 + root);
            CHECK(wrong == 0);
            free(data);
        }
}

static void bytes_are_broadcast(struct comm *comm)
{
    char text[40] = "";
    int root = comm->group.size - 1;
    if (comm->group.index == root)
        snprintf(text, sizeof text, "from member %d", root);
    CHECK(comm_broadcast_bytes(comm, text, sizeof text, root) == STATUS_OK);
    char expected[40];
    snprintf(expected, sizeof expected, "from member %d", root);
    CHECK(strcmp(text, expected) == 0);
    CHECK(comm_broadcast_bytes(comm, NULL, 0, 0) == STATUS_OK);
}

static void lowest_finds_the_lowest(struct comm *comm)
{
    int found;
    for (int low = 0; low <= comm->group.size; low++) {
        CHECK(comm->ops->lowest(comm, &found, comm->group.index >= low) == STATUS_OK);
        CHECK(found == (low < comm->group.size ? low : -1));
    }
}

static void check_comm(struct comm *comm, const char *backend)
{
    CHECK(strcmp(comm->ops->name, comm->group.size == 1 ? "self" : backend) == 0);
    all_reduce_gives_the_bits_of_the_serial_tree(comm);
    all_reduce_refuses_what_it_cannot_sum(comm);
    reduce_scatter_gives_each_its_part_of_the_tree(comm);
    reduce_scatter_refuses_what_it_cannot_sum(comm);
    all_gather_takes_uneven_and_empty_counts(comm);
    all_gather_refuses_counts_that_do_not_fit(comm);
    all_to_all_hands_each_member_its_part(comm);
    all_to_all_refuses_counts_that_do_not_fit(comm);
    broadcast_reaches_all_from_any_root(comm);
    bytes_are_broadcast(comm);
    lowest_finds_the_lowest(comm);
    CHECK(comm->ops->barrier(comm) == STATUS_OK);
}

/* The groups of an axis work at the same time, each rank in its own and with as many calls as its
 * place says, so that one group runs ahead of the others. */
static void groups_work_at_the_same_time(const struct mesh *mesh)
{
    struct comm ep, etp;
    CHECK(comm_open(&ep, &mesh->ep) == STATUS_OK);
    CHECK(comm_open(&etp, &mesh->etp) == STATUS_OK);
    check_comm(&ep, "shm");
    for (int i = 0; i < 3 + mesh->ep.index * 20; i++)
        check_all_reduce(&etp, 100, i);
    for (int i = 0; i < 3 + mesh->etp.index * 20; i++)
        check_all_reduce(&ep, 5000, i);
    check_comm(&etp, "shm");
    comm_close(&etp);
    comm_close(&ep);
    comm_close(&ep); /* closing twice is harmless */
}

/* The last rank alone, the others together. */
static void unequal_groups_open_together(const struct mesh *mesh)
{
    if (mesh->world.size < 3)
        return;
    int others = mesh->world.size - 1, is_last = mesh->rank == others;
    struct group group = is_last ? (struct group){"odd", 1, 0, others, 1}
                                 : (struct group){"odd", others, mesh->rank, 0, 1};
    struct comm comm;
    CHECK(comm_open(&comm, &group) == STATUS_OK);
    check_comm(&comm, "shm");
    comm_close(&comm);
}

/* Nodes of 2 and 4 are pretended: they are blocks of the tree; the last one may be smaller. */
static void all_backends_give_serial_results(const struct mesh *mesh)
{
    if (mesh->world.size == 1)
        return;
    struct comm comm;
    comm_set_backend(COMM_MPI);
    CHECK(comm_open(&comm, &mesh->world) == STATUS_OK);
    check_comm(&comm, "mpi");
    long_vectors_are_cut_into_chunks(&comm);
    comm_close(&comm);
    comm_set_backend(COMM_SHM);
    CHECK(comm_open(&comm, &mesh->world) == STATUS_OK);
    check_comm(&comm, "shm");
    comm_close(&comm);
    comm_set_backend(COMM_AUTO);
    for (int members = 2; members <= 4; members *= 2) {
        REQUIRE(comm_shm_open(&comm, &mesh->world, members) == STATUS_OK);
        check_comm(&comm, "shm");
        long_vectors_are_cut_into_chunks(&comm);
        comm_close(&comm);
    }
}

/* The ledger between the caller and the backend. */
static void a_watched_group_gives_the_same(const struct mesh *mesh)
{
    struct comm comm;
    REQUIRE(ledger_open(&check_process, 3600) == STATUS_OK);
    REQUIRE(comm_open(&comm, &mesh->world) == STATUS_OK);
    ledger_step_begin();
    ledger_place(3, LEDGER_ATTENTION);
    check_comm(&comm, "shm");
    ledger_step_end();
    comm_close(&comm);
    ledger_close();
    ledger_close(); /* closing twice is harmless */
}

static void nodes_that_are_no_blocks_of_the_tree_are_refused(const struct mesh *mesh)
{
    struct comm comm;
    if (mesh->world.size > 3)
        CHECK(comm_shm_open(&comm, &mesh->world, 3) == STATUS_UNSUPPORTED);
    if (mesh->world.size > 1)
        CHECK(comm_shm_open(&comm, &mesh->world, 1) == STATUS_UNSUPPORTED);
    const struct {
        int size, block, first[8];
    } nodes[] = {
        {5, 5, {0, 0, 0, 0, 0}},    {4, 2, {0, 0, 2, 2}},    {5, 2, {0, 0, 2, 2, 4}},
        {6, 4, {0, 0, 0, 0, 4, 4}}, {3, 1, {0, 1, 2}},       {6, 0, {0, 0, 0, 3, 3, 3}},
        {4, 0, {0, 1, 0, 1}},       {5, 0, {0, 0, 2, 2, 2}}, {8, 0, {0, 0, 2, 2, 4, 4, 4}},
        {4, 0, {0, 0, 2, 3}},       {4, 0, {0, 1, 2, 2}},    {1, 1, {0}},
    };
    for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
        CHECK(shm_block(nodes[i].first, nodes[i].size) == nodes[i].block);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* Up to `limit`, small ones as often as large ones. */
static int64_t random_count(uint64_t *state, int64_t limit)
{
    return (int64_t)(next_random(state) % (uint64_t)limit) >> next_random(state) % 16;
}

static void delay(uint64_t *state)
{
    uint64_t length = next_random(state) % 8 == 0 ? next_random(state) % 100 : 0;
    for (uint64_t i = 0; i < length; i++)
        sched_yield();
}

/* The same vector through all of `comm`: the bits of the first. */
static void sums_are_equal(struct comm *comm, int n_comms, float *x, float *expected,
                           const float *own, int64_t count, uint64_t *delays)
{
    for (int c = 0; c < n_comms; c++) {
        float *y = c == 0 ? expected : x;
        memcpy(y, own, (size_t)count * sizeof *y);
        struct tensor t = tensor_1d(y, DTYPE_F32, count);
        delay(delays);
        CHECK(comm[c].ops->all_reduce(&comm[c], &t, NULL) == STATUS_OK);
        if (c > 0)
            CHECK(memcmp(x, expected, (size_t)count * sizeof *x) == 0);
    }
}

static void bytes_come_though_the_root_runs_ahead(struct comm *comm, int root, int round,
                                                  uint64_t *delays)
{
    for (int repeat = 0; repeat < 5; repeat++) {
        int64_t sent[2] = {round, repeat}, got[2] = {0, 0};
        if (comm->group.index == root)
            memcpy(got, sent, sizeof got);
        delay(delays);
        CHECK(comm_broadcast_bytes(comm, got, sizeof got, root) == STATUS_OK);
        CHECK(memcmp(got, sent, sizeof got) == 0);
    }
}

/* Any of those with a known result; `shared` is the same on all members, `delays` is not. */
static void check_random_operation(struct comm *comm, int round, uint64_t *shared, uint64_t *delays)
{
    int size = comm->group.size, own = comm->group.index, found;
    int member = (int)(next_random(shared) % (uint64_t)(size + 1));
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (int i = 0; i < size; i++)
        counts[i] = random_count(shared, 3000);
    delay(delays);
    switch (next_random(shared) % 5) {
    case 0:
        check_all_gather(comm, counts, round % 2);
        break;
    case 1:
        check_all_to_all(comm, round % 50 == 0 ? 4 : member % 4);
        break;
    case 2:
        check_reduce_scatter(comm, counts, round);
        break;
    case 3:
        bytes_come_though_the_root_runs_ahead(comm, member % size, round, delays);
        break;
    default:
        if (round % 3 == 0)
            CHECK(comm->ops->barrier(comm) == STATUS_OK);
        CHECK(comm->ops->lowest(comm, &found, own >= member) == STATUS_OK);
        CHECK(found == (member < size ? member : -1));
    }
    free(counts);
}

/* Any order of operations, members at any distance: what one backend gives, all give. */
static void backends_stay_equal_over_thousands_of_rounds(const struct mesh *mesh)
{
    enum { N_COMMS = 4, COUNT_MAX = 70000, OFFSETS = 64, ROUNDS = 1500 };
    const int node_members[N_COMMS] = {0, 0, 2, 4};
    if (mesh->world.size == 1)
        return;
    struct comm comm[N_COMMS];
    REQUIRE(comm_mpi_open(&comm[0], &mesh->world) == STATUS_OK);
    for (int c = 1; c < N_COMMS; c++)
        REQUIRE(comm_shm_open(&comm[c], &mesh->world, node_members[c]) == STATUS_OK);
    float *random = claim((COUNT_MAX + OFFSETS) * sizeof *random);
    float *x = claim(COUNT_MAX * sizeof *x), *expected = claim(COUNT_MAX * sizeof *expected);
    uint64_t shared = 2024, delays = seed_of(mesh->rank, 1), values = seed_of(mesh->rank, 2);
    for (int64_t k = 0; k < COUNT_MAX + OFFSETS; k++)
        random[k] = random_float(&values);

    for (int round = 0; round < ROUNDS; round++) {
        const float *vector = random + next_random(&shared) % OFFSETS;
        int64_t count = random_count(&shared, round % 50 == 0 ? COUNT_MAX : 6000);
        int which = 1 + (int)(next_random(&shared) % (N_COMMS - 1));
        if (next_random(&shared) % 3 == 0)
            sums_are_equal(comm, N_COMMS, x, expected, vector, count, &delays);
        else
            check_random_operation(&comm[which], round, &shared, &delays);
    }
    for (int c = 0; c < N_COMMS; c++)
        comm_close(&comm[c]);
    free(random);
    free(x);
    free(expected);
}

static void backends_refuse_the_wrong_group(const struct mesh *mesh)
{
    struct comm comm = {0};
    struct group two = {"two", 2, 0, 0, 1};
    CHECK(comm_self_open(&comm, &two) == STATUS_INVALID);
    comm_close(&comm);
    comm_close(NULL);
    if (!check_process.uses_mpi) {
        CHECK(comm_mpi_open(&comm, &two) == STATUS_COMM);
        CHECK(comm_shm_open(&comm, &two, 0) == STATUS_COMM);
    }
    /* Ranks that the job does not have: the library's refusal comes back as a status. */
    struct group beyond = {"beyond", 2, mesh->rank, mesh->world.size, 1};
    CHECK(comm_mpi_open(&comm, &beyond) == STATUS_COMM);
    CHECK(comm_shm_open(&comm, &beyond, 0) == STATUS_COMM);
    CHECK(strlen(status_text()) > 10);
}

int main(int argc, char **argv)
{
    check_begin(&argc, &argv);
    int size = check_process.size;
    struct mesh mesh;
    struct comm world;
    struct mesh_spec spec = {.world_size = size, .ep_size = 1};
    REQUIRE(mesh_build(&mesh, &spec, check_process.rank) == STATUS_OK);
    REQUIRE(comm_open(&world, &mesh.world) == STATUS_OK);
    int n_comms = mpi_comm_count();
    check_comm(&world, "shm");
    long_vectors_are_cut_into_chunks(&world);
    all_backends_give_serial_results(&mesh);
    a_watched_group_gives_the_same(&mesh);
    nodes_that_are_no_blocks_of_the_tree_are_refused(&mesh);
    backends_stay_equal_over_thousands_of_rounds(&mesh);
    for (spec.ep_size = 1; spec.ep_size <= size; spec.ep_size++) {
        if (size % spec.ep_size != 0)
            continue;
        REQUIRE(mesh_build(&mesh, &spec, check_process.rank) == STATUS_OK);
        groups_work_at_the_same_time(&mesh);
    }
    unequal_groups_open_together(&mesh);
    backends_refuse_the_wrong_group(&mesh);
    CHECK(mpi_comm_count() == n_comms);
    comm_close(&world);
    return check_end("test_mpi_comm");
}
