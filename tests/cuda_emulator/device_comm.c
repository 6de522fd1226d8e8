/* device_comm.c - collectives of device tensors (comm_nccl) against what they must give, on every member.
 *
 * Runs on any number of ranks, one among them: there the library itself is asked, where the engine would have
 * comm_self.  Here over NCCL's twin and the emulated device; on GPUs over NCCL
 * (tests/gpu_conformance).
 *
 * usage: device_comm [ROUNDS]
 *        device_comm --planted order|count|root|message|batch|absent
 * The second does what must be found (planted_nccl.py).
 */
#include "tests/parallel/mpi_check.h"

#include <dlfcn.h>
#include <math.h>

#include "kernels/backend.h"
#include "kernels/core/log.h"
#include "parallel/comm.h"

enum { GUARD = 64, LONGEST = 300001 };

static struct backend backend;

static uint64_t mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Of any member, so that everybody knows what everybody has. */
static uint64_t value_of(int member, int64_t salt, int64_t k)
{
    return mixed((uint64_t)salt * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)member * 1000003 +
                 (uint64_t)k);
}

/* Sums of these are exact in any order. */
static float whole_number(int member, int64_t salt, int64_t k)
{
    return (float)((int64_t)(value_of(member, salt, k) % 2001) - 1000);
}

/* Of very different sizes, so that another order of additions shows. */
static float any_number(int member, int64_t salt, int64_t k)
{
    uint64_t bits = value_of(member, salt, k);
    return ldexpf((float)(int32_t)(bits >> 32) / 2147483648.0f, (int)(bits & 15));
}

static void *claim(size_t bytes)
{
    void *data = calloc(bytes + 1, 1);
    REQUIRE(data != NULL);
    return data;
}

/* --- memory of the device, with guards behind it --- */

struct buffer {
    unsigned char *host, *device;
    size_t bytes;
};

static void buffer_up(const struct buffer *b)
{
    REQUIRE(backend.device->copy_in(b->device, b->host, b->bytes + GUARD, backend.stream) ==
            STATUS_OK);
}

static struct buffer buffer_open(size_t bytes)
{
    struct buffer b = {.host = claim(bytes + GUARD), .bytes = bytes};
    void *device;
    memset(b.host, 0xa5, bytes + GUARD);
    REQUIRE(backend.device->allocate(&device, bytes + GUARD) == STATUS_OK);
    b.device = device;
    buffer_up(&b);
    return b;
}

static void buffer_down(const struct buffer *b)
{
    int wrong = 0;
    REQUIRE(backend.device->copy_out(b->host, b->device, b->bytes + GUARD, backend.stream) ==
            STATUS_OK);
    CHECK(backend.device->synchronize(backend.stream) == STATUS_OK);
    for (size_t i = b->bytes; i < b->bytes + GUARD; i++)
        wrong += b->host[i] != 0xa5;
    CHECK(wrong == 0);
}

static void buffer_close(struct buffer *b)
{
    CHECK(backend.device->synchronize(backend.stream) == STATUS_OK);
    backend.device->release(b->device, b->bytes + GUARD);
    free(b->host);
}

static struct tensor elements(const struct buffer *b, enum dtype dtype, int64_t count)
{
    return tensor_1d(count > 0 ? b->device : NULL, dtype, count);
}

static void fill_bytes(unsigned char *to, int member, int64_t salt, size_t first, size_t bytes)
{
    for (size_t k = 0; k < bytes; k++)
        to[k] = (unsigned char)value_of(member, salt, (int64_t)(first + k));
}

static int wrong_bytes(const unsigned char *found, int member, int64_t salt, size_t first,
                       size_t bytes)
{
    int wrong = 0;
    for (size_t k = 0; k < bytes; k++)
        wrong += found[k] != (unsigned char)value_of(member, salt, (int64_t)(first + k));
    return wrong;
}

/* --- operations: begin queues, end looks at what came --- */

struct sum {
    struct buffer x;
    int64_t count, salt;
    int is_whole;
};

static void sum_fill(struct sum *sum, const struct comm *comm, int64_t salt)
{
    float *x = (float *)(void *)sum->x.host;
    sum->salt = salt;
    for (int64_t k = 0; k < sum->count; k++)
        x[k] = sum->is_whole ? whole_number(comm->group.index, salt, k)
                             : any_number(comm->group.index, salt, k);
    buffer_up(&sum->x);
}

