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

/* One member of a group of `n_members`; 1: replicated. */
static void open_member(struct latent_cache *member_cache, struct arena *memory, int n_members,
                        int member)
{
    const struct model_config config = {.n_layers = 2, .d_c = 12, .d_r = 4};
    const struct latent_cache_shape shape = {.dtype = DTYPE_BF16,
                                             .n_sequences = SEQUENCES,
                                             .max_length = MAX_LENGTH,
                                             .n_pages = SEQUENCES * PAGES,
                                             .layers = {0, 2},
                                             .n_members = n_members,
                                             .member = member};
    size_t bytes = latent_cache_bytes(&config, &shape);
    assert_int_equal(latent_cache_pages(SEQUENCES, MAX_LENGTH), SEQUENCES * PAGES);
    assert_int_equal(arena_open(memory, &cpu_device_ops, "cache", bytes), STATUS_OK);
    assert_int_equal(latent_cache_open(member_cache, memory, &config, &shape), STATUS_OK);
    assert_int_equal(memory->used, bytes);
}

static int open_cache(void **state)
{
    (void)state;
    open_member(&cache, &arena, 1, 0);
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

/* --- a group whose members share the pages: each makes the same calls --- */

enum { MEMBERS_MAX = 9 };
static struct latent_cache group[MEMBERS_MAX];
static struct arena memory[MEMBERS_MAX];

static void close_group(int n_members)
{
    for (int m = 0; m < n_members; m++) {
        latent_cache_close(&group[m]);
        arena_close(&memory[m]);
    }
}

/* Every page of every sequence is here once, elsewhere on all others, and where the offset says. */
static void check_group(int n_members)
{
    for (int m = 0; m < n_members; m++)
        assert_int_equal(latent_cache_check(&group[m]), STATUS_OK);
    for (int s = 0; s < SEQUENCES; s++)
        for (int p = 0; p < PAGES; p++) {
            int n_here = 0, n_elsewhere = 0;
            for (int m = 0; m < n_members; m++) {
                int32_t entry = group[m].table[s * PAGES + p];
                n_here += entry >= 0;
                n_elsewhere += entry == PAGE_ELSEWHERE;
                assert_int_equal(group[m].offset[s], group[0].offset[s]);
                if (entry >= 0)
                    assert_int_equal((p + group[m].offset[s]) % n_members, m);
            }
            int is_held = p < (group[0].length[s] + 63) / 64;
            assert_int_equal(n_here, is_held);
            assert_int_equal(n_elsewhere, is_held ? n_members - 1 : 0);
        }
}

/* Random requests, until and beyond what fits. */
static void members_hold_every_page_once(void **state)
{
    (void)state;
    uint64_t random = 20261126;
    for (int n_members = 1; n_members <= MEMBERS_MAX; n_members++) {
        for (int m = 0; m < n_members; m++)
            open_member(&group[m], &memory[m], n_members, m);
        for (int round = 0; round < 300; round++) {
            random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            int sequence = (int)(random >> 33) % SEQUENCES, count = (int)(random >> 40) % 150;
            int is_release = (random >> 60) % 4 == 0;
            enum status first = STATUS_OK;
            for (int m = 0; m < n_members; m++) {
                if (is_release) {
                    latent_cache_release(&group[m], sequence);
                    continue;
                }
                enum status status = latent_cache_reserve(&group[m], sequence, count);
                first = m == 0 ? status : first;
                assert_int_equal(status, first);
            }
            check_group(n_members);
        }
        close_group(n_members);
    }
}

/* All sequences as long as they may be, and at most a page of each more than a share. */
static void a_share_of_the_memory_is_enough(void **state)
{
    (void)state;
    for (int n_members = 1; n_members <= MEMBERS_MAX; n_members++) {
        for (int m = 0; m < n_members; m++) {
            open_member(&group[m], &memory[m], n_members, m);
            assert_true(group[m].n_own <= SEQUENCES * PAGES / n_members + SEQUENCES);
            for (int s = 0; s < SEQUENCES; s++)
                assert_int_equal(latent_cache_reserve(&group[m], s, MAX_LENGTH), STATUS_OK);
        }
        check_group(n_members);
        close_group(n_members);
    }
}

static void the_check_finds_a_page_of_another_member(void **state)
{
    (void)state;
    open_member(&group[0], &memory[0], 2, 0);
    assert_int_equal(latent_cache_reserve(&group[0], 0, 129), STATUS_OK);
    assert_int_equal(group[0].table[1], PAGE_ELSEWHERE);
    group[0].table[1] = group[0].table[2];
    assert_int_equal(latent_cache_check(&group[0]), STATUS_INVALID);
    assert_non_null(strstr(status_text(), "member 1's"));
    group[0].table[1] = PAGE_ELSEWHERE;
    group[0].held[1]++;
    assert_int_equal(latent_cache_check(&group[0]), STATUS_INVALID);
    close_group(1);
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
        cmocka_unit_test(members_hold_every_page_once),
        cmocka_unit_test(a_share_of_the_memory_is_enough),
        cmocka_unit_test(the_check_finds_a_page_of_another_member),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
