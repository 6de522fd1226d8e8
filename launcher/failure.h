/* failure.h - how a job ends when something goes wrong: one error line, the same
 * exit code on every rank, nobody left waiting. */
#ifndef LAUNCHER_FAILURE_H
#define LAUNCHER_FAILURE_H

#include "kernels/core/status.h"
#include "parallel/comm.h"

enum { EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* 0, 2 for STATUS_USAGE, else 1. */
int failure_exit_code(enum status status);

/* 1 for the rank that speaks for the job, before MPI runs: its launcher's variables say rank 0, or
 * there are none. */
int failure_speaks(void);

/* The error line from the record of this thread. */
void failure_print(void);

/* Wrong options, found by every rank before MPI runs: the rank that speaks prints the line, the others
 * wait a moment, since the first rank that ends makes mpirun kill those that have not spoken yet.
 * Returns the exit code. */
int failure_before_mpi(enum status status);

/* Collective: all ranks get rank 0's status, with its text as it is.  The other ranks give
 * STATUS_OK. */
enum status failure_from_root(struct comm *world, enum status own);

/* SIGINT and SIGTERM end the process at once with code 130, and an unfinished line of output with a
 * newline first.  SIGPIPE is ignored: report_bytes sees EPIPE. */
void failure_catch_signals(void);

/* Says whether the last line written to `fd` (1 or 2) is unfinished. */
void failure_line_open(int fd, int is_open);

#endif
