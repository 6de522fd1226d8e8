/* The loop around the model: chunks, stops, held-back text.  The model is a script here
 * (next token by position), so that every way a text can be cut into tokens is
 * reachable; tokenizer and sampler are the real ones.  The real engine runs under this loop in the
 * launcher's tests. */
#include "runtime/generation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_WORDS = 16, EOS = 256 + N_WORDS, N_IDS, VOCAB = 300, MAX_IDS = 256, MAX_TEXT = 2048 };
enum { MAX_SEQUENCES = 4, MAX_STEPS = 1000, MAX_DEPTH = 3 };

/* Ids 0 to 255 are bytes, then these, then the special token EOS. */
static const char *const word[N_WORDS] = {"aa",  "ab",  "ba",  "bb",  "aaa",   "aab",  "aba", "abb",
                                          "baa", "bab", "bba", "bbb", "Hello", "STOP", "ST",  "OP"};

/* ---- the scripted engine: all of engine.h that generation.c uses ---- */

struct engine {
    struct model_config config;
    int max_model_len, max_batched, max_seqs;
    int64_t n_prompt;
    const int32_t
        *script; /* token after the prompt, and so on; NULL: one that follows from all before */
    int n_script;
    int64_t nan_position; /* whose logits are NaN; -1: none */
    int64_t length;       /* of all sequences */
    int64_t length_of[MAX_SEQUENCES];
    int32_t seen[MAX_SEQUENCES][MAX_IDS];
    int32_t n_tokens[MAX_STEPS], n_logits[MAX_STEPS], n_entries[MAX_STEPS];
    int n_steps, n_released;
    int n_replicas, depth; /* 0: 1 */
    struct flight {
        struct step_entry entry[MAX_SEQUENCES];
        int64_t position[MAX_SEQUENCES]; /* of the entry's first token */
        int n_entries;
    } flight[MAX_DEPTH]; /* begun and not ended, the first one first */
    int n_flights, most_flights;
    const size_t *streamed; /* how much text was out when a step began */
    size_t streamed_at[MAX_STEPS];
};

const struct model_config *engine_config(const struct engine *engine)
{
    return &engine->config;
}

int engine_max_model_len(const struct engine *engine)
{
    return engine->max_model_len;
}

int engine_max_batched_tokens(const struct engine *engine)
{
    return engine->max_batched;
}

int engine_max_num_seqs(const struct engine *engine)
{
    return engine->max_seqs;
}

int engine_replicas(const struct engine *engine)
{
    return engine->n_replicas > 0 ? engine->n_replicas : 1;
}

int engine_depth(const struct engine *engine)
{
    return engine->depth > 0 ? engine->depth : 1;
}

void engine_release(struct engine *engine, int sequence)
{
    for (int i = 0; i < engine->n_flights; i++)
        for (int k = 0; k < engine->flight[i].n_entries; k++)
            assert_int_not_equal(engine->flight[i].entry[k].sequence, sequence);
    assert_in_range(sequence, 0, engine->max_seqs - 1);
    assert_true(engine->length_of[sequence] > 0);
    engine->length -= engine->length_of[sequence];
    engine->length_of[sequence] = 0;
    engine->n_released++;
}

/* A letter, or sometimes an end of sequence, that follows from all ids of the sequence. */
static int32_t follower(const int32_t *ids, int64_t count)
{
    uint32_t hash = 17;
    for (int64_t i = 0; i < count; i++)
        hash = (hash ^ (uint32_t)ids[i]) * 16777619u;
    return (hash >> 8) % 40 == 0 ? EOS : (int32_t)('a' + (hash >> 12) % 20);
}

/* Logits after token `at` of a sequence. */
static void write_logits(const struct engine *engine, float *logits, const int32_t *seen,
                         int64_t at)
{
    const int64_t generated = at - (engine->n_prompt - 1);
    for (int id = 0; id < VOCAB; id++)
        logits[id] = at == engine->nan_position ? NAN : 0;
    if (engine->script == NULL)
        logits[follower(seen, at + 1)] += 5;
    else if (generated >= 0)
        logits[engine->script[generated % engine->n_script]] += 5;
    logits[VOCAB - 1] = (float)at; /* padding: marks the position */
}

/* The tokens go into the sequence; what the model says of them waits for engine_end_step. */
static void begin_entry(struct engine *engine, struct flight *flight, int index, const int32_t *ids)
{
    const struct step_entry *entry = &flight->entry[index];
    int64_t *length = &engine->length_of[entry->sequence];
    assert_in_range(entry->sequence, 0, engine->max_seqs - 1);
    assert_in_range(*length + entry->n_tokens, 1, engine->max_model_len);
    flight->position[index] = *length;
    memcpy(engine->seen[entry->sequence] + *length, ids, (size_t)entry->n_tokens * sizeof *ids);
    *length += entry->n_tokens;
    engine->length += entry->n_tokens;
}

