/* What a rank knows of the job, and the shares of cores on a real node. */
#include "mpi_check.h"

#include "parallel/topology.h"

/* Ranks of a node are numbered from 0 without gaps, and so are the nodes. */
static void places_are_consistent(void)
{
    const struct process *p = &check_process;
    int sums[3], own[3] = {p->rank, p->node_rank == 0, p->node_rank == 0 ? p->node_size : 0};
    CHECK(0 <= p->rank && p->rank < p->size);
    CHECK(0 <= p->node_rank && p->node_rank < p->node_size && p->node_size <= p->size);
    CHECK(0 <= p->node && p->node < p->n_nodes);
    CHECK(strlen(p->host) > 0);
    CHECK(p->rank != 0 || p->node == 0);
    CHECK(process_is_launched() == p->uses_mpi);
    CHECK(!p->uses_mpi || getenv("OMPI_MCA_mpi_yield_when_idle") != NULL);
    if (!p->uses_mpi)
        return;
    CHECK(MPI_Allreduce(own, sums, 3, MPI_INT, MPI_SUM, mpi_world()) == MPI_SUCCESS);
    CHECK(sums[0] == p->size * (p->size - 1) / 2);
    CHECK(sums[1] == p->n_nodes);
    CHECK(sums[2] == p->size);
}

/* mpirun -n 1 must not leave the process on the one core that it was bound to. */
static void every_rank_has_cores(void)
{
    const struct process *p = &check_process;
    struct topology topology;
    int first, count;
    REQUIRE(topology_bind(&topology, p, 1) == STATUS_OK);
    CHECK(topology.own_cores > 0);
    if (topology.n_cores > 0) {
        topology_share(topology.n_cores, p->node_size, p->node_rank, &first, &count);
        CHECK(topology.own_cores <= count);
        if (getenv("OMPI_MCA_orte_bound_at_launch") != NULL)
            CHECK(topology.own_cores == count);
    }
    CHECK(strlen(topology.own_set) > 0);
}

static void errors_of_the_library_come_back_as_a_status(void)
{
    if (!check_process.uses_mpi)
        return;
    char name[300];
    int value = 0;
    enum status status = STATUS_OK;
    MPI_TRY_GOTO(status, done, MPI_Bcast(&value, 1, MPI_INT, check_process.size, mpi_world()));
done:
    CHECK(status == STATUS_COMM);
    snprintf(name, sizeof name, "rank %d (%s): MPI_Bcast: ", check_process.rank,
             check_process.host);
    CHECK(strncmp(status_text(), name, strlen(name)) == 0);
    CHECK(strlen(status_text()) > strlen(name));
}

int main(int argc, char **argv)
{
    check_begin(&argc, &argv);
    places_are_consistent();
    errors_of_the_library_come_back_as_a_status();
    every_rank_has_cores();
    return check_end("test_mpi_process");
}
