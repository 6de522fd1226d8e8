#include "runtime/cache_choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 9, WARM_UP = 2, READ_BYTES = 64 << 20 };

int cache_choice_best(const struct cache_choice *choice, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++) {
        double us = choice[i].read_us + choice[i].exchange_us;
        if (!choice[i].fits)
            continue;
        if (best < 0 || us < 0.9 * (choice[best].read_us + choice[best].exchange_us))
            best = i;
    }
    return best < 0 ? n - 1 : best;
}

static const char *name_of(enum kv_placement placement)
{
    return placement == KV_REPLICATED ? "replicated" : placement == KV_NODE ? "node" : "sharded";
}

void cache_choice_explain(char *text, size_t size, const struct cache_choice *choice, int n,
                          int best)
{
    size_t used = (size_t)snprintf(
        text, size, "--kv-placement auto takes %s:", name_of(choice[best].placement));
    for (int i = 0; i < n && used < size; i++) {
        const struct cache_choice *c = &choice[i];
        char cost[96] = ", which does not fit";
        if (c->fits)
            snprintf(cost, sizeof cost, " (%.0f us of reads and %.0f us of messages)", c->read_us,
                     c->exchange_us);
        used +=
            (size_t)snprintf(text + used, size - used, "%s %s %.2f GB a rank%s", i > 0 ? "," : "",
                             name_of(c->placement), (double)c->bytes * 1e-9, cost);
    }
    if (used < size)
        snprintf(text + used, size - used, "; of a layer in a full step");
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The largest of all ranks, on all of them. */
static enum status largest(double *value, struct comm *world)
{
    int size = world->group.size;
    double *all = calloc((size_t)size, sizeof *all);
    int64_t *counts = calloc((size_t)size, sizeof *counts);
    enum status status = STATUS_OK;
    if (all == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d times", size);
    status = comm_agree(world, status);
    for (int i = 0; status == STATUS_OK && i < size; i++)
        counts[i] = 1;
    if (status == STATUS_OK) {
        struct tensor x = tensor_1d(value, DTYPE_I64, 1), y = tensor_1d(all, DTYPE_I64, size);
        status = world->ops->all_gather(world, &y, &x, counts, NULL);
    }
    for (int i = 0; status == STATUS_OK && i < size; i++)
        *value = all[i] > *value ? all[i] : *value;
    free(all);
    free(counts);
    return status;
}

/* The buffers of an exchange, and what each member has. */
struct trial {
    struct comm *group;
    float *queries, *sent, *received;
    int64_t *gathered, *out, *in; /* [members] numbers */
    int64_t own, all;             /* numbers of this member, of all */
};

static enum status exchange(struct trial *t)
{
    int own = t->group->group.index, size = t->group->group.size;
    int64_t before = 0;
    for (int m = 0; m < own; m++)
        before += t->gathered[m];
    struct tensor x = tensor_1d(t->queries + before, DTYPE_F32, t->own);
    struct tensor y = tensor_1d(t->queries, DTYPE_F32, t->all);
    struct tensor sent = tensor_1d(t->sent, DTYPE_F32, t->all);
    struct tensor received = tensor_1d(t->received, DTYPE_F32, t->own * size);
    TRY(t->group->ops->all_gather(t->group, &y, &x, t->gathered, NULL));
    return t->group->ops->all_to_all(t->group, &received, &sent, t->in, t->out, NULL);
}

static enum status open_trial(struct trial *t, struct comm *group, int64_t tokens,
                              const int64_t *heads, int64_t width)
{
    int size = group->group.size;
    *t = (struct trial){.group = group, .gathered = calloc(3 * (size_t)size, sizeof *t->gathered)};
    if (t->gathered == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the counts of %d ranks", size);
    t->out = t->gathered + size;
    t->in = t->out + size;
    t->own = tokens * heads[group->group.index] * width;
    for (int m = 0; m < size; m++) {
        t->gathered[m] = t->out[m] = tokens * heads[m] * width;
        t->in[m] = t->own;
        t->all += t->gathered[m];
    }
    t->queries = calloc((size_t)t->all + 1, sizeof *t->queries);
    t->sent = calloc((size_t)t->all + 1, sizeof *t->sent);
    t->received = calloc((size_t)(t->own * size) + 1, sizeof *t->received);
    if (t->queries == NULL || t->sent == NULL || t->received == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to time an exchange of %lld numbers", (long long)t->all);
    return STATUS_OK;
}

static void close_trial(struct trial *t)
{
    free(t->gathered); /* all three */
    free(t->queries);
    free(t->sent);
    free(t->received);
}

enum status cache_choice_time_exchange(double *us, struct comm *group, struct comm *world,
                                       int64_t tokens, const int64_t *heads, int64_t width)
{
    struct trial trial;
    double times[ROUNDS];
    enum status status = comm_agree(world, open_trial(&trial, group, tokens, heads, width));
    for (int i = -WARM_UP; i < ROUNDS && status == STATUS_OK; i++) {
        double begin = now_us();
        status = exchange(&trial);
        if (i >= 0)
            times[i] = now_us() - begin;
    }
    close_trial(&trial);
    TRY(status);
    qsort(times, ROUNDS, sizeof *times, compare);
    *us = times[ROUNDS / 2];
    return largest(us, world);
}

/* A rank's threads read their parts; the sum keeps the compiler from leaving it out. */
struct reading {
    const uint64_t *data;
    uint64_t sum[64];
};

static void read_part(void *context, int thread, int n_threads)
{
    struct reading *r = context;
    int64_t words = READ_BYTES / (int64_t)sizeof *r->data;
    uint64_t sum = 0;
    for (int64_t i = thread * words / n_threads; i < (thread + 1) * words / n_threads; i++)
        sum += r->data[i];
    r->sum[thread % 64] += sum;
}

enum status cache_choice_time_read(double *bytes_per_us, struct comm *world,
                                   const struct device_ops *device)
{
    void *data = malloc(READ_BYTES);
    enum status status = STATUS_OK;
    double best = 0;
    if (data == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory to time reads");
    TRY(comm_agree(world, status));
    memset(data, 1, READ_BYTES);
    struct reading reading = {.data = data};
    for (int i = 0; i < 3 && status == STATUS_OK; i++) { /* all ranks at the same time */
        status = world->ops->barrier(world);
        double begin = now_us();
        device->run_threads(read_part, &reading);
        double us = now_us() - begin;
        best = i == 0 || us < best ? us : best;
    }
    free(data);
    TRY(status);
    TRY(largest(&best, world));
    *bytes_per_us = READ_BYTES / best;
    return STATUS_OK;
}
