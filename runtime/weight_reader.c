#include "runtime/weight_reader.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/finite.h"
#include "runtime/random_weights.h"

enum {
    CACHED_BYTES = 1 << 20, /* of a read from the page cache: 8% faster than 256 KiB */
    DISK_BYTES = (4 << 20) - 2 * PAGE_CACHE_ALIGNMENT, /* of a read from disk: 2 huge pages */
    CACHED_GAP = 4096,   /* between slices of rows that are read over: as long as a call takes */
    DISK_GAP = 64 << 10, /* a small read would wait as long as a large one */
    ROW_SLACK = 16,      /* two words of int4 around a slice of a row */
    I4_IN_WORD = 8
};

/* A row of the widest tensor and one head of kv_b_proj must fit. */
static size_t buffer_size(const struct model_config *c)
{
    const int64_t widths[] = {c->d,
                              c->dense_columns,
                              c->d_cq,
                              c->n_heads * c->d_v,
                              c->n_shared_experts * c->expert_columns,
                              c->expert_columns,
                              c->d_n,
                              (c->d_n + c->d_v) * (c->d_c + ROW_SLACK)};
    size_t bytes = DISK_BYTES;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        size_t row = (size_t)widths[i] * sizeof(float) + ROW_SLACK;
        bytes = bytes > row ? bytes : row;
    }
    return bytes;
}

/* Host memory in huge pages: a disk writes it in a few pieces, half as fast again as page by page. */
static size_t buffer_bytes(const struct weight_reader *reader)
{
    return reader->bytes + 2 * PAGE_CACHE_ALIGNMENT;
}

enum status weight_reader_open(struct weight_reader *reader, const struct model_config *config,
                               const struct safetensors *checkpoint)
{
    size_t bytes = (buffer_size(config) + PAGE_CACHE_ALIGNMENT - 1) / PAGE_CACHE_ALIGNMENT *
                   PAGE_CACHE_ALIGNMENT;
    *reader = (struct weight_reader){.checkpoint = checkpoint, .bytes = bytes};
    void *buffer = NULL;
    TRY(cpu_device_ops.allocate(&buffer, buffer_bytes(reader)));
    reader->rows = reader->buffer = buffer;
    reader->packed = malloc(bytes / 2);
    if (reader->packed == NULL) {
        weight_reader_close(reader);
        FAIL(STATUS_NO_MEMORY, "no memory for a buffer of %zu bytes", bytes / 2);
    }
    return STATUS_OK;
}

void weight_reader_close(struct weight_reader *reader)
{
    safetensors_past_close(&reader->past);
    if (reader->buffer != NULL)
        cpu_device_ops.release(reader->buffer, buffer_bytes(reader));
    free(reader->packed);
    free(reader->scale);
    *reader = (struct weight_reader){0};
}

static int64_t number_bytes(enum dtype dtype)
{
    return dtype == DTYPE_I4 ? 1 : (int64_t)dtype_bytes(dtype);
}

static int64_t item_columns(const struct weight_item *item)
{
    return item->ndim == 2 ? item->dim[1] : 1;
}

/* A row in the file, of `value`. */
static int64_t file_row_bytes(const struct weight_item *item, const struct weight_source *source)
{
    int64_t columns = item_columns(item);
    return source->dtype == DTYPE_I4 ? columns / 2 : columns * number_bytes(source->dtype);
}

void weight_reader_look(struct weight_reader *reader, const struct weight_item *item,
                        const struct weight_source *source, int64_t row, int64_t n)
{
    int64_t row_bytes = file_row_bytes(item, source);
    reader->state = PAGES_CACHED;
    if (source->value != NULL)
        reader->state = safetensors_look(&reader->past, reader->checkpoint, source->value,
                                         (source->first_row + row) * row_bytes, n * row_bytes);
}

/* Slices so near to each other are read with what is between them. */
static int is_read_over(const struct weight_reader *reader, int64_t row_bytes, int64_t n_bytes)
{
    return row_bytes - n_bytes <= (reader->state == PAGES_CACHED ? CACHED_GAP : DISK_GAP);
}

/* Rows that fit in `bytes`. */
static int64_t rows_in(const struct weight_reader *reader, size_t bytes,
                       const struct weight_item *item, const struct weight_source *source,
                       const struct span *columns)
{
    int64_t width = span_size(*columns) * number_bytes(source->dtype);
    int64_t row_bytes = file_row_bytes(item, source);
    if (source->dtype != DTYPE_I4 && is_read_over(reader, row_bytes, width))
        width = row_bytes;
    return (int64_t)bytes / (width + ROW_SLACK);
}

