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
                              .position = tensor_1d(positions, DTYPE_I32, tokens)};
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
        assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL));
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
    assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL));
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
    assert_int_equal(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_from_their_place_rounded_once),
        cmocka_unit_test(a_range_is_read_across_pages),
        cmocka_unit_test(pages_of_other_ranks_are_neither_written_nor_read),
        cmocka_unit_test(a_position_past_the_page_table_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
