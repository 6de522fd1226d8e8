/* Which member holds a page, as properties for 1 to 64 members, and the tree over classes of pages. */
#include "cmocka_main.h"

#include "parallel/cache_placement.h"
#include <string.h>

enum { MEMBERS_MAX = 64, PAGES_MAX = 200, UNITS = 8 };

static uint64_t random_state = 20261126;

/* 0 .. end - 1 */
static int random_below(int end)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int)((random_state >> 33) % (uint64_t)end);
}

static void every_page_is_held_exactly_once(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++)
        for (int offset = 0; offset < size; offset++) {
            int64_t held[MEMBERS_MAX] = {0};
            for (int64_t n = 0; n <= PAGES_MAX; n++) {
                int64_t total = 0;
                for (int i = 0; i < size; i++) {
                    assert_int_equal(cache_placement_count(size, offset, i, n), held[i]);
                    total += held[i];
                }
                assert_int_equal(total, n);
                int member = cache_placement_member(size, offset, n);
                assert_true(0 <= member && member < size);
                held[member]++;
            }
        }
}

static void members_differ_by_at_most_one_page_of_a_sequence(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++)
        for (int offset = 0; offset < size; offset++)
            for (int64_t n = 0; n <= PAGES_MAX; n++)
                for (int i = 0; i < size; i++) {
                    int64_t count = cache_placement_count(size, offset, i, n);
                    assert_in_range(count, n / size, (n + size - 1) / size);
                }
}

/* Two pages share a member exactly when they are of one class, whatever the offset. */
static void classes_stay_whole(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++)
        for (int offset = 0; offset < size; offset++)
            for (int64_t p = 0; p < PAGES_MAX; p++)
                for (int64_t q = 0; q < 2 * size && q < PAGES_MAX; q++)
                    assert_int_equal(cache_placement_member(size, offset, p) ==
                                         cache_placement_member(size, offset, q),
                                     (p - q) % size == 0);
}

static void units_of_pages_stay_whole_for_1_2_4_and_8_members(void **state)
{
    (void)state;
    for (int size = 1; size <= UNITS; size *= 2)
        for (int offset = 0; offset < size; offset++)
            for (int64_t p = 0; p < PAGES_MAX; p++)
                assert_int_equal(cache_placement_member(size, offset, p),
                                 cache_placement_member(size, offset, p % UNITS));
}

/* An unfinished softmax as the expression that made it; 0 is the empty one.  Not symmetric: the
 * operands of a merge are not interchangeable, bit by bit. */
static uint64_t merged(uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a + b;
    return (a * UINT64_C(0x9e3779b97f4a7c15) ^ (b + UINT64_C(0x1234567))) *
               UINT64_C(0xff51afd7ed558ccd) +
           1;
}

/* As kernels/ops.h writes it: 0-4, 2-6, 1-5, 3-7, then 0-2, 1-3, then 0-1. */
static uint64_t tree_of_units(const uint64_t unit[UNITS])
{
    return merged(merged(merged(unit[0], unit[4]), merged(unit[2], unit[6])),
                  merged(merged(unit[1], unit[5]), merged(unit[3], unit[7])));
}

static uint64_t tree_of_classes(int size, const uint64_t *partial)
{
    uint64_t state[MEMBERS_MAX];
    memcpy(state, partial, (size_t)size * sizeof *state);
    for (int stride = cache_placement_stride(size); stride > 0; stride /= 2)
        for (int c = 0; c < stride && c + stride < size; c++)
            state[c] = merged(state[c], state[c + stride]);
    return state[0];
}

/* Each member merges what it holds of the units, then classes meet: the expression of one rank. */
static void the_tree_of_classes_continues_the_tree_of_units(void **state)
{
    (void)state;
    for (int n_pages = 0; n_pages <= 3 * UNITS; n_pages++) {
        uint64_t unit[UNITS] = {0};
        for (int p = 0; p < n_pages; p++)
            unit[p % UNITS] = merged(unit[p % UNITS], (uint64_t)p + 1000);
        for (int size = 1; size <= UNITS; size *= 2)
            for (int offset = 0; offset < size; offset++) {
                uint64_t partial[UNITS];
                for (int c = 0; c < size; c++) {
                    uint64_t own[UNITS] = {0};
                    for (int u = 0; u < UNITS; u++)
                        if (cache_placement_member(size, offset, u) ==
                            cache_placement_member(size, offset, c))
                            own[u] = unit[u];
                    partial[c] = tree_of_units(own);
                }
                assert_true(tree_of_classes(size, partial) == tree_of_units(unit));
            }
    }
}

/* For other numbers of members: every class once, the lower of two first. */
static void the_tree_merges_every_class_once(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++) {
        uint64_t held[MEMBERS_MAX];
        for (int c = 0; c < size; c++)
            held[c] = UINT64_C(1) << c;
        for (int stride = cache_placement_stride(size); stride > 0; stride /= 2)
            for (int c = 0; c < stride && c + stride < size; c++) {
                assert_true((held[c] & held[c + stride]) == 0 && held[c + stride] != 0);
                held[c] |= held[c + stride];
                held[c + stride] = 0;
            }
        assert_true(held[0] == UINT64_MAX >> (64 - size));
    }
}

/* Sequences of random lengths and offsets, the worst ones among them. */
static void there_is_room_for_any_offsets(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        int size = 1 + random_below(MEMBERS_MAX), n_sequences = 1 + random_below(20);
        int max_pages = 1 + random_below(100), is_worst = random_below(2), total = 0;
        int64_t held[MEMBERS_MAX] = {0}, room;
        for (int s = 0; s < n_sequences; s++) {
            int pages = random_below(max_pages + 1), offset = is_worst ? 0 : random_below(size);
            for (int i = 0; i < size; i++)
                held[i] += cache_placement_count(size, offset, i, pages);
            total += pages;
        }
        room = cache_placement_room(size, n_sequences, max_pages, total);
        for (int i = 0; i < size; i++)
            assert_true(held[i] <= room);
        assert_true(room <= total / size + n_sequences && room <= total);
    }
    assert_int_equal(cache_placement_room(4, 3, 8, 24), 6); /* full tables need no page more */
    assert_int_equal(cache_placement_room(1, 3, 8, 24), 24);
    assert_int_equal(cache_placement_room(64, 1, 5, 5), 1); /* more members than pages */
}

/* Sequences of one page, then some that end and begin again. */
static void short_sequences_do_not_fill_one_member(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++) {
        int64_t held[MEMBERS_MAX] = {0};
        for (int s = 0; s < 3 * size; s++)
            held[cache_placement_offset(size, held)]++;
        for (int i = 0; i < size; i++)
            assert_int_equal(held[i], 3);
        held[size / 2]--;
        assert_int_equal(cache_placement_offset(size, held), size / 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_is_held_exactly_once),
        cmocka_unit_test(members_differ_by_at_most_one_page_of_a_sequence),
        cmocka_unit_test(classes_stay_whole),
        cmocka_unit_test(units_of_pages_stay_whole_for_1_2_4_and_8_members),
        cmocka_unit_test(the_tree_of_classes_continues_the_tree_of_units),
        cmocka_unit_test(the_tree_merges_every_class_once),
        cmocka_unit_test(there_is_room_for_any_offsets),
        cmocka_unit_test(short_sequences_do_not_fill_one_member),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
