#include "launcher/text_input.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status read_all(char **text, size_t *length, FILE *file)
{
    size_t size = 0, used = 0;
    char *data = NULL;
    for (;;) {
        if (size - used < 2) {
            size_t wanted = size == 0 ? 65536 : size * 2;
            char *grown = realloc(data, wanted);
            if (grown == NULL) {
                free(data);
                FAIL(STATUS_NO_MEMORY, "no memory for %zu bytes of text", wanted);
            }
            data = grown;
            size = wanted;
        }
        size_t got = fread(data + used, 1, size - used - 1, file);
        used += got;
        if (got == 0)
            break;
    }
    data[used] = '\0';
    if (ferror(file)) {
        int error = errno;
        free(data);
        FAIL(STATUS_IO, "cannot read: %s", strerror(error));
    }
    *text = data;
    *length = used;
    return STATUS_OK;
}

enum status text_input_read(char **text, size_t *length, const char *path)
{
    int is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (file == NULL)
        FAIL(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    enum status status = read_all(text, length, file);
    if (!is_stdin)
        fclose(file);
    return status == STATUS_OK ? status : status_prefix(status, "%s", is_stdin ? "stdin" : path);
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    return at;
}

/* One number; NULL when there is none or it is no i32. */
static const char *parse_id(int32_t *id, const char *at, const char *end)
{
    int64_t value = 0;
    const char *begin = at;
    while (at < end && *at >= '0' && *at <= '9' && value <= INT32_MAX)
        value = value * 10 + (*at++ - '0');
    *id = (int32_t)value;
    return at == begin || value > INT32_MAX ? NULL : at;
}

enum status text_input_ids(struct token_list *ids, const char *text, size_t length,
                           const char *where)
{
    const char *end = text + length, *at = skip_blanks(text, end);
    while (at < end) {
        int32_t id;
        const char *begin = at;
        at = parse_id(&id, at, end);
        if (at == NULL)
            FAIL(STATUS_USAGE, "%s: found '%.*s' as id %" PRId64 ", expected ids such as 1,2,3",
                 where, (int)(end - begin > 16 ? 16 : end - begin), begin, ids->count);
        TRY(token_list_push(ids, id));
        at = skip_blanks(at, end);
        if (at == end)
            break;
        if (*at != ',')
            FAIL(STATUS_USAGE, "%s: found '%.*s' after id %" PRId64 ", expected a comma", where,
                 (int)(end - at > 16 ? 16 : end - at), at, ids->count - 1);
        at = skip_blanks(at + 1, end);
        if (at == end)
            FAIL(STATUS_USAGE, "%s: nothing stands after the last comma", where);
    }
    return STATUS_OK;
}
