/* elementwise.c - operations whose outputs each depend on one place of the input. */
#include "kernels/cpu/math.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

enum status ISA(embed)(struct tensor *y, const struct tensor *ids, const struct tensor *table,
                       int64_t first, struct stream *stream)
{
    (void)stream;
    int64_t d = y->dim[1];
    size_t row_bytes = (size_t)table->stride[0] * dtype_bytes(table->dtype);
    assert(y->ndim == 2 && ids->dim[0] == y->dim[0] && table->ndim == 2 && table->dim[1] == d);
    for (int64_t t = 0; t < y->dim[0] && d > 0; t++) {
        int64_t row = tensor_i32(ids)[t] - first;
        float *to = tensor_f32(y, t);
        if (row < 0 || row >= table->dim[0])
            memset(to, 0, (size_t)d * sizeof *to);
        else
            dtype_to_f32(to, (const char *)table->data + (size_t)row * row_bytes, table->dtype, d);
    }
    return STATUS_OK;
}

static void add_row(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

enum status ISA(add)(struct tensor *x, const struct tensor *y, struct stream *stream)
{
    (void)stream;
    assert(x->ndim == 2 && y->ndim == 2 && x->dim[0] == y->dim[0] && x->dim[1] == y->dim[1]);
    for (int64_t t = 0; t < x->dim[0]; t++)
        add_row(tensor_f32(x, t), tensor_f32(y, t), x->dim[1]);
    return STATUS_OK;
}

enum status ISA(copy)(struct tensor *y, const struct tensor *x, struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 3 && x->ndim == 3 && x->dim[0] == y->dim[0] && x->dim[1] == y->dim[1] &&
           x->dim[2] == y->dim[2]);
    for (int64_t a = 0; a < y->dim[0]; a++)
        for (int64_t b = 0; b < y->dim[1] && y->dim[2] > 0; b++)
            memcpy(tensor_f32_2(y, a, b), tensor_f32_2(x, a, b), (size_t)y->dim[2] * sizeof(float));
    return STATUS_OK;
}

enum status ISA(add_bias)(struct tensor *x, const struct tensor *bias, struct stream *stream)
{
    (void)stream;
    assert(x->ndim == 2 && bias->dim[0] == x->dim[1]);
    for (int64_t t = 0; t < x->dim[0]; t++)
        add_row(tensor_f32(x, t), bias->data, x->dim[1]);
    return STATUS_OK;
}

void ISA(swiglu_row)(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        lanes_store(y + i, lanes_mul(lanes_silu(lanes_load(gate + i)), lanes_load(up + i)));
    if (i < n) {
        struct lanes g = lanes_load_part(gate + i, n - i, 0.0f);
        struct lanes u = lanes_load_part(up + i, n - i, 0.0f);
        lanes_store_part(y + i, n - i, lanes_mul(lanes_silu(g), u));
    }
}

enum status ISA(swiglu)(struct tensor *y, const struct tensor *gate, const struct tensor *up,
                        struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 2 && y->dim[0] == gate->dim[0] && y->dim[0] == up->dim[0]);
    assert(y->dim[1] == gate->dim[1] && y->dim[1] == up->dim[1]);
    for (int64_t t = 0; t < y->dim[0] && y->dim[1] > 0; t++)
        ISA(swiglu_row)(tensor_f32(y, t), tensor_f32(gate, t), tensor_f32(up, t), y->dim[1]);
    return STATUS_OK;
}
