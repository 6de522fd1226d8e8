/* Rules of the choice between instruction sets. */
#define _DEFAULT_SOURCE /* setenv */
#include "tests/kernels/kernel_test.h"

static enum status any_operation(void)
{
    struct tensor none = tensor_2d(NULL, DTYPE_F32, 0, 4);
    return cpu_ops.add(&none, &none, NULL);
}

static void an_unknown_instruction_set_is_refused_and_named(void **state)
{
    (void)state;
    setenv("LATENTRANK_DEBUG_ISA", "mmx", 1);
    assert_int_equal(any_operation(), STATUS_USAGE);
    assert_non_null(strstr(status_text(), "mmx"));
}

static void the_choice_is_made_once(void **state)
{
    (void)state;
    setenv("LATENTRANK_DEBUG_ISA", "plain", 1);
    assert_ok(any_operation());
    setenv("LATENTRANK_DEBUG_ISA", "mmx", 1);
    assert_ok(any_operation());
}

static void plain_c_is_always_there(void **state)
{
    (void)state;
    assert_ptr_equal(cpu_ops_for("plain"), &cpu_ops_plain);
    assert_null(cpu_ops_for("mmx"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_instruction_set_is_refused_and_named),
        cmocka_unit_test(the_choice_is_made_once),
        cmocka_unit_test(plain_c_is_always_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
