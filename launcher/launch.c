#include "launcher/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS_MAX = 256 };

static volatile sig_atomic_t stopped, job_pid;

static void stop(int number)
{
    (void)number;
    stopped = 1;
    if (job_pid > 0)
        kill((pid_t)job_pid, SIGTERM);
}

void launch_catch_signals(void)
{
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int launch_was_stopped(void)
{
    return stopped;
}

struct command_line {
    char *word[WORDS_MAX + 1];
    int count;
    char program[4096];
};

static enum status add(struct command_line *line, const char *word)
{
    if (line->count == WORDS_MAX)
        FAIL(STATUS_USAGE, "a job of more than %d words", WORDS_MAX);
    if ((line->word[line->count] = strdup(word)) == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a command line");
    line->count++;
    return STATUS_OK;
}

/* One word of the template, every "{n}" in it replaced. */
static enum status add_template(struct command_line *line, const char *word, int ranks)
{
    char text[4096];
    size_t used = 0;
    while (*word != '\0' && used + 16 < sizeof text)
        if (strncmp(word, "{n}", 3) == 0) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%d", ranks);
            word += 3;
        } else {
            text[used++] = *word++;
        }
    text[used] = '\0';
    return add(line, text);
}

static enum status build(struct command_line *line, const char *launch, int ranks,
                         const char *const *arguments)
{
    char *words = strdup(launch), *rest = words, *word;
    enum status status = words != NULL ? STATUS_OK : STATUS_NO_MEMORY;
    while (status == STATUS_OK && (word = strtok_r(rest, " \t", &rest)) != NULL)
        status = add_template(line, word, ranks);
    free(words);
    TRY(status);
    ssize_t length = readlink("/proc/self/exe", line->program, sizeof line->program - 1);
    if (length < 0)
        FAIL(STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    line->program[length] = '\0';
    TRY(add(line, line->program));
    for (; *arguments != NULL; arguments++)
        TRY(add(line, *arguments));
    return STATUS_OK;
}

/* In the child; never returns.  It ends with the program that started it. */
static void become(char **word, int log)
{
    int nowhere = open("/dev/null", O_RDWR);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (nowhere >= 0 && dup2(nowhere, 0) >= 0 && dup2(nowhere, 1) >= 0 && dup2(log, 2) >= 0)
        execvp(word[0], word);
    dprintf(log, "latentrank: error: %s: cannot be started: %s\n", word[0], strerror(errno));
    _exit(127);
}

static enum status run(int *exit_code, char **word, const char *log)
{
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), state;
    if (fd < 0)
        FAIL(STATUS_IO, "%s: %s", log, strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        become(word, fd);
    int error = errno;
    close(fd);
    if (pid < 0)
        FAIL(STATUS_IO, "%s: no process: %s", word[0], strerror(error));
    job_pid = (sig_atomic_t)pid;
    if (stopped)
        kill(pid, SIGTERM);
    while (waitpid(pid, &state, 0) < 0)
        if (errno != EINTR)
            FAIL(STATUS_IO, "%s: waiting for it: %s", word[0], strerror(errno));
    job_pid = 0;
    if (stopped)
        FAIL(STATUS_INVALID, "stopped by a signal");
    *exit_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    return STATUS_OK;
}

enum status launch_job(int *exit_code, const char *launch, int ranks, const char *const *arguments,
                       const char *log)
{
    struct command_line line = {.count = 0};
    if (launch == NULL)
        launch = geteuid() == 0 ? "mpirun --allow-run-as-root --oversubscribe --bind-to none "
                                  "--mca mpi_yield_when_idle 1 -n {n}"
                                : "mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle "
                                  "1 -n {n}";
    enum status status = build(&line, launch, ranks, arguments);
    if (status == STATUS_OK)
        status = run(exit_code, line.word, log);
    for (int i = 0; i < line.count; i++)
        free(line.word[i]);
    return status;
}

void launch_error(char *text, size_t size, const char *log)
{
    static const char mark[] = "latentrank: error: ";
    char line[4096];
    FILE *file = fopen(log, "r");
    text[0] = '\0';
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, mark, sizeof mark - 1) == 0) {
            snprintf(text, size, "%s", line + sizeof mark - 1);
            break;
        }
        if (line[0] != '\0')
            snprintf(text, size, "%s", line);
    }
    if (file != NULL)
        fclose(file);
}
