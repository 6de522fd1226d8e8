/* engine_step.c - steps through an open model: rank 0 plans them, all ranks run them. */
#include "runtime/engine_internal.h"

#include <assert.h>
#include <string.h>

#include "kernels/core/log.h"
#include "parallel/ledger.h"

static struct comm *orders_of(struct engine *e)
{
    return e->orders.ops != NULL ? &e->orders : &e->world;
}

/* What a step of `all` reads and writes on this rank. */
static struct step step_of(struct engine *e, const struct step_plan *all)
{
    struct comm *host = e->comms.host;
    return (struct step){
        .model = &e->config,
        .weights = &e->weights,
        .plan = &e->plan,
        .ops = e->backend.ops,
        .device = e->backend.device,
        .cache_comm =
            rank_comms_of(&e->comms, e->options.kv_placement == KV_SHARDED ? AXIS_TP : AXIS_CACHE),
        .cache_first = e->mesh.tp.index - engine_cache_group(e, e->options.kv_placement).index,
        .tp = rank_comms_of(&e->comms, AXIS_TP),
        .dp = rank_comms_of(&e->comms, AXIS_DP),
        .stage = rank_comms_of(&e->comms, AXIS_STAGE),
        .before = rank_comms_of(&e->comms, axis_of_link(mesh_link_before(&e->mesh))),
        .behind = rank_comms_of(&e->comms, axis_of_link(mesh_link_behind(&e->mesh))),
        .host_tp = &host[AXIS_TP],
        .host_dp = &host[AXIS_DP],
        .letters = e->letters,
        .ep = &e->mesh.ep,
        .all = all,
        .own = &e->replica,
        .stream = e->backend.stream,
        .cache = &e->cache,
        .batch = &e->batch,
        .cos_sin = &e->cos_sin,
        .softmax_scale = model_config_softmax_scale(&e->config),
        .splits_moe = engine_splits_moe(e),
        .dispatches = engine_dispatches(e),
        .may_be_kept = e->mesh.dp.size == 1 && rank_comms_are_stream_ordered(&e->comms),
        .checks = e->checks,
        .trace = e->trace,
        .expert_load = e->mesh.tp.index == 0 ? e->options.expert_load : NULL,
        .vocab_counts = e->vocab_counts,
        .gather_counts = e->gather_counts,
        .sent_counts = e->sent_counts,
        .received_counts = e->received_counts,
        .work = &e->work,
    };
}

/* The forward pass of a step, on every rank; its logits are still in the workspace of the last stage. */
static enum status run_layers(struct engine *e, const struct step_plan *all)
{
    replica_plan_build(&e->replica, all, e->mesh.dp.index);
    for (int i = 0; i < all->n_entries; i++)
        e->length[all->entry[i].sequence] += all->entry[i].n_tokens;
    TRY(batch_build(&e->batch, &e->replica.plan, &e->cache));
    TRY(batch_upload(&e->batch, &e->cache, &e->backend));
    struct step step = step_of(e, all);
    step.expands =
        e->options.mla_mode == MLA_EXPAND ||
        (e->options.mla_mode == MLA_AUTO && step_expanding_is_cheaper(&e->config, &e->batch));
    TRY(step_graph_forward(&e->graphs, &step));
    return STATUS_OK;
}

static void release(struct engine *e, int sequence)
{
    e->length[sequence] = 0;
    if (replica_of(sequence, e->mesh.dp.size) == e->mesh.dp.index)
        latent_cache_release(&e->cache, sequence / e->mesh.dp.size);
}

/* A rank that fails inside a step ends the job: the others are in a collective already. */
static void abort_on(struct engine *e, enum status status)
{
    if (status == STATUS_OK)
        return;
    status_prefix(status, "rank %d (%s)", e->process.rank, e->process.host);
    log_error_line(status_text());
    process_abort(&e->process, 1);
}

