/* bench_comm.c - times of collectives, all backends in turn. */
#include "launcher/bench_comm.h"
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "parallel/shard_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A round of one backend: long enough for the clock, short enough that what disturbs the machine hits all
 * backends. */
enum { ROUND_NS = 1000 * 1000, CALLS_MAX = 1000, WARM_UP_CALLS = 10 };

static void set_counts(struct comm_bench *b, const struct comm_case *c)
{
    int ranks = b->job->process.size;
    for (int i = 0; i < ranks; i++)
        b->counts[i] = c->op == COMM_OP_ALL_TO_ALL ? c->count / ranks
                                                   : span_size(span_part(c->count, ranks, i));
}

enum status comm_call(struct comm_bench *b, struct comm *comm, const struct comm_case *c)
{
    struct tensor x = tensor_1d(b->x, DTYPE_F32, c->count),
                  y = tensor_1d(b->y, DTYPE_F32, c->count);
    int lowest;
    switch (c->op) {
    case COMM_OP_ALL_REDUCE:
        return comm->ops->all_reduce(comm, &x, NULL);
    case COMM_OP_ALL_GATHER:
        x = tensor_1d(b->x, DTYPE_F32, b->counts[comm->group.index]);
        return comm->ops->all_gather(comm, &y, &x, b->counts, NULL);
    case COMM_OP_REDUCE_SCATTER:
        y = tensor_1d(b->y, DTYPE_F32, b->counts[comm->group.index]);
        return comm->ops->reduce_scatter(comm, &y, &x, b->counts, NULL);
    case COMM_OP_ALL_TO_ALL:
        x = tensor_1d(b->x, DTYPE_F32, b->counts[0] * comm->group.size);
        y = tensor_1d(b->y, DTYPE_F32, b->counts[0] * comm->group.size);
        return comm->ops->all_to_all(comm, &y, &x, b->counts, b->counts, NULL);
    case COMM_OP_BROADCAST:
        return comm->ops->broadcast(comm, &x, 0, NULL);
    case COMM_OP_LOWEST:
        return comm->ops->lowest(comm, &lowest, 0);
    default:
        return comm->ops->barrier(comm);
    }
}

static enum status time_calls(int64_t *ns, struct comm_bench *b, struct comm *comm,
                              const struct comm_case *c, int n_calls)
{
    struct comm *world = &b->job->world;
    TRY(world->ops->barrier(world));
    int64_t begin_ns = progress_now_ns();
    for (int i = 0; i < n_calls; i++)
        TRY(comm_call(b, comm, c));
    *ns = progress_now_ns() - begin_ns;
    return STATUS_OK;
}

/* How many calls of a round, the same on all ranks. */
static enum status choose_calls(int *n_calls, struct comm_bench *b, struct comm *comm,
                                const struct comm_case *c)
{
    int64_t ns = 0;
    TRY(time_calls(&ns, b, comm, c, WARM_UP_CALLS));
    int64_t calls = ROUND_NS / (ns / WARM_UP_CALLS + 1);
    *n_calls = (int)(calls < 1 ? 1 : calls > CALLS_MAX ? CALLS_MAX : calls);
    return comm_broadcast_bytes(&b->job->world, n_calls, sizeof *n_calls, 0);
}

/* Of all ranks, on all of them. */
static enum status gather_figures(struct comm_bench *b)
{
    struct comm *world = &b->job->world;
    int ranks = world->group.size;
    int64_t n = (b->options->repeat + 1) * b->n_comms;
    for (int i = 0; i < ranks; i++)
        b->figure_counts[i] = n;
    struct tensor x = tensor_1d(b->figures + world->group.index * n, DTYPE_I64, n);
    struct tensor y = tensor_1d(b->figures, DTYPE_I64, ranks * n);
    return world->ops->all_gather(world, &y, &x, b->figure_counts, NULL);
}

/* Figure of a rank, round (or options->repeat: wrong numbers) and backend. */
static int64_t *figure(struct comm_bench *b, int rank, int64_t round, int which)
{
    return b->figures + (rank * (b->options->repeat + 1) + round) * b->n_comms + which;
}

static struct comm_row row_of(struct comm_bench *b, const struct comm_case *c, int which,
                              int n_calls)
{
    int ranks = b->job->process.size, repeat = (int)b->options->repeat;
    struct comm_row row = {.backend = b->comm[which].ops->name};
    for (int r = 0; r < repeat; r++) {
        int64_t slowest = 0;
        for (int i = 0; i < ranks; i++) {
            int64_t ns = *figure(b, i, r, which);
            slowest = ns > slowest ? ns : slowest;
        }
        b->rounds[r] = (double)slowest * 1e-3 / n_calls;
    }
    for (int i = 0; i < ranks; i++)
        row.wrong += *figure(b, i, repeat, which);
    row.time_us = bench_spread_of(b->rounds, repeat);
    comm_row_bandwidths(&row, c, ranks);
    return row;
}

void comm_row_bandwidths(struct comm_row *row, const struct comm_case *c, int ranks)
{
    double share = (double)(ranks - 1) / ranks;
    int is_partial = c->op == COMM_OP_ALL_GATHER || c->op == COMM_OP_REDUCE_SCATTER ||
                     c->op == COMM_OP_ALL_TO_ALL;
    double factor = c->op == COMM_OP_ALL_REDUCE ? 2 * share : is_partial ? share : 1;
    row->algbw_gb_s = (double)c->bytes * 1e-3 / row->time_us.median;
    row->busbw_gb_s = row->algbw_gb_s * factor;
}

