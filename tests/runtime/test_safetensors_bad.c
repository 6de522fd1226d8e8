/* Broken files: each is refused, with one line that names the file and what is wrong. */
#include "runtime/safetensors.h"
#include "tests/runtime/file_fixture.h"

#include <sys/stat.h>

struct broken {
    const char *header;
    size_t data_bytes;
    const char *text; /* part of the message */
};

#define T(dtype, shape, begin, end)                                                                \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define ONE(dtype, shape, begin, end) "{\"w\":" T(dtype, shape, begin, end) "}"

static const struct broken headers[] = {
    /* not a header */
    {"", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"{\"w\":", 0, "not JSON at line 1"},
    {"{}{}", 0, "not JSON"},
    {"{\"w\":nul}", 0, "not JSON"},
    {"{\"w\xff\":1}", 0, "not JSON"},
    {"{\"a\\u0000b\":1}", 0, "not JSON"},
    {"{\"w\":" T("U8", "[1]", "0", "1") ",\"w\":" T("U8", "[1]", "0", "1") "}", 1, "\"w\""},
    /* metadata */
    {"{\"__metadata__\":[]}", 0, "__metadata__ is an array of 0, expected an object"},
    {"{\"__metadata__\":{\"format\":3}}", 0, "format in __metadata__ is 3, expected a string"},
    /* entries */
    {"{\"w\":3}", 0, "w is 3, expected an object"},
    {"{\"w\":{}}", 0, "w: no dtype"},
    {"{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "w: no shape"},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "w: 0 data_offsets, expected 2"},
    {"{\"w\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "w: dtype is 7, expected a string"},
    {ONE("F64", "[1]", "0", "8"), 8, "w: dtype is \"F64\", expected one of F32, F16, BF16"},
    {ONE("BOOL", "[1]", "0", "1"), 1, "w: dtype is \"BOOL\""},
    {ONE("F8_E5M2", "[1]", "0", "1"), 1, "w: dtype is \"F8_E5M2\""},
    {ONE("bf16", "[1]", "0", "2"), 2, "w: dtype is \"bf16\""},
    /* shapes */
    {ONE("U8", "{}", "0", "1"), 1, "w: shape is an object, expected an array"},
    {ONE("U8", "[-1]", "0", "1"), 1, "w: dimension 0 of the shape is -1"},
    {ONE("U8", "[1.0]", "0", "1"), 1, "w: dimension 0 of the shape is 1"},
    {ONE("U8", "[1,\"2\"]", "0", "1"), 1, "w: dimension 1 of the shape is \"2\""},
    {ONE("U8", "[1,1,1,1,1]", "0", "1"), 1, "w: 5 dimensions, expected at most 4"},
    {ONE("U8", "[4294967296,4294967296]", "0", "0"), 0, "w: more elements than"},
    {ONE("U8", "[4294967296,4294967296,0]", "0", "0"), 0, "w: more elements than"},
    {ONE("U8", "[0,4294967296,4294967296]", "0", "0"), 0, "w: more elements than"},
    {ONE("F32", "[4611686018427387904]", "0", "0"), 0, "w: more bytes than"},
    {ONE("U8", "[99999999999999999999]", "0", "0"), 0, "not JSON"},
    /* offsets */
    {ONE("U8", "[1]", "-1", "0"), 1, "w: data_offsets[0] is -1"},
    {ONE("U8", "[1]", "0", "1.0"), 1, "w: data_offsets[1] is 1"},
    {ONE("U8", "[1]", "1", "0"), 1, "w: data_offsets begin at 1, behind their end 0"},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "w: 3 data_offsets"},
    {"{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":\"0\"}}", 1,
     "w: data_offsets is \"0\", expected an array"},
    {ONE("F32", "[2]", "0", "8"), 7, "w: data_offsets end at 8, but the file has 7 bytes"},
    {ONE("U8", "[1]", "0", "9223372036854775807"), 1, "w: data_offsets end at 92233720368"},
    {ONE("F32", "[2]", "0", "4"), 4, "w: data_offsets hold 4 bytes, but shape and dtype need 8"},
    {ONE("F32", "[]", "0", "0"), 0, "w: data_offsets hold 0 bytes, but shape and dtype need 4"},
    {ONE("U8", "[0]", "0", "1"), 1, "w: data_offsets hold 1 bytes, but shape and dtype need 0"},
    {"{\"a\":" T("U8", "[2]", "0", "2") ",\"w\":" T("F32", "[1]", "2", "6") "}", 6,
     "w: data_offsets begin at 2, expected a multiple of 4 (F32)"},
    /* the whole */
    {ONE("U8", "[1]", "0", "1"), 2, "2 bytes of data, but the tensors end at 1"},
    {"{}", 1, "1 bytes of data, but the tensors end at 0"},
    {ONE("U8", "[1]", "1", "2"), 2, "w begins at 1, expected 0 (no holes)"},
    {"{\"a\":" T("U8", "[2]", "0", "2") ",\"b\":" T("U8", "[2]", "1", "3") "}", 3,
     "b begins at 1, inside a, which ends at 2"},
    {"{\"a\":" T("U8", "[2]", "0", "2") ",\"b\":" T("U8", "[2]", "0", "2") "}", 2,
     "b begins at 0, inside a, which ends at 2"},
    {"{\"a\":" T("U8", "[2]", "0", "2") ",\"b\":" T("U8", "[0]", "1", "1") "}", 2,
     "b begins at 1, inside a"},
    {"{\"a\":" T("U8", "[1]", "0", "1") ",\"b\":" T("U8", "[1]", "2", "3") "}", 3,
     "b begins at 2, expected 1"},
};

/* The call fails with a text that names `path` and holds `part`. */
static void assert_refused(const char *path, const char *part)
{
    struct safetensors *checkpoint = NULL;
    ASSERT_FAILS(STATUS_INVALID, part, safetensors_open_file(&checkpoint, path));
    assert_non_null(strstr(status_text(), path));
    assert_null(checkpoint);
}

static void broken_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++)
        assert_refused(fixture_tensors("x", headers[i].header, headers[i].data_bytes),
                       headers[i].text);
}

