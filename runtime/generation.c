/* Prompts to their ends.  Each waits for a free sequence, runs through the model up to its first token,
 * alone in its replica, and then takes one token a step together with the others that got there.  What a
 * step adds to a sequence does not depend on who else is in it, so its tokens are those of running it alone.
 *
 * With stages as many steps are on their way: chunks of a prompt follow each other, and the sequences that
 * decode form as many parties, since a sequence must have its token before it takes the next.
 *
 * Text goes through two gates before it is emitted: bytes wait
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

struct generation;

/* One request on its way. */
struct run {
    struct generation *all;
    const struct generation_request *request; /* NULL: this place is free */
    int sequence;
    struct generation_result result;
    struct text_stream text;
    int64_t begin_ns, first_ns; /* of the prompt; of the first token */
    int64_t budget;             /* tokens that may be generated */
    int64_t n_begun;            /* tokens that steps were begun with; */
    int64_t n_run;              /* those that went through the model */
    int32_t drawn;              /* by the last step */
    int64_t logprobs_capacity;  /* in tokens */
    enum status sink_status;    /* first failure while logits came in */
};

/* A step on its way. */
struct flight {
    int n;
    struct step_entry *entry; /* [n_runs] */
    struct run **run;         /* [n_runs] whose they are */
    int64_t n_logits;         /* rows wanted */
};

struct generation {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct generation_request *request;
    int n_requests, next; /* next: the first that has not begun */
    struct sampler *sampler;
    struct run *run; /* [n_runs], run i in sequence i */
    int n_runs, n_active;
    struct flight *flight; /* [depth], a ring */
    int depth, first_flight, n_flights;
    int32_t *ids;  /* of the step that begins */
    int64_t *load; /* [replicas] tokens */
    generation_sink sink;
    void *context;
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

    TRY(tokenizer_bytes(run->all->tokenizer, id, 0, &bytes, &n_bytes));
    TRY(text_reserve(text, 3 * n_bytes + 12));
    text->length += utf8_stream_push(&text->utf8, bytes, n_bytes, text->data + text->length);
    run->result.stopped = text_cut_at_stop(text, old_length, run->request);
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
        run->result.stopped = 1;
    text_emit(text, text->length, run->request);
    text->data[text->length] = '\0';
    return STATUS_OK;
}

static enum status push_logprobs(struct run *run, const float *logits)
{
    struct generation_result *result = &run->result;
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
    return sampler_logprobs(run->all->sampler, logits, run->drawn, count, &result->logprob[at],
                            result->top_logprob + at * count);
}

static enum status use_logits(struct run *run, int64_t position, const float *logits)
{
    const struct generation_request *request = run->request;
    if (request->on_logits != NULL)
        TRY(request->on_logits(request->context, position, logits));
    if (position != request->n_prompt + run->result.ids.count - 1 || run->budget == 0)
        return STATUS_OK;
    TRY(sampler_draw(run->all->sampler, logits, &request->sampling, (uint64_t)position + 1,
                     &run->drawn));
    if (request->n_logprobs >= 0)
        TRY(push_logprobs(run, logits));
    return STATUS_OK;
}

/* A failure here is kept and the step goes on to its end, so that all ranks leave it together and the
 * engine stays usable. */
static enum status take_logits(void *context, int entry, int token, const float *logits)
{
    struct generation *all = context;
    struct run *run = all->flight[all->first_flight].run[entry];
    if (run->sink_status == STATUS_OK)
        run->sink_status = use_logits(run, run->n_run + token, logits);
    return STATUS_OK;
}

static int is_eos(const struct model_config *config, int32_t id)
{
    for (int i = 0; i < config->n_eos; i++)
        if (config->eos_id[i] == id)
            return 1;
    return 0;
}

static void run_free(struct run *run)
{
    run->result.text = run->text.data;
    generation_result_free(&run->result);
    *run = (struct run){.all = run->all, .sequence = run->sequence};
}

