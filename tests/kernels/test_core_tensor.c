/* Rules of tensor views. */
#include "tests/kernels/kernel_test.h"

static void dense_tensors_have_the_strides_of_c(void **state)
{
    (void)state;
    float x[24];
    struct tensor t = tensor_3d(x, DTYPE_F32, 2, 3, 4);
    assert_true(t.stride[0] == 12 && t.stride[1] == 4 && t.stride[2] == 1);
    assert_true(tensor_count(&t) == 24 && tensor_is_dense(&t));
    assert_ptr_equal(tensor_f32_2(&t, 1, 2), x + 20);
}

static void parts_share_the_memory(void **state)
{
    (void)state;
    float x[24];
    struct tensor t = tensor_2d(x, DTYPE_F32, 4, 6);
    struct tensor rows = tensor_rows(&t, 1, 3), columns = tensor_columns(&rows, 2, 5);
    assert_ptr_equal(rows.data, x + 6);
    assert_true(rows.dim[0] == 2 && tensor_is_dense(&rows));
    assert_ptr_equal(columns.data, x + 8);
    assert_true(columns.dim[1] == 3 && columns.stride[0] == 6 && !tensor_is_dense(&columns));
    assert_ptr_equal(tensor_f32(&columns, 1), x + 14);
}

static void split_and_merge_undo_each_other(void **state)
{
    (void)state;
    float x[60];
    struct tensor t = tensor_2d(x, DTYPE_F32, 5, 12), wide = tensor_columns(&t, 0, 8);
    struct tensor split = tensor_split(&wide, 4), merged = tensor_merge(&split);
    assert_true(split.ndim == 3 && split.dim[1] == 2 && split.dim[2] == 4 && split.stride[0] == 12);
    assert_true(merged.ndim == 2 && merged.dim[1] == 8 && merged.stride[0] == 12);
    assert_ptr_equal(tensor_f32_2(&split, 3, 1), x + 40);
}

static void views_of_nothing_stay_nothing(void **state)
{
    (void)state;
    struct tensor t = tensor_2d(NULL, DTYPE_BF16, 0, 8);
    struct tensor rows = tensor_rows(&t, 0, 0), columns = tensor_columns(&t, 3, 8);
    assert_null(rows.data);
    assert_null(columns.data);
    assert_true(tensor_count(&t) == 0 && tensor_is_dense(&t));
}

static void a_wrong_shape_is_named_with_the_right_one(void **state)
{
    (void)state;
    struct tensor t = tensor_2d(NULL, DTYPE_F32, 3, 4);
    assert_ok(tensor_expect(&t, "q", 2, (const int64_t[]){3, 4}));
    assert_int_equal(tensor_expect(&t, "q", 2, (const int64_t[]){3, 5}), STATUS_INVALID);
    assert_non_null(strstr(status_text(), "q has shape [3, 4], expected [3, 5]"));
    assert_int_equal(tensor_expect(&t, "q", 1, (const int64_t[]){3}), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_tensors_have_the_strides_of_c),
        cmocka_unit_test(parts_share_the_memory),
        cmocka_unit_test(split_and_merge_undo_each_other),
        cmocka_unit_test(views_of_nothing_stay_nothing),
        cmocka_unit_test(a_wrong_shape_is_named_with_the_right_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