static void sum_begin(const struct sum *sum, struct comm *comm)
{
    struct tensor x = elements(&sum->x, DTYPE_F32, sum->count);
    CHECK(comm->ops->all_reduce(comm, &x, backend.stream) == STATUS_OK);
}

/* Whole numbers are exact; others have the same bits on all members and are near. */
static void sum_end(const struct sum *sum, struct comm *comm, struct comm *host)
{
    const float *x = (const float *)(const void *)sum->x.host;
    uint64_t hash = 0;
    int wrong = 0;
    buffer_down(&sum->x);
    for (int64_t k = 0; k < sum->count; k++) {
        double expected = 0, size = 0;
        uint32_t bits;
        for (int i = 0; i < comm->group.size; i++) {
            double term = (double)(sum->is_whole ? whole_number(i, sum->salt, k)
                                                 : any_number(i, sum->salt, k));
            expected += term;
            size += fabs(term);
        }
        double allowed = sum->is_whole ? 0 : size * 0x1p-22 * comm->group.size;
        wrong += !(fabs((double)x[k] - expected) <= allowed);
        memcpy(&bits, &x[k], sizeof bits);
        hash = mixed(hash + bits);
    }
    CHECK(wrong == 0);
    CHECK(comm_same(host, "the sum", hash) == STATUS_OK);
}

static void check_sum(struct comm *comm, struct comm *host, int64_t count, int64_t salt,
                      int is_whole)
{
    struct sum sum = {
        .x = buffer_open((size_t)count * sizeof(float)), .count = count, .is_whole = is_whole};
    sum_fill(&sum, comm, salt);
    sum_begin(&sum, comm);
    sum_end(&sum, comm, host);
    buffer_close(&sum.x);
}

/* A part of a sum of whole numbers, which are exact in any order. */
struct scatter {
    struct buffer x, y;
    const int64_t *counts;
    int64_t total, begin, salt; /* begin: of the own part */
};

static struct scatter scatter_open(const struct comm *comm, const int64_t *counts)
{
    struct scatter s = {.counts = counts};
    for (int i = 0; i < comm->group.size; i++) {
        s.begin += i < comm->group.index ? counts[i] : 0;
        s.total += counts[i];
    }
    s.x = buffer_open((size_t)s.total * sizeof(float));
    s.y = buffer_open((size_t)counts[comm->group.index] * sizeof(float));
    return s;
}

static void scatter_fill(struct scatter *s, const struct comm *comm, int64_t salt)
{
    float *x = (float *)(void *)s->x.host;
    s->salt = salt;
    for (int64_t k = 0; k < s->total; k++)
        x[k] = whole_number(comm->group.index, salt, k);
    memset(s->y.host, 0, s->y.bytes);
    buffer_up(&s->x);
    buffer_up(&s->y);
}

static void scatter_begin(const struct scatter *s, struct comm *comm)
{
    struct tensor x = elements(&s->x, DTYPE_F32, s->total);
    struct tensor y = elements(&s->y, DTYPE_F32, s->counts[comm->group.index]);
    CHECK(comm->ops->reduce_scatter(comm, &y, &x, s->counts, backend.stream) == STATUS_OK);
}

static void scatter_end(const struct scatter *s, const struct comm *comm)
{
    const float *y = (const float *)(const void *)s->y.host;
    int wrong = 0;
    buffer_down(&s->y);
    for (int64_t k = 0; k < s->counts[comm->group.index]; k++) {
        float expected = 0;
        for (int i = 0; i < comm->group.size; i++)
            expected += whole_number(i, s->salt, s->begin + k);
        wrong += y[k] != expected;
    }
    CHECK(wrong == 0);
}

static void scatter_close(struct scatter *s)
{
    buffer_close(&s->x);
    buffer_close(&s->y);
}

static void check_scatter(struct comm *comm, const int64_t *counts, int64_t salt)
{
    struct scatter s = scatter_open(comm, counts);
    scatter_fill(&s, comm, salt);
    scatter_begin(&s, comm);
    scatter_end(&s, comm);
    scatter_close(&s);
}

struct gather {
    struct buffer x, y;
    const int64_t *counts;
    enum dtype dtype;
    int64_t total, salt;
};

