/* Properties of shard_plan_build for all worlds up to 64 ranks and every ep. */
#include "cmocka_main.h"

#include "kernels/core/matrix.h"
#include "parallel/shard_plan.h"
#include <stdlib.h>
#include <string.h>

enum { WORLD_MAX = 64 };

/* DeepSeek-V3, V2-Lite, sizes that divide by nothing, fewer items than ranks, a dense model. */
static const struct model_extent extents[] = {
    {.n_heads = 128,
     .vocab_size = 12928,
     .n_experts = 256,
     .dense_columns = 18432,
     .shared_columns = 2048,
     .expert_columns = 2048},
    {.n_heads = 16,
     .vocab_size = 1024,
     .n_experts = 64,
     .dense_columns = 10944,
     .shared_columns = 2816,
     .expert_columns = 1408},
    {.n_heads = 7,
     .vocab_size = 1009,
     .n_experts = 11,
     .dense_columns = 61,
     .shared_columns = 37,
     .expert_columns = 13},
    {.n_heads = 1,
     .vocab_size = 3,
     .n_experts = 2,
     .dense_columns = 1,
     .shared_columns = 5,
     .expert_columns = 2},
    {.n_heads = 4, .vocab_size = 97, .dense_columns = 40},
};
enum { N_EXTENTS = sizeof extents / sizeof extents[0] };

static struct shard_plan planned(const struct model_extent *extent, int world, int ep, int rank)
{
    struct mesh mesh;
    struct mesh_spec spec = {.world_size = world, .ep_size = ep};
    struct shard_plan plan;
    assert_int_equal(mesh_build(&mesh, &spec, rank), STATUS_OK);
    shard_plan_build(&plan, extent, &mesh);
    return plan;
}

/* Counts in `held` who holds which of `n` items. */
static void hold(unsigned char *held, struct span span, int64_t n)
{
    assert_true(0 <= span.begin && span.begin <= span.end && span.end <= n);
    for (int64_t i = span.begin; i < span.end; i++)
        held[i]++;
}

static void assert_all_once(const unsigned char *held, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(held[i], 1);
}

static void assert_each_item_once(const struct model_extent *e, int world, int ep,
                                  struct span (*span_of)(const struct shard_plan *), int64_t n)
{
    unsigned char *held = calloc((size_t)n + 1, 1);
    assert_non_null(held);
    for (int rank = 0; rank < world; rank++) {
        struct shard_plan plan = planned(e, world, ep, rank);
        hold(held, span_of(&plan), n);
    }
    assert_all_once(held, n);
    free(held);
}

static struct span heads_of(const struct shard_plan *plan)
{
    return plan->heads;
}
static struct span vocab_of(const struct shard_plan *plan)
{
    return plan->vocab;
}
static struct span dense_of(const struct shard_plan *plan)
{
    return plan->dense_columns;
}
static struct span shared_of(const struct shard_plan *plan)
{
    return plan->shared_columns;
}

static void heads_vocabulary_and_columns_are_held_exactly_once(void **state)
{
    (void)state;
    for (int i = 0; i < N_EXTENTS; i++)
        for (int world = 1; world <= WORLD_MAX; world++) {
            const struct model_extent *e = &extents[i];
            assert_each_item_once(e, world, 1, heads_of, e->n_heads);
            assert_each_item_once(e, world, 1, vocab_of, e->vocab_size);
            assert_each_item_once(e, world, 1, dense_of, e->dense_columns);
            assert_each_item_once(e, world, 1, shared_of, e->shared_columns);
        }
}

