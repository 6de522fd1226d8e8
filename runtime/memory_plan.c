#include "runtime/memory_plan.h"

#include <stdio.h>
#include <stdlib.h>

enum { OTHER_BYTES = 48 << 20 }; /* of a rank: MPI, read buffers, the program */
enum { NODE, WEIGHTS, WORKSPACE, CACHE, OWN, SHARED, N_FIELDS };

/* field[rank][N_FIELDS]; owner: caller, free(). */
static enum status gather(int64_t **field, const struct memory_plan *plan,
                          const struct process *process, const struct device_ops *device,
                          struct comm *world)
{
    struct free_memory memory = {INT64_MAX, INT64_MAX};
    int n = world->group.size;
    *field = calloc((size_t)n * N_FIELDS, sizeof **field);
    int64_t *counts = calloc((size_t)n, sizeof *counts);
    enum status status = STATUS_OK;
    if (*field == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d ranks", n);
    status = comm_agree(world, status);
    if (status == STATUS_OK) {
        device->free_memory(&memory);
        int64_t mine[N_FIELDS] = {process->node, plan->weights, plan->workspace,
                                  plan->cache,   memory.own,    memory.shared};
        for (int i = 0; i < n; i++)
            counts[i] = N_FIELDS;
        struct tensor x = {.data = mine, .dtype = DTYPE_I64, .ndim = 1, .dim = {N_FIELDS}};
        struct tensor y = {
            .data = *field, .dtype = DTYPE_I64, .ndim = 1, .dim = {(int64_t)n * N_FIELDS}};
        x.stride[0] = y.stride[0] = 1;
        status = world->ops->all_gather(world, &y, &x, counts, NULL);
    }
    free(counts);
    if (status != STATUS_OK) {
        free(*field);
        *field = NULL;
    }
    return status;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The sums over the ranks of one node; shared: the least that one of them sees. */
struct node_sum {
    int64_t n_ranks, weights, workspace, cache, shared;
};

static struct node_sum sum_node(const int64_t *field, int n, int64_t node)
{
    struct node_sum sum = {.shared = INT64_MAX};
    for (int i = 0; i < n; i++, field += N_FIELDS) {
        if (field[NODE] != node)
            continue;
        sum.n_ranks++;
        sum.weights += field[WEIGHTS];
        sum.workspace += field[WORKSPACE];
        sum.cache += field[CACHE];
        sum.shared = smaller(sum.shared, field[SHARED]);
    }
    return sum;
}

enum status memory_plan_room(int64_t *cache_bytes, const struct memory_plan *plan,
                             const struct process *process, const struct device_ops *device,
                             struct comm *world)
{
    int64_t *field;
    TRY(gather(&field, plan, process, device, world));
    *cache_bytes = INT64_MAX;
    for (int i = 0; i < world->group.size; i++) {
        const int64_t *rank = field + (size_t)i * N_FIELDS;
        struct node_sum sum = sum_node(field, world->group.size, rank[NODE]);
        int64_t others = sum.weights + sum.workspace + sum.n_ranks * OTHER_BYTES;
        int64_t own = rank[OWN] - rank[WEIGHTS] - rank[WORKSPACE] - OTHER_BYTES;
        *cache_bytes = smaller(*cache_bytes, smaller(own, (sum.shared - others) / sum.n_ranks));
    }
    free(field);
    return STATUS_OK;
}

static enum status refuse(const char *who, const struct node_sum *sum, int64_t free_bytes,
                          const char *advice)
{
    int64_t other = sum->n_ranks * OTHER_BYTES;
    FAIL(STATUS_NO_MEMORY,
         "not enough memory for %s: weights %.2f GB + cache %.2f GB + workspace %.2f GB + other "
         "%.2f GB = %.2f GB wanted, %.2f GB free; %s",
         who, (double)sum->weights * 1e-9, (double)sum->cache * 1e-9, (double)sum->workspace * 1e-9,
         (double)other * 1e-9, (double)(sum->weights + sum->cache + sum->workspace + other) * 1e-9,
         (double)free_bytes * 1e-9, advice);
}

enum status memory_plan_check(const struct memory_plan *plan, const struct process *process,
                              const struct device_ops *device, struct comm *world,
                              const char *advice)
{
    int64_t *field;
    char who[320];
    TRY(gather(&field, plan, process, device, world));
    struct node_sum node = sum_node(field, world->group.size, process->node);
    struct node_sum own = {1, plan->weights, plan->workspace, plan->cache, INT64_MAX};
    int64_t own_free = field[(size_t)world->group.index * N_FIELDS + OWN];
    free(field);
    if (own.weights + own.cache + own.workspace + OTHER_BYTES > own_free)
        return refuse("a rank (ulimit -v)", &own, own_free, advice);
    snprintf(who, sizeof who, "the %lld ranks on %s", (long long)node.n_ranks, process->host);
    if (node.weights + node.cache + node.workspace + node.n_ranks * OTHER_BYTES > node.shared)
        return refuse(node.n_ranks == 1 ? "one rank" : who, &node, node.shared, advice);
    return STATUS_OK;
}
