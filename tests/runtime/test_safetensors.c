/* The bytes of the files here are written out by hand, after the format's description. */
#include "runtime/safetensors.h"
#include "tests/runtime/file_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static const char two_tensors[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
    "\"a.weight\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}  ";

static void entries_come_in_order_of_name(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    fixture_tensors("model.safetensors", two_tensors, 20);
    ASSERT_OK(safetensors_open(&checkpoint, fixture_directory));
    assert_int_equal(safetensors_count(checkpoint), 2);

    const struct safetensors_entry *a = safetensors_at(checkpoint, 0);
    const struct safetensors_entry *b = safetensors_at(checkpoint, 1);
    assert_string_equal(a->name, "a.weight");
    assert_int_equal(a->dtype, DTYPE_F32);
    assert_int_equal(a->ndim, 1);
    assert_int_equal(a->dim[0], 2);
    assert_int_equal(a->bytes, 8);
    assert_int_equal(a->offset, 8 + strlen(two_tensors));
    assert_string_equal(b->name, "b");
    assert_int_equal(b->dtype, DTYPE_BF16);
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->dim[0], 2);
    assert_int_equal(b->dim[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_ptr_equal(safetensors_find(checkpoint, "b"), b);
    assert_null(safetensors_find(checkpoint, "c"));
    assert_null(safetensors_find(checkpoint, ""));
    assert_string_equal(safetensors_path(checkpoint, a), fixture_path("model.safetensors"));
    safetensors_close(checkpoint);
}

static void any_part_of_a_tensor_can_be_read(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    unsigned char data[12];
    const char *path = fixture_tensors("other.name", two_tensors, 20);
    ASSERT_OK(safetensors_open_file(&checkpoint, path));
    const struct safetensors_entry *b = safetensors_find(checkpoint, "b");
    ASSERT_OK(safetensors_read(checkpoint, b, 0, 12, data));
    for (int i = 0; i < 12; i++)
        assert_int_equal(data[i], 8 + i);
    ASSERT_OK(safetensors_read(checkpoint, b, 11, 1, data));
    assert_int_equal(data[0], 19);
    ASSERT_OK(safetensors_read(checkpoint, b, 12, 0, data));
    ASSERT_FAILS(STATUS_INVALID, "of b, which has 12", safetensors_read(checkpoint, b, 8, 5, data));
    ASSERT_FAILS(STATUS_INVALID, "of b", safetensors_read(checkpoint, b, -1, 1, data));
    ASSERT_FAILS(STATUS_INVALID, "of b", safetensors_read(checkpoint, b, 0, -1, data));
    ASSERT_FAILS(STATUS_INVALID, "of b", safetensors_read(checkpoint, b, 13, INT64_MAX, data));
    safetensors_close(checkpoint);
}

/* Checkpoints of 2024 exist whose header has an odd length. */
static void headers_need_no_padding_and_keys_beside_the_three_are_ignored(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    const char header[] =
        "{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":[]}}";
    assert_int_equal(strlen(header) % 2, 1);
    ASSERT_OK(safetensors_open_file(&checkpoint, fixture_tensors("x", header, 4)));
    safetensors_close(checkpoint);
    ASSERT_OK(safetensors_open_file(&checkpoint, fixture_tensors("x", "{}", 0)));
    assert_int_equal(safetensors_count(checkpoint), 0);
    assert_null(safetensors_find(checkpoint, "t"));
    safetensors_close(checkpoint);
}

static void scalars_and_empty_tensors_are_legal(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    const char header[] = "{\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                          "\"scalar\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
                          "\"tail\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[5,5]},"
                          "\"u\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1],\"data_offsets\":[4,5]}}";
    ASSERT_OK(safetensors_open_file(&checkpoint, fixture_tensors("x", header, 5)));
    assert_int_equal(safetensors_find(checkpoint, "scalar")->ndim, 0);
    assert_int_equal(safetensors_find(checkpoint, "scalar")->bytes, 4);
    assert_int_equal(safetensors_find(checkpoint, "empty")->bytes, 0);
    assert_int_equal(safetensors_find(checkpoint, "u")->ndim, 4);
    ASSERT_OK(safetensors_read(checkpoint, safetensors_find(checkpoint, "tail"), 0, 0, NULL));
    safetensors_close(checkpoint);
}

