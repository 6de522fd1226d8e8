/* One prompt to its end.  Text goes through two gates before it is emitted: bytes wait
 * until they are whole characters, characters wait while they could be the beginning of a stop
 * string.  Which stop string wins does not depend on how tokens cut the text: it is the one that
 * ends first, of those the longest. */
#include "runtime/generation.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct text_stream {
    struct utf8_stream utf8;
    char *data; /* whole characters, NUL-terminated */
    size_t length, capacity;
    size_t emitted; /* bytes of data that went to on_text */
};

struct run {
    const struct generation_request *request;
    const struct tokenizer *tokenizer;
    struct engine *engine;
    struct sampler *sampler; /* NULL when nothing is to be drawn */
    struct generation_result *result;
    struct text_stream text;
    int64_t budget;            /* tokens that may be generated */
    int64_t n_run;             /* tokens that went through the model */
    int32_t drawn;             /* by the last step */
    int64_t logprobs_capacity; /* in tokens */
    enum status sink_status;   /* first failure while logits came in */
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static enum status text_reserve(struct text_stream *text, size_t more)
{
    const size_t wanted = text->length + more + 1;
    if (wanted <= text->capacity)
        return STATUS_OK;
    const size_t capacity = 2 * wanted;
    char *data = realloc(text->data, capacity);
    if (data == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %zu bytes of generated text", capacity);
    text->data = data;
    text->capacity = capacity;
    return STATUS_OK;
}

/* Looks at all ends past `old_length`; cuts the text before the stop string it finds. */
static int text_cut_at_stop(struct text_stream *text, size_t old_length,
                            const struct generation_request *request)
{
    for (size_t end = old_length + 1; end <= text->length; end++) {
        size_t longest = 0;
        for (int i = 0; i < request->n_stop; i++) {
            const size_t length = strlen(request->stop[i]);
            if (length > longest && length <= end &&
                memcmp(text->data + end - length, request->stop[i], length) == 0)
                longest = length;
        }
        if (longest > 0) {
            assert(end - longest >= text->emitted);
            text->length = end - longest;
            text->utf8.n_pending = 0; /* bytes after the stop string */
            return 1;
        }
    }
    return 0;
}

/* Bytes at the end of the text that may yet become a stop string. */
static size_t text_held_back(const struct text_stream *text,
                             const struct generation_request *request)
{
    size_t held = 0;
    for (int i = 0; i < request->n_stop; i++) {
        size_t length = strlen(request->stop[i]) - 1;
        if (length > text->length)
            length = text->length;
        while (length > held &&
               memcmp(text->data + text->length - length, request->stop[i], length) != 0)
            length--;
        if (length > held)
            held = length;
    }
    return held;
}

static void text_emit(struct text_stream *text, size_t end,
                      const struct generation_request *request)
{
    if (end <= text->emitted)
        return;
    if (request->on_text != NULL)
        request->on_text(request->context, text->data + text->emitted, end - text->emitted);
    text->emitted = end;
}

/* Adds the bytes of `id` to the text and emits what is certain. */
static enum status text_push(struct run *run, int32_t id)
{
    struct text_stream *text = &run->text;
    const size_t old_length = text->length;
    const char *bytes;
    size_t n_bytes;

    TRY(tokenizer_bytes(run->tokenizer, id, 0, &bytes, &n_bytes));
    TRY(text_reserve(text, 3 * n_bytes + 12));
    text->length += utf8_stream_push(&text->utf8, bytes, n_bytes, text->data + text->length);
    run->result->stopped = text_cut_at_stop(text, old_length, run->request);
    text_emit(text, text->length - text_held_back(text, run->request), run->request);
    return STATUS_OK;
}

/* After the last token: what was held back is certain now. */
static enum status text_finish(struct run *run)
{
    struct text_stream *text = &run->text;
    const size_t old_length = text->length;

    TRY(text_reserve(text, 12));
    text->length += utf8_stream_finish(&text->utf8, text->data + text->length);
    if (text_cut_at_stop(text, old_length, run->request))
        run->result->stopped = 1;
    text_emit(text, text->length, run->request);
    text->data[text->length] = '\0';
    return STATUS_OK;
}

static enum status push_logprobs(struct run *run, const float *logits)
{
    struct generation_result *result = run->result;
    const int count = run->request->n_logprobs;
    const int64_t at = result->ids.count;

    if (at == run->logprobs_capacity) {
        const int64_t capacity = at == 0 ? 64 : 2 * at;
        struct token_logprob *own =
            realloc(result->logprob, (size_t)capacity * sizeof *result->logprob);
        if (own != NULL)
            result->logprob = own;
        /* one more, so that no size is 0 */
        struct token_logprob *top =
            realloc(result->top_logprob, ((size_t)capacity * (size_t)count + 1) * sizeof *top);
        if (top != NULL)
            result->top_logprob = top;
        if (own == NULL || top == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for %d logprobs of %lld tokens", count,
                 (long long)capacity);
        run->logprobs_capacity = capacity;
    }
    return sampler_logprobs(run->sampler, logits, run->drawn, count, &result->logprob[at],
                            result->top_logprob + at * count);
}

static enum status use_logits(struct run *run, int64_t position, const float *logits)
{
    const struct generation_request *request = run->request;
    if (request->on_logits != NULL)
        TRY(request->on_logits(request->context, position, logits));
    if (position != request->n_prompt + run->result->ids.count - 1 || run->sampler == NULL)
        return STATUS_OK;
    TRY(sampler_draw(run->sampler, logits, &request->sampling, (uint64_t)position + 1,
                     &run->drawn));
    if (request->n_logprobs >= 0)
        TRY(push_logprobs(run, logits));
    return STATUS_OK;
}

/* A failure here is kept and the step goes on to its end, so that all ranks leave it together and the
 * engine stays usable. */
static enum status take_logits(void *context, int entry, int token, const float *logits)
{
    struct run *run = context;
    (void)entry;
    if (run->sink_status == STATUS_OK)
        run->sink_status = use_logits(run, run->n_run + token, logits);
    return STATUS_OK;
}

static enum status run_step(struct run *run, const int32_t *ids, int32_t count,
                            int32_t first_logits)
{
    const struct step_entry entry = {
        .sequence = 0, .n_tokens = count, .first_logits = first_logits};
    const struct step_plan plan = {.n_entries = 1, .n_tokens = count, .entry = &entry, .ids = ids};
    TRY(engine_step(run->engine, &plan, take_logits, run));
    TRY(run->sink_status);
    run->n_run += count;
    return STATUS_OK;
}

static enum status run_prompt(struct run *run)
{
    const struct generation_request *request = run->request;
    const int64_t chunk = engine_max_batched_tokens(run->engine);

    while (run->n_run < request->n_prompt) {
        const int64_t left = request->n_prompt - run->n_run;
        const int32_t count = (int32_t)(left < chunk ? left : chunk);
        int32_t first_logits = count;
        if (request->on_logits != NULL)
            first_logits = 0;
        else if (count == left && run->budget > 0)
            first_logits = count - 1;
        TRY(run_step(run, request->prompt + run->n_run, count, first_logits));
        if (request->on_prefill != NULL)
            request->on_prefill(request->context, run->n_run, request->n_prompt);
    }
    return STATUS_OK;
}

static int is_eos(const struct model_config *config, int32_t id)
{
    for (int i = 0; i < config->n_eos; i++)
        if (config->eos_id[i] == id)
            return 1;
    return 0;
}

/* Appends the token that the last step drew. */
static enum status accept_token(struct run *run)
{
    TRY(token_list_push(&run->result->ids, run->drawn));
    if (!run->request->ignore_eos && is_eos(engine_config(run->engine), run->drawn)) {
        run->result->stopped = 1;
        return STATUS_OK;
    }
    if (run->tokenizer != NULL)
        TRY(text_push(run, run->drawn));
    return STATUS_OK;
}

static enum status run_to_end(struct run *run)
{
    struct generation_result *result = run->result;
    const int64_t begin = now_ns();
    int64_t first;

    TRY(run_prompt(run));
    if (run->budget > 0)
        TRY(accept_token(run));
    first = now_ns();
    while (result->ids.count > 0 && result->ids.count < run->budget && !result->stopped) {
        const int32_t last = run->drawn;
        TRY(run_step(run, &last, 1, 0));
        TRY(accept_token(run));
    }
    result->prefill_ns = first - begin;
    result->decode_ns = now_ns() - first;
    if (run->tokenizer != NULL)
        TRY(text_finish(run));
    return STATUS_OK;
}

static enum status check_prompt(const struct generation_request *request, int64_t vocab_size,
                                int max_model_len)
{
    if (request->n_prompt < 1)
        FAIL(STATUS_USAGE, "the prompt is empty: it has no tokens, at least one is needed");
    if (request->n_prompt > max_model_len)
        FAIL(STATUS_USAGE,
             "the prompt has %lld tokens, but the context holds %d: shorten it or raise "
             "--max-model-len",
             (long long)request->n_prompt, max_model_len);
    for (int64_t i = 0; i < request->n_prompt; i++)
        if (request->prompt[i] < 0 || request->prompt[i] >= vocab_size)
            FAIL(STATUS_USAGE,
                 "token %lld of the prompt (counted from 0) is %d, but the model's ids go from 0 "
                 "to %lld",
                 (long long)i, request->prompt[i], (long long)vocab_size - 1);
    return STATUS_OK;
}

static enum status check_request(const struct generation_request *request,
                                 const struct tokenizer *tokenizer, int64_t n_ids)
{
    if (request->max_tokens < 0)
        FAIL(STATUS_USAGE, "max-tokens is %d, but must be 0 or more", request->max_tokens);
    TRY(sampling_check(&request->sampling));
    if (request->n_logprobs < -1 || request->n_logprobs > n_ids)
        FAIL(STATUS_USAGE, "logprobs is %d, but must be from 0 to the %lld ids of the vocabulary",
             request->n_logprobs, (long long)n_ids);
    if (request->n_stop > 0 && tokenizer == NULL)
        FAIL(STATUS_USAGE, "stop strings need text, but the model has no tokenizer.json");
    for (int i = 0; i < request->n_stop; i++)
        if (request->stop[i][0] == '\0')
            FAIL(STATUS_USAGE, "stop string %d is empty, but must have at least one character",
                 i + 1);
    return STATUS_OK;
}

enum status generation_run(struct generation_result *result, struct engine *engine,
                           const struct tokenizer *tokenizer,
                           const struct generation_request *request)
{
    const int64_t vocab_size = engine_config(engine)->vocab_size;
    const int max_model_len = engine_max_model_len(engine);
    int64_t n_ids = vocab_size;
    struct generation_result made = {0};
    struct run run = {
        .request = request, .tokenizer = tokenizer, .engine = engine, .result = &made};
    enum status status;

    if (tokenizer != NULL && tokenizer_size(tokenizer) < n_ids)
        n_ids = tokenizer_size(tokenizer);
    TRY(check_request(request, tokenizer, n_ids));
    TRY(check_prompt(request, vocab_size, max_model_len));
    run.budget = max_model_len - request->n_prompt;
    if (run.budget > request->max_tokens)
        run.budget = request->max_tokens;
    if (run.budget > 0)
        TRY(sampler_open(&run.sampler, vocab_size, n_ids));
    status = run_to_end(&run);
    engine_release(engine, 0);
    sampler_close(run.sampler);
    made.text = run.text.data;
    made.text_length = run.text.length;
    if (status != STATUS_OK) {
        generation_result_free(&made);
        return status;
    }
    *result = made;
    return STATUS_OK;
}

void generation_result_free(struct generation_result *result)
{
    token_list_free(&result->ids);
    free(result->text);
    free(result->logprob);
    free(result->top_logprob);
    *result = (struct generation_result){0};
}