/* Rank 0's check of what the caller asks, before anything is sent. */
static enum status check_plan(const struct engine *e, const struct step_plan *plan)
{
    int64_t row = 0;
    if (plan->n_entries < 1 || plan->n_entries > e->options.max_num_seqs)
        FAIL(STATUS_USAGE, "a step of %d sequences; 1 to %d fit", plan->n_entries,
             e->options.max_num_seqs);
    if (plan->n_tokens < 1 || plan->n_tokens > e->options.max_num_batched_tokens)
        FAIL(STATUS_USAGE, "a step of %d tokens; 1 to %d fit (--max-num-batched-tokens)",
             plan->n_tokens, e->options.max_num_batched_tokens);
    for (int i = 0; i < plan->n_entries; i++) {
        const struct step_entry *entry = &plan->entry[i];
        if (entry->sequence < 0 || entry->sequence >= e->options.max_num_seqs ||
            entry->n_tokens < 1 || entry->n_tokens > plan->n_tokens - row)
            FAIL(STATUS_USAGE, "part %d of a step: %d tokens of sequence %d", i, entry->n_tokens,
                 entry->sequence);
        if (e->length[entry->sequence] + entry->n_tokens > e->options.max_model_len)
            FAIL(STATUS_USAGE, "%lld tokens in a sequence; at most %d (--max-model-len)",
                 (long long)(e->length[entry->sequence] + entry->n_tokens),
                 e->options.max_model_len);
        for (int64_t end = row + entry->n_tokens; row < end; row++)
            if (plan->ids[row] < 0 || plan->ids[row] >= e->config.vocab_size)
                FAIL(STATUS_USAGE, "token id %d; the vocabulary has 0 to %lld", plan->ids[row],
                     (long long)e->config.vocab_size - 1);
    }
    return STATUS_OK;
}

static void keep_plan(struct flight *flight, const struct step_plan *plan)
{
    flight->plan = (struct step_plan){
        .n_entries = plan->n_entries, .n_tokens = plan->n_tokens, .entry = flight->entry};
    memcpy(flight->entry, plan->entry, (size_t)plan->n_entries * sizeof *plan->entry);
}

/* Where the last stage is elsewhere and there is room for them. */
static enum status expect_logits(struct engine *e, struct flight *flight)
{
    int64_t n_rows = 0;
    for (int i = 0; i < flight->plan.n_entries; i++)
        n_rows += flight->entry[i].n_tokens - flight->entry[i].first_logits;
    flight->is_expected = flight->came != NULL && n_rows <= e->options.max_num_seqs;
    assert(flight->came == NULL || flight->is_expected || e->n_flights == 1);
    if (!flight->is_expected)
        return STATUS_OK;
    struct step step = step_of(e, &flight->plan);
    step.came = flight->came;
    return step_expect_logits(&step);
}

enum status engine_begin_step(struct engine *engine, const struct step_plan *plan)
{
    struct engine *e = engine;
    struct step_order order;
    assert(e->n_flights < e->mesh.pp.size);
    TRY(check_plan(e, plan));
    struct flight *flight = &e->flight[(e->first_flight + e->n_flights++) % e->mesh.pp.size];
    keep_plan(flight, plan);
    ledger_step_begin();
    abort_on(e, expect_logits(e, flight));
    abort_on(e, step_message_exchange(&e->message, orders_of(e), plan, &order));
    abort_on(e, run_layers(e, &order.plan));
    if (e->mesh.pp.size > 1)
        ledger_step_end(); /* the logits come later */
    return STATUS_OK;
}

enum status engine_end_step(struct engine *engine, logits_sink sink, void *context)
{
    struct engine *e = engine;
    enum status sunk = STATUS_OK;
    assert(e->n_flights > 0);
    const struct flight *flight = &e->flight[e->first_flight];
    struct step step = step_of(e, &flight->plan);
    step.came = flight->is_expected ? flight->came : NULL;
    ledger_step_begin();
    abort_on(e, step_logits(&step, sink, context, &sunk));
    if (e->mesh.pp.size > 1)
        ledger_step_pause();
    else
        ledger_step_end();
    e->first_flight = (e->first_flight + 1) % e->mesh.pp.size;
    e->n_flights--;
    return sunk;
}

enum status engine_step(struct engine *engine, const struct step_plan *plan, logits_sink sink,
                        void *context)
{
    assert(engine->n_flights == 0);
    TRY(engine_begin_step(engine, plan));
    return engine_end_step(engine, sink, context);
}

void engine_release(struct engine *engine, int sequence)
{
    release(engine, sequence);
    step_message_release(&engine->message, sequence);
}

/* A step on a rank other than 0. */
static enum status work_on(struct engine *e, const struct step_plan *plan)
{
    enum status sunk = STATUS_OK;
    struct step step = step_of(e, plan);
    ledger_step_begin();
    TRY(run_layers(e, plan));
    TRY(step_logits(&step, NULL, NULL, &sunk));
    ledger_step_end();
    return STATUS_OK;
}

enum status engine_work(struct engine *engine)
{
    for (;;) {
        struct step_order order;
        TRY(step_message_exchange(&engine->message, orders_of(engine), NULL, &order));
        for (int i = 0; i < order.n_released; i++)
            release(engine, order.released[i]);
        if (order.stops)
            return STATUS_OK;
        abort_on(engine, work_on(engine, &order.plan));
    }
}

enum status engine_rest(struct engine *engine)
{
    struct step_order order;
    return step_message_exchange(&engine->message, orders_of(engine), NULL, &order);
}
