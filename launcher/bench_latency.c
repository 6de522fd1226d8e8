/* bench_latency.c - time of one batch: all prompts to their first token, then a token of every sequence
 * in each step.
 *
 * Prompts and the tokens fed back are random ids, so that experts are touched as
 * by text that differs between sequences, and no end of sequence stops a run.
 * Logits are computed and gathered in every step; nothing is drawn from them.
 * Sequences of all replicas (--dp) are in a step together.  With stages (--pp) as
 * many steps are on their way: chunks of prompts one behind the other, then parties
 * of the sequences, whose round is the step that is timed.
 *
 *   ttft_ms  from the first chunk to the logits of the last token of the last prompt
 *   tpot_ms  of a decode step: the time after that / (output_len - 1)
 *
 * bench_formula.h says what bytes and operations these are held against, probe.h
 * with what the machine gives: each run with what it gave just before and after. */
#include "launcher/bench_latency.h"
#include "kernels/core/log.h"
#include "kernels/core/trace.h"
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/probe.h"
#include "launcher/random_numbers.h"
#include "runtime/latent_cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* On every rank; the arrays on rank 0 only. */
struct latency {
    const struct options *options;
    struct job *job;
    struct model_config config;
    struct engine *engine;
    struct progress progress;
    int32_t *prompt; /* [batch, input_len] */
    int32_t *fed;    /* [output_len - 1, batch] */
    int32_t *chunk;  /* [max_num_batched_tokens] ids of a step */
    struct step_entry *entry;
    int n_flights; /* steps on their way */
    /* [repeat] of each measured run; what is measured, what the machine gave and could have done */
    double *ttft_ms, *tpot_ms, *total_ms, *probe_gb_s, *peak_gflop_s, *readable, *computable;
    int n_measured;
    int64_t n_logits, n_done; /* rows of logits that came; tokens run, for the progress */
    struct latency_result result;
};

static enum status prepare(struct latency *l)
{
    const struct options *o = l->options;
    TRY(model_config_load(&l->config, o->model));
    TRY(model_config_check_supported(&l->config, o->model));
    if (o->input_len + o->output_len > l->config.max_position)
        FAIL(STATUS_USAGE,
             "--input-len and --output-len make %lld tokens; the model takes %d "
             "(max_position_embeddings of %s)",
             (long long)(o->input_len + o->output_len), l->config.max_position, o->model);
    return STATUS_OK;
}

/* Ids first, first + 1, ... of the sequence `seed`. */
static int32_t *random_ids(int64_t count, int64_t vocab_size, uint64_t seed, int64_t first)
{
    int32_t *ids = malloc((size_t)(count + 1) * sizeof *ids);
    for (int64_t i = 0; ids != NULL && i < count; i++)
        ids[i] = (int32_t)(random_number(seed, (int32_t)(first + i)) % (uint64_t)vocab_size);
    return ids;
}

static enum status make_work(struct latency *l)
{
    const struct options *o = l->options;
    uint64_t seed = (uint64_t)o->seed;
    size_t repeat = (size_t)o->repeat;
    int64_t n_prompt = o->batch_size * o->input_len;
    l->prompt = random_ids(n_prompt, l->config.vocab_size, seed, 0);
    l->fed = random_ids(o->batch_size * (o->output_len - 1), l->config.vocab_size, seed, n_prompt);
    l->entry = calloc((size_t)o->batch_size, sizeof *l->entry);
    l->chunk = calloc((size_t)engine_max_batched_tokens(l->engine), sizeof *l->chunk);
    double **figures[] = {&l->ttft_ms,      &l->tpot_ms,  &l->total_ms,  &l->probe_gb_s,
                          &l->peak_gflop_s, &l->readable, &l->computable};
    int is_short = l->prompt == NULL || l->fed == NULL || l->entry == NULL || l->chunk == NULL;
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++) {
        *figures[i] = calloc(repeat, sizeof **figures[i]);
        is_short |= *figures[i] == NULL;
    }
    if (is_short)
        FAIL(STATUS_NO_MEMORY, "no memory for the ids of %lld sequences", (long long)o->batch_size);
    return STATUS_OK;
}

static enum status count_logits(void *context, int entry, int token, const float *logits)
{
    struct latency *l = context;
    (void)entry, (void)token, (void)logits;
    l->n_logits++;
    return STATUS_OK;
}

/* Ends steps until at most `most` are on their way. */
static enum status end_steps(struct latency *l, int most)
{
    for (; l->n_flights > most; l->n_flights--)
        TRY(engine_end_step(l->engine, count_logits, l));
    return STATUS_OK;
}

