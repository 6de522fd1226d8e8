/* test_weights.c - the table of tensors, and that every plan covers each of them exactly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/weights.h"

enum { MAX_RANKS = 11 };

static struct model_config small_config(void)
{
    struct model_config c = {.n_layers = 2,
                             .d = 8,
                             .vocab_size = 13,
                             .n_heads = 5,
                             .d_cq = 6,
                             .d_c = 4,
                             .d_n = 2,
                             .d_r = 2,
                             .d_v = 3,
                             .dense_columns = 10,
                             .expert_columns = 7,
                             .n_shared_experts = 1,
                             .dtype = DTYPE_BF16,
                             .has_attention_bias = 1,
                             .model_type = "deepseek_v3"};
    c.router = (struct router_params){.scoring = ROUTER_SIGMOID,
                                      .method = ROUTER_NOAUX_TC,
                                      .n_experts = 6,
                                      .n_chosen = 2,
                                      .n_groups = 1,
                                      .n_chosen_groups = 1};
    c.is_moe[1] = 1;
    return c;
}

struct coverage {
    const struct model_config *config;
    const struct shard_plan *plan; /* [n_ranks] */
    int n_ranks;
    int n_tensors;
};

/* Counts for each element on how many ranks it is: split tensors once, others on every rank. */
static enum status count_holders(void *context, const struct weight_item *item)
{
    struct coverage *c = context;
    int64_t width = item->ndim == 2 ? item->dim[1] : 1, n = item->dim[0] * width;
    unsigned char *holders = calloc((size_t)n, 1);
    for (int r = 0; r < c->n_ranks; r++) {
        struct span rows, columns;
        weight_slice(c->config, &c->plan[r], item, &rows, &columns);
        for (int64_t i = rows.begin; i < rows.end; i++)
            for (int64_t j = columns.begin; j < columns.end; j++)
                holders[i * width + j]++;
    }
    int expected = item->split == SPLIT_NONE ? c->n_ranks : 1;
    for (int64_t i = 0; i < n; i++)
        if (holders[i] != expected)
            fail_msg("%s: element %lld is on %d of %d ranks", item->name, (long long)i, holders[i],
                     c->n_ranks);
    free(holders);
    c->n_tensors++;
    return STATUS_OK;
}

static void every_weight_is_held_exactly_once_in_every_layout(void **state)
{
    struct model_config config = small_config();
    struct model_extent extent = weights_extent(&config);
    (void)state;
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        for (int ep = 1; ep <= ranks; ep++) {
            struct shard_plan plan[MAX_RANKS];
            if (ranks % ep != 0)
                continue;
            for (int r = 0; r < ranks; r++) {
                struct mesh_spec spec = {.world_size = ranks, .ep_size = ep, .n_experts = 6};
                struct mesh mesh;
                assert_int_equal(mesh_build(&mesh, &spec, r), STATUS_OK);
                shard_plan_build(&plan[r], &extent, &mesh);
            }
            struct coverage coverage = {&config, plan, ranks, 0};
            assert_int_equal(weights_each(&config, count_holders, &coverage), STATUS_OK);
            /* 3 of no layer; attention 12 and 3 of the FFN; attention 12, router 2, shared 3, 6
             * experts of 3 */
            assert_int_equal(coverage.n_tensors, 3 + 15 + 12 + 2 + 3 + 18);
        }
    }
}

/* 6 experts in 9 slots: each slot is on one rank of ep, cut over etp, and has its expert's name. */
static enum status check_slot(void *context, const struct weight_item *item)
{
    const struct coverage *c = context;
    char name[64];
    if (item->expert >= 0) {
        assert_int_equal(item->expert, c->plan->expert_maps[item->layer].expert[item->slot]);
        snprintf(name, sizeof name, "mlp.experts.%d.", item->expert);
        assert_non_null(strstr(item->name, name));
    }
    return count_holders(context, item);
}