static struct gather gather_open(const struct comm *comm, const int64_t *counts, enum dtype dtype)
{
    struct gather g = {.counts = counts, .dtype = dtype};
    for (int i = 0; i < comm->group.size; i++)
        g.total += counts[i];
    g.x = buffer_open((size_t)counts[comm->group.index] * dtype_bytes(dtype));
    g.y = buffer_open((size_t)g.total * dtype_bytes(dtype));
    return g;
}

static void gather_fill(struct gather *g, const struct comm *comm, int64_t salt)
{
    g->salt = salt;
    fill_bytes(g->x.host, comm->group.index, salt, 0, g->x.bytes);
    memset(g->y.host, 0, g->y.bytes);
    buffer_up(&g->x);
    buffer_up(&g->y);
}

static void gather_begin(const struct gather *g, struct comm *comm)
{
    struct tensor x = elements(&g->x, g->dtype, g->counts[comm->group.index]);
    struct tensor y = elements(&g->y, g->dtype, g->total);
    CHECK(comm->ops->all_gather(comm, &y, &x, g->counts, backend.stream) == STATUS_OK);
}

static void gather_end(const struct gather *g, const struct comm *comm)
{
    const unsigned char *at = g->y.host;
    int wrong = 0;
    buffer_down(&g->y);
    for (int i = 0; i < comm->group.size; i++) {
        size_t bytes = (size_t)g->counts[i] * dtype_bytes(g->dtype);
        wrong += wrong_bytes(at, i, g->salt, 0, bytes);
        at += bytes;
    }
    CHECK(wrong == 0);
}

static void gather_close(struct gather *g)
{
    buffer_close(&g->x);
    buffer_close(&g->y);
}

static void check_gather(struct comm *comm, const int64_t *counts, enum dtype dtype, int64_t salt)
{
    struct gather g = gather_open(comm, counts, dtype);
    gather_fill(&g, comm, salt);
    gather_begin(&g, comm);
    gather_end(&g, comm);
    gather_close(&g);
}

/* What goes from a member to another: `kind` 0 nothing, 1 the same to all, 2 uneven, 3 only to neighbours, so
 * that the last of an odd group has nothing to do. */
static int64_t count_between(int from, int to, int kind, int size)
{
    switch (kind) {
    case 0:
        return 0;
    case 1:
        return 777;
    case 2:
        return (from * 5 + to * 3) % 4 * 4001;
    default:
        return from / 2 == to / 2 && from != to && (from | 1) < size ? 33 : 0;
    }
}

struct exchange {
    struct buffer x, y;
    int64_t *received, *sent;
    int64_t x_total, y_total, salt;
    int kind;
};

static struct exchange exchange_open(const struct comm *comm, int kind)
{
    int size = comm->group.size, own = comm->group.index;
    struct exchange e = {.kind = kind,
                         .received = claim((size_t)size * sizeof(int64_t)),
                         .sent = claim((size_t)size * sizeof(int64_t))};
    for (int i = 0; i < size; i++) {
        e.x_total += e.sent[i] = count_between(own, i, kind, size);
        e.y_total += e.received[i] = count_between(i, own, kind, size);
    }
    e.x = buffer_open((size_t)e.x_total * sizeof(float));
    e.y = buffer_open((size_t)e.y_total * sizeof(float));
    return e;
}

/* The bytes for member `to` are those of another salt. */
static void exchange_fill(struct exchange *e, const struct comm *comm, int64_t salt)
{
    unsigned char *at = e->x.host;
    e->salt = salt;
    for (int to = 0; to < comm->group.size; to++) {
        size_t bytes = (size_t)e->sent[to] * sizeof(float);
        fill_bytes(at, comm->group.index, salt + to, 0, bytes);
        at += bytes;
    }
    memset(e->y.host, 0, e->y.bytes);
    buffer_up(&e->x);
    buffer_up(&e->y);
}

static void exchange_begin(const struct exchange *e, struct comm *comm)
{
    struct tensor x = elements(&e->x, DTYPE_F32, e->x_total);
    struct tensor y = elements(&e->y, DTYPE_F32, e->y_total);
    CHECK(comm->ops->all_to_all(comm, &y, &x, e->received, e->sent, backend.stream) == STATUS_OK);
}

static void exchange_end(const struct exchange *e, const struct comm *comm)
{
    const unsigned char *at = e->y.host;
    int wrong = 0;
    buffer_down(&e->y);
    for (int from = 0; from < comm->group.size; from++) {
        size_t bytes = (size_t)e->received[from] * sizeof(float);
        wrong += wrong_bytes(at, from, e->salt + comm->group.index, 0, bytes);
        at += bytes;
    }
    CHECK(wrong == 0);
}

