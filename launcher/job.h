/* job.h - what commands that run on all ranks share: the process, the world, the engine. */
#ifndef LAUNCHER_JOB_H
#define LAUNCHER_JOB_H

#include "launcher/options.h"
#include "launcher/progress.h"
#include "parallel/comm.h"
#include "parallel/mesh.h"
#include "parallel/process.h"
#include "runtime/engine.h"
#include "runtime/expert_load.h"

struct job {
    const struct options *options;
    struct process process;
    struct comm world;
    int is_started, has_world;
    int n_threads;                  /* of this rank, once it is bound */
    struct expert_load expert_load; /* with --expert-load-out */
};

/* What a command wants to run at once. */
struct job_capacity {
    int max_model_len;        /* 0: the model's own */
    int lowers_max_model_len; /* where the memory holds less */
    int max_num_seqs;
    int max_num_batched_tokens;
    int64_t cache_pages; /* of all sequences together; 0: max_model_len rows for each */
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

/* Binds this rank and sets n_threads to its --threads, else its share of the cores.  Collective. */
enum status job_bind(struct job *job);

/* Binds this rank, compares the tokenizer files of all ranks and loads the model, with progress on
 * rank 0.  `capacity` is the same on all ranks.  *load_ns: time it took.  Collective; owner: caller; end
 * with engine_close. */
enum status job_open_engine(struct engine **engine, int64_t *load_ns, struct job *job,
                            const struct job_capacity *capacity);

/* Once the engine is closed: rank 0 writes what --expert-load-out asks for.  Collective. */
enum status job_write_expert_load(struct job *job);

/* tp and ep as the engine has them. */
enum status job_mesh(struct mesh *mesh, const struct job *job, const struct model_config *config);

#endif