static void end_entry(struct engine *engine, const struct flight *flight, int index,
                      logits_sink sink, void *context)
{
    const struct step_entry *entry = &flight->entry[index];
    float logits[VOCAB];
    for (int i = entry->first_logits; i < entry->n_tokens; i++) {
        write_logits(engine, logits, engine->seen[entry->sequence], flight->position[index] + i);
        if (sink(context, index, i, logits) != STATUS_OK)
            fail_msg("the loop must let a step come to its end");
    }
}

enum status engine_begin_step(struct engine *engine, const struct step_plan *plan)
{
    int step = engine->n_steps++, sequences = 0;
    const int32_t *ids = plan->ids;
    assert_in_range(step, 0, MAX_STEPS - 1);
    assert_in_range(plan->n_entries, 1, engine->max_seqs);
    assert_in_range(plan->n_tokens, 1, engine->max_batched);
    assert_in_range(engine->n_flights, 0, engine_depth(engine) - 1);
    engine->n_tokens[step] = plan->n_tokens;
    engine->n_entries[step] = plan->n_entries;
    engine->streamed_at[step] = engine->streamed == NULL ? 0 : *engine->streamed;
    struct flight *flight = &engine->flight[engine->n_flights++];
    if (engine->n_flights > engine->most_flights)
        engine->most_flights = engine->n_flights;
    flight->n_entries = plan->n_entries;
    memcpy(flight->entry, plan->entry, (size_t)plan->n_entries * sizeof *plan->entry);
    for (int i = 0; i < plan->n_entries; ids += plan->entry[i++].n_tokens) {
        assert_false(sequences & 1 << plan->entry[i].sequence); /* each once */
        sequences |= 1 << plan->entry[i].sequence;
        engine->n_logits[step] += plan->entry[i].n_tokens - plan->entry[i].first_logits;
        begin_entry(engine, flight, i, ids);
    }
    assert_int_equal(ids - plan->ids, plan->n_tokens);
    return STATUS_OK;
}

enum status engine_end_step(struct engine *engine, logits_sink sink, void *context)
{
    assert_true(engine->n_flights > 0);
    struct flight flight = engine->flight[0];
    engine->n_flights--;
    memmove(engine->flight, engine->flight + 1, (size_t)engine->n_flights * sizeof flight);
    for (int i = 0; i < flight.n_entries; i++)
        end_entry(engine, &flight, i, sink, context);
    return STATUS_OK;
}

/* ---- a byte-level tokenizer.json with the ids above ---- */

static void write_json_char(FILE *file, int byte)
{
    /* GPT-2's printable stand-ins: bytes that are not printable follow at U+0100 in order. */
    int code = byte, stand_in = 0x100;
    for (int b = 0; b <= byte; b++) {
        const int prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte && !prints)
            code = stand_in;
        stand_in += !prints;
    }
    fprintf(file, "\\u%04x", (unsigned)code);
}

static struct tokenizer *tokenizer;

static int write_tokenizer(void **state)
{
    char directory[] = "/tmp/test_generation.XXXXXX", path[64];
    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file,
            "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":%d,\"content\":\"<eos>\","
            "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
            "\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
            "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
            "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
            "\"model\":{\"type\":\"BPE\",\"vocab\":{",
            EOS);
    for (int byte = 0; byte < 256; byte++) {
        fputc('"', file);
        write_json_char(file, byte);
        fprintf(file, "\":%d,", byte);
    }
    for (int i = 0; i < N_WORDS; i++)
        fprintf(file, "\"%s\":%d%s", word[i], 256 + i, i + 1 < N_WORDS ? "," : "");
    fprintf(file, "},\"merges\":[]}}");
    assert_int_equal(fclose(file), 0);
    const enum status status = tokenizer_open(&tokenizer, directory);
    unlink(path);
    rmdir(directory);
    if (status != STATUS_OK)
        fail_msg("%s", status_text());
    assert_int_equal(tokenizer_size(tokenizer), N_IDS);
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

/* ---- helpers ---- */

struct heard {
    char text[MAX_TEXT];
    size_t length;
    int64_t position[MAX_IDS], prefilled[MAX_IDS];
    int n_positions, n_prefilled;
    int64_t fail_at; /* on_logits fails here; -1: never */
};

static void hear_text(void *context, const char *text, size_t length)
{
    struct heard *heard = context;
    assert_in_range(heard->length + length, 1, MAX_TEXT);
    memcpy(heard->text + heard->length, text, length);
    heard->length += length;
}

