/* test_experts.cu - lists of experts, their products and the weighted sum, against sums in double precision. */
// sources: kernels/core/*.c kernels/cuda/product.cu kernels/cuda/experts.cu
#include "kernels/cuda/experts.h"

#include "tests/cuda_emulator/packed.h"

struct experts_shape {
    int first, count,
        elsewhere; /* local experts [first, first + count); so many more follow them */
    int width, columns, tokens, choices;
};

static void random_choices(int *ids, const struct experts_shape *s, uint64_t *seed)
{
    for (int choice = 0; choice < s->choices; choice++) {
        bool is_new;
        do {
            ids[choice] = (int)(random_bits(seed) % (uint64_t)(s->first + s->count + s->elsewhere));
            is_new = true;
            for (int i = 0; i < choice; i++)
                is_new = is_new && ids[i] != ids[choice];
        } while (!is_new);
    }
}

/* expected[width] += weight x expert(x) */
static void add_expert(double *expected, const float *x, float weight,
                       const struct experts_shape *s, int expert, const struct packed *gate,
                       const struct packed *up, const struct packed *down)
{
    float *h = host_new<float>(s->columns);
    for (int c = 0; c < s->columns; c++) {
        int64_t at = ((int64_t)expert * s->columns + c) * s->width;
        double g = 0, u = 0;
        for (int j = 0; j < s->width; j++) {
            g += (double)rounded_bf16(x[j]) * (double)gate->value[at + j];
            u += (double)rounded_bf16(x[j]) * (double)up->value[at + j];
        }
        h[c] = rounded_bf16((float)(g / (1 + exp(-g)) * u));
    }
    for (int r = 0; r < s->width; r++) {
        const float *row = down->value + ((int64_t)expert * s->width + r) * s->columns;
        double sum = 0;
        for (int c = 0; c < s->columns; c++)
            sum += (double)h[c] * (double)row[c];
        expected[r] += (double)weight * sum;
    }
}

static void check_experts(const struct experts_shape *s, enum dtype dtype, int step)
{
    const struct packed_shape in = {dtype, s->count, s->columns, s->width, step, 0, DTYPE_F32};
    const struct packed_shape out = {dtype, s->count, s->width, s->columns, step, 0, DTYPE_F32};
    struct packed gate = random_packed(&in, 1), up = random_packed(&in, 2),
                  down = random_packed(&out, 3);
    const int pairs = s->tokens * s->choices, x_row = input_columns(s->width),
              h_row = input_columns(s->columns);
    uint64_t seed = 5;
    float *x = host_new<float>((int64_t)s->tokens * s->width), *weights = host_new<float>(pairs);
    float *u = host_new<float>((int64_t)s->tokens * s->width);
    int *ids = host_new<int>(pairs);
    for (int64_t i = 0; i < (int64_t)s->tokens * s->width; i++)
        x[i] = random_float(&seed) * 0x1p-4f;
    for (int i = 0; i < pairs; i++)
        weights[i] = random_float(&seed);
    for (int t = 0; t < s->tokens; t++)
        random_choices(ids + t * s->choices, s, &seed);

    struct cuda_expert_lists lists = {device_new<int>(s->count + 1), device_new<int>(pairs),
                                      device_new<int>(s->count), device_new<int>(1)};
    int *device_ids = device_copy(ids, pairs);
    CUDA((cudaError_t)cuda_experts_list(&lists, device_ids, pairs, s->first, s->count, 0));
    struct cuda_expert_product p = {};
    void *rounded = device_new<__nv_bfloat16>((int64_t)s->tokens * x_row),
         *h = device_new<__nv_bfloat16>((int64_t)pairs * h_row);
    CUDA((cudaError_t)cuda_round_inputs(rounded, device_copy(x, (int64_t)s->tokens * s->width),
                                        s->width, s->tokens, s->width, 0));
    p.product.w = gate.device;
    p.product.x = rounded;
    p.product.x_row = x_row;
    p.product.y = (float *)h;
    p.product.y_row = h_row;
    p.product.rows = pairs;
    p.up = up.device;
    p.expert = lists.expert;
    p.n_active = lists.n_active;
    p.begin = lists.begin;
    p.pair = lists.pair;
    p.choices = s->choices;
    p.max_active = pairs < s->count ? pairs : s->count;
    CUDA((cudaError_t)cuda_experts_gate_up(&p, 0));
    p.product.w = down.device;
    p.product.x = h;
    p.product.x_row = h_row;
    p.product.y = device_new<float>((int64_t)pairs * s->width);
    p.product.y_row = s->width;
    p.choices = 1;
    CUDA((cudaError_t)cuda_experts_down(&p, 0));
    float *device_u = device_new<float>((int64_t)s->tokens * s->width);
    CUDA((cudaError_t)cuda_experts_combine(device_u, s->width, p.product.y, device_ids,
                                           device_copy(weights, pairs), s->tokens, s->choices,
                                           s->width, s->first, s->count, 0));
    host_copy(u, device_u, (int64_t)s->tokens * s->width);

    for (int t = 0; t < s->tokens; t++) {
        double *expected = host_new<double>(s->width), difference = 0, size = 0;
        for (int r = 0; r < s->width; r++)
            expected[r] = 0;
        for (int choice = 0; choice < s->choices; choice++) {
            int expert = ids[t * s->choices + choice] - s->first;
            if (expert >= 0 && expert < s->count)
                add_expert(expected, x + (int64_t)t * s->width, weights[t * s->choices + choice], s,
                           expert, &gate, &up, &down);
        }
        for (int r = 0; r < s->width; r++) {
            double d = (double)u[(int64_t)t * s->width + r] - expected[r];
            difference += d * d;
            size += expected[r] * expected[r];
        }
        /* h on the other side of a rounding now and then: one in about 2^7 of them, by 2^-8 */
        check(sqrt(difference) <= 0x1p-11 * sqrt(size), "%s, token %d: off by %.2e of its size",
              dtype_name(dtype), t, sqrt(difference / size));
    }
}

static void check_all(enum dtype dtype, int step)
{
    static const struct experts_shape shapes[] = {{0, 8, 0, 128, 96, 5, 3},
                                                  {2, 12, 3, 200, 130, 24, 4},
                                                  {0, 3, 0, 64, 64, 40, 2},
                                                  {4, 4, 0, 64, 64, 1, 2}};
    for (const struct experts_shape &shape : shapes)
        check_experts(&shape, dtype, step);
}

static void bf16()
{
    check_all(DTYPE_BF16, 1);
}

static void f8()
{
    check_all(DTYPE_F8_E4M3, 128);
}

static void i4()
{
    check_all(DTYPE_I4, 32);
}

int main()
{
    static const struct check_group groups[] = {{"bf16", bf16}, {"f8_e4m3", f8}, {"i4", i4}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