static void every_slot_is_held_exactly_once(void **state)
{
    static const int layout[][2] = {{1, 1}, {2, 2}, {4, 2}, {4, 4}, {9, 3}, {11, 11}};
    const int64_t load[] = {1, 50, 3, 40, 5, 6};
    struct model_config config = small_config();
    (void)state;
    for (size_t i = 0; i < sizeof layout / sizeof layout[0]; i++) {
        int ranks = layout[i][0], ep = layout[i][1];
        const struct expert_map_spec places = {.n_experts = 6, .n_redundant = 3, .n_ranks = ep};
        struct expert_map maps[2] = {{0}};
        struct shard_plan plan[MAX_RANKS];
        struct model_extent extent = weights_extent(&config);
        int64_t with, without, bytes = 0;
        assert_int_equal(expert_map_open(&maps[1], &places, load), STATUS_OK);
        extent.n_experts = 9;
        for (int r = 0; r < ranks; r++) {
            struct mesh_spec spec = {.world_size = ranks, .ep_size = ep};
            struct mesh mesh;
            assert_int_equal(mesh_build(&mesh, &spec, r), STATUS_OK);
            shard_plan_build(&plan[r], &extent, &mesh);
            plan[r].expert_maps = maps;
            struct shard_plan others = plan[r];
            others.experts = (struct span){0, 0};
            assert_int_equal(weights_rank_bytes(&config, NULL, &plan[r], &with), STATUS_OK);
            assert_int_equal(weights_rank_bytes(&config, NULL, &others, &without), STATUS_OK);
            bytes += with - without;
        }
        /* gate, up and down of 9 slots, bf16 */
        assert_int_equal(bytes, 9 * 3 * config.expert_columns * config.d * 2);
        struct coverage coverage = {&config, plan, ranks, 0};
        assert_int_equal(weights_each_slot(&config, maps, check_slot, &coverage), STATUS_OK);
        assert_int_equal(coverage.n_tensors, 3 + 15 + 12 + 2 + 3 + 27);
        expert_map_close(&maps[1]);
    }
}

/* Two stages: each element is on one of them, split as by one of its size. */
static void stages_share_the_layers(void **state)
{
    struct model_config config = small_config();
    struct model_extent extent = weights_extent(&config);
    int64_t bytes[2], whole;
    (void)state;
    struct mesh mesh;
    struct shard_plan plan;
    struct mesh_spec alone = {.world_size = 1}, spec = {.world_size = 2, .pp_size = 2};
    for (int ties = 0; ties < 2; ties++) {
        config.ties_embeddings = ties;
        assert_int_equal(mesh_build(&mesh, &alone, 0), STATUS_OK);
        shard_plan_build(&plan, &extent, &mesh);
        assert_int_equal(weights_rank_bytes(&config, NULL, &plan, &whole), STATUS_OK);
        for (int r = 0; r < 2; r++) {
            assert_int_equal(mesh_build(&mesh, &spec, r), STATUS_OK);
            shard_plan_build(&plan, &extent, &mesh);
            assert_int_equal(weights_rank_bytes(&config, NULL, &plan, &bytes[r]), STATUS_OK);
            assert_true(bytes[r] > 0);
        }
        /* a tied embedding is on both */
        int64_t twice = ties ? config.vocab_size * config.d * 2 : 0;
        assert_int_equal(bytes[0] + bytes[1], whole + twice);
    }
}

static void bytes_of_the_ranks_add_up_to_the_model(void **state)
{
    struct model_config config = small_config();
    struct model_extent extent = weights_extent(&config);
    struct model_size size;
    int64_t bytes;
    (void)state;
    struct mesh_spec spec = {.world_size = 1};
    struct mesh mesh;
    struct shard_plan plan;
    assert_int_equal(mesh_build(&mesh, &spec, 0), STATUS_OK);
    shard_plan_build(&plan, &extent, &mesh);
    assert_int_equal(weights_rank_bytes(&config, NULL, &plan, &bytes), STATUS_OK);
    model_config_size(&config, &size);
    /* bf16, the 6 router biases in f32 */
    assert_int_equal(bytes, size.parameters * 2 + 6 * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_is_held_exactly_once_in_every_layout),
        cmocka_unit_test(every_slot_is_held_exactly_once),
        cmocka_unit_test(stages_share_the_layers),
        cmocka_unit_test(bytes_of_the_ranks_add_up_to_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
