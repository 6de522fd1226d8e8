#include "parallel/topology.h"

#include "kernels/core/log.h"
#include "parallel/mpi_internal.h"
#include <errno.h>
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MASK_WORDS = 128 }; /* of an unsigned long each: 8192 PUs on a 64-bit machine */

void topology_share(int n_cores, int node_size, int node_rank, int *first, int *count)
{
    int each = n_cores / node_size, larger = n_cores % node_size;
    if (n_cores <= 0) {
        *first = *count = 0;
    } else if (each == 0) {
        *first = node_rank % n_cores;
        *count = 1;
    } else {
        *first = node_rank * each + (node_rank < larger ? node_rank : larger);
        *count = each + (node_rank < larger);
    }
}

static enum status load(hwloc_topology_t *topology)
{
    if (hwloc_topology_init(topology) != 0)
        FAIL(STATUS_IO, "hwloc cannot start: %s", strerror(errno));
    if (hwloc_topology_load(*topology) != 0) {
        hwloc_topology_destroy(*topology);
        FAIL(STATUS_IO,
             "hwloc cannot read the topology of this machine: %s (see HWLOC_XMLFILE, "
             "HWLOC_SYNTHETIC)",
             strerror(errno));
    }
    return STATUS_OK;
}

/* hwloc adds up the NUMA nodes, whose files may leave out hot-plugged memory (13 of 24 GB on a KVM
 * guest, hwloc 2.9.0), so the system's own count is asked as well. */
static int64_t memory_of(hwloc_topology_t hwloc)
{
    int64_t counted = (int64_t)hwloc_get_root_obj(hwloc)->total_memory;
    if (!hwloc_topology_is_thissystem(hwloc))
        return counted;
    int64_t known = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    return known > counted ? known : counted;
}

static void describe(struct topology *topology, hwloc_topology_t hwloc)
{
    *topology = (struct topology){
        .n_packages = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_PACKAGE),
        .n_numa = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_NUMANODE),
        .n_cores = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_CORE),
        .n_pus = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_PU),
        .memory_bytes = memory_of(hwloc),
    };
}

/* `mask` = the union over the ranks of this node of their bindings; without MPI the own one.  Every
 * rank of the node calls it, also one whose `hwloc` did not load (NULL), which adds nothing. */
static enum status unite_bindings(hwloc_bitmap_t mask, hwloc_topology_t hwloc)
{
    unsigned long own[MASK_WORDS] = {0}, all[MASK_WORDS] = {0};
    if (hwloc != NULL && hwloc_get_cpubind(hwloc, mask, HWLOC_CPUBIND_PROCESS) == 0)
        hwloc_bitmap_to_ulongs(mask, MASK_WORDS, own);
    memcpy(all, own, sizeof all);
    if (mpi_node() != MPI_COMM_NULL)
        MPI_TRY(MPI_Allreduce(own, all, MASK_WORDS, MPI_UNSIGNED_LONG, MPI_BOR, mpi_node()));
    hwloc_bitmap_from_ulongs(mask, MASK_WORDS, all);
    return STATUS_OK;
}

/* `given` holds the union of the bindings and becomes what the job was given. */
static void settle_given(hwloc_bitmap_t given, hwloc_topology_t hwloc)
{
    hwloc_const_bitmap_t allowed = hwloc_topology_get_allowed_cpuset(hwloc);
    int mpirun_bound_us = getenv("OMPI_MCA_orte_bound_at_launch") != NULL;
    hwloc_bitmap_and(given, given, allowed);
    if (mpirun_bound_us || !hwloc_topology_is_thissystem(hwloc) || hwloc_bitmap_iszero(given))
        hwloc_bitmap_copy(given, allowed);
}

static int intersects(hwloc_obj_t core, hwloc_const_bitmap_t given)
{
    return core != NULL && hwloc_bitmap_intersects(core->cpuset, given);
}

/* `own` = the PUs in `given` of this rank's share of the cores; returns how many cores. */
static int take_share(hwloc_bitmap_t own, hwloc_topology_t hwloc, hwloc_const_bitmap_t given,
                      const struct process *process)
{
    /* Some virtual machines show no cores; their PUs serve as such. */
    hwloc_obj_type_t type =
        hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    int n_given = 0, first, count, place = 0;
    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(hwloc, type, core)) != NULL;)
        n_given += intersects(core, given);

    topology_share(n_given, process->node_size, process->node_rank, &first, &count);
    hwloc_bitmap_zero(own);
    for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(hwloc, type, core)) != NULL;) {
        if (!intersects(core, given))
            continue;
        if (first <= place && place < first + count)
            hwloc_bitmap_or(own, own, core->cpuset);
        place++;
    }
    hwloc_bitmap_and(own, own, given);
    return count;
}

static void bind_to(hwloc_topology_t hwloc, hwloc_const_bitmap_t own, const char *own_set)
{
    if (!hwloc_topology_is_thissystem(hwloc))
        log_print(LOG_INFO, "not bound: the hwloc topology is not this machine");
    else if (hwloc_set_cpubind(hwloc, own, HWLOC_CPUBIND_PROCESS) != 0)
        log_print(LOG_WARN,
                  "the system refused to bind this process to PUs %s: %s; it runs where it "
                  "was",
                  own_set, strerror(errno));
}

enum status topology_bind(struct topology *topology, const struct process *process, int bind)
{
    hwloc_topology_t hwloc = NULL;
    hwloc_bitmap_t given = hwloc_bitmap_alloc(), own = hwloc_bitmap_alloc();
    enum status loaded = load(&hwloc), status;
    TRY_GOTO(status, done, unite_bindings(given, loaded == STATUS_OK ? hwloc : NULL));
    TRY_GOTO(status, done, loaded);

    describe(topology, hwloc);
    settle_given(given, hwloc);
    topology->own_cores = take_share(own, hwloc, given, process);
    hwloc_bitmap_list_snprintf(topology->own_set, sizeof topology->own_set, own);
    if (bind)
        bind_to(hwloc, own, topology->own_set);
done:
    if (loaded == STATUS_OK)
        hwloc_topology_destroy(hwloc);
    hwloc_bitmap_free(own);
    hwloc_bitmap_free(given);
    return status;
}
