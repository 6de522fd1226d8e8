/* bench_latency_report.c - the figures of `bench latency`, for people and as JSON. */
#include "launcher/bench_latency.h"
#include "launcher/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What follows from the measured times; *_ms of the median run. */
struct figures {
    double output_throughput, bytes_per_token, gb_s, prefill_tok_s, prefill_gflop_s;
    double gb_s_ratio, prefill_gflop_s_ratio; /* median of the runs' own */
};

static struct figures figures_of(const struct latency_result *r)
{
    double tokens = (double)(r->batch * r->input_len);
    return (struct figures){
        .output_throughput = (double)(r->batch * r->output_len) / (r->total_ms.median * 1e-3),
        .bytes_per_token = r->job_step_bytes / (double)r->batch,
        .gb_s = r->node_step_bytes * 1e-6 / r->tpot_ms.median,
        .prefill_tok_s = tokens / (r->ttft_ms.median * 1e-3),
        .prefill_gflop_s = r->prefill_flop * 1e-6 / r->ttft_ms.median,
        .gb_s_ratio = r->node_step_bytes / r->readable_bytes.median,
        .prefill_gflop_s_ratio = r->prefill_flop / r->computable_flop.median,
    };
}

static void put(json_t *root, const char *key, double value)
{
    json_object_set_new(root, key, report_real(value));
}

static void put_spread(json_t *root, const char *key, const struct bench_spread *spread)
{
    char name[64];
    put(root, key, spread->median);
    snprintf(name, sizeof name, "min_%s", key);
    put(root, name, spread->min);
    snprintf(name, sizeof name, "max_%s", key);
    put(root, name, spread->max);
}

static enum status report_as_json(const struct latency_result *r)
{
    struct figures f = figures_of(r);
    json_t *root = json_pack(
        "{s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:I, s:I, s:I, s:i}", "model",
        report_text(r->model, strlen(r->model)), "ranks", r->mesh.world.size, "nodes", r->n_nodes,
        "tp", r->mesh.tp.size, "ep", r->mesh.ep.size, "dp", r->mesh.dp.size, "pp", r->mesh.pp.size,
        "threads", r->n_threads, "isa", r->isa, "batch", (json_int_t)r->batch, "input_len",
        (json_int_t)r->input_len, "output_len", (json_int_t)r->output_len, "repeat", r->repeat);
    json_object_set_new(root, "weight_dtype", json_string(r->weight_dtype));
    json_object_set_new(root, "activation_dtype", json_string(r->activation_dtype));
    json_object_set_new(root, "kv_cache_dtype", json_string(r->kv_cache_dtype));
    json_object_set_new(root, "kv_placement", json_string(report_placement(r->kv_placement)));
    json_object_set_new(root, "cache_bytes", json_integer(r->cache_bytes));
    json_object_set_new(root, "replicated_cache_bytes", json_integer(r->replicated_cache_bytes));
    put(root, "load_s", r->load_s);
    put_spread(root, "ttft_ms", &r->ttft_ms);
    put_spread(root, "tpot_ms", &r->tpot_ms);
    put_spread(root, "total_ms", &r->total_ms);
    put(root, "output_throughput", f.output_throughput);
    put(root, "bytes_per_token", f.bytes_per_token);
    put(root, "bytes_per_step", r->job_step_bytes);
    put(root, "experts_per_step", r->experts_per_step);
    put(root, "gb_s", f.gb_s);
    put(root, "probe_gb_s", r->probe_gb_s.median);
    put(root, "gb_s_ratio", f.gb_s_ratio);
    put(root, "prefill_tok_s", f.prefill_tok_s);
    put(root, "prefill_gflop_s", f.prefill_gflop_s);
    put(root, "fma_peak_gflop_s", r->fma_peak_gflop_s.median);
    put(root, "prefill_gflop_s_ratio", f.prefill_gflop_s_ratio);
    return report_json(root);
}

