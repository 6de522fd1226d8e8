/* Properties of mesh_build: all worlds up to 64 ranks and every ep, and random meshes up to 4096 ranks. */
#include "cmocka_main.h"

#include "parallel/mesh.h"
#include "tests/random.h"
#include <stdlib.h>
#include <string.h>

enum { WORLD_MAX = 64, RANDOM_WORLD_MAX = 4096, RANDOM_MESHES = 2000 };

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

/* Every rank's group at `offset` is that of its member 0, seen from its own place, and the sizes of the
 * groups add up to the world: so each rank is in exactly one. */
static void assert_partition_of(const struct mesh *meshes, int world, size_t offset)
{
    int n_members = 0;
    for (int rank = 0; rank < world; rank++) {
        const struct group *own =
            (const struct group *)(const void *)((const char *)&meshes[rank] + offset);
        assert_in_range(own->first, 0, rank);
        const struct group *leader =
            (const struct group *)(const void *)((const char *)&meshes[own->first] + offset);
        assert_in_range(own->index, 0, own->size - 1);
        assert_int_equal(world_rank(own, own->index), rank);
        assert_in_range(world_rank(own, own->size - 1), 0, world - 1);
        assert_int_equal(leader->index, 0);
        assert_int_equal(leader->first, own->first);
        assert_int_equal(leader->size, own->size);
        assert_int_equal(leader->stride, own->stride);
        n_members += own->index == 0 ? own->size : 0;
    }
    assert_int_equal(n_members, world);
}

static void assert_places(const struct mesh *mesh, const struct mesh_spec *spec)
{
    int tp = spec->tp_size, dp = spec->dp_size, pp = spec->pp_size, rank = mesh->rank;
    int stage = dp * tp, p = rank / stage, etp = stage / spec->ep_size;
    assert_int_equal(mesh->tp.size, tp);
    assert_int_equal(mesh->dp.size, dp);
    assert_int_equal(mesh->pp.size, pp);
    assert_int_equal(mesh->stage.size, stage);
    assert_int_equal(rank, (mesh->pp.index * dp + mesh->dp.index) * tp + mesh->tp.index);
    assert_int_equal(mesh->stage.index, mesh->ep.index * etp + mesh->etp.index);
    assert_int_equal(mesh->ends.size, pp > 1 && (p == 0 || p == pp - 1) ? 2 : 1);
    assert_int_equal(mesh->tp.stride, 1); /* neighbours, so that they stay in a node */
    const struct group *before = &mesh->link[mesh_link_before(mesh)];
    const struct group *behind = &mesh->link[mesh_link_behind(mesh)];
    assert_int_equal(before->size, p > 0 ? 2 : 1);
    assert_int_equal(behind->size, p < pp - 1 ? 2 : 1);
    if (p > 0) {
        assert_int_equal(before->index, 1);
        assert_int_equal(world_rank(before, 0), rank - stage);
    }
    if (p < pp - 1) {
        assert_int_equal(behind->index, 0);
        assert_int_equal(world_rank(behind, 1), rank + stage);
    }
}

static int random_size(uint64_t *state, int limit)
{
    int shift = (int)(random_bits(state) % 7);
    int size = 1 + (int)(random_bits(state) % (1 + (uint64_t)(limit >> shift)));
    return size < limit ? size : limit;
}

static void random_meshes_partition_the_world(void **state)
{
    static const size_t offset[] = {offsetof(struct mesh, world),   offsetof(struct mesh, tp),
                                    offsetof(struct mesh, dp),      offsetof(struct mesh, pp),
                                    offsetof(struct mesh, stage),   offsetof(struct mesh, ep),
                                    offsetof(struct mesh, etp),     offsetof(struct mesh, link[0]),
                                    offsetof(struct mesh, link[1]), offsetof(struct mesh, ends)};
    (void)state;
    uint64_t random = 41;
    struct mesh *meshes = calloc(RANDOM_WORLD_MAX, sizeof *meshes);
    assert_non_null(meshes);
    for (int i = 0; i < RANDOM_MESHES; i++) {
        struct mesh_spec spec = {.tp_size = random_size(&random, 64)};
        spec.dp_size = random_size(&random, RANDOM_WORLD_MAX / spec.tp_size);
        int stage = spec.tp_size * spec.dp_size;
        spec.pp_size = random_size(&random, RANDOM_WORLD_MAX / stage);
        spec.world_size = stage * spec.pp_size;
        do
            spec.ep_size = random_size(&random, stage);
        while (stage % spec.ep_size != 0);
        for (int rank = 0; rank < spec.world_size; rank++) {
            assert_int_equal(mesh_build(&meshes[rank], &spec, rank), STATUS_OK);
            assert_places(&meshes[rank], &spec);
        }
        for (size_t g = 0; g < sizeof offset / sizeof offset[0]; g++)
            assert_partition_of(meshes, spec.world_size, offset[g]);
    }
    free(meshes);
}

