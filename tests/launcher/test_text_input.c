/* Lists of ids as users type them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "launcher/text_input.h"

static void expect_ids(const char *text, int64_t count, const int32_t *expected)
{
    struct token_list ids = {.id = NULL};
    assert_int_equal(text_input_ids(&ids, text, strlen(text), "--ids"), STATUS_OK);
    assert_int_equal(ids.count, count);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(ids.id[i], expected[i]);
    token_list_free(&ids);
}

static void blanks_around_numbers_do_not_matter(void **state)
{
    const int32_t three[] = {1, 20, 2147483647};
    (void)state;
    expect_ids("", 0, three);
    expect_ids(" \n", 0, three);
    expect_ids("1", 1, three);
    expect_ids("1,20,2147483647\n", 3, three);
    expect_ids(" 1 ,\t20,\r\n2147483647", 3, three);
}

static void anything_else_is_refused_with_its_place(void **state)
{
    static const char *const bad[][2] = {
        {"1,,2", "id 1"},       {",1", "id 0"},  {"1,", "last comma"},
        {"1 2", "after id 0"},  {"-1", "id 0"},  {"1,x", "'x'"},
        {"2147483648", "id 0"}, {"1.5", "'.5'"}, {"99999999999999999999999", "id 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct token_list ids = {.id = NULL};
        assert_int_equal(text_input_ids(&ids, bad[i][0], strlen(bad[i][0]), "--ids"), STATUS_USAGE);
        assert_non_null(strstr(status_text(), "--ids: "));
        if (strstr(status_text(), bad[i][1]) == NULL)
            fail_msg("'%s' gave '%s', expected '%s'", bad[i][0], status_text(), bad[i][1]);
        token_list_free(&ids);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blanks_around_numbers_do_not_matter),
        cmocka_unit_test(anything_else_is_refused_with_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
