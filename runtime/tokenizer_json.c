#include "runtime/tokenizer_json.h"
#include "runtime/json.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

const char *json_kind(const json_t *value)
{
    static const char *const kind[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return value ? kind[json_typeof(value)] : "nothing";
}

int json_file_exists(const char *path)
{
    struct stat info;
    /* lstat: a link that leads nowhere is named when it is opened */
    return lstat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

enum status json_take_file(json_t **root, uint64_t *hash, const char *path)
{
    char *text = NULL;
    size_t length = 0;
    json_t *parsed = NULL;
    *root = NULL;
    if (!json_file_exists(path))
        return STATUS_OK;
    TRY(json_read_text(&text, &length, path));
    *hash = XXH3_64bits(text, length);
    enum status status = json_parse(&parsed, text, length, path);
    free(text);
    if (status != STATUS_OK)
        return status;
    if (!json_is_object(parsed)) {
        status_fail(STATUS_INVALID, __FILE__, __LINE__, "%s: it holds %s, not an object", path,
                    json_kind(parsed));
        json_decref(parsed);
        return STATUS_INVALID;
    }
    *root = parsed;
    return STATUS_OK;
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