/* Neighbours in tp on the same node, whatever stands on the others: the group of each of them. */
static void ranks_of_a_node_share_a_cache(void **state)
{
    enum { TP = 12 };
    (void)state;
    uint64_t random = 5;
    for (int round = 0; round < 500; round++) {
        int32_t node[TP];
        int n_groups = 0;
        struct group group[TP];
        for (int i = 0; i < TP; i++)
            node[i] = (int32_t)(random_bits(&random) % 3);
        for (int i = 0; i < TP; i++) {
            struct mesh mesh;
            const struct mesh_spec spec = {.world_size = 2 * TP, .dp_size = 2, .ep_size = 1};
            assert_int_equal(mesh_build(&mesh, &spec, TP + i), STATUS_OK);
            group[i] = mesh_node_group(&mesh, node);
            int first = i - group[i].index, begins = i == 0 || node[i] != node[i - 1];
            assert_int_equal(world_rank(&group[i], group[i].index), TP + i);
            assert_int_equal(group[i].first, TP + first);
            for (int k = first; k < first + group[i].size; k++)
                assert_int_equal(node[k], node[i]);
            assert_true(first == 0 || node[first - 1] != node[i]);
            assert_true(first + group[i].size == TP || node[first + group[i].size] != node[i]);
            assert_int_equal(group[i].index == 0, begins);
            n_groups += begins;
        }
        assert_in_range(n_groups, 1, TP);
    }
}

static void sizes_that_are_not_given_have_defaults(void **state)
{
    (void)state;
    struct mesh mesh;
    const struct mesh_spec spec = {
        .world_size = 24, .dp_size = 2, .pp_size = 3, .n_experts = 8, .n_layers = 3};
    assert_int_equal(mesh_build(&mesh, &spec, 0), STATUS_OK);
    assert_int_equal(mesh.tp.size, 4);
    assert_int_equal(mesh.ep.size, 8);
}

static void dp_and_pp_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    assert_refused((struct mesh_spec){.world_size = 6, .dp_size = 4},
                   "the 6 ranks of the job cannot be shared by --dp 4 and --pp 1: start a multiple "
                   "of 4 ranks");
    assert_refused((struct mesh_spec){.world_size = 6, .tp_size = 2, .dp_size = 2},
                   "--tp 2 x --dp 2 x --pp 1 make 4 ranks, the job has 6: start as many, or leave "
                   "--tp out");
    assert_refused((struct mesh_spec){.world_size = 2, .pp_size = 3},
                   "--dp 1, --pp 3: each is 1 or more, and the job has 2 ranks");
    assert_refused((struct mesh_spec){.world_size = 2, .dp_size = -1},
                   "--dp -1, --pp 1: each is 1 or more, and the job has 2 ranks");
    assert_refused((struct mesh_spec){.world_size = 4, .pp_size = 4, .n_layers = 3},
                   "--pp 4: the model has 3 layers, and each stage needs one; use up to 3");
    assert_refused((struct mesh_spec){.world_size = 4, .dp_size = 2, .ep_size = 3},
                   "--ep 3 does not divide tp 2 x dp 2: use 1, 2 or 4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_meshes_partition_the_world),
        cmocka_unit_test(ranks_of_a_node_share_a_cache),
        cmocka_unit_test(sizes_that_are_not_given_have_defaults),
        cmocka_unit_test(dp_and_pp_that_do_not_fit_are_refused),
        cmocka_unit_test(groups_partition_the_world),
        cmocka_unit_test(ranks_are_placed_as_the_header_says),
        cmocka_unit_test(ep_and_etp_cross_in_one_rank),
        cmocka_unit_test(ep_defaults_to_tp_when_the_model_has_that_many_experts),
        cmocka_unit_test(usage_errors_say_what_would_fit),
        cmocka_unit_test(every_ep_that_does_not_divide_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
