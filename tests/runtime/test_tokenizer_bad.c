/* Broken tokenizer.json and tokenizer_config.json: each is refused with one line that names the file
 * and the place in it. */
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTE_LEVEL  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define STEPS(step) "{\"type\":\"Sequence\",\"pretokenizers\":[" step "," BYTE_LEVEL "]}"
#define SPLIT(regex)                                                                               \
    STEPS("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\"}")
#define BPE(vocab, merges) "{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define GOOD_MODEL         BPE("\"a\":0,\"b\":1,\"ab\":2", "\"a b\"")
#define FILE_WITH(model, steps, rest)                                                              \
    "{\"version\":\"1.0\",\"model\":" model ",\"pre_tokenizer\":" steps rest "}"
#define MODEL(vocab, merges) FILE_WITH(BPE(vocab, merges), BYTE_LEVEL, "")
#define MODEL_SWITCH(key)                                                                          \
    FILE_WITH("{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]," key "}", BYTE_LEVEL, "")
#define REST(rest)   FILE_WITH(GOOD_MODEL, BYTE_LEVEL, "," rest)
#define STEP(steps)  FILE_WITH(GOOD_MODEL, steps, "")
#define REGEX(regex) FILE_WITH(GOOD_MODEL, SPLIT(regex), "")
#define ADDED(list)  REST("\"added_tokens\":[" list "]")
#define TEMPLATE(single, table)                                                                    \
    REST("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":" single                  \
         ",\"special_tokens\":" table "}")

struct bad_file {
    const char *content;
    enum status status;
    const char *text; /* part of the message */
};

