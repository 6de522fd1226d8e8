/* What `bench comm` counts as wrong, on backends that are wrong on purpose; and its bandwidths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "launcher/bench_comm.h"

enum { COUNT = COMM_CHECK_BLOCK + 100 };

/* A group of one that changes one number by `ulps` steps, or the answer of `lowest`. */
static struct {
    int64_t place, ulps;
    int lowest;
} fault;

static void spoil(float *x)
{
    if (fault.ulps == 0)
        return;
    int32_t bits;
    memcpy(&bits, &x[fault.place], sizeof bits);
    bits += (int32_t)fault.ulps;
    memcpy(&x[fault.place], &bits, sizeof bits);
}

static enum status faulty_all_reduce(struct comm *comm, struct tensor *x, struct stream *stream)
{
    (void)comm, (void)stream;
    spoil(x->data);
    return STATUS_OK;
}

static enum status faulty_all_gather(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *counts, struct stream *stream)
{
    (void)comm, (void)stream;
    memcpy(y->data, x->data, (size_t)counts[0] * sizeof(float));
    spoil(y->data);
    return STATUS_OK;
}

static enum status faulty_reduce_scatter(struct comm *comm, struct tensor *y,
                                         const struct tensor *x, const int64_t *counts,
                                         struct stream *stream)
{
    return faulty_all_gather(comm, y, x, counts, stream);
}

static enum status faulty_all_to_all(struct comm *comm, struct tensor *y, const struct tensor *x,
                                     const int64_t *received, const int64_t *sent,
                                     struct stream *stream)
{
    (void)received;
    return faulty_all_gather(comm, y, x, sent, stream);
}

static enum status faulty_broadcast(struct comm *comm, struct tensor *x, int root,
                                    struct stream *stream)
{
    (void)comm, (void)root, (void)stream;
    spoil(x->data);
    return STATUS_OK;
}

static enum status faulty_lowest(struct comm *comm, int *index, int flag)
{
    (void)comm, (void)flag;
    *index = fault.lowest;
    return STATUS_OK;
}

static int64_t wrong_of(enum option_comm_op op, const char *name, int salt)
{
    static float x[COUNT], y[COUNT], parts[COMM_CHECK_BLOCK];
    int64_t counts[1] = {COUNT}, wrong = -1;
    const struct comm_ops ops = {.name = name,
                                 .all_reduce = faulty_all_reduce,
                                 .reduce_scatter = faulty_reduce_scatter,
                                 .all_gather = faulty_all_gather,
                                 .all_to_all = faulty_all_to_all,
                                 .broadcast = faulty_broadcast,
                                 .lowest = faulty_lowest};
    struct comm comm = {.ops = &ops, .group = {.name = "one", .size = 1, .stride = 1}};
    struct comm_bench bench = {.x = x, .y = y, .parts = parts, .counts = counts};
    const struct comm_case c = {.op = op, .bytes = COUNT * 4, .count = COUNT};
    assert_int_equal(comm_check_call(&wrong, &bench, &comm, &c, salt), STATUS_OK);
    return wrong;
}

static void one_bit_is_one_wrong_number(void **state)
{
    (void)state;
    const enum option_comm_op ops[] = {COMM_OP_ALL_REDUCE, COMM_OP_REDUCE_SCATTER,
                                       COMM_OP_ALL_GATHER, COMM_OP_ALL_TO_ALL, COMM_OP_BROADCAST};
    const int64_t places[] = {0, COMM_CHECK_BLOCK - 1, COMM_CHECK_BLOCK, COUNT - 1};
    for (int o = 0; o < 5; o++) {
        fault.ulps = 0;
        assert_int_equal(wrong_of(ops[o], "shm", o), 0);
        fault.ulps = 1;
        for (int p = 0; p < 4; p++) {
            fault.place = places[p];
            assert_int_equal(wrong_of(ops[o], "shm", o), 1);
        }
    }
}

/* One member leaves no rounding at all, so the bound of the library is 0 there as well. */
static void the_library_may_round_but_no_more(void **state)
{
    (void)state;
    fault.ulps = 0;
    assert_int_equal(wrong_of(COMM_OP_ALL_REDUCE, "mpi-library", 0), 0);
    fault.ulps = 1;
    assert_int_equal(wrong_of(COMM_OP_ALL_REDUCE, "mpi-library", 0), 1);
    fault.ulps = 0;
}

static void another_member_than_the_lowest_is_wrong(void **state)
{
    (void)state;
    for (int salt = 0; salt < 4; salt++) { /* even: member 0 has the flag; odd: nobody */
        fault.lowest = salt % 2 == 0 ? 0 : -1;
        assert_int_equal(wrong_of(COMM_OP_LOWEST, "shm", salt), 0);
        fault.lowest = salt % 2 == 0 ? -1 : 0;
        assert_int_equal(wrong_of(COMM_OP_LOWEST, "shm", salt), 1);
    }
}

/* The factors of nccl-tests, doc/PERFORMANCE.md, at 4 ranks. */
static void bandwidths_are_those_of_nccl_tests(void **state)
{
    (void)state;
    const struct {
        enum option_comm_op op;
        double factor;
    } cases[] = {{COMM_OP_ALL_REDUCE, 1.5},
                 {COMM_OP_ALL_GATHER, 0.75},
                 {COMM_OP_ALL_TO_ALL, 0.75},
                 {COMM_OP_BROADCAST, 1},
                 {COMM_OP_BARRIER, 1}};
    for (int i = 0; i < 5; i++) {
        struct comm_row row = {.time_us = {.median = 10}};
        const struct comm_case c = {.op = cases[i].op, .bytes = 20000};
        comm_row_bandwidths(&row, &c, 4);
        assert_true(fabs(row.algbw_gb_s - 2) < 1e-12);
        assert_true(fabs(row.busbw_gb_s - 2 * cases[i].factor) < 1e-12);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_bit_is_one_wrong_number),
        cmocka_unit_test(the_library_may_round_but_no_more),
        cmocka_unit_test(another_member_than_the_lowest_is_wrong),
        cmocka_unit_test(bandwidths_are_those_of_nccl_tests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
