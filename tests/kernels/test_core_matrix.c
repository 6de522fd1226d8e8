/* Rules of packed weights and of reduction units. */
#include "tests/kernels/kernel_test.h"

static void units_cover_every_item_once(void **state)
{
    (void)state;
    for (int64_t n = 0; n < 70; n++) {
        assert_int_equal(unit_begin(0, n), 0);
        assert_int_equal(unit_begin(UNITS, n), n);
        for (int u = 0; u < UNITS; u++)
            assert_true(unit_begin(u, n) <= unit_begin(u + 1, n));
    }
}

static void units_of_a_span_are_the_global_ones_clamped(void **state)
{
    (void)state;
    struct units units = units_of_span(16, 4, 10, 3); /* items 4..9, 3 columns each; 2 a unit */
    static const int64_t expected[UNITS + 1] = {0, 0, 0, 6, 12, 18, 18, 18, 18};
    for (int u = 0; u <= UNITS; u++)
        assert_int_equal(units.begin[u], expected[u]);
    units = units_whole(5);
    assert_int_equal(units.begin[0], 0);
    for (int u = 1; u <= UNITS; u++)
        assert_int_equal(units.begin[u], 5);
}

/* The columns and bytes of a word of each type, as the table of matrix.h has them. */
static const struct {
    enum dtype dtype;
    int columns, bytes;
} words[] = {{DTYPE_F32, 1, 4},     {DTYPE_F16, 1, 2}, {DTYPE_BF16, 2, 4},
             {DTYPE_F8_E4M3, 4, 4}, {DTYPE_I8, 4, 4},  {DTYPE_I4, 8, 4}};
enum { N_WORDS = sizeof words / sizeof words[0] };

static void a_line_has_a_word_of_each_of_16_rows_and_lines_of_four_blocks_take_turns(void **state)
{
    (void)state;
    /* A bundle of four blocks and one of two, or three of two. */
    enum { COUNT = 2, N = 83, BLOCKS = 6 };
    for (int t = 0; t < N_WORDS; t++) {
        for (int64_t k = 1; k < 20; k++) {
            struct weights w = weights_open(words[t].dtype, COUNT, N, k, 1);
            int columns = words[t].columns, line_bytes = MATRIX_BLOCK * words[t].bytes;
            int64_t lines = (k + columns - 1) / columns, block_bytes = lines * line_bytes;
            assert_int_equal(matrix_block_bytes(&w.matrix), block_bytes);
            assert_int_equal(matrix_bytes(&w.matrix), COUNT * BLOCKS * block_bytes);
            unsigned char *expected = calloc(matrix_bytes(&w.matrix), 1);
            assert_non_null(expected);
            for (int64_t i = 0; i < COUNT * N * k; i++) {
                int64_t c = i / k / N, r = i / k % N, j = i % k;
                int64_t bits = words[t].bytes * 8 / columns, block = r / 16;
                int64_t bundle = words[t].dtype == DTYPE_I8 || block >= 4 ? 2 : 4;
                int64_t first = block / bundle * bundle;
                int64_t line = first * lines + j / columns * bundle + block - first;
                unsigned char *word = expected + c * BLOCKS * block_bytes + line * line_bytes +
                                      r % 16 * words[t].bytes;
                if (words[t].dtype == DTYPE_I4)
                    word[j % 8 / 2] |= (unsigned char)(w.stored[i] << (j % 2 * 4));
                else
                    memcpy(word + j % columns * bits / 8, w.stored + i * bits / 8,
                           (size_t)bits / 8);
            }
            assert_memory_equal(w.matrix.data, expected, matrix_bytes(&w.matrix));
            assert_ptr_equal(matrix_at(&w.matrix, 1).data,
                             (char *)w.matrix.data + BLOCKS * block_bytes);
            free(expected);
            weights_close(&w);
        }
    }
}

