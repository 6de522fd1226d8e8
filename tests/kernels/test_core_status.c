/* Rules of failures: one text from where the cause is known, call sites above it. */
#include "tests/kernels/kernel_test.h"

static enum status innermost(int value)
{
    if (value > 3)
        FAIL(STATUS_INVALID, "value %d, expected at most 3", value);
    return STATUS_OK;
}

static enum status outer(int value)
{
    TRY(innermost(value));
    return STATUS_OK;
}

static enum status with_cleanup(int value, int *cleaned)
{
    enum status status = STATUS_OK;
    TRY_GOTO(status, end, innermost(value));
end:
    *cleaned = 1;
    return status;
}

static void the_text_names_the_cause_and_frames_the_way(void **state)
{
    (void)state;
    assert_ok(outer(3));
    assert_int_equal(outer(4), STATUS_INVALID);
    assert_string_equal(status_text(), "value 4, expected at most 3");
    const char *inner = strstr(status_frames(), "failed"),
               *way = strstr(status_frames(), "innermost");
    assert_true(inner != NULL && way != NULL && inner < way);
}

static void cleanup_runs_and_the_code_stays(void **state)
{
    (void)state;
    int cleaned = 0;
    assert_int_equal(with_cleanup(9, &cleaned), STATUS_INVALID);
    assert_true(cleaned);
}

static void a_prefix_tells_what_the_failure_is_about(void **state)
{
    (void)state;
    assert_int_equal(status_prefix(outer(5), "config.json"), STATUS_INVALID);
    assert_string_equal(status_text(), "config.json: value 5, expected at most 3");
}

static void the_text_is_one_line_of_bounded_length(void **state)
{
    (void)state;
    static char big[3 * STATUS_TEXT_MAX];
    memset(big, 'x', sizeof big - 1);
    status_set_text("two\nlines\x1b[0m");
    assert_string_equal(status_text(), "two lines [0m");
    status_set_text(big);
    assert_true(strlen(status_text()) < STATUS_TEXT_MAX);
    assert_int_equal(status_prefix(STATUS_IO, "%s", big), STATUS_IO);
    assert_true(strlen(status_text()) < STATUS_TEXT_MAX);
    for (int i = 0; i < 2000; i++) /* frames stop growing, too */
        status_trace(STATUS_IO, "file.c", i, "call");
    status_clear();
    assert_string_equal(status_text(), "");
    assert_string_equal(status_frames(), "");
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    for (int code = STATUS_OK; code <= STATUS_TIMEOUT; code++)
        assert_non_null(status_name((enum status)code));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_text_names_the_cause_and_frames_the_way),
        cmocka_unit_test(cleanup_runs_and_the_code_stays),
        cmocka_unit_test(a_prefix_tells_what_the_failure_is_about),
        cmocka_unit_test(the_text_is_one_line_of_bounded_length),
        cmocka_unit_test(every_code_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
