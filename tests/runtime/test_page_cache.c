/* Reads past the page cache give the file's bytes at any place, and every failure is a common read's. */
#include "runtime/page_cache.h"
#include "runtime/safetensors.h"
#include "tests/runtime/file_fixture.h"

#include <fcntl.h>

enum { DATA_BYTES = 3 * PAGE_CACHE_ALIGNMENT + 123 };

static unsigned char byte_at(int64_t place)
{
    return (unsigned char)((place * 2654435761u) >> 7);
}

/* A file of DATA_BYTES whose byte i is byte_at(i). */
static int open_data(void)
{
    char data[DATA_BYTES];
    for (int i = 0; i < DATA_BYTES; i++)
        data[i] = (char)byte_at(i);
    const char *path = fixture_path("data");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, sizeof data, file), sizeof data);
    fclose(file);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    return fd;
}

static char *open_buffer(void)
{
    char *buffer = aligned_alloc(PAGE_CACHE_ALIGNMENT, 8 * PAGE_CACHE_ALIGNMENT);
    assert_non_null(buffer);
    return buffer;
}

static void reads_past_the_cache_stop_at_the_end_of_the_file(void **state)
{
    (void)state;
    static const int64_t places[] = {0, 1, 511, 4095, 4096, 5000, DATA_BYTES - 1, DATA_BYTES};
    int fd = open_data(), past = page_cache_open_past(fd);
    char *buffer = open_buffer();
    for (size_t i = 0; i < sizeof places / sizeof places[0] && past >= 0; i++) {
        for (int64_t bytes = 0; bytes < 2 * PAGE_CACHE_ALIGNMENT; bytes += 1357) {
            int64_t left = DATA_BYTES - places[i];
            int64_t n = page_cache_read_past(past, buffer, places[i], bytes);
            assert_int_equal(n, bytes < left ? bytes : left);
            for (int64_t j = 0; j < n; j++)
                assert_int_equal((unsigned char)buffer[places[i] % PAGE_CACHE_ALIGNMENT + j],
                                 byte_at(places[i] + j));
        }
    }
    assert_int_equal(page_cache_read_past(-1, buffer, 0, 10), 0);
    free(buffer);
    if (past >= 0)
        close(past);
    close(fd);
}

static void a_file_just_written_is_in_the_cache_until_it_is_dropped(void **state)
{
    (void)state;
    int fd = open_data();
    assert_int_equal(page_cache_look(fd, 0, DATA_BYTES), PAGES_CACHED);
    assert_int_equal(page_cache_look(fd, DATA_BYTES - 1, 1), PAGES_CACHED);
    assert_int_equal(page_cache_look(fd, 5, 0), PAGES_CACHED);
    assert_int_equal(page_cache_bytes(fd), DATA_BYTES);
    page_cache_drop(fd);
    int64_t left = page_cache_bytes(fd); /* tmpfs has nowhere to put them */
    assert_true(left == 0 || left == DATA_BYTES);
    assert_int_equal(page_cache_look(fd, 0, DATA_BYTES), left == 0 ? PAGES_ABSENT : PAGES_CACHED);
    assert_int_equal(page_cache_look(-1, 0, 1), PAGES_UNKNOWN);
    close(fd);
}

/* Headers of any length, so that tensors begin at any place. */
static void tensors_at_any_place_are_read_past_the_cache(void **state)
{
    (void)state;
    enum { BYTES = 10000 };
    for (int blanks = 0; blanks < 9; blanks++) {
        char header[256];
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"F32\",\"shape\":[2500],\"data_offsets\":[0,10000]}}%*s",
                 blanks, "");
        struct safetensors *checkpoint = NULL;
        struct safetensors_past past = {0};
        char *buffer = open_buffer(), *data = NULL, expected[BYTES];
        const char *path = fixture_tensors("model.safetensors", header, BYTES);
        ASSERT_OK(safetensors_open(&checkpoint, fixture_directory));
        const struct safetensors_entry *a = safetensors_find(checkpoint, "a");
        ASSERT_OK(safetensors_read(checkpoint, a, 0, BYTES, expected));
        for (int64_t at = 0; at < BYTES; at += 1999) {
            ASSERT_OK(safetensors_read_past(&past, &data, buffer, checkpoint, a, at, BYTES - at));
            assert_memory_equal(data, expected + at, (size_t)(BYTES - at));
        }
        ASSERT_FAILS(STATUS_INVALID, "of a, which has 10000",
                     safetensors_read_past(&past, &data, buffer, checkpoint, a, 1, BYTES));
        assert_int_equal(truncate(path, a->offset + 5000), 0);
        ASSERT_FAILS(STATUS_IO, "changed since opened",
                     safetensors_read_past(&past, &data, buffer, checkpoint, a, 0, BYTES));
        safetensors_past_close(&past);
        safetensors_close(checkpoint);
        free(buffer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_past_the_cache_stop_at_the_end_of_the_file),
        cmocka_unit_test(a_file_just_written_is_in_the_cache_until_it_is_dropped),
        cmocka_unit_test(tensors_at_any_place_are_read_past_the_cache),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