int64_t weight_reader_count(const struct weight_reader *reader, const struct weight_item *item,
                            const struct weight_source *source, const struct span *columns,
                            int64_t step)
{
    int is_cached = reader->state == PAGES_CACHED && source->value != NULL;
    int64_t most = rows_in(reader, reader->bytes, item, source, columns);
    int64_t wanted = is_cached ? rows_in(reader, CACHED_BYTES, item, source, columns) : most;
    if (most < step)
        return most;
    return wanted < step ? step : wanted / step * step;
}

/* Whole rows, one after another: reader->rows = `bytes` bytes at `offset`. */
static enum status read_whole(struct weight_reader *reader, const struct weight_item *item,
                              const struct weight_source *source, int64_t offset, int64_t bytes)
{
    size_t number = (size_t)number_bytes(source->dtype);
    if (reader->state != PAGES_ABSENT || item->split == SPLIT_NONE)
        return safetensors_read(reader->checkpoint, source->value, offset, bytes, reader->rows);
    TRY(safetensors_read_past(&reader->past, &reader->rows, reader->buffer, reader->checkpoint,
                              source->value, offset, bytes));
    if ((uintptr_t)reader->rows % number != 0) { /* a header of odd length */
        memmove(reader->buffer, reader->rows, (size_t)bytes);
        reader->rows = reader->buffer;
    }
    return STATUS_OK;
}

/* to[n][n_bytes] = bytes [begin, begin + n_bytes) of each of n rows of `row_bytes`, from row `row` on.
 * `to` has room for n whole rows where gaps are read over. */
static enum status read_slices(const struct weight_reader *reader,
                               const struct safetensors_entry *entry, int64_t row_bytes,
                               int64_t row, int64_t n, int64_t begin, int64_t n_bytes,
                               int reads_over, char *to)
{
    int64_t offset = row * row_bytes + begin;
    if (n_bytes == row_bytes)
        return safetensors_read(reader->checkpoint, entry, offset, n * row_bytes, to);
    if (reads_over) {
        TRY(safetensors_read(reader->checkpoint, entry, offset, (n - 1) * row_bytes + n_bytes, to));
        for (int64_t i = 1; i < n; i++)
            memmove(to + i * n_bytes, to + i * row_bytes, (size_t)n_bytes);
        return STATUS_OK;
    }
    for (int64_t i = 0; i < n; i++)
        TRY(safetensors_read(reader->checkpoint, entry, offset + i * row_bytes, n_bytes,
                             to + i * n_bytes));
    return STATUS_OK;
}

/* Number j of a row is half (j mod 2) of byte j / 2: words are little endian, low bits first. */
static enum status read_i4(struct weight_reader *reader, const struct weight_source *source,
                           int64_t file_columns, const struct span *columns, int64_t row, int64_t n)
{
    int64_t first = columns->begin / I4_IN_WORD, width = span_size(*columns);
    int64_t words = (columns->end + I4_IN_WORD - 1) / I4_IN_WORD - first;
    int64_t skipped = columns->begin - first * I4_IN_WORD, row_bytes = words * 4;
    TRY(read_slices(reader, source->value, file_columns / 2, source->first_row + row, n, first * 4,
                    row_bytes, 0, reader->packed));
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *from = (unsigned char *)reader->packed + i * row_bytes;
        for (int64_t j = 0; j < width; j++) {
            int64_t at = skipped + j;
            reader->rows[i * width + j] = (char)(from[at / 2] >> (at % 2 * 4) & 15);
        }
    }
    return STATUS_OK;
}

static void fill_random(struct weight_reader *reader, const struct weight_item *item,
                        const struct weight_source *source, const struct span *columns, int64_t row,
                        int64_t n)
{
    int64_t width = span_size(*columns), bytes = number_bytes(source->dtype);
    for (int64_t i = 0; i < n; i++)
        random_weights_fill(reader->rows + i * width * bytes, source, item, 0,
                            (row + i) * item_columns(item) + columns->begin, width);
}

/* Which of `count` numbers is NaN or infinite: the first, or -1. */
static int64_t find_not_finite(const char *data, enum dtype dtype, int64_t count)
{
    enum { RUN = 1024 }; /* looked at without leaving */
    if (dtype == DTYPE_I4)
        return -1; /* each is a number */
    for (int64_t begin = 0; begin < count; begin += RUN) {
        int64_t end = begin + RUN < count ? begin + RUN : count;
        size_t bytes = dtype_bytes(dtype);
        struct finite_check check = finite_begin(dtype);
        finite_look(&check, data + (size_t)begin * bytes, (size_t)(end - begin) * bytes);
        for (int64_t i = begin; i < end && !finite_end(&check); i++) {
            struct finite_check one = finite_begin(dtype);
            finite_look(&one, data + (size_t)i * bytes, bytes);
            if (!finite_end(&one))
                return i;
        }
    }
    return -1;
}

