/* file_fixture.h - a temporary directory for tests of what reads and writes files. */
#ifndef TESTS_RUNTIME_FILE_FIXTURE_H
#define TESTS_RUNTIME_FILE_FIXTURE_H

#include "kernels/core/status.h"
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char fixture_directory[64];

static inline int fixture_open(void **state)
{
    (void)state;
    strcpy(fixture_directory, "/tmp/latentrank-test-XXXXXX");
    return mkdtemp(fixture_directory) == NULL ? -1 : 0;
}

static inline int fixture_close(void **state)
{
    (void)state;
    char path[512];
    DIR *directory = opendir(fixture_directory);
    for (struct dirent *item; directory != NULL && (item = readdir(directory)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", fixture_directory, item->d_name);
        if (item->d_name[0] != '.')
            unlink(path);
    }
    if (directory != NULL)
        closedir(directory);
    return rmdir(fixture_directory);
}

/* Number of files in the directory. */
static inline int fixture_count(void)
{
    int count = 0;
    DIR *directory = opendir(fixture_directory);
    assert_non_null(directory);
    for (struct dirent *item; (item = readdir(directory)) != NULL;)
        count += item->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* Path of a file there; valid until the fourth next call. */
static inline const char *fixture_path(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", fixture_directory, name);
    return path;
}

static inline const char *fixture_write(const char *name, const void *bytes, size_t length)
{
    const char *path = fixture_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return path;
}

static inline const char *fixture_text(const char *name, const char *text)
{
    return fixture_write(name, text, strlen(text));
}

/* A safetensors file: the header as it is, then `data_bytes` bytes 0, 1, 2, ... */
static inline const char *fixture_tensors(const char *name, const char *header, size_t data_bytes)
{
    size_t length = strlen(header);
    unsigned char *bytes = malloc(8 + length + data_bytes);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++)
        bytes[8 + length + i] = (unsigned char)i;
    const char *path = fixture_write(name, bytes, 8 + length + data_bytes);
    free(bytes);
    return path;
}

#define ASSERT_OK(call)                                                                            \
    do {                                                                                           \
        if ((call) != STATUS_OK)                                                                   \
            fail_msg("%s: %s", #call, status_text());                                              \
    } while (0)

/* The call fails with `code`; its text is one line that holds `part`. */
#define ASSERT_FAILS(code, part, call)                                                             \
    do {                                                                                           \
        status_clear();                                                                            \
        int got_ = (int)(call);                                                                    \
        if (got_ != (int)(code) || strstr(status_text(), (part)) == NULL ||                        \
            strchr(status_text(), '\n') != NULL)                                                   \
            fail_msg("%s: status %d, expected %d; text \"%s\", expected \"%s\" in it", #call,      \
                     got_, (int)(code), status_text(), (part));                                    \
    } while (0)

#endif
