/* Broken tiktoken.model and the tokenizer_config.json beside it: each is refused with one line that
 * names the file and the line or key. */
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_BYTES = 256, MODEL_MAX_BYTES = 1 << 14 };

static char directory[] = "/tmp/test_tiktoken_bad.XXXXXX";

static void path_of(char path[128], const char *name)
{
    snprintf(path, 128, "%s/%s", directory, name);
}

static void write_file(const char *name, const char *content, size_t length)
{
    char path[128];
    path_of(path, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *content)
{
    write_file(name, content, strlen(content));
}

/* Lines of the single bytes, each with its own value for a rank, `ending` behind each; without byte
 * `missing`.  Returns the length. */
static size_t byte_lines(char *out, const char *ending, int missing)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = 0;
    for (int byte = 0; byte < N_BYTES; byte++)
        if (byte != missing)
            length +=
                (size_t)snprintf(out + length, MODEL_MAX_BYTES - length, "%c%c== %d%s",
                                 alphabet[byte >> 2], alphabet[(byte & 3) << 4], byte, ending);
    return length;
}

/* The 256 bytes, then `more` of `length` bytes from line 257 on. */
static void write_model(const char *more, size_t length)
{
    char model[MODEL_MAX_BYTES];
    size_t used = byte_lines(model, "\n", -1);
    assert_true(used + length <= sizeof model);
    memcpy(model + used, more, length);
    write_file("tiktoken.model", model, used + length);
}

/* Opening fails with one line that begins with the file's path and has `text` in it. */
static void check_refused(const char *given, enum status status, const char *name, const char *text)
{
    struct tokenizer *tokenizer = NULL;
    enum status got = tokenizer_open(&tokenizer, directory);
    if (got != status || !strstr(status_text(), text))
        fail_msg("%.300s\n  %s: %s\n  expected %s: %s", given, status_name(got),
                 got == STATUS_OK ? "" : status_text(), status_name(status), text);
    assert_null(tokenizer);
    char path[128];
    path_of(path, name);
    assert_int_equal(strncmp(status_text(), path, strlen(path)), 0);
    assert_null(strchr(status_text(), '\n'));
}

static void check_accepted(const char *given, int size)
{
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open(&tokenizer, directory) != STATUS_OK)
        fail_msg("%.300s\n  %s", given, status_text());
    assert_int_equal(tokenizer_size(tokenizer), size);
    tokenizer_close(tokenizer);
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    static const char *const name[] = {"tiktoken.model", "tokenizer_config.json"};
    char path[128];
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        path_of(path, name[i]);
        unlink(path);
    }
    return rmdir(directory);
}

#define GOOD_CONFIG "{\"added_tokens_decoder\":{}}"

struct bad_file {
    const char *content;
    const char *text; /* part of the message */
};

