/* rope.c - rotary positions on pairs (2j, 2j + 1), from a table of cosines and sines. */
#include "kernels/cpu/tables.h"

#include <assert.h>

/* y may be x. */
static void rotate(float *y, const float *x, const float *cos_sin, int64_t d_r)
{
    for (int64_t i = 0; i < d_r; i += 2) {
        float even = x[i], odd = x[i + 1];
        y[i] = even * cos_sin[i] - odd * cos_sin[i + 1];
        y[i + 1] = even * cos_sin[i + 1] + odd * cos_sin[i];
    }
}

enum status ISA(rope)(struct tensor *y, const struct tensor *x, const struct tensor *position,
                      const struct tensor *cos_sin, struct stream *stream)
{
    (void)stream;
    int64_t d_r = x->dim[2];
    assert(x->ndim == 3 && position->dim[0] == x->dim[0] && d_r % 2 == 0);
    assert(y->ndim == 3 && y->dim[0] == x->dim[0] && y->dim[1] == x->dim[1] && y->dim[2] == d_r);
    assert(cos_sin->ndim == 2 && cos_sin->dim[1] == d_r);
    for (int64_t t = 0; t < x->dim[0]; t++) {
        int32_t at = tensor_i32(position)[t];
        if (at < 0 || at >= cos_sin->dim[0])
            FAIL(STATUS_INVALID, "token %lld stands at position %d of %lld positions", (long long)t,
                 at, (long long)cos_sin->dim[0]);
        for (int64_t h = 0; h < x->dim[1]; h++)
            rotate(tensor_f32_2(y, t, h), tensor_f32_2(x, t, h), tensor_f32(cos_sin, at), d_r);
    }
    return STATUS_OK;
}
