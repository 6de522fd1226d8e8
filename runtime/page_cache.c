#define _GNU_SOURCE /* O_DIRECT, mincore */
#include "runtime/page_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOOKS = 5, LOOK_BYTES = 64 << 20 /* mapped at a time to count */ };

/* mincore(2) says "all there" of files of others. */
static int is_told(int fd, int64_t *bytes)
{
    struct stat info;
    char path[64];
    if (fstat(fd, &info) != 0)
        return 0;
    *bytes = info.st_size;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return info.st_uid == geteuid() || access(path, W_OK) == 0;
}

/* Maps the pages of [offset, offset + bytes), without touching them. */
static char *map_pages(int fd, int64_t *offset, int64_t *bytes)
{
    int64_t page = sysconf(_SC_PAGESIZE), into = *offset % page;
    *offset -= into;
    *bytes = (*bytes + into + page - 1) / page * page;
    void *map = mmap(NULL, (size_t)*bytes, PROT_NONE, MAP_SHARED, fd, (off_t)*offset);
    return map == MAP_FAILED ? NULL : map;
}

enum page_cache_state page_cache_look(int fd, int64_t offset, int64_t bytes)
{
    int64_t file_bytes, page = sysconf(_SC_PAGESIZE);
    enum page_cache_state state = PAGES_CACHED;
    if (bytes <= 0)
        return PAGES_CACHED;
    char *map = is_told(fd, &file_bytes) ? map_pages(fd, &offset, &bytes) : NULL;
    if (map == NULL)
        return PAGES_UNKNOWN;
    for (int i = 0; i < LOOKS && state == PAGES_CACHED; i++) {
        unsigned char is_there = 0;
        int64_t at = (bytes / page - 1) * i / (LOOKS - 1) * page;
        if (mincore(map + at, (size_t)page, &is_there) != 0)
            state = PAGES_UNKNOWN;
        else if ((is_there & 1) == 0)
            state = PAGES_ABSENT;
    }
    (void)munmap(map, (size_t)bytes);
    return state;
}

int64_t page_cache_bytes(int fd)
{
    int64_t page = sysconf(_SC_PAGESIZE), file_bytes = 0, found = 0;
    unsigned char *is_there = malloc((size_t)(LOOK_BYTES / page) + 1);
    if (is_there == NULL || !is_told(fd, &file_bytes))
        found = -1;
    for (int64_t at = 0; at < file_bytes && found >= 0; at += LOOK_BYTES) {
        int64_t begin = at, bytes = file_bytes - at < LOOK_BYTES ? file_bytes - at : LOOK_BYTES;
        char *map = map_pages(fd, &begin, &bytes);
        if (map == NULL || mincore(map, (size_t)bytes, is_there) != 0)
            found = -1;
        for (int64_t i = 0; i < bytes / page && found >= 0; i++)
            found += is_there[i] & 1 ? page : 0;
        if (map != NULL)
            (void)munmap(map, (size_t)bytes);
    }
    free(is_there);
    return found < file_bytes ? found : file_bytes; /* the last page may not be full */
}

void page_cache_drop(int fd)
{
    (void)fdatasync(fd); /* pages not yet written would stay */
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

void page_cache_expect_jumps(int fd)
{
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
}

int page_cache_open_past(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d",
             fd); /* the very file, whatever its name is now */
    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

int64_t page_cache_read_past(int fd, void *buffer, int64_t offset, int64_t bytes)
{
    int64_t before = offset % PAGE_CACHE_ALIGNMENT;
    size_t wanted = (size_t)((before + bytes + PAGE_CACHE_ALIGNMENT - 1) / PAGE_CACHE_ALIGNMENT *
                             PAGE_CACHE_ALIGNMENT);
    ssize_t n;
    do
        n = pread(fd, buffer, wanted, (off_t)(offset - before));
    while (n < 0 && errno == EINTR);
    int64_t found = n < before ? 0 : (int64_t)n - before;
    return found < bytes ? found : bytes;
}