static enum status hear_logits(void *context, int64_t position, const float *logits)
{
    struct heard *heard = context;
    assert_true(logits[VOCAB - 1] == (float)position);
    heard->position[heard->n_positions++] = position;
    if (position == heard->fail_at)
        FAIL(STATUS_IO, "disk full");
    return STATUS_OK;
}

static void hear_prefill(void *context, int64_t done, int64_t total)
{
    struct heard *heard = context;
    assert_in_range(done, 1, total);
    heard->prefilled[heard->n_prefilled++] = done;
}

static const int32_t prompt[7] = {'a', 'b', 'c', 'd', 'e', 'f', 'g'};
static struct heard heard;

static struct engine new_engine(const int32_t *script, int n_script)
{
    struct engine engine = {
        .max_model_len = 200, .max_batched = 3, .max_seqs = 1, .nan_position = -1};
    engine.config.vocab_size = VOCAB;
    engine.config.n_eos = 2;
    engine.config.eos_id[0] = '!';
    engine.config.eos_id[1] = EOS;
    engine.n_prompt = 7;
    engine.script = script;
    engine.n_script = n_script;
    engine.streamed = &heard.length;
    return engine;
}

static struct generation_request new_request(int max_tokens)
{
    struct generation_request request = {.prompt = prompt,
                                         .n_prompt = 7,
                                         .max_tokens = max_tokens,
                                         .sampling = sampling_defaults(),
                                         .n_logprobs = -1,
                                         .on_text = hear_text,
                                         .context = &heard};
    memset(&heard, 0, sizeof heard);
    heard.fail_at = -1;
    return request;
}

static struct generation_result run(struct engine *engine, const struct generation_request *request)
{
    struct generation_result result;
    if (generation_run(&result, engine, tokenizer, request) != STATUS_OK)
        fail_msg("%s", status_text());
    assert_int_equal(engine->length, 0);
    assert_int_equal(engine->n_released, 1);
    assert_true(result.prefill_ns > 0 && result.decode_ns >= 0);
    assert_int_equal(strlen(result.text), result.text_length);
    assert_int_equal(heard.length, result.text_length); /* the stream is the text */
    assert_memory_equal(heard.text, result.text, result.text_length);
    return result;
}

/* Generates `n_script` tokens, or fewer when a stop comes; checks text, count and reason. */
static void check_text(const int32_t *script, int n_script, const char *const *stop, int n_stop,
                       const char *text, int64_t count, int stopped)
{
    struct engine engine = new_engine(script, n_script);
    struct generation_request request = new_request(n_script);
    request.stop = stop;
    request.n_stop = n_stop;
    struct generation_result result = run(&engine, &request);
    assert_string_equal(result.text, text);
    assert_int_equal(result.ids.count, count);
    assert_memory_equal(result.ids.id, script, (size_t)count * sizeof *script);
    assert_int_equal(result.stopped, stopped);
    generation_result_free(&result);
}

/* ---- tests ---- */

static void tokens_are_fed_back_until_max_tokens(void **state)
{
    static const int32_t script[] = {256 + 12, ' ', 'w', 'o'};
    static const int32_t fed[] = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 256 + 12, ' ', 'w'};
    struct engine engine = new_engine(script, 4);
    struct generation_request request = new_request(4);
    (void)state;
    request.on_prefill = hear_prefill;
    struct generation_result result = run(&engine, &request);
    assert_string_equal(result.text, "Hello wo");
    assert_int_equal(result.stopped, 0);
    assert_memory_equal(engine.seen[0], fed, sizeof fed);
    /* The prompt in chunks of 3, logits of its last token only; then one token a step. */
    static const int32_t n_tokens[] = {3, 3, 1, 1, 1, 1}, n_logits[] = {0, 0, 1, 1, 1, 1};
    assert_int_equal(engine.n_steps, 6);
    assert_memory_equal(engine.n_tokens, n_tokens, sizeof n_tokens);
    assert_memory_equal(engine.n_logits, n_logits, sizeof n_logits);
    static const int64_t prefilled[] = {3, 6, 7};
    assert_int_equal(heard.n_prefilled, 3);
    assert_memory_equal(heard.prefilled, prefilled, sizeof prefilled);
    assert_null(result.logprob);
    generation_result_free(&result);
}

static void all_rows_of_logits_come_in_order_when_wanted(void **state)
{
    static const int32_t script[] = {'x', 'y', 'z'};
    (void)state;
    for (int max_tokens = 0; max_tokens <= 3; max_tokens++) {
        struct engine engine = new_engine(script, 3);
        struct generation_request request = new_request(max_tokens);
        request.on_logits = hear_logits;
        struct generation_result result = run(&engine, &request);
        /* P + G - 1 rows, and all P of the prompt alone */
        assert_int_equal(heard.n_positions, max_tokens == 0 ? 7 : 7 + max_tokens - 1);
        for (int i = 0; i < heard.n_positions; i++)
            assert_int_equal(heard.position[i], i);
        assert_int_equal(result.ids.count, max_tokens);
        generation_result_free(&result);
    }
}

