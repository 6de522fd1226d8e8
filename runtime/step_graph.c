#include "runtime/step_graph.h"

#include <stdio.h>

#include "kernels/core/log.h"
#include "runtime/decode_bytes.h"

/* The same on all ranks, as NCCL asks: it is in a graph on all members or on none. */
static int can_keep(const struct step_graphs *graphs, const struct step *s)
{
    int64_t n = s->batch->n_tokens;
    return !graphs->is_off && s->device->graph_begin != NULL && s->may_be_kept && n >= 1 &&
           n <= STEP_GRAPH_MAX_TOKENS && decode_is_step(n, s->batch->n_entries);
}

/* From what the counters were to what they have gained since. */
static void count_difference(int64_t count[TRACE_COUNTERS])
{
    for (int i = 0; i < TRACE_COUNTERS; i++)
        count[i] = trace_value((enum trace_counter)i) - count[i];
}

/* What failed while operations were kept is what is told, not that the rest could not be kept then. */
static enum status give_up(struct step *s, enum status status)
{
    void *graph = NULL;
    char text[STATUS_TEXT_MAX];
    snprintf(text, sizeof text, "%s", status_text());
    if (s->device->graph_end(&graph, s->stream) == STATUS_OK)
        s->device->graph_close(graph);
    status_set_text(text);
    return status;
}

static enum status keep(struct step_graphs *graphs, struct step *s, int64_t n)
{
    int64_t *count = graphs->of[n].count;
    for (int i = 0; i < TRACE_COUNTERS; i++)
        count[i] = trace_value((enum trace_counter)i);
    enum status status = s->device->graph_begin(s->stream);
    if (status == STATUS_UNSUPPORTED) {
        log_print(LOG_INFO, "decode steps are not kept: %s", status_text());
        status_clear();
        graphs->is_off = 1;
        return step_forward(s);
    }
    TRY(status);
    ledger_record_begin();
    status = step_forward(s);
    enum status recorded = ledger_record_end(&graphs->of[n].record);
    if (status != STATUS_OK || recorded != STATUS_OK)
        return give_up(s, status != STATUS_OK ? status : recorded);
    TRY(s->device->graph_end(&graphs->of[n].graph, s->stream));
    count_difference(count);
    return s->device->graph_launch(graphs->of[n].graph, s->stream);
}

enum status step_graph_forward(struct step_graphs *graphs, struct step *s)
{
    int64_t n = s->batch->n_tokens;
    if (!can_keep(graphs, s))
        return step_forward(s);
    if (graphs->of[n].graph != NULL) {
        for (int i = 0; i < TRACE_COUNTERS; i++)
            trace_add((enum trace_counter)i, graphs->of[n].count[i]);
        ledger_record_enter(graphs->of[n].record);
        return s->device->graph_launch(graphs->of[n].graph, s->stream);
    }
    if (graphs->of[n].is_warm)
        return keep(graphs, s, n);
    graphs->of[n].is_warm = 1;
    return step_forward(s);
}

void step_graph_close(struct step_graphs *graphs, const struct device_ops *device)
{
    for (int i = 0; i <= STEP_GRAPH_MAX_TOKENS; i++) {
        if (graphs->of[i].graph != NULL)
            device->graph_close(graphs->of[i].graph);
        ledger_record_close(graphs->of[i].record);
    }
    *graphs = (struct step_graphs){0};
}
