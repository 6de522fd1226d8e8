#include "runtime/tokenizer_json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 1 << 29 };

const char *json_kind(const json_t *value)
{
    static const char *const kind[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return value ? kind[json_typeof(value)] : "nothing";
}

/* Finds the key; its value has `type`. */
static enum status take(json_t **value, const char *where, const json_t *object, const char *key,
                        json_type type, const char *expected)
{
    const char *dot = where[0] != '\0' ? "." : "";
    if (!json_is_object(object))
        FAIL(STATUS_INVALID, "%s is %s, not an object", where, json_kind(object));
    json_t *found = json_object_get(object, key);
    if (!found || json_typeof(found) != type)
        FAIL(STATUS_INVALID, "%s%s%s is %s, not %s", where, dot, key, json_kind(found), expected);
    *value = found;
    return STATUS_OK;
}

enum status json_take_object(json_t **value, const char *where, const json_t *object,
                             const char *key)
{
    return take(value, where, object, key, JSON_OBJECT, "an object");
}

enum status json_take_array(json_t **value, const char *where, const json_t *object,
                            const char *key)
{
    return take(value, where, object, key, JSON_ARRAY, "an array");
}

enum status json_take_string(const char **value, size_t *length, const char *where,
                             const json_t *object, const char *key)
{
    json_t *found = NULL;
    TRY(take(&found, where, object, key, JSON_STRING, "a string"));
    *value = json_string_value(found);
    *length = json_string_length(found);
    return STATUS_OK;
}

enum status json_take_flag(int *value, const char *where, const json_t *object, const char *key,
                           int otherwise)
{
    const json_t *found = json_object_get(object, key);
    const char *dot = where[0] != '\0' ? "." : "";
    if (found && !json_is_boolean(found) && !json_is_null(found))
        FAIL(STATUS_INVALID, "%s%s%s is %s, not true or false", where, dot, key, json_kind(found));
    *value = json_is_boolean(found) ? json_is_true(found) : otherwise;
    return STATUS_OK;
}

enum status json_take_optional_string(const char **value, size_t *length, const char *where,
                                      const json_t *object, const char *key)
{
    const json_t *found = json_object_get(object, key);
    *value = NULL;
    *length = 0;
    if (!found || json_is_null(found))
        return STATUS_OK;
    return json_take_string(value, length, where, object, key);
}

enum status json_to_index(int *value, const char *where, const json_t *number, int limit)
{
    if (!json_is_integer(number))
        FAIL(STATUS_INVALID, "%s is %s, not a whole number", where, json_kind(number));
    json_int_t integer = json_integer_value(number);
    if (integer < 0 || integer >= limit)
        FAIL(STATUS_INVALID, "%s is %lld, not between 0 and %d", where, (long long)integer,
             limit - 1);
    *value = (int)integer;
    return STATUS_OK;
}

static enum status read_all(int file, char *data, size_t length)
{
    for (size_t have = 0; have < length;) {
        ssize_t got = read(file, data + have, length - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            FAIL(STATUS_IO, "cannot read byte %zu of %zu: %s", have, length,
                 got < 0 ? strerror(errno) : "the file became shorter");
        have += (size_t)got;
    }
    return STATUS_OK;
}

enum status json_file_read(char **data, size_t *length, const char *path)
{
    enum status status = STATUS_OK;
    struct stat info;
    *data = NULL;
    *length = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 && (errno == ENOENT || errno == ENOTDIR))
        return STATUS_OK;
    if (file < 0)
        FAIL(STATUS_IO, "cannot open it: %s", strerror(errno));
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode))
        status = status_fail(STATUS_IO, __FILE__, __LINE__, "it is not a regular file");
    else if (info.st_size > FILE_MAX_BYTES)
        status = status_fail(STATUS_INVALID, __FILE__, __LINE__,
                             "it has %lld bytes, at most %d are read", (long long)info.st_size,
                             FILE_MAX_BYTES);
    char *buffer = status == STATUS_OK ? malloc((size_t)info.st_size + 1) : NULL;
    if (status == STATUS_OK && !buffer)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %lld bytes",
                             (long long)info.st_size);
    if (status == STATUS_OK)
        status = read_all(file, buffer, (size_t)info.st_size);
    close(file);
    if (status != STATUS_OK) {
        free(buffer);
        return status;
    }
    buffer[info.st_size] = '\0';
    *data = buffer;
    *length = (size_t)info.st_size;
    return STATUS_OK;
}

enum status json_file_parse(json_t **root, const char *data, size_t length)
{
    json_error_t error;
    json_t *parsed = json_loadb(data, length, JSON_REJECT_DUPLICATES, &error);
    if (!parsed)
        FAIL(STATUS_INVALID, "line %d, column %d: %s", error.line, error.column, error.text);
    if (!json_is_object(parsed)) {
        const char *kind = json_kind(parsed);
        json_decref(parsed);
        FAIL(STATUS_INVALID, "it holds %s, not an object", kind);
    }
    *root = parsed;
    return STATUS_OK;
}
