#include "runtime/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum status json_parse(json_t **root, const char *text, size_t length, const char *name)
{
    json_error_t error;
    json_t *parsed = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (parsed == NULL)
        FAIL(STATUS_INVALID, "%s: not JSON at line %d, column %d: %s", name, error.line,
             error.column, error.text);
    *root = parsed;
    return STATUS_OK;
}

static enum status read_all(char *text, size_t length, int fd, const char *path)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = read(fd, text + done, length - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0)
            FAIL(STATUS_IO, "%s: ended after %zu bytes, expected %zu", path, done, length);
        done += (size_t)n;
    }
    return STATUS_OK;
}

static enum status read_text_of(char **text, size_t *length, int fd, const char *path)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        FAIL(STATUS_IO, "%s: cannot stat: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        FAIL(STATUS_IO, "%s: not a regular file", path);
    if (info.st_size > JSON_MAX_BYTES)
        FAIL(STATUS_INVALID, "%s: %lld bytes, expected at most %d", path, (long long)info.st_size,
             JSON_MAX_BYTES);

    size_t bytes = (size_t)info.st_size;
    char *buffer = malloc(bytes + 1);
    if (buffer == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu bytes", path, bytes);
    enum status status = read_all(buffer, bytes, fd, path);
    if (status != STATUS_OK) {
        free(buffer);
        return status;
    }
    buffer[bytes] = '\0';
    *text = buffer;
    *length = bytes;
    return STATUS_OK;
}

enum status json_read_text(char **text, size_t *length, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0)
        FAIL(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    enum status status = read_text_of(text, length, fd, path);
    close(fd);
    return status;
}

enum status json_read(json_t **root, const char *path)
{
    char *text = NULL;
    size_t length = 0;
    TRY(json_read_text(&text, &length, path));
    enum status status = json_parse(root, text, length, path);
    free(text);
    return status;
}

const char *json_describe(char text[64], const json_t *value)
{
    switch (value == NULL ? JSON_NULL : json_typeof(value)) {
    case JSON_STRING:
        snprintf(text, 64, "\"%.56s\"", json_string_value(value));
        break;
    case JSON_INTEGER:
        snprintf(text, 64, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(text, 64, "%.9g", json_real_value(value));
        break;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_ARRAY:
        snprintf(text, 64, "an array of %zu", json_array_size(value));
        break;
    case JSON_OBJECT:
        return "an object";
    case JSON_NULL:
        return "null";
    }
    return text;
}

static const json_t *find(const struct json_place *place, const char *key)
{
    const json_t *value = json_object_get(place->object, key);
    return json_is_null(value) ? NULL : value;
}

int json_has(const struct json_place *place, const char *key)
{
    return find(place, key) != NULL;
}

enum status json_require(const struct json_place *place, const char *key)
{
    if (json_object_get(place->object, key) == NULL)
        FAIL(STATUS_INVALID, "%s: %s is not there", place->name, key);
    return STATUS_OK;
}

static enum status wrong(const struct json_place *place, const char *key, const json_t *found,
                         const char *expected)
{
    char text[64];
    FAIL(STATUS_INVALID, "%s: %s is %s, expected %s", place->name, key, json_describe(text, found),
         expected);
}

enum status json_get_int(int64_t *value, const struct json_place *place, const char *key,
                         int64_t least, int64_t most)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    if (!json_is_integer(found) || json_integer_value(found) < least ||
        json_integer_value(found) > most) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)least,
                 (long long)most);
        return wrong(place, key, found, expected);
    }
    *value = json_integer_value(found);
    return STATUS_OK;
}

enum status json_get_number(double *value, const struct json_place *place, const char *key,
                            double least, double most)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    double number = json_number_value(found);
    if (!json_is_number(found) || !(number >= least && number <= most)) {
        char expected[80];
        snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
        return wrong(place, key, found, expected);
    }
    *value = number;
    return STATUS_OK;
}

enum status json_get_bool(int *value, const struct json_place *place, const char *key)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    if (!json_is_boolean(found))
        return wrong(place, key, found, "true or false");
    *value = json_is_true(found);
    return STATUS_OK;
}

enum status json_get_string(const char **value, const struct json_place *place, const char *key)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    if (!json_is_string(found))
        return wrong(place, key, found, "a string");
    *value = json_string_value(found);
    return STATUS_OK;
}

enum status json_get_array(const json_t **value, const struct json_place *place, const char *key)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    if (!json_is_array(found))
        return wrong(place, key, found, "an array");
    *value = found;
    return STATUS_OK;
}

enum status json_get_object(const json_t **value, const struct json_place *place, const char *key)
{
    const json_t *found = find(place, key);
    if (found == NULL)
        return STATUS_OK;
    if (!json_is_object(found))
        return wrong(place, key, found, "an object");
    *value = found;
    return STATUS_OK;
}

enum status json_get_choice(int *index, const struct json_place *place, const char *key,
                            const char *const *names, int n)
{
    const char *text = NULL;
    TRY(json_get_string(&text, place, key));
    if (text == NULL)
        return STATUS_OK;
    for (int i = 0; i < n; i++) {
        if (strcmp(text, names[i]) == 0) {
            *index = i;
            return STATUS_OK;
        }
    }
    char expected[256] = "one of";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, "%s %s", i == 0 ? "" : ",", names[i]);
    }
    return wrong(place, key, find(place, key), n == 1 ? names[0] : expected);
}

enum status json_need_int(int64_t *value, const struct json_place *place, const char *key,
                          int64_t least, int64_t most)
{
    if (!json_has(place, key))
        FAIL(STATUS_INVALID, "%s: %s is %s, expected an integer from %lld to %lld", place->name,
             key, json_object_get(place->object, key) == NULL ? "not there" : "null",
             (long long)least, (long long)most);
    return json_get_int(value, place, key, least, most);
}
