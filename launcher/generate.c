/* generate.c - completes prompts, some of them side by side.
 *
 * Rank 0 reads and checks the prompts before anything is loaded, and all ranks
 * learn how that went; then rank 0 generates while the others execute its steps. */
#include "kernels/core/log.h"
#include "kernels/core/trace.h"
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/logits_dump.h"
#include "launcher/model_tokenizer.h"
#include "launcher/prompts.h"
#include "launcher/report.h"
#include "runtime/generation.h"
#include "runtime/latent_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A prompt on its way. */
struct one {
    struct generate *generate;
    struct logits_dump *dump; /* NULL: not wanted */
    int64_t n_prefilled;
};

/* What rank 0 works on. */
struct generate {
    const struct options *options;
    struct job *job;
    struct model_config config;
    struct tokenizer *tokenizer; /* NULL: the model works with ids only */
    struct prompt_list prompts;
    struct one *one; /* [prompts.count] */
    struct engine *engine;
    struct progress progress;
    struct generation_request *request; /* [prompts.count] */
    struct generation_result *result;   /* [prompts.count] */
    unsigned char *has_ended;           /* [prompts.count] */
    int n_out;                          /* completions that went out, in order */
    json_t *completions;
    int streams; /* text goes out as it comes */
    int64_t n_prefilled, n_prompt_tokens;
    int64_t load_ns, prefill_ns, decode_ns, all_ns, n_generated, n_intervals;
};

enum { DEFAULT_SEQUENCES = 16 };

/* The file of --dump-logits, or with several prompts that with the number of the prompt behind it. */
static enum status open_dump(struct generate *generate, int index)
{
    const char *path = generate->options->dump_logits;
    char numbered[4096];
    if (path == NULL)
        return STATUS_OK;
    if (generate->prompts.count > 1) {
        snprintf(numbered, sizeof numbered, "%s-%d", path, index);
        path = numbered;
    }
    return logits_dump_open(&generate->one[index].dump, path, generate->config.vocab_size);
}

/* Everything that can be wrong with the request, before the weights are read. */
static enum status prepare(struct generate *generate)
{
    const struct options *options = generate->options;
    int64_t limit = options->max_model_len;
    TRY(model_config_load(&generate->config, options->model));
    TRY(model_config_check_supported(&generate->config, options->model));
    TRY(model_tokenizer_open(&generate->tokenizer, options->model, &generate->config));
    if (options->stop.count > 0 && generate->tokenizer == NULL)
        FAIL(STATUS_USAGE, "--stop: %s has no tokenizer.json, so there is no text to stop at",
             options->model);
    if (options->logprobs > generate->config.vocab_size)
        FAIL(STATUS_USAGE, "--logprobs %lld: the vocabulary has %lld tokens",
             (long long)options->logprobs, (long long)generate->config.vocab_size);
    if (limit > generate->config.max_position)
        FAIL(STATUS_USAGE,
             "--max-model-len %lld: the model takes 1 to %d (max_position_embeddings of %s)",
             (long long)limit, generate->config.max_position, options->model);
    if (limit == 0)
        limit = generate->config.max_position;
    TRY(prompts_read(&generate->prompts, options, generate->tokenizer, &generate->config, limit));
    generate->one = calloc((size_t)generate->prompts.count, sizeof *generate->one);
    if (generate->one == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d prompts", generate->prompts.count);
    for (int i = 0; i < generate->prompts.count; i++) {
        generate->one[i].generate = generate;
        TRY(open_dump(generate, i));
    }
    return STATUS_OK;
}

static void on_text(void *context, const char *text, size_t length)
{
    struct one *one = context;
    struct generate *generate = one->generate;
    progress_end(&generate->progress);
    if (report_bytes(text, length) != STATUS_OK) {
        /* nobody reads on: ending all ranks here saves the rest of the run */
        failure_print();
        process_abort(&generate->job->process, EXIT_FAILURE);
    }
    if (length > 0)
        failure_line_open(1, text[length - 1] != '\n');
}

static enum status on_logits(void *context, int64_t position, const float *logits)
{
    struct one *one = context;
    (void)position;
    return logits_dump_push(one->dump, logits);
}

/* Prompts of several replicas run at the same time. */
static void on_prefill(void *context, int64_t done, int64_t total)
{
    struct one *one = context;
    struct generate *generate = one->generate;
    (void)total;
    generate->n_prefilled += done - one->n_prefilled;
    one->n_prefilled = done;
    progress_show(&generate->progress, generate->n_prefilled, generate->n_prompt_tokens, NULL);
}

static struct generation_request request_of(struct generate *generate, int index)
{
    const struct options *options = generate->options;
    const struct token_list *prompt = &generate->prompts.prompt[index];
    struct generation_request request = {
        .prompt = prompt->id,
        .n_prompt = prompt->count,
        .max_tokens = (int)options->max_tokens,
        .sampling = {.temperature = (float)options->temperature,
                     .top_p = (float)options->top_p,
                     .top_k = (int)options->top_k,
                     .min_p = (float)options->min_p,
                     .seed = (uint64_t)options->seed},
        .ignore_eos = options->ignore_eos,
        .n_logprobs = (int)options->logprobs,
        .stop = (const char *const *)options->stop.text,
        .n_stop = options->stop.count,
        .on_text = generate->streams ? on_text : NULL,
        .on_logits = options->dump_logits != NULL ? on_logits : NULL,
        .on_prefill = on_prefill,
        .context = &generate->one[index],
    };
    return request;
}

static json_t *logprobs_json(const struct generation_result *result, int n_top)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < result->ids.count; i++) {
        json_t *top = json_array();
        for (int j = 0; j < n_top; j++) {
            const struct token_logprob *other = &result->top_logprob[i * n_top + j];
            json_array_append_new(top, json_pack("{s:i, s:o}", "id", (int)other->id, "logprob",
                                                 report_real((double)other->logprob)));
        }
        json_array_append_new(
            array, json_pack("{s:i, s:o, s:o}", "id", (int)result->logprob[i].id, "logprob",
                             report_real((double)result->logprob[i].logprob), "top", top));
    }
    return array;
}