/* Hands the result over and frees the place. */
static enum status end_run(struct run *run)
{
    struct generation *all = run->all;
    const int index = (int)(run->request - all->request);
    run->result.prefill_ns = run->first_ns - run->begin_ns;
    run->result.decode_ns = now_ns() - run->first_ns;
    if (all->tokenizer != NULL)
        TRY(text_finish(run));
    struct generation_result result = run->result;
    result.text = run->text.data;
    result.text_length = run->text.length;
    engine_release(all->engine, run->sequence);
    *run = (struct run){.all = all, .sequence = run->sequence};
    all->n_active--;
    return all->sink(all->context, index, &result);
}

/* Appends the token that the last step drew; the last one ends the run. */
static enum status accept_token(struct run *run)
{
    struct generation_result *result = &run->result;
    TRY(token_list_push(&result->ids, run->drawn));
    if (!run->request->ignore_eos && is_eos(engine_config(run->all->engine), run->drawn))
        result->stopped = 1;
    else if (run->all->tokenizer != NULL)
        TRY(text_push(run, run->drawn));
    if (run->first_ns == 0)
        run->first_ns = now_ns();
    return result->stopped || result->ids.count == run->budget ? end_run(run) : STATUS_OK;
}

/* Tokens that may be generated. */
static int64_t budget_of(const struct generation_request *request, int max_model_len)
{
    const int64_t room = max_model_len - request->n_prompt;
    return room < request->max_tokens ? room : request->max_tokens;
}

static int replica_of_run(const struct run *run)
{
    return run->sequence % engine_replicas(run->all->engine);
}

/* A free place of the replica that has the fewest tokens to keep. */
static struct run *free_place(struct generation *all)
{
    struct run *best = NULL;
    memset(all->load, 0, (size_t)engine_replicas(all->engine) * sizeof *all->load);
    for (int i = 0; i < all->n_runs; i++) {
        const struct run *run = &all->run[i];
        if (run->request != NULL)
            all->load[replica_of_run(run)] += run->request->n_prompt + run->result.ids.count;
    }
    for (int i = 0; i < all->n_runs; i++) {
        struct run *run = &all->run[i];
        if (run->request == NULL &&
            (best == NULL || all->load[replica_of_run(run)] < all->load[replica_of_run(best)]))
            best = run;
    }
    return best;
}

/* Requests that wait take the free places. */
static void admit(struct generation *all)
{
    while (all->n_active < all->n_runs && all->next < all->n_requests) {
        struct run *run = free_place(all);
        run->request = &all->request[all->next++];
        run->budget = budget_of(run->request, engine_max_model_len(all->engine));
        all->n_active++;
    }
}

/* Of the prompts that are not through, the first one of each replica. */
static int choose_prompts(struct generation *all, struct flight *flight)
{
    int n_replicas = engine_replicas(all->engine);
    flight->n = 0;
    for (int r = 0; r < n_replicas; r++) {
        struct run *first = NULL;
        for (int i = r; i < all->n_runs; i += n_replicas) {
            struct run *run = &all->run[i];
            if (run->request != NULL && run->n_begun < run->request->n_prompt &&
                (first == NULL || run->request < first->request))
                first = run;
        }
        if (first != NULL)
            flight->run[flight->n++] = first;
    }
    return flight->n;
}

/* The next chunk of a prompt of up to `most` tokens. */
static struct step_entry prompt_entry(const struct run *run, int64_t most)
{
    const struct generation_request *request = run->request;
    int64_t left = request->n_prompt - run->n_begun;
    int32_t count = (int32_t)(left < most ? left : most), first_logits = count;
    if (request->on_logits != NULL)
        first_logits = 0;
    else if (count == left && run->budget > 0)
        first_logits = count - 1;
    return (struct step_entry){
        .sequence = run->sequence, .n_tokens = count, .first_logits = first_logits};
}

/* Chunks of the chosen prompts share the tokens of a step. */
static int plan_prompts(struct generation *all, struct flight *flight)
{
    int64_t most = engine_max_batched_tokens(all->engine);
    int n_tokens = 0;
    if (choose_prompts(all, flight) > most)
        flight->n = (int)most;
    for (int i = 0; i < flight->n; i++) {
        const struct run *run = flight->run[i];
        flight->entry[i] = prompt_entry(run, most / flight->n);
        memcpy(all->ids + n_tokens, run->request->prompt + run->n_begun,
               (size_t)flight->entry[i].n_tokens * sizeof *all->ids);
        n_tokens += flight->entry[i].n_tokens;
    }
    return n_tokens;
}