static void max_tokens_zero_runs_the_prompt_alone(void **state)
{
    static const int32_t script[] = {'x'};
    struct engine engine = new_engine(script, 1);
    const struct generation_request request = new_request(0);
    struct generation_result result;
    (void)state;
    result = run(&engine, &request);
    assert_int_equal(engine.n_steps, 3);
    assert_int_equal(engine.n_logits[2], 0);
    assert_int_equal(result.ids.count, 0);
    assert_string_equal(result.text, "");
    assert_int_equal(result.stopped, 0);
    generation_result_free(&result);
}

static void an_eos_id_stops_and_stays_out_of_the_text(void **state)
{
    static const int32_t special[] = {'a', EOS, 'b'}, plain[] = {'a', '!', 'b'};
    (void)state;
    check_text(special, 3, NULL, 0, "a", 2, 1);
    check_text(plain, 3, NULL, 0, "a", 2, 1);
    struct engine engine = new_engine(plain, 3);
    struct generation_request request = new_request(3);
    request.ignore_eos = 1;
    struct generation_result result = run(&engine, &request);
    assert_string_equal(result.text, "a!b");
    assert_int_equal(result.stopped, 0);
    generation_result_free(&result);
}

static void a_full_context_ends_with_length(void **state)
{
    static const int32_t script[] = {'x', 'y', 'z'};
    (void)state;
    for (int room = 0; room <= 3; room++) {
        struct engine engine = new_engine(script, 3);
        struct generation_request request = new_request(100);
        engine.max_model_len = 7 + room;
        struct generation_result result = run(&engine, &request);
        assert_int_equal(result.ids.count, room);
        assert_int_equal(result.stopped, 0);
        generation_result_free(&result);
    }
}

static void characters_are_emitted_whole(void **state)
{
    static const int32_t emoji[] = {'a', 0xf0, 0x9f, 0x98, 0x80, 'b'};
    static const size_t out_before_step[] = {0, 0, 0, 1, 1, 1, 1, 5};
    struct engine engine = new_engine(emoji, 6);
    struct generation_request request = new_request(6);
    struct generation_result result = run(&engine, &request);
    (void)state;
    assert_string_equal(result.text, "a\xf0\x9f\x98\x80"
                                     "b");
    assert_int_equal(engine.n_steps, 8);
    assert_memory_equal(engine.streamed_at, out_before_step, sizeof out_before_step);
    generation_result_free(&result);

    check_text(emoji, 4, NULL, 0, "a\xef\xbf\xbd", 4, 0); /* cut off: one U+FFFD at the end */
    static const int32_t broken[] = {0xc3, 'x', 0xff, 'y'};
    check_text(broken, 4, NULL, 0, "\xef\xbf\xbdx\xef\xbf\xbdy", 4, 0);
}

static void stop_strings_are_cut_wherever_tokens_split_them(void **state)
{
    static const char *const stop[] = {"STOP", "\xc3\xa9"};
    static const int32_t whole[] = {'a', 256 + 13, 'b'}, halves[] = {'a', 256 + 14, 256 + 15, 'b'};
    static const int32_t letters[] = {'a', 'S', 'T', 'O', 'P', 'b'};
    static const int32_t almost[] = {'a', 256 + 14, 'O', 'x', 256 + 14};
    static const int32_t accent[] = {'a', 0xc3, 0xa9, 'b'};
    (void)state;
    check_text(whole, 3, stop, 2, "a", 2, 1);
    check_text(halves, 4, stop, 2, "a", 3, 1);
    check_text(letters, 6, stop, 2, "a", 5, 1);
    check_text(almost, 5, stop, 2, "aSTOxST", 5, 0); /* what was held back comes out */
    check_text(accent, 4, stop, 2, "a", 3, 1);
}

static void the_stop_string_that_ends_first_wins_then_the_longest(void **state)
{
    static const char *const stop[] = {"bb", "aabb", "abbb"};
    static const int32_t joined[] = {'b', 256 + 5, 256 + 3}; /* b aab bb */
    static const int32_t letters[] = {'b', 'a', 'a', 'b', 'b', 'b'};
    (void)state;
    check_text(joined, 3, stop, 3, "b", 3, 1);
    check_text(letters, 6, stop, 3, "b", 5, 1);
}