static const struct bad_file bad_files[] = {
    /* not JSON, or not an object */
    {"", STATUS_INVALID, "line 1"},
    {"{\"model\":", STATUS_INVALID, "end of file"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,", STATUS_INVALID, "line 1"},
    {"[]", STATUS_INVALID, "an array, not an object"},
    {"{} x", STATUS_INVALID, "line 1"},
    {"{\"a\":\"\\u0000\"}", STATUS_INVALID, "\\u0000"},
    {"{\"a\":\"\xff\"}", STATUS_INVALID, "unable to decode byte 0xff"},
    {"{\"a\":1,\"a\":2}", STATUS_INVALID, "duplicate"},
    {"{\"a\":99999999999999999999}", STATUS_INVALID, "too big"},
    /* wrong types */
    {"{}", STATUS_INVALID, "model is nothing, not an object"},
    {"{\"model\":[]}", STATUS_INVALID, "model is an array, not an object"},
    {"{\"model\":{}}", STATUS_INVALID, "model.type is nothing, not a string"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":[]}}", STATUS_INVALID, "model.vocab is an array"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", STATUS_INVALID, "model.merges is nothing"},
    {"{\"version\":1}", STATUS_INVALID, "version is a number, not a string"},
    {"{\"version\":\"2.0\"}", STATUS_UNSUPPORTED, "version \"2.0\""},
    {MODEL_SWITCH("\"ignore_merges\":1"), STATUS_INVALID, "model.ignore_merges is a number"},
    {MODEL_SWITCH("\"unk_token\":1"), STATUS_INVALID, "model.unk_token is a number"},
    {REST("\"added_tokens\":{}"), STATUS_INVALID, "added_tokens is an object, not an array"},
    {REST("\"normalizer\":7"), STATUS_INVALID, "normalizer is a number, not an object"},
    {STEP("[]"), STATUS_INVALID, "pre_tokenizer is an array, not an object"},
    /* ids */
    {MODEL("", ""), STATUS_INVALID, "model.vocab is empty"},
    {MODEL("\"a\":-1", ""), STATUS_INVALID, "model.vocab[\"a\"] is -1"},
    {MODEL("\"a\":\"0\"", ""), STATUS_INVALID, "model.vocab[\"a\"] is a string"},
    {MODEL("\"a\":0.5", ""), STATUS_INVALID, "model.vocab[\"a\"] is a fraction"},
    {MODEL("\"a\":0,\"b\":0", ""), STATUS_INVALID, "id 0 is given to both \"a\" and \"b\""},
    {MODEL("\"a\":4194304", ""), STATUS_INVALID, "model.vocab[\"a\"] is 4194304"},
    {MODEL("\"a\":9223372036854775807", ""), STATUS_INVALID, "9223372036854775807"},
    {MODEL("\"a\":4000000", ""), STATUS_INVALID, "only 1 entries"},
    /* merges */
    {MODEL("\"a\":0", "7"), STATUS_INVALID, "model.merges[0]: it is a number"},
    {MODEL("\"a\":0", "\"a\""), STATUS_INVALID, "model.merges[0]: \"a\" is not two texts"},
    {MODEL("\"a\":0", "\"a b c\""), STATUS_INVALID, "is not two texts"},
    {MODEL("\"a\":0", "[\"a\"]"), STATUS_INVALID, "model.merges[0]: it is an array"},
    {MODEL("\"a\":0", "[\"a\",1]"), STATUS_INVALID, "model.merges[0]: it has a number"},
    {MODEL("\"a\":0", "\"a b\""), STATUS_INVALID, "\"b\" is not in the vocabulary"},
    {MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a b\",\"b a\""), STATUS_INVALID,
     "model.merges[1]: its result \"ba\" is not in the vocabulary"},
    /* models of other kinds */
    {"{\"model\":{\"type\":\"WordPiece\"}}", STATUS_UNSUPPORTED, "model.type \"WordPiece\""},
    {"{\"model\":{\"type\":\"Unigram\"}}", STATUS_UNSUPPORTED, "model.type \"Unigram\""},
    {MODEL_SWITCH("\"byte_fallback\":true"), STATUS_UNSUPPORTED, "model.byte_fallback"},
    {MODEL_SWITCH("\"dropout\":0.1"), STATUS_UNSUPPORTED, "model.dropout"},
    {MODEL_SWITCH("\"end_of_word_suffix\":\"</w>\""), STATUS_UNSUPPORTED, "end_of_word_suffix"},
    {MODEL_SWITCH("\"unk_token\":\"<unk>\""), STATUS_INVALID, "model.unk_token \"<unk>\""},
    /* added tokens */
    {ADDED("7"), STATUS_INVALID, "added_tokens[0] is a number, not an object"},
    {ADDED("{\"id\":3}"), STATUS_INVALID, "added_tokens[0].content is nothing"},
    {ADDED("{\"content\":\"x\"}"), STATUS_INVALID, "added_tokens[0].id is nothing"},
    {ADDED("{\"content\":\"x\",\"id\":-3}"), STATUS_INVALID, "added_tokens[0].id is -3"},
    {ADDED("{\"content\":\"x\",\"id\":9}"), STATUS_INVALID,
     "is 9, but ids follow the vocabulary: 3"},
    {ADDED("{\"content\":\"x\",\"id\":1}"), STATUS_INVALID, "added_tokens[0].id of \"x\" is 1"},
    {ADDED("{\"content\":\"x\",\"id\":3,\"lstrip\":1}"), STATUS_INVALID, "added_tokens[0].lstrip"},
    {ADDED("{\"content\":\"x\",\"id\":3},{\"content\":\"x\",\"id\":3}"), STATUS_INVALID,
     "added_tokens[1]: \"x\" is there twice"},
    /* steps of other kinds */
    {REST("\"normalizer\":{\"type\":\"NFC\"}"), STATUS_UNSUPPORTED, "normalizer.type \"NFC\""},
    {REST("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"),
     STATUS_UNSUPPORTED, "normalizer.normalizers[0].type \"Lowercase\""},
    {STEP("null"), STATUS_UNSUPPORTED, "pre_tokenizer has no ByteLevel"},
    {STEP("{\"type\":\"Metaspace\"}"), STATUS_UNSUPPORTED, "pre_tokenizer.type \"Metaspace\""},
    {STEP("{\"type\":\"ByteLevel\"}"), STATUS_UNSUPPORTED, "pre_tokenizer.add_prefix_space"},
    {STEP(STEPS(BYTE_LEVEL)), STATUS_UNSUPPORTED, "\"ByteLevel\" after ByteLevel"},
    {STEP(STEPS("7")), STATUS_INVALID, "pre_tokenizer.pretokenizers[0] is a number"},
    {STEP(STEPS("{\"type\":\"Split\"}")), STATUS_INVALID, "pretokenizers[0].behavior is nothing"},
    {STEP(STEPS("{\"type\":\"Split\",\"behavior\":\"Removed\"}")), STATUS_INVALID,
     "pretokenizers[0].pattern is nothing"},
    {STEP(STEPS("{\"type\":\"Split\",\"behavior\":\"Eaten\"}")), STATUS_UNSUPPORTED, "\"Eaten\""},
    {STEP(STEPS("{\"type\":\"Split\",\"behavior\":\"Removed\",\"pattern\":{}}")), STATUS_INVALID,
     "exactly one of Regex and String"},
    {STEP(STEPS("{\"type\":\"Digits\",\"individual_digits\":\"yes\"}")), STATUS_INVALID,
     "individual_digits is a string"},
    {REST("\"decoder\":{\"type\":\"WordPiece\"}"), STATUS_UNSUPPORTED,
     "decoder.type \"WordPiece\""},
    {REST("\"post_processor\":{\"type\":\"BertProcessing\"}"), STATUS_UNSUPPORTED,
     "post_processor.type \"BertProcessing\""},
    /* patterns */
    {REGEX("("), STATUS_INVALID, "pretokenizers[0].pattern \"(\": PCRE2: missing closing"},
    {REGEX("[a"), STATUS_INVALID, "PCRE2: missing terminating ]"},
    {REGEX("*"), STATUS_INVALID, "PCRE2: quantifier does not follow"},
    {REGEX("a{5,2}"), STATUS_INVALID, "PCRE2: numbers out of order"},
    {REGEX("\\\\p{Nonsense}"), STATUS_INVALID, "PCRE2: unknown property"},
    {REGEX("\\\\p"), STATUS_INVALID, "\\p is not followed by {name}"},
    {REGEX("\\\\"), STATUS_INVALID, "a backslash at the end"},
    {REGEX("\\\\x{110000}"), STATUS_INVALID, "PCRE2: character code point value"},
    {REGEX("\\\\x{zz}"), STATUS_INVALID, "\\x is not followed by hexadecimal"},
    {REGEX("[a&&b]"), STATUS_UNSUPPORTED, "&& in a class"},
    {REGEX("[a[b]]"), STATUS_UNSUPPORTED, "a class within a class"},
    {REGEX("[[:alpha:]]"), STATUS_UNSUPPORTED, "[:name:]"},
    {REGEX("[]a]"), STATUS_UNSUPPORTED, "] at the start of a class"},
    {REGEX("[\\\\W]"), STATUS_UNSUPPORTED, "\\W in a class"},
    {REGEX("(a)\\\\1"), STATUS_UNSUPPORTED, "\\1"},
    {REGEX("\\\\K"), STATUS_UNSUPPORTED, "\\K"},
    {REGEX("\\\\C"), STATUS_UNSUPPORTED, "\\C"},
    {REGEX("a{2}+"), STATUS_UNSUPPORTED, "a repetition {n}+"},
    {REGEX("a{,2}"), STATUS_UNSUPPORTED, "a repetition {,n}"},
    {REGEX("(?x)a"), STATUS_UNSUPPORTED, "(?x)a"},
    {REGEX("(?P<n>a)"), STATUS_UNSUPPORTED, "(?P<n>a)"},
    {REGEX("(*UTF)a"), STATUS_UNSUPPORTED, "(*"},
    /* BOS by the post-processor */
    {TEMPLATE("7", "{}"), STATUS_INVALID, "post_processor.single is a number"},
    {TEMPLATE("[7]", "{}"), STATUS_INVALID, "post_processor is a number"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"a\"}}]", "{}"), STATUS_INVALID,
     "post_processor.special_tokens.a is nothing"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"a\"}}]", "{\"a\":{\"ids\":[3]}}"), STATUS_INVALID,
     "post_processor.special_tokens[\"a\"] is 3, not between 0 and 2"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"a\"}}]", "{\"a\":{\"ids\":[0,1]}}"), STATUS_UNSUPPORTED,
     "holds 2 ids"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"a\"}},{\"SpecialToken\":{\"id\":\"a\"}}]",
              "{\"a\":{\"ids\":[0]}}"),
     STATUS_UNSUPPORTED, "more than one token before the text"},
};