static void add_completion(struct generate *generate, const struct token_list *prompt,
                           const struct generation_result *result)
{
    json_t *completion =
        json_pack("{s:o, s:o, s:s, s:I}", "ids", report_ids(result->ids.id, result->ids.count),
                  "text", report_text(result->text, result->text_length), "finish_reason",
                  result->stopped ? "stop" : "length", "prompt_tokens", (json_int_t)prompt->count);
    if (generate->options->logprobs >= 0)
        json_object_set_new(completion, "logprobs",
                            logprobs_json(result, (int)generate->options->logprobs));
    json_array_append_new(generate->completions, completion);
}

static enum status print_completion(struct generate *generate,
                                    const struct generation_result *result)
{
    if (generate->tokenizer == NULL)
        return report_id_line(result->ids.id, result->ids.count);
    if (!generate->streams)
        TRY(report_bytes(result->text, result->text_length));
    failure_line_open(1, 0);
    return report_bytes("\n", 1);
}

/* The next completion in order. */
static enum status put_out(struct generate *generate)
{
    const struct token_list *prompt = &generate->prompts.prompt[generate->n_out];
    struct logits_dump *dump = generate->one[generate->n_out].dump;
    struct generation_result *result = &generate->result[generate->n_out++];
    enum status status = STATUS_OK;
    if (dump != NULL)
        status =
            logits_dump_finish(dump, prompt->id, prompt->count, result->ids.id, result->ids.count);
    if (status == STATUS_OK && generate->options->json)
        add_completion(generate, prompt, result);
    else if (status == STATUS_OK)
        status = print_completion(generate, result);
    generation_result_free(result);
    return status;
}

/* generation_sink: completions wait here for those before them. */
static enum status on_end(void *context, int index, const struct generation_result *result)
{
    struct generate *generate = context;
    generate->result[index] = *result;
    generate->has_ended[index] = 1;
    generate->prefill_ns += result->prefill_ns;
    generate->decode_ns += result->decode_ns;
    generate->n_generated += result->ids.count;
    generate->n_intervals += result->ids.count > 0 ? result->ids.count - 1 : 0;
    progress_end(&generate->progress);
    while (generate->n_out < generate->prompts.count && generate->has_ended[generate->n_out])
        TRY(put_out(generate));
    return STATUS_OK;
}