/* The rule by brute force: every end, every stop string. */
static int cut_by_hand(const char *text, const char *const *stop, int n_stop, size_t *cut)
{
    for (size_t end = 1; end <= strlen(text); end++)
        for (size_t begin = 0; begin < end; begin++)
            for (int i = 0; i < n_stop; i++)
                if (strlen(stop[i]) == end - begin &&
                    strncmp(text + begin, stop[i], end - begin) == 0) {
                    *cut = begin;
                    return 1;
                }
    return 0;
}

/* First byte that could belong to a stop string that is not complete. */
static size_t certain_by_hand(const char *text, const char *const *stop, int n_stop)
{
    for (size_t begin = 0; begin < strlen(text); begin++)
        for (int i = 0; i < n_stop; i++)
            if (strncmp(stop[i], text + begin, strlen(text + begin)) == 0)
                return begin;
    return strlen(text);
}

static void text_is_held_back_no_more_than_needed(void **state)
{
    static const char *const pool[] = {"ab", "aab", "bbab", "abaabb", "bbbb", "a", "babab"};
    uint64_t random = 12345;
    int n_stopped = 0;
    (void)state;
    for (int trial = 0; trial < 3000; trial++) {
        const char *stop[2];
        int32_t script[20];
        char text[MAX_TEXT] = "";
        size_t cut = 0;
        for (int i = 0; i < 2; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            stop[i] = pool[(random >> 33) % 7];
        }
        for (int i = 0; i < 20; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            const int pick = (int)((random >> 33) % 16);
            script[i] = pick < 12 ? 256 + pick : pick < 14 ? 'a' : 'b';
        }
        struct engine engine = new_engine(script, 20);
        struct generation_request request = new_request(20);
        request.stop = stop;
        request.n_stop = 2;
        struct generation_result result = run(&engine, &request);
        for (int64_t i = 0; i < result.ids.count; i++) {
            const char *piece;
            size_t length;
            assert_int_equal(tokenizer_bytes(tokenizer, script[i], 0, &piece, &length), STATUS_OK);
            assert_false(result.stopped && cut_by_hand(text, stop, 2, &cut));
            strncat(text, piece, length);
            if (i + 1 < result.ids.count && /* what was out when the next step began */
                engine.streamed_at[3 + i] != certain_by_hand(text, stop, 2))
                fail_msg("trial %d, \"%s\": %zu bytes out", trial, text, engine.streamed_at[3 + i]);
        }
        assert_int_equal(result.stopped, cut_by_hand(text, stop, 2, &cut));
        if (result.stopped)
            text[cut] = '\0';
        assert_string_equal(result.text, text);
        n_stopped += result.stopped;
        generation_result_free(&result);
    }
    assert_in_range(n_stopped, 500, 2999);
}

static void logprobs_go_with_each_token(void **state)
{
    int32_t script[100];
    (void)state;
    for (int i = 0; i < 100; i++)
        script[i] = 'a' + i % 20;
    for (int count = 0; count <= 3; count += 3) {
        struct engine engine = new_engine(script, 100);
        struct generation_request request = new_request(100);
        request.n_logprobs = count;
        struct generation_result result = run(&engine, &request);
        assert_int_equal(result.ids.count, 100);
        for (int i = 0; i < 100; i++) {
            /* the row of the script: 5, one mark at the position, the others 0 */
            const double sum = exp(5) + exp(6 + i) + VOCAB - 2;
            assert_int_equal(result.logprob[i].id, script[i]);
            assert_true(fabs((double)result.logprob[i].logprob - (5 - log(sum))) < 1e-5);
            for (int k = 0; k < count; k++)
                assert_int_equal(result.top_logprob[i * count + k].id,
                                 k == 0 ? script[i] : k - 1); /* then ties, lowest first */
        }
        generation_result_free(&result);
    }
}

static void draws_are_keyed_by_the_number_of_tokens_before(void **state)
{
    static const int32_t script[] = {'x'};
    struct engine engine = new_engine(script, 1);
    struct generation_request request = new_request(40);
    struct sampler *sampler;
    float logits[VOCAB] = {0};
    (void)state;
    engine.config.n_eos = 0;
    request.sampling.temperature = 3;
    request.sampling.seed = 42;
    struct generation_result result = run(&engine, &request);
    assert_int_equal(sampler_open(&sampler, VOCAB, N_IDS), STATUS_OK);
    logits['x'] = 5;
    for (int i = 0; i < 40; i++) {
        int32_t id;
        assert_int_equal(sampler_draw(sampler, logits, &request.sampling, (uint64_t)(7 + i), &id),
                         STATUS_OK);
        assert_int_equal(result.ids.id[i], id);
    }
    sampler_close(sampler);
    generation_result_free(&result);
}

