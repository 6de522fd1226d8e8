/* Who is missing, and how operations are named: arithmetic on entries made by hand. */
#include "cmocka_main.h"

#include "parallel/ledger_fault.h"
#include "parallel/ledger_queue.h"
#include <stdio.h>
#include <string.h>

static struct ledger_entry at(int64_t step, int number)
{
    return (struct ledger_entry){.step = step, .number = number, .stride = 1, .size = 4};
}

enum { SECOND = 1000000000, PATIENCE_S = 2 };

/* What a rank that waits in step 9, operation 5 sees of four others, which run and are near it. */
static void see(struct ledger_sight sight[4], const struct ledger_entry last[4])
{
    for (int i = 0; i < 4; i++)
        sight[i] = (struct ledger_sight){
            .rank = i, .is_near = 1, .silent_ns = SECOND / 10, .last = last[i]};
}

static struct ledger_fault find(const struct ledger_sight *sight, int n,
                                const struct ledger_entry *waiting)
{
    struct ledger_fault fault;
    ledger_find_fault(&fault, sight, n, waiting, (int64_t)PATIENCE_S * SECOND);
    return fault;
}

static void the_rank_farthest_behind_is_absent(void **state)
{
    (void)state;
    const struct ledger_entry waiting = at(9, 5);
    const struct {
        struct ledger_entry last[4];
        int absent, n_others; /* absent -1: nobody */
    } cases[] = {
        {{at(9, 5), at(9, 5), at(9, 5), at(9, 5)}, -1, 0}, /* all have come */
        {{at(9, 5), at(9, 4), at(9, 5), at(9, 5)}, 1, 0},
        {{at(9, 5), at(9, 4), at(9, 3), at(9, 4)}, 2, 2},
        {{at(9, 5), at(8, 70), at(9, 1), at(9, 5)}, 1, 1},  /* steps count first */
        {{at(9, 5), at(9, 4), at(9, 4), at(9, 4)}, 1, 2},   /* the lowest of equals */
        {{at(9, 5), at(9, 6), at(10, 1), at(9, 5)}, -1, 0}, /* some are further */
        {{at(9, 5), at(9, 5), at(9, 5), at(-1, 0)}, 3, 0},  /* no step yet */
        {{at(9, 5), at(-1, 0), at(-1, 0), at(9, 5)}, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ledger_sight sight[4];
        see(sight, cases[i].last);
        struct ledger_fault fault = find(sight, 4, &waiting);
        assert_int_equal(fault.kind, cases[i].absent < 0 ? LEDGER_NO_FAULT : LEDGER_ABSENT);
        if (cases[i].absent >= 0)
            assert_int_equal(fault.at, cases[i].absent);
        assert_int_equal(fault.n_others, cases[i].n_others);
        assert_int_equal(find(sight, 4, NULL).kind, LEDGER_NO_FAULT); /* nobody waits */
    }
}

/* Ranks 1, 3 and 5 of a node that holds 0 to 5: the others are in other groups. */
static void only_members_of_the_group_can_be_absent(void **state)
{
    (void)state;
    struct ledger_entry waiting = at(2, 3);
    struct ledger_sight sight[6] = {{0}};
    waiting.first = 1;
    waiting.stride = 2;
    waiting.size = 3;
    for (int i = 0; i < 6; i++)
        sight[i] = (struct ledger_sight){.rank = 5 - i, .is_near = 1, .last = at(2, 1)};
    sight[4].last = at(2, 3); /* rank 1 */
    struct ledger_fault fault = find(sight, 6, &waiting);
    assert_int_equal(fault.at, 2); /* rank 3 */
    assert_int_equal(fault.n_others, 1);
    waiting.size = 1;
    assert_int_equal(find(sight, 6, &waiting).kind, LEDGER_NO_FAULT);
}

static void nobody_is_called_absent_while_one_may_be_stopped(void **state)
{
    (void)state;
    const struct ledger_entry waiting = at(9, 5);
    const struct ledger_entry last[4] = {at(9, 5), at(9, 4), at(9, 5), at(9, 5)};
    struct ledger_sight sight[4];
    see(sight, last);
    sight[1].silent_ns = SECOND;
    assert_int_equal(find(sight, 4, &waiting).kind, LEDGER_NO_FAULT);
    see(sight, last);
    sight[3].silent_ns = SECOND; /* the others may wait for this one */
    assert_int_equal(find(sight, 4, &waiting).kind, LEDGER_NO_FAULT);
    see(sight, last);
    sight[1].is_at_work = 1;
    assert_int_equal(find(sight, 4, &waiting).kind, LEDGER_NO_FAULT);
}

static void a_silent_rank_is_at_fault_in_a_step_and_between_two(void **state)
{
    (void)state;
    const struct ledger_entry waiting = at(9, 5);
    const struct ledger_entry last[4] = {at(9, 5), at(9, 4), at(9, 5), at(9, 5)};
    struct ledger_sight sight[4];
    see(sight, last);
    for (int i = 2; i < 4; i++)
        sight[i].silent_ns = (int64_t)3 * SECOND + (i == 2 ? 0 : SECOND / 10);
    for (int is_in_step = 0; is_in_step < 2; is_in_step++) {
        struct ledger_fault fault = find(sight, 4, is_in_step ? &waiting : NULL);
        assert_int_equal(fault.kind,
                         LEDGER_STOPPED); /* before rank 1, which waits for it perhaps */
        assert_int_equal(fault.at, 2);    /* fell silent with rank 3: the lower one */
        assert_int_equal(fault.n_others, 1);
    }
    sight[3].silent_ns = (int64_t)5 * SECOND;
    assert_int_equal(find(sight, 4, NULL).at, 3); /* long before the other */
    sight[3].unanswered_ns = (int64_t)4 * SECOND;
    assert_int_equal(find(sight, 4, NULL).kind, LEDGER_UNREACHABLE);
    sight[3].has_ended = 1;
    assert_int_equal(find(sight, 4, NULL).kind, LEDGER_ENDED);
}

/* What is known of a rank of another node ends with its last report, so it is not said to have never
 * entered an operation. */
static void the_line_says_what_is_known(void **state)
{
    (void)state;
    const struct ledger_entry waiting = at(9, 5);
    const struct {
        int is_near, has_entered;
        int64_t unanswered_ns;
        enum ledger_fault_kind kind;
        const char *text;
    } cases[] = {
        {1, 0, 0, LEDGER_ABSENT,
         "never entered all_reduce 5 of layer 0, step 9: its process runs; rank 0"},
        {0, 0, 0, LEDGER_ABSENT,
         "never entered all_reduce 5 of layer 0, step 9: its process runs; rank 0"},
        {1, 0, 0, LEDGER_STOPPED,
         "never entered all_reduce 5 of layer 0, step 9: its process has not run for 3.0 s; rank "
         "0"},
        {1, 1, 0, LEDGER_STOPPED,
         "entered all_reduce 5 of layer 0, step 9, but its process has not run for 3.0 s; rank 0"},
        {0, 0, 0, LEDGER_STOPPED,
         "is missing in all_reduce 5 of layer 0, step 9: its process has not run for 3.0 s; rank "
         "0"},
        {0, 1, SECOND * (int64_t)3, LEDGER_UNREACHABLE,
         "is missing in all_reduce 5 of layer 0, step 9: its node has not answered for 3.0 s; rank "
         "0"},
        {0, 0, 0, LEDGER_ENDED,
         "is missing in all_reduce 5 of layer 0, step 9: its process has ended; rank 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024], expected[256];
        const struct ledger_sight sight = {.rank = 1,
                                           .is_near = cases[i].is_near,
                                           .silent_ns = (int64_t)3 * SECOND,
                                           .unanswered_ns = cases[i].unanswered_ns,
                                           .last = at(9, cases[i].has_entered ? 5 : 4)};
        const struct ledger_fault fault = {.kind = cases[i].kind};
        ledger_tell_fault(text, sizeof text, &fault, &sight, "node07", &waiting, 0, 2.5);
        snprintf(expected, sizeof expected, "rank 1 (node07) %s has waited for it for 2.5 s",
                 cases[i].text);
        assert_memory_equal(text, expected, strlen(expected));
    }
    char text[1024];
    const struct ledger_sight sight = {.silent_ns = (int64_t)3 * SECOND, .last = at(-1, 0)};
    const struct ledger_fault fault = {.kind = LEDGER_STOPPED, .n_others = 2};
    ledger_tell_fault(text, sizeof text, &fault, &sight, "node07", NULL, 4, 0);
    assert_string_equal(text,
                        "rank 0 (node07) is missing: its process has not run for 3.0 s, and 2 "
                        "more ranks with it, as rank 4 sees it between two steps "
                        "(--watchdog-timeout); its last was none");
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
        cmocka_unit_test(the_rank_farthest_behind_is_absent),
        cmocka_unit_test(only_members_of_the_group_can_be_absent),
        cmocka_unit_test(nobody_is_called_absent_while_one_may_be_stopped),
        cmocka_unit_test(a_silent_rank_is_at_fault_in_a_step_and_between_two),
        cmocka_unit_test(the_line_says_what_is_known),
        cmocka_unit_test(operations_are_named_as_in_the_error_line),
        cmocka_unit_test(a_ring_is_described_from_its_youngest_entry),
        cmocka_unit_test(what_a_stream_has_is_described_as_queued),
        cmocka_unit_test(a_stream_waits_for_the_first_that_it_has_not_passed),
        cmocka_unit_test(a_stream_with_more_than_a_ring_waits_for_one_that_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