static void every_dtype_of_the_list_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        size_t bytes;
    } cases[] = {
        {"F32", DTYPE_F32, 4},         {"F16", DTYPE_F16, 2},         {"BF16", DTYPE_BF16, 2},
        {"F8_E4M3", DTYPE_F8_E4M3, 1}, {"F8_E8M0", DTYPE_F8_E8M0, 1}, {"I32", DTYPE_I32, 4},
        {"I64", DTYPE_I64, 8},         {"U8", DTYPE_U8, 1},           {"I8", DTYPE_I8, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct safetensors *checkpoint = NULL;
        char header[128];
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}", cases[i].name,
                 3 * cases[i].bytes);
        ASSERT_OK(
            safetensors_open_file(&checkpoint, fixture_tensors("x", header, 3 * cases[i].bytes)));
        assert_int_equal(safetensors_at(checkpoint, 0)->dtype, cases[i].dtype);
        safetensors_close(checkpoint);
    }
}

/* 70 shards of one tensor; tensor i has i + 1 bytes. */
static void write_shards(void)
{
    char index[8192] = "{\"metadata\":{\"total_size\":0},\"weight_map\":{";
    for (int i = 0; i < 70; i++) {
        char name[32], header[128], item[64];
        snprintf(name, sizeof name, "part-%02d.safetensors", i);
        snprintf(header, sizeof header,
                 "{\"t%d\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}", i, i + 1,
                 i + 1);
        fixture_tensors(name, header, (size_t)i + 1);
        snprintf(item, sizeof item, "%s\"t%d\":\"%s\"", i == 0 ? "" : ",", i, name);
        strcat(index, item);
    }
    fixture_text("model.safetensors.index.json", strcat(index, "}}"));
}

static void shards_make_one_checkpoint(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    write_shards();
    ASSERT_OK(safetensors_open(&checkpoint, fixture_directory));
    assert_int_equal(safetensors_count(checkpoint), 70);
    for (int i = 0; i < 70; i++) {
        char name[32];
        unsigned char last = 0;
        snprintf(name, sizeof name, "t%d", i);
        const struct safetensors_entry *entry = safetensors_find(checkpoint, name);
        assert_non_null(entry);
        assert_int_equal(entry->bytes, i + 1);
        ASSERT_OK(safetensors_read(checkpoint, entry, i, 1, &last));
        assert_int_equal(last, i);
        snprintf(name, sizeof name, "part-%02d.safetensors", i);
        assert_string_equal(safetensors_path(checkpoint, entry), fixture_path(name));
    }
    safetensors_close(checkpoint);
}

static uint64_t hash_of(const char *path)
{
    struct safetensors *checkpoint = NULL;
    ASSERT_OK(safetensors_open_file(&checkpoint, path));
    uint64_t hash = safetensors_hash(checkpoint);
    safetensors_close(checkpoint);
    return hash;
}