/* Begins a step once fewer than `depth` are on their way. */
static enum status run_step(struct latency *l, int n_entries, const int32_t *ids, int64_t n_tokens,
                            int depth)
{
    const struct step_plan plan = {
        .n_entries = n_entries, .n_tokens = (int32_t)n_tokens, .entry = l->entry, .ids = ids};
    TRY(end_steps(l, depth - 1));
    TRY(engine_begin_step(l->engine, &plan));
    l->n_flights++;
    l->n_done += n_tokens;
    progress_show(&l->progress, l->n_done,
                  (l->options->repeat + 1) * l->options->batch_size *
                      (l->options->input_len + l->options->output_len - 1),
                  NULL);
    return STATUS_OK;
}

/* Prompts that go through together: one of each replica, or as many as fit a step. */
static int64_t prompts_together(const struct latency *l)
{
    int64_t most = engine_max_batched_tokens(l->engine), n = engine_replicas(l->engine);
    int64_t fitting = most / (n * l->options->input_len);
    n *= fitting > 0 ? fitting : 1;
    n = n < most ? n : most;
    return n < l->options->batch_size ? n : l->options->batch_size;
}

/* Tokens [offset, offset + count) of the prompts [first, first + n). */
static enum status run_chunk(struct latency *l, int64_t first, int64_t n, int64_t offset,
                             int64_t count)
{
    int64_t length = l->options->input_len, is_last = offset + count == length;
    for (int64_t i = 0; i < n; i++) {
        l->entry[i] = (struct step_entry){.sequence = (int32_t)(first + i),
                                          .n_tokens = (int32_t)count,
                                          .first_logits = (int32_t)(is_last ? count - 1 : count)};
        memcpy(l->chunk + i * count, l->prompt + (first + i) * length + offset,
               (size_t)count * sizeof *l->chunk);
    }
    return run_step(l, (int)n, l->chunk, n * count, engine_depth(l->engine));
}

/* The prompts, cut into steps of as many tokens as the engine takes. */
static enum status prefill(struct latency *l)
{
    int64_t batch = l->options->batch_size, length = l->options->input_len;
    int64_t together = prompts_together(l), n;
    for (int64_t first = 0; first < batch; first += n) {
        n = batch - first < together ? batch - first : together;
        int64_t most = engine_max_batched_tokens(l->engine) / n;
        for (int64_t offset = 0, count; offset < length; offset += count) {
            count = length - offset < most ? length - offset : most;
            TRY(run_chunk(l, first, n, offset, count));
        }
    }
    return end_steps(l, 0);
}

/* Parties that take their steps in turn, so that all stages are at work. */
static int count_parties(const struct latency *l)
{
    int64_t batch = l->options->batch_size, depth = engine_depth(l->engine);
    return (int)(batch < depth ? batch : depth);
}

static enum status decode(struct latency *l)
{
    int64_t batch = l->options->batch_size;
    int n_parties = count_parties(l);
    for (int64_t step = 0; step < l->options->output_len - 1; step++)
        for (int p = 0; p < n_parties; p++) {
            struct span party = span_part(batch, n_parties, p);
            for (int64_t i = party.begin; i < party.end; i++)
                l->entry[i - party.begin] =
                    (struct step_entry){.sequence = (int32_t)i, .n_tokens = 1, .first_logits = 0};
            TRY(run_step(l, (int)span_size(party), l->fed + step * batch + party.begin,
                         span_size(party), n_parties));
        }
    return end_steps(l, 0);
}

static enum status run_once(struct latency *l, int is_measured)
{
    const struct options *o = l->options;
    int64_t begin_ns = progress_now_ns();
    TRY(prefill(l));
    int64_t first_ns = progress_now_ns();
    TRY(decode(l));
    int64_t end_ns = progress_now_ns();
    for (int i = 0; i < o->batch_size; i++)
        engine_release(l->engine, i);
    if (!is_measured)
        return STATUS_OK;
    l->ttft_ms[l->n_measured] = (double)(first_ns - begin_ns) * 1e-6;
    l->tpot_ms[l->n_measured] = (double)(end_ns - first_ns) * 1e-6 / (double)(o->output_len - 1);
    l->total_ms[l->n_measured++] = (double)(end_ns - begin_ns) * 1e-6;
    return STATUS_OK;
}

