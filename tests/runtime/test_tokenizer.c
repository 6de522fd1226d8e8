/* The calls of tokenizer.h on the fixtures: sizes, names, BOS, decoding, streams, long words. */
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURES SOURCE_DIR "/tests/tokenizer/fixtures/"

static struct tokenizer *open_fixture(const char *directory)
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

static void a_directory_without_tokenizer_gives_none(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = (struct tokenizer *)state;
    assert_int_equal(tokenizer_open(&tokenizer, SOURCE_DIR "/tests"), STATUS_OK);
    assert_null(tokenizer);
    assert_int_equal(tokenizer_open(&tokenizer, SOURCE_DIR "/tests/there/is/none"), STATUS_OK);
    assert_null(tokenizer);
    tokenizer_close(NULL);
}

static void bos_is_that_of_the_config_else_of_the_post_processor(void **state)
{
    (void)state;
    static const struct {
        const char *directory, *bos;
        int adds_bos;
    } expected[] = {
        {FIXTURES "pairs", "<s>", 1},                 /* TemplateProcessing, no config */
        {FIXTURES "strings", "<|begin_of_text|>", 1}, /* config, bos_token an object */
        {FIXTURES "o200k", "[gMASK]", 0},             /* config says false */
        {FIXTURES "gpt2", NULL, 0},                   /* neither */
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct tokenizer *tokenizer = open_fixture(expected[i].directory);
        int bos = expected[i].bos ? id_of(tokenizer, expected[i].bos) : -1;
        assert_true(!expected[i].bos || bos >= 0);
        assert_int_equal(tokenizer_bos(tokenizer), bos);
        assert_int_equal(tokenizer_adds_bos(tokenizer), expected[i].adds_bos);
        tokenizer_close(tokenizer);
    }
}

static void special_tokens_are_silent_unless_asked_for(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_fixture(FIXTURES "pairs");
    int32_t ids[3] = {id_of(tokenizer, "<s>"), id_of(tokenizer, "a"), id_of(tokenizer, "<norm>")};
    static const char *const expected[2] = {"a<norm>",
                                            "<s>a<norm>"}; /* <norm> is added, not special */
    const char *data;
    size_t length;
    for (int with_special = 0; with_special <= 1; with_special++) {
        char *text = NULL;
        assert_int_equal(tokenizer_decode(tokenizer, ids, 3, with_special, &text, &length),
                         STATUS_OK);
        assert_string_equal(text, expected[with_special]);
        assert_int_equal(length, strlen(text));
        free(text);
    }
    int size = tokenizer_size(tokenizer);
    assert_int_equal(tokenizer_bytes(tokenizer, size - 1, 1, &data, &length), STATUS_OK);
    assert_int_equal(tokenizer_bytes(tokenizer, size, 1, &data, &length), STATUS_INVALID);
    assert_int_equal(tokenizer_bytes(tokenizer, -1, 1, &data, &length), STATUS_INVALID);
    assert_non_null(strstr(status_text(), "id -1"));
    assert_int_equal(id_of(tokenizer, "no such token"), -1);
    assert_int_equal(id_of(tokenizer, ""), -1);
    tokenizer_close(tokenizer);
}

/* A small generator, so that the ids are the same in every run. */
static uint32_t random_below(uint32_t *random_state, uint32_t n)
{
    *random_state = *random_state * 1664525U + 1013904223U;
    return (*random_state >> 8) % n;
}

static void a_stream_gives_the_same_text_as_decoding_at_once(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_fixture(FIXTURES "gpt2");
    uint32_t random_state = 20261123;
    for (int round = 0; round < 2000; round++) {
        int32_t ids[24];
        char streamed[24 * 64 * 3], *text = NULL;
        size_t length, written = 0;
        struct utf8_stream stream = {0};
        for (int i = 0; i < 24; i++) { /* single bytes half of the time */
            uint32_t below = i % 2 ? 257 : (uint32_t)tokenizer_size(tokenizer);
            const char *data;
            size_t n_bytes;
            ids[i] = (int32_t)random_below(&random_state, below);
            assert_int_equal(tokenizer_bytes(tokenizer, ids[i], 1, &data, &n_bytes), STATUS_OK);
            written += utf8_stream_push(&stream, data, n_bytes, streamed + written);
        }
        written += utf8_stream_finish(&stream, streamed + written);
        assert_int_equal(tokenizer_decode(tokenizer, ids, 24, 1, &text, &length), STATUS_OK);
        assert_int_equal(written, length);
        assert_memory_equal(streamed, text, length);
        free(text);
    }
    tokenizer_close(tokenizer);
}

