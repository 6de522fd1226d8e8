#include "launcher/layouts.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 1 << 20 };

/* Values are those of the option, which the job itself checks. */
static const char *const keys[LAYOUT_OPTIONS_MAX][2] = {
    {"tp", "--tp"},    {"dp", "--dp"},           {"pp", "--pp"},
    {"ep", "--ep"},    {"kv", "--kv-placement"}, {"a2a", "--all2all-backend"},
    {"comm", "--comm"}};

static enum status take_key(struct layout *layout, const char *part, size_t length)
{
    const char *equal = memchr(part, '=', length);
    size_t name_length = equal != NULL ? (size_t)(equal - part) : length;
    const char *option = NULL;
    for (int i = 0; i < LAYOUT_OPTIONS_MAX; i++)
        if (strlen(keys[i][0]) == name_length && memcmp(keys[i][0], part, name_length) == 0)
            option = keys[i][1];
    if (equal == NULL || option == NULL || name_length + 1 == length)
        FAIL(STATUS_USAGE,
             "--layouts: found '%.*s' in '%s', expected tp=N, dp=N, pp=N, ep=N, "
             "kv=replicated|sharded, a2a=allgather_reducescatter|alltoall or comm=auto|mpi|shm",
             (int)length, part, layout->text);
    for (int i = 0; i < layout->n_options; i++)
        if (layout->name[i] == option)
            FAIL(STATUS_USAGE, "--layouts: '%.*s' twice in '%s'", (int)name_length, part,
                 layout->text);
    layout->name[layout->n_options] = option;
    memcpy(layout->value[layout->n_options++], equal + 1, length - name_length - 1);
    return STATUS_OK;
}

/* The ranks to start: tp x dp x pp. */
static enum status take_ranks(struct layout *layout)
{
    const char *const sizes[] = {"--tp", "--dp", "--pp"};
    int64_t ranks = 1;
    int has_tp = 0;
    for (int i = 0; i < layout->n_options; i++)
        for (int k = 0; k < 3; k++) {
            char *end;
            if (strcmp(layout->name[i], sizes[k]) != 0)
                continue;
            long size = strtol(layout->value[i], &end, 10);
            if (*end != '\0' || size < 1 || size > RANKS_MAX || ranks * size > RANKS_MAX)
                FAIL(STATUS_USAGE, "--layouts: found '%s=%s' in '%s', expected a number of ranks",
                     sizes[k] + 2, layout->value[i], layout->text);
            ranks *= size;
            has_tp |= k == 0;
        }
    if (!has_tp)
        FAIL(STATUS_USAGE, "--layouts: '%s' has no tp=N; the ranks are tp x dp x pp", layout->text);
    layout->ranks = (int)ranks;
    return STATUS_OK;
}

static enum status take_layout(struct layout *layout, const char *text, size_t length)
{
    if (length == 0 || length >= LAYOUT_TEXT_MAX)
        FAIL(STATUS_USAGE, "--layouts: a layout of %zu characters, expected 1 to %d, as in %s",
             length, LAYOUT_TEXT_MAX - 1, "'tp=2,dp=2;tp=4,kv=sharded'");
    memcpy(layout->text, text, length);
    for (const char *at = layout->text, *next; at != NULL; at = next) {
        next = strchr(at, ',');
        TRY(take_key(layout, at, next != NULL ? (size_t)(next - at) : strlen(at)));
        next = next != NULL ? next + 1 : NULL;
    }
    return take_ranks(layout);
}

enum status layouts_parse(struct layout **layouts, int *count, const char *text)
{
    int n = 1;
    for (const char *at = text; *at != '\0'; at++)
        n += *at == ';';
    struct layout *list = calloc((size_t)n, sizeof *list);
    if (list == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d layouts", n);
    enum status status = STATUS_OK;
    for (int i = 0; i < n && status == STATUS_OK; i++) {
        size_t length = strcspn(text, ";");
        status = take_layout(&list[i], text, length);
        text += length + 1;
    }
    if (status != STATUS_OK) {
        free(list);
        return status;
    }
    *layouts = list;
    *count = n;
    return STATUS_OK;
}
