/* job.h - what commands that run on all ranks share: the process, the world, the engine. */
#ifndef LAUNCHER_JOB_H
#define LAUNCHER_JOB_H

#include "launcher/options.h"
#include "launcher/progress.h"
#include "parallel/comm.h"
#include "parallel/mesh.h"
#include "parallel/process.h"
#include "runtime/engine.h"

struct job {
    const struct options *options;
    struct process process;
    struct comm world;
    int is_started, has_world;
};

/* Starts this rank, agrees on `read` (what options_read gave here), and compares the options of all
 * ranks.  Collective.  Owner: caller; end with job_close, also after a failure. */
enum status job_open(struct job *job, const struct options *options, enum status read, int *argc,
                     char ***argv);
void job_close(struct job *job);

static inline int job_is_root(const struct job *job)
{
    return job->process.rank == 0;
}

/* Binds this rank, compares the tokenizer files of all ranks and loads the model, with progress on
 * rank 0.  `max_model_len` 0: the model's own.  *load_ns: time it took.  Collective; owner: caller; end with engine_close. */
enum status job_open_engine(struct engine **engine, int64_t *load_ns, struct job *job,
                            int max_model_len);

/* tp and ep as the engine has them. */
enum status job_mesh(struct mesh *mesh, const struct job *job, const struct model_config *config);

#endif
