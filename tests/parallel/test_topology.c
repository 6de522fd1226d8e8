/* Shares of cores, and machines that are not this one. */
#include "cmocka_main.h"

#include "parallel/topology.h"
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>

static void shares_cover_all_cores_once_and_differ_by_one(void **state)
{
    (void)state;
    for (int n_cores = 1; n_cores <= 130; n_cores++)
        for (int node_size = 1; node_size <= n_cores; node_size++) {
            int next = 0, previous = n_cores;
            for (int rank = 0; rank < node_size; rank++) {
                int first, count;
                topology_share(n_cores, node_size, rank, &first, &count);
                assert_int_equal(first, next);
                assert_in_range(count, n_cores / node_size, (n_cores + node_size - 1) / node_size);
                assert_true(count <= previous); /* the larger shares come first */
                previous = count;
                next += count;
            }
            assert_int_equal(next, n_cores);
        }
}

static void more_ranks_than_cores_share_one_core_each(void **state)
{
    (void)state;
    for (int n_cores = 1; n_cores <= 8; n_cores++)
        for (int rank = 0; rank < 40; rank++) {
            int first, count;
            topology_share(n_cores, 40, rank, &first, &count);
            assert_int_equal(first, rank % n_cores);
            assert_int_equal(count, 1);
        }
}

static void no_cores_give_no_share(void **state)
{
    (void)state;
    int first = -1, count = -1;
    topology_share(0, 3, 1, &first, &count);
    assert_int_equal(first, 0);
    assert_int_equal(count, 0);
}

/* Where this process may run and what the machine is, asked without the code under test. */
static void real_machine(char *own_set, size_t bytes, int *n_pus)
{
    hwloc_topology_t hwloc;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    unsetenv("HWLOC_SYNTHETIC");
    unsetenv("HWLOC_XMLFILE");
    assert_int_equal(hwloc_topology_init(&hwloc), 0);
    assert_int_equal(hwloc_topology_load(hwloc), 0);
    assert_int_equal(hwloc_topology_is_thissystem(hwloc), 1);
    assert_int_equal(hwloc_get_cpubind(hwloc, set, HWLOC_CPUBIND_PROCESS), 0);
    hwloc_bitmap_list_snprintf(own_set, bytes, set);
    *n_pus = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_PU);
    hwloc_topology_destroy(hwloc);
    hwloc_bitmap_free(set);
}

/* hwloc falls back to the real machine without a word when it dislikes what it is given. */
static void assert_foreign(void)
{
    hwloc_topology_t hwloc;
    assert_int_equal(hwloc_topology_init(&hwloc), 0);
    assert_int_equal(hwloc_topology_load(hwloc), 0);
    assert_int_equal(hwloc_topology_is_thissystem(hwloc), 0);
    hwloc_topology_destroy(hwloc);
}

static void assert_two_sockets(void)
{
    struct topology topology;
    struct process process = {.size = 4, .node_size = 4, .node_rank = 1, .n_nodes = 1};
    assert_foreign();
    assert_int_equal(topology_bind(&topology, &process, 1), STATUS_OK);
    assert_int_equal(topology.n_packages, 2);
    assert_int_equal(topology.n_numa, 2);
    assert_int_equal(topology.n_cores, 16);
    assert_int_equal(topology.n_pus, 32);
    assert_int_equal(topology.memory_bytes, INT64_C(2000000000));
    assert_int_equal(topology.own_cores, 4);
    assert_string_equal(topology.own_set, "8-15"); /* cores 4 to 7, two PUs each */
}

static void a_synthetic_machine_is_shared_out_but_nothing_is_bound(void **state)
{
    (void)state;
    char before[256], after[256];
    int n_pus;
    real_machine(before, sizeof before, &n_pus);
    setenv("HWLOC_SYNTHETIC", "pack:2 [numa(memory=1GB)] core:8 pu:2", 1);
    assert_two_sockets();
    real_machine(after, sizeof after, &n_pus);
    assert_string_equal(before, after);
}

static void a_machine_from_xml_is_shared_out_but_nothing_is_bound(void **state)
{
    (void)state;
    char path[] = "/tmp/latentrank-topology-XXXXXX", before[256], after[256];
    int n_pus, file = mkstemp(path);
    assert_true(file >= 0);
    real_machine(before, sizeof before, &n_pus);

    hwloc_topology_t hwloc;
    assert_int_equal(hwloc_topology_init(&hwloc), 0);
    assert_int_equal(hwloc_topology_set_synthetic(hwloc, "pack:2 [numa(memory=1GB)] core:8 pu:2"),
                     0);
    assert_int_equal(hwloc_topology_load(hwloc), 0);
    assert_int_equal(hwloc_topology_export_xml(hwloc, path, 0), 0);
    hwloc_topology_destroy(hwloc);

    setenv("HWLOC_XMLFILE", path, 1);
    assert_two_sockets();
    real_machine(after, sizeof after, &n_pus);
    assert_string_equal(before, after);
    remove(path);
}

static void looking_changes_nothing_and_sees_the_own_binding(void **state)
{
    (void)state;
    char before[256], after[256];
    int n_pus;
    struct topology topology;
    struct process process = {.size = 1, .node_size = 1, .n_nodes = 1};
    real_machine(before, sizeof before, &n_pus);
    unsetenv("OMPI_MCA_orte_bound_at_launch");
    assert_int_equal(topology_bind(&topology, &process, 0), STATUS_OK);
    assert_int_equal(topology.n_pus, n_pus);
    assert_string_equal(topology.own_set, before);
    assert_true(topology.memory_bytes > INT64_C(1) << 28);
    real_machine(after, sizeof after, &n_pus);
    assert_string_equal(before, after);
}

/* Binds for real, so it comes last: first as a taskset of the user to one PU, which alone counts,
 * then as mpirun's one core, which is widened. */
static void mpiruns_binding_is_widened_and_the_users_is_not(void **state)
{
    (void)state;
    char own_set[256];
    int n_pus;
    struct topology topology, narrow;
    struct process alone = {.size = 1, .node_size = 1, .n_nodes = 1};
    struct process last = {.size = 4096, .node_size = 4096, .node_rank = 4095, .n_nodes = 1};
    assert_int_equal(topology_bind(&topology, &last, 1), STATUS_OK);
    assert_int_equal(topology.own_cores, 1);
    real_machine(own_set, sizeof own_set, &n_pus);
    assert_string_equal(own_set, topology.own_set);

    assert_int_equal(topology_bind(&narrow, &alone, 1), STATUS_OK);
    assert_int_equal(narrow.own_cores, 1);
    assert_string_equal(narrow.own_set, topology.own_set);

    setenv("OMPI_MCA_orte_bound_at_launch", "1", 1);
    assert_int_equal(topology_bind(&topology, &alone, 1), STATUS_OK);
    unsetenv("OMPI_MCA_orte_bound_at_launch");
    assert_int_equal(topology.own_cores, topology.n_cores);
    real_machine(own_set, sizeof own_set, &n_pus);
    assert_string_equal(own_set, topology.own_set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_cover_all_cores_once_and_differ_by_one),
        cmocka_unit_test(more_ranks_than_cores_share_one_core_each),
        cmocka_unit_test(no_cores_give_no_share),
        cmocka_unit_test(a_synthetic_machine_is_shared_out_but_nothing_is_bound),
        cmocka_unit_test(a_machine_from_xml_is_shared_out_but_nothing_is_bound),
        cmocka_unit_test(looking_changes_nothing_and_sees_the_own_binding),
        cmocka_unit_test(mpiruns_binding_is_widened_and_the_users_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