static void wrong_bytes_are_encoded_as_replacements(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_fixture(FIXTURES "gpt2");
    struct token_list wrong = {0}, right = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "a\xF0\x9F\x98 \xED\xA0\x80\xFF", 9, &wrong),
                     STATUS_OK);
    static const char replaced[] = "a\xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD";
    assert_int_equal(tokenizer_encode(tokenizer, replaced, sizeof replaced - 1, &right), STATUS_OK);
    assert_int_equal(wrong.count, right.count);
    assert_memory_equal(wrong.id, right.id, (size_t)right.count * sizeof *right.id);
    token_list_free(&wrong);
    token_list_free(&right);
    tokenizer_close(tokenizer);
}

/* Quadratic work would not end within the time of a test. */
static void long_words_and_runs_come_back_whole(void **state)
{
    (void)state;
    static const char *const unit[] = {"a", "ab", " ",  "the", "\xE4\xB8\xAD",
                                       "9", "\n", "<s", ".,"};
    enum { LONG = 600000 };
    struct tokenizer *tokenizer = open_fixture(FIXTURES "strings");
    char *text = malloc(LONG + 1);
    for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
        struct token_list ids = {0};
        char *again = NULL;
        size_t length = 0, again_length;
        for (size_t n = strlen(unit[u]); length + n <= LONG; length += n)
            memcpy(text + length, unit[u], n);
        if (tokenizer_encode(tokenizer, text, length, &ids) != STATUS_OK)
            fail_msg("%s", status_text());
        assert_int_equal(tokenizer_decode(tokenizer, ids.id, ids.count, 1, &again, &again_length),
                         STATUS_OK);
        assert_int_equal(again_length, length);
        assert_memory_equal(again, text, length);
        free(again);
        token_list_free(&ids);
    }
    free(text);
    tokenizer_close(tokenizer);
}

static void encoding_appends(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_fixture(FIXTURES "pairs");
    struct token_list ids = {0};
    assert_int_equal(token_list_push(&ids, 7), STATUS_OK);
    assert_int_equal(tokenizer_encode(tokenizer, "", 0, &ids), STATUS_OK);
    assert_int_equal(ids.count, 1);
    assert_int_equal(tokenizer_encode(tokenizer, "<s>", 3, &ids), STATUS_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.id[0], 7);
    assert_int_equal(ids.id[1], id_of(tokenizer, "<s>"));
    token_list_free(&ids);
    tokenizer_close(tokenizer);
}

static void the_hash_differs_between_tokenizers(void **state)
{
    (void)state;
    struct tokenizer *a = open_fixture(FIXTURES "pairs"), *b = open_fixture(FIXTURES "gpt2");
    struct tokenizer *again = open_fixture(FIXTURES "pairs");
    assert_true(tokenizer_hash(a) == tokenizer_hash(again));
    assert_true(tokenizer_hash(a) != tokenizer_hash(b));
    tokenizer_close(a);
    tokenizer_close(b);
    tokenizer_close(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_without_tokenizer_gives_none),
        cmocka_unit_test(bos_is_that_of_the_config_else_of_the_post_processor),
        cmocka_unit_test(special_tokens_are_silent_unless_asked_for),
        cmocka_unit_test(a_stream_gives_the_same_text_as_decoding_at_once),
        cmocka_unit_test(wrong_bytes_are_encoded_as_replacements),
        cmocka_unit_test(long_words_and_runs_come_back_whole),
        cmocka_unit_test(encoding_appends),
        cmocka_unit_test(the_hash_differs_between_tokenizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
