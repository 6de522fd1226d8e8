/* Rules of weights that are rounded to 8 bits while they are loaded. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/weight_quantize.h"
#include "tests/random.h"

enum { N = 21, WIDTH = 700, SCALE_ROWS = 5, SCALE_COLUMNS = 48 };

/* A tensor [N, WIDTH]: as stored, and what it stands for. */
struct tensor_rows {
    struct weight_source source;
    struct weight_reader reader;
    char stored[N * WIDTH * 4];
    float scale[(N / SCALE_ROWS + 1) * (WIDTH / SCALE_COLUMNS + 1)];
    float value[N * WIDTH];
};

/* `size` multiplies row r by size^r, so that rows reach from tiny to huge. */
static struct tensor_rows *rows_open(enum dtype dtype, float size, uint64_t seed)
{
    struct tensor_rows *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->source.dtype = dtype;
    for (int i = 0; i < N * WIDTH; i++)
        t->value[i] = ((float)(random_bits(&seed) >> 40) * 0x1p-23f - 1.0f) *
                      powf(size, (float)(i / WIDTH - N / 2));
    for (int i = 3 * WIDTH + 128; i < 3 * WIDTH + 256; i++)
        t->value[i] = 0.0f; /* a group of zeros */
    dtype_from_f32(t->stored, dtype, t->value, N * WIDTH);
    dtype_to_f32(t->value, t->stored, dtype, N * WIDTH);
    if (dtype != DTYPE_F8_E4M3)
        return t;
    t->source.scale_rows = SCALE_ROWS;
    t->source.scale_columns = SCALE_COLUMNS;
    t->reader.scale = t->scale;
    t->reader.n_scale_columns = WIDTH / SCALE_COLUMNS + 1;
    for (size_t i = 0; i < sizeof t->scale / sizeof t->scale[0]; i++)
        t->scale[i] = ldexpf(1.0f + (float)(random_bits(&seed) % 8) / 8, (int)(i % 7) - 3);
    for (int i = 0; i < N * WIDTH; i++)
        t->value[i] *= t->scale[i / WIDTH / SCALE_ROWS * (WIDTH / SCALE_COLUMNS + 1) +
                                i % WIDTH / SCALE_COLUMNS];
    return t;
}

/* Columns [begin, end) of all rows in 8 bits, from the columns that weight_i8_columns says, in two
 * parts of rows. */
static struct matrix rounded(const struct tensor_rows *t, int64_t begin, int64_t end)
{
    struct matrix w = {.dtype = DTYPE_I8,
                       .count = 1,
                       .n = N,
                       .k = end - begin,
                       .units = units_whole(end - begin),
                       .scales = weight_i8_scales(begin)};
    const struct span columns = {begin, end}, read = weight_i8_columns(&columns, WIDTH);
    size_t bytes = dtype_bytes(t->source.dtype), row_bytes = (size_t)span_size(read) * bytes;
    char *data = malloc(N * row_bytes);
    w.data = calloc(matrix_bytes(&w), 1);
    w.scales.data = calloc(matrix_scale_bytes(&w), 1);
    assert_true(data && w.data && w.scales.data);
    for (int r = 0; r < N; r++)
        memcpy(data + (size_t)r * row_bytes, t->stored + (size_t)(r * WIDTH + read.begin) * bytes,
               row_bytes);
    for (int64_t r = 0, next = 7; r < N; r = next, next = N) {
        const struct weight_rows rows = {.data = data + (size_t)r * row_bytes,
                                         .source = &t->source,
                                         .reader = &t->reader,
                                         .rows = {r, next},
                                         .columns = read};
        weight_quantize(&w, 0, r, begin, &rows);
    }
    free(data);
    return w;
}

static void matrix_free(struct matrix *w)
{
    free(w->data);
    free(w->scales.data);
}

/* As the table of matrix.h says: lines [16][4], those of two blocks by turns, the last alone if odd. */
static int number_at(const struct matrix *w, int64_t row, int64_t j)
{
    int64_t block = row / 16, lines = (w->k + 3) / 4, pair = block / 2 * 2;
    int64_t in_pair = pair + 1 < (w->n + 15) / 16 ? 2 : 1;
    int64_t line = pair * lines + j / 4 * in_pair + block - pair;
    return ((const unsigned char *)w->data)[line * 64 + row % 16 * 4 + j % 4] - 128;
}

static float scale_at(const struct matrix *w, int64_t row, int64_t j)
{
    int64_t group = (w->scales.first + j) / 128;
    return ((const float *)w->scales.data)[(row / 16 * matrix_groups(w) + group) * 16 + row % 16];
}

static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3};

static void no_weight_is_off_by_more_than_half_a_step(void **state)
{
    (void)state;
    for (int d = 0; d < 4; d++) {
        for (int spread = 0; spread < 3; spread++) {
            static const float sizes[] = {1.0f, 1.5f, 500.0f};
            if (spread == 2 && d != 0 && d != 2)
                continue; /* f16 and e4m3 have no such numbers */
            struct tensor_rows *t = rows_open(types[d], sizes[spread], (uint64_t)d);
            struct matrix w = rounded(t, 0, WIDTH);
            for (int64_t r = 0; r < N; r++) {
                for (int64_t j = 0; j < WIDTH; j++) {
                    double scale = (double)scale_at(&w, r, j),
                           value = (double)t->value[r * WIDTH + j];
                    double error = fabs(value - number_at(&w, r, j) * scale);
                    if (!(error <= scale * 0.5 * (1 + 1e-4) + 0x1p-100))
                        fail_msg("row %lld, column %lld: %g is off by %g, a step is %g",
                                 (long long)r, (long long)j, value, error, scale);
                    assert_true(abs(number_at(&w, r, j)) <= 127);
                }
            }
            matrix_free(&w);
            free(t);
        }
    }
}

