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

size_t matrix_block_bytes(const struct matrix *w)
{
    if (w->dtype == DTYPE_I4)
        return (size_t)((w->k + 1) / 2 * MATRIX_BLOCK);
    return (size_t)(w->k * MATRIX_BLOCK) * dtype_bytes(w->dtype);
}

size_t matrix_bytes(const struct matrix *w)
{
    return (size_t)w->count * (size_t)matrix_blocks(w) * matrix_block_bytes(w);
}

static int64_t first_column(const struct matrix *w, int index)
{
    return (w->scales.first + index * w->scales.shift) % w->scales.step;
}

int64_t matrix_groups(const struct matrix *w)
{
    const struct matrix_scales *s = &w->scales;
    int64_t worst = s->shift % s->step == 0 ? s->first % s->step : s->step - 1;
    return (worst + w->k + s->step - 1) / s->step;
}

int64_t matrix_group(const struct matrix *w, int index, int64_t column)
{
    return (first_column(w, index) + column) / w->scales.step;
}

static size_t scale_block_bytes(const struct matrix *w)
{
    return (size_t)(matrix_groups(w) * MATRIX_BLOCK) * dtype_bytes(w->scales.dtype);
}

size_t matrix_scale_bytes(const struct matrix *w)
{
    if (!matrix_is_quantized(w))
        return 0;
    return (size_t)w->count * (size_t)matrix_blocks(w) * scale_block_bytes(w);
}

struct matrix matrix_at(const struct matrix *w, int index)
{
    assert(0 <= index && index < w->count);
    struct matrix one = *w;
    size_t blocks = (size_t)index * (size_t)matrix_blocks(w);
    one.count = 1;
    if (w->data != NULL)
        one.data = (char *)w->data + blocks * matrix_block_bytes(w);
    if (!matrix_is_quantized(w))
        return one;
    one.scales.first = first_column(w, index);
    if (w->scales.data != NULL)
        one.scales.data = (char *)w->scales.data + blocks * scale_block_bytes(w);
    return one;
}

/* The low half of a byte has the even column. */
static void put_half(char *byte, int64_t column, char number)
{
    unsigned half = (unsigned)number & 15u;
    *byte = (char)((unsigned char)*byte | (column % 2 == 0 ? half : half << 4));
}

/* Copies source element (i, j) at source[i * row_stride + j * column_stride] to row `row + i`. */
static void pack(struct matrix *w, int index, int64_t row, int64_t rows, const char *source,
                 int64_t row_stride, int64_t column_stride)
{
    int is_i4 = w->dtype == DTYPE_I4;
    size_t bytes = is_i4 ? 1 : dtype_bytes(w->dtype), block_bytes = matrix_block_bytes(w);
    struct matrix one = matrix_at(w, index);
    assert(row >= 0 && row + rows <= w->n);
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = row + i;
        char *target = (char *)one.data + (size_t)(r / MATRIX_BLOCK) * block_bytes +
                       (size_t)(r % MATRIX_BLOCK) * bytes;
        const char *from = source + i * row_stride * (int64_t)bytes;
        if (is_i4)
            for (int64_t j = 0; j < w->k; j++)
                put_half(target + j / 2 * MATRIX_BLOCK, j, from[j * column_stride]);
        else
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

void matrix_set_scale(struct matrix *w, int index, int64_t row, int64_t group, float scale)
{
    assert(0 <= row && row < w->n && 0 <= group && group < matrix_groups(w));
    int64_t block = index * matrix_blocks(w) + row / MATRIX_BLOCK;
    int64_t at = (block * matrix_groups(w) + group) * MATRIX_BLOCK + row % MATRIX_BLOCK;
    size_t bytes = dtype_bytes(w->scales.dtype);
    dtype_from_f32((char *)w->scales.data + (size_t)at * bytes, w->scales.dtype, &scale, 1);
}
