/* bench_kernels.c - times each operation of the table on the shapes of a model. */
#include "launcher/bench_kernels.h"
#include "kernels/cpu/cpu_threads.h"
#include "launcher/bench_formula.h"
#include "launcher/commands.h"
#include "launcher/progress.h"
#include "launcher/report.h"
#include "parallel/topology.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int64_t target_ns = 50000000; /* of calls in a row */

/* configs/models/deepseek-v2-lite.json */
static struct model_config default_shapes(void)
{
    return (struct model_config){
        .d = 2048,
        .vocab_size = 102400,
        .n_heads = 16,
        .d_c = 512,
        .d_n = 128,
        .d_r = 64,
        .d_v = 128,
        .dense_columns = 10944,
        .expert_columns = 1408,
        .router = {.n_experts = 64, .n_chosen = 6, .n_groups = 1, .n_chosen_groups = 1, .scale = 1},
        .epsilon = 1e-6f};
}

static enum status time_calls(double *ns_per_call, const struct kernel_case *kernel,
                              int64_t *number, int64_t count)
{
    int64_t begin_ns = progress_now_ns();
    for (int64_t i = 0; i < count; i++)
        TRY(kernel->call(kernel->context, (*number)++));
    *ns_per_call = (double)(progress_now_ns() - begin_ns) / (double)count;
    return STATUS_OK;
}

/* The median of --repeat runs. */
static enum status time_case(double *ns, const struct kernel_bench *bench,
                             const struct kernel_case *kernel)
{
    int64_t number = 0;
    double once;
    TRY(time_calls(&once, kernel, &number, 1));
    TRY(time_calls(&once, kernel, &number, 1)); /* how many make a run */
    int64_t count = (int64_t)((double)target_ns / (once + 1)) + 1;
    int repeat = (int)bench->options->repeat;
    double *mean = calloc((size_t)repeat, sizeof *mean);
    enum status status = STATUS_OK;
    if (mean == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d times", repeat);
    for (int i = 0; i < repeat; i++)
        TRY_GOTO(status, end, time_calls(&mean[i], kernel, &number, count));
    *ns = bench_spread_of(mean, repeat).median;
end:
    free(mean);
    return status;
}

static void add_row(struct kernel_bench *bench, const struct kernel_case *kernel, double ns,
                    double gb_s, double gflop_s, double ratio)
{
    json_array_append_new(bench->rows,
                          json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "op",
                                    kernel->op, "shape", kernel->shape, "dtype",
                                    dtype_name(kernel->dtype), "rows", (json_int_t)kernel->rows,
                                    "time_us", report_real(ns * 1e-3), "gb_s", report_real(gb_s),
                                    "gflop_s", report_real(gflop_s), "ratio", report_real(ratio),
                                    "probe_gb_s", report_real(bench->probe.read_gb_s),
                                    "fma_peak_gflop_s", report_real(bench->probe.fma_gflop_s)));
}

static enum status print_row(const struct kernel_bench *bench, const struct kernel_case *kernel,
                             double ns, double gb_s, double gflop_s, double ratio)
{
    char line[256], flops[32] = "", of[32] = "";
    if (isfinite(gflop_s))
        snprintf(flops, sizeof flops, "%.1f", gflop_s);
    if (isfinite(ratio))
        snprintf(of, sizeof of, "%.2f", ratio);
    snprintf(line, sizeof line, "%-19s%-30s%-9s%5lld%13.1f%9.2f%9s%7s%9.1f%9.0f", kernel->op,
             kernel->shape, dtype_name(kernel->dtype), (long long)kernel->rows, ns * 1e-3, gb_s,
             flops, of, bench->probe.read_gb_s, bench->probe.fma_gflop_s);
    return report_line(line);
}

static const char *shapes_of(const struct kernel_bench *bench)
{
    const char *file = bench->options->model_config;
    return file == NULL ? "DeepSeek-V2-Lite" : file;
}

static enum status print_head(const struct kernel_bench *bench)
{
    char line[512];
    snprintf(line, sizeof line, "%s: %d threads, %s\n\n%-19s%-30s%-9s%5s%13s%9s%9s%7s%9s%9s",
             shapes_of(bench), cpu_threads_count(), bench->ops->name, "op", "shape", "dtype",
             "rows", "time_us", "GB/s", "GFLOP/s", "ratio", "probe", "peak");
    return report_line(line);
}

