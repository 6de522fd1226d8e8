/* 2,000 texts through every fixture and the demo tokenizer: the ids of the package `tokenizers`
 * or `tiktoken` (tests/tokenizer/make_strings.py), and the way back to the same text. */
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

enum { N_STRINGS = 2000, LINE_MAX_BYTES = 1 << 20 };

struct fixture {
    const char *name, *directory;
    int round_trip; /* nothing is stripped, removed or unknown */
};
static struct fixture fixtures[] = {
    {"demo", SOURCE_DIR "/configs/demo", 1},
    {"pairs", SOURCE_DIR "/tests/tokenizer/fixtures/pairs", 0},
    {"strings", SOURCE_DIR "/tests/tokenizer/fixtures/strings", 1},
    {"gpt2", SOURCE_DIR "/tests/tokenizer/fixtures/gpt2", 1},
    {"o200k", SOURCE_DIR "/tests/tokenizer/fixtures/o200k", 1},
    {"deepseek-v2", SOURCE_DIR "/tests/tokenizer/fixtures/deepseek-v2", 0},
    {"glm", SOURCE_DIR "/tests/tokenizer/fixtures/glm", 1},
    {"kimi", SOURCE_DIR "/tests/tokenizer/fixtures/kimi", 1},
    {"odd", SOURCE_DIR "/tests/tokenizer/fixtures/odd", 0},
};

static void check_ids(const struct token_list *ids, const json_t *expected, int line)
{
    if (ids->count != (int64_t)json_array_size(expected))
        fail_msg("line %d: %lld ids, expected %zu", line, (long long)ids->count,
                 json_array_size(expected));
    for (size_t i = 0; i < json_array_size(expected); i++)
        if (ids->id[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("line %d: id %zu is %d, expected %lld", line, i, (int)ids->id[i],
                     (long long)json_integer_value(json_array_get(expected, i)));
}

static void check_text(const struct tokenizer *tokenizer, const struct token_list *ids,
                       const char *text, size_t length, int line)
{
    char *again = NULL;
    size_t again_length = 0;
    assert_int_equal(tokenizer_decode(tokenizer, ids->id, ids->count, 1, &again, &again_length),
                     STATUS_OK);
    if (again_length != length || memcmp(again, text, length) != 0)
        fail_msg("line %d: \"%s\" comes back as \"%s\"", line, text, again);
    free(again);
}

static void ids_are_those_of_the_package_and_come_back_as_the_text(void **state)
{
    const struct fixture *fixture = *state;
    struct tokenizer *tokenizer = NULL;
    static char buffer[LINE_MAX_BYTES];
    int line = 0;
    if (tokenizer_open(&tokenizer, fixture->directory) != STATUS_OK)
        fail_msg("%s", status_text());
    if (!tokenizer)
        skip(); /* configs/demo is made by training */
    FILE *file = fopen(SOURCE_DIR "/tests/tokenizer/strings.jsonl", "r");
    assert_non_null(file);
    while (fgets(buffer, sizeof buffer, file)) {
        json_t *root = json_loads(buffer, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(root, "text");
        const json_t *expected = json_object_get(json_object_get(root, "ids"), fixture->name);
        struct token_list ids = {0};
        line++;
        assert_true(json_is_array(expected));
        const char *data = json_string_value(text);
        size_t length = json_string_length(text);
        assert_int_equal(tokenizer_encode(tokenizer, data, length, &ids), STATUS_OK);
        check_ids(&ids, expected, line);
        if (fixture->round_trip)
            check_text(tokenizer, &ids, data, length, line);
        token_list_free(&ids);
        json_decref(root);
    }
    fclose(file);
    tokenizer_close(tokenizer);
    assert_int_equal(line, N_STRINGS);
}

int main(void)
{
    struct CMUnitTest tests[sizeof fixtures / sizeof *fixtures];
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        tests[i] =
            (struct CMUnitTest){.name = fixtures[i].name,
                                .test_func = ids_are_those_of_the_package_and_come_back_as_the_text,
                                .initial_state = &fixtures[i]};
    return _cmocka_run_group_tests("tokenizer_strings", tests, sizeof tests / sizeof *tests, NULL,
                                   NULL);
}
