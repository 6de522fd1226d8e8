/* Rules of the latent cache: a row goes where the page table says and comes back rounded once. */
#include "tests/kernels/kernel_test.h"

enum { D_C = 20, D_R = 6, WIDTH = D_C + D_R, PAGES = 7, MAX_PAGES = 3, SEQUENCES = 2, T = 5 };

static int32_t table_ids[SEQUENCES * MAX_PAGES] = {4, 0, 2, 6, 1, -1};
static int32_t seq_ids[T] = {0, 0, 0, 1, 1}, positions[T] = {63, 64, 130, 0, 100};

static struct page_view view(void *rows, enum dtype dtype, int64_t tokens)
{
    return (struct page_view){.rows = tensor_3d(rows, dtype, PAGES, PAGE_ROWS, WIDTH),
                              .table = tensor_2d(table_ids, DTYPE_I32, SEQUENCES, MAX_PAGES),
                              .seq_of = tensor_1d(seq_ids, DTYPE_I32, tokens),
                              .position = tensor_1d(positions, DTYPE_I32, tokens),
                              .d_c = D_C,
                              .d_r = D_R};
}

static void rows_come_back_from_their_place_rounded_once(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int d = 0; d < 2; d++) {
        size_t row_bytes = WIDTH * dtype_bytes(dtypes[d]);
        char *rows = calloc(PAGES * PAGE_ROWS, row_bytes);
        /* as in the engine: both parts of one row of activations */
        float *x = random_floats(T * (WIDTH + 3), 1), y[WIDTH];
        struct tensor all = tensor_2d(x, DTYPE_F32, T, WIDTH + 3);
        struct tensor c_kv = tensor_columns(&all, 0, D_C), k_r = tensor_columns(&all, D_C, WIDTH);
        struct page_view pages = view(rows, dtypes[d], T);
        assert_non_null(rows);
        assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL));
        for (int t = 0; t < T; t++) {
            char stored[WIDTH * sizeof(float)];
            float expected[WIDTH];
            int page = table_ids[seq_ids[t] * MAX_PAGES + positions[t] / PAGE_ROWS];
            dtype_from_f32(stored, dtypes[d], x + t * (WIDTH + 3), WIDTH);
            dtype_to_f32(expected, stored, dtypes[d], WIDTH);
            assert_memory_equal(rows + (size_t)(page * PAGE_ROWS + positions[t] % PAGE_ROWS) *
                                           row_bytes,
                                stored, row_bytes);
            struct tensor ty = tensor_2d(y, DTYPE_F32, 1, WIDTH);
            assert_ok(cpu_ops()->cache_read(&ty, &pages, seq_ids[t], positions[t], positions[t] + 1,
                                            NULL));
            assert_same_bits(y, expected, WIDTH);
        }
        size_t written = 0;
        for (size_t i = 0; i < PAGES * PAGE_ROWS; i++)
            for (size_t j = 0; j < row_bytes; j++)
                if (rows[i * row_bytes + j] != 0) {
                    written++;
                    break;
                }
        assert_int_equal(written, T);
        free(rows);
        free(x);
    }
}