static enum status run_round(struct comm_bench *b, const struct comm_case *c, int round,
                             const int *n_calls)
{
    int own = b->job->process.rank, repeat = (int)b->options->repeat;
    for (int i = 0; i < b->n_comms; i++) {
        int64_t wrong = 0;
        TRY(comm_check_call(&wrong, b, &b->comm[i], c, round));
        *figure(b, own, repeat, i) += wrong;
        memset(b->x, 0, (size_t)c->bytes);
        TRY(time_calls(figure(b, own, round, i), b, &b->comm[i], c, n_calls[i]));
    }
    return STATUS_OK;
}

static enum status run_case(struct comm_bench *b, const struct comm_case *c)
{
    int n_calls[COMM_BACKENDS_MAX];
    set_counts(b, c);
    memset(b->x, 0, (size_t)c->bytes);
    for (int i = 0; i < b->n_comms; i++) {
        TRY(choose_calls(&n_calls[i], b, &b->comm[i], c));
        *figure(b, b->job->process.rank, b->options->repeat, i) = 0;
    }
    for (int r = 0; r < b->options->repeat; r++)
        TRY(run_round(b, c, r, n_calls));
    TRY(gather_figures(b));

    enum status status = STATUS_OK;
    for (int i = 0; i < b->n_comms; i++) {
        struct comm_row row = row_of(b, c, i, n_calls[i]);
        b->n_wrong += row.wrong;
        if (job_is_root(b->job) && status == STATUS_OK)
            status = comm_report_row(b, c, &row);
    }
    return failure_from_root(&b->job->world, status);
}

static enum status run_sizes(struct comm_bench *b, enum option_comm_op op)
{
    const struct options *o = b->options;
    if (op == COMM_OP_BARRIER || op == COMM_OP_LOWEST) {
        const struct comm_case c = {.op = op};
        return run_case(b, &c);
    }
    for (int64_t bytes = o->min_bytes; bytes <= o->max_bytes; bytes *= 2) {
        const struct comm_case c = {.op = op, .bytes = bytes / 4 * 4, .count = bytes / 4};
        TRY(run_case(b, &c));
    }
    return STATUS_OK;
}

static enum status run_cases(struct comm_bench *b)
{
    const enum option_comm_op last = COMM_OP_BARRIER;
    for (enum option_comm_op op = COMM_OP_ALL_REDUCE; op <= last; op++)
        if (b->options->op == COMM_OP_ALL || b->options->op == (int)op)
            TRY(run_sizes(b, op));
    return STATUS_OK;
}

/* --- opening --- */

/* A group of one has one backend; the others need MPI. */
static enum status open_backends(struct comm_bench *b)
{
    const struct group *world = &b->job->world.group;
    if (world->size == 1) {
        TRY(comm_self_open(&b->comm[b->n_comms++], world));
        return STATUS_OK;
    }
    TRY(comm_mpi_open(&b->comm[0], world));
    b->n_comms = 1;
    enum status status = comm_shm_open(&b->comm[1], world, 0);
    if (status == STATUS_OK)
        b->n_comms = 2;
    else if (status == STATUS_UNSUPPORTED)
        snprintf(b->left_out, sizeof b->left_out, "shm is left out: %s", status_text());
    else
        return status;
    TRY(comm_library_open(&b->comm[b->n_comms], world));
    b->n_comms++;
    return STATUS_OK;
}

static enum status take_memory(struct comm_bench *b)
{
    size_t ranks = (size_t)b->job->process.size, repeat = (size_t)b->options->repeat;
    size_t count = (size_t)b->options->max_bytes / 4 + 1;
    b->x = calloc(count, sizeof *b->x);
    b->y = calloc(count, sizeof *b->y);
    b->parts = calloc(ranks * COMM_CHECK_BLOCK, sizeof *b->parts);
    b->counts = calloc(ranks, sizeof *b->counts);
    b->figures = calloc(ranks * (repeat + 1) * COMM_BACKENDS_MAX, sizeof *b->figures);
    b->figure_counts = calloc(ranks, sizeof *b->figure_counts);
    b->rounds = calloc(repeat, sizeof *b->rounds);
    if (b->x == NULL || b->y == NULL || b->parts == NULL || b->counts == NULL ||
        b->figures == NULL || b->figure_counts == NULL || b->rounds == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for vectors of %lld bytes (--max-bytes)",
             (long long)b->options->max_bytes);
    return STATUS_OK;
}

static enum status run_all_ranks(struct comm_bench *b)
{
    struct comm *world = &b->job->world;
    int is_root = job_is_root(b->job);
    TRY(job_bind(b->job));
    TRY(comm_agree(world, take_memory(b)));
    TRY(comm_agree(world, open_backends(b)));
    TRY(failure_from_root(world, is_root ? comm_report_begin(b) : STATUS_OK));
    TRY(run_cases(b));
    TRY(failure_from_root(world, is_root ? comm_report_end(b) : STATUS_OK));
    if (b->n_wrong > 0)
        FAIL(STATUS_COMM, "%lld numbers differ from the serial result", (long long)b->n_wrong);
    return STATUS_OK;
}

enum status bench_comm_run(const struct options *options, struct job *job)
{
    struct comm_bench *b = calloc(1, sizeof *b);
    enum status status = b != NULL ? STATUS_OK : STATUS_NO_MEMORY;
    TRY(comm_agree(&job->world, status));
    b->options = options;
    b->job = job;
    status = run_all_ranks(b);
    for (int i = 0; i < COMM_BACKENDS_MAX; i++)
        comm_close(&b->comm[i]);
    json_decref(b->rows);
    free(b->x);
    free(b->y);
    free(b->parts);
    free(b->counts);
    free(b->figures);
    free(b->figure_counts);
    free(b->rounds);
    free(b);
    return status;
}