static void a_model_without_tokenizer_gives_ids(void **state)
{
    static const int32_t script[] = {'x', VOCAB - 2};
    struct engine engine = new_engine(script, 2);
    struct generation_request request = new_request(2);
    struct generation_result result;
    (void)state;
    request.on_logits = hear_logits;
    assert_int_equal(generation_run(&result, &engine, NULL, &request), STATUS_OK);
    assert_int_equal(result.ids.count, 2);
    assert_null(result.text);
    generation_result_free(&result);
}

static void check_refused(struct engine *engine, const struct generation_request *request,
                          const struct tokenizer *with, enum status code, const char *says)
{
    struct generation_result result = {.stopped = 77};
    assert_int_equal(generation_run(&result, engine, with, request), code);
    if (strstr(status_text(), says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", status_text(), says);
    assert_int_equal(result.stopped, 77);
    assert_int_equal(engine->length, 0);
}

static void wrong_requests_are_refused_before_anything_runs(void **state)
{
    static const int32_t script[] = {'x'}, high[] = {1, 2, VOCAB}, negative[] = {-1};
    static const char *const stop[] = {"x", ""};
    struct engine engine = new_engine(script, 1);
    const struct generation_request fine = new_request(1);
    struct generation_request request = fine;
    (void)state;
    request.n_prompt = 0;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "prompt is empty");
    request = fine;
    request.prompt = high;
    request.n_prompt = 3;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE,
                  "token 2 of the prompt (counted from 0) is 300, but the model's ids go from 0 to "
                  "299");
    request.prompt = negative;
    request.n_prompt = 1;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "token 0 of the prompt");
    request = fine;
    engine.max_model_len = 6;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "7 tokens, but the context holds 6");
    engine.max_model_len = 200;
    request.max_tokens = -1;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "max-tokens is -1");
    request = fine;
    request.sampling.top_p = 2;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "top-p");
    request = fine;
    request.n_logprobs = N_IDS + 1;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "logprobs");
    request = fine;
    request.stop = stop;
    request.n_stop = 1;
    check_refused(&engine, &request, NULL, STATUS_USAGE, "no tokenizer.json");
    request.n_stop = 2;
    check_refused(&engine, &request, tokenizer, STATUS_USAGE, "stop string 2 is empty");
    assert_int_equal(engine.n_steps, 0);
}

static void a_failure_on_the_way_releases_the_sequence(void **state)
{
    static const int32_t script[] = {'x'};
    (void)state;
    struct engine engine = new_engine(script, 1);
    struct generation_request request = new_request(10);
    engine.nan_position = 9;
    check_refused(&engine, &request, tokenizer, STATUS_INVALID, "NaN");
    assert_int_equal(engine.n_released, 1);
    for (int64_t position = 1; position < 12;
         position += 5) { /* in the prompt, at its end, after */
        engine = new_engine(script, 1);
        request = new_request(10);
        request.on_logits = hear_logits;
        heard.fail_at = position;
        check_refused(&engine, &request, tokenizer, STATUS_IO, "disk full");
        assert_int_equal(heard.n_positions, position + 1); /* not called again */
        assert_int_equal(engine.n_released, 1);
    }
}

/* ---- several requests ---- */

enum { N_REQUESTS = 11 };

static struct generation_result kept[N_REQUESTS];
static int ended[N_REQUESTS], n_ended;

static enum status keep(void *context, int index, const struct generation_result *result)
{
    assert_ptr_equal(context, kept);
    assert_null(kept[index].text); /* each once */
    kept[index] = *result;
    ended[n_ended++] = index;
    return STATUS_OK;
}

/* Prompts of 1 to 11 ids, some sampled, one of which only the prompt is run. */
static void make_requests(struct generation_request *request, int32_t (*ids)[N_REQUESTS])
{
    static const char *const stop[] = {"ab", "q"};
    for (int i = 0; i < N_REQUESTS; i++) {
        request[i] = new_request(i == 4 ? 0 : 10 + i * 3 % 14);
        for (int j = 0; j <= i; j++)
            ids[i][j] = 'a' + (7 * i + j) % 26;
        request[i].prompt = ids[i];
        request[i].n_prompt = i + 1;
        request[i].on_text = NULL;
        request[i].sampling.temperature = i % 3 == 0 ? 1.0f : 0;
        request[i].sampling.seed = (uint64_t)i / 2;
        request[i].ignore_eos = i % 2;
        request[i].stop = stop;
        request[i].n_stop = i % 5 == 0 ? 2 : 0;
        request[i].n_logprobs = i % 4 - 1;
    }
}

