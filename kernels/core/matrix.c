#include "kernels/core/matrix.h"

#include <assert.h>

struct units units_whole(int64_t k)
{
    struct units units = {{0}};
    for (int u = 1; u <= UNITS; u++)
        units.begin[u] = k;
    return units;
}

struct units units_of_span(int64_t n, int64_t begin, int64_t end, int64_t width)
{
    struct units units;
    for (int u = 0; u <= UNITS; u++) {
        int64_t at = unit_begin(u, n);
        at = at < begin ? begin : at;
        at = at > end ? end : at;
        units.begin[u] = (at - begin) * width;
    }
    return units;
}

size_t matrix_bytes(const struct matrix *w)
{
    return (size_t)w->count * (size_t)matrix_elements(w) * dtype_bytes(w->dtype);
}

struct matrix matrix_at(const struct matrix *w, int index)
{
    assert(0 <= index && index < w->count);
    struct matrix one = *w;
    one.count = 1;
    if (w->data != NULL)
        one.data =
            (char *)w->data + (size_t)index * (size_t)matrix_elements(w) * dtype_bytes(w->dtype);
    return one;
}

/* Copies source element (i, j) at source[i * row_stride + j * column_stride] to row `row + i`. */
static void pack(struct matrix *w, int index, int64_t row, int64_t rows, const char *source,
                 int64_t row_stride, int64_t column_stride)
{
    size_t bytes = dtype_bytes(w->dtype);
    struct matrix one = matrix_at(w, index);
    assert(row >= 0 && row + rows <= w->n);
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = row + i;
        char *target = (char *)one.data +
                       (size_t)(r / MATRIX_BLOCK * w->k * MATRIX_BLOCK + r % MATRIX_BLOCK) * bytes;
        const char *from = source + i * row_stride * (int64_t)bytes;
        for (int64_t j = 0; j < w->k; j++)
            memcpy(target + (size_t)(j * MATRIX_BLOCK) * bytes,
                   from + j * column_stride * (int64_t)bytes, bytes);
    }
}

void matrix_pack(struct matrix *w, int index, int64_t row, int64_t rows, const void *source,
                 int64_t source_stride)
{
    pack(w, index, row, rows, source, source_stride, 1);
}

void matrix_pack_transposed(struct matrix *w, int index, const void *source, int64_t source_stride)
{
    pack(w, index, 0, w->n, source, 1, source_stride);
}
