#include "parallel/process.h"

#include "kernels/core/log.h"
#include "parallel/mpi_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static MPI_Comm world = MPI_COMM_NULL, node = MPI_COMM_NULL;
static int n_comms;

MPI_Comm mpi_world(void)
{
    return world;
}

MPI_Comm mpi_node(void)
{
    return node;
}

enum status mpi_fail(int code, const char *file, int line, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error", host[256] = "unknown host";
    int length = 0, rank = -1;
    gethostname(host, sizeof host - 1);
    if (world != MPI_COMM_NULL)
        MPI_Comm_rank(world, &rank);
    MPI_Error_string(code, text, &length);
    return status_fail(STATUS_COMM, file, line, "rank %d (%s): %.*s: %s", rank, host,
                       (int)strcspn(call, "("), call, text);
}

enum status mpi_comm_opened(MPI_Comm mpi)
{
    n_comms++;
    MPI_TRY(MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN));
    return STATUS_OK;
}

void mpi_comm_closed(MPI_Comm *mpi)
{
    if (*mpi == MPI_COMM_NULL)
        return;
    if (MPI_Comm_free(mpi) != MPI_SUCCESS)
        log_print(LOG_WARN, "an MPI communicator could not be freed");
    n_comms--;
    *mpi = MPI_COMM_NULL;
}

enum status mpi_window_opened(MPI_Win win)
{
    n_comms++;
    MPI_TRY(MPI_Win_set_errhandler(win, MPI_ERRORS_RETURN));
    return STATUS_OK;
}

void mpi_window_closed(MPI_Win *win)
{
    if (*win == MPI_WIN_NULL)
        return;
    if (MPI_Win_free(win) != MPI_SUCCESS)
        log_print(LOG_WARN, "a window of shared memory could not be freed");
    n_comms--;
    *win = MPI_WIN_NULL;
}

int mpi_comm_count(void)
{
    return n_comms;
}

enum status mpi_agree(MPI_Comm mpi, enum status own)
{
    int failed = own != STATUS_OK, any = failed;
    MPI_TRY(MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, mpi));
    if (any && own == STATUS_OK)
        FAIL(STATUS_COMM, "another rank could not open its part of a group");
    return own;
}

static int environment_int(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : (int)strtol(text, NULL, 10);
}

/* srun without --mpi=pmix starts tasks that know nothing of each other. */
static int is_bare_srun(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") == NULL && getenv("PMIX_RANK") == NULL &&
           getenv("PMI_RANK") == NULL && getenv("SLURM_PROCID") != NULL &&
           environment_int("SLURM_STEP_NUM_TASKS", 1) > 1;
}

int process_is_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL ||
           getenv("PMI_RANK") != NULL || is_bare_srun();
}

/* Nodes are numbered in the order of their lowest ranks. */
static enum status find_node(struct process *process)
{
    MPI_TRY(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, process->rank, MPI_INFO_NULL, &node));
    TRY(mpi_comm_opened(node));
    MPI_TRY(MPI_Comm_rank(node, &process->node_rank));
    MPI_TRY(MPI_Comm_size(node, &process->node_size));

    int is_first = process->node_rank == 0, before = 0;
    MPI_TRY(MPI_Exscan(&is_first, &before, 1, MPI_INT, MPI_SUM, world));
    process->node = process->rank == 0 ? 0 : before; /* MPI_Exscan gives rank 0 nothing */
    MPI_TRY(MPI_Bcast(&process->node, 1, MPI_INT, 0, node));
    MPI_TRY(MPI_Allreduce(&is_first, &process->n_nodes, 1, MPI_INT, MPI_SUM, world));
    return STATUS_OK;
}

static enum status join_job(struct process *process, int *argc, char ***argv)
{
    int provided = MPI_THREAD_SINGLE;
    /* Waiting ranks give their core away.  Open MPI does so by itself only where mpirun sees too few
     * cores.  On 2 cores with a load of 13, 1 ms of work and a sum of 64 KiB over 2 ranks take 7 ms
     * with it and 26 ms without; on an idle node it costs about 1 us a call.  The user's word wins. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    MPI_TRY(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    world = MPI_COMM_WORLD;
    process->uses_mpi = 1;
    MPI_TRY(MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(world, &process->rank));
    MPI_TRY(MPI_Comm_size(world, &process->size));
    if (provided < MPI_THREAD_FUNNELED)
        FAIL(STATUS_COMM,
             "this MPI library offers thread level %d, MPI_THREAD_FUNNELED (%d) is "
             "needed: use a build with threads",
             provided, MPI_THREAD_FUNNELED);

    int launched = environment_int("OMPI_COMM_WORLD_SIZE", environment_int("PMI_SIZE", 0));
    if (launched > 0 && launched != process->size)
        FAIL(STATUS_COMM,
             "the launcher started %d ranks but MPI sees %d: use the mpirun of the MPI "
             "library that latentrank was built with",
             launched, process->size);
    return find_node(process);
}

enum status process_start(struct process *process, int *argc, char ***argv)
{
    *process = (struct process){.size = 1, .node_size = 1, .n_nodes = 1};
    if (gethostname(process->host, sizeof process->host - 1) != 0)
        snprintf(process->host, sizeof process->host, "unknown host");
    if (!process_is_launched())
        return STATUS_OK;
    if (is_bare_srun())
        FAIL(STATUS_COMM, "srun started %s tasks that cannot find each other: use srun --mpi=pmix",
             getenv("SLURM_STEP_NUM_TASKS"));
    return join_job(process, argc, argv);
}

void process_end(struct process *process)
{
    if (process == NULL || !process->uses_mpi)
        return;
    mpi_comm_closed(&node);
    world = MPI_COMM_NULL;
    process->uses_mpi = 0;
    if (MPI_Finalize() != MPI_SUCCESS)
        log_print(LOG_WARN, "MPI_Finalize failed");
}

/* Buffered output is left alone: the thread that holds the lock of stdout may be the one that hangs. */
void process_abort(struct process *process, int exit_code)
{
    if (process != NULL && process->uses_mpi)
        MPI_Abort(MPI_COMM_WORLD, exit_code);
    _Exit(exit_code);
}
