#include "kernels/core/matrix.h"

#include <assert.h>

#include "kernels/core/finite.h"

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
    int columns = matrix_line_columns(w->dtype);
    return (size_t)((w->k + columns - 1) / columns) * (size_t)matrix_line_bytes(w->dtype);
}

size_t matrix_block_at(const struct matrix *w, int64_t block)
{
    int64_t place = block % matrix_bundle(w->dtype);
    return (size_t)(block - place) * matrix_block_bytes(w) +
           (size_t)(place * matrix_line_bytes(w->dtype));
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

/* Words of a row, `step` bytes apart in `to`. */
static void pack_words_4(char *to, int64_t step, const char *from, int64_t n_words)
{
    for (int64_t i = 0; i < n_words; i++)
        memcpy(to + i * step, from + i * 4, 4);
}

static void pack_words_2(char *to, int64_t step, const char *from, int64_t n_words)
{
    for (int64_t i = 0; i < n_words; i++)
        memcpy(to + i * step, from + i * 2, 2);
}

/* Eight numbers, a byte each, to a word. */
static void pack_words_i4(char *to, int64_t step, const char *from, int64_t columns)
{
    for (int64_t j = 0; j < columns; j += 8, to += step) {
        uint32_t word = 0;
        for (int64_t c = 0; c < 8 && j + c < columns; c++)
            word |= (uint32_t)(unsigned char)from[j + c] << (4 * c);
        memcpy(to, &word, sizeof word);
    }
}

/* The word of row `row` in line 0 of its block. */
static char *row_word(const struct matrix *one, int64_t row)
{
    size_t word_bytes = (size_t)matrix_line_bytes(one->dtype) / MATRIX_BLOCK;
    return (char *)one->data + matrix_block_at(one, row / MATRIX_BLOCK) +
           (size_t)(row % MATRIX_BLOCK) * word_bytes;
}

/* Columns [first, end) of a row, first being that of a line; the last word may lack columns. */
static void pack_row(const struct matrix *one, int64_t row, const char *from, int64_t first,
                     int64_t end)
{
    int line_columns = matrix_line_columns(one->dtype);
    int64_t n_words = (end - first) / line_columns;
    int64_t step = matrix_line_step(one, row / MATRIX_BLOCK);
    char *to = row_word(one, row) + first / line_columns * step;
    if (one->dtype == DTYPE_I4) {
        pack_words_i4(to, step, from + first, end - first);
        return;
    }
    size_t word_bytes = (size_t)matrix_line_bytes(one->dtype) / MATRIX_BLOCK;
    size_t number = dtype_bytes(one->dtype), rest = (size_t)((end - first) % line_columns) * number;
    from += (size_t)first * number;
    if (word_bytes == 4)
        pack_words_4(to, step, from, n_words);
    else
        pack_words_2(to, step, from, n_words);
    memcpy(to + n_words * step, from + (size_t)n_words * word_bytes, rest);
}

/* Rows that are packed together: what they have in a line is one store, and the next words of a row,
 * the first in the lowest bits, are one load. */
enum { PAIR = 2, QUAD = 4 };

/* Two rows, words of 4 bytes.  Returns the words done of each. */
static int64_t pack_pair(char *to, int64_t step, const char *from, int64_t stride, int64_t n_words,
                         struct finite_check *check)
{
    const uint64_t high = 0xffffffff00000000u;
    const struct finite_check kept = *check;
    uint64_t carries = 0;
    int64_t i = 0;
    for (; i + PAIR <= n_words; i += PAIR, to += PAIR * step) {
        uint64_t a, b;
        memcpy(&a, from + i * 4, sizeof a);
        memcpy(&b, from + i * 4 + stride, sizeof b);
        carries |= finite_carries(&kept, a) | finite_carries(&kept, b);
        const uint64_t line[PAIR] = {(a & ~high) | b << 32, a >> 32 | (b & high)};
        memcpy(to, &line[0], sizeof line[0]);
        memcpy(to + step, &line[1], sizeof line[1]);
    }
    check->carries |= carries;
    return i;
}

/* Four rows, words of 2 bytes. */
static int64_t pack_quad(char *to, int64_t step, const char *from, int64_t stride, int64_t n_words,
                         struct finite_check *check)
{
    const uint64_t odd = 0xffff0000ffff0000u, high = 0xffffffff00000000u;
    const struct finite_check kept = *check;
    uint64_t carries = 0;
    int64_t i = 0;
    for (; i + QUAD <= n_words; i += QUAD, to += QUAD * step) {
        uint64_t x[QUAD];
        for (int r = 0; r < QUAD; r++) {
            memcpy(&x[r], from + i * 2 + r * stride, sizeof x[r]);
            carries |= finite_carries(&kept, x[r]);
        }
        /* words 0 and 2, then 1 and 3, of two rows */
        uint64_t even01 = (x[0] & ~odd) | (x[1] & ~odd) << 16;
        uint64_t even23 = (x[2] & ~odd) | (x[3] & ~odd) << 16;
        uint64_t odd01 = (x[0] & odd) >> 16 | (x[1] & odd);
        uint64_t odd23 = (x[2] & odd) >> 16 | (x[3] & odd);
        const uint64_t line[QUAD] = {(even01 & ~high) | even23 << 32, (odd01 & ~high) | odd23 << 32,
                                     even01 >> 32 | (even23 & high), odd01 >> 32 | (odd23 & high)};
        for (int l = 0; l < QUAD; l++)
            memcpy(to + l * step, &line[l], sizeof line[l]);
    }
    check->carries |= carries;
    return i;
}

/* Columns [first, end) of the first rows of [row, last), rows of one bundle that stand `stride` bytes
 * apart.  Returns how many rows that were. */
static int64_t pack_some(const struct matrix *one, int64_t row, int64_t last, const char *from,
                         int64_t stride, int64_t first, int64_t end, struct finite_check *check)
{
    int64_t line_columns = matrix_line_columns(one->dtype);
    int64_t together = matrix_line_bytes(one->dtype) == MATRIX_BLOCK * 4 ? PAIR : QUAD, done = 0;
    size_t bytes = one->dtype == DTYPE_I4 ? 1 : dtype_bytes(one->dtype);
    if (one->dtype == DTYPE_I4 || row % together != 0 || last - row < together) {
        finite_look(check, from + (size_t)first * bytes, (size_t)(end - first) * bytes);
        pack_row(one, row, from, first, end);
        return 1;
    }
    int64_t n_words = (end - first) / line_columns;
    int64_t step = matrix_line_step(one, row / MATRIX_BLOCK);
    char *to = row_word(one, row) + first / line_columns * step;
    const char *begin = from + (size_t)first * bytes;
    done = together == PAIR ? pack_pair(to, step, begin, stride, n_words, check)
                            : pack_quad(to, step, begin, stride, n_words, check);
    first += done * line_columns;
    for (int64_t r = 0; r < together && first < end; r++) {
        finite_look(check, from + r * stride + (size_t)first * bytes,
                    (size_t)(end - first) * bytes);
        pack_row(one, row + r, from + r * stride, first, end);
    }
    return together;
}

int matrix_pack(struct matrix *w, int index, int64_t row, int64_t rows, const void *source,
                int64_t source_stride)
{
    /* that the rows of a bundle are packed together, so that its lines stay in the nearest cache until
     * all of their blocks have come */
    enum { COLUMNS = 256, ROWS = MATRIX_BUNDLE * MATRIX_BLOCK };
    size_t bytes = w->dtype == DTYPE_I4 ? 1 : dtype_bytes(w->dtype);
    int64_t stride = source_stride * (int64_t)bytes, end = row + rows;
    struct matrix one = matrix_at(w, index);
    struct finite_check check = finite_begin(w->dtype);
    const char *from = source;
    assert(row >= 0 && end <= w->n);
    for (int64_t next; row < end; from += (next - row) * stride, row = next) {
        next = (row / ROWS + 1) * ROWS;
        next = next < end ? next : end;
        for (int64_t j = 0; j < w->k; j += COLUMNS)
            for (int64_t r = row; r < next;)
                r += pack_some(&one, r, next, from + (r - row) * stride, stride, j,
                               w->k - j < COLUMNS ? w->k : j + COLUMNS, &check);
    }
    return finite_end(&check);
}

void matrix_put_i8(struct matrix *w, int index, int64_t row, int64_t column, const uint8_t *numbers,
                   int64_t count)
{
    enum { COLUMNS = 4 };
    struct matrix one = matrix_at(w, index);
    char *at = row_word(&one, row);
    int64_t j = column, end = column + count, step = matrix_line_step(w, row / MATRIX_BLOCK);
    assert(w->dtype == DTYPE_I8 && 0 <= column && end <= w->k && 0 <= row && row < w->n);
    for (; j < end && j % COLUMNS != 0; j++)
        at[j / COLUMNS * step + j % COLUMNS] = (char)*numbers++;
    for (; j + COLUMNS <= end; j += COLUMNS, numbers += COLUMNS)
        memcpy(at + j / COLUMNS * step, numbers, COLUMNS);
    for (; j < end; j++)
        at[j / COLUMNS * step + j % COLUMNS] = (char)*numbers++;
}

void matrix_pack_transposed(struct matrix *w, int index, const void *source, int64_t source_stride)
{
    assert(w->dtype != DTYPE_I4);
    int columns = matrix_line_columns(w->dtype);
    size_t bytes = dtype_bytes(w->dtype);
    int64_t word_bytes = matrix_line_bytes(w->dtype) / MATRIX_BLOCK;
    struct matrix one = matrix_at(w, index);
    for (int64_t r = 0; r < w->n; r += MATRIX_BLOCK) {
        int64_t width = w->n - r < MATRIX_BLOCK ? w->n - r : MATRIX_BLOCK;
        int64_t step = matrix_line_step(w, r / MATRIX_BLOCK);
        char *block = row_word(&one, r);
        for (int64_t j = 0; j < w->k; j++) {
            const char *from = (const char *)source + (size_t)(j * source_stride + r) * bytes;
            char *to = block + j / columns * step + (size_t)(j % columns) * bytes;
            for (int64_t i = 0; i < width; i++)
                memcpy(to + i * word_bytes, from + (size_t)i * bytes, bytes);
        }
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
