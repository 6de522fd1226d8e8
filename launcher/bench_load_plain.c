/* bench_load_plain.c - reads of the same bytes with nothing done to them. */
#include "kernels/core/device.h"
#include "launcher/bench_load.h"
#include "launcher/progress.h"
#include "runtime/page_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    COPY_BYTES = 8 << 20,
    DIRECT_BYTES = (4 << 20) - 2 * PAGE_CACHE_ALIGNMENT,
    IN_FLIGHT = 8,
    DIRECT_MAX = 64
};

struct builder {
    struct plain_reads *reads;
    const struct model_config *config;
    const struct safetensors *checkpoint;
    const struct shard_plan *plan;
    int capacity;
};

static enum status open_file(struct builder *b, const struct safetensors_entry *entry)
{
    struct plain_reads *reads = b->reads;
    const char *path = safetensors_path(b->checkpoint, entry);
    if (entry->file >= reads->n_files) {
        int *grown = realloc(reads->fd, (size_t)(entry->file + 1) * sizeof *grown);
        if (grown == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for %d files", entry->file + 1);
        reads->fd = grown;
        while (reads->n_files <= entry->file)
            reads->fd[reads->n_files++] = -1;
    }
    if (reads->fd[entry->file] >= 0)
        return STATUS_OK;
    reads->fd[entry->file] = open(path, O_RDONLY | O_CLOEXEC);
    if (reads->fd[entry->file] < 0)
        FAIL(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    return STATUS_OK;
}

static enum status add_range(struct builder *b, const struct safetensors_entry *entry,
                             int64_t begin, int64_t bytes)
{
    struct plain_reads *reads = b->reads;
    TRY(open_file(b, entry));
    if (reads->n_ranges == b->capacity) {
        int capacity = 2 * b->capacity + 64;
        struct plain_range *grown = realloc(reads->range, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for a list of %d reads", capacity);
        reads->range = grown;
        b->capacity = capacity;
    }
    bytes = bytes < entry->bytes - begin ? bytes : entry->bytes - begin;
    reads->range[reads->n_ranges++] =
        (struct plain_range){entry->file, entry->offset + begin, entry->offset + begin + bytes};
    reads->bytes += bytes;
    return STATUS_OK;
}

static enum status add_item(void *context, const struct weight_item *item)
{
    struct builder *b = context;
    struct weight_source source, values;
    struct span rows, columns;
    weight_slice(b->config, b->plan, item, &rows, &columns);
    if (span_size(rows) == 0)
        return STATUS_OK;
    TRY(weights_find(b->config, b->checkpoint, item, &source));
    values = source;
    values.scale_rows = 0;
    const struct span before = {0, source.first_row + rows.begin}, left = {0, columns.begin};
    const struct span all = {0, item->ndim == 2 ? item->dim[1] : 1};
    int64_t bytes = weight_source_bytes(&values, &rows, &columns);
    TRY(add_range(b, source.value,
                  weight_source_bytes(&values, &before, &all) +
                      weight_source_bytes(&values, &rows, &left),
                  bytes));
    if (source.scale == NULL)
        return STATUS_OK;
    return add_range(b, source.scale, 0, weight_source_bytes(&source, &rows, &columns) - bytes);
}

static int by_place(const void *a, const void *b)
{
    const struct plain_range *x = a, *y = b;
    if (x->file != y->file)
        return x->file - y->file;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

enum status plain_reads_open(struct plain_reads *reads, const struct model_config *config,
                             const struct safetensors *checkpoint, const struct shard_plan *plan)
{
    struct builder b = {reads, config, checkpoint, plan, 0};
    int kept = 0;
    *reads = (struct plain_reads){0};
    TRY(weights_each(config, add_item, &b));
    qsort(reads->range, (size_t)reads->n_ranges, sizeof *reads->range, by_place);
    for (int i = 0; i < reads->n_ranges; i++) {
        const struct plain_range *range = &reads->range[i];
        struct plain_range *last = &reads->range[kept - 1];
        if (kept > 0 && last->file == range->file && last->end == range->begin)
            last->end = range->end;
        else
            reads->range[kept++] = *range;
    }
    reads->n_ranges = kept;
    return STATUS_OK;
}

void plain_reads_close(struct plain_reads *reads)
{
    for (int i = 0; i < reads->n_files; i++)
        if (reads->fd[i] >= 0)
            close(reads->fd[i]);
    free(reads->fd);
    free(reads->range);
    *reads = (struct plain_reads){0};
}

/* --- all of it, by several threads --- */

struct walk {
    const struct plain_reads *reads;
    int64_t part; /* bytes of a read */
    int *past;    /* [n_files]; descriptors past the page cache, or NULL */
    char *memory; /* all goes there; NULL: to a buffer of the thread */
    atomic_llong next;
    atomic_int error; /* errno of a read that failed; -1: a file ended */
};

static int read_part(struct walk *w, char *to, int file, int64_t begin, int64_t bytes)
{
    int fd = w->reads->fd[file];
    int64_t done = 0;
    if (w->past != NULL && w->past[file] >= 0) {
        done = page_cache_read_past(w->past[file], to, begin, bytes);
        to += begin % PAGE_CACHE_ALIGNMENT;
    }
    while (done < bytes) {
        ssize_t n = pread(fd, to + done, (size_t)(bytes - done), (off_t)(begin + done));
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return n < 0 ? errno : -1;
        done += n > 0 ? n : 0;
    }
    return 0;
}

/* Every thread walks all ranges and reads the parts whose numbers it took. */
static void walk_ranges(struct walk *w, char *buffer)
{
    int64_t first = 0, at = 0; /* parts and bytes of the ranges before */
    int64_t own = atomic_fetch_add(&w->next, 1);
    for (int i = 0; i < w->reads->n_ranges && atomic_load(&w->error) == 0; i++) {
        const struct plain_range *r = &w->reads->range[i];
        int64_t size = r->end - r->begin, n = (size + w->part - 1) / w->part;
        for (; own < first + n; own = atomic_fetch_add(&w->next, 1)) {
            int64_t into = (own - first) * w->part;
            int64_t bytes = size - into < w->part ? size - into : w->part;
            char *to = buffer != NULL ? buffer : w->memory + at + into;
            int error = read_part(w, to, r->file, r->begin + into, bytes);
            if (error != 0)
                atomic_store(&w->error, error);
        }
        first += n;
        at += size;
    }
}

static void copy_share(void *context, int thread, int n_threads)
{
    (void)thread, (void)n_threads;
    walk_ranges(context, NULL);
}

static void *read_share(void *context)
{
    struct walk *w = context;
    const size_t bytes = DIRECT_BYTES + 2 * PAGE_CACHE_ALIGNMENT;
    void *buffer = NULL;
    if (cpu_device_ops.allocate(&buffer, bytes) != STATUS_OK)
        atomic_store(&w->error, ENOMEM);
    else
        walk_ranges(w, buffer);
    cpu_device_ops.release(buffer, bytes);
    return NULL;
}

static enum status check(struct walk *w)
{
    int error = atomic_load(&w->error);
    if (error != 0)
        FAIL(STATUS_IO, "a plain read of the model failed: %s",
             error < 0 ? "a file ends early" : strerror(error));
    return STATUS_OK;
}

enum status plain_copy(int64_t *ns, const struct plain_reads *reads)
{
    struct walk walk = {.reads = reads, .part = COPY_BYTES};
    int64_t begin_ns = progress_now_ns();
    void *memory = NULL;
    TRY(cpu_device_ops.allocate(&memory, (size_t)reads->bytes));
    walk.memory = memory;
    cpu_device_ops.run_threads(copy_share, &walk);
    *ns = progress_now_ns() - begin_ns;
    cpu_device_ops.release(memory, (size_t)reads->bytes);
    return check(&walk);
}

static enum status run_readers(struct walk *walk)
{
    pthread_t thread[DIRECT_MAX];
    int n = 0, wanted = cpu_device_ops.count_threads();
    wanted = wanted < IN_FLIGHT ? IN_FLIGHT : wanted > DIRECT_MAX ? DIRECT_MAX : wanted;
    while (n < wanted && pthread_create(&thread[n], NULL, read_share, walk) == 0)
        n++;
    if (n == 0)
        FAIL(STATUS_NO_MEMORY, "cannot start a thread that reads");
    for (int i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
    return check(walk);
}

enum status plain_direct(int64_t *ns, const struct plain_reads *reads)
{
    struct walk walk = {.reads = reads, .part = DIRECT_BYTES};
    walk.past = calloc((size_t)reads->n_files + 1, sizeof *walk.past);
    if (walk.past == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d files", reads->n_files);
    for (int i = 0; i < reads->n_files; i++)
        walk.past[i] = reads->fd[i] < 0 ? -1 : page_cache_open_past(reads->fd[i]);
    int64_t begin_ns = progress_now_ns();
    enum status status = run_readers(&walk);
    *ns = progress_now_ns() - begin_ns;
    for (int i = 0; i < reads->n_files; i++)
        if (walk.past[i] >= 0)
            close(walk.past[i]);
    free(walk.past);
    return status;
}

/* --- the page cache --- */

void plain_forget(const struct plain_reads *reads)
{
    for (int i = 0; i < reads->n_files; i++)
        if (reads->fd[i] >= 0)
            page_cache_drop(reads->fd[i]);
}

static int64_t file_bytes(int fd)
{
    struct stat info;
    return fd >= 0 && fstat(fd, &info) == 0 ? info.st_size : 0;
}

enum status plain_warm(const struct plain_reads *reads)
{
    char *buffer = malloc(DIRECT_BYTES);
    ssize_t n = 1;
    if (buffer == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a buffer");
    for (int i = 0; i < reads->n_files && n >= 0; i++)
        for (int64_t at = 0; at < file_bytes(reads->fd[i]) && n > 0; at += n)
            n = pread(reads->fd[i], buffer, DIRECT_BYTES, (off_t)at);
    free(buffer);
    if (n < 0)
        FAIL(STATUS_IO, "a plain read of the model failed: %s", strerror(errno));
    return STATUS_OK;
}

void plain_cached(int64_t *cached, int64_t *bytes, const struct plain_reads *reads)
{
    *cached = *bytes = 0;
    for (int i = 0; i < reads->n_files; i++) {
        int64_t found = reads->fd[i] < 0 ? 0 : page_cache_bytes(reads->fd[i]);
        *cached = *cached < 0 || found < 0 ? -1 : *cached + found;
        *bytes += file_bytes(reads->fd[i]);
    }
}