static char directory[] = "/tmp/test_tokenizer_bad.XXXXXX";

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

/* Opening fails with this status and one line that has the file's name and `text` in it. */
static void check_refused(const char *content, enum status status, const char *name,
                          const char *text)
{
    struct tokenizer *tokenizer = NULL;
    enum status got = tokenizer_open(&tokenizer, directory);
    if (got != status || !strstr(status_text(), text))
        fail_msg("%.300s\n  %s: %s\n  expected %s: %s", content, status_name(got),
                 got == STATUS_OK ? "" : status_text(), status_name(status), text);
    assert_null(tokenizer);
    char path[128];
    path_of(path, name);
    assert_int_equal(strncmp(status_text(), path, strlen(path)), 0);
    assert_null(strchr(status_text(), '\n'));
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    char path[128];
    path_of(path, "tokenizer.json");
    unlink(path);
    path_of(path, "tokenizer_config.json");
    unlink(path);
    return rmdir(directory);
}

static void a_broken_file_is_refused_with_its_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        const struct bad_file *bad = &bad_files[i];
        write_file("tokenizer.json", bad->content, strlen(bad->content));
        check_refused(bad->content, bad->status, "tokenizer.json", bad->text);
    }
}

static void what_the_broken_files_are_made_of_is_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"#version: 0.2\",\"a b\",[\"a\",\"b\"]"),
        MODEL("\"a\":70", ""), /* ids 0 to 69 stand for nothing */
        REGEX("[a-z]+|\\\\s+(?!\\\\S)|(?i:'s)|\\\\x41|[\\\\x{42}\\\\u0043]|{|a{2}|b{2,}|c{2,3}"),
        STEP("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Sequence\",\"pretokenizers\":["
             "]}," BYTE_LEVEL "]}"),
        REST("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]},\"decoder\":null,"
             "\"post_processor\":null,\"added_tokens\":[{\"content\":\"\",\"id\":0},"
             "{\"content\":\"ab\",\"id\":2},{\"content\":\"x\",\"id\":3}]"),
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct tokenizer *tokenizer = NULL;
        write_file("tokenizer.json", good[i], strlen(good[i]));
        if (tokenizer_open(&tokenizer, directory) != STATUS_OK)
            fail_msg("%s\n  %s", good[i], status_text());
        tokenizer_close(tokenizer);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static const char whole[] = ADDED("{\"content\":\"x\",\"id\":3}");
    for (size_t length = 0; length + 1 < sizeof whole; length++) {
        write_file("tokenizer.json", whole, length);
        check_refused(whole, STATUS_INVALID, "tokenizer.json", "line 1");
    }
}

