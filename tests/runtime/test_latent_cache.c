/* test_latent_cache.c - pages are given, found and taken back without loss. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/latent_cache.h"

enum { SEQUENCES = 3, MAX_LENGTH = 200, PAGES = 4 /* of one sequence: ceil(200 / 64) */ };

static struct arena arena;
static struct latent_cache cache;

static int open_cache(void **state)
{
    struct model_config config = {.n_layers = 2, .d_c = 12, .d_r = 4};
    size_t bytes = latent_cache_bytes(&config, DTYPE_BF16, SEQUENCES * PAGES);
    (void)state;
    assert_int_equal(arena_open(&arena, &cpu_device_ops, "cache", bytes), STATUS_OK);
    assert_int_equal(latent_cache_pages(SEQUENCES, MAX_LENGTH), SEQUENCES * PAGES);
    assert_int_equal(latent_cache_open(&cache, &arena, &config, DTYPE_BF16, SEQUENCES, MAX_LENGTH,
                                       SEQUENCES * PAGES),
                     STATUS_OK);
    assert_int_equal(arena.used, bytes);
    return 0;
}

static int close_cache(void **state)
{
    (void)state;
    latent_cache_close(&cache);
    arena_close(&arena);
    return 0;
}

static void a_page_is_taken_at_every_64th_row_and_not_before(void **state)
{
    (void)state;
    assert_int_equal(cache.n_pages, SEQUENCES * PAGES);
    for (int row = 1; row <= MAX_LENGTH; row++) {
        assert_int_equal(latent_cache_reserve(&cache, 1, 1), STATUS_OK);
        assert_int_equal(cache.n_pages - cache.n_free, (row + 63) / 64);
        assert_int_equal(latent_cache_check(&cache), STATUS_OK);
    }
    assert_int_equal(cache.length[1], MAX_LENGTH);
}

static void a_reservation_that_does_not_fit_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(latent_cache_reserve(&cache, 0, 100), STATUS_OK);
    assert_int_equal(latent_cache_reserve(&cache, 0, 64 * PAGES - 100 + 1), STATUS_NO_MEMORY);
    assert_int_equal(cache.length[0], 100);
    assert_int_equal(cache.n_free, SEQUENCES * PAGES - 2);
    assert_int_equal(latent_cache_check(&cache), STATUS_OK);
}

static void released_pages_serve_other_sequences(void **state)
{
    (void)state;
    for (int s = 0; s < SEQUENCES; s++)
        assert_int_equal(latent_cache_reserve(&cache, s, MAX_LENGTH), STATUS_OK);
    assert_int_equal(cache.n_free, 0);
    latent_cache_release(&cache, 1);
    assert_int_equal(cache.n_free, PAGES);
    assert_int_equal(cache.length[1], 0);
    assert_int_equal(latent_cache_check(&cache), STATUS_OK);
    assert_int_equal(latent_cache_reserve(&cache, 1, 65), STATUS_OK);
    assert_int_equal(latent_cache_check(&cache), STATUS_OK);
}

static void the_check_finds_a_page_held_twice(void **state)
{
    (void)state;
    assert_int_equal(latent_cache_reserve(&cache, 0, 65), STATUS_OK);
    int32_t page = cache.table[1];
    cache.table[1] = cache.table[0];
    assert_int_equal(latent_cache_check(&cache), STATUS_INVALID);
    assert_non_null(strstr(status_text(), "held twice"));
    cache.table[1] = page;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_page_is_taken_at_every_64th_row_and_not_before,
                                        open_cache, close_cache),
        cmocka_unit_test_setup_teardown(a_reservation_that_does_not_fit_changes_nothing, open_cache,
                                        close_cache),
        cmocka_unit_test_setup_teardown(released_pages_serve_other_sequences, open_cache,
                                        close_cache),
        cmocka_unit_test_setup_teardown(the_check_finds_a_page_held_twice, open_cache, close_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
