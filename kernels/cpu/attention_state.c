/* attention_state.c - merging unfinished softmaxes, and finishing them.
 *
 * o, m and l are those of struct attention_state.  With m = max(m_a, m_b):
 *     l = exp(m_a - m) l_a + exp(m_b - m) l_b, and o likewise.
 * This is the only place where they meet, so that pieces, units and ranks all
 * merge with the same bits.
 */
#include "kernels/cpu/attention_piece.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

void ISA(merge_one)(float *a_o, float *a_m, float *a_l, const float *b_o, float b_m, float b_l,
                    int64_t width)
{
    if (b_m == -INFINITY)
        return;
    if (*a_m == -INFINITY) {
        memcpy(a_o, b_o, (size_t)width * sizeof *a_o);
        *a_m = b_m;
        *a_l = b_l;
        return;
    }
    float m = *a_m > b_m ? *a_m : b_m;
    float a_factor = exp_f32(*a_m - m), b_factor = exp_f32(b_m - m);
    struct lanes fa = lanes_splat(a_factor), fb = lanes_splat(b_factor);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        lanes_store(a_o + i,
                    lanes_fma(lanes_load(b_o + i), fb, lanes_mul(lanes_load(a_o + i), fa)));
    for (; i < width; i++)
        a_o[i] = fmaf(b_o[i], b_factor, a_o[i] * a_factor);
    *a_l = fmaf(b_l, b_factor, *a_l * a_factor);
    *a_m = m;
}

void ISA(partial_merge)(struct partial *a, const struct partial *b, int count, int64_t width)
{
    for (int i = 0; i < count; i++)
        ISA(merge_one)
    (a->o + i * width, &a->m[i], &a->l[i], b->o + i * width, b->m[i], b->l[i], width);
}

enum status ISA(merge_partials)(struct attention_state *a, const struct attention_state *b,
                                struct stream *stream)
{
    (void)stream;
    assert(a->o.ndim == 3 && b->o.ndim == 3 && a->m.ndim == 2 && a->l.ndim == 2);
    for (int i = 0; i < 3; i++)
        assert(a->o.dim[i] == b->o.dim[i]);
    for (int64_t t = 0; t < a->o.dim[0]; t++)
        for (int64_t h = 0; h < a->o.dim[1]; h++)
            ISA(merge_one)
    (tensor_f32_2(&a->o, t, h), tensor_f32_2(&a->m, t, h), tensor_f32_2(&a->l, t, h),
     tensor_f32_2(&b->o, t, h), *tensor_f32_2(&b->m, t, h), *tensor_f32_2(&b->l, t, h),
     a->o.dim[2]);
    return STATUS_OK;
}

enum status ISA(attention_finish)(struct tensor *o, const struct attention_state *state,
                                  struct stream *stream)
{
    (void)stream;
    assert(o->ndim == 3 && state->o.ndim == 3 && o->dim[0] == state->o.dim[0]);
    assert(o->dim[1] == state->o.dim[1] && o->dim[2] == state->o.dim[2]);
    for (int64_t t = 0; t < o->dim[0]; t++) {
        for (int64_t h = 0; h < o->dim[1]; h++) {
            const float *from = tensor_f32_2(&state->o, t, h);
            float *to = tensor_f32_2(o, t, h);
            int is_empty = *tensor_f32_2(&state->m, t, h) == -INFINITY;
            float l = *tensor_f32_2(&state->l, t, h);
            for (int64_t i = 0; i < o->dim[2]; i++)
                to[i] = is_empty ? 0.0f : from[i] / l;
        }
    }
    return STATUS_OK;
}
