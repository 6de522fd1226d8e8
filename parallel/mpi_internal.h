/* mpi_internal.h - what the files of this folder that call MPI share.  Nobody else includes mpi.h.
 *
 * Handlers are set to return: every call stands inside MPI_TRY, which turns a
 * code into STATUS_COMM with the text of the library, host and rank. */
#ifndef PARALLEL_MPI_INTERNAL_H
#define PARALLEL_MPI_INTERNAL_H

#include "kernels/core/status.h"
#include "parallel/mesh.h"
#include <mpi.h>

#define MPI_TRY(call)                                                                              \
    do {                                                                                           \
        int mpi_try_code_ = (call);                                                                \
        if (mpi_try_code_ != MPI_SUCCESS)                                                          \
            return mpi_fail(mpi_try_code_, __FILE__, __LINE__, #call);                             \
    } while (0)

/* As MPI_TRY, in functions with a cleanup label: sets `status` and jumps. */
#define MPI_TRY_GOTO(status, label, call)                                                          \
    do {                                                                                           \
        int mpi_try_code_ = (call);                                                                \
        if (mpi_try_code_ != MPI_SUCCESS) {                                                        \
            (status) = mpi_fail(mpi_try_code_, __FILE__, __LINE__, #call);                         \
            goto label;                                                                            \
        }                                                                                          \
    } while (0)

/* "rank 3 (node07): MPI_Bcast: text of the library"; returns STATUS_COMM. */
enum status mpi_fail(int code, const char *file, int line, const char *call);

/* All ranks, and those of this node: MPI_COMM_NULL when MPI was not started. */
MPI_Comm mpi_world(void);
MPI_Comm mpi_node(void);

/* Every communicator of ours is made ready (errors return) and counted by mpi_comm_opened, and ended by
 * mpi_comm_closed; windows of shared memory alike.  LeakSanitizer does not see inside the library, so
 * tests ask the count of both together. */
enum status mpi_comm_opened(MPI_Comm mpi);
void mpi_comm_closed(MPI_Comm *mpi);
enum status mpi_window_opened(MPI_Win win);
void mpi_window_closed(MPI_Win *win);
int mpi_comm_count(void);

/* A communicator of the members of `group`; collective over them alone, so groups of one need not join
 * and groups may differ in size.  Owner: caller; end with mpi_comm_closed. */
enum status mpi_comm_of_group(MPI_Comm *mpi, const struct group *group);

/* Every member gives its own status: all get STATUS_OK, or each a failure, its own or STATUS_COMM. */
enum status mpi_agree(MPI_Comm mpi, enum status own);

#endif
