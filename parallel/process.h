/* process.h - start and end of one rank: MPI, or none of it when there is one rank.
 *
 * Under mpirun or srun --mpi=pmix the process joins the job; alone it is one
 * rank and MPI is not initialised at all (seen from the launcher's environment
 * variables).  MPI runs at thread level FUNNELED; waiting ranks yield their core
 * unless OMPI_MCA_mpi_yield_when_idle says otherwise. */
#ifndef PARALLEL_PROCESS_H
#define PARALLEL_PROCESS_H

#include "kernels/core/status.h"

struct process {
    int rank, size;           /* in the world                  */
    int node_rank, node_size; /* among the ranks of this node  */
    int node, n_nodes;
    char host[256];
    int uses_mpi;
};

/* Errors: STATUS_COMM. */
enum status process_start(struct process *process, int *argc, char ***argv);

/* 1 when a launcher (mpirun, srun) started this process: its environment says so. */
int process_is_launched(void);

/* Normal end; every rank calls it. */
void process_end(struct process *process);

/* Ends the whole job at once with `exit_code`, from any one rank; does not return. */
_Noreturn void process_abort(struct process *process, int exit_code);

#endif
