/* Places of experts as properties: random, empty and skewed loads, 1 to 64 ranks, with and without copies. */
#include "cmocka_main.h"

#include "parallel/expert_map.h"
#include "parallel/shard_plan.h"
#include "tests/random.h"

#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 64, EXPERTS_MAX = 300 };

enum load_kind { LOAD_NONE, LOAD_EQUAL, LOAD_RANDOM, LOAD_SKEWED, LOAD_ONE_HOT, LOAD_HUGE, LOADS };

static uint64_t seed = 20261128;

static int random_below(int end)
{
    return (int)(random_bits(&seed) % (uint64_t)end);
}

static void fill(int64_t *load, int n, enum load_kind kind)
{
    int hot = random_below(n);
    for (int e = 0; e < n; e++) {
        int64_t r = random_below(1000);
        load[e] = kind == LOAD_EQUAL     ? 17
                  : kind == LOAD_RANDOM  ? r
                  : kind == LOAD_SKEWED  ? r * r * r / (1 + random_below(100))
                  : kind == LOAD_ONE_HOT ? (e == hot) * INT64_C(1000000)
                  : kind == LOAD_HUGE    ? EXPERT_LOAD_MAX / n - r
                                         : 0;
    }
}

static double largest(const double *x, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

/* Experts in the order of their ids, each once. */
static double largest_in_order(const int64_t *load, int n_experts, int n_ranks)
{
    double most = 0;
    for (int r = 0; r < n_ranks; r++) {
        struct span own = span_part(n_experts, n_ranks, r);
        double sum = 0;
        for (int64_t e = own.begin; e < own.end; e++)
            sum += (double)load[e];
        most = sum > most ? sum : most;
    }
    return most;
}

typedef void (*map_check)(const struct expert_map *map, const struct expert_map_spec *spec,
                          const int64_t *load);

/* Sizes that divide and that do not, fewer experts than ranks. */
static void check_many(map_check check)
{
    for (int n_ranks = 1; n_ranks <= RANKS_MAX; n_ranks++)
        for (int kind = 0; kind < LOADS; kind++)
            for (int i = 0; i < 6; i++) {
                int64_t load[EXPERTS_MAX];
                int n = i < 2 ? n_ranks * (i + 1) : 1 + random_below(i < 4 ? 40 : EXPERTS_MAX);
                struct expert_map_spec spec = {.n_experts = n,
                                               .n_redundant =
                                                   i % 2 == 0 ? 0 : random_below(2 * n_ranks),
                                               .n_ranks = n_ranks};
                struct expert_map map;
                fill(load, n, (enum load_kind)kind);
                assert_int_equal(expert_map_open(&map, &spec, load), STATUS_OK);
                check(&map, &spec, load);
                expert_map_close(&map);
            }
}

static void check_slots(const struct expert_map *map, const struct expert_map_spec *spec,
                        const int64_t *load)
{
    int seen[EXPERTS_MAX] = {0}, n = spec->n_experts;
    (void)load;
    assert_int_equal(map->n_slots, n + spec->n_redundant);
    for (int s = 0; s < map->n_slots; s++) {
        assert_in_range(map->expert[s], 0, n - 1);
        seen[map->expert[s]]++;
    }
    for (int e = 0; e < n; e++) {
        assert_true(seen[e] >= 1);
        assert_int_equal(expert_map_copies(map, e), seen[e]);
        for (int k = 0; k < seen[e]; k++) {
            int slot = map->slot[map->first[e] + k];
            assert_int_equal(map->expert[slot], e);
            assert_true(k == 0 || map->slot[map->first[e] + k - 1] < slot);
        }
    }
}

static void every_expert_has_a_slot_and_every_slot_an_expert(void **state)
{
    (void)state;
    check_many(check_slots);
}

/* c: the largest load of a copy. */
static void check_bound(const struct expert_map *map, const struct expert_map_spec *spec,
                        const int64_t *load)
{
    double sum[RANKS_MAX], total = 0, c = 0, least;
    double rounding = (double)map->n_slots / 512; /* shares are whole 1024ths */
    expert_map_rank_loads(sum, map, load);
    for (int e = 0; e < spec->n_experts; e++) {
        double share = (double)load[e] / expert_map_copies(map, e);
        c = share > c ? share : c;
        total += (double)load[e];
    }
    least = sum[0];
    for (int r = 1; r < spec->n_ranks; r++)
        least = sum[r] < least ? sum[r] : least;
    double most = largest(sum, spec->n_ranks);
    assert_true(most - least <= c + rounding);
    assert_true(most <= total / spec->n_ranks + c + rounding);
    double together = 0;
    for (int r = 0; r < spec->n_ranks; r++)
        together += sum[r];
    assert_true(together - total <= total * 1e-12 && total - together <= total * 1e-12);
}

static void ranks_differ_by_one_copy_at_most(void **state)
{
    (void)state;
    check_many(check_bound);
}

static void check_order(const struct expert_map *map, const struct expert_map_spec *spec,
                        const int64_t *load)
{
    double sum[RANKS_MAX];
    if (spec->n_redundant > 0)
        return;
    expert_map_rank_loads(sum, map, load);
    assert_true(largest(sum, spec->n_ranks) <=
                largest_in_order(load, spec->n_experts, spec->n_ranks) * (1 + 1e-12));
}

static void no_placement_is_worse_than_the_order_of_ids(void **state)
{
    (void)state;
    check_many(check_order);
}

static void check_repeats(const struct expert_map *map, const struct expert_map_spec *spec,
                          const int64_t *load)
{
    struct expert_map again;
    assert_int_equal(expert_map_open(&again, spec, load), STATUS_OK);
    assert_memory_equal(again.expert, map->expert, (size_t)map->n_slots * sizeof *map->expert);
    assert_memory_equal(again.slot, map->slot, (size_t)map->n_slots * sizeof *map->slot);
    expert_map_close(&again);
}

static void the_same_loads_give_the_same_places(void **state)
{
    (void)state;
    check_many(check_repeats);
}

/* Nobody could have been given a copy with more need for it than those who got one. */
static void check_copies(const struct expert_map *map, const struct expert_map_spec *spec,
                         const int64_t *load)
{
    for (int e = 0; e < spec->n_experts; e++)
        for (int f = 0; f < spec->n_experts; f++) {
            int has = expert_map_copies(map, e), others = expert_map_copies(map, f);
            if (has == 1 || has > spec->n_ranks || others >= spec->n_ranks)
                continue;
            assert_true((double)load[e] / (has - 1) >= (double)load[f] / others * (1 - 1e-12));
        }
}

static void copies_go_where_the_load_per_copy_is_largest(void **state)
{
    (void)state;
    check_many(check_copies);
}

static void a_hot_expert_is_shared_by_all_ranks(void **state)
{
    (void)state;
    for (int n_ranks = 2; n_ranks <= RANKS_MAX; n_ranks++) {
        int64_t load[2 * RANKS_MAX];
        double sum[RANKS_MAX];
        const struct expert_map_spec spec = {
            .n_experts = 2 * n_ranks, .n_redundant = n_ranks, .n_ranks = n_ranks};
        struct expert_map map;
        for (int e = 0; e < spec.n_experts; e++)
            load[e] = e == 1 ? 6400000 : 1;
        assert_int_equal(expert_map_open(&map, &spec, load), STATUS_OK);
        assert_int_equal(expert_map_copies(&map, 1), n_ranks);
        int used[RANKS_MAX] = {0}; /* by tokens 0, 1, 2, ... */
        for (int t = 0; t < 10 * n_ranks; t++) {
            int slot = expert_map_slot(&map, 1, t);
            assert_int_equal(map.expert[slot], 1);
            used[slot / 3]++;
        }
        for (int r = 0; r < n_ranks; r++)
            assert_int_equal(used[r], 10);
        expert_map_rank_loads(sum, &map, load);
        assert_true(expert_map_imbalance(sum, n_ranks) < 1.001);
        expert_map_close(&map);
    }
}

/* 8 experts on 4 ranks, worked out by hand: 9 + 1, 8 + 2, 7 + 3, 6 + 4. */
static void a_small_case(void **state)
{
    (void)state;
    const int64_t load[] = {9, 8, 7, 6, 4, 3, 2, 1};
    const struct expert_map_spec spec = {.n_experts = 8, .n_ranks = 4};
    const int32_t expected[] = {0, 7, 1, 6, 2, 5, 3, 4};
    double sum[4];
    struct expert_map map;
    assert_int_equal(expert_map_open(&map, &spec, load), STATUS_OK);
    assert_memory_equal(map.expert, expected, sizeof expected);
    expert_map_rank_loads(sum, &map, load);
    for (int r = 0; r < 4; r++)
        assert_true(sum[r] > 9.999 && sum[r] < 10.001);
    expert_map_close(&map);
}

static void imbalance_is_the_largest_over_the_mean(void **state)
{
    (void)state;
    const double none[] = {0, 0, 0}, even[] = {4, 4}, skewed[] = {6, 2, 1, 3};
    assert_true(expert_map_imbalance(none, 3) == 1);
    assert_true(expert_map_imbalance(even, 2) == 1);
    assert_true(expert_map_imbalance(skewed, 4) == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_expert_has_a_slot_and_every_slot_an_expert),
        cmocka_unit_test(ranks_differ_by_one_copy_at_most),
        cmocka_unit_test(no_placement_is_worse_than_the_order_of_ids),
        cmocka_unit_test(the_same_loads_give_the_same_places),
        cmocka_unit_test(copies_go_where_the_load_per_copy_is_largest),
        cmocka_unit_test(a_hot_expert_is_shared_by_all_ranks),
        cmocka_unit_test(a_small_case),
        cmocka_unit_test(imbalance_is_the_largest_over_the_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
