#include "launcher/failure.h"
#include "kernels/core/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t line_is_open[3];

int failure_exit_code(enum status status)
{
    if (status == STATUS_OK)
        return EXIT_SUCCESS;
    return status == STATUS_USAGE ? EXIT_USAGE : EXIT_FAILURE;
}

int failure_speaks(void)
{
    static const char *const variable[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                           "SLURM_PROCID"};
    for (int i = 0; i < 4; i++) {
        const char *rank = getenv(variable[i]);
        if (rank != NULL)
            return strcmp(rank, "0") == 0;
    }
    return 1;
}

void failure_print(void)
{
    log_error_line(status_text());
    log_print(LOG_DEBUG, "call sites: %s", status_frames());
}

int failure_before_mpi(enum status status)
{
    const struct timespec moment = {.tv_sec = 1};
    if (failure_speaks())
        failure_print();
    else
        nanosleep(&moment, NULL);
    return failure_exit_code(status);
}

enum status failure_from_root(struct comm *world, enum status own)
{
    struct {
        int code;
        char text[STATUS_TEXT_MAX];
    } root = {.code = (int)own};
    if (own != STATUS_OK)
        snprintf(root.text, sizeof root.text, "%s", status_text());
    TRY(comm_broadcast_bytes(world, &root, sizeof root, 0));
    if (root.code != STATUS_OK && world->group.index != 0)
        return status_fail((enum status)root.code, __FILE__, __LINE__, "%s", root.text);
    return (enum status)root.code;
}

void failure_line_open(int fd, int is_open)
{
    line_is_open[fd] = is_open;
}

/* Only calls that are safe in a handler. */
static void end_interrupted(int signal_number)
{
    (void)signal_number;
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        if (line_is_open[fd]) {
            ssize_t written = write(fd, "\n", 1);
            (void)written;
        }
    _exit(EXIT_INTERRUPTED);
}

void failure_catch_signals(void)
{
    struct sigaction action = {.sa_handler = end_interrupted};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}