static void broken_lengths_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *text;
    } cases[] = {
        {"", 0, "0 bytes, expected at least 8"},
        {"\2\0\0\0\0\0\0", 7, "7 bytes, expected at least 8"},
        {"\2\0\0\0\0\0\0\0{", 9, "a header of 2 bytes, but the file has 9 (cut short?)"},
        {"\1\xe1\xf5\5\0\0\0\0{}", 10, "a header of 100000001 bytes, expected at most 100000000"},
        {"\0\xe1\xf5\5\0\0\0\0{}", 10, "a header of 100000000 bytes, but the file has 10"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "a header of 18446744073709551615 bytes"},
        {"\0\0\0\0\0\0\0\x80{}", 10, "a header of 9223372036854775808 bytes"},
        {"\0\0\0\0\0\0\0\0", 8, "does not begin with '{'"},
        {"\2\0\0\0\0\0\0\0{}\0", 11, "1 bytes of data, but the tensors end at 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(fixture_write("x", cases[i].bytes, cases[i].n), cases[i].text);
}

/* Each prefix of a good file is refused: nothing is believed of a download that stopped. */
static void every_cut_of_a_file_is_refused(void **state)
{
    (void)state;
    const char header[] =
        "{\"a\":" T("F32", "[1]", "0", "4") ",\"b\":" T("U8", "[2]", "4", "6") "}";
    size_t whole = 8 + strlen(header) + 6;
    const char *path = fixture_tensors("x", header, 6);
    struct safetensors *checkpoint = NULL;
    ASSERT_OK(safetensors_open_file(&checkpoint, path));
    safetensors_close(checkpoint);
    for (size_t n = whole; n-- > 0;) {
        assert_int_equal(truncate(path, (off_t)n), 0);
        assert_refused(path, "");
    }
}

static void absurd_depth_gives_one_line(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH + 8);
    assert_non_null(text);
    strcpy(text, "{\"w\":");
    memset(text + 5, '[', DEPTH);
    text[5 + DEPTH] = '\0';
    assert_refused(fixture_tensors("x", text, 0), "maximum parsing depth reached");
    free(text);
}

