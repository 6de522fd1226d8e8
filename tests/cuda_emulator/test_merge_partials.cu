/* test_merge_partials.cu - merged and finished attention states have the CPU's bits. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/merge_partials.cu
#include "kernels/cuda/merge_partials.h"

#include "tests/cuda_emulator/reference.h"

enum { TOKENS = 3, HEADS = 5, PARTS_MAX = 4 };

struct states { /* [parts, TOKENS, HEADS, width] and [parts, TOKENS, HEADS] */
    float *o, *m, *l;
    int64_t width, parts;
};

/* Some are empty, in every combination: nobody reads what they hold.  Some have a NaN. */
static struct states random_states(int64_t parts, int64_t width, uint64_t seed)
{
    int64_t count = parts * TOKENS * HEADS;
    struct states s = {random_floats(count * width, seed), random_floats(count, seed + 1),
                       random_floats(count, seed + 2), width, parts};
    for (int64_t i = 0; i < count; i++) {
        s.m[i] *= 30.0f;
        s.l[i] = 1.5f + s.l[i];
        if (random_bits(&seed) % 3 == 0) {
            s.m[i] = -INFINITY;
            s.l[i] = 0.0f;
            for (int64_t j = 0; j < width; j++)
                s.o[i * width + j] = NAN;
        } else if (i % 11 == 3) {
            s.o[i * width] = s.l[i] = NAN;
        }
    }
    return s;
}

static struct attention_state host_state(const struct states *s, int64_t part)
{
    int64_t at = part * TOKENS * HEADS;
    return {tensor_3d(s->o + at * s->width, DTYPE_F32, TOKENS, HEADS, s->width),
            tensor_2d(s->m + at, DTYPE_F32, TOKENS, HEADS),
            tensor_2d(s->l + at, DTYPE_F32, TOKENS, HEADS)};
}

static struct cuda_attention_state device_state(const struct states *s)
{
    int64_t count = s->parts * TOKENS * HEADS;
    return {device_copy(s->o, count * s->width),
            device_copy(s->m, count),
            device_copy(s->l, count),
            HEADS * s->width,
            s->width,
            HEADS,
            1,
            HEADS,
            1};
}

/* x[tokens, heads] of each part, head after head. */
static float *by_head(const float *x, int64_t parts)
{
    float *y = host_new<float>(parts * TOKENS * HEADS);
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < TOKENS * HEADS; i++)
            y[part * TOKENS * HEADS + i % HEADS * TOKENS + i / HEADS] =
                x[part * TOKENS * HEADS + i];
    return y;
}

/* The same with other strides: m and l lie head after head. */
static struct cuda_attention_state device_state_by_head(const struct states *s)
{
    struct cuda_attention_state state = device_state(s);
    int64_t count = s->parts * TOKENS * HEADS;
    state.m = device_copy(by_head(s->m, s->parts), count);
    state.l = device_copy(by_head(s->l, s->parts), count);
    state.m_token_stride = state.l_token_stride = 1;
    state.m_head_stride = state.l_head_stride = TOKENS;
    return state;
}

static void check_merge(int64_t parts, int64_t width)
{
    struct states a = random_states(1, width, 10), b = random_states(parts, width, 20);
    struct cuda_attention_state device_a = device_state(&a);
    struct cuda_merge_partials p = {
        device_a, device_state_by_head(&b), TOKENS,         HEADS,         width,
        parts,    TOKENS * HEADS * width,   TOKENS * HEADS, TOKENS * HEADS};
    CUDA((cudaError_t)cuda_merge_partials(&p, 0));
    struct attention_state into = host_state(&a, 0);
    for (int64_t part = 0; part < parts; part++) {
        struct attention_state from = host_state(&b, part);
        expect_ok(reference()->merge_partials(&into, &from, NULL));
    }
    check_numbers(device_a.o, DTYPE_F32, a.o, TOKENS * HEADS * width, 0, "o");
    check_numbers(device_a.m, DTYPE_F32, a.m, TOKENS * HEADS, 0, "m");
    check_numbers(device_a.l, DTYPE_F32, a.l, TOKENS * HEADS, 0, "l");
}

static void merges()
{
    for (int64_t width : {512, 33, 0})
        for (int64_t parts = 0; parts <= PARTS_MAX; parts++)
            check_merge(parts, width);
}

static void check_finish(int64_t width, enum dtype dtype)
{
    struct states s = random_states(1, width, 30);
    int64_t head_stride = width + 2, token_stride = HEADS * head_stride + 1;
    int64_t count = TOKENS * token_stride;
    float *o = host_new<float>(count);
    void *device_o = device_new<float>(count);
    struct cuda_attention_finish p = {device_o, device_state(&s), TOKENS,      HEADS,
                                      width,    token_stride,     head_stride, dtype};
    CUDA((cudaError_t)cuda_attention_finish(&p, 0));
    struct attention_state state = host_state(&s, 0);
    struct tensor to = tensor_3d(o, DTYPE_F32, TOKENS, HEADS, width);
    to.stride[0] = token_stride;
    to.stride[1] = head_stride;
    expect_ok(reference()->attention_finish(&to, &state, NULL));
    check_numbers(device_o, dtype, o, count, 0, "finished");
}

static void finishes()
{
    for (int64_t width : {512, 33, 0}) {
        check_finish(width, DTYPE_F32);
        check_finish(width, DTYPE_BF16);
    }
}

int main()
{
    static const struct check_group groups[] = {{"merge_partials", merges},
                                                {"attention_finish", finishes}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
