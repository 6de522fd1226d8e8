/* The tree against its recursive definition, and the exchanges played through for all members. */
#include "cmocka_main.h"

#include "parallel/reduction_tree.h"
#include <math.h>
#include <string.h>

enum { MEMBERS_MAX = 64, COUNT = 37 };

static uint64_t random_state = 20261123;

/* Of very different sizes, so that another order of additions shows. */
static float random_float(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    float value = (float)(int32_t)(random_state >> 32) / 2147483648.0f;
    return ldexpf(value, (int)(random_state >> 20 & 15));
}

/* The tree of parts [begin, end): the left half is the largest power of two below the size. */
static float recursive_sum(const float *parts, int begin, int end)
{
    int half = 1;
    if (end - begin == 1)
        return parts[begin];
    while (half * 2 < end - begin)
        half *= 2;
    return recursive_sum(parts, begin, begin + half) + recursive_sum(parts, begin + half, end);
}

static void assert_same_bits(float found, float expected)
{
    assert_memory_equal(&found, &expected, sizeof found);
}

static void sum_follows_the_recursive_definition(void **state)
{
    (void)state;
    for (int n = 1; n <= MEMBERS_MAX; n++) {
        float parts[MEMBERS_MAX * COUNT], column[MEMBERS_MAX], expected[COUNT];
        for (int i = 0; i < n * COUNT; i++)
            parts[i] = random_float();
        for (int c = 0; c < COUNT; c++) {
            for (int i = 0; i < n; i++)
                column[i] = parts[i * COUNT + c];
            expected[c] = recursive_sum(column, 0, n);
        }
        reduction_tree_sum(parts, n, COUNT);
        for (int c = 0; c < COUNT; c++)
            assert_same_bits(parts[c], expected[c]);
    }
}

/* Vectors that are no whole number of blocks, into a place of their own and over any of the parts. */
static void sums_of_parts_anywhere_are_the_same(void **state)
{
    (void)state;
    enum { LONG = 259, PARTS_MAX = 19 };
    static float parts[PARTS_MAX][LONG], expected[PARTS_MAX * LONG], y[LONG];
    for (int n = 1; n <= PARTS_MAX; n++)
        for (int over = -1; over < n; over++) {
            const float *part[PARTS_MAX];
            for (int i = 0; i < n; i++) {
                part[i] = parts[i];
                for (int k = 0; k < LONG; k++)
                    expected[i * LONG + k] = parts[i][k] = random_float();
            }
            float *sum = over < 0 ? y : parts[over];
            reduction_tree_sum(expected, n, LONG);
            reduction_tree_sum_of(sum, part, n, LONG);
            assert_memory_equal(sum, expected, LONG * sizeof *sum);
        }
}

/* Written out from the header of kernels/core/matrix.h and the sentence for odd counts. */
static void small_trees_are_as_written(void **state)
{
    (void)state;
    float p[8], x[8];
    for (int i = 0; i < 8; i++)
        p[i] = random_float();
    const float expected[9] = {
        [1] = p[0],
        [2] = p[0] + p[1],
        [3] = (p[0] + p[1]) + p[2],
        [4] = (p[0] + p[1]) + (p[2] + p[3]),
        [5] = ((p[0] + p[1]) + (p[2] + p[3])) + p[4],
        [6] = ((p[0] + p[1]) + (p[2] + p[3])) + (p[4] + p[5]),
        [7] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + p[6]),
        [8] = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])),
    };
    for (int n = 1; n <= 8; n++) {
        memcpy(x, p, sizeof x);
        reduction_tree_sum(x, n, 1);
        assert_same_bits(x[0], expected[n]);
    }
}

/* All members exchange level by level; each must end with the whole tree, and every message that one
 * expects must be sent by the other, once. */
static void exchanges_give_every_member_the_tree(void **state)
{
    (void)state;
    for (int size = 1; size <= MEMBERS_MAX; size++) {
        float parts[MEMBERS_MAX], sums[MEMBERS_MAX], next[MEMBERS_MAX];
        for (int i = 0; i < size; i++)
            sums[i] = parts[i] = random_float();
        for (int stride = 1; stride < size; stride *= 2) {
            int receives[MEMBERS_MAX] = {0};
            for (int i = 0; i < size; i++) {
                struct reduction_exchange own = reduction_exchange_at(size, i, stride);
                for (int to = own.send_to; to < own.send_end; to += own.send_step) {
                    assert_int_equal(reduction_exchange_at(size, to, stride).receive_from, i);
                    receives[to]++;
                }
                next[i] = own.receive_from < 0 ? sums[i] : sums[i] + sums[own.receive_from];
            }
            for (int i = 0; i < size; i++)
                assert_int_equal(receives[i],
                                 reduction_exchange_at(size, i, stride).receive_from >= 0);
            memcpy(sums, next, sizeof sums);
        }
        for (int i = 0; i < size; i++)
            assert_same_bits(sums[i], recursive_sum(parts, 0, size));
    }
}

/* Members of one rank count that hold whole subtrees continue the tree of eight units. */
static void halves_and_quarters_continue_the_tree_of_units(void **state)
{
    (void)state;
    float units[8], whole[8];
    for (int i = 0; i < 8; i++)
        whole[i] = units[i] = random_float();
    reduction_tree_sum(whole, 8, 1);
    for (int size = 1; size <= 8; size *= 2) {
        float local[8], members[8];
        for (int i = 0; i < size; i++) {
            memcpy(local, units + i * 8 / size, (size_t)(8 / size) * sizeof *local);
            reduction_tree_sum(local, 8 / size, 1);
            members[i] = local[0];
        }
        reduction_tree_sum(members, size, 1);
        assert_same_bits(members[0], whole[0]);
    }
}

static void negative_zero_is_the_neutral_element(void **state)
{
    (void)state;
    const float values[] = {-0.0f, 0.0f, 1.5f, -INFINITY};
    for (int i = 0; i < 4; i++) {
        float parts[2] = {values[i], -0.0f};
        reduction_tree_sum(parts, 2, 1);
        assert_same_bits(parts[0], values[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_follows_the_recursive_definition),
        cmocka_unit_test(sums_of_parts_anywhere_are_the_same),
        cmocka_unit_test(small_trees_are_as_written),
        cmocka_unit_test(exchanges_give_every_member_the_tree),
        cmocka_unit_test(halves_and_quarters_continue_the_tree_of_units),
        cmocka_unit_test(negative_zero_is_the_neutral_element),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
