/* Replacement of wrong UTF-8, whole and as a stream, against Python (tests/tokenizer/make_utf8.py). */
#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TEXT_MAX = 512 };

static size_t from_hex(char *out, const char *hex)
{
    size_t n = 0;
    char pair[3] = {0};
    for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2, n++) {
        memcpy(pair, hex, 2);
        out[n] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

/* Pushes text[length] in pieces of `piece` bytes. */
static size_t by_stream(char *out, const char *text, size_t length, size_t piece)
{
    struct utf8_stream stream = {0};
    size_t written = 0;
    for (size_t at = 0; at < length; at += piece) {
        size_t count = length - at < piece ? length - at : piece;
        size_t got = utf8_stream_push(&stream, text + at, count, out + written);
        assert_true(got <= 3 * count + 12);
        written += got;
    }
    return written + utf8_stream_finish(&stream, out + written);
}

static void wrong_bytes_become_what_python_makes_of_them(void **state)
{
    (void)state;
    FILE *file = fopen(SOURCE_DIR "/tests/tokenizer/utf8_replace.txt", "r");
    char given[TEXT_MAX], expected[TEXT_MAX], text[TEXT_MAX], want[TEXT_MAX], got[4 * TEXT_MAX];
    int n_lines = 0;
    assert_non_null(file);
    while (fscanf(file, "%511s %511s", given, expected) == 2) {
        size_t length = from_hex(text, given), want_length = from_hex(want, expected);
        assert_int_equal(utf8_replace(got, text, length), want_length);
        assert_memory_equal(got, want, want_length);
        assert_int_equal(utf8_is_valid(text, length),
                         length == want_length && memcmp(text, want, length) == 0);
        for (size_t piece = 1; piece <= 7; piece++) {
            assert_int_equal(by_stream(got, text, length, piece), want_length);
            assert_memory_equal(got, want, want_length);
        }
        n_lines++;
    }
    fclose(file);
    assert_int_equal(n_lines, 2500);
}

static void every_code_point_is_written_and_read_back(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[4];
        uint32_t again = 0;
        int is_surrogate = code >= 0xD800 && code <= 0xDFFF;
        int bytes = utf8_write(text, code);
        assert_int_equal(utf8_next(&again, text, (size_t)bytes), is_surrogate ? -1 : bytes);
        if (!is_surrogate)
            assert_int_equal(again, code);
        for (int cut = 1; cut < bytes && !is_surrogate; cut++)
            assert_int_equal(utf8_next(&again, text, (size_t)cut), 0);
    }
}

static void a_stream_holds_back_only_what_may_become_a_character(void **state)
{
    (void)state;
    struct utf8_stream stream = {0};
    char out[64];
    assert_int_equal(utf8_stream_push(&stream, "\xE4\xB8", 2, out), 0);
    assert_int_equal(utf8_stream_push(&stream, "\xAD", 1, out), 3);
    assert_memory_equal(out, "\xE4\xB8\xAD", 3);
    assert_int_equal(utf8_stream_push(&stream, "\xE4", 1, out), 0);
    assert_int_equal(utf8_stream_push(&stream, "a", 1, out), 4); /* replacement, a */
    assert_memory_equal(out,
                        "\xEF\xBF\xBD"
                        "a",
                        4);
    assert_int_equal(utf8_stream_finish(&stream, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_bytes_become_what_python_makes_of_them),
        cmocka_unit_test(every_code_point_is_written_and_read_back),
        cmocka_unit_test(a_stream_holds_back_only_what_may_become_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