/* One token for each that has its last one; of several parties, one. */
static int plan_decode(struct generation *all, struct flight *flight)
{
    int most = (all->n_active + all->depth - 1) / all->depth;
    flight->n = 0;
    for (int i = 0; i < all->n_runs && flight->n < most; i++) {
        struct run *run = &all->run[i];
        if (run->request == NULL || run->result.ids.count == 0 || run->n_begun > run->n_run)
            continue;
        all->ids[flight->n] = run->drawn;
        flight->run[flight->n] = run;
        flight->entry[flight->n++] =
            (struct step_entry){.sequence = run->sequence, .n_tokens = 1, .first_logits = 0};
    }
    return flight->n;
}

/* A step that wants more rows of logits than there are sequences must be alone on its way. */
static int must_wait(const struct generation *all, struct flight *flight)
{
    int most = engine_max_num_seqs(all->engine);
    const struct flight *last =
        &all->flight[(all->first_flight + all->n_flights + all->depth - 1) % all->depth];
    flight->n_logits = 0;
    for (int i = 0; i < flight->n; i++)
        flight->n_logits += flight->entry[i].n_tokens - flight->entry[i].first_logits;
    return all->n_flights > 0 && (flight->n_logits > most || last->n_logits > most);
}

/* *begun: whether there was something to do. */
static enum status begin_step(struct generation *all, int *begun)
{
    *begun = 0;
    if (all->n_flights == all->depth)
        return STATUS_OK;
    struct flight *flight = &all->flight[(all->first_flight + all->n_flights) % all->depth];
    int n_tokens = plan_prompts(all, flight);
    if (n_tokens == 0)
        n_tokens = plan_decode(all, flight);
    if (n_tokens == 0 || must_wait(all, flight))
        return STATUS_OK;
    const struct step_plan plan = {
        .n_entries = flight->n, .n_tokens = n_tokens, .entry = flight->entry, .ids = all->ids};
    const int64_t begin_ns = now_ns();
    TRY(engine_begin_step(all->engine, &plan));
    all->n_flights++;
    for (int i = 0; i < flight->n; i++) {
        struct run *run = flight->run[i];
        if (run->n_begun == 0)
            run->begin_ns = begin_ns;
        run->n_begun += flight->entry[i].n_tokens;
    }
    *begun = 1;
    return STATUS_OK;
}

/* After a step: the prompt goes on, or there is a token. */
static enum status go_on(struct run *run, int is_prompt)
{
    const struct generation_request *request = run->request;
    if (is_prompt && request->on_prefill != NULL)
        request->on_prefill(request->context, run->n_run, request->n_prompt);
    if (run->n_run < request->n_prompt)
        return STATUS_OK;
    if (run->budget > 0)
        return accept_token(run);
    run->first_ns = now_ns();
    return end_run(run);
}

static enum status end_step(struct generation *all)
{
    struct flight *flight = &all->flight[all->first_flight];
    enum status status = engine_end_step(all->engine, take_logits, all);
    all->first_flight = (all->first_flight + 1) % all->depth;
    all->n_flights--;
    TRY(status);
    for (int i = 0; i < flight->n; i++) {
        TRY(flight->run[i]->sink_status);
        flight->run[i]->n_run += flight->entry[i].n_tokens;
    }
    for (int i = 0; i < flight->n; i++) {
        struct run *run = flight->run[i];
        TRY(go_on(run, run->result.ids.count == 0));
    }
    return STATUS_OK;
}

