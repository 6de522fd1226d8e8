/* tiktoken.model: the calls of tokenizer.h on the fixture kimi, chunks against their definition,
 * long texts against the package `tiktoken` (tests/tokenizer/make_long.py). */
#include "runtime/tiktoken_chunk.h"
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define KIMI SOURCE_DIR "/tests/tokenizer/fixtures/kimi"

enum { N_RANKS = 2638, N_IDS = N_RANKS + 256 };

static struct tokenizer *open_tokenizer(const char *directory)
{
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open(&tokenizer, directory) != STATUS_OK)
        fail_msg("%s", status_text());
    assert_non_null(tokenizer);
    return tokenizer;
}

static int id_of(const struct tokenizer *tokenizer, const char *text)
{
    return tokenizer_id(tokenizer, text, strlen(text));
}

static void the_ids_after_the_ranks_are_named_or_reserved(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_tokenizer(KIMI);
    assert_int_equal(tokenizer_size(tokenizer), N_IDS);
    assert_int_equal(id_of(tokenizer, "[BOS]"), N_RANKS);
    assert_int_equal(id_of(tokenizer, "[PAD]"), N_IDS - 1);
    assert_int_equal(id_of(tokenizer, "<|reserved_token_2643|>"), 2643);
    assert_int_equal(id_of(tokenizer, "<|reserved_token_2638|>"), -1); /* it is [BOS] */
    assert_int_equal(id_of(tokenizer, "<|reserved_token_2894|>"), -1);
    assert_int_equal(tokenizer_bos(tokenizer), N_RANKS);
    assert_int_equal(tokenizer_adds_bos(tokenizer), 0);
    tokenizer_close(tokenizer);
}

/* An entry is found by its bytes, be they text or not. */
static void bytes_of_an_id_lead_back_to_it(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_tokenizer(KIMI);
    const char *data;
    size_t length;
    for (int id = 0; id < N_IDS; id++) {
        assert_int_equal(tokenizer_bytes(tokenizer, id, 1, &data, &length), STATUS_OK);
        assert_true(length > 0);
        assert_int_equal(tokenizer_id(tokenizer, data, length), id);
    }
    assert_int_equal(tokenizer_bytes(tokenizer, N_IDS, 1, &data, &length), STATUS_INVALID);
    tokenizer_close(tokenizer);
}

static void special_and_reserved_tokens_are_silent_unless_asked_for(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_tokenizer(KIMI);
    /* The config says of <think> that it is not special. */
    const int32_t ids[] = {id_of(tokenizer, "[BOS]"), id_of(tokenizer, "<think>"), 2643,
                           id_of(tokenizer, "a")};
    static const char *const expected[2] = {"<think>a", "[BOS]<think><|reserved_token_2643|>a"};
    for (int with_special = 0; with_special <= 1; with_special++) {
        char *text = NULL;
        size_t length = 0;
        assert_int_equal(tokenizer_decode(tokenizer, ids, 4, with_special, &text, &length),
                         STATUS_OK);
        assert_string_equal(text, expected[with_special]);
        free(text);
    }
    tokenizer_close(tokenizer);
}

