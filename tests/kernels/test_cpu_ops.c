/* Rules of the choice between instruction sets. */
#define _DEFAULT_SOURCE /* setenv */
#include "tests/kernels/kernel_test.h"

static void an_unknown_instruction_set_is_refused_and_named(void **state)
{
    const struct ops *ops = NULL;
    (void)state;
    setenv("LATENTRANK_DEBUG_ISA", "mmx", 1);
    assert_int_equal(cpu_ops_choose(&ops), STATUS_USAGE);
    assert_non_null(strstr(status_text(), "mmx"));
    assert_null(ops);
}

static void the_named_instruction_set_is_taken(void **state)
{
    (void)state;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (cpu_ops_for(isa_names[i]) == NULL)
            continue;
        setenv("LATENTRANK_DEBUG_ISA", isa_names[i], 1);
        assert_ptr_equal(cpu_ops(), cpu_ops_for(isa_names[i]));
        assert_string_equal(cpu_ops()->name, isa_names[i]);
    }
    unsetenv("LATENTRANK_DEBUG_ISA");
    assert_non_null(cpu_ops());
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
        cmocka_unit_test(the_named_instruction_set_is_taken),
        cmocka_unit_test(plain_c_is_always_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
