#include "runtime/json.h"
#include "runtime/safetensors.h"
#include "runtime/safetensors_header.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct safetensors_writer {
    char *path, *partial_path; /* the partial file is gone once it is renamed */
    int fd;
    int has_header, has_failed;
    json_t *header;
    int64_t data_bytes; /* of all tensors added */
    int64_t written;    /* of them */
};

/* A file beside `path` that nobody else writes. */
static enum status open_partial(struct safetensors_writer *writer)
{
    size_t size = strlen(writer->path) + 64;
    writer->partial_path = malloc(size);
    if (writer->partial_path == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory", writer->path);
    for (int i = 0; i < 1000; i++) {
        snprintf(writer->partial_path, size, "%s.partial-%ld-%d", writer->path, (long)getpid(), i);
        writer->fd = open(writer->partial_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->fd >= 0 || errno != EEXIST)
            break;
    }
    if (writer->fd < 0) {
        int error = errno;
        free(writer->partial_path); /* not ours to remove */
        writer->partial_path = NULL;
        FAIL(STATUS_IO, "%s: cannot create a file beside it: %s", writer->path, strerror(error));
    }
    return STATUS_OK;
}

enum status safetensors_writer_open(struct safetensors_writer **writer, const char *path)
{
    struct safetensors_writer *made = calloc(1, sizeof *made);
    enum status status;
    if (made == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory", path);
    made->fd = -1;
    made->path = malloc(strlen(path) + 1);
    made->header = json_object();
    if (made->path == NULL || made->header == NULL) {
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "%s: no memory", path);
        goto close;
    }
    strcpy(made->path, path);
    json_object_set_new(made->header, "__metadata__", json_pack("{s:s}", "format", "pt"));
    TRY_GOTO(status, close, open_partial(made));
    *writer = made;
    return STATUS_OK;
close:
    safetensors_writer_close(made);
    return status;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} */
static json_t *entry_json(enum dtype dtype, int ndim, const int64_t *dim, int64_t begin,
                          int64_t end)
{
    json_t *shape = json_array();
    for (int i = 0; i < ndim; i++)
        json_array_append_new(shape, json_integer(dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

enum status safetensors_writer_add(struct safetensors_writer *writer, const char *name,
                                   enum dtype dtype, int ndim, const int64_t *dim)
{
    int64_t bytes = (int64_t)dtype_bytes(dtype), end;
    if (writer->has_header)
        FAIL(STATUS_INVALID, "%s: %s added after data was written", writer->path, name);
    if (json_object_get(writer->header, name) != NULL)
        FAIL(STATUS_INVALID, "%s: %s added twice (or reserved)", writer->path, name);
    if (ndim < 0 || ndim > SAFETENSORS_MAX_DIMS)
        FAIL(STATUS_INVALID, "%s: %s has %d dimensions, expected at most %d", writer->path, name,
             ndim, SAFETENSORS_MAX_DIMS);
    if (writer->data_bytes % bytes != 0)
        FAIL(STATUS_INVALID,
             "%s: %s (%s) would begin at %lld, expected a multiple of %lld; add "
             "wide types first",
             writer->path, name, safetensors_dtype_name(dtype), (long long)writer->data_bytes,
             (long long)bytes);
    for (int i = 0; i < ndim; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(bytes, dim[i], &bytes))
            FAIL(STATUS_INVALID, "%s: dimension %d of %s is %lld, too large or negative",
                 writer->path, i, name, (long long)dim[i]);
    if (__builtin_add_overflow(writer->data_bytes, bytes, &end))
        FAIL(STATUS_INVALID, "%s: more than 63 bits of data with %s", writer->path, name);

    json_t *entry = entry_json(dtype, ndim, dim, writer->data_bytes, end);
    if (json_object_set_new(writer->header, name, entry) != 0) /* takes `entry` in any case */
        FAIL(STATUS_INVALID, "%s: the name \"%s\" is not UTF-8, or no memory", writer->path, name);
    writer->data_bytes = end;
    return STATUS_OK;
}

static enum status write_all(struct safetensors_writer *writer, const void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(writer->fd, (const char *)data + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            writer->has_failed = 1;
            FAIL(STATUS_IO, "%s: cannot write: %s", writer->partial_path, strerror(errno));
        }
        done += (size_t)n;
    }
    return STATUS_OK;
}

/* Length, JSON, spaces up to a multiple of 8, so that the data is aligned in the file. */
static enum status write_header(struct safetensors_writer *writer)
{
    unsigned char raw[8];
    enum status status;
    char *json = json_dumps(writer->header, JSON_COMPACT);
    if (json == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for the header", writer->path);
    size_t length = strlen(json), padded = (length + 7) / 8 * 8;
    if (padded > SAFETENSORS_MAX_HEADER) {
        free(json);
        FAIL(STATUS_INVALID, "%s: a header of %zu bytes, expected at most %d; write shards",
             writer->path, padded, SAFETENSORS_MAX_HEADER);
    }
    for (int i = 0; i < 8; i++)
        raw[i] = (unsigned char)(padded >> (8 * i));
    TRY_GOTO(status, free_json, write_all(writer, raw, sizeof raw));
    TRY_GOTO(status, free_json, write_all(writer, json, length));
    TRY_GOTO(status, free_json, write_all(writer, "        ", padded - length));
    writer->has_header = 1;
free_json:
    free(json);
    return status;
}

enum status safetensors_writer_write(struct safetensors_writer *writer, const void *data,
                                     int64_t bytes)
{
    if (bytes < 0 || bytes > writer->data_bytes - writer->written)
        FAIL(STATUS_INVALID, "%s: %lld bytes given, but the tensors take only %lld more",
             writer->path, (long long)bytes, (long long)(writer->data_bytes - writer->written));
    if (!writer->has_header)
        TRY(write_header(writer));
    TRY(write_all(writer, data, (size_t)bytes));
    writer->written += bytes;
    return STATUS_OK;
}

enum status safetensors_writer_finish(struct safetensors_writer *writer)
{
    if (writer->has_failed || writer->written != writer->data_bytes)
        FAIL(STATUS_INVALID, "%s: %lld of %lld bytes were written", writer->path,
             (long long)writer->written, (long long)writer->data_bytes);
    if (!writer->has_header)
        TRY(write_header(writer));
    int fd = writer->fd;
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: this file system has no fsync */
        FAIL(STATUS_IO, "%s: cannot write: %s", writer->partial_path, strerror(errno));
    writer->fd = -1;
    if (close(fd) != 0)
        FAIL(STATUS_IO, "%s: cannot write: %s", writer->partial_path, strerror(errno));
    if (rename(writer->partial_path, writer->path) != 0)
        FAIL(STATUS_IO, "%s: cannot rename to %s: %s", writer->partial_path, writer->path,
             strerror(errno));
    free(writer->partial_path);
    writer->partial_path = NULL;
    return STATUS_OK;
}

void safetensors_writer_close(struct safetensors_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->partial_path != NULL)
        unlink(writer->partial_path);
    json_decref(writer->header);
    free(writer->partial_path);
    free(writer->path);
    free(writer);
}
