/* cpu_memory.c - how much host memory is left: the smallest of what Linux says, what the control groups
 * of this job allow (Slurm, containers) and what `ulimit -v` allows this process. */
#include "kernels/cpu/cpu_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

/* The two generations of control groups. */
static const struct hierarchy {
    const char *prefix; /* of a line of /proc/self/cgroup */
    const char *root, *limit, *used, *cached;
} hierarchies[] = {
    {"0::", "/sys/fs/cgroup", "memory.max", "memory.current", "file"},
    {"memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_cache"},
};

/* The number after `key` in a file of lines "key number"; the first number when key is "". -1: none. */
static int64_t read_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    char line[256];
    int64_t number = -1;
    size_t length = strlen(key);
    if (file == NULL)
        return -1;
    while (number < 0 && fgets(line, sizeof line, file) != NULL) {
        char *end, *text = line + length;
        if (strncmp(line, key, length) != 0)
            continue;
        long long value = strtoll(text, &end, 10);
        number = end == text ? -1 : value;
    }
    fclose(file);
    return number;
}

static void lower(int64_t *free_bytes, int64_t bound)
{
    bound = bound < 0 ? 0 : bound;
    *free_bytes = *free_bytes < bound ? *free_bytes : bound;
}

/* The group at `path` and all above it.  Its own cached files can be given up. */
static void lower_by_groups(int64_t *free_bytes, const char *root, const struct hierarchy *h,
                            char *path)
{
    for (;;) {
        char file[2 * PATH_BYTES];
        snprintf(file, sizeof file, "%s%s/%s", root, path, h->limit);
        int64_t limit = read_number(file, "");
        snprintf(file, sizeof file, "%s%s/%s", root, path, h->used);
        int64_t used = read_number(file, "");
        char key[64];
        snprintf(file, sizeof file, "%s%s/memory.stat", root, path);
        snprintf(key, sizeof key, "%s ", h->cached);
        int64_t cached = read_number(file, key);
        if (limit >= 0 && used >= 0)
            lower(free_bytes, limit - used + (cached > 0 ? cached : 0));
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

void cpu_memory_groups(int64_t *free_bytes, const char *groups, const char *system_root)
{
    FILE *file = fopen(groups, "re");
    char line[PATH_BYTES];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        for (size_t i = 0; i < sizeof hierarchies / sizeof hierarchies[0]; i++) {
            const struct hierarchy *h = &hierarchies[i];
            char *found =
                i == 0 ? (strncmp(line, h->prefix, 3) == 0 ? line : NULL) : strstr(line, h->prefix);
            char root[PATH_BYTES];
            if (found == NULL)
                continue;
            snprintf(root, sizeof root, "%s%s", system_root, h->root);
            char *path = found + strlen(h->prefix);
            lower_by_groups(free_bytes, root, h, strcmp(path, "/") == 0 ? path + 1 : path);
        }
    }
    if (file != NULL)
        fclose(file);
}

void cpu_free_memory(struct free_memory *memory)
{
    struct rlimit limit;
    int64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    memory->shared = kib < 0 ? INT64_MAX : kib * 1024;
    cpu_memory_groups(&memory->shared, "/proc/self/cgroup", "");

    memory->own = INT64_MAX;
    int64_t pages = read_number("/proc/self/statm", "");
    if (pages >= 0 && getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        lower(&memory->own, (int64_t)limit.rlim_cur - pages * sysconf(_SC_PAGESIZE));
}
