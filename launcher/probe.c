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

enum { READ_ROUNDS = 5, FMA_ROUNDS = 20, STEP = 64 /* floats that the loop reads at a time */ };

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

/* One rank's work in a round; times of CLOCK_MONOTONIC, which a node has one of. */
struct stretch {
    int64_t node, begin_ns, end_ns, amount;
};
enum { STRETCH_WORDS = sizeof(struct stretch) / sizeof(int64_t) };

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

/* Best rounds of `work`: of the first node in *first, of all nodes together in *all. */
static enum status run_rounds(double *first, double *all, struct comm *world,
                              const struct process *process, void (*work)(void *, int, int),
                              struct task *task, int64_t amount, int n_rounds)
{
    int n = world->group.size;
    struct stretch *stretch = calloc((size_t)n, sizeof *stretch);
    int64_t *counts = calloc((size_t)n, sizeof *counts);
    enum status status = STATUS_OK;
    if (stretch == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d ranks", n);
    TRY_GOTO(status, end, comm_agree(world, status));
    for (int i = 0; i < n; i++)
        counts[i] = STRETCH_WORDS;
    for (int round = 0; round < n_rounds; round++) {
        struct stretch own = {.node = process->node, .amount = amount};
        TRY_GOTO(status, end, world->ops->barrier(world));
        own.begin_ns = progress_now_ns();
        cpu_threads_run(work, task);
        own.end_ns = progress_now_ns();
        struct tensor x = tensor_1d(&own, DTYPE_I64, STRETCH_WORDS);
        struct tensor y = tensor_1d(stretch, DTYPE_I64, (int64_t)n * STRETCH_WORDS);
        TRY_GOTO(status, end, world->ops->all_gather(world, &y, &x, counts, NULL));
        double rate = node_rate(stretch, n, 0), sum = 0;
        for (int node = 0; node < process->n_nodes; node++)
            sum += node_rate(stretch, n, node);
        *first = rate > *first ? rate : *first;
        *all = sum > *all ? sum : *all;
    }
end:
    free(stretch);
    free(counts);
    return status;
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

static enum status probe_read(struct probe *best, struct task *task, struct comm *world,
                              const struct process *process)
{
    double all = 0;
    size_t bytes = (size_t)bytes_to_read(process);
    void *memory = NULL;
    enum status status = comm_agree(world, cpu_device_ops.allocate(&memory, bytes));
    if (status == STATUS_OK) {
        task->x = memory;
        task->count = (int64_t)(bytes / sizeof(float)) / STEP * STEP;
        cpu_threads_run(fill, task);
        status = run_rounds(&best->read_gb_s, &all, world, process, read_all, task,
                            task->count * (int64_t)sizeof(float), READ_ROUNDS);
    }
    cpu_device_ops.release(memory, bytes);
    return status;
}

static enum status probe_fma(struct probe *best, struct task *task, struct comm *world,
                             const struct process *process)
{
    double first = 0;
    int64_t begin_ns, ns;
    task->rounds = 1000;
    do { /* about as long as a round shall be */
        task->rounds *= 2;
        begin_ns = progress_now_ns();
        multiply(task, 0, 1);
        ns = progress_now_ns() - begin_ns;
    } while (ns < fma_target_ns / 2);
    return run_rounds(&first, &best->fma_gflop_s, world, process, multiply, task,
                      task->rounds * task->loops->fma_flop * cpu_threads_count(), FMA_ROUNDS);
}

enum status probe_run(struct probe *best, struct comm *world, const struct process *process)
{
    const struct ops *ops = NULL;
    struct task *task = calloc(1, sizeof *task);
    enum status status = cpu_ops_choose(&ops);
    if (task == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for the probe");
    TRY_GOTO(status, end, comm_agree(world, status));
    task->loops = loops_of(ops);
    TRY_GOTO(status, end, probe_read(best, task, world, process));
    status = probe_fma(best, task, world, process);
end:
    free(task);
    return status;
}
