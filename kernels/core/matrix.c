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

/* Four rows of four 16-bit numbers each become columns: to[4 x MATRIX_BLOCK]. */
static void turn_16(char *to, const char *from, int64_t stride)
{
    uint64_t row[4], low = 0x0000ffff0000ffffu;
    for (int i = 0; i < 4; i++)
        memcpy(&row[i], from + i * stride, sizeof row[i]);
    uint64_t a = (row[0] & low) | (row[1] & low) << 16, b = (row[0] >> 16 & low) | (row[1] & ~low);
    uint64_t c = (row[2] & low) | (row[3] & low) << 16, d = (row[2] >> 16 & low) | (row[3] & ~low);
    const uint64_t column[4] = {(a & 0xffffffffu) | c << 32, (b & 0xffffffffu) | d << 32,
                                a >> 32 | (c & ~(uint64_t)0xffffffffu),
                                b >> 32 | (d & ~(uint64_t)0xffffffffu)};
    for (int j = 0; j < 4; j++)
        memcpy(to + j * 2 * MATRIX_BLOCK, &column[j], sizeof column[j]);
}

/* Four rows of four 8-bit numbers each. */
static void turn_8(char *to, const char *from, int64_t stride)
{
    uint32_t row[4], low = 0x00ff00ffu;
    for (int i = 0; i < 4; i++)
        memcpy(&row[i], from + i * stride, sizeof row[i]);
    uint32_t a = (row[0] & low) | (row[1] & low) << 8, b = (row[0] >> 8 & low) | (row[1] & ~low);
    uint32_t c = (row[2] & low) | (row[3] & low) << 8, d = (row[2] >> 8 & low) | (row[3] & ~low);
    const uint32_t column[4] = {(a & 0xffffu) | c << 16, (b & 0xffffu) | d << 16,
                                a >> 16 | (c & 0xffff0000u), b >> 16 | (d & 0xffff0000u)};
    for (int j = 0; j < 4; j++)
        memcpy(to + j * MATRIX_BLOCK, &column[j], sizeof column[j]);
}

/* One row of k numbers, MATRIX_BLOCK apart in `to`, from column `first` on. */
static void pack_row(char *to, const char *from, int64_t first, int64_t k, size_t bytes)
{
    for (int64_t j = first; j < k; j++)
        memcpy(to + (size_t)(j * MATRIX_BLOCK) * bytes, from + (size_t)j * bytes, bytes);
}

/* Two columns to a byte, the even one in the low half. */
static void pack_row_i4(char *to, const char *from, int64_t k)
{
    for (int64_t j = 0; j < k; j += 2) {
        unsigned low = (unsigned char)from[j], high = j + 1 < k ? (unsigned char)from[j + 1] : 0;
        to[j / 2 * MATRIX_BLOCK] = (char)(low | high << 4);
    }
}

/* Four rows side by side: in squares of 4 x 4, the rest number by number. */
static void pack_four(char *to, const char *from, int64_t stride, int64_t k, size_t bytes)
{
    int64_t whole = bytes == 1 || bytes == 2 ? k / 4 * 4 : 0;
    for (int64_t j = 0; j < whole && bytes == 2; j += 4)
        turn_16(to + j * 2 * MATRIX_BLOCK, from + j * 2, stride);
    for (int64_t j = 0; j < whole && bytes == 1; j += 4)
        turn_8(to + j * MATRIX_BLOCK, from + j, stride);
    for (int i = 0; i < 4; i++)
        pack_row(to + (size_t)i * bytes, from + i * stride, whole, k, bytes);
}

void matrix_pack(struct matrix *w, int index, int64_t row, int64_t rows, const void *source,
                 int64_t source_stride)
{
    size_t bytes = w->dtype == DTYPE_I4 ? 1 : dtype_bytes(w->dtype);
    size_t block_bytes = matrix_block_bytes(w);
    int64_t stride = source_stride * (int64_t)bytes, step;
    struct matrix one = matrix_at(w, index);
    const char *from = source;
    assert(row >= 0 && row + rows <= w->n);
    for (int64_t r = row; r < row + rows; r += step, from += step * stride) {
        char *to = (char *)one.data + (size_t)(r / MATRIX_BLOCK) * block_bytes +
                   (size_t)(r % MATRIX_BLOCK) * bytes;
        step = r % 4 == 0 && row + rows - r >= 4 && w->dtype != DTYPE_I4 ? 4 : 1;
        if (w->dtype == DTYPE_I4)
            pack_row_i4(to, from, w->k);
        else if (step == 4)
            pack_four(to, from, stride, w->k, bytes);
        else
            pack_row(to, from, 0, w->k, bytes);
    }
}

void matrix_pack_transposed(struct matrix *w, int index, const void *source, int64_t source_stride)
{
    assert(w->dtype != DTYPE_I4);
    size_t bytes = dtype_bytes(w->dtype), block_bytes = matrix_block_bytes(w);
    struct matrix one = matrix_at(w, index);
    for (int64_t r = 0; r < w->n; r += MATRIX_BLOCK) {
        int64_t width = w->n - r < MATRIX_BLOCK ? w->n - r : MATRIX_BLOCK;
        char *to = (char *)one.data + (size_t)(r / MATRIX_BLOCK) * block_bytes;
        const char *from = (const char *)source + (size_t)r * bytes;
        for (int64_t j = 0; j < w->k; j++)
            memcpy(to + (size_t)(j * MATRIX_BLOCK) * bytes,
                   from + (size_t)(j * source_stride) * bytes, (size_t)width * bytes);
    }
}

void matrix_set_scale(struct matrix *w, int index, int64_t row, int64_t group, float scale)
{
    assert(0 <= row && row < w->n && 0 <= group && group < matrix_groups(w));
    int64_t block = index * matrix_blocks(w) + row / MATRIX_BLOCK;
    int64_t at = (block * matrix_groups(w) + group) * MATRIX_BLOCK + row % MATRIX_BLOCK;
    size_t bytes = dtype_bytes(w->scales.dtype);
    dtype_from_f32((char *)w->scales.data + (size_t)at * bytes, w->scales.dtype, &scale, 1);
}