static void a_broken_line_is_refused_with_its_number(void **state)
{
    (void)state;
    static const struct bad_file bad[] = {
        {"YWE= 256\nYWI= 256\n", ": line 258: 256 is given to two tokens"},
        {"YWE= 256\nYWE= 257\n", ": line 258: the bytes of 257 are those of 256 too"},
        {"YWE= 257\n", ": line 257: rank 257, but 257 tokens have the ranks 0 to 256"},
        {"YWE= 255\n", ": line 257: 255 is given to two tokens"},
        {"YWE 256\n", ": line 257: base64 of 3 characters"},
        {" 256\n", ": line 257: base64 of 0 characters"},
        {"= 256\n", ": line 257: base64 of 1 characters"},
        {"==== 256\n", ": line 257: byte 0x3d at column 1 is not base64"},
        {"Y=== 256\n", ": line 257: byte 0x3d at column 2 is not base64"},
        {"YW=E 256\n", ": line 257: byte 0x3d at column 3 is not base64"},
        {"YW-E 256\n", ": line 257: byte 0x2d at column 3 is not base64"},
        {"YWF= 256\n", ": line 257: base64 with bits after its last byte"},
        {"YWE=\n", ": line 257: no space between"},
        {"YWE=\t256\n", ": line 257: no space between"},
        {"YWE= \n", ": line 257: no rank after the space"},
        {"YWE=  256\n", ": line 257: byte 0x20 in the rank"},
        {"YWE= 256 \n", ": line 257: byte 0x20 in the rank"},
        {"YWE= -1\n", ": line 257: byte 0x2d in the rank"},
        {"YWE= +256\n", ": line 257: byte 0x2b in the rank"},
        {"YWE= 0x100\n", ": line 257: byte 0x78 in the rank"},
        {"YWE= 25.6\n", ": line 257: byte 0x2e in the rank"},
        {"YWE= 4194304\n", ": line 257: rank 4194304 is not below 4194304"},
        {"YWE= 4294967552\n", ": line 257: rank 4294967552 is not below"},
        {"YWE= 99999999999999999999999\n", ": line 257: rank 99999999999999999999999 is not"},
        {"\n\r\nYWE= x\n", ": line 259: byte 0x78 in the rank"},
        {"YWE= 256\rYWI= 257\n", ": line 257: byte 0x0d in the rank"},
    };
    write_text("tokenizer_config.json", GOOD_CONFIG);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_model(bad[i].content, strlen(bad[i].content));
        check_refused(bad[i].content, STATUS_INVALID, "tiktoken.model", bad[i].text);
    }
    write_model("YW\0= 256\n", 9);
    check_refused("a NUL", STATUS_INVALID, "tiktoken.model", ": line 257: byte 0x00 at column 3");
    write_model("YWE= 2\0", 7);
    check_refused("a NUL", STATUS_INVALID, "tiktoken.model", ": line 257: byte 0x00 in the rank");
}

static void a_file_without_tokens_or_a_byte_is_refused(void **state)
{
    (void)state;
    char model[MODEL_MAX_BYTES];
    write_text("tokenizer_config.json", GOOD_CONFIG);
    write_text("tiktoken.model", "");
    check_refused("(empty)", STATUS_INVALID, "tiktoken.model", ": there is no token in it");
    write_text("tiktoken.model", "\n\n");
    check_refused("(empty)", STATUS_INVALID, "tiktoken.model", ": there is no token in it");
    size_t length = byte_lines(model, "\n", 255);
    write_file("tiktoken.model", model, length);
    check_refused("no byte 255", STATUS_INVALID, "tiktoken.model", ": byte 0xff has no token");
    length = byte_lines(model, "\n", 65);
    write_file("tiktoken.model", model, length); /* the rank is missing too */
    check_refused("no byte 65", STATUS_INVALID, "tiktoken.model", ": line 255: rank 255, but 255");
    memcpy(model + length, "YWE= 65\n", 8);
    write_file("tiktoken.model", model, length + 8);
    check_refused("no byte 65", STATUS_INVALID, "tiktoken.model", ": byte 0x41 has no token");
}

static void long_lines_and_tokens_are_refused(void **state)
{
    (void)state;
    static char line[8192];
    write_text("tokenizer_config.json", GOOD_CONFIG);
    memset(line, 'A', sizeof line);
    write_model(line, sizeof line);
    check_refused("AAAA...", STATUS_INVALID, "tiktoken.model", ": line 257: 8192 bytes long");
    memcpy(line + 1368, " 256", 4); /* 342 groups of four: 1,026 bytes */
    write_model(line, 1372);
    check_refused("AAAA... 256", STATUS_INVALID, "tiktoken.model", ": line 257: a token of 1026");
    line[1366] = line[1367] = '='; /* 1,024 bytes */
    write_model(line, 1372);
    check_accepted("AA... 256", 257 + 256);
}

static void any_order_and_ending_of_lines_is_accepted(void **state)
{
    (void)state;
    char model[MODEL_MAX_BYTES];
    write_text("tokenizer_config.json", GOOD_CONFIG);
    write_file("tiktoken.model", model, byte_lines(model, "\r\n", -1));
    check_accepted("CR LF", N_BYTES + 256);
    write_file("tiktoken.model", model, byte_lines(model, "\n\n", -1));
    check_accepted("empty lines", N_BYTES + 256);
    write_file("tiktoken.model", model, byte_lines(model, "\n", -1) - 1);
    check_accepted("no newline at the end", N_BYTES + 256);
    static const char more[] = "YWI= 257\nYWE= 256";
    write_model(more, sizeof more - 1);
    check_accepted(more, N_BYTES + 2 + 256);
}