/* What the machine gave around the last run. */
static void hold_against(struct latency *l, const struct probe *probe)
{
    int i = l->n_measured - 1;
    l->readable[i] = l->computable[i] = l->probe_gb_s[i] = l->peak_gflop_s[i] = (double)NAN;
    if (!engine_backend(l->engine)->device->is_host)
        return; /* the CPU is no measure of a GPU */
    l->probe_gb_s[i] = probe->read_gb_s;
    l->peak_gflop_s[i] = probe->fma_gflop_s;
    l->readable[i] = probe->read_gb_s * 1e6 * l->tpot_ms[i];
    l->computable[i] = probe->fma_gflop_s * 1e6 * l->ttft_ms[i];
}

static enum status end_runs(struct latency *l)
{
    const struct options *o = l->options;
    struct latency_result *r = &l->result;
    int n = l->n_measured, n_decoded = o->output_len > 1 ? n : 0;
    if (l->n_logits != (o->repeat + 1) * o->batch_size * o->output_len)
        FAIL(STATUS_INVALID, "%lld rows of logits came", (long long)l->n_logits);
    r->ttft_ms = bench_spread_of(l->ttft_ms, n);
    r->tpot_ms = bench_spread_of(l->tpot_ms, n_decoded);
    r->total_ms = bench_spread_of(l->total_ms, n);
    r->probe_gb_s = bench_spread_of(l->probe_gb_s, n);
    r->fma_peak_gflop_s = bench_spread_of(l->peak_gflop_s, n);
    r->readable_bytes = bench_spread_of(l->readable, n_decoded);
    r->computable_flop = bench_spread_of(l->computable, n);
    return STATUS_OK;
}

/* Collective: a run on all ranks, which leave the engine's work behind it to sample the machine. */
static enum status run_together(struct latency *l, int is_measured)
{
    struct job *job = l->job;
    enum status status, rested = STATUS_OK;
    if (job_is_root(job)) {
        status = run_once(l, is_measured);
        rested = engine_rest(l->engine);
    } else {
        status = engine_work(l->engine);
    }
    TRY(failure_from_root(&job->world, job_is_root(job) && status == STATUS_OK ? rested : status));
    return STATUS_OK;
}

/* Collective: samples and runs by turns; the first run warms up. */
static enum status measure(struct latency *l, struct prober *prober)
{
    struct probe before = {0}, after = {0};
    int samples = engine_backend(l->engine)->device->is_host;
    TRY(failure_from_root(&l->job->world, job_is_root(l->job) ? make_work(l) : STATUS_OK));
    TRY(run_together(l, 0));
    if (samples)
        TRY(probe_sample(&before, prober));
    for (int64_t i = 0; i < l->options->repeat; i++, before = after) {
        TRY(run_together(l, 1));
        if (samples)
            TRY(probe_sample(&after, prober));
        const struct probe mean = probe_mean(&before, &after);
        if (job_is_root(l->job))
            hold_against(l, &mean);
    }
    return failure_from_root(&l->job->world, job_is_root(l->job) ? end_runs(l) : STATUS_OK);
}

/* What one rank says of its steps. */
struct share {
    int64_t node, experts, batch; /* sequences of its replica */
    struct bench_reads reads;
};
enum { SHARE_WORDS = sizeof(struct share) / sizeof(int64_t) };

static struct share own_share(const struct latency *l)
{
    struct engine_memory memory;
    engine_memory(l->engine, &memory);
    int n_parties = count_parties(l); /* a round is a step of each */
    return (struct share){.node = l->job->process.node,
                          .experts = trace_value(TRACE_DECODE_EXPERTS),
                          .batch = engine_own_sequences(l->engine, (int)l->options->batch_size),
                          .reads = {.dense_bytes = memory.dense_bytes * n_parties,
                                    .expert_bytes = trace_value(TRACE_DECODE_EXPERT_BYTES),
                                    .n_steps = trace_value(TRACE_DECODE_STEPS) / n_parties,
                                    .cache_token_bytes = memory.stage_token_bytes,
                                    .cache_members = memory.cache_members}};
}

/* What the options chose; "auto" stands for the kinds that the checkpoint has. */
static void keep_dtypes(struct latency *l)
{
    const struct options *o = l->options;
    l->result.weight_dtype = o->weight_dtype == WEIGHT_INT8 ? "int8" : "auto";
    l->result.activation_dtype = engine_rounds_inputs(l->engine) ? "bf16" : "f32";
    l->result.kv_cache_dtype = o->kv_cache_dtype == CACHE_F32          ? "f32"
                               : o->kv_cache_dtype == CACHE_FP8_DS_MLA ? "fp8_ds_mla"
                                                                       : "bf16";
}

static void keep_memory(struct latency *l)
{
    struct engine_memory memory;
    engine_memory(l->engine, &memory);
    l->result.cache_members = memory.cache_members;
    l->result.kv_placement = memory.cache_members > 1 ? memory.kv_placement : KV_REPLICATED;
    l->result.cache_bytes = memory.cache_bytes;
    l->result.replicated_cache_bytes = memory.replicated_cache_bytes;
}

