/* main.c - the program: options, then one command, then one exit code for the whole job.
 *
 * What is wrong with the command line is found before MPI starts, on every
 * rank; the rank that its launcher calls 0 says so.  What is wrong with a file or
 * a variable may be so on one rank only: then the ranks agree on it first.
 * Commands that need no ranks run on rank 0 alone, without MPI; the others end
 * at once. */
#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/options.h"
#include "launcher/report.h"

#include <stdio.h>
#include <stdlib.h>

extern char **environ;

typedef enum status (*local_command)(const struct options *options);
typedef enum status (*job_command)(const struct options *options, struct job *job);

static const local_command local_commands[COMMAND_COUNT] = {
    [COMMAND_VERIFY] = verify_run,         [COMMAND_INSPECT] = inspect_run,
    [COMMAND_TOKENIZE] = tokenize_run,     [COMMAND_DETOKENIZE] = detokenize_run,
    [COMMAND_MAKE_MODEL] = make_model_run, [COMMAND_BENCH_KERNELS] = bench_kernels_run,
};

static const job_command job_commands[COMMAND_COUNT] = {
    [COMMAND_GENERATE] = generate_run,           [COMMAND_EVAL] = eval_run,
    [COMMAND_BENCH_LATENCY] = bench_latency_run, [COMMAND_BENCH_LOAD] = bench_load_run,
    [COMMAND_BENCH_COMM] = bench_comm_run,
};

/* Without MPI: the rank that speaks does it all. */
static int end_locally(enum status status)
{
    if (status != STATUS_OK)
        failure_print();
    return failure_exit_code(status);
}

static enum status print_text(char *text)
{
    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the text");
    enum status status = report_line(text);
    free(text);
    return status;
}

static int run_locally(const struct options *options)
{
    if (!failure_speaks())
        return EXIT_SUCCESS;
    failure_catch_signals();
    if (options->help)
        return end_locally(print_text(options_help(options->command)));
    if (options->version)
        return end_locally(version_print());
    if (options->print_config)
        return end_locally(print_text(options_json(options)));
    return end_locally(local_commands[options->command](options));
}

static int run_on_all_ranks(const struct options *options, enum status read, int argc, char **argv)
{
    struct job job;
    enum status status = job_open(&job, options, read, &argc, &argv);
    int is_agreed = job.has_world;
    if (status == STATUS_OK)
        status = job_commands[options->command](options, &job);
    /* every failure was agreed on the way: all ranks hold the same code and text */
    if (status != STATUS_OK && (is_agreed ? job_is_root(&job) : failure_speaks()))
        failure_print();
    job_close(&job);
    return failure_exit_code(status);
}

int main(int argc, char **argv)
{
    struct options options;
    int code;
    report_guard_descriptors();
    enum status status = options_read(&options, argc, argv, environ);
    int needs_ranks = options.command < COMMAND_COUNT && job_commands[options.command] != NULL &&
                      !options.help && !options.version && !options.print_config;
    if (status != STATUS_OK && !(needs_ranks && options.is_of_rank && process_is_launched()))
        code = failure_before_mpi(status);
    else if (needs_ranks)
        code = run_on_all_ranks(&options, status, argc, argv);
    else
        code = run_locally(&options);
    options_close(&options);
    return code;
}