static enum status complete(struct generate *generate)
{
    int count = generate->prompts.count;
    generate->request = calloc((size_t)count, sizeof *generate->request);
    generate->result = calloc((size_t)count, sizeof *generate->result);
    generate->has_ended = calloc((size_t)count, 1);
    if (generate->request == NULL || generate->result == NULL || generate->has_ended == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d completions", count);
    for (int i = 0; i < count; i++) {
        generate->request[i] = request_of(generate, i);
        generate->n_prompt_tokens += generate->prompts.prompt[i].count;
    }
    int64_t begin_ns = progress_now_ns();
    progress_begin(&generate->progress, "prefill", PROGRESS_TOKENS, 1);
    enum status status = generation_run_all(generate->engine, generate->tokenizer,
                                            generate->request, count, on_end, generate);
    progress_end(&generate->progress);
    generate->all_ns = progress_now_ns() - begin_ns;
    return status;
}

/* Mean over prompts, and over the gaps between a prompt's tokens; not a number where there were none. */
static double ttft_ms(const struct generate *generate)
{
    return (double)generate->prefill_ns * 1e-6 / generate->prompts.count;
}

static double tpot_ms(const struct generate *generate)
{
    return (double)generate->decode_ns * 1e-6 / (double)generate->n_intervals;
}

static json_t *counters_json(void)
{
    json_t *counters = json_object();
    for (int i = 0; i < TRACE_COUNTERS; i++)
        json_object_set_new(counters, trace_name((enum trace_counter)i),
                            json_integer(trace_value((enum trace_counter)i)));
    return counters;
}

static json_t *cache_json(const struct generate *generate)
{
    struct engine_memory memory;
    engine_memory(generate->engine, &memory);
    return json_pack(
        "{s:I, s:I, s:s, s:I, s:I}", "bytes_per_token", (json_int_t)memory.cache_token_bytes,
        "expanded_bytes_per_token", (json_int_t)memory.expanded_token_bytes, "placement",
        report_placement(memory.kv_placement), "rank_bytes", (json_int_t)memory.cache_bytes,
        "replicated_rank_bytes", (json_int_t)memory.replicated_cache_bytes);
}

static enum status print_json(struct generate *generate)
{
    struct mesh mesh;
    const char *model = generate->options->model;
    TRY(job_mesh(&mesh, generate->job, engine_config(generate->engine)));
    json_t *root = json_pack(
        "{s:o, s:i, s:i, s:i, s:i, s:i, s:O, s:{s:o, s:o, s:o, s:o}, s:o, s:o}", "model",
        report_text(model, strlen(model)), "ranks", mesh.world.size, "tp", mesh.tp.size, "ep",
        mesh.ep.size, "dp", mesh.dp.size, "pp", mesh.pp.size, "completions", generate->completions,
        "timing", "load_s", report_real((double)generate->load_ns * 1e-9), "ttft_ms",
        report_real(ttft_ms(generate)), "tpot_ms", report_real(tpot_ms(generate)), "total_s",
        report_real((double)generate->all_ns * 1e-9), "cache", cache_json(generate), "counters",
        counters_json());
    return report_json(root);
}

/* One line on stderr, after the text. */
static void print_summary(const struct generate *generate)
{
    struct engine_memory memory;
    char line[512], rate[64] = "", share[160] = "", own[64], whole[64];
    double seconds = (double)generate->all_ns * 1e-9;
    engine_memory(generate->engine, &memory);
    if (generate->n_intervals > 0)
        snprintf(rate, sizeof rate, ", %.2f ms per token", tpot_ms(generate));
    if (memory.cache_members > 1)
        snprintf(share, sizeof share, ", %s on each rank (replicated: %s)",
                 report_size(own, sizeof own, memory.cache_bytes),
                 report_size(whole, sizeof whole, memory.replicated_cache_bytes));
    snprintf(line, sizeof line,
             "latentrank: %lld tokens in %.2f s (first after %.1f ms%s), %.1f tokens/s, %d rank%s, "
             "cache %lld bytes per token (keys and values of all heads: %lld)%s",
             (long long)generate->n_generated, seconds, ttft_ms(generate), rate,
             seconds > 0 ? (double)generate->n_generated / seconds : 0.0,
             generate->job->process.size, generate->job->process.size == 1 ? "" : "s",
             (long long)memory.cache_token_bytes, (long long)memory.expanded_token_bytes, share);
    fprintf(stderr, "%s\n", line);
}

static enum status complete_all(struct generate *generate)
{
    generate->completions = json_array();
    generate->streams =
        generate->prompts.count == 1 && !generate->options->json && generate->tokenizer != NULL;
    TRY(complete(generate));
    if (generate->options->json)
        return print_json(generate);
    print_summary(generate);
    return STATUS_OK;
}

static void generate_close(struct generate *generate)
{
    for (int i = 0; generate->result != NULL && i < generate->prompts.count; i++)
        generation_result_free(&generate->result[i]);
    free(generate->request);
    free(generate->result);
    free(generate->has_ended);
    json_decref(generate->completions);
    for (int i = 0; generate->one != NULL && i < generate->prompts.count; i++)
        logits_dump_close(generate->one[i].dump);
    free(generate->one);
    prompts_free(&generate->prompts);
    tokenizer_close(generate->tokenizer);
    free(generate);
}

static int compare_descending(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* What the prompts need at most: room for the longest sequence, and pages for as many of the longest as
 * run side by side. */
static enum status measure(struct job_capacity *capacity, const struct generate *generate)
{
    const struct options *options = generate->options;
    int64_t limit =
        options->max_model_len > 0 ? options->max_model_len : generate->config.max_position;
    int count = generate->prompts.count;
    int64_t *rows = malloc((size_t)count * sizeof *rows);
    if (rows == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the lengths of %d prompts", count);
    for (int i = 0; i < count; i++) {
        rows[i] = generate->prompts.prompt[i].count + options->max_tokens;
        rows[i] = rows[i] < limit ? rows[i] : limit;
    }
    qsort(rows, (size_t)count, sizeof *rows, compare_descending);
    int64_t wanted = options->max_num_seqs > 0 ? options->max_num_seqs : DEFAULT_SEQUENCES;
    capacity->max_num_seqs = (int)(wanted < count ? wanted : count);
    capacity->max_model_len = (int)rows[0];
    for (int i = 0; i < capacity->max_num_seqs; i++)
        capacity->cache_pages += latent_cache_pages(1, rows[i]);
    free(rows);
    return STATUS_OK;
}

static enum status run_all_ranks(struct generate *generate, struct job *job)
{
    struct job_capacity capacity = {.lowers_max_model_len = generate->options->max_model_len == 0,
                                    .max_num_batched_tokens =
                                        (int)generate->options->max_num_batched_tokens};
    enum status status = job_is_root(job) ? prepare(generate) : STATUS_OK;
    if (status == STATUS_OK && job_is_root(job))
        status = measure(&capacity, generate);
    TRY(failure_from_root(&job->world, status));
    TRY(comm_broadcast_bytes(&job->world, &capacity, sizeof capacity, 0));
    TRY(job_open_engine(&generate->engine, &generate->load_ns, job, &capacity));
    status = job_is_root(job) ? complete_all(generate) : engine_work(generate->engine);
    engine_close(generate->engine); /* on rank 0 this ends the engine_work of the others */
    TRY(comm_agree(&job->world, job_is_root(job) ? STATUS_OK : status));
    TRY(failure_from_root(&job->world, status));
    return job_write_expert_load(job);
}

enum status generate_run(const struct options *options, struct job *job)
{
    struct generate *generate = calloc(1, sizeof *generate);
    TRY(comm_agree(&job->world, generate != NULL ? STATUS_OK : STATUS_NO_MEMORY));
    generate->options = options;
    generate->job = job;
    enum status status = run_all_ranks(generate, job);
    generate_close(generate);
    return status;
}
