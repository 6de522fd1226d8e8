#define _GNU_SOURCE /* _SC_LEVEL3_CACHE_SIZE */
#include "launcher/probe.h"
#include "kernels/core/device.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/ops.h"
#include "launcher/probe_loops.h"
#include "launcher/progress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = 3, STEP = 64 /* floats that the loop reads at a time */ };

static const int64_t read_bytes = INT64_C(1) << 30;
static const int64_t fma_target_ns = 30000000; /* of a round */

/* What all threads of this rank do. */
struct task {
    const struct probe_loops *loops;
    float *x;
    int64_t count;  /* floats; a multiple of STEP */
    int64_t rounds; /* of a thread */
    float sink[CPU_MAX_THREADS];
};

/* One rank's work in a round; times of CLOCK_MONOTONIC, which a node has one of. */
struct stretch {
    int64_t node, begin_ns, end_ns, amount;
};
enum { STRETCH_WORDS = sizeof(struct stretch) / sizeof(int64_t) };

struct prober {
    struct comm *world;
    const struct process *process;
    struct task task;
    size_t bytes;
    struct stretch *stretch; /* [ranks] */
    int64_t *counts;         /* [ranks] */
};

static void part_of(const struct task *task, int thread, int n_threads, int64_t *begin,
                    int64_t *end)
{
    thread_part(task->count / STEP, thread, n_threads, begin, end);
    *begin *= STEP;
    *end *= STEP;
}

/* Each thread touches its own part first, so that the memory is near it. */
static void fill(void *context, int thread, int n_threads)
{
    struct task *task = context;
    int64_t begin, end;
    part_of(task, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        task->x[i] = 1.0f;
}

static void read_all(void *context, int thread, int n_threads)
{
    struct task *task = context;
    int64_t begin, end;
    part_of(task, thread, n_threads, &begin, &end);
    task->sink[thread] = task->loops->read(task->x + begin, end - begin);
}

static void multiply(void *context, int thread, int n_threads)
{
    struct task *task = context;
    (void)n_threads;
    task->sink[thread] = task->loops->fma(task->rounds);
}

static const struct probe_loops *loops_of(const struct ops *ops)
{
#if defined(CPU_HAS_X86_TABLES)
    if (strcmp(ops->name, "avx512") == 0)
        return &probe_loops_avx512;
    if (strcmp(ops->name, "avx2") == 0)
        return &probe_loops_avx2;
#endif
    (void)ops;
    return &probe_loops_plain;
}

/* amount / ns of the ranks of one node together. */
static double node_rate(const struct stretch *all, int n, int64_t node)
{
    int64_t begin = INT64_MAX, end = INT64_MIN;
    double amount = 0;
    for (int i = 0; i < n; i++) {
        if (all[i].node != node)
            continue;
        begin = all[i].begin_ns < begin ? all[i].begin_ns : begin;
        end = all[i].end_ns > end ? all[i].end_ns : end;
        amount += (double)all[i].amount;
    }
    return end > begin ? amount / (double)(end - begin) : 0;
}

/* Best of some rounds of `work`: of the first node in *first, of all nodes together in *all. */
static enum status run_rounds(double *first, double *all, struct prober *p,
                              void (*work)(void *, int, int), int64_t amount)
{
    int n = p->world->group.size;
    *first = *all = 0;
    for (int round = 0; round < ROUNDS; round++) {
        struct stretch own = {.node = p->process->node, .amount = amount};
        TRY(p->world->ops->barrier(p->world));
        own.begin_ns = progress_now_ns();
        cpu_threads_run(work, &p->task);
        own.end_ns = progress_now_ns();
        struct tensor x = tensor_1d(&own, DTYPE_I64, STRETCH_WORDS);
        struct tensor y = tensor_1d(p->stretch, DTYPE_I64, (int64_t)n * STRETCH_WORDS);
        TRY(p->world->ops->all_gather(p->world, &y, &x, p->counts, NULL));
        double rate = node_rate(p->stretch, n, 0), sum = 0;
        for (int node = 0; node < p->process->n_nodes; node++)
            sum += node_rate(p->stretch, n, node);
        *first = rate > *first ? rate : *first;
        *all = sum > *all ? sum : *all;
    }
    return STATUS_OK;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* This rank's part of what the node reads. */
static int64_t bytes_to_read(const struct process *process)
{
    struct free_memory memory;
    int64_t wanted = read_bytes, cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    cache = 4 * (int64_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    wanted = cache > wanted ? cache : wanted;
    cpu_device_ops.free_memory(&memory);
    wanted = smaller(wanted, memory.shared / 8) / process->node_size;
    wanted = smaller(wanted, memory.own / 8);
    int64_t least = (int64_t)cpu_threads_count() * STEP * (int64_t)sizeof(float);
    return wanted > least ? wanted : least;
}

/* Rounds of multiply-adds that take about fma_target_ns. */
static void choose_rounds(struct task *task)
{
    int64_t begin_ns, ns;
    task->rounds = 1000;
    do {
        task->rounds *= 2;
        begin_ns = progress_now_ns();
        multiply(task, 0, 1);
        ns = progress_now_ns() - begin_ns;
    } while (ns < fma_target_ns / 2);
}

static enum status open_own(struct prober *p)
{
    const struct ops *ops = NULL;
    int n = p->world->group.size;
    void *memory = NULL;
    TRY(cpu_ops_choose(&ops));
    p->task.loops = loops_of(ops);
    p->stretch = calloc((size_t)n, sizeof *p->stretch);
    p->counts = calloc((size_t)n, sizeof *p->counts);
    if (p->stretch == NULL || p->counts == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the times of %d ranks", n);
    for (int i = 0; i < n; i++)
        p->counts[i] = STRETCH_WORDS;
    size_t bytes = (size_t)bytes_to_read(p->process);
    TRY(cpu_device_ops.allocate(&memory, bytes));
    p->bytes = bytes;
    p->task.x = memory;
    p->task.count = (int64_t)(bytes / sizeof(float)) / STEP * STEP;
    cpu_threads_run(fill, &p->task);
    choose_rounds(&p->task);
    return STATUS_OK;
}

enum status probe_open(struct prober **prober, struct comm *world, const struct process *process)
{
    struct prober *p = calloc(1, sizeof *p);
    enum status status = p != NULL ? STATUS_OK : STATUS_NO_MEMORY;
    if (p != NULL) {
        p->world = world;
        p->process = process;
        status = open_own(p);
    }
    status = comm_agree(world, status);
    if (status != STATUS_OK)
        probe_close(p);
    else
        *prober = p;
    return status;
}

enum status probe_sample(struct probe *sample, struct prober *p)
{
    double unused;
    int64_t flop = p->task.rounds * p->task.loops->fma_flop * cpu_threads_count();
    TRY(run_rounds(&sample->read_gb_s, &unused, p, read_all,
                   p->task.count * (int64_t)sizeof(float)));
    return run_rounds(&unused, &sample->fma_gflop_s, p, multiply, flop);
}

void probe_close(struct prober *p)
{
    if (p == NULL)
        return;
    if (p->task.x != NULL)
        cpu_device_ops.release(p->task.x, p->bytes);
    free(p->stretch);
    free(p->counts);
    free(p);
}

struct probe probe_mean(const struct probe *a, const struct probe *b)
{
    return (struct probe){.read_gb_s = (a->read_gb_s + b->read_gb_s) / 2,
                          .fma_gflop_s = (a->fma_gflop_s + b->fma_gflop_s) / 2};
}
