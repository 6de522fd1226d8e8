/* eval.c - perplexity of a text: windows of tokens that do not overlap, each
 * scored with BOS as context only. */
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/model_tokenizer.h"
#include "launcher/prompts.h"
#include "launcher/report.h"
#include "launcher/text_input.h"
#include "runtime/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW_MAX = 4096 }; /* default where the model's context is longer */

/* What rank 0 works on. */
struct eval {
    const struct options *options;
    struct job *job;
    struct model_config config;
    struct tokenizer *tokenizer;
    struct token_list ids; /* of the whole text, without BOS */
    struct engine *engine;
    struct progress progress;
    size_t bytes;
    int32_t bos;           /* -1: none */
    int32_t window;        /* tokens of the text in a window */
    const int32_t *target; /* of the first token of the step that runs */
    double nll;            /* nats */
    int64_t scored, done;
    int64_t load_ns;
};

static int32_t window_of(const struct options *options, const struct model_config *config)
{
    if (options->max_model_len != 0)
        return (int32_t)options->max_model_len;
    return config->max_position < WINDOW_MAX ? config->max_position : WINDOW_MAX;
}

static enum status prepare(struct eval *eval)
{
    const struct options *options = eval->options;
    char *text = NULL;
    TRY(model_tokenizer_open(&eval->tokenizer, options->model, &eval->config));
    if (eval->tokenizer == NULL)
        FAIL(STATUS_IO, "%s: no tokenizer.json there: eval needs one", options->model);
    TRY(prompts_bos(&eval->bos, options, eval->tokenizer, &eval->config));
    TRY(text_input_read(&text, &eval->bytes, options->text_file));
    enum status status = tokenizer_encode(eval->tokenizer, text, eval->bytes, &eval->ids);
    free(text);
    TRY(status);
    TRY(prompts_check_ids(&eval->ids, eval->config.vocab_size, options->text_file));
    if (eval->ids.count < (eval->bos >= 0 ? 1 : 2))
        FAIL(STATUS_USAGE, "%s: %lld tokens: there is none to score", options->text_file,
             (long long)eval->ids.count);
    if (eval->bos < 0 && eval->window < 2)
        FAIL(STATUS_USAGE, "--max-model-len 1: without BOS a window needs at least 2 tokens");
    return STATUS_OK;
}

/* logits_sink: scores the token that follows. */
static enum status score(void *context, int entry, int token, const float *logits)
{
    struct eval *eval = context;
    (void)entry;
    double logprob = sampler_log_softmax(logits, eval->config.vocab_size, eval->target[token]);
    if (!isfinite(logprob))
        FAIL(STATUS_INVALID, "the model gave no finite probability for token %lld of the text",
             (long long)(eval->target + token - eval->ids.id));
    eval->nll -= logprob;
    eval->scored++;
    return STATUS_OK;
}

/* One window: `input[count]` in chunks; target[i] follows input[i]. */
static enum status run_window(struct eval *eval, const int32_t *input, const int32_t *target,
                              int32_t count)
{
    int32_t chunk = engine_max_batched_tokens(eval->engine);
    for (int32_t begin = 0; begin < count; begin += chunk) {
        int32_t n = count - begin < chunk ? count - begin : chunk;
        struct step_entry entry = {.sequence = 0, .n_tokens = n, .first_logits = 0};
        struct step_plan plan = {
            .n_entries = 1, .n_tokens = n, .entry = &entry, .ids = input + begin};
        char more[64];
        eval->target = target + begin;
        TRY(engine_step(eval->engine, &plan, score, eval));
        snprintf(more, sizeof more, "ppl %.4f", exp(eval->nll / (double)eval->scored));
        progress_show(&eval->progress, eval->done + begin + n, eval->ids.count, more);
    }
    engine_release(eval->engine, 0);
    return STATUS_OK;
}

static enum status score_all(struct eval *eval, int32_t *input)
{
    for (int64_t begin = 0; begin < eval->ids.count; begin += eval->window) {
        const int32_t *ids = eval->ids.id + begin;
        int64_t left = eval->ids.count - begin;
        int32_t n = (int32_t)(left < eval->window ? left : eval->window);
        if (eval->bos >= 0) {
            input[0] = eval->bos;
            memcpy(input + 1, ids, (size_t)(n - 1) * sizeof *ids);
            TRY(run_window(eval, input, ids, n));
        } else if (n > 1) {
            TRY(run_window(eval, ids, ids + 1, n - 1));
        }
        eval->done += n;
    }
    return STATUS_OK;
}

static enum status print_result(const struct eval *eval)
{
    char text[512];
    double per_token = eval->nll / (double)eval->scored;
    double bits_per_byte = eval->nll / log(2.0) / (double)eval->bytes;
    if (eval->options->json)
        return report_json(
            json_pack("{s:I, s:o, s:o, s:o, s:I, s:i, s:o, s:i}", "tokens",
                      (json_int_t)eval->scored, "nll", report_real(eval->nll), "ppl",
                      report_real(exp(per_token)), "bits_per_byte", report_real(bits_per_byte),
                      "bytes", (json_int_t)eval->bytes, "window", (int)eval->window, "load_s",
                      report_real((double)eval->load_ns * 1e-9), "ranks", eval->job->process.size));
    snprintf(text, sizeof text,
             "tokens         %lld\nnll            %.6f\nppl            %.6f\n"
             "bits_per_byte  %.6f\nbytes          %zu",
             (long long)eval->scored, eval->nll, exp(per_token), bits_per_byte, eval->bytes);
    return report_line(text);
}

static enum status score_text(struct eval *eval)
{
    int32_t *input = malloc((size_t)eval->window * sizeof *input);
    if (input == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a window of %d tokens", (int)eval->window);
    progress_begin(&eval->progress, "eval", PROGRESS_TOKENS, 1);
    enum status status = score_all(eval, input);
    progress_end(&eval->progress);
    free(input);
    TRY(status);
    return print_result(eval);
}

static enum status run_all_ranks(struct eval *eval, struct job *job)
{
    enum status status = model_config_load(&eval->config, eval->options->model);
    if (status == STATUS_OK)
        status = model_config_check_supported(&eval->config, eval->options->model);
    TRY(comm_agree(&job->world, status));
    eval->window = window_of(eval->options, &eval->config);
    TRY(failure_from_root(&job->world, job_is_root(job) ? prepare(eval) : STATUS_OK));
    const struct job_capacity capacity = {.max_model_len = eval->window,
                                          .max_num_seqs = 1,
                                          .max_num_batched_tokens =
                                              (int)eval->options->max_num_batched_tokens};
    TRY(job_open_engine(&eval->engine, &eval->load_ns, job, &capacity));
    status = job_is_root(job) ? score_text(eval) : engine_work(eval->engine);
    engine_close(eval->engine); /* on rank 0 this ends the engine_work of the others */
    TRY(comm_agree(&job->world, job_is_root(job) ? STATUS_OK : status));
    TRY(failure_from_root(&job->world, status));
    return job_write_expert_load(job);
}

enum status eval_run(const struct options *options, struct job *job)
{
    struct eval *eval = calloc(1, sizeof *eval);
    TRY(comm_agree(&job->world, eval != NULL ? STATUS_OK : STATUS_NO_MEMORY));
    eval->options = options;
    eval->job = job;
    enum status status = run_all_ranks(eval, job);
    token_list_free(&eval->ids);
    tokenizer_close(eval->tokenizer);
    free(eval);
    return status;
}
