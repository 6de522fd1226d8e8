/* Properties of mesh_build for all worlds up to 64 ranks and every ep. */
#include "cmocka_main.h"

#include "parallel/mesh.h"
#include <string.h>

enum { WORLD_MAX = 64 };

static struct mesh built(int world, int ep, int n_experts, int rank)
{
    struct mesh mesh;
    struct mesh_spec spec = {.world_size = world, .ep_size = ep, .n_experts = n_experts};
    assert_int_equal(mesh_build(&mesh, &spec, rank), STATUS_OK);
    return mesh;
}

static int world_rank(const struct group *group, int index)
{
    return group->first + index * group->stride;
}

/* Every member sees the same list of world ranks, in the same order, and finds itself in it. */
static void assert_partition(int world, int ep, size_t offset)
{
    int seen[WORLD_MAX] = {0};
    for (int rank = 0; rank < world; rank++) {
        struct mesh mesh = built(world, ep, 0, rank);
        const struct group *group = (const struct group *)(const void *)((char *)&mesh + offset);
        assert_in_range(group->index, 0, group->size - 1);
        assert_int_equal(world_rank(group, group->index), rank);
        for (int i = 0; i < group->size; i++) {
            int other_rank = world_rank(group, i);
            assert_in_range(other_rank, 0, world - 1);
            struct mesh other_mesh = built(world, ep, 0, other_rank);
            const struct group *other =
                (const struct group *)(const void *)((char *)&other_mesh + offset);
            assert_int_equal(other->first, group->first);
            assert_int_equal(other->stride, group->stride);
            assert_int_equal(other->size, group->size);
            assert_int_equal(other->index, i);
            assert_string_equal(other->name, group->name);
        }
        if (group->index == 0)
            for (int i = 0; i < group->size; i++)
                seen[world_rank(group, i)]++;
    }
    for (int rank = 0; rank < world; rank++)
        assert_int_equal(seen[rank], 1);
}

static void groups_partition_the_world(void **state)
{
    (void)state;
    for (int world = 1; world <= WORLD_MAX; world++)
        for (int ep = 1; ep <= world; ep++) {
            if (world % ep != 0)
                continue;
            assert_partition(world, ep, offsetof(struct mesh, world));
            assert_partition(world, ep, offsetof(struct mesh, tp));
            assert_partition(world, ep, offsetof(struct mesh, ep));
            assert_partition(world, ep, offsetof(struct mesh, etp));
        }
}

static void ranks_are_placed_as_the_header_says(void **state)
{
    (void)state;
    for (int world = 1; world <= WORLD_MAX; world++)
        for (int ep = 1; ep <= world; ep++)
            for (int rank = 0; world % ep == 0 && rank < world; rank++) {
                struct mesh mesh = built(world, ep, 0, rank);
                int etp = world / ep;
                assert_int_equal(mesh.rank, rank);
                assert_int_equal(mesh.ep.size, ep);
                assert_int_equal(mesh.etp.size, etp);
                assert_int_equal(mesh.etp.index, rank % etp);
                assert_int_equal(mesh.ep.index, rank / etp);
                assert_int_equal(mesh.tp.index, rank);
            }
}

/* An ep group and an etp group share exactly one rank, so (ep index, etp index) names every rank. */
static void ep_and_etp_cross_in_one_rank(void **state)
{
    (void)state;
    struct mesh mesh = built(12, 3, 0, 7);
    assert_int_equal(world_rank(&mesh.ep, 0), 3);
    assert_int_equal(world_rank(&mesh.ep, 1), 7);
    assert_int_equal(world_rank(&mesh.ep, 2), 11);
    assert_int_equal(world_rank(&mesh.etp, 0), 4);
    assert_int_equal(world_rank(&mesh.etp, 3), 7);
}

static void ep_defaults_to_tp_when_the_model_has_that_many_experts(void **state)
{
    (void)state;
    assert_int_equal(built(8, 0, 64, 0).ep.size, 8);
    assert_int_equal(built(8, 0, 8, 0).ep.size, 8);
    assert_int_equal(built(8, 0, 7, 0).ep.size, 1);
    assert_int_equal(built(8, 0, 0, 0).ep.size, 1);
    assert_int_equal(built(8, 8, 3, 0).ep.size, 8); /* asked for: empty shares are legal */
}

static void assert_refused(struct mesh_spec spec, const char *text)
{
    struct mesh mesh = {.rank = -7};
    assert_int_equal(mesh_build(&mesh, &spec, 0), STATUS_USAGE);
    assert_string_equal(status_text(), text);
    assert_int_equal(mesh.rank, -7); /* outputs are set after success */
}

static void usage_errors_say_what_would_fit(void **state)
{
    (void)state;
    assert_refused((struct mesh_spec){.world_size = 4, .ep_size = 3},
                   "--ep 3 does not divide tp 4: use 1, 2 or 4");
    assert_refused((struct mesh_spec){.world_size = 1, .ep_size = 2},
                   "--ep 2 does not divide tp 1: use 1");
    assert_refused((struct mesh_spec){.world_size = 7, .ep_size = 8},
                   "--ep 8 does not divide tp 7: use 1 or 7");
    assert_refused((struct mesh_spec){.world_size = 6, .ep_size = -1},
                   "--ep -1 does not divide tp 6: use 1, 2, 3 or 6");
    assert_refused(
        (struct mesh_spec){.world_size = 6, .tp_size = 4},
        "--tp 4 differs from the 6 ranks of the job: use --tp 6, or start as many ranks as "
        "--tp says");
    assert_refused(
        (struct mesh_spec){.world_size = 1, .tp_size = 2},
        "--tp 2 differs from the 1 rank of the job: use --tp 1, or start as many ranks as "
        "--tp says");
    assert_refused((struct mesh_spec){.world_size = 2, .tp_size = -2},
                   "--tp -2 differs from the 2 ranks of the job: use --tp 2");
}

static void every_ep_that_does_not_divide_is_refused(void **state)
{
    (void)state;
    for (int world = 1; world <= WORLD_MAX; world++)
        for (int ep = 1; ep <= WORLD_MAX + 1; ep++) {
            struct mesh mesh;
            struct mesh_spec spec = {.world_size = world, .ep_size = ep};
            assert_int_equal(mesh_build(&mesh, &spec, world - 1),
                             world % ep == 0 ? STATUS_OK : STATUS_USAGE);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_partition_the_world),
        cmocka_unit_test(ranks_are_placed_as_the_header_says),
        cmocka_unit_test(ep_and_etp_cross_in_one_rank),
        cmocka_unit_test(ep_defaults_to_tp_when_the_model_has_that_many_experts),
        cmocka_unit_test(usage_errors_say_what_would_fit),
        cmocka_unit_test(every_ep_that_does_not_divide_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