static void copy_file(const char *from, const char *directory, const char *name)
{
    char path[256], buffer[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
    assert_true(in && out);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, in)) > 0;)
        assert_int_equal(fwrite(buffer, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

static void tokenizer_json_goes_before_tiktoken_model(void **state)
{
    (void)state;
    char directory[] = "/tmp/test_tiktoken.XXXXXX", path[256];
    static const char *const name[] = {"tiktoken.model", "tokenizer_config.json", "tokenizer.json"};
    assert_non_null(mkdtemp(directory));
    copy_file(KIMI "/tiktoken.model", directory, name[0]);
    copy_file(KIMI "/tokenizer_config.json", directory, name[1]);
    struct tokenizer *ranks = open_tokenizer(directory), *kimi = open_tokenizer(KIMI);
    copy_file(SOURCE_DIR "/tests/tokenizer/fixtures/gpt2/tokenizer.json", directory, name[2]);
    struct tokenizer *json = open_tokenizer(directory);
    assert_int_equal(tokenizer_size(ranks), N_IDS);
    assert_int_equal(tokenizer_size(json), 1206);
    assert_true(tokenizer_hash(ranks) == tokenizer_hash(kimi));
    assert_true(tokenizer_hash(ranks) != tokenizer_hash(json));
    tokenizer_close(ranks);
    tokenizer_close(kimi);
    tokenizer_close(json);
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, name[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(directory), 0);
}

/* Chunks join to the text; a part ends after 400,000 characters, a run is cut after 25,000. */
static void chunks_end_where_a_part_or_a_run_is_full(void **state)
{
    (void)state;
    static const struct {
        const char *unit;
        int count, n_expected;
        size_t expected[4]; /* characters of the first chunks */
    } cases[] = {
        {"a", 0, 0, {0}},
        {"a", 25000, 1, {25000}},
        {"a", 25001, 2, {25000, 1}},
        {" ", 60000, 3, {25000, 25000, 10000}},
        {"\xE4\xB8\xAD", 25002, 2, {25000, 2}},
        {"\x1C", 25001, 2, {25000, 1}},         /* white space to Python */
        {"\xE1\xA0\x8E", 25001, 2, {25000, 1}}, /* U+180E is none, but a run too */
        {"a ", 200000, 1, {400000}},
        {"a ", 300001, 2, {400000, 200002}},
        {"a\x1F", 30000, 1, {60000}},
        {"a\xC2\x85", 30000, 1, {60000}},
        {"a\xE1\xA0\x8E", 12501, 2, {25000, 2}},
        {"ab", 210000, 4, {25000, 25000, 25000, 25000}}, /* 17 in all */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].unit), length = n * (size_t)cases[i].count, done = 0;
        char *text = malloc(length + 1);
        struct tiktoken_chunk chunk = {0};
        for (size_t at = 0; at < length; at += n)
            memcpy(text + at, cases[i].unit, n);
        for (int k = 0; tiktoken_chunk_next(&chunk, text, length); k++) {
            size_t n_characters = 0;
            assert_true(chunk.begin == done && chunk.end > done);
            for (done = chunk.begin; done < chunk.end; done++)
                n_characters += ((unsigned char)text[done] & 0xC0) != 0x80;
            if (k < 4)
                assert_int_equal(n_characters, cases[i].expected[k]);
            assert_true(k < cases[i].n_expected || cases[i].n_expected == 4);
        }
        assert_int_equal(done, length);
        free(text);
    }
}

/* As make_long.py does. */
static uint64_t fnv1a(const struct token_list *ids)
{
    uint64_t hash = 0xcbf29ce484222325U;
    for (int64_t i = 0; i < ids->count; i++)
        for (int shift = 0; shift < 32; shift += 8)
            hash = (hash ^ ((uint32_t)ids->id[i] >> shift & 0xFF)) * 0x100000001b3U;
    return hash;
}

static char *join_parts(size_t *length, const json_t *parts)
{
    size_t index, room = 1;
    const json_t *part;
    json_array_foreach(parts, index, part) room +=
        json_string_length(json_array_get(part, 0)) *
        (size_t)json_integer_value(json_array_get(part, 1));
    char *text = malloc(room);
    *length = 0;
    json_array_foreach(parts, index, part)
    {
        const json_t *unit = json_array_get(part, 0);
        for (json_int_t i = json_integer_value(json_array_get(part, 1)); i > 0; i--) {
            memcpy(text + *length, json_string_value(unit), json_string_length(unit));
            *length += json_string_length(unit);
        }
    }
    return text;
}

static void long_texts_have_the_ids_of_the_package(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_tokenizer(KIMI);
    char line[1024];
    int n_lines = 0;
    FILE *file = fopen(SOURCE_DIR "/tests/tokenizer/long.jsonl", "r");
    assert_non_null(file);
    for (; fgets(line, sizeof line, file); n_lines++) {
        json_t *root = json_loads(line, 0, NULL);
        struct token_list ids = {0};
        size_t length = 0;
        char *text = join_parts(&length, json_object_get(root, "parts"));
        if (tokenizer_encode(tokenizer, text, length, &ids) != STATUS_OK)
            fail_msg("%s%s", line, status_text());
        uint64_t expected = strtoull(json_string_value(json_object_get(root, "hash")), NULL, 16);
        if (ids.count != json_integer_value(json_object_get(root, "count")) ||
            fnv1a(&ids) != expected)
            fail_msg("%s%lld ids", line, (long long)ids.count);
        token_list_free(&ids);
        free(text);
        json_decref(root);
    }
    fclose(file);
    tokenizer_close(tokenizer);
    assert_int_equal(n_lines, 29);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ids_after_the_ranks_are_named_or_reserved),
        cmocka_unit_test(bytes_of_an_id_lead_back_to_it),
        cmocka_unit_test(special_and_reserved_tokens_are_silent_unless_asked_for),
        cmocka_unit_test(tokenizer_json_goes_before_tiktoken_model),
        cmocka_unit_test(chunks_end_where_a_part_or_a_run_is_full),
        cmocka_unit_test(long_texts_have_the_ids_of_the_package),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
