/* bench_comm_check.c - one call of a collective on random numbers, beside what it should give. */
#include "launcher/bench_comm.h"
#include "parallel/reduction_tree.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Number k of a rank: of sizes from 2^-16 to 2^15, so that another order of additions shows. */
static float number_of(int rank, int64_t k, int salt)
{
    uint64_t z = (uint64_t)k + ((uint64_t)rank << 40) + ((uint64_t)salt << 52);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return ldexpf((float)(int32_t)(z >> 32) / 2147483648.0f, (int)(z & 15));
}

static int same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Two orders of n additions of the same numbers differ by at most 2 (n - 1) roundings of the sum of their
 * absolute values (u = FLT_EPSILON / 2). */
static int is_rounding(float found, float expected, double absolute, int ranks)
{
    return fabs((double)found - (double)expected) <= (ranks - 1) * (double)FLT_EPSILON * absolute;
}

/* Numbers [begin, begin + n) of a sum; `sum` are those found. */
static int64_t wrong_sums(struct comm_bench *b, const struct comm *comm, const float *sum,
                          int64_t begin, int n, int salt)
{
    int ranks = comm->group.size, is_ordered = strcmp(comm->ops->name, "mpi-library") != 0;
    double absolute[COMM_CHECK_BLOCK] = {0};
    int64_t wrong = 0;
    for (int i = 0; i < ranks; i++)
        for (int k = 0; k < n; k++) {
            b->parts[i * n + k] = number_of(i, begin + k, salt);
            absolute[k] += fabs((double)b->parts[i * n + k]);
        }
    reduction_tree_sum(b->parts, ranks, n);
    for (int k = 0; k < n; k++) {
        float found = sum[k], expected = b->parts[k];
        wrong += is_ordered ? !same_bits(found, expected)
                            : !is_rounding(found, expected, absolute[k], ranks);
    }
    return wrong;
}

/* Numbers [begin, end), block by block. */
static int64_t wrong_sums_of(struct comm_bench *b, const struct comm *comm, const float *sum,
                             int64_t begin, int64_t end, int salt)
{
    int64_t wrong = 0;
    for (int64_t at = begin; at < end; at += COMM_CHECK_BLOCK) {
        int64_t n = end - at < COMM_CHECK_BLOCK ? end - at : COMM_CHECK_BLOCK;
        wrong += wrong_sums(b, comm, sum + at - begin, at, (int)n, salt);
    }
    return wrong;
}

static int64_t wrong_numbers(struct comm_bench *b, const struct comm *comm,
                             const struct comm_case *c, int salt)
{
    int64_t wrong = 0, at = 0;
    if (c->op == COMM_OP_ALL_REDUCE)
        wrong += wrong_sums_of(b, comm, b->x, 0, c->count, salt);
    for (int i = 0; c->op == COMM_OP_REDUCE_SCATTER && i <= comm->group.index; at += b->counts[i++])
        if (i == comm->group.index)
            wrong += wrong_sums_of(b, comm, b->y, at, at + b->counts[i], salt);
    if (c->op == COMM_OP_ALL_GATHER)
        for (int i = 0; i < comm->group.size; i++)
            for (int64_t k = 0; k < b->counts[i]; k++)
                wrong += !same_bits(b->y[at++], number_of(i, k, salt));
    if (c->op == COMM_OP_ALL_TO_ALL)
        for (int i = 0; i < comm->group.size; i++)
            for (int64_t k = 0; k < b->counts[i]; k++)
                wrong += !same_bits(b->y[at++],
                                    number_of(i, comm->group.index * b->counts[i] + k, salt));
    if (c->op == COMM_OP_BROADCAST)
        for (int64_t k = 0; k < c->count; k++)
            wrong += !same_bits(b->x[k], number_of(0, k, salt));
    return wrong;
}

static enum status check_lowest(int64_t *wrong, struct comm *comm, int salt)
{
    int ranks = comm->group.size, low = salt % (ranks + 1), found = -2;
    TRY(comm->ops->lowest(comm, &found, comm->group.index >= low));
    *wrong = found != (low < ranks ? low : -1);
    return STATUS_OK;
}

enum status comm_check_call(int64_t *wrong, struct comm_bench *b, struct comm *comm,
                            const struct comm_case *c, int salt)
{
    int own = comm->group.index;
    if (c->op == COMM_OP_LOWEST)
        return check_lowest(wrong, comm, salt);
    int is_sent = c->op != COMM_OP_BROADCAST || own == 0;
    for (int64_t k = 0; k < c->count; k++)
        b->x[k] = is_sent ? number_of(own, k, salt) : 0;
    memset(b->y, 0, (size_t)c->bytes);
    TRY(comm_call(b, comm, c));
    *wrong = wrong_numbers(b, comm, c, salt);
    return STATUS_OK;
}