static enum status run_to_end(struct generation *all)
{
    for (int begun; all->next < all->n_requests || all->n_active > 0;) {
        admit(all);
        TRY(begin_step(all, &begun));
        if (!begun)
            TRY(end_step(all));
    }
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

/* Everything that can be wrong with the requests. */
static enum status check_all(const struct generation *all, int64_t n_ids)
{
    for (int i = 0; i < all->n_requests; i++) {
        TRY(check_request(&all->request[i], all->tokenizer, n_ids));
        TRY(check_prompt(&all->request[i], engine_config(all->engine)->vocab_size,
                         engine_max_model_len(all->engine)));
    }
    return STATUS_OK;
}

static enum status open_runs(struct generation *all)
{
    int n = engine_max_num_seqs(all->engine);
    if (n > engine_max_batched_tokens(all->engine))
        n = engine_max_batched_tokens(all->engine); /* all take a token in one step */
    if (n > all->n_requests)
        n = all->n_requests;
    all->depth = engine_depth(all->engine);
    all->run = calloc((size_t)n + 1, sizeof *all->run);
    all->ids = calloc((size_t)engine_max_batched_tokens(all->engine), sizeof *all->ids);
    all->load = calloc((size_t)engine_replicas(all->engine), sizeof *all->load);
    all->flight = calloc((size_t)all->depth, sizeof *all->flight);
    int has_all = all->run != NULL && all->ids != NULL && all->load != NULL && all->flight != NULL;
    for (int i = 0; has_all && i < all->depth; i++) {
        struct flight *flight = &all->flight[i];
        flight->entry = calloc((size_t)n + 1, sizeof *flight->entry);
        flight->run = calloc((size_t)n + 1, sizeof(struct run *));
        has_all = flight->entry != NULL && flight->run != NULL;
    }
    if (!has_all)
        FAIL(STATUS_NO_MEMORY, "no memory to generate for %d sequences", n);
    for (all->n_runs = 0; all->n_runs < n; all->n_runs++)
        all->run[all->n_runs] = (struct run){.all = all, .sequence = all->n_runs};
    return STATUS_OK;
}

static enum status drop_logits(void *context, int entry, int token, const float *logits)
{
    (void)context, (void)entry, (void)token, (void)logits;
    return STATUS_OK;
}

static void close_runs(struct generation *all)
{
    for (; all->n_flights > 0; all->n_flights--) /* after a failure */
        engine_end_step(all->engine, drop_logits, NULL);
    for (int i = 0; i < all->n_runs; i++) {
        if (all->run[i].request == NULL)
            continue;
        engine_release(all->engine, i); /* after a failure */
        run_free(&all->run[i]);
    }
    for (int i = 0; all->flight != NULL && i < all->depth; i++) {
        free(all->flight[i].entry);
        free(all->flight[i].run);
    }
    free(all->flight);
    free(all->run);
    free(all->ids);
    free(all->load);
    sampler_close(all->sampler);
}

enum status generation_run_all(struct engine *engine, const struct tokenizer *tokenizer,
                               const struct generation_request *request, int n_requests,
                               generation_sink sink, void *context)
{
    const int64_t vocab_size = engine_config(engine)->vocab_size;
    int64_t n_ids = vocab_size;
    struct generation all = {.engine = engine,
                             .tokenizer = tokenizer,
                             .request = request,
                             .n_requests = n_requests,
                             .sink = sink,
                             .context = context};

    if (tokenizer != NULL && tokenizer_size(tokenizer) < n_ids)
        n_ids = tokenizer_size(tokenizer);
    TRY(check_all(&all, n_ids));
    enum status status = open_runs(&all);
    if (status == STATUS_OK)
        status = sampler_open(&all.sampler, vocab_size, n_ids);
    if (status == STATUS_OK)
        status = run_to_end(&all);
    close_runs(&all);
    return status;
}

static enum status keep_result(void *context, int index, const struct generation_result *result)
{
    (void)index;
    *(struct generation_result *)context = *result;
    return STATUS_OK;
}

enum status generation_run(struct generation_result *result, struct engine *engine,
                           const struct tokenizer *tokenizer,
                           const struct generation_request *request)
{
    return generation_run_all(engine, tokenizer, request, 1, keep_result, result);
}

void generation_result_free(struct generation_result *result)
{
    token_list_free(&result->ids);
    free(result->text);
    free(result->logprob);
    free(result->top_logprob);
    *result = (struct generation_result){0};
}