static void exchange_close(struct exchange *e)
{
    buffer_close(&e->x);
    buffer_close(&e->y);
    free(e->received);
    free(e->sent);
}

static void check_exchange(struct comm *comm, int kind, int64_t salt)
{
    struct exchange e = exchange_open(comm, kind);
    exchange_fill(&e, comm, salt);
    exchange_begin(&e, comm);
    exchange_end(&e, comm);
    exchange_close(&e);
}

static void cast_fill(struct buffer *x, const struct comm *comm, int root, int64_t salt)
{
    memset(x->host, 0, x->bytes);
    if (comm->group.index == root)
        fill_bytes(x->host, root, salt, 0, x->bytes);
    buffer_up(x);
}

static void cast_begin(const struct buffer *x, struct comm *comm, int root)
{
    struct tensor t = elements(x, DTYPE_BF16, (int64_t)x->bytes / 2);
    CHECK(comm->ops->broadcast(comm, &t, root, backend.stream) == STATUS_OK);
}

static void cast_end(const struct buffer *x, int root, int64_t salt)
{
    buffer_down(x);
    CHECK(wrong_bytes(x->host, root, salt, 0, x->bytes) == 0);
}

static void check_cast(struct comm *comm, int64_t count, int root, int64_t salt)
{
    struct buffer x = buffer_open((size_t)count * 2);
    cast_fill(&x, comm, root, salt);
    cast_begin(&x, comm, root);
    cast_end(&x, root, salt);
    buffer_close(&x);
}

/* --- tests --- */

static void sums_of_any_length_are_right(struct comm *comm, struct comm *host)
{
    const int64_t counts[] = {0, 1, 2, 5, 63, 1000, 70000, LONGEST};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        check_sum(comm, host, counts[i], 10 + (int64_t)i, 1);
        check_sum(comm, host, counts[i], 30 + (int64_t)i, 0);
    }
}

static void gathers_take_equal_uneven_and_empty_counts(struct comm *comm)
{
    const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I32, DTYPE_U8};
    int size = comm->group.size;
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
        for (int kind = 0; kind < 5; kind++) {
            for (int i = 0; i < size; i++)
                counts[i] = kind == 0   ? 0
                            : kind == 1 ? 4099
                            : kind == 2 ? (i * 7 + 3) % 5 * 1001
                            : kind == 3 ? (i == size - 1) * 100
                                        : (i == 0) * 70001;
            check_gather(comm, counts, types[t], 100 + kind);
        }
    free(counts);
}

static void exchanges_hand_each_member_its_part(struct comm *comm)
{
    for (int kind = 0; kind < 4; kind++)
        check_exchange(comm, kind, 200 + kind);
}

