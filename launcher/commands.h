/* commands.h - one function per command; each has a file of its name. */
#ifndef LAUNCHER_COMMANDS_H
#define LAUNCHER_COMMANDS_H

#include "launcher/job.h"
#include "launcher/options.h"

/* On all ranks of the job. */
enum status generate_run(const struct options *options, struct job *job);
enum status eval_run(const struct options *options, struct job *job);
enum status bench_latency_run(const struct options *options, struct job *job);
enum status bench_load_run(const struct options *options, struct job *job);
enum status bench_comm_run(const struct options *options, struct job *job);

/* On one rank, without MPI. */
enum status verify_run(const struct options *options); /* starts jobs of its own */
enum status inspect_run(const struct options *options);
enum status tokenize_run(const struct options *options);
enum status detokenize_run(const struct options *options);
enum status make_model_run(const struct options *options);
enum status bench_kernels_run(const struct options *options);

/* --version */
enum status version_print(void);

#endif