/* Adds up what all ranks read in a step. */
static enum status sum_shares(struct latency *l, struct share *own)
{
    const struct options *o = l->options;
    int n = l->job->process.size;
    struct share *share = calloc((size_t)n, sizeof *share);
    int64_t *counts = calloc((size_t)n, sizeof *counts);
    enum status status = share == NULL || counts == NULL
                             ? status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__,
                                           "no memory for the counters of %d ranks", n)
                             : STATUS_OK;
    TRY_GOTO(status, end, comm_agree(&l->job->world, status));
    for (int i = 0; i < n; i++)
        counts[i] = SHARE_WORDS;
    struct tensor x = tensor_1d(own, DTYPE_I64, SHARE_WORDS);
    struct tensor y = tensor_1d(share, DTYPE_I64, (int64_t)n * SHARE_WORDS);
    TRY_GOTO(status, end, l->job->world.ops->all_gather(&l->job->world, &y, &x, counts, NULL));
    for (int i = 0; i < n; i++) {
        double bytes =
            bench_step_bytes(&share[i].reads, share[i].batch, o->input_len, o->output_len);
        l->result.job_step_bytes += bytes;
        l->result.node_step_bytes += share[i].node == share[0].node ? bytes : 0;
        l->result.experts_per_step += (double)share[i].experts / (double)share[i].reads.n_steps;
    }
end:
    free(share);
    free(counts);
    return status;
}

static enum status report(struct latency *l)
{
    const struct options *o = l->options;
    struct latency_result *r = &l->result;
    TRY(job_mesh(&r->mesh, l->job, &l->config));
    r->model = o->model;
    r->n_threads = l->job->n_threads;
    r->n_nodes = l->job->process.n_nodes;
    r->repeat = (int)o->repeat;
    r->batch = o->batch_size;
    r->input_len = o->input_len;
    r->output_len = o->output_len;
    r->prefill_flop = bench_prefill_flop(&l->config, o->batch_size, o->input_len);
    return latency_report(r, o->json);
}

static enum status run_all_ranks(struct latency *l, struct job *job)
{
    const struct options *o = l->options;
    int64_t load_ns, tokens = o->input_len + o->output_len;
    TRY(comm_agree(&job->world, prepare(l)));
    const struct job_capacity capacity = {
        .max_model_len = (int)(o->max_model_len > 0 ? o->max_model_len : tokens),
        .max_num_seqs = (int)o->batch_size,
        .max_num_batched_tokens = (int)o->max_num_batched_tokens,
        .cache_pages = o->batch_size * latent_cache_pages(1, tokens)};
    TRY(job_open_engine(&l->engine, &load_ns, job, &capacity));
    l->result.load_s = (double)load_ns * 1e-9;

    struct prober *prober = NULL;
    enum status status = probe_open(&prober, &job->world, &job->process);
    progress_begin(&l->progress, "bench", PROGRESS_TOKENS, job_is_root(job));
    if (status == STATUS_OK)
        status = measure(l, prober);
    progress_end(&l->progress);
    probe_close(prober);
    struct share own = own_share(l);
    keep_dtypes(l);
    keep_memory(l);
    l->result.isa = engine_backend(l->engine)->ops->name;
    if (!engine_backend(l->engine)->device->is_host)
        own.reads.n_steps = 0; /* the experts that were chosen are known to the device alone */
    if (!job_is_root(job) && engine_work(l->engine) != STATUS_OK) /* until rank 0 closes */
        log_print(LOG_WARN, "%s", status_text());
    engine_close(l->engine);
    TRY(status);
    TRY(sum_shares(l, &own));
    TRY(failure_from_root(&job->world, job_is_root(job) ? report(l) : STATUS_OK));
    return job_write_expert_load(job);
}

enum status bench_latency_run(const struct options *options, struct job *job)
{
    struct latency *l = calloc(1, sizeof *l);
    enum status status = l != NULL ? STATUS_OK : STATUS_NO_MEMORY;
    TRY(comm_agree(&job->world, status));
    l->options = options;
    l->job = job;
    status = run_all_ranks(l, job);
    free(l->prompt);
    free(l->fed);
    free(l->chunk);
    free(l->entry);
    free(l->ttft_ms);
    free(l->tpot_ms);
    free(l->total_ms);
    free(l->probe_gb_s);
    free(l->peak_gflop_s);
    free(l->readable);
    free(l->computable);
    free(l);
    return status;
}