static void any_root_reaches_all(struct comm *comm)
{
    const int64_t counts[] = {0, 1, 13, 4096, LONGEST};
    for (int root = 0; root < comm->group.size; root++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            check_cast(comm, counts[i], root, 300 + (int64_t)i);
}

static void host_data_needs_no_device(struct comm *comm)
{
    int found;
    for (int low = 0; low <= comm->group.size; low++) {
        CHECK(comm->ops->lowest(comm, &found, comm->group.index >= low) == STATUS_OK);
        CHECK(found == (low < comm->group.size ? low : -1));
    }
    CHECK(comm->ops->barrier(comm) == STATUS_OK);
}

static void wrong_arguments_are_refused(struct comm *comm)
{
    struct buffer x = buffer_open(1024), y = buffer_open(1024);
    int64_t *counts = claim((size_t)comm->group.size * sizeof *counts);
    struct tensor bf16 = elements(&x, DTYPE_BF16, 16), f32 = elements(&y, DTYPE_F32, 16);
    struct tensor whole = tensor_2d(x.device, DTYPE_F32, 4, 4);
    struct tensor strided = tensor_columns(&whole, 0, 2);
    CHECK(comm->ops->all_reduce(comm, &bf16, backend.stream) == STATUS_INVALID);
    CHECK(comm->ops->all_reduce(comm, &strided, backend.stream) == STATUS_INVALID);
    CHECK(comm->ops->broadcast(comm, &strided, 0, backend.stream) == STATUS_INVALID);
    CHECK(comm->ops->all_gather(comm, &f32, &bf16, counts, backend.stream) == STATUS_INVALID);
    CHECK(comm->ops->all_to_all(comm, &f32, &f32, counts, counts, backend.stream) ==
          STATUS_INVALID);
    free(counts);
    buffer_close(&x);
    buffer_close(&y);
}

static void parts_of_sums_may_be_equal_uneven_and_empty(struct comm *comm)
{
    int size = comm->group.size;
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (int shape = 0; shape < 5; shape++) {
        for (int i = 0; i < size; i++) {
            const int64_t shapes[] = {0, 500, 100 + 50 * i, i == size - 1 ? 7 : 0, 90000};
            counts[i] = shapes[shape];
        }
        check_scatter(comm, counts, 400 + shape);
    }
    free(counts);
}

static void any_order_of_operations_works(struct comm *comm, struct comm *host, int rounds)
{
    int size = comm->group.size;
    int64_t *counts = claim((size_t)size * sizeof *counts);
    for (int round = 0; round < rounds; round++) {
        uint64_t dice = mixed((uint64_t)round + 77);
        int64_t count = (int64_t)(dice >> 8) % 5000 >> dice % 13;
        for (int i = 0; i < size; i++)
            counts[i] =
                (int64_t)(mixed(dice + (uint64_t)i) % 3000) >> mixed(dice - (uint64_t)i) % 13;
        switch ((dice >> 40) % 5) {
        case 0:
            check_sum(comm, host, count, round, (int)(dice >> 50 & 1));
            break;
        case 1:
            check_gather(comm, counts, dice >> 50 & 1 ? DTYPE_BF16 : DTYPE_F32, round);
            break;
        case 2:
            check_exchange(comm, (int)(dice >> 50 & 3), round);
            break;
        case 3:
            check_scatter(comm, counts, round);
            break;
        default:
            check_cast(comm, count, (int)(dice >> 50) % size, round);
        }
    }
    free(counts);
}

/* One of each, queued without waiting; then the same as a graph, three times with other contents. */
static void a_graph_holds_them(struct comm *comm, struct comm *host)
{
    int size = comm->group.size, root = size - 1;
    int64_t *uneven = claim((size_t)size * sizeof *uneven);
    void *graph = NULL;
    for (int i = 0; i < size; i++)
        uneven[i] = 100 + 50 * i;
    struct sum sum = {.x = buffer_open(5000 * sizeof(float)), .count = 5000};
    struct gather gather = gather_open(comm, uneven, DTYPE_F32);
    struct exchange exchange = exchange_open(comm, 2);
    struct scatter scatter = scatter_open(comm, uneven);
    struct buffer cast = buffer_open(2000);
    CHECK(comm->ops->is_stream_ordered);
    for (int round = 0; round < 5; round++) {
        sum_fill(&sum, comm, 1000 + round);
        gather_fill(&gather, comm, 1100 + round);
        exchange_fill(&exchange, comm, 1200 + 20 * round);
        scatter_fill(&scatter, comm, 1400 + round);
        cast_fill(&cast, comm, root, 1300 + round);
        if (round == 1)
            REQUIRE(backend.device->graph_begin(backend.stream) == STATUS_OK);
        if (round < 2) {
            sum_begin(&sum, comm);
            gather_begin(&gather, comm);
            exchange_begin(&exchange, comm);
            scatter_begin(&scatter, comm);
            cast_begin(&cast, comm, root);
        }
        if (round == 1)
            REQUIRE(backend.device->graph_end(&graph, backend.stream) == STATUS_OK);
        if (round >= 1)
            CHECK(backend.device->graph_launch(graph, backend.stream) == STATUS_OK);
        sum_end(&sum, comm, host);
        gather_end(&gather, comm);
        exchange_end(&exchange, comm);
        scatter_end(&scatter, comm);
        cast_end(&cast, root, 1300 + round);
    }
    backend.device->graph_close(graph);
    buffer_close(&sum.x);
    buffer_close(&cast);
    gather_close(&gather);
    exchange_close(&exchange);
    scatter_close(&scatter);
    free(uneven);
}

static struct comm_device own_device(void)
{
    struct comm_device device = {
        .device = backend.device, .pinned = backend.host, .stream = backend.stream};
    device.library = backend.find_comm(&device.reason);
    if (device.library == NULL)
        fprintf(stderr, "device_comm: %s\n", device.reason);
    REQUIRE(device.library != NULL);
    return device;
}

/* Even and odd ranks apart, beside the group of all. */
static void groups_work_at_the_same_time(struct comm *world, struct comm *world_host)
{
    int size = check_process.size, rank = check_process.rank;
    struct group half = {.name = "half",
                         .size = (size + 1 - rank % 2) / 2,
                         .index = rank / 2,
                         .first = rank % 2,
                         .stride = 2};
    const struct comm_device device = own_device();
    struct comm host, comm;
    if (size < 2)
        return;
    REQUIRE(comm_open(&host, &half) == STATUS_OK);
    REQUIRE(comm_nccl_open(&comm, &host, &device) == STATUS_OK);
    for (int i = 0; i < 5; i++) {
        check_sum(&comm, &host, 100 + i, 40 + rank % 2, 1);
        check_sum(world, world_host, 2000, 50, 0);
        check_exchange(&comm, 2, 60);
    }
    comm_close(&comm);
    comm_close(&host);
}

static void check_all(struct comm *comm, struct comm *host, int rounds)
{
    CHECK(strcmp(comm->ops->name, "nccl") == 0);
    sums_of_any_length_are_right(comm, host);
    gathers_take_equal_uneven_and_empty_counts(comm);
    exchanges_hand_each_member_its_part(comm);
    parts_of_sums_may_be_equal_uneven_and_empty(comm);
    any_root_reaches_all(comm);
    host_data_needs_no_device(comm);
    wrong_arguments_are_refused(comm);
    any_order_of_operations_works(comm, host, rounds);
    a_graph_holds_them(comm, host);
}

/* --- what must be found --- */

static void plant_messages(struct comm *comm)
{
    struct exchange e = exchange_open(comm, 1);
    int last = comm->group.size - 1;
    exchange_fill(&e, comm, 1);
    if (comm->group.index == last) { /* it takes less of member 0 than that sends */
        e.received[0]--;
        e.y_total--;
    }
    exchange_begin(&e, comm);
}

static void plant_open_batch(void)
{
    void *library = dlopen(getenv("LATENTRANK_DEBUG_NCCL_LIBRARY"), RTLD_NOW);
    int (*start)(void);
    REQUIRE(library != NULL);
    *(void **)&start = dlsym(library, "ncclGroupStart");
    REQUIRE(start != NULL && start() == 0);
}

static void plant(struct comm *comm, const char *what)
{
    int is_last = comm->group.index == comm->group.size - 1;
    int64_t count = strcmp(what, "count") == 0 && is_last ? 1001 : 1000;
    int root = strcmp(what, "root") == 0 && is_last ? 1 : 0;
    struct sum sum = {.x = buffer_open((size_t)count * sizeof(float)), .count = count};
    struct buffer cast = buffer_open(4000);
    if (strcmp(what, "absent") == 0 && is_last)
        return;
    if (strcmp(what, "message") == 0)
        plant_messages(comm);
    if (strcmp(what, "batch") == 0 && is_last)
        plant_open_batch();
    if (strcmp(what, "order") == 0 && is_last)
        cast_begin(&cast, comm, root);
    sum_begin(&sum, comm);
    cast_begin(&cast, comm, root);
}

int main(int argc, char **argv)
{
    check_begin(&argc, &argv);
    log_open(check_process.rank);
    const struct group world = {
        .name = "world", .size = check_process.size, .index = check_process.rank, .stride = 1};
    const char *planted = argc > 2 && strcmp(argv[1], "--planted") == 0 ? argv[2] : NULL;
    struct comm host, comm;
    REQUIRE(comm_open(&host, &world) == STATUS_OK);
    REQUIRE(comm_agree(&host, backend_open(&backend, BACKEND_CUDA, check_process.node_rank)) ==
            STATUS_OK);
    const struct comm_device device = own_device();
    REQUIRE(comm_nccl_open(&comm, &host, &device) == STATUS_OK);
    if (planted != NULL) {
        plant(&comm, planted);
    } else {
        check_all(&comm, &host, argc > 1 ? atoi(argv[1]) : 300);
        groups_work_at_the_same_time(&comm, &host);
        comm_close(&comm);
        REQUIRE(comm_nccl_open(&comm, &host, &device) == STATUS_OK); /* after another */
        check_sum(&comm, &host, 10, 1, 1);
    }
    comm_close(&comm);
    comm_close(&comm); /* closing twice is harmless */
    comm_close(&host);
    return check_end("device_comm");
}
