/* launch.h - starts jobs of this program, for the commands that run outside MPI. */
#ifndef LAUNCHER_LAUNCH_H
#define LAUNCHER_LAUNCH_H

#include <stddef.h>

#include "kernels/core/status.h"

/* The words of `launch` (separated by blanks, "{n}" in them is the number of ranks), then this program, then
 * `arguments`, which NULL ends; `launch` NULL: mpirun as a test on one machine needs it.  Waits for its end.
 * Its stdout goes nowhere.  `log` is a file that its stderr is written to.
 * *exit_code is that of the job, 128 + signal when one ended it.
 * Errors: STATUS_IO (it cannot be started), STATUS_NO_MEMORY. */
enum status launch_job(int *exit_code, const char *launch, int ranks, const char *const *arguments,
                       const char *log);

/* From here on SIGINT and SIGTERM end the job that runs, and launch_job fails with STATUS_INVALID; the caller
 * tidies up. */
void launch_catch_signals(void);
int launch_was_stopped(void);

/* The first error line of such a log, without "latentrank: error: "; else its last line; "" when it is
 * empty. */
void launch_error(char *text, size_t size, const char *log);

#endif
