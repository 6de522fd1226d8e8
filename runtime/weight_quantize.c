#include "runtime/weight_quantize.h"

#include <assert.h>

enum dtype weight_resident_dtype(const struct weight_item *item, const struct weight_source *source,
                                 int to_i8)
{
    if (!to_i8 || source->dtype == DTYPE_I4 || item->ndim != 2 || item->dim[1] > MATRIX_I8_WIDTH)
        return source->dtype;
    int is_matrix = weight_is_linear(item->field) || item->field == WEIGHT_HEAD;
    return is_matrix && item->field != WEIGHT_UKV ? DTYPE_I8 : source->dtype;
}

struct matrix_scales weight_i8_scales(int64_t begin)
{
    return (struct matrix_scales){
        .dtype = DTYPE_F32, .step = WEIGHT_I8_GROUP, .first = begin % WEIGHT_I8_GROUP};
}

struct span weight_i8_columns(const struct span *columns, int64_t width)
{
    struct span whole = {columns->begin / WEIGHT_I8_GROUP * WEIGHT_I8_GROUP,
                         (columns->end + WEIGHT_I8_GROUP - 1) / WEIGHT_I8_GROUP * WEIGHT_I8_GROUP};
    if (whole.end > width)
        whole.end = width;
    return whole;
}

int64_t weight_i8_bytes(const struct span *rows, const struct span *columns)
{
    int64_t n = span_size(*rows), k = span_size(*columns);
    if (n == 0 || k == 0)
        return 0;
    int64_t groups = (columns->end - 1) / WEIGHT_I8_GROUP - columns->begin / WEIGHT_I8_GROUP + 1;
    return n * (k + groups * (int64_t)sizeof(float));
}

/* What a weight_quantize call works with. */
struct quantizer {
    const struct weight_rows *from;
    float f8[256]; /* what an e4m3 stands for */
};

/* x[WEIGHT_I8_GROUP] = columns [begin, end) of one row, then zeros */
static void widen(float *x, const struct quantizer *q, int64_t row, int64_t begin, int64_t end)
{
    const struct weight_rows *from = q->from;
    const struct weight_source *source = from->source;
    int64_t width = span_size(from->columns);
    int64_t at = (row - from->rows.begin) * width + begin - from->columns.begin;
    const char *data = from->data + at * (int64_t)dtype_bytes(source->dtype);
    memset(x + (end - begin), 0, (size_t)(WEIGHT_I8_GROUP - (end - begin)) * sizeof *x);
    if (source->dtype != DTYPE_F8_E4M3) {
        dtype_to_f32(x, data, source->dtype, end - begin);
        return;
    }
    for (int64_t j = begin; j < end;) {
        float scale = weight_reader_scale(from->reader, source, row, j);
        int64_t next = (j / source->scale_columns + 1) * source->scale_columns;
        for (next = next < end ? next : end; j < next; j++)
            x[j - begin] = q->f8[(unsigned char)data[j - begin]] * scale;
    }
}

/* The largest |x|.  As bits, in whose order numbers are, so that the compiler makes vectors of it. */
static float largest_of(const float *x)
{
    int32_t bits[WEIGHT_I8_GROUP], largest = 0;
    float value;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < WEIGHT_I8_GROUP; i++) {
        int32_t magnitude = bits[i] & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    memcpy(&value, &largest, sizeof value);
    return value;
}

/* number[WEIGHT_I8_GROUP] = the rounded group + 128; returns its scale */
static float round_group(uint8_t *number, const float *x)
{
    float m = largest_of(x), shifted[WEIGHT_I8_GROUP];
    int32_t bits[WEIGHT_I8_GROUP];
    int is_zero = m < 0x1p-100f;
    float factor = is_zero ? 0.0f : 127.0f / m;
    for (int i = 0; i < WEIGHT_I8_GROUP; i++)
        shifted[i] = x[i] * factor + 0x1.8p23f; /* the sum rounds; its low bits are the integer */
    memcpy(bits, shifted, sizeof bits);
    for (int i = 0; i < WEIGHT_I8_GROUP; i++)
        number[i] = (uint8_t)(bits[i] - 0x4b400000 + 128);
    return is_zero ? 0.0f : m / 127.0f;
}

/* One group of one row, or the part of it that the matrix has. */
static void quantize_group(struct matrix *w, int index, int64_t row, int64_t begin,
                           const struct quantizer *q, int64_t tensor_row, int64_t column)
{
    float x[WEIGHT_I8_GROUP];
    uint8_t number[WEIGHT_I8_GROUP];
    const struct span *read = &q->from->columns;
    int64_t end = column + WEIGHT_I8_GROUP < read->end ? column + WEIGHT_I8_GROUP : read->end;
    int64_t first = column > begin ? column : begin;
    int64_t last = end < begin + w->k ? end : begin + w->k;
    if (first >= last)
        return;
    widen(x, q, tensor_row, column, end);
    float scale = round_group(number, x);
    matrix_put_i8(w, index, row, first - begin, number + (first - column), last - first);
    matrix_set_scale(w, index, row, matrix_group(w, index, first - begin), scale);
}

/* The rows of a block together, so that its lines stay in the cache. */
void weight_quantize(struct matrix *w, int index, int64_t row, int64_t begin,
                     const struct weight_rows *from)
{
    struct quantizer q = {.from = from};
    int64_t n = span_size(from->rows);
    assert(w->dtype == DTYPE_I8 && from->columns.begin % WEIGHT_I8_GROUP == 0);
    for (int i = 0; i < 256 && from->source->dtype == DTYPE_F8_E4M3; i++)
        q.f8[i] = f8_e4m3_to_f32((uint8_t)i);
    for (int64_t i = 0, next; i < n; i = next) {
        next = i + MATRIX_BLOCK - (row + i) % MATRIX_BLOCK;
        next = next < n ? next : n;
        for (int64_t column = from->columns.begin; column < from->columns.end;
             column += WEIGHT_I8_GROUP)
            for (int64_t r = i; r < next; r++)
                quantize_group(w, index, row + r, begin, &q, from->rows.begin + r, column);
    }
}
