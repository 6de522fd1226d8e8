/* What --kv-placement auto takes, of figures made by hand. */
#include "runtime/cache_choice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static const struct cache_choice whole = {
    .placement = KV_REPLICATED, .bytes = 8000000000, .fits = 1, .read_us = 80};
static const struct cache_choice node = {
    .placement = KV_NODE, .bytes = 4000000000, .fits = 1, .read_us = 40, .exchange_us = 10};
static const struct cache_choice all = {
    .placement = KV_SHARDED, .bytes = 2000000000, .fits = 1, .read_us = 20, .exchange_us = 90};

static void the_fastest_that_fits_is_taken(void **state)
{
    struct cache_choice choice[] = {whole, node, all};
    (void)state;
    assert_int_equal(cache_choice_best(choice, 3), 1);
    choice[1].fits = 0;
    assert_int_equal(cache_choice_best(choice, 3), 0);
    choice[0].fits = 0;
    assert_int_equal(cache_choice_best(choice, 3), 2);
    choice[2].exchange_us = 1;
    choice[0].fits = choice[1].fits = 1;
    assert_int_equal(cache_choice_best(choice, 3), 2);
    assert_int_equal(cache_choice_best(choice, 1), 0);
}

/* Less traffic is worth a tenth; and the refusal that follows is of the one that needs least. */
static void equal_ones_go_to_the_whole_cache_and_none_to_the_smallest(void **state)
{
    struct cache_choice choice[] = {whole, node, all};
    (void)state;
    choice[1].exchange_us = 35;
    assert_int_equal(cache_choice_best(choice, 3), 0);
    for (int i = 0; i < 3; i++)
        choice[i].fits = 0;
    assert_int_equal(cache_choice_best(choice, 3), 2);
}

static void the_line_has_all_figures(void **state)
{
    struct cache_choice choice[] = {whole, node, all};
    char text[512], small[40];
    (void)state;
    choice[0].fits = 0;
    cache_choice_explain(text, sizeof text, choice, 3, 1);
    assert_string_equal(
        text,
        "--kv-placement auto takes node: replicated 8.00 GB a rank, which does not fit, node "
        "4.00 GB a rank (40 us of reads and 10 us of messages), sharded 2.00 GB a rank (20 us "
        "of reads and 90 us of messages); of a layer in a full step");
    cache_choice_explain(small, sizeof small, choice, 3, 1);
    assert_int_equal(strlen(small), sizeof small - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fastest_that_fits_is_taken),
        cmocka_unit_test(equal_ones_go_to_the_whole_cache_and_none_to_the_smallest),
        cmocka_unit_test(the_line_has_all_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