/* 150 latent numbers: two scales.  The expected bytes are written out from the format's description. */
static void fp8_rows_have_scales_behind_the_latent_and_bf16_behind_them(void **state)
{
    (void)state;
    enum { C = 150, R = 6, BYTES = C + 2 * 4 + 2 * R };
    static int32_t page[1] = {0}, seq[1] = {0}, position[1] = {5};
    unsigned char rows[PAGE_ROWS * BYTES] = {0}, *row = rows + 5 * BYTES;
    struct page_view pages = {.rows = tensor_3d(rows, DTYPE_U8, 1, PAGE_ROWS, BYTES),
                              .table = tensor_2d(page, DTYPE_I32, 1, 1),
                              .seq_of = tensor_1d(seq, DTYPE_I32, 1),
                              .position = tensor_1d(position, DTYPE_I32, 1),
                              .d_c = C,
                              .d_r = R};
    float *x = random_floats(C + R, 11), y[C + R];
    x[3] = 7.0f;
    x[140] = -3.5f;
    struct tensor all = tensor_2d(x, DTYPE_F32, 1, C + R), back = tensor_2d(y, DTYPE_F32, 1, C + R);
    struct tensor c_kv = tensor_columns(&all, 0, C), k_r = tensor_columns(&all, C, C + R);
    assert_int_equal(cache_row_width(DTYPE_U8, C, R), BYTES);
    assert_int_equal(cache_row_width(DTYPE_U8, 512, 64), 656); /* as published */
    assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL));
    assert_ok(cpu_ops()->cache_read(&back, &pages, 0, 5, 6, NULL));
    const float scale[2] = {7.0f / 448, 3.5f / 448};
    assert_memory_equal(row + C, scale, sizeof scale);
    for (int i = 0; i < C; i++) {
        float expected = (float)f8_in_double(row[i]) * scale[i / 128];
        assert_true(y[i] >= expected && y[i] <= expected);
        /* nearest of e4m3: half a step of 3 bits, or of 2^-9 where it is subnormal */
        double step = fmax(fabs((double)x[i] / (double)scale[i / 128]) / 16, ldexp(1, -10));
        assert_true(fabs((double)(x[i] - y[i])) <= step * (double)scale[i / 128] * 1.0001);
    }
    assert_true(row[3] == 0x7e && row[140] == 0xfe); /* 448 and -448 */
    for (int i = 0; i < R; i++) {
        uint16_t bits = bf16_from_f32(x[C + i]);
        assert_memory_equal(row + C + 8 + 2 * i, &bits, 2);
        assert_true(y[C + i] >= bf16_to_f32(bits) && y[C + i] <= bf16_to_f32(bits));
    }
    float zeros[C + R] = {0};
    all.data = zeros;
    c_kv = tensor_columns(&all, 0, C);
    k_r = tensor_columns(&all, C, C + R);
    assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL));
    assert_ok(cpu_ops()->cache_read(&back, &pages, 0, 5, 6, NULL));
    for (int i = 0; i < C + R; i++)
        assert_true(y[i] >= 0.0f && y[i] <= 0.0f);
    free(x);
}

static void a_range_is_read_across_pages(void **state)
{
    (void)state;
    float *rows = random_floats(PAGES * PAGE_ROWS * WIDTH, 2), *y = floats(100 * WIDTH);
    struct page_view pages = view(rows, DTYPE_F32, 0);
    struct tensor ty = tensor_2d(y, DTYPE_F32, 100, WIDTH);
    assert_ok(cpu_ops()->cache_read(&ty, &pages, 0, 50, 150, NULL));
    for (int j = 0; j < 100; j++) {
        int page = table_ids[(50 + j) / PAGE_ROWS];
        assert_same_bits(y + j * WIDTH, rows + (page * PAGE_ROWS + (50 + j) % PAGE_ROWS) * WIDTH,
                         WIDTH);
    }
    ty.dim[0] = 0;
    assert_ok(cpu_ops()->cache_read(&ty, &pages, 0, 70, 70, NULL));
    free(rows);
    free(y);
}

static void pages_of_other_ranks_are_neither_written_nor_read(void **state)
{
    (void)state;
    static int32_t elsewhere[1] = {130}, second[1] = {1};
    float *rows = random_floats(PAGES * PAGE_ROWS * WIDTH, 3), x[WIDTH] = {1};
    float *before = random_floats(PAGES * PAGE_ROWS * WIDTH, 3);
    struct page_view pages = view(rows, DTYPE_F32, 1);
    pages.position.data = elsewhere; /* page 2 of sequence 1 is -1 */
    pages.seq_of.data = second;
    struct tensor all = tensor_2d(x, DTYPE_F32, 1, WIDTH);
    struct tensor c_kv = tensor_columns(&all, 0, D_C), k_r = tensor_columns(&all, D_C, WIDTH);
    assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL));
    assert_same_bits(rows, before, PAGES * PAGE_ROWS * WIDTH);
    assert_int_equal(cpu_ops()->cache_read(&all, &pages, 1, 130, 131, NULL), STATUS_INVALID);
    free(rows);
    free(before);
}

static void a_position_past_the_page_table_is_refused(void **state)
{
    (void)state;
    static int32_t past[1] = {MAX_PAGES * PAGE_ROWS};
    float x[WIDTH] = {0};
    struct page_view pages = view(NULL, DTYPE_F32, 1);
    pages.position.data = past;
    struct tensor all = tensor_2d(x, DTYPE_F32, 1, WIDTH);
    struct tensor c_kv = tensor_columns(&all, 0, D_C), k_r = tensor_columns(&all, D_C, WIDTH);
    assert_int_equal(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL),
                     STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_from_their_place_rounded_once),
        cmocka_unit_test(fp8_rows_have_scales_behind_the_latent_and_bf16_behind_them),
        cmocka_unit_test(a_range_is_read_across_pages),
        cmocka_unit_test(pages_of_other_ranks_are_neither_written_nor_read),
        cmocka_unit_test(a_position_past_the_page_table_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