/* 10 characters; "-" where nothing was measured. */
static void print_number(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, " %10.*f", value < 10 ? 3 : 1, value);
    else
        fprintf(out, " %10s", "-");
}

static void print_spread(FILE *out, const char *name, const struct bench_spread *spread,
                         const char *what)
{
    fprintf(out, "%-17s", name);
    print_number(out, spread->median);
    print_number(out, spread->min);
    print_number(out, spread->max);
    fprintf(out, "  ms: %s\n", what);
}

static void print_value(FILE *out, const char *name, double value, const char *what)
{
    fprintf(out, "%-17s", name);
    print_number(out, value);
    fprintf(out, "%24s%s\n", "", what);
}

static void print_table(FILE *out, const void *context)
{
    const struct latency_result *r = context;
    struct figures f = figures_of(r);
    char bytes[64];
    fprintf(out, "%s: %d rank%s (tp %d, ep %d, dp %d, pp %d), %d thread%s each, %s\n", r->model,
            r->mesh.world.size, r->mesh.world.size == 1 ? "" : "s", r->mesh.tp.size,
            r->mesh.ep.size, r->mesh.dp.size, r->mesh.pp.size, r->n_threads,
            r->n_threads == 1 ? "" : "s", r->isa);
    fprintf(out, "batch %lld, %lld tokens in, %lld out, %d measured, random ids\n",
            (long long)r->batch, (long long)r->input_len, (long long)r->output_len, r->repeat);
    fprintf(out, "weights %s, inputs of bf16 weights %s, cache %s\n",
            strcmp(r->weight_dtype, "auto") == 0 ? "as stored" : r->weight_dtype,
            r->activation_dtype, r->kv_cache_dtype);
    fprintf(out, "cache of a rank: %s", report_size(bytes, sizeof bytes, r->cache_bytes));
    if (r->cache_members > 1)
        fprintf(out, ", shared by %d (replicated: %s)", r->cache_members,
                report_size(bytes, sizeof bytes, r->replicated_cache_bytes));
    fprintf(out, "\n\n");
    fprintf(out, "%-17s %10s %10s %10s\n", "", "median", "min", "max");
    print_spread(out, "ttft_ms", &r->ttft_ms, "all prompts, to their first token");
    print_spread(out, "tpot_ms", &r->tpot_ms, "a step after that: one token of each sequence");
    print_value(out, "output_throughput", f.output_throughput,
                "tokens/s: batch x output_len / total time");
    print_value(out, "gb_s", f.gb_s, "GB/s: bytes that a step must read / tpot_ms");
    print_value(out, "probe_gb_s", r->probe_gb_s.median,
                "GB/s: streaming read by the same threads, around each run");
    print_value(out, "  ratio", f.gb_s_ratio, "gb_s / probe_gb_s of each run");
    print_value(out, "prefill_tok_s", f.prefill_tok_s, "tokens/s: batch x input_len / ttft_ms");
    print_value(out, "prefill_gflop_s", f.prefill_gflop_s,
                "GFLOP/s: operations of the prompts / ttft_ms");
    print_value(out, "fma_peak_gflop_s", r->fma_peak_gflop_s.median,
                "GFLOP/s: multiply-adds on registers, around each run");
    print_value(out, "  ratio", f.prefill_gflop_s_ratio,
                "prefill_gflop_s / fma_peak_gflop_s of each run");
    if (r->output_len > 1 && isfinite(r->job_step_bytes))
        fprintf(out,
                "\na step reads %s: weights, the %.1f experts touched, %lld x %.0f cached rows\n",
                report_size(bytes, sizeof bytes, (int64_t)r->job_step_bytes), r->experts_per_step,
                (long long)r->batch, (double)r->input_len + (double)r->output_len / 2);
}

enum status latency_report(const struct latency_result *result, int as_json)
{
    return as_json ? report_as_json(result) : report_printed(print_table, result);
}
