/* bench_load.c - times of loading, each run beside a plain read of the same bytes.
 *
 * No engine is opened: cache and workspace would be taken and touched too. */
#include "launcher/bench_load.h"
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/report.h"
#include "runtime/memory_plan.h"
#include "runtime/weight_loader.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Runs of one kind; times of the slowest rank. */
struct series {
    double *plain_s, *load_s; /* [repeat] */
    struct bench_spread plain, load;
    int64_t cached_bytes; /* of the files, before the last run; -1: unknown */
};

struct load_bench {
    const struct options *options;
    struct job *job;
    struct model_config config;
    struct mesh mesh;
    struct shard_plan plan;
    struct safetensors *checkpoint;
    struct plain_reads reads;
    struct progress progress;
    int n_done;
    int64_t resident_bytes, file_bytes;
    double bytes; /* of all ranks */
    struct series warm, cold;
};

static const struct weight_loader_options loader_options = {.keeps_expanded = 1};

static enum status open_model(struct load_bench *b)
{
    const char *model = b->options->model;
    TRY(model_config_load(&b->config, model));
    TRY(model_config_check_supported(&b->config, model));
    TRY(job_mesh(&b->mesh, b->job, &b->config));
    const struct model_extent extent = weights_extent(&b->config);
    shard_plan_build(&b->plan, &extent, &b->mesh);
    TRY(safetensors_open(&b->checkpoint, model));
    TRY(weights_check(&b->config, b->checkpoint));
    return plain_reads_open(&b->reads, &b->config, b->checkpoint, &b->plan);
}

