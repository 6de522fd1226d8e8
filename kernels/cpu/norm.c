/* norm.c - RMSNorm.
 *
 * The sum of squares has 16 chains, element i in chain i mod 16, met by the
 * tree of lanes_sum: one order on every CPU.
 */
#include "kernels/cpu/tables.h"

#include <assert.h>

static float sum_of_squares(const float *x, int64_t n)
{
    struct lanes sum = lanes_zero();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        struct lanes v = lanes_load(x + i);
        sum = lanes_fma(v, v, sum);
    }
    if (i < n) {
        struct lanes v = lanes_load_part(x + i, n - i, 0.0f);
        sum = lanes_fma(v, v, sum);
    }
    return lanes_sum(sum);
}

enum status ISA(rms_norm)(struct tensor *y, const struct tensor *x, const struct tensor *gain,
                          float epsilon, struct stream *stream)
{
    (void)stream;
    int64_t n = x->dim[1];
    assert(x->ndim == 2 && y->ndim == 2 && y->dim[0] == x->dim[0] && y->dim[1] == n);
    assert(gain->ndim == 1 && gain->dim[0] == n);
    const float *g = gain->data;
    for (int64_t t = 0; t < x->dim[0]; t++) {
        const float *from = tensor_f32(x, t);
        float *to = tensor_f32(y, t);
        float factor = 1.0f / sqrtf(sum_of_squares(from, n) / (float)n + epsilon);
        for (int64_t i = 0; i < n; i++)
            to[i] = from[i] * factor * g[i];
    }
    return STATUS_OK;
}

enum status ISA(add_rms_norm)(struct tensor *y, struct tensor *x, const struct tensor *u,
                              const struct tensor *gain, float epsilon, struct stream *stream)
{
    TRY(ISA(add)(x, u, stream));
    return ISA(rms_norm)(y, x, gain, epsilon, stream);
}