static void expect_equal(const struct generation_result *a, const struct generation_result *b,
                         int n_logprobs)
{
    size_t count = (size_t)a->ids.count;
    assert_int_equal(a->ids.count, b->ids.count);
    assert_int_equal(a->stopped, b->stopped);
    assert_string_equal(a->text, b->text);
    if (count == 0)
        return;
    assert_memory_equal(a->ids.id, b->ids.id, count * sizeof *a->ids.id);
    if (n_logprobs >= 0)
        assert_memory_equal(a->logprob, b->logprob, count * sizeof *a->logprob);
    if (n_logprobs > 0)
        assert_memory_equal(a->top_logprob, b->top_logprob,
                            count * (size_t)n_logprobs * sizeof *a->top_logprob);
}

static struct engine new_batch_engine(int max_seqs, int max_batched)
{
    struct engine engine = new_engine(NULL, 0);
    engine.max_seqs = max_seqs;
    engine.max_batched = max_batched;
    engine.streamed = NULL;
    return engine;
}

static void expect_each_as_alone(struct engine *engine, const struct generation_request *request)
{
    memset(kept, 0, sizeof kept);
    n_ended = 0;
    assert_int_equal(generation_run_all(engine, tokenizer, request, N_REQUESTS, keep, kept),
                     STATUS_OK);
    assert_int_equal(n_ended, N_REQUESTS);
    assert_int_equal(engine->length, 0);
    assert_int_equal(engine->n_released, N_REQUESTS);
    for (int i = 0; i < N_REQUESTS; i++) {
        struct engine alone = new_batch_engine(1, 5);
        struct generation_result result;
        assert_int_equal(generation_run(&result, &alone, tokenizer, &request[i]), STATUS_OK);
        expect_equal(&kept[i], &result, request[i].n_logprobs);
        generation_result_free(&result);
        generation_result_free(&kept[i]);
    }
}

static void side_by_side_each_gets_what_it_gets_alone(void **state)
{
    struct generation_request request[N_REQUESTS];
    int32_t ids[N_REQUESTS][N_REQUESTS];
    (void)state;
    make_requests(request, ids);
    for (int max_seqs = 1; max_seqs <= MAX_SEQUENCES; max_seqs++) {
        struct engine engine = new_batch_engine(max_seqs, 5);
        expect_each_as_alone(&engine, request);
    }
}

static void steps_on_their_way_and_replicas_change_nothing(void **state)
{
    struct generation_request request[N_REQUESTS];
    int32_t ids[N_REQUESTS][N_REQUESTS];
    (void)state;
    make_requests(request, ids);
    for (int depth = 1; depth <= MAX_DEPTH; depth++)
        for (int n_replicas = 1; n_replicas <= MAX_SEQUENCES; n_replicas++)
            for (int max_seqs = 1; max_seqs <= MAX_SEQUENCES; max_seqs++) {
                struct engine engine = new_batch_engine(max_seqs, 4);
                engine.depth = depth;
                engine.n_replicas = n_replicas;
                expect_each_as_alone(&engine, request);
                assert_int_equal(engine.n_flights, 0);
                /* prompts of one replica follow each other without waiting */
                assert_int_equal(engine.most_flights, depth);
            }
}

/* Two replicas, whose prompts share the first step; the long one's replica gets no second sequence while the
 * other's is free. */
static void replicas_are_filled_by_the_tokens_they_keep(void **state)
{
    struct engine engine = new_batch_engine(4, 8);
    struct generation_request request[4];
    static const int32_t lengths[] = {7, 1, 1, 1};
    (void)state;
    engine.n_replicas = 2;
    engine.script = (const int32_t[]){'x'};
    engine.n_script = 1;
    for (int i = 0; i < 4; i++) {
        request[i] = new_request(2);
        request[i].n_prompt = lengths[i];
        request[i].on_text = NULL;
    }
    engine.n_prompt = 1;
    memset(kept, 0, sizeof kept);
    n_ended = 0;
    assert_int_equal(generation_run_all(&engine, tokenizer, request, 3, keep, kept), STATUS_OK);
    /* 4 of the 7 and all of the 1; sequences 0 and 1, then 3, which is of the replica of 1 */
    assert_int_equal(engine.n_tokens[0], 5);
    assert_int_equal(engine.n_entries[0], 2);
    for (int i = 0; i < 3; i++)
        generation_result_free(&kept[i]);
}