static enum status refuse_number(const struct weight_reader *reader,
                                 const struct safetensors_entry *entry, const char *name,
                                 int64_t row, int64_t column)
{
    FAIL(STATUS_INVALID,
         "%s: tensor %s holds NaN or infinity at row %lld, column %lld; the file is damaged or was "
         "saved from a broken run",
         safetensors_path(reader->checkpoint, entry), name, (long long)row, (long long)column);
}

enum status weight_reader_rows(struct weight_reader *reader, const struct weight_item *item,
                               const struct weight_source *source, const struct span *columns,
                               int64_t row, int64_t n)
{
    int64_t width = span_size(*columns), bytes = number_bytes(source->dtype);
    int64_t row_bytes = item_columns(item) * bytes, first = source->first_row + row;
    assert(n <= rows_in(reader, reader->bytes, item, source, columns));
    reader->rows = reader->buffer;
    if (source->value == NULL)
        fill_random(reader, item, source, columns, row, n);
    else if (source->dtype == DTYPE_I4)
        return read_i4(reader, source, item_columns(item), columns, row, n);
    else if (width * bytes == row_bytes)
        TRY(read_whole(reader, item, source, first * row_bytes, n * row_bytes));
    else
        TRY(read_slices(reader, source->value, row_bytes, first, n, columns->begin * bytes,
                        width * bytes, is_read_over(reader, row_bytes, width * bytes),
                        reader->rows));
    return STATUS_OK;
}

enum status weight_reader_check(const struct weight_reader *reader, const struct weight_item *item,
                                const struct weight_source *source, const struct span *columns,
                                int64_t row, int64_t n)
{
    int64_t width = span_size(*columns);
    int64_t bad =
        source->value == NULL ? -1 : find_not_finite(reader->rows, source->dtype, n * width);
    if (bad >= 0)
        return refuse_number(reader, source->value, item->name, row + bad / width,
                             columns->begin + bad % width);
    return STATUS_OK;
}

/* scale[n][n_scale_columns], rows from `row` on of the scale tensor, widened */
static enum status read_scales(struct weight_reader *reader, const struct weight_source *source,
                               int64_t row, int64_t n)
{
    const struct safetensors_entry *entry = source->scale;
    int64_t bytes = (int64_t)dtype_bytes(entry->dtype), width = reader->n_scale_columns;
    int64_t row_bytes = entry->dim[entry->ndim - 1] * bytes;
    char *raw = malloc((size_t)(n * width * bytes) + 1);
    if (raw == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %lld scales", (long long)(n * width));
    enum status status = read_slices(reader, entry, row_bytes, row, n, reader->scale_column * bytes,
                                     width * bytes, 0, raw);
    if (status == STATUS_OK)
        dtype_to_f32(reader->scale, raw, entry->dtype, n * width);
    free(raw);
    return status;
}

enum status weight_reader_scales(struct weight_reader *reader, const struct weight_item *item,
                                 const struct weight_source *source, const struct span *rows,
                                 const struct span *columns)
{
    int64_t into = source->into_block, first = (rows->begin + into) / source->scale_rows;
    int64_t n = (rows->end - 1 + into) / source->scale_rows + 1 - first;
    float largest = source->dtype == DTYPE_I4 ? 8.0f : 448.0f; /* of a number */
    reader->scale_row = first;
    reader->scale_column = columns->begin / source->scale_columns;
    reader->n_scale_columns = (columns->end - 1) / source->scale_columns + 1 - reader->scale_column;

    int64_t width = reader->n_scale_columns;
    if (reader->n_scales < (size_t)(n * width)) {
        float *grown = realloc(reader->scale, (size_t)(n * width) * sizeof *grown);
        if (grown == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for %lld scales", (long long)(n * width));
        reader->scale = grown;
        reader->n_scales = (size_t)(n * width);
    }
    if (source->scale != NULL)
        TRY(read_scales(reader, source, source->scale_row + first, n));
    for (int64_t i = 0; i < n * width; i++) {
        int64_t row = first + i / width, column = reader->scale_column + i % width;
        if (source->scale == NULL)
            reader->scale[i] = random_weights_scale(source, item, 0, row, column);
        else if (!isfinite(reader->scale[i] * largest))
            return refuse_number(reader, source->scale, source->scale->name,
                                 source->scale_row + row, column);
    }
    return STATUS_OK;
}

float weight_reader_scale(const struct weight_reader *reader, const struct weight_source *source,
                          int64_t row, int64_t column)
{
    int64_t r = (row + source->into_block) / source->scale_rows - reader->scale_row;
    int64_t c = column / source->scale_columns - reader->scale_column;
    return reader->scale[r * reader->n_scale_columns + c];
}
