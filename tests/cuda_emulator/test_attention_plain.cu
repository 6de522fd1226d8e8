/* test_attention_plain.cu - latent attention of any shape against the CPU's, which sums in another order. */
// sources: kernels/core/*.c kernels/cpu/*.c kernels/cuda/attention_plain.cu
#include "tests/cuda_emulator/reference.h"

#include "kernels/cuda/attention_plain.h"

enum { TOKENS = 5, SEQUENCES = 3, MAX_PAGES = 4, PAGES = 12 };

static void check_shape(int heads, int d_c, int d_r, enum dtype dtype)
{
    static const int32_t table[SEQUENCES][MAX_PAGES] = {
        {3, 7, 0, 5}, {1, -1, 2, 9}, {-1, 11, 4, 6}};
    static const int32_t seq_of[TOKENS] = {0, 1, 2, 0, 2},
                         position[TOKENS] = {0, 200, 63, 140, 150};
    const int64_t width = d_c + d_r, row = cache_row_width(dtype, d_c, d_r),
                  numbers = PAGES * PAGE_ROWS * row;
    uint64_t seed = 3;
    float *q = random_floats(TOKENS * heads * width, 1);
    char *rows = host_new<char>(numbers * 4);
    for (int64_t i = 0; i < PAGES * PAGE_ROWS; i++) {
        float *x = host_new<float>(width);
        for (int64_t j = 0; j < width; j++)
            x[j] = random_float(&seed);
        if (dtype == DTYPE_U8) {
            uint8_t *to = (uint8_t *)rows + i * row;
            float *scales = (float *)(to + d_c);
            for (int64_t g = 0; g * CACHE_SCALE_STEP < d_c; g++)
                scales[g] = 0.01f * (float)(g + 1);
            dtype_from_f32(to, DTYPE_F8_E4M3, x, d_c);
            dtype_from_f32(to + row - 2 * d_r, DTYPE_BF16, x + d_c, d_r);
        } else {
            dtype_from_f32(rows + i * row * (int64_t)dtype_bytes(dtype), dtype, x, width);
        }
    }
    const int64_t queries = TOKENS * heads, bytes = numbers * (int64_t)dtype_bytes(dtype);
    struct cuda_attention_plain p = {};
    p.o = device_new<float>(queries * d_c);
    p.m = device_new<float>(queries);
    p.l = device_new<float>(queries);
    p.q = device_copy(q, queries * width);
    p.rows = device_copy(rows, bytes);
    p.table = device_copy(table[0], SEQUENCES * MAX_PAGES);
    p.seq_of = device_copy(seq_of, TOKENS);
    p.position = device_copy(position, TOKENS);
    p.tokens = TOKENS;
    p.heads = heads;
    p.d_c = d_c;
    p.d_r = d_r;
    p.q_token_stride = heads * width;
    p.q_head_stride = width;
    p.row_stride = row;
    p.table_stride = MAX_PAGES;
    p.dtype = dtype;
    p.scale = 0.3f;
    CUDA((cudaError_t)cuda_attention_plain(&p, 0));
    float *o = host_new<float>(queries * d_c), *m = host_new<float>(queries),
          *l = host_new<float>(queries);
    host_copy(o, p.o, queries * d_c);
    host_copy(m, p.m, queries);
    host_copy(l, p.l, queries);

    float *expected_o = host_new<float>(queries * d_c), *expected_m = host_new<float>(queries);
    float *expected_l = host_new<float>(queries);
    struct attention_state state = {tensor_3d(expected_o, DTYPE_F32, TOKENS, heads, d_c),
                                    tensor_2d(expected_m, DTYPE_F32, TOKENS, heads),
                                    tensor_2d(expected_l, DTYPE_F32, TOKENS, heads)};
    struct tensor tq = tensor_3d(q, DTYPE_F32, TOKENS, heads, width);
    int32_t tables[SEQUENCES][MAX_PAGES], sequences[TOKENS], positions[TOKENS];
    memcpy(tables, table, sizeof tables);
    memcpy(sequences, seq_of, sizeof sequences);
    memcpy(positions, position, sizeof positions);
    struct page_view view = {};
    view.rows = tensor_3d(rows, dtype, PAGES, PAGE_ROWS, row);
    view.table = tensor_2d(tables, DTYPE_I32, SEQUENCES, MAX_PAGES);
    view.seq_of = tensor_1d(sequences, DTYPE_I32, TOKENS);
    view.position = tensor_1d(positions, DTYPE_I32, TOKENS);
    view.d_c = d_c;
    view.d_r = d_r;
    expect_ok(reference()->latent_attention(&state, &tq, &view, p.scale, NULL));
    for (int64_t i = 0; i < queries; i++) {
        /* a state may be taken against any m: compare what it stands for */
        bool is_empty = expected_l[i] == 0;
        check(is_empty == (l[i] == 0), "query %lld: l %g, expected %g", (long long)i, (double)l[i],
              (double)expected_l[i]);
        if (is_empty)
            continue;
        double lse = (double)m[i] + log((double)l[i]),
               expected = (double)expected_m[i] + log((double)expected_l[i]);
        check(fabs(lse - expected) <= 1e-5 * (1 + fabs(expected)),
              "query %lld: lse %.8g, expected %.8g", (long long)i, lse, expected);
        for (int64_t j = 0; j < d_c; j++) {
            double found = (double)o[i * d_c + j] / (double)l[i];
            double wanted = (double)expected_o[i * d_c + j] / (double)expected_l[i];
            check(fabs(found - wanted) <= 2e-5 * (1 + fabs(wanted)),
                  "query %lld, column %lld: %.8g, expected %.8g", (long long)i, (long long)j, found,
                  wanted);
        }
    }
}

static void check_type(enum dtype dtype)
{
    check_shape(2, 32, 8, dtype);
    check_shape(3, 160, 16, dtype);
    check_shape(1, 512, 64, dtype);
}

static void f32()
{
    check_type(DTYPE_F32);
}

static void bf16()
{
    check_type(DTYPE_BF16);
}

static void fp8_ds_mla()
{
    check_type(DTYPE_U8);
}

int main()
{
    static const struct check_group groups[] = {
        {"f32", f32}, {"bf16", bf16}, {"fp8_ds_mla", fp8_ds_mla}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
