#include "runtime/safetensors.h"

#include "runtime/json.h"
#include "runtime/safetensors_header.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { MAX_PATH = 4096, MAX_READ = 1 << 30, LOOK_BYTES = 32 << 20 };

struct file {
    char *path;
    char *names; /* of its tensors */
    int fd;
    int64_t bytes;
};

struct safetensors {
    struct file *files;
    int n_files;
    struct safetensors_entry *entries; /* in order of name */
    int n_entries;
    uint64_t hash;
};

/* pread until `bytes` are there. */
static enum status read_at(int fd, const char *path, int64_t offset, int64_t bytes, void *data)
{
    for (int64_t done = 0; done < bytes;) {
        int64_t wanted = bytes - done < MAX_READ ? bytes - done : MAX_READ;
        ssize_t n = pread(fd, (char *)data + done, (size_t)wanted, offset + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "%s: cannot read %lld bytes at %lld: %s", path, (long long)wanted,
                 (long long)(offset + done), strerror(errno));
        if (n == 0)
            FAIL(STATUS_IO, "%s: ends at byte %lld, expected %lld more (changed since opened?)",
                 path, (long long)(offset + done), (long long)wanted);
        done += n;
    }
    return STATUS_OK;
}

/* Size of the file and length of its header. */
static enum status read_lengths(const struct file *file, int64_t *file_bytes, int64_t *header_bytes)
{
    struct stat info;
    unsigned char raw[8];
    uint64_t length = 0;
    if (fstat(file->fd, &info) != 0)
        FAIL(STATUS_IO, "%s: cannot stat: %s", file->path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        FAIL(STATUS_IO, "%s: not a regular file", file->path);
    if (info.st_size < (off_t)sizeof raw)
        FAIL(STATUS_INVALID, "%s: %lld bytes, expected at least 8 (the length of the header)",
             file->path, (long long)info.st_size);
    TRY(read_at(file->fd, file->path, 0, sizeof raw, raw));
    for (int i = 7; i >= 0; i--)
        length = length << 8 | raw[i];
    if (length > SAFETENSORS_MAX_HEADER)
        FAIL(STATUS_INVALID, "%s: a header of %llu bytes, expected at most %d", file->path,
             (unsigned long long)length, SAFETENSORS_MAX_HEADER);
    if ((int64_t)length > info.st_size - 8)
        FAIL(STATUS_INVALID, "%s: a header of %llu bytes, but the file has %lld (cut short?)",
             file->path, (unsigned long long)length, (long long)info.st_size);
    *file_bytes = info.st_size;
    *header_bytes = (int64_t)length;
    return STATUS_OK;
}

/* Adds the entries of `header` to the checkpoint, which takes its names. */
static enum status take_entries(struct safetensors *checkpoint, struct safetensors_header *header,
                                int64_t data_begin)
{
    struct file *file = &checkpoint->files[header->file];
    if (header->n_entries > INT32_MAX - checkpoint->n_entries)
        FAIL(STATUS_INVALID, "%s: more tensors than can be counted", file->path);
    size_t count = (size_t)(checkpoint->n_entries + header->n_entries);
    struct safetensors_entry *entries = realloc(checkpoint->entries, (count + 1) * sizeof *entries);
    if (entries == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu tensors", file->path, count);
    checkpoint->entries = entries;
    for (int i = 0; i < header->n_entries; i++) {
        header->entries[i].offset += data_begin;
        entries[checkpoint->n_entries++] = header->entries[i];
    }
    file->names = header->names;
    header->names = NULL;
    return STATUS_OK;
}

static enum status read_header(struct safetensors *checkpoint, int index)
{
    struct file *file = &checkpoint->files[index];
    struct safetensors_header header = {0};
    int64_t file_bytes = 0, header_bytes = 0;
    TRY(read_lengths(file, &file_bytes, &header_bytes));
    file->bytes = file_bytes;
    char *json = malloc((size_t)header_bytes + 1);
    if (json == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for a header of %lld bytes", file->path,
             (long long)header_bytes);

    enum status status;
    int64_t data_begin = 8 + header_bytes;
    TRY_GOTO(status, free_json, read_at(file->fd, file->path, 8, header_bytes, json));
    TRY_GOTO(status, free_json,
             safetensors_header_parse(&header, json, (size_t)header_bytes, file_bytes - data_begin,
                                      index, file->path));
    TRY_GOTO(status, free_header, take_entries(checkpoint, &header, data_begin));
    checkpoint->hash = XXH3_64bits_withSeed(&file_bytes, sizeof file_bytes, checkpoint->hash);
    checkpoint->hash = XXH3_64bits_withSeed(json, (size_t)header_bytes, checkpoint->hash);
free_header:
    safetensors_header_free(&header);
free_json:
    free(json);
    return status;
}

/* Opens directory/name, or `name` alone where `directory` is NULL. */
static enum status add_file(struct safetensors *checkpoint, const char *directory, const char *name)
{
    char path[MAX_PATH];
    int length = snprintf(path, sizeof path, "%s%s%s", directory == NULL ? "" : directory,
                          directory == NULL ? "" : "/", name);
    if (length >= MAX_PATH)
        FAIL(STATUS_INVALID, "%.200s...: a path of %d bytes, expected fewer than %d", path, length,
             MAX_PATH);
    struct file *file = &checkpoint->files[checkpoint->n_files];
    file->path = malloc((size_t)length + 1);
    if (file->path == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for the path", path);
    memcpy(file->path, path, (size_t)length + 1);
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    checkpoint->n_files++;
    if (file->fd < 0)
        FAIL(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    page_cache_expect_jumps(file->fd);
    return read_header(checkpoint, checkpoint->n_files - 1);
}

static int by_name(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_name_and_file(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    int order = by_name(a, b);
    return order != 0 ? order : x->file - y->file;
}

static enum status sort_entries(struct safetensors *checkpoint)
{
    struct safetensors_entry *entries = checkpoint->entries;
    qsort(entries, (size_t)checkpoint->n_entries, sizeof *entries, by_name_and_file);
    for (int i = 1; i < checkpoint->n_entries; i++) {
        if (strcmp(entries[i - 1].name, entries[i].name) == 0)
            FAIL(STATUS_INVALID, "%s: %s is in %s too, expected it once",
                 safetensors_path(checkpoint, &entries[i]), entries[i].name,
                 safetensors_path(checkpoint, &entries[i - 1]));
    }
    return STATUS_OK;
}

static enum status create(struct safetensors **checkpoint, size_t n_files, const char *name)
{
    struct safetensors *made = calloc(1, sizeof *made);
    if (made == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory", name);
    made->files = calloc(n_files, sizeof *made->files);
    if (made->files == NULL) {
        free(made);
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu files", name, n_files);
    }
    *checkpoint = made;
    return STATUS_OK;
}

static enum status open_one(struct safetensors **checkpoint, const char *directory,
                            const char *name)
{
    struct safetensors *made = NULL;
    enum status status;
    TRY(create(&made, 1, name));
    TRY_GOTO(status, close, add_file(made, directory, name));
    TRY_GOTO(status, close, sort_entries(made));
    *checkpoint = made;
    return STATUS_OK;
close:
    safetensors_close(made);
    return status;
}

enum status safetensors_open_file(struct safetensors **checkpoint, const char *path)
{
    return open_one(checkpoint, NULL, path);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* names[size of the map] = the shards that the index names, sorted, each once. */
static enum status list_shards(const char **names, size_t *n_names, json_t *map, const char *path)
{
    const char *key;
    json_t *value;
    size_t n = 0, kept = 0;
    char text[64];
    json_object_foreach(map, key, value)
    {
        const char *name = json_string_value(value);
        if (name == NULL)
            FAIL(STATUS_INVALID, "%s: the shard of %s is %s, expected a string", path, key,
                 json_describe(text, value));
        if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
            FAIL(STATUS_INVALID, "%s: the shard of %s is %s, expected a file of this directory",
                 path, key, json_describe(text, value));
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[kept - 1]) != 0)
            names[kept++] = names[i];
    *n_names = kept;
    return STATUS_OK;
}

/* The index and the shards name the same tensors, in the same files. */
static enum status check_index(const struct safetensors *checkpoint, json_t *map, const char *path)
{
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value)
    {
        const struct safetensors_entry *entry = safetensors_find(checkpoint, key);
        if (entry == NULL)
            FAIL(STATUS_INVALID, "%s: %s should be in %s, which lacks it", path, key,
                 json_string_value(value));
        const char *found = strrchr(safetensors_path(checkpoint, entry), '/') + 1;
        if (strcmp(found, json_string_value(value)) != 0)
            FAIL(STATUS_INVALID, "%s: %s should be in %s, but it is in %s", path, key,
                 json_string_value(value), found);
    }
    for (int i = 0; i < checkpoint->n_entries; i++) {
        const struct safetensors_entry *entry = &checkpoint->entries[i];
        if (json_object_get(map, entry->name) == NULL)
            FAIL(STATUS_INVALID, "%s: %s is in %s, but not in the index", path, entry->name,
                 safetensors_path(checkpoint, entry));
    }
    return STATUS_OK;
}

static enum status open_shards(struct safetensors **checkpoint, const char *directory, json_t *map,
                               const char *path)
{
    struct safetensors *made = NULL;
    size_t n_names = 0;
    enum status status;
    if (json_object_size(map) == 0)
        FAIL(STATUS_INVALID, "%s: weight_map names no tensors", path);
    const char **names = calloc(json_object_size(map), sizeof *names);
    if (names == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu names", path, json_object_size(map));
    TRY_GOTO(status, free_names, list_shards(names, &n_names, map, path));
    TRY_GOTO(status, free_names, create(&made, n_names, path));
    for (size_t i = 0; i < n_names; i++)
        TRY_GOTO(status, close, add_file(made, directory, names[i]));
    TRY_GOTO(status, close, sort_entries(made));
    TRY_GOTO(status, close, check_index(made, map, path));
    *checkpoint = made;
    made = NULL;
close:
    safetensors_close(made);
free_names:
    free(names);
    return status;
}

static enum status open_index(struct safetensors **checkpoint, const char *directory,
                              const char *path)
{
    json_t *root = NULL;
    enum status status;
    TRY(json_read(&root, path));
    json_t *map = json_object_get(root, "weight_map");
    char text[64];
    if (json_is_object(map))
        status = open_shards(checkpoint, directory, map, path);
    else
        status = status_fail(STATUS_INVALID, __FILE__, __LINE__,
                             "%s: weight_map is %s, expected an object", path,
                             map == NULL ? "not there" : json_describe(text, map));
    json_decref(root);
    return status;
}

enum status safetensors_open(struct safetensors **checkpoint, const char *directory)
{
    char one[MAX_PATH], index[MAX_PATH];
    struct stat info;
    if (strlen(directory) > MAX_PATH - 64)
        FAIL(STATUS_INVALID, "%.200s...: a path of %zu bytes, expected fewer than %d", directory,
             strlen(directory), MAX_PATH - 64);
    snprintf(one, sizeof one, "%s/model.safetensors", directory);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", directory);
    /* lstat: a link that leads nowhere, as of a broken download, is named when it is opened */
    if (lstat(one, &info) == 0)
        return open_one(checkpoint, directory, "model.safetensors");
    if (errno != ENOENT)
        FAIL(STATUS_IO, "%s: cannot open: %s", one, strerror(errno));
    if (lstat(index, &info) == 0)
        return open_index(checkpoint, directory, index);
    FAIL(STATUS_IO, "%s: no model.safetensors and no model.safetensors.index.json there",
         directory);
}

void safetensors_close(struct safetensors *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (int i = 0; i < checkpoint->n_files; i++) {
        if (checkpoint->files[i].fd >= 0)
            close(checkpoint->files[i].fd);
        free(checkpoint->files[i].path);
        free(checkpoint->files[i].names);
    }
    free(checkpoint->files);
    free(checkpoint->entries);
    free(checkpoint);
}

int safetensors_count(const struct safetensors *checkpoint)
{
    return checkpoint->n_entries;
}

const struct safetensors_entry *safetensors_at(const struct safetensors *checkpoint, int index)
{
    return &checkpoint->entries[index];
}

const struct safetensors_entry *safetensors_find(const struct safetensors *checkpoint,
                                                 const char *name)
{
    struct safetensors_entry wanted = {.name = name};
    return bsearch(&wanted, checkpoint->entries, (size_t)checkpoint->n_entries, sizeof wanted,
                   by_name);
}

const char *safetensors_path(const struct safetensors *checkpoint,
                             const struct safetensors_entry *entry)
{
    return checkpoint->files[entry->file].path;
}

static enum status check_range(const struct safetensors *checkpoint,
                               const struct safetensors_entry *entry, int64_t offset, int64_t bytes)
{
    if (offset < 0 || bytes < 0 || bytes > entry->bytes - offset)
        FAIL(STATUS_INVALID, "%s: %lld bytes at %lld asked of %s, which has %lld",
             checkpoint->files[entry->file].path, (long long)bytes, (long long)offset, entry->name,
             (long long)entry->bytes);
    return STATUS_OK;
}

enum status safetensors_read(const struct safetensors *checkpoint,
                             const struct safetensors_entry *entry, int64_t offset, int64_t bytes,
                             void *data)
{
    const struct file *file = &checkpoint->files[entry->file];
    TRY(check_range(checkpoint, entry, offset, bytes));
    return read_at(file->fd, file->path, entry->offset + offset, bytes, data);
}

enum page_cache_state safetensors_look(struct safetensors_past *past,
                                       const struct safetensors *checkpoint,
                                       const struct safetensors_entry *entry, int64_t offset,
                                       int64_t bytes)
{
    const struct file *file = &checkpoint->files[entry->file];
    int64_t begin = entry->offset + offset, end = begin + bytes;
    if (past->looked_file == entry->file && past->looked_begin <= begin && end <= past->looked_end)
        return past->looked;
    end = begin + LOOK_BYTES > end ? begin + LOOK_BYTES : end;
    end = end < file->bytes ? end : file->bytes;
    past->looked_file = entry->file;
    past->looked_begin = begin;
    past->looked_end = end;
    past->looked = page_cache_look(file->fd, begin, end - begin);
    return past->looked;
}

void safetensors_past_close(struct safetensors_past *past)
{
    if (past->is_open && past->fd >= 0)
        close(past->fd);
    past->is_open = 0;
}

enum status safetensors_read_past(struct safetensors_past *past, char **data, char *buffer,
                                  const struct safetensors *checkpoint,
                                  const struct safetensors_entry *entry, int64_t offset,
                                  int64_t bytes)
{
    const struct file *file = &checkpoint->files[entry->file];
    int64_t at = entry->offset + offset, found = 0;
    TRY(check_range(checkpoint, entry, offset, bytes));
    if (!past->is_open || past->file != entry->file) {
        safetensors_past_close(past);
        past->is_open = 1;
        past->fd = page_cache_open_past(file->fd);
        past->file = entry->file;
    }
    *data = buffer + at % PAGE_CACHE_ALIGNMENT;
    if (past->fd >= 0)
        found = page_cache_read_past(past->fd, buffer, at, bytes);
    return read_at(file->fd, file->path, at + found, bytes - found, *data + found);
}

uint64_t safetensors_hash(const struct safetensors *checkpoint)
{
    return checkpoint->hash;
}
