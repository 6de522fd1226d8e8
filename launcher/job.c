#include "launcher/job.h"
#include "kernels/core/log.h"
#include "launcher/failure.h"
#include "launcher/model_tokenizer.h"
#include "parallel/ledger.h"
#include "parallel/topology.h"

#include <stdio.h>

enum status job_open(struct job *job, const struct options *options, enum status read, int *argc,
                     char ***argv)
{
    *job = (struct job){.options = options};
    TRY(process_start(&job->process, argc, argv));
    job->is_started = 1;
    log_open(job->process.uses_mpi ? job->process.rank : -1);
    failure_catch_signals(); /* after MPI_Init, which may install its own */
    struct group world = {
        .name = "world", .size = job->process.size, .index = job->process.rank, .stride = 1};
    /* by MPI, whatever --comm says: until the options are compared ranks may have read other ones */
    comm_set_backend(COMM_MPI);
    TRY(comm_open(&job->world, &world));
    job->has_world = 1;
    TRY(comm_agree(&job->world, read));
    TRY(comm_same(&job->world, "the set of options", options_hash(options)));
    comm_set_backend(options->comm == COMM_OPTION_MPI    ? COMM_MPI
                     : options->comm == COMM_OPTION_SHM  ? COMM_SHM
                     : options->comm == COMM_OPTION_NCCL ? COMM_NCCL
                                                         : COMM_AUTO);
    return comm_agree(&job->world, ledger_open(&job->process, (int)options->watchdog_timeout));
}

void job_close(struct job *job)
{
    expert_load_close(&job->expert_load);
    ledger_close();
    if (job->has_world)
        comm_close(&job->world);
    if (job->is_started)
        process_end(&job->process);
    job->has_world = job->is_started = 0;
}

static void show_loading(void *context, int64_t done, int64_t total)
{
    progress_show(context, done, total, NULL);
}

static struct engine_options engine_options_of(const struct options *options,
                                               const struct job_capacity *capacity)
{
    struct engine_options engine = engine_defaults();
    engine.model = options->model;
    engine.backend = options->backend == BACKEND_OPTION_CUDA  ? BACKEND_CUDA
                     : options->backend == BACKEND_OPTION_CPU ? BACKEND_CPU
                                                              : BACKEND_AUTO;
    engine.tp = (int)options->tp;
    engine.ep = (int)options->ep;
    engine.dp = (int)options->dp;
    engine.pp = (int)options->pp;
    engine.all2all =
        options->all2all_backend == ALL2ALL_OPTION_ALLTOALL ? ALL2ALL_ALLTOALL : ALL2ALL_ALLGATHER;
    engine.kv_cache_dtype = options->kv_cache_dtype == CACHE_F32          ? DTYPE_F32
                            : options->kv_cache_dtype == CACHE_FP8_DS_MLA ? DTYPE_U8
                                                                          : DTYPE_BF16;
    engine.kv_placement = options->kv_placement == PLACEMENT_SHARDED ? KV_SHARDED
                          : options->kv_placement == PLACEMENT_NODE  ? KV_NODE
                          : options->kv_placement == PLACEMENT_AUTO  ? KV_AUTO
                                                                     : KV_REPLICATED;
    engine.has_i8_weights = options->weight_dtype == WEIGHT_INT8;
    engine.rounds_inputs = options->activation_dtype == ACTIVATION_BF16;
    engine.keeps_inputs = options->activation_dtype == ACTIVATION_F32;
    engine.mla_mode = options->mla_mode == MLA_OPTION_ABSORB   ? MLA_ABSORB
                      : options->mla_mode == MLA_OPTION_EXPAND ? MLA_EXPAND
                                                               : MLA_AUTO;
    engine.deterministic =
        options->deterministic == DETERMINISTIC_OPTION_LAYOUT  ? DETERMINISTIC_LAYOUT
        : options->deterministic == DETERMINISTIC_OPTION_BATCH ? DETERMINISTIC_BATCH
                                                               : DETERMINISTIC_OFF;
    engine.max_model_len = capacity->max_model_len;
    engine.lowers_max_model_len = capacity->lowers_max_model_len;
    engine.max_num_seqs = capacity->max_num_seqs;
    engine.max_num_batched_tokens = capacity->max_num_batched_tokens;
    engine.cache_pages = capacity->cache_pages;
    engine.is_dummy = options->load_format == LOAD_DUMMY;
    engine.expert_map = options->expert_map;
    engine.n_redundant_experts = (int)options->redundant_experts;
    return engine;
}

enum status job_bind(struct job *job)
{
    struct topology topology;
    enum status status =
        topology_bind(&topology, &job->process, job->options->numa_bind == NUMA_AUTO);
    TRY(comm_agree(&job->world, status));
    job->n_threads = (int)(job->options->threads > 0 ? job->options->threads : topology.own_cores);
    if (job->n_threads < 1)
        job->n_threads = 1;
    return STATUS_OK;
}

enum status job_open_engine(struct engine **engine, int64_t *load_ns, struct job *job,
                            const struct job_capacity *capacity)
{
    struct progress progress;
    struct engine_options options = engine_options_of(job->options, capacity);
    int64_t begin_ns = progress_now_ns();
    const char *load_out = job->options->expert_load_out;

    TRY(failure_from_root(&job->world, job_is_root(job) && load_out != NULL
                                           ? expert_load_check_path(load_out)
                                           : STATUS_OK));
    options.expert_load = load_out != NULL ? &job->expert_load : NULL;
    /* before any large allocation, so that memory comes from the node's own part */
    TRY(job_bind(job));
    TRY(model_tokenizer_compare(&job->world, job->options->model));
    options.n_threads = job->n_threads;
    progress_begin(&progress, "loading", PROGRESS_BYTES, job_is_root(job));
    options.on_progress = show_loading;
    options.progress_context = &progress;
    enum status status = engine_open(engine, &options, &job->process);
    if (status == STATUS_OK)
        progress_summarize(&progress, "loaded", job->process.size > 1 ? " (rank 0)" : NULL);
    progress_end(&progress);
    if (status == STATUS_OK && job_is_root(job) && *engine_placement_reason(*engine) != '\0')
        fprintf(stderr, "latentrank: %s\n", engine_placement_reason(*engine));
    *load_ns = progress_now_ns() - begin_ns;
    return status;
}

enum status job_write_expert_load(struct job *job)
{
    const char *path = job->options->expert_load_out;
    if (path == NULL)
        return STATUS_OK;
    TRY(expert_load_sum(&job->expert_load, &job->world));
    return failure_from_root(
        &job->world, job_is_root(job) ? expert_load_write(&job->expert_load, path) : STATUS_OK);
}

enum status job_mesh(struct mesh *mesh, const struct job *job, const struct model_config *config)
{
    struct mesh_spec spec = {.world_size = job->process.size,
                             .tp_size = (int)job->options->tp,
                             .ep_size = (int)job->options->ep,
                             .dp_size = (int)job->options->dp,
                             .pp_size = (int)job->options->pp,
                             .n_experts = config->router.n_experts,
                             .n_layers = config->n_layers};
    return mesh_build(mesh, &spec, job->process.rank);
}