static void hash_depends_on_headers_and_sizes_only(void **state)
{
    (void)state;
    const char u8[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    const char i8[] = "{\"t\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    uint64_t hash = hash_of(fixture_tensors("x", u8, 4));
    assert_true(hash == hash_of(fixture_tensors("y", u8, 4)));
    assert_true(hash != hash_of(fixture_tensors("x", i8, 4)));
}

static void offsets_beyond_4_gib_are_read(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    const char header[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[5368709120],"
                          "\"data_offsets\":[0,5368709120]}}";
    const char *path = fixture_tensors("x", header, 0);
    int fd = open(path, O_WRONLY);
    off_t end = (off_t)(8 + strlen(header)) + 5368709120;
    assert_int_equal(pwrite(fd, "\x2a", 1, end - 1), 1); /* the rest is a hole on disk */
    close(fd);
    unsigned char last[2] = {1, 1};
    ASSERT_OK(safetensors_open_file(&checkpoint, path));
    ASSERT_OK(safetensors_read(checkpoint, safetensors_at(checkpoint, 0), 5368709118, 2, last));
    assert_int_equal(last[0], 0);
    assert_int_equal(last[1], 0x2a);
    safetensors_close(checkpoint);
}

static void file_that_shrinks_after_opening_is_an_error(void **state)
{
    (void)state;
    struct safetensors *checkpoint = NULL;
    unsigned char data[20];
    const char *path = fixture_tensors("x", two_tensors, 20);
    ASSERT_OK(safetensors_open_file(&checkpoint, path));
    assert_int_equal(truncate(path, (off_t)(8 + strlen(two_tensors) + 10)), 0);
    const struct safetensors_entry *b = safetensors_find(checkpoint, "b");
    ASSERT_FAILS(STATUS_IO, "expected 10 more", safetensors_read(checkpoint, b, 0, 12, data));
    safetensors_close(checkpoint);
}

static void writer_gives_the_bytes_of_the_format(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    const char expected[] = "\x90\0\0\0\0\0\0\0"
                            "{\"__metadata__\":{\"format\":\"pt\"},"
                            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                            "\"b\":{\"dtype\":\"U8\",\"shape\":[2,1],\"data_offsets\":[4,6]}}";
    char found[256];
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "a", DTYPE_F32, 1, (int64_t[]){1}));
    ASSERT_OK(safetensors_writer_add(writer, "b", DTYPE_U8, 2, (int64_t[]){2, 1}));
    ASSERT_OK(safetensors_writer_write(writer, "abc", 3)); /* pieces need not be tensors */
    ASSERT_OK(safetensors_writer_write(writer, "def", 3));
    assert_int_equal(access(fixture_path("w"), F_OK), -1);
    ASSERT_OK(safetensors_writer_finish(writer));
    safetensors_writer_close(writer);

    FILE *file = fopen(fixture_path("w"), "rb");
    size_t length = fread(found, 1, sizeof found, file);
    fclose(file);
    assert_int_equal(length, 8 + 0x90 + 6);
    assert_memory_equal(found, expected, sizeof expected - 1);
    for (size_t i = sizeof expected - 1; i < 8 + 0x90; i++)
        assert_int_equal(found[i], ' ');
    assert_memory_equal(found + 8 + 0x90, "abcdef", 6);
    assert_int_equal(fixture_count(), 1);
}

static void written_files_are_read_back(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    struct safetensors *checkpoint = NULL;
    float data[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("model.safetensors")));
    ASSERT_OK(safetensors_writer_add(writer, "z", DTYPE_F32, 2, (int64_t[]){2, 3}));
    ASSERT_OK(safetensors_writer_add(writer, "empty", DTYPE_F32, 2, (int64_t[]){0, 3}));
    ASSERT_OK(safetensors_writer_write(writer, data, sizeof data));
    ASSERT_OK(safetensors_writer_finish(writer));
    safetensors_writer_close(writer);
    ASSERT_OK(safetensors_open(&checkpoint, fixture_directory));
    assert_int_equal(safetensors_count(checkpoint), 2);
    const struct safetensors_entry *z = safetensors_find(checkpoint, "z");
    ASSERT_OK(safetensors_read(checkpoint, z, 0, sizeof back, back));
    assert_memory_equal(back, data, sizeof data);
    assert_int_equal(z->offset % 8, 0);
    safetensors_close(checkpoint);
}

static void a_file_of_no_data_has_a_header(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    struct safetensors *checkpoint = NULL;
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "empty", DTYPE_BF16, 1, (int64_t[]){0}));
    ASSERT_OK(safetensors_writer_finish(writer));
    safetensors_writer_close(writer);
    ASSERT_OK(safetensors_open_file(&checkpoint, fixture_path("w")));
    assert_string_equal(safetensors_at(checkpoint, 0)->name, "empty");
    safetensors_close(checkpoint);
}

static void writer_refuses_what_the_reader_would(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    const int64_t huge[] = {INT64_MAX / 2, 3}, negative[] = {-1}, one[] = {1};
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "a", DTYPE_U8, 1, one));
    ASSERT_FAILS(STATUS_INVALID, "a added twice",
                 safetensors_writer_add(writer, "a", DTYPE_U8, 1, one));
    ASSERT_FAILS(STATUS_INVALID, "__metadata__",
                 safetensors_writer_add(writer, "__metadata__", DTYPE_U8, 1, one));
    ASSERT_FAILS(STATUS_INVALID, "not UTF-8",
                 safetensors_writer_add(writer, "\xff", DTYPE_U8, 1, one));
    ASSERT_FAILS(STATUS_INVALID, "dimension 1 of b",
                 safetensors_writer_add(writer, "b", DTYPE_U8, 2, huge));
    ASSERT_FAILS(STATUS_INVALID, "dimension 0 of b is -1",
                 safetensors_writer_add(writer, "b", DTYPE_U8, 1, negative));
    ASSERT_FAILS(STATUS_INVALID, "5 dimensions",
                 safetensors_writer_add(writer, "b", DTYPE_U8, 5, one));
    ASSERT_FAILS(STATUS_INVALID, "wide types first",
                 safetensors_writer_add(writer, "b", DTYPE_F32, 1, one));
    ASSERT_FAILS(STATUS_INVALID, "0 of 1 bytes", safetensors_writer_finish(writer));
    ASSERT_FAILS(STATUS_INVALID, "only 1 more", safetensors_writer_write(writer, "ab", 2));
    ASSERT_OK(safetensors_writer_write(writer, "a", 1));
    ASSERT_FAILS(STATUS_INVALID, "after data",
                 safetensors_writer_add(writer, "c", DTYPE_U8, 1, one));
    ASSERT_OK(safetensors_writer_finish(writer));
    safetensors_writer_close(writer);
}