static void names_of_any_bytes_stay_one_line(void **state)
{
    (void)state;
    assert_refused(fixture_tensors("x", "{\"a\\nb\\u001b\":3}", 0), "a b  is 3");
    char header[4000] = "{\"";
    memset(header + 2, 'n', 3000); /* longer than a message */
    strcat(header, "\":3}");
    assert_refused(fixture_tensors("x", header, 0), "nnn");
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    char long_path[6000];
    memset(long_path, 'a', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    ASSERT_FAILS(STATUS_IO, "absent: cannot open: No such file",
                 safetensors_open_file(&checkpoint, fixture_path("absent")));
    ASSERT_FAILS(STATUS_IO, "not a regular file",
                 safetensors_open_file(&checkpoint, fixture_directory));
    ASSERT_FAILS(STATUS_IO, "not a regular file", safetensors_open_file(&checkpoint, "/dev/zero"));
    assert_int_equal(mkfifo(fixture_path("fifo"), 0600), 0);
    ASSERT_FAILS(STATUS_IO, "not a regular file",
                 safetensors_open_file(&checkpoint, fixture_path("fifo")));
    ASSERT_FAILS(STATUS_INVALID, "a path of 5999 bytes",
                 safetensors_open_file(&checkpoint, long_path));
    ASSERT_FAILS(STATUS_INVALID, "a path of 5999 bytes", safetensors_open(&checkpoint, long_path));
    ASSERT_FAILS(STATUS_IO, "no model.safetensors and no model.safetensors.index.json",
                 safetensors_open(&checkpoint, fixture_directory));
    ASSERT_FAILS(STATUS_IO, "Not a directory",
                 safetensors_open(&checkpoint, fixture_text("file", "")));
    assert_null(checkpoint);
}

static const struct {
    const char *index, *text;
} indexes[] = {
    {"[]", "weight_map is not there"},
    {"{}", "weight_map is not there"},
    {"{\"weight_map\":", "not JSON"},
    {"{\"weight_map\":3}", "weight_map is 3, expected an object"},
    {"{\"weight_map\":{}}", "weight_map names no tensors"},
    {"{\"weight_map\":{\"a\":3}}", "the shard of a is 3, expected a string"},
    {"{\"weight_map\":{\"a\":\"\"}}", "the shard of a is \"\", expected a file of this directory"},
    {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", "expected a file of this directory"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "expected a file of this directory"},
    {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", "expected a file of this directory"},
    {"{\"weight_map\":{\"a\":\"..\"}}", "expected a file of this directory"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", "not JSON"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\","
     "\"c\":\"two.safetensors\"}}",
     "c should be in two.safetensors, which lacks it"},
    {"{\"weight_map\":{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
     "b should be in one.safetensors, but it is in two.safetensors"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", "a2 is in"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"x\":\"again.safetensors\"}}",
     "again.safetensors too, expected it once"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"x\":\"bad.safetensors\"}}",
     "bad.safetensors: w is 3"},
};

static void indexes_that_disagree_with_their_shards_are_refused(void **state)
{
    (void)state;
    fixture_tensors("one.safetensors",
                    "{\"a\":" T("U8", "[1]", "0", "1") ",\"a2\":" T("U8", "[1]", "1", "2") "}", 2);
    fixture_tensors("two.safetensors", "{\"b\":" T("U8", "[1]", "0", "1") "}", 1);
    fixture_tensors("again.safetensors", "{\"a\":" T("U8", "[1]", "0", "1") "}", 1);
    fixture_tensors("bad.safetensors", "{\"w\":3}", 0);
    for (size_t i = 0; i < sizeof indexes / sizeof indexes[0]; i++) {
        struct safetensors *checkpoint = NULL;
        fixture_text("model.safetensors.index.json", indexes[i].index);
        ASSERT_FAILS(STATUS_INVALID, indexes[i].text,
                     safetensors_open(&checkpoint, fixture_directory));
        assert_non_null(strstr(status_text(), fixture_directory));
        assert_null(checkpoint);
    }
    struct safetensors *checkpoint = NULL;
    fixture_text("model.safetensors.index.json",
                 "{\"weight_map\":{\"a\":\"one.safetensors\",\"z\":\"zero.safetensors\"}}");
    ASSERT_FAILS(STATUS_IO, "zero.safetensors: cannot open: No such file",
                 safetensors_open(&checkpoint, fixture_directory));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(broken_headers_are_refused),
        TEST(broken_lengths_are_refused),
        TEST(every_cut_of_a_file_is_refused),
        TEST(absurd_depth_gives_one_line),
        TEST(names_of_any_bytes_stay_one_line),
        TEST(what_is_no_file_is_refused),
        TEST(indexes_that_disagree_with_their_shards_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