/* Any byte of a right file changed: accepted or refused, never a crash. */
static void a_changed_byte_does_no_harm(void **state)
{
    (void)state;
    static const char whole[] = TEMPLATE("[{\"SpecialToken\":{\"id\":\"a\"}}]",
                                         "{\"a\":{\"ids\":[0]}},\"added_tokens\":[{\"content\":"
                                         "\"x\",\"id\":3,\"lstrip\":true}]");
    static const char with[] = {'\0', '"', '}', '[', '9', '-', '\\', 'n', '\xff'};
    for (size_t at = 0; at + 1 < sizeof whole; at++)
        for (size_t w = 0; w < sizeof with; w++) {
            char changed[sizeof whole];
            struct tokenizer *tokenizer = NULL;
            memcpy(changed, whole, sizeof whole);
            changed[at] = with[w];
            write_file("tokenizer.json", changed, sizeof whole - 1);
            enum status status = tokenizer_open(&tokenizer, directory);
            assert_true((status == STATUS_OK) == (tokenizer != NULL));
            tokenizer_close(tokenizer);
        }
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 1), sequences[4096] = "";
    memset(deep, '[', DEPTH);
    write_file("tokenizer.json", deep, DEPTH);
    check_refused("[[[[...", STATUS_INVALID, "tokenizer.json", "depth");
    free(deep);
    for (int i = 0; i < 20; i++)
        strcat(sequences, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    strcat(sequences, BYTE_LEVEL);
    for (int i = 0; i < 20; i++)
        strcat(sequences, "]}");
    char content[8192];
    int length = snprintf(content, sizeof content, "{\"model\":%s,\"pre_tokenizer\":%s}",
                          GOOD_MODEL, sequences);
    write_file("tokenizer.json", content, (size_t)length);
    check_refused(content, STATUS_INVALID, "tokenizer.json", "Sequences within each other");
}

static void a_broken_config_is_refused(void **state)
{
    (void)state;
    static const struct bad_file bad[] = {
        {"{", STATUS_INVALID, "line 1"},
        {"7", STATUS_INVALID, "line 1"},
        {"{\"add_bos_token\":1}", STATUS_INVALID, "add_bos_token is a number"},
        {"{\"bos_token\":1}", STATUS_INVALID, "bos_token is a number"},
        {"{\"bos_token\":{}}", STATUS_INVALID, "bos_token.content is nothing"},
        {"{\"add_bos_token\":true}", STATUS_INVALID, "bos_token (absent) is no token"},
        {"{\"add_bos_token\":true,\"bos_token\":\"x\"}", STATUS_INVALID, "\"x\" is no token"},
    };
    const char *model = FILE_WITH(GOOD_MODEL, BYTE_LEVEL, "");
    write_file("tokenizer.json", model, strlen(model));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file("tokenizer_config.json", bad[i].content, strlen(bad[i].content));
        check_refused(bad[i].content, bad[i].status, "tokenizer_config.json", bad[i].text);
    }
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    char path[128];
    path_of(path, "tokenizer.json");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    check_refused("(a directory)", STATUS_IO, "tokenizer.json", "not a regular file");
    assert_int_equal(rmdir(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_file_is_refused_with_its_reason),
        cmocka_unit_test(what_the_broken_files_are_made_of_is_accepted),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_changed_byte_does_no_harm),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(a_broken_config_is_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