static void unfinished_files_leave_nothing(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "a", DTYPE_U8, 1, (int64_t[]){2}));
    ASSERT_OK(safetensors_writer_write(writer, "a", 1));
    assert_int_equal(fixture_count(), 1);
    safetensors_writer_close(writer);
    assert_int_equal(fixture_count(), 0);
    safetensors_writer_close(NULL);
    safetensors_close(NULL);
}

static void an_old_file_stays_until_the_new_one_is_whole(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    fixture_tensors("w", two_tensors, 20);
    uint64_t before = hash_of(fixture_path("w"));
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "a", DTYPE_U8, 0, NULL));
    ASSERT_OK(safetensors_writer_write(writer, "a", 1));
    assert_true(hash_of(fixture_path("w")) == before);
    ASSERT_OK(safetensors_writer_finish(writer));
    assert_true(hash_of(fixture_path("w")) != before);
    safetensors_writer_close(writer);
    assert_int_equal(fixture_count(), 1);
}

static void writing_where_one_cannot_says_so(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    char path[600];
    snprintf(path, sizeof path, "%s/x", fixture_path("absent"));
    ASSERT_FAILS(STATUS_IO, "No such file", safetensors_writer_open(&writer, path));
    snprintf(path, sizeof path, "%s/x", fixture_text("file", ""));
    ASSERT_FAILS(STATUS_IO, "Not a directory", safetensors_writer_open(&writer, path));
    assert_null(writer);

    assert_int_equal(mkdir(fixture_path("taken"), 0700), 0);
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("taken")));
    ASSERT_FAILS(STATUS_IO, "cannot rename", safetensors_writer_finish(writer));
    safetensors_writer_close(writer);
    assert_int_equal(rmdir(fixture_path("taken")), 0);
    assert_int_equal(fixture_count(), 1); /* "file" */
}

/* A limit on the size of files stands for a full disk. */
static void a_write_that_fails_halfway_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    struct safetensors_writer *writer = NULL;
    struct rlimit old, small;
    static char data[8192];
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    ASSERT_OK(safetensors_writer_open(&writer, fixture_path("w")));
    ASSERT_OK(safetensors_writer_add(writer, "a", DTYPE_U8, 1, (int64_t[]){sizeof data}));
    setrlimit(RLIMIT_FSIZE, &small);
    enum status status = safetensors_writer_write(writer, data, sizeof data);
    setrlimit(RLIMIT_FSIZE, &old);
    ASSERT_FAILS(STATUS_IO, "", status);
    ASSERT_FAILS(STATUS_INVALID, "0 of 8192 bytes", safetensors_writer_finish(writer));
    safetensors_writer_close(writer);
    assert_int_equal(fixture_count(), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(entries_come_in_order_of_name),
        TEST(any_part_of_a_tensor_can_be_read),
        TEST(headers_need_no_padding_and_keys_beside_the_three_are_ignored),
        TEST(scalars_and_empty_tensors_are_legal),
        TEST(every_dtype_of_the_list_is_read),
        TEST(shards_make_one_checkpoint),
        TEST(hash_depends_on_headers_and_sizes_only),
        TEST(offsets_beyond_4_gib_are_read),
        TEST(file_that_shrinks_after_opening_is_an_error),
        TEST(writer_gives_the_bytes_of_the_format),
        TEST(written_files_are_read_back),
        TEST(a_file_of_no_data_has_a_header),
        TEST(writer_refuses_what_the_reader_would),
        TEST(unfinished_files_leave_nothing),
        TEST(an_old_file_stays_until_the_new_one_is_whole),
        TEST(writing_where_one_cannot_says_so),
        TEST(a_write_that_fails_halfway_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