#define NAMES(names)     "{\"added_tokens_decoder\":{" names "}}"
#define NAMED(id, rest)  "\"" id "\":{\"content\":\"<" id ">\"" rest "}"
#define ROLE(role, text) "{\"added_tokens_decoder\":{" NAMED("256", "") "},\"" role "\":" text "}"

static void a_broken_config_is_refused(void **state)
{
    (void)state;
    static const struct bad_file bad[] = {
        {"", "line 1"},
        {"[]", "it holds an array, not an object"},
        {"{}", "added_tokens_decoder is nothing, not an object"},
        {"{\"added_tokens_decoder\":[]}", "added_tokens_decoder is an array, not an object"},
        {NAMES("\"x\":{}"), "added_tokens_decoder[\"x\"] is not named by an id"},
        {NAMES("\"\":{}"), "added_tokens_decoder[\"\"] is not named by an id"},
        {NAMES("\"0256\":{}"), "added_tokens_decoder[\"0256\"] is not named by an id"},
        {NAMES("\" 256\":{}"), "added_tokens_decoder[\" 256\"] is not named by an id"},
        {NAMES("\"99999999999999999999\":{}"), "[\"99999999999999999999\"] is not named by an id"},
        {NAMES(NAMED("-1", "")), "added_tokens_decoder[\"-1\"]: after 256 ranks"},
        {NAMES(NAMED("255", "")), "added_tokens_decoder[\"255\"]: after 256 ranks"},
        {NAMES(NAMED("514", "")),
         "[\"514\"]: after 256 ranks the special tokens have ids 256 to 513"},
        {NAMES(NAMED("9223372036854775807", "")), "added_tokens_decoder[\"9223372036854775807\"]"},
        {NAMES("\"256\":7"), "added_tokens_decoder[\"256\"] is a number, not an object"},
        {NAMES("\"256\":{}"), "added_tokens_decoder[\"256\"].content is nothing"},
        {NAMES("\"256\":{\"content\":7}"), "added_tokens_decoder[\"256\"].content is a number"},
        {NAMES("\"256\":{\"content\":\"\"}"), "added_tokens_decoder[\"256\"].content is empty"},
        {NAMES(NAMED("256", ",\"special\":1")),
         "added_tokens_decoder[\"256\"].special is a number"},
        {NAMES(NAMED("256", ",\"lstrip\":\"\"")),
         "added_tokens_decoder[\"256\"].lstrip is a string"},
        {NAMES(NAMED("256", ",\"normalized\":0")), "[\"256\"].normalized is a number"},
        {NAMES(NAMED("256", "") "," NAMED("256", "")), "duplicate"},
        {NAMES(NAMED("256", "") ",\"300\":{\"content\":\"<256>\"}"),
         "added_tokens_decoder[\"300\"]: \"<256>\" has the id 256 already"},
        {NAMES("\"300\":{\"content\":\"a\"}"), "[\"300\"]: \"a\" has the id 97 already"},
        {NAMES("\"300\":{\"content\":\"<|reserved_token_257|>\"}"),
         "[\"300\"]: \"<|reserved_token_257|>\" has the id 257 already"},
        {NAMES("\"256\":{\"content\":\"<|reserved_token_300|>\"}"),
         "[\"300\"]: \"<|reserved_token_300|>\" has the id 256 already"},
        {ROLE("bos_token", "7"), "bos_token is a number"},
        {ROLE("bos_token", "{}"), "bos_token.content is nothing"},
        {ROLE("bos_token", "\"[BOS]\""), "bos_token \"[BOS]\" is not in added_tokens_decoder"},
        {ROLE("eos_token", "\"a\""), "eos_token \"a\" is not in added_tokens_decoder"},
        {ROLE("pad_token", "[]"), "pad_token is an array"},
        {ROLE("unk_token", "{\"content\":\"x\"}"), "unk_token \"x\" is not in"},
        {ROLE("add_bos_token", "1"), "add_bos_token is a number"},
        {ROLE("add_bos_token", "true"), "bos_token (absent) is no token"},
    };
    write_model("", 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text("tokenizer_config.json", bad[i].content);
        check_refused(bad[i].content, STATUS_INVALID, "tokenizer_config.json", bad[i].text);
    }
    static const char strips[] = NAMES(NAMED("256", ",\"rstrip\":true"));
    write_text("tokenizer_config.json", strips);
    check_refused(strips, STATUS_UNSUPPORTED, "tokenizer_config.json",
                  "added_tokens_decoder[\"256\"].rstrip is true: only false");
    char path[128];
    path_of(path, "tokenizer_config.json");
    unlink(path);
    check_refused("(no config)", STATUS_IO, "tokenizer_config.json", "not there");
}

