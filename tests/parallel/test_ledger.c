/* Who is missing, and how operations are named: arithmetic on entries made by hand. */
#include "cmocka_main.h"

#include "parallel/ledger_queue.h"
#include <string.h>

static struct ledger_entry at(int64_t step, int number)
{
    return (struct ledger_entry){.step = step, .number = number, .stride = 1, .size = 4};
}

static void the_rank_farthest_behind_is_missing(void **state)
{
    (void)state;
    const int32_t rank[4] = {0, 1, 2, 3};
    const struct ledger_entry waiting = at(9, 5);
    const struct {
        struct ledger_entry last[4];
        int missing, n_missing;
    } cases[] = {
        {{at(9, 5), at(9, 5), at(9, 5), at(9, 5)}, -1, 0}, /* all have come */
        {{at(9, 5), at(9, 4), at(9, 5), at(9, 5)}, 1, 1},
        {{at(9, 5), at(9, 4), at(9, 3), at(9, 4)}, 2, 3},
        {{at(9, 5), at(8, 70), at(9, 1), at(9, 5)}, 1, 2},  /* steps count first */
        {{at(9, 5), at(9, 4), at(9, 4), at(9, 4)}, 1, 3},   /* the lowest of equals */
        {{at(9, 5), at(9, 6), at(10, 1), at(9, 5)}, -1, 0}, /* some are further */
        {{at(9, 5), at(9, 5), at(9, 5), at(-1, 0)}, 3, 1},  /* no step yet */
        {{at(9, 5), at(-1, 0), at(-1, 0), at(9, 5)}, 1, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int n_missing = -1;
        assert_int_equal(ledger_missing(&n_missing, &waiting, rank, cases[i].last, 4),
                         cases[i].missing);
        assert_int_equal(n_missing, cases[i].n_missing);
    }
}

/* Ranks 1, 3 and 5 of a node that holds 0 to 5: the others are in other groups. */
static void only_members_of_the_group_can_be_missing(void **state)
{
    (void)state;
    const int32_t rank[6] = {5, 4, 3, 2, 1, 0};
    struct ledger_entry waiting = at(2, 3), last[6];
    int n_missing;
    waiting.first = 1;
    waiting.stride = 2;
    waiting.size = 3;
    for (int i = 0; i < 6; i++)
        last[i] = at(2, 1);
    last[4] = at(2, 3);                                                       /* rank 1 */
    assert_int_equal(ledger_missing(&n_missing, &waiting, rank, last, 6), 2); /* rank 3 */
    assert_int_equal(n_missing, 2);
    waiting.size = 1;
    assert_int_equal(ledger_missing(&n_missing, &waiting, rank, last, 6), -1);
}

static void operations_are_named_as_in_the_error_line(void **state)
{
    (void)state;
    char text[128];
    struct ledger_entry entry = at(1088, 41);
    entry.layer = 22;
    ledger_name(text, sizeof text, &entry);
    assert_string_equal(text, "all_reduce 41 of layer 22, step 1088");
    entry.layer = -1;
    entry.operation = LEDGER_ALL_GATHER;
    ledger_name(text, sizeof text, &entry);
    assert_string_equal(text, "all_gather 41, step 1088");
}

static void a_ring_is_described_from_its_youngest_entry(void **state)
{
    (void)state;
    static struct ledger_board board;
    struct ledger_entry last;
    char text[1024];
    assert_int_equal(ledger_last(&last, &board), 1);
    assert_int_equal(last.step, -1);
    ledger_describe(text, sizeof text, &board, 0);
    assert_string_equal(text, "");

    for (int i = 0; i < LEDGER_RING + 3; i++) {
        struct ledger_entry entry = at(7, i);
        strcpy(entry.group, "tp");
        entry.layer = 2;
        entry.bytes = 8192;
        entry.begin_ns = 1000000;
        if (i > 0)
            ledger_pop(&board, 3500000);
        ledger_push(&board, &entry);
    }
    assert_int_equal(ledger_last(&last, &board), 1);
    assert_int_equal(last.number, LEDGER_RING + 2);
    ledger_describe(text, sizeof text, &board, 6000000);
    assert_non_null(strstr(text,
                           "all_reduce 514 of layer 2, step 7 (tp, 8192 bytes, waits for 5.000 "
                           "ms); all_reduce 513 of layer 2, step 7 (tp, 8192 bytes, took 2.500 "
                           "ms); "));
    char cut[40];
    ledger_describe(cut, sizeof cut, &board, 6000000);
    assert_int_equal(strlen(cut), sizeof cut - 1);
}

static void what_a_stream_has_is_described_as_queued(void **state)
{
    (void)state;
    static struct ledger_board board;
    const struct ledger_entry entry = at(7, 3);
    char text[256];
    ledger_push(&board, &entry);
    ledger_pop(&board, LEDGER_QUEUED);
    ledger_describe(text, sizeof text, &board, 6000000);
    assert_non_null(strstr(text, "0 bytes, queued)"));
}

/* Operation `number` of step 7, begun at that time. */
static struct ledger_entry queued(int number)
{
    struct ledger_entry entry = at(7, number);
    entry.begin_ns = number;
    entry.has_deadline = 1;
    return entry;
}

static void a_stream_waits_for_the_first_that_it_has_not_passed(void **state)
{
    (void)state;
    uint64_t passed = 0;
    static struct ledger_queue queue;
    struct ledger_entry found;
    queue.passed = &passed;
    assert_int_equal(ledger_queue_waits(&found, &queue, 5), 0); /* nothing is queued */
    for (int i = 1; i <= 10; i++) {
        const struct ledger_entry entry = queued(i);
        ledger_push(&queue.board, &entry);
    }
    assert_int_equal(ledger_queue_waits(&found, &queue, 50), 1);
    assert_int_equal(found.number, 1);
    assert_int_equal(found.begin_ns, 1);

    passed = 4; /* the fifth waits since then */
    assert_int_equal(ledger_queue_waits(&found, &queue, 60), 1);
    assert_int_equal(found.number, 5);
    assert_int_equal(found.begin_ns, 60);
    assert_int_equal(ledger_queue_waits(&found, &queue, 70), 1);
    assert_int_equal(found.begin_ns, 60);

    passed = 10;
    assert_int_equal(ledger_queue_waits(&found, &queue, 80), 0);
    struct ledger_entry free_of_it = queued(11); /* between two steps */
    free_of_it.has_deadline = 0;
    ledger_push(&queue.board, &free_of_it);
    assert_int_equal(ledger_queue_waits(&found, &queue, 90), 0);
}

static void a_stream_with_more_than_a_ring_waits_for_one_that_is_known(void **state)
{
    (void)state;
    uint64_t passed = 5;
    static struct ledger_queue queue;
    struct ledger_entry found;
    queue.passed = &passed;
    for (int i = 0; i < LEDGER_RING + 100; i++) {
        const struct ledger_entry entry = queued(i);
        ledger_push(&queue.board, &entry);
    }
    assert_int_equal(ledger_queue_waits(&found, &queue, 1), 1);
    assert_int_equal(found.number, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rank_farthest_behind_is_missing),
        cmocka_unit_test(only_members_of_the_group_can_be_missing),
        cmocka_unit_test(operations_are_named_as_in_the_error_line),
        cmocka_unit_test(a_ring_is_described_from_its_youngest_entry),
        cmocka_unit_test(what_a_stream_has_is_described_as_queued),
        cmocka_unit_test(a_stream_waits_for_the_first_that_it_has_not_passed),
        cmocka_unit_test(a_stream_with_more_than_a_ring_waits_for_one_that_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