static enum status make_series(struct series *s, int64_t repeat)
{
    s->plain_s = calloc((size_t)repeat, sizeof *s->plain_s);
    s->load_s = calloc((size_t)repeat, sizeof *s->load_s);
    if (s->plain_s == NULL || s->load_s == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %lld runs", (long long)repeat);
    return STATUS_OK;
}

static enum status make_work(struct load_bench *b)
{
    struct weights weights;
    TRY(make_series(&b->warm, b->options->repeat));
    TRY(make_series(&b->cold, b->options->repeat));
    TRY(weights_lay_out(&weights, &b->config, b->checkpoint, &b->plan, &loader_options));
    b->resident_bytes = weights.bytes_resident;
    weights_close(&weights);
    return STATUS_OK;
}

static enum status check_memory(struct load_bench *b)
{
    int64_t bytes = b->resident_bytes > b->reads.bytes ? b->resident_bytes : b->reads.bytes;
    const struct memory_plan plan = {.weights = bytes};
    return memory_plan_check(&plan, &b->job->process, &cpu_device_ops, &b->job->world,
                             "more ranks on more nodes or a smaller model would do");
}

static enum status load_once(int64_t *ns, const struct load_bench *b)
{
    struct weights weights;
    struct arena arena = {0};
    int64_t begin_ns = progress_now_ns();
    enum status status =
        weights_lay_out(&weights, &b->config, b->checkpoint, &b->plan, &loader_options);
    if (status == STATUS_OK)
        status = weights_load(&weights, &arena, &cpu_device_ops, &b->config, b->checkpoint,
                              &b->plan, &loader_options);
    *ns = progress_now_ns() - begin_ns;
    weights_close(&weights);
    arena_close(&arena);
    return status;
}

/* Numbers of all ranks: their sum and the largest, on every rank. */
static enum status gather(double *sum, double *largest, const struct load_bench *b, int64_t own)
{
    struct comm *world = &b->job->world;
    int n = world->group.size;
    int64_t *all = calloc((size_t)n, sizeof *all), *counts = calloc((size_t)n, sizeof *counts);
    enum status status = STATUS_OK;
    if (all == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d ranks", n);
    TRY_GOTO(status, end, comm_agree(world, status));
    for (int i = 0; i < n; i++)
        counts[i] = 1;
    struct tensor x = tensor_1d(&own, DTYPE_I64, 1), y = tensor_1d(all, DTYPE_I64, n);
    TRY_GOTO(status, end, world->ops->all_gather(world, &y, &x, counts, NULL));
    *sum = *largest = 0;
    for (int i = 0; i < n; i++) {
        *sum += (double)all[i];
        *largest = (double)all[i] > *largest ? (double)all[i] : *largest;
    }
end:
    free(all);
    free(counts);
    return status;
}

/* Puts the files where a run expects them. */
static enum status prepare_files(struct load_bench *b, struct series *s)
{
    struct comm *world = &b->job->world;
    enum status status = STATUS_OK;
    if (s == &b->cold)
        plain_forget(&b->reads);
    else if (b->job->process.node_rank == 0 && b->n_done == 0)
        status = plain_warm(&b->reads);
    TRY(comm_agree(world, status));
    plain_cached(&s->cached_bytes, &b->file_bytes, &b->reads);
    return world->ops->barrier(world);
}

enum run_kind { RUN_LOAD, RUN_COPY, RUN_DIRECT };

static enum status run_once(double *seconds, struct load_bench *b, struct series *s,
                            enum run_kind kind)
{
    struct comm *world = &b->job->world;
    int64_t ns = 0;
    double sum, largest;
    TRY(prepare_files(b, s));
    enum status status = kind == RUN_LOAD   ? load_once(&ns, b)
                         : kind == RUN_COPY ? plain_copy(&ns, &b->reads)
                                            : plain_direct(&ns, &b->reads);
    TRY(comm_agree(world, status));
    TRY(gather(&sum, &largest, b, ns));
    *seconds = largest * 1e-9;
    b->n_done++;
    progress_show(
        &b->progress, (int64_t)((double)b->n_done * b->bytes),
        (int64_t)((double)(2 * b->options->repeat * (b->options->cold ? 2 : 1) + 1) * b->bytes),
        NULL);
    return STATUS_OK;
}

static enum status run_series(struct load_bench *b, struct series *s, enum run_kind plain)
{
    int n = (int)b->options->repeat;
    for (int i = 0; i < n; i++) {
        TRY(run_once(&s->plain_s[i], b, s, plain));
        TRY(run_once(&s->load_s[i], b, s, RUN_LOAD));
    }
    s->plain = bench_spread_of(s->plain_s, n);
    s->load = bench_spread_of(s->load_s, n);
    return STATUS_OK;
}

static enum status measure(struct load_bench *b)
{
    double largest, unmeasured;
    TRY(gather(&b->bytes, &largest, b, b->reads.bytes));
    TRY(run_once(&unmeasured, b, &b->warm,
                 RUN_COPY)); /* memory that the system has never given out */
    TRY(run_series(b, &b->warm, RUN_COPY));
    return b->options->cold ? run_series(b, &b->cold, RUN_DIRECT) : STATUS_OK;
}

/* --- the figures --- */

static void put(json_t *root, const char *key, double value)
{
    json_object_set_new(root, key, report_real(value));
}

static void put_series(json_t *root, const char *prefix, const char *plain, double bytes,
                       const struct series *s, int is_measured)
{
    char key[64];
    const struct bench_spread none = bench_spread_of(NULL, 0);
    const struct bench_spread *load = is_measured ? &s->load : &none;
    const struct bench_spread *other = is_measured ? &s->plain : &none;
    const struct {
        const char *name;
        double value;
    } rows[] = {{"seconds", load->median},
                {"min_seconds", load->min},
                {"max_seconds", load->max},
                {"gb_s", bytes * 1e-9 / load->median},
                {"ratio", other->median / load->median},
                {"best_ratio", other->min / load->min},
                {"cached_bytes",
                 is_measured && s->cached_bytes >= 0 ? (double)s->cached_bytes : (double)NAN}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(key, sizeof key, "%s%s", prefix, rows[i].name);
        put(root, key, rows[i].value);
    }
    snprintf(key, sizeof key, "%s_gb_s", plain);
    put(root, key, bytes * 1e-9 / other->median);
}

static enum status report_as_json(const struct load_bench *b)
{
    const struct options *o = b->options;
    json_t *root = json_pack(
        "{s:o, s:i, s:i, s:i, s:i, s:i, s:i}", "model", report_text(o->model, strlen(o->model)),
        "ranks", b->mesh.world.size, "nodes", b->job->process.n_nodes, "tp", b->mesh.tp.size, "ep",
        b->mesh.ep.size, "threads", b->job->n_threads, "repeat", (int)o->repeat);
    put(root, "bytes", b->bytes);
    put_series(root, "", "copy", b->bytes, &b->warm, 1);
    put_series(root, "cold_", "direct", b->bytes, &b->cold, o->cold);
    return report_json(root);
}

static void print_spread(FILE *out, const char *name, double bytes, const struct bench_spread *s,
                         const char *what)
{
    fprintf(out, "%-8s %10.3f %10.3f %10.3f %10.2f  %s\n", name, s->median, s->min, s->max,
            bytes * 1e-9 / s->median, what);
}

static void print_series(FILE *out, const struct load_bench *b, const struct series *s,
                         const char *title, const char *plain, const char *what)
{
    char cached[64] = "an unknown part";
    if (s->cached_bytes >= 0)
        report_size(cached, sizeof cached, s->cached_bytes);
    fprintf(out, "\n%-8s %10s %10s %10s %10s  with %s of the files in the page cache\n", title,
            "median s", "min", "max", "GB/s", cached);
    print_spread(out, "load", b->bytes, &s->load, "read, checked, packed");
    print_spread(out, plain, b->bytes, &s->plain, what);
    fprintf(out, "%-8s %10.2f %10.2f  of the medians, of the least times\n", "  ratio",
            s->plain.median / s->load.median, s->plain.min / s->load.min);
}

static void print_table(FILE *out, const void *context)
{
    const struct load_bench *b = context;
    char bytes[64];
    fprintf(out, "%s: %s into %d rank%s (tp %d, ep %d), %d thread%s each, %d measured\n",
            b->options->model, report_size(bytes, sizeof bytes, (int64_t)b->bytes),
            b->mesh.world.size, b->mesh.world.size == 1 ? "" : "s", b->mesh.tp.size,
            b->mesh.ep.size, b->job->n_threads, b->job->n_threads == 1 ? "" : "s",
            (int)b->options->repeat);
    print_series(out, b, &b->warm, "cached", "copy", "the same bytes into fresh memory");
    if (b->options->cold)
        print_series(out, b, &b->cold, "cold", "direct", "the same bytes past the page cache");
}

static enum status report(const struct load_bench *b)
{
    return b->options->json ? report_as_json(b) : report_printed(print_table, b);
}

static enum status run_all_ranks(struct load_bench *b)
{
    struct comm *world = &b->job->world;
    TRY(job_bind(b->job));
    TRY(comm_agree(world, open_model(b)));
    TRY(comm_same(world, "the headers and sizes of the safetensors files",
                  safetensors_hash(b->checkpoint)));
    TRY(comm_agree(world, make_work(b)));
    enum status status = check_memory(b);
    TRY(comm_agree(world, status));
    TRY(comm_agree(world, cpu_device_ops.open_threads(b->job->n_threads)));
    progress_begin(&b->progress, "bench", PROGRESS_BYTES, job_is_root(b->job));
    status = measure(b);
    progress_end(&b->progress);
    cpu_device_ops.close_threads();
    TRY(status);
    return failure_from_root(world, job_is_root(b->job) ? report(b) : STATUS_OK);
}

enum status bench_load_run(const struct options *options, struct job *job)
{
    struct load_bench *b = calloc(1, sizeof *b);
    enum status status = b != NULL ? STATUS_OK : STATUS_NO_MEMORY;
    TRY(comm_agree(&job->world, status));
    b->options = options;
    b->job = job;
    status = run_all_ranks(b);
    plain_reads_close(&b->reads);
    safetensors_close(b->checkpoint);
    free(b->warm.plain_s);
    free(b->warm.load_s);
    free(b->cold.plain_s);
    free(b->cold.load_s);
    free(b);
    return status;
}