enum status kernel_run(struct kernel_bench *bench, const struct kernel_case *kernel)
{
    double ns;
    struct probe after;
    if (bench->n_rows == 0)
        TRY(probe_sample(&bench->before, bench->prober));
    TRY(time_case(&ns, bench, kernel));
    TRY(probe_sample(&after, bench->prober));
    bench->probe = probe_mean(&bench->before, &after);
    bench->before = after;
    double gb_s = kernel->bytes / ns, gflop_s = kernel->flop > 0 ? kernel->flop / ns : (double)NAN;
    double least_ns =
        fmax(kernel->bytes / bench->probe.read_gb_s, kernel->flop / bench->probe.fma_gflop_s);
    double ratio = kernel->is_warm ? (double)NAN : least_ns / ns;
    if (bench->rows != NULL)
        add_row(bench, kernel, ns, gb_s, gflop_s, ratio);
    else if (bench->n_rows == 0)
        TRY(print_head(bench));
    bench->n_rows++;
    return bench->rows != NULL ? STATUS_OK : print_row(bench, kernel, ns, gb_s, gflop_s, ratio);
}

int kernel_wants(const struct kernel_bench *bench, enum option_kernel op, enum dtype dtype)
{
    static const enum dtype types[] = {
        [KERNEL_BF16] = DTYPE_BF16,       [KERNEL_F16] = DTYPE_F16, [KERNEL_F32] = DTYPE_F32,
        [KERNEL_F8_E4M3] = DTYPE_F8_E4M3, [KERNEL_I8] = DTYPE_I8,   [KERNEL_I4] = DTYPE_I4};
    const struct options *o = bench->options;
    return (o->op == KERNEL_OP_ALL || o->op == (int)op) &&
           (o->dtype == KERNEL_ALL || types[o->dtype] == dtype);
}

/* Memory is reserved here and taken as it is touched. */
static enum status open_pools(struct kernel_bench *bench)
{
    struct free_memory memory;
    int64_t cache = 0;
    cpu_device_ops.free_memory(&memory);
    int64_t left = memory.own < memory.shared ? memory.own : memory.shared;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    cache = 4 * (int64_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    bench->working_set = cache > 1 << 30 ? cache : 1 << 30;
    if (bench->working_set > left / 4)
        bench->working_set = left / 4;
    TRY(arena_open(&bench->cold, &cpu_device_ops, "bench", (size_t)(left / 2)));
    return arena_open(&bench->warm, &cpu_device_ops, "bench", (size_t)(left / 4));
}

static enum status end_report(struct kernel_bench *bench)
{
    if (bench->n_rows == 0)
        FAIL(STATUS_USAGE, "no operation takes this --op and --dtype together");
    if (bench->rows == NULL)
        return STATUS_OK;
    const char *shapes = shapes_of(bench);
    return report_json(
        json_pack("{s:o, s:i, s:s, s:O}", "model_config", report_text(shapes, strlen(shapes)),
                  "threads", cpu_threads_count(), "isa", bench->ops->name, "rows", bench->rows));
}

static enum status run_cases(struct kernel_bench *bench, struct comm *world,
                             const struct process *process)
{
    TRY(probe_open(&bench->prober, world, process));
    if (bench->options->json)
        bench->rows = json_array();
    TRY(open_pools(bench));
    TRY(kernel_products(bench));
    TRY(kernel_experts(bench));
    TRY(kernel_attention(bench));
    TRY(kernel_small(bench));
    return end_report(bench);
}

static enum status open_threads(const struct options *options, const struct process *process)
{
    struct topology topology;
    TRY(topology_bind(&topology, process, options->numa_bind == NUMA_AUTO));
    int64_t n = options->threads > 0 ? options->threads : topology.own_cores;
    return cpu_device_ops.open_threads(n < 1 ? 1 : (int)n);
}

enum status bench_kernels_run(const struct options *options)
{
    const struct process process = {.size = 1, .node_size = 1, .n_nodes = 1};
    const struct group group = {.name = "world", .size = 1, .stride = 1};
    struct kernel_bench bench = {.options = options, .config = default_shapes()};
    struct comm world;
    enum status status;
    if (options->model_config != NULL) {
        TRY(model_config_load(&bench.config, options->model_config));
        TRY(model_config_check_supported(&bench.config, options->model_config));
    }
    TRY(cpu_ops_choose(&bench.ops));
    TRY(comm_self_open(&world, &group));
    TRY_GOTO(status, close_world, open_threads(options, &process));
    status = run_cases(&bench, &world, &process);
    arena_close(&bench.cold);
    arena_close(&bench.warm);
    probe_close(bench.prober);
    json_decref(bench.rows);
    cpu_device_ops.close_threads();
close_world:
    comm_close(&world);
    return status;
}