static void names_beyond_the_reserved_ids_and_roles_are_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *content;
        int size;
    } good[] = {
        {NAMES(NAMED("511", "")), 512},
        {NAMES(NAMED("512", "")), 513},
        {NAMES(NAMED("513", ",\"special\":true,\"lstrip\":false,\"single_word\":null")), 514},
        {NAMES("\"300\":{\"content\":\"<|reserved_token_300|>\"}"), 512},
        {ROLE("bos_token", "\"<256>\""), 512},
        {ROLE("eos_token", "{\"content\":\"<|reserved_token_300|>\"}"), 512},
        {ROLE("pad_token", "null"), 512},
    };
    write_model("", 0);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        write_text("tokenizer_config.json", good[i].content);
        check_accepted(good[i].content, good[i].size);
    }
}

static uint64_t hash_with(const char *config)
{
    struct tokenizer *tokenizer = NULL;
    write_text("tokenizer_config.json", config);
    if (tokenizer_open(&tokenizer, directory) != STATUS_OK)
        fail_msg("%s\n  %s", config, status_text());
    uint64_t hash = tokenizer_hash(tokenizer);
    tokenizer_close(tokenizer);
    return hash;
}

static void the_hash_follows_ranks_names_and_bos(void **state)
{
    (void)state;
    static const char other[] = "YWI= 256\n";
    write_model("YWE= 256\n", 9);
    uint64_t plain = hash_with(GOOD_CONFIG);
    assert_true(plain == hash_with("{\"added_tokens_decoder\":{},\"chat_template\":\"x\"}"));
    assert_true(plain != hash_with(NAMES(NAMED("300", ""))));
    assert_true(hash_with(NAMES(NAMED("300", ""))) != hash_with(NAMES(NAMED("301", ""))));
    assert_true(plain != hash_with("{\"added_tokens_decoder\":{},\"bos_token\":"
                                   "\"<|reserved_token_300|>\"}"));
    write_model(other, sizeof other - 1);
    assert_true(plain != hash_with(GOOD_CONFIG));
}

/* Any byte of a right file changed: accepted or refused, never a crash. */
static void a_changed_byte_does_no_harm(void **state)
{
    (void)state;
    static const char whole[] = "YWE= 256\r\nYWFhYQ== 257\n", with[] = "\0\n =A/9-\xff";
    write_text("tokenizer_config.json", GOOD_CONFIG);
    for (size_t at = 0; at + 1 < sizeof whole; at++)
        for (size_t w = 0; w < sizeof with; w++) {
            char changed[sizeof whole];
            struct tokenizer *tokenizer = NULL;
            memcpy(changed, whole, sizeof whole);
            changed[at] = with[w];
            write_model(changed, sizeof whole - 1);
            enum status status = tokenizer_open(&tokenizer, directory);
            assert_true((status == STATUS_OK) == (tokenizer != NULL));
            tokenizer_close(tokenizer);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_line_is_refused_with_its_number),
        cmocka_unit_test(a_file_without_tokens_or_a_byte_is_refused),
        cmocka_unit_test(long_lines_and_tokens_are_refused),
        cmocka_unit_test(any_order_and_ending_of_lines_is_accepted),
        cmocka_unit_test(a_broken_config_is_refused),
        cmocka_unit_test(names_beyond_the_reserved_ids_and_roles_are_accepted),
        cmocka_unit_test(the_hash_follows_ranks_names_and_bos),
        cmocka_unit_test(a_changed_byte_does_no_harm),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
