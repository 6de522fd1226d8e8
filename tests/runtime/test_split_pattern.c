/* Patterns written for Oniguruma, translated for PCRE2: the pieces of the package `tokenizers`
 * (tests/tokenizer/make_patterns.py). */
#include "runtime/pre_tokenizer.h"
#include "runtime/split_pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

enum { LINE_MAX_BYTES = 1 << 16 };

/* Pieces are compared one by one as they come. */
struct expected {
    const json_t *pieces;
    size_t count;
    int n_wrong;
};

static enum status compare_piece(void *context, const char *text, size_t length)
{
    struct expected *expected = context;
    const json_t *piece = json_array_get(expected->pieces, expected->count++);
    if (!piece || json_string_length(piece) != length ||
        memcmp(json_string_value(piece), text, length) != 0)
        expected->n_wrong++;
    return STATUS_OK;
}

static void open_step(struct pre_tokenizer *steps, const char *pattern, size_t length)
{
    char *translated = NULL;
    size_t translated_length = 0;
    if (split_pattern_translate(&translated, &translated_length, pattern, length) != STATUS_OK ||
        split_regex_open(&steps->step[0].regex, translated, translated_length) != STATUS_OK)
        fail_msg("%s: %s", pattern, status_text());
    free(translated);
    steps->n_steps = 1;
}

static int check_line(const json_t *line, struct split_memory *memory)
{
    const json_t *pattern = json_object_get(line, "pattern"), *text = json_object_get(line, "text");
    struct expected expected = {.pieces = json_object_get(line, "pieces")};
    struct pre_tokenizer steps = {0};
    open_step(&steps, json_string_value(pattern), json_string_length(pattern));
    steps.step[0].behavior =
        (enum split_behavior)json_integer_value(json_object_get(line, "behavior"));
    steps.step[0].invert = json_is_true(json_object_get(line, "invert"));
    enum status status = pre_tokenizer_cut(&steps, memory, json_string_value(text),
                                           json_string_length(text), compare_piece, &expected);
    assert_int_equal(status, STATUS_OK);
    pre_tokenizer_close(&steps);
    return expected.n_wrong == 0 && expected.count == json_array_size(expected.pieces);
}

static void pieces_are_those_of_the_package(void **state)
{
    (void)state;
    static char buffer[LINE_MAX_BYTES];
    struct split_memory *memory = NULL;
    int n_wrong = 0, n_lines = 0;
    FILE *file = fopen(SOURCE_DIR "/tests/tokenizer/patterns.jsonl", "r");
    assert_non_null(file);
    assert_int_equal(split_memory_open(&memory), STATUS_OK);
    while (fgets(buffer, sizeof buffer, file)) {
        json_t *line = json_loads(buffer, JSON_ALLOW_NUL, NULL);
        n_lines++;
        if (!check_line(line, memory) && ++n_wrong <= 20)
            print_error("%d: %s", n_lines, buffer);
        json_decref(line);
    }
    split_memory_close(memory);
    fclose(file);
    assert_int_equal(n_wrong, 0);
    assert_int_equal(n_lines, 2000);
}

static void a_literal_text_is_found_as_it_is(void **state)
{
    (void)state;
    static const char literal[] = "a.b*[c]\\E#\n(?i)\xE4\xB8\xAD{2}";
    char *quoted = NULL;
    size_t length = 0, begin = 0, end = 0;
    int found = 0;
    struct split_regex *regex = NULL;
    struct split_memory *memory = NULL;
    assert_int_equal(split_pattern_quote(&quoted, &length, literal, sizeof literal - 1), STATUS_OK);
    assert_int_equal(split_regex_open(&regex, quoted, length), STATUS_OK);
    assert_int_equal(split_memory_open(&memory), STATUS_OK);
    assert_int_equal(
        split_regex_find(regex, memory, &found, &begin, &end, literal, sizeof literal - 1, 0),
        STATUS_OK);
    assert_int_equal(found, 1);
    assert_int_equal(begin, 0);
    assert_int_equal(end, sizeof literal - 1);
    split_memory_close(memory);
    split_regex_close(regex);
    free(quoted);
}

static void a_runaway_pattern_ends_with_an_error(void **state)
{
    (void)state;
    struct pre_tokenizer steps = {0};
    struct split_memory *memory = NULL;
    size_t begin, end;
    int found;
    char text[64];
    memset(text, 'a', sizeof text);
    open_step(&steps, "(a+a+)+b", 8);
    assert_int_equal(split_memory_open(&memory), STATUS_OK);
    text[60] = 'c'; /* a b would be needed, PCRE2 knows that when there is none: put one early */
    text[0] = 'b';
    text[63] = 'b';
    assert_int_equal(
        split_regex_find(steps.step[0].regex, memory, &found, &begin, &end, text, sizeof text, 0),
        STATUS_INVALID);
    assert_non_null(strstr(status_text(), "limit"));
    split_memory_close(memory);
    pre_tokenizer_close(&steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_those_of_the_package),
        cmocka_unit_test(a_literal_text_is_found_as_it_is),
        cmocka_unit_test(a_runaway_pattern_ends_with_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