/* Every type, any first row and any number of rows; the transpose too. */
static void rows_in_parts_and_the_transpose_pack_to_the_same(void **state)
{
    (void)state;
    static const enum dtype types[] = {DTYPE_F32,     DTYPE_F16, DTYPE_BF16,
                                       DTYPE_F8_E4M3, DTYPE_I8,  DTYPE_I4};
    enum { N = 37, K = 27 };
    for (int d = 0; d < 6; d++) {
        struct weights w = weights_open(types[d], 1, N, K, (uint64_t)d);
        size_t bytes = stored_bytes(types[d]);
        char transposed[N * K * 4];
        for (int r = 0; r < N; r++)
            for (int j = 0; j < K; j++)
                memcpy(transposed + (size_t)(j * N + r) * bytes,
                       w.stored + (size_t)(r * K + j) * bytes, bytes);
        for (int first = 1; first < N; first++) {
            struct matrix parts = w.matrix;
            parts.data = calloc(matrix_bytes(&w.matrix), 1);
            assert_non_null(parts.data);
            matrix_pack(&parts, 0, 0, first, w.stored, K);
            matrix_pack(&parts, 0, first, N - first, w.stored + (size_t)(first * K) * bytes, K);
            assert_memory_equal(parts.data, w.matrix.data, matrix_bytes(&w.matrix));
            free(parts.data);
        }
        if (types[d] != DTYPE_I4) {
            struct matrix turned = w.matrix;
            turned.data = calloc(matrix_bytes(&w.matrix), 1);
            assert_non_null(turned.data);
            matrix_pack_transposed(&turned, 0, transposed, N);
            assert_memory_equal(turned.data, w.matrix.data, matrix_bytes(&w.matrix));
            free(turned.data);
        }
        weights_close(&w);
    }
}

/* One such number anywhere, of rows that are packed together and of those that are left over. */
static void packing_tells_of_nan_and_infinity(void **state)
{
    (void)state;
    enum { N = 21, K = 29 };
    static const struct {
        enum dtype dtype;
        uint32_t largest, bad[3]; /* bits */
    } types[] = {{DTYPE_F32, 0x7f7fffffu, {0x7f800000u, 0xff800000u, 0x7fc00001u}},
                 {DTYPE_F16, 0x7bffu, {0x7c00u, 0xfc00u, 0x7e01u}},
                 {DTYPE_BF16, 0x7f7fu, {0x7f80u, 0xff80u, 0x7fc1u}},
                 {DTYPE_F8_E4M3, 0xfeu, {0x7fu, 0xffu, 0x7fu}}};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        struct weights w = weights_open(types[t].dtype, 1, N, K, t);
        size_t bytes = stored_bytes(types[t].dtype);
        char source[N * K * 4];
        for (int i = 0; i < N * K; i++)
            memcpy(source + (size_t)i * bytes, &types[t].largest, bytes);
        assert_true(matrix_pack(&w.matrix, 0, 0, N, source, K));
        for (int i = 0; i < N * K; i++) {
            memcpy(source + (size_t)i * bytes, &types[t].bad[i % 3], bytes);
            for (int first = 0; first < 4; first++) /* 2 and 4 rows are packed together */
                assert_int_equal(matrix_pack(&w.matrix, 0, first, N - first,
                                             source + (size_t)(first * K) * bytes, K),
                                 i < first * K);
            memcpy(source + (size_t)i * bytes, &types[t].largest, bytes);
        }
        weights_close(&w);
    }
}

/* Slices that begin inside a group, a different place in each matrix of the set. */
static void a_column_finds_the_scale_of_its_group(void **state)
{
    (void)state;
    for (int64_t step = 1; step < 40; step += 6) {
        for (int64_t k = 1; k < 90; k += 11) {
            struct matrix w = {.dtype = DTYPE_F8_E4M3, .count = 5, .n = 18, .k = k};
            w.scales = (struct matrix_scales){
                .dtype = DTYPE_F32, .step = step, .first = step / 3, .shift = step == 13 ? 26 : 10};
            w.scales.data = calloc(1, matrix_scale_bytes(&w));
            assert_non_null(w.scales.data);
            for (int i = 0; i < w.count; i++) {
                int64_t begun = (w.scales.first + i * w.scales.shift) % step;
                struct matrix one = matrix_at(&w, i);
                assert_int_equal(matrix_groups(&one), matrix_groups(&w));
                for (int64_t j = 0; j < k; j++) {
                    assert_int_equal(matrix_group(&w, i, j), (begun + j) / step);
                    assert_int_equal(matrix_group(&one, 0, j), (begun + j) / step);
                    assert_true((begun + j) / step < matrix_groups(&w));
                }
                matrix_set_scale(&w, i, 17, matrix_groups(&w) - 1, (float)(i + 1));
                const float *last =
                    (const float *)w.scales.data + ((i * 2 + 2) * matrix_groups(&w) - 1) * 16 + 1;
                assert_true(*last > (float)i && *last < (float)(i + 2));
            }
            free(w.scales.data);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_cover_every_item_once),
        cmocka_unit_test(units_of_a_span_are_the_global_ones_clamped),
        cmocka_unit_test(a_line_has_a_word_of_each_of_16_rows_and_lines_of_four_blocks_take_turns),
        cmocka_unit_test(rows_in_parts_and_the_transpose_pack_to_the_same),
        cmocka_unit_test(packing_tells_of_nan_and_infinity),
        cmocka_unit_test(a_column_finds_the_scale_of_its_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
