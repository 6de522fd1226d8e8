#include "tests/fuzz/fuzz_input.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[256];

_Noreturn void fuzz_fail(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: not so: %s\n  last message: %s\n", file, line, condition,
            status_text());
    abort();
}

int fuzz_refused(enum status status, const char *place)
{
    REQUIRE(status != STATUS_OK);
    REQUIRE(status_text()[0] != '\0');
    REQUIRE(strchr(status_text(), '\n') == NULL);
    REQUIRE(strstr(status_text(), place) != NULL);
    status_clear();
    return 0;
}

static void remove_directory(void)
{
    DIR *stream = opendir(directory);
    for (struct dirent *item; stream != NULL && (item = readdir(stream)) != NULL;)
        if (item->d_name[0] != '.')
            unlink(fuzz_path(item->d_name));
    if (stream != NULL)
        closedir(stream);
    rmdir(directory);
}

const char *fuzz_directory(void)
{
    if (directory[0] != '\0')
        return directory;
    const char *parent = getenv("TMPDIR");
    if (parent == NULL)
        parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(directory, sizeof directory, "%s/latentrank-fuzz-XXXXXX", parent);
    REQUIRE(mkdtemp(directory) != NULL);
    atexit(remove_directory);
    return directory;
}

const char *fuzz_path(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    return path;
}

void fuzz_put(const char *name, const void *data, size_t size)
{
    const char *path = fuzz_path(name);
    if (data == NULL) {
        unlink(path);
        return;
    }
    FILE *file = fopen(path, "wb");
    REQUIRE(file != NULL);
    REQUIRE(fwrite(data, 1, size, file) == size);
    REQUIRE(fclose(file) == 0);
}

const uint8_t *fuzz_second(const uint8_t *data, size_t *size, size_t *rest)
{
    const uint8_t *zero = *size == 0 ? NULL : memchr(data, 0, *size);
    *rest = 0;
    if (zero == NULL)
        return NULL;
    *rest = *size - (size_t)(zero + 1 - data);
    *size = (size_t)(zero - data);
    return zero + 1;
}