static void expert_columns_are_held_exactly_once(void **state)
{
    (void)state;
    for (int i = 0; i < N_EXTENTS; i++) {
        const struct model_extent *e = &extents[i];
        int64_t n = e->n_experts * e->expert_columns;
        unsigned char *held = malloc((size_t)n + 1);
        assert_non_null(held);
        for (int world = 1; world <= WORLD_MAX; world++)
            for (int ep = 1; ep <= world; ep++) {
                if (world % ep != 0)
                    continue;
                memset(held, 0, (size_t)n);
                for (int rank = 0; rank < world; rank++) {
                    struct shard_plan plan = planned(e, world, ep, rank);
                    for (int64_t x = plan.experts.begin; x < plan.experts.end; x++)
                        hold(held + x * e->expert_columns, plan.expert_columns, e->expert_columns);
                }
                assert_all_once(held, n);
            }
        free(held);
    }
}

/* The rule that lets groups of 1, 2, 4 and 8 give the same bits. */
static void spans_are_whole_reduction_units(void **state)
{
    (void)state;
    for (int64_t n = 0; n <= 300; n++)
        for (int parts = 1; parts <= UNITS; parts *= 2)
            for (int i = 0; i < parts; i++) {
                struct span span = span_part(n, parts, i);
                int units = UNITS / parts;
                assert_int_equal(span.begin, unit_begin(i * units, n));
                assert_int_equal(span.end, unit_begin((i + 1) * units, n));
            }
}

static void parts_differ_by_at_most_one_item(void **state)
{
    (void)state;
    for (int64_t n = 0; n <= 300; n++)
        for (int parts = 1; parts <= WORLD_MAX; parts++)
            for (int i = 0; i < parts; i++) {
                int64_t size = span_size(span_part(n, parts, i));
                assert_true(size == n / parts || size == (n + parts - 1) / parts);
            }
}

static void large_counts_do_not_overflow(void **state)
{
    (void)state;
    int64_t n = INT64_C(1) << 50, end = 0;
    for (int i = 0; i < 512; i++) {
        struct span span = span_part(n, 512, i);
        assert_int_equal(span.begin, end);
        assert_int_equal(span_size(span), n / 512);
        end = span.end;
    }
    assert_int_equal(end, n);
}

/* A layer is held once by each replica, whole experts by one rank of its stage. */
static void layers_are_held_once_by_every_replica(void **state)
{
    (void)state;
    const struct model_extent extent = {
        .n_heads = 5, .vocab_size = 7, .n_experts = 6, .n_layers = 7};
    for (int pp = 1; pp <= 7; pp++)
        for (int dp = 1; dp <= 3; dp++) {
            unsigned char held[8] = {0}, experts[7][8] = {{0}};
            int n_embeddings = 0, n_heads = 0;
            for (int rank = 0; rank < pp * dp * 2; rank++) {
                struct mesh mesh;
                struct shard_plan plan;
                struct mesh_spec spec = {
                    .world_size = pp * dp * 2, .dp_size = dp, .pp_size = pp, .ep_size = dp * 2};
                assert_int_equal(mesh_build(&mesh, &spec, rank), STATUS_OK);
                shard_plan_build(&plan, &extent, &mesh);
                assert_true(span_size(plan.layers) >= 7 / pp);
                for (int64_t l = plan.layers.begin; l < plan.layers.end; l++)
                    hold(experts[l], plan.experts, 6);
                if (mesh.tp.index != 0 || mesh.dp.index != 0)
                    continue;
                hold(held, plan.layers, 7);
                n_embeddings += plan.has_embedding;
                n_heads += plan.has_head;
            }
            assert_all_once(held, 7);
            for (int l = 0; l < 7; l++)
                assert_all_once(experts[l], 6);
            assert_int_equal(n_embeddings, 1);
            assert_int_equal(n_heads, 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_vocabulary_and_columns_are_held_exactly_once),
        cmocka_unit_test(layers_are_held_once_by_every_replica),
        cmocka_unit_test(expert_columns_are_held_exactly_once),
        cmocka_unit_test(spans_are_whole_reduction_units),
        cmocka_unit_test(parts_differ_by_at_most_one_item),
        cmocka_unit_test(large_counts_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