/* Prompts of 1, 2, 3 ids, two places: the third begins when one of the others has ended. */
static void a_free_sequence_is_taken_by_the_next_request(void **state)
{
    struct engine engine = new_batch_engine(2, 5);
    struct generation_request request[N_REQUESTS];
    int32_t ids[N_REQUESTS][N_REQUESTS];
    static const int32_t n_tokens[] = {1, 2, 2, 2, 3, 2, 1}, n_entries[] = {1, 1, 2, 2, 1, 2, 1};
    (void)state;
    make_requests(request, ids);
    for (int i = 0; i < 3; i++) {
        request[i].ignore_eos = 1;
        request[i].n_stop = 0;
        request[i].max_tokens = i == 1 ? 4 : 3;
    }
    memset(kept, 0, sizeof kept);
    n_ended = 0;
    assert_int_equal(generation_run_all(&engine, tokenizer, request, 3, keep, kept), STATUS_OK);
    assert_int_equal(engine.n_steps, 7);
    assert_memory_equal(engine.n_tokens, n_tokens, sizeof n_tokens);
    assert_memory_equal(engine.n_entries, n_entries, sizeof n_entries);
    assert_int_equal(ended[0], 0);
    assert_int_equal(ended[1], 1);
    assert_int_equal(ended[2], 2);
    for (int i = 0; i < 3; i++)
        generation_result_free(&kept[i]);
}

static void steps_take_no_more_tokens_than_the_engine(void **state)
{
    struct engine engine = new_batch_engine(4, 2); /* asserts it itself */
    struct generation_request request[N_REQUESTS];
    int32_t ids[N_REQUESTS][N_REQUESTS];
    (void)state;
    make_requests(request, ids);
    memset(kept, 0, sizeof kept);
    n_ended = 0;
    assert_int_equal(generation_run_all(&engine, tokenizer, request, N_REQUESTS, keep, kept),
                     STATUS_OK);
    for (int i = 0; i < N_REQUESTS; i++)
        generation_result_free(&kept[i]);
    assert_int_equal(generation_run_all(&engine, tokenizer, request, 0, keep, kept), STATUS_OK);
}

static enum status refuse_second(void *context, int index, const struct generation_result *result)
{
    struct generation_result own = *result;
    (void)index;
    generation_result_free(&own);
    if (++*(int *)context == 2)
        FAIL(STATUS_IO, "nobody reads on");
    return STATUS_OK;
}

static void a_failure_of_one_frees_all_sequences(void **state)
{
    struct engine engine = new_batch_engine(4, 5);
    struct generation_request request[N_REQUESTS];
    int32_t ids[N_REQUESTS][N_REQUESTS];
    int count = 0;
    (void)state;
    make_requests(request, ids);
    assert_int_equal(
        generation_run_all(&engine, tokenizer, request, N_REQUESTS, refuse_second, &count),
        STATUS_IO);
    assert_int_equal(count, 2);
    assert_int_equal(engine.length, 0);
    engine.nan_position = 8; /* which four of them reach together */
    count = -100;
    assert_int_equal(
        generation_run_all(&engine, tokenizer, request, N_REQUESTS, refuse_second, &count),
        STATUS_INVALID);
    assert_int_equal(engine.length, 0);
    request[9].max_tokens = -1; /* found before anything runs */
    engine.n_steps = 0;
    assert_int_equal(
        generation_run_all(&engine, tokenizer, request, N_REQUESTS, refuse_second, &count),
        STATUS_USAGE);
    assert_int_equal(engine.n_steps, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_fed_back_until_max_tokens),
        cmocka_unit_test(all_rows_of_logits_come_in_order_when_wanted),
        cmocka_unit_test(max_tokens_zero_runs_the_prompt_alone),
        cmocka_unit_test(an_eos_id_stops_and_stays_out_of_the_text),
        cmocka_unit_test(a_full_context_ends_with_length),
        cmocka_unit_test(characters_are_emitted_whole),
        cmocka_unit_test(stop_strings_are_cut_wherever_tokens_split_them),
        cmocka_unit_test(the_stop_string_that_ends_first_wins_then_the_longest),
        cmocka_unit_test(text_is_held_back_no_more_than_needed),
        cmocka_unit_test(logprobs_go_with_each_token),
        cmocka_unit_test(draws_are_keyed_by_the_number_of_tokens_before),
        cmocka_unit_test(a_model_without_tokenizer_gives_ids),
        cmocka_unit_test(wrong_requests_are_refused_before_anything_runs),
        cmocka_unit_test(a_failure_on_the_way_releases_the_sequence),
        cmocka_unit_test(side_by_side_each_gets_what_it_gets_alone),
        cmocka_unit_test(steps_on_their_way_and_replicas_change_nothing),
        cmocka_unit_test(replicas_are_filled_by_the_tokens_they_keep),
        cmocka_unit_test(a_free_sequence_is_taken_by_the_next_request),
        cmocka_unit_test(steps_take_no_more_tokens_than_the_engine),
        cmocka_unit_test(a_failure_of_one_frees_all_sequences),
    };
    return cmocka_run_group_tests(tests, write_tokenizer, close_tokenizer);
}
