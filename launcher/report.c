#include "launcher/report.h"
#include "runtime/tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void report_guard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) != -1 || errno != EBADF)
            continue;
        /* the lowest free number is fd; stdout opened for reading makes every write fail */
        int opened = open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
        if (opened != fd && opened >= 0)
            close(opened);
    }
}

static _Noreturn void end_by_sigpipe(void)
{
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
    _exit(1); /* where SIGPIPE is blocked */
}

enum status report_bytes(const char *data, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, data, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EPIPE)
            end_by_sigpipe();
        if (written < 0)
            FAIL(STATUS_IO, "cannot write to standard output: %s",
                 errno == EBADF ? "it is closed" : strerror(errno));
        data += written;
        length -= (size_t)written;
    }
    return STATUS_OK;
}

enum status report_line(const char *text)
{
    TRY(report_bytes(text, strlen(text)));
    return report_bytes("\n", 1);
}

enum status report_printed(void (*print)(FILE *out, const void *context), const void *context)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the report");
    print(out, context);
    fclose(out);
    enum status status = report_bytes(text, length);
    free(text);
    return status;
}

enum status report_json(json_t *root)
{
    char *text = root == NULL ? NULL : json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(root);
    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the report");
    enum status status = report_line(text);
    free(text);
    return status;
}

json_t *report_text(const char *text, size_t length)
{
    if (text == NULL)
        return json_null();
    json_t *string = json_stringn(text, length);
    if (string != NULL)
        return string;
    struct utf8_stream stream = {.n_pending = 0};
    char *valid = malloc(3 * length + 24);
    if (valid == NULL)
        return NULL;
    size_t used = utf8_stream_push(&stream, text, length, valid);
    used += utf8_stream_finish(&stream, valid + used);
    string = json_stringn(valid, used);
    free(valid);
    return string;
}

json_t *report_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *report_ids(const int32_t *ids, int64_t count)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

enum status report_id_line(const int32_t *ids, int64_t count)
{
    size_t used = 0, size = (size_t)count * 12 + 2;
    char *line = malloc(size);
    if (line == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %" PRId64 " ids", count);
    for (int64_t i = 0; i < count; i++)
        used += (size_t)snprintf(line + used, size - used, "%s%" PRId32, i == 0 ? "" : ",", ids[i]);
    line[used++] = '\n';
    enum status status = report_bytes(line, used);
    free(line);
    return status;
}

static const char *scaled(char *text, size_t size, int64_t value, const char *const unit[4])
{
    static const double scale[] = {1e12, 1e9, 1e6, 1e3};
    double magnitude = (double)value;
    for (int i = 0; i < 4; i++)
        if (magnitude >= scale[i] && unit[i] != NULL) {
            snprintf(text, size, "%.2f %s", magnitude / scale[i], unit[i]);
            return text;
        }
    snprintf(text, size, "%" PRId64, value);
    return text;
}

const char *report_count(char *text, size_t size, int64_t count)
{
    static const char *const unit[4] = {NULL, "billion", "million", NULL};
    return scaled(text, size, count, unit);
}

const char *report_size(char *text, size_t size, int64_t bytes)
{
    static const char *const unit[4] = {"TB", "GB", "MB", "KB"};
    if (bytes < 1000)
        snprintf(text, size, "%" PRId64 " bytes", bytes);
    else
        scaled(text, size, bytes, unit);
    return text;
}

const char *report_placement(enum kv_placement placement)
{
    static const char *const names[] = {[KV_REPLICATED] = "replicated",
                                        [KV_NODE] = "node",
                                        [KV_SHARDED] = "sharded",
                                        [KV_AUTO] = "auto"};
    return names[placement];
}
