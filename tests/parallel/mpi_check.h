/* mpi_check.h - checks for programs that run on several ranks.
 *
 * Every rank runs all checks, none stops at a failure (the others would wait);
 * the failures are summed at the end, rank 0 prints one closing line, and all
 * exit alike. */
#ifndef TESTS_PARALLEL_MPI_CHECK_H
#define TESTS_PARALLEL_MPI_CHECK_H

#include "parallel/process.h"

#include "parallel/mpi_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct process check_process;
static int check_done, check_failed;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        check_done++;                                                                              \
        if (!(condition)) {                                                                        \
            check_failed++;                                                                        \
            fprintf(stderr, "%s:%d: rank %d of %d: failed: %s (%s)\n", __FILE__, __LINE__,         \
                    check_process.rank, check_process.size, #condition, status_text());            \
        }                                                                                          \
    } while (0)

/* For what a test cannot go on without. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: rank %d of %d: cannot go on: %s (%s)\n", __FILE__, __LINE__,   \
                    check_process.rank, check_process.size, #condition, status_text());            \
            process_abort(&check_process, 1);                                                      \
        }                                                                                          \
    } while (0)

static inline void check_begin(int *argc, char ***argv)
{
    REQUIRE(process_start(&check_process, argc, argv) == STATUS_OK);
}

/* The exit code of the program. */
static inline int check_end(const char *name)
{
    int failed = check_failed, uses_mpi = check_process.uses_mpi,
        is_first = check_process.rank == 0;
    if (uses_mpi)
        REQUIRE(MPI_Allreduce(&check_failed, &failed, 1, MPI_INT, MPI_SUM, mpi_world()) == 0);
    process_end(&check_process);
    if (mpi_comm_count() != 0) {
        fprintf(stderr, "%s: %d communicators were not closed\n", name, mpi_comm_count());
        failed++;
    }
    if (is_first)
        printf("%s: %d checks on each of %d ranks, %d failed\n", name, check_done,
               check_process.size, failed);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