/* The scale is that of the largest number of the row's 128 columns, which has 127 or -127. */
static void every_row_and_128_columns_have_the_scale_of_their_largest(void **state)
{
    (void)state;
    for (int d = 0; d < 4; d++) {
        struct tensor_rows *t = rows_open(types[d], 1.2f, 10 + (uint64_t)d);
        struct matrix w = rounded(t, 0, WIDTH);
        for (int64_t r = 0; r < N; r++) {
            for (int64_t begin = 0; begin < WIDTH; begin += 128) {
                float largest = 0.0f;
                int number = 0;
                for (int64_t j = begin; j < begin + 128 && j < WIDTH; j++) {
                    largest = fmaxf(largest, fabsf(t->value[r * WIDTH + j]));
                    number = abs(number_at(&w, r, j)) > number ? abs(number_at(&w, r, j)) : number;
                }
                assert_true(scale_at(&w, r, begin) == largest / 127.0f);
                assert_int_equal(number, largest > 0 ? 127 : 0);
            }
        }
        assert_true(scale_at(&w, 3, 128) == 0.0f && number_at(&w, 3, 200) == 0);
        matrix_free(&w);
        free(t);
    }
}

/* What a rank holds is what one rank alone holds, wherever its columns begin and end. */
static void a_slice_has_the_numbers_of_the_whole(void **state)
{
    (void)state;
    static const int64_t cuts[][2] = {{0, 1},     {0, 130},   {3, 126},   {5, 300},  {127, 129},
                                      {128, 256}, {255, 700}, {350, 525}, {690, 700}};
    for (int d = 0; d < 4; d++) {
        struct tensor_rows *t = rows_open(types[d], 1.2f, 20 + (uint64_t)d);
        struct matrix whole = rounded(t, 0, WIDTH);
        for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
            int64_t begin = cuts[c][0];
            struct matrix part = rounded(t, begin, cuts[c][1]);
            for (int64_t r = 0; r < N; r++) {
                for (int64_t j = 0; j < part.k; j++) {
                    assert_int_equal(number_at(&part, r, j), number_at(&whole, r, begin + j));
                    assert_true(scale_at(&part, r, j) == scale_at(&whole, r, begin + j));
                }
            }
            matrix_free(&part);
        }
        matrix_free(&whole);
        free(t);
    }
}

static void norms_router_embedding_latent_and_int4_stay(void **state)
{
    (void)state;
    static const enum weight_field stay[] = {WEIGHT_EMBEDDING, WEIGHT_ROUTER, WEIGHT_UKV};
    struct weight_item item = {.field = WEIGHT_O, .ndim = 2, .dim = {64, 64}};
    struct weight_source source = {.dtype = DTYPE_BF16};
    assert_int_equal(weight_resident_dtype(&item, &source, 1), DTYPE_I8);
    assert_int_equal(weight_resident_dtype(&item, &source, 0), DTYPE_BF16);
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++) {
        item.field = stay[i];
        assert_int_equal(weight_resident_dtype(&item, &source, 1), DTYPE_BF16);
    }
    item = (struct weight_item){.field = WEIGHT_FINAL_GAIN, .ndim = 1, .dim = {64}};
    assert_int_equal(weight_resident_dtype(&item, &source, 1), DTYPE_BF16);
    item = (struct weight_item){.field = WEIGHT_EXPERT_UP, .ndim = 2, .dim = {64, 64}};
    source.dtype = DTYPE_F8_E4M3;
    assert_int_equal(weight_resident_dtype(&item, &source, 1), DTYPE_I8);
    source.dtype = DTYPE_I4;
    assert_int_equal(weight_resident_dtype(&item, &source, 1), DTYPE_I4);
}

static void bytes_are_a_number_and_its_part_of_a_scale(void **state)
{
    (void)state;
    const struct span rows = {3, 10}, none = {5, 5};
    for (int64_t begin = 0; begin < 300; begin += 50) {
        for (int64_t end = begin + 1; end < 700; end += 60) {
            const struct span columns = {begin, end};
            int64_t groups = 0;
            for (int64_t j = begin; j < end; j++)
                groups += j == begin || j % 128 == 0;
            assert_int_equal(weight_i8_bytes(&rows, &columns), 7 * (end - begin + 4 * groups));
            assert_int_equal(weight_i8_bytes(&none, &columns), 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_weight_is_off_by_more_than_half_a_step),
        cmocka_unit_test(every_row_and_128_columns_have_the_scale_of_their_largest),
        cmocka_unit_test(a_slice_has_the_numbers_of_the_whole),
        cmocka_unit_test(norms_router_embedding_latent_and_int4_stay),
        cmocka_unit_test(bytes_are_a_number_and_its_part_of_a_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
