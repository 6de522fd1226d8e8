/* bench_comm_report.c - the table of `bench comm`, in the columns of nccl-tests, or its JSON object. */
#include "launcher/bench_comm.h"
#include "launcher/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const op_names[] = {
    [COMM_OP_ALL_REDUCE] = "all_reduce", [COMM_OP_REDUCE_SCATTER] = "reduce_scatter",
    [COMM_OP_ALL_GATHER] = "all_gather", [COMM_OP_ALL_TO_ALL] = "all_to_all",
    [COMM_OP_BROADCAST] = "broadcast",   [COMM_OP_LOWEST] = "lowest",
    [COMM_OP_BARRIER] = "barrier",
};

static const char *type_of(const struct comm_case *c)
{
    return c->count > 0 ? "f32" : "-";
}

static const char *redop_of(const struct comm_case *c)
{
    return c->op == COMM_OP_ALL_REDUCE || c->op == COMM_OP_REDUCE_SCATTER ? "sum" : "-";
}

enum status comm_report_begin(struct comm_bench *b)
{
    char line[STATUS_TEXT_MAX + 512];
    const struct process *process = &b->job->process;
    if (b->options->json) {
        b->rows = json_array();
        if (b->rows == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for the rows");
        return STATUS_OK;
    }
    snprintf(line, sizeof line,
             "# %d rank%s on %d node%s, median of %d rounds%s%s\n"
             "# %-14s %-11s %12s %12s %6s %6s %10s %9s %9s %7s\n"
             "# %-14s %-11s %12s %12s %6s %6s %10s %9s %9s %7s",
             process->size, process->size == 1 ? "" : "s", process->n_nodes,
             process->n_nodes == 1 ? "" : "s", (int)b->options->repeat,
             b->left_out[0] == '\0' ? "" : "; ", b->left_out, "op", "backend", "size", "count",
             "type", "redop", "time", "algbw", "busbw", "#wrong", "", "", "(B)", "(elements)", "",
             "", "(us)", "(GB/s)", "(GB/s)", "");
    return report_line(line);
}

static enum status add_row(struct comm_bench *b, const struct comm_case *c,
                           const struct comm_row *row)
{
    json_t *value = json_pack(
        "{s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:I}", "op", op_names[c->op],
        "backend", row->backend, "bytes", (json_int_t)c->bytes, "count", (json_int_t)c->count,
        "type", type_of(c), "redop", redop_of(c), "time_us", report_real(row->time_us.median),
        "min_time_us", report_real(row->time_us.min), "max_time_us", report_real(row->time_us.max),
        "algbw_gb_s", report_real(row->algbw_gb_s), "busbw_gb_s", report_real(row->busbw_gb_s),
        "wrong", (json_int_t)row->wrong);
    if (value == NULL || json_array_append_new(b->rows, value) != 0)
        FAIL(STATUS_NO_MEMORY, "no memory for a row");
    return STATUS_OK;
}

enum status comm_report_row(struct comm_bench *b, const struct comm_case *c,
                            const struct comm_row *row)
{
    char line[256];
    if (b->rows != NULL)
        return add_row(b, c, row);
    snprintf(line, sizeof line, "  %-10s %-11s %12lld %12lld %6s %6s %10.2f %9.2f %9.2f %7lld",
             op_names[c->op], row->backend, (long long)c->bytes, (long long)c->count, type_of(c),
             redop_of(c), row->time_us.median, row->algbw_gb_s, row->busbw_gb_s,
             (long long)row->wrong);
    return report_line(line);
}

enum status comm_report_end(struct comm_bench *b)
{
    if (b->rows == NULL)
        return STATUS_OK;
    const struct process *process = &b->job->process;
    json_t *rows = b->rows;
    b->rows = NULL;
    return report_json(json_pack(
        "{s:i, s:i, s:i, s:o, s:o}", "ranks", process->size, "nodes", process->n_nodes, "repeat",
        (int)b->options->repeat, "left_out",
        b->left_out[0] == '\0' ? json_null() : report_text(b->left_out, strlen(b->left_out)),
        "rows", rows));
}
