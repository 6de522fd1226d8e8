/* engine.c - opens a model on all ranks in phases that end agreed. */
#include "runtime/engine_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kernels/core/log.h"

struct engine_options engine_defaults(void)
{
    return (struct engine_options){.kv_cache_dtype = DTYPE_BF16,
                                   .mla_mode = MLA_AUTO,
                                   .n_threads = 1,
                                   .max_num_seqs = 1,
                                   .max_num_batched_tokens = 512};
}

static void engine_free(struct engine *e)
{
    if (e->trace != NULL)
        fclose(e->trace);
    mailbox_close(e->letters);
    for (int i = 0; e->flight != NULL && i < e->mesh.pp.size; i++) {
        free(e->flight[i].entry);
        free(e->flight[i].came);
    }
    free(e->flight);
    free(e->length);
    engine_close_experts(e);
    replica_plan_close(&e->replica);
    step_message_close(&e->message);
    batch_close(&e->batch);
    latent_cache_close(&e->cache);
    weights_close(&e->weights);
    if (e->backend.device != NULL)
        step_graph_close(&e->graphs, e->backend.device);
    arena_close(&e->host_arena);
    arena_close(&e->work_arena);
    arena_close(&e->cache_arena);
    arena_close(&e->weight_arena);
    safetensors_close(e->checkpoint);
    rank_comms_close(&e->comms);
    comm_close(&e->orders);
    comm_close(&e->world);
    if (e->has_threads)
        cpu_device_ops.close_threads();
    backend_close(&e->backend);
    free(e->vocab_counts);
    free(e->gather_counts);
    free(e->sent_counts);
    free(e->received_counts);
    free(e);
}

/* --- opening: each phase runs on every rank, then comm_agree lets all go on or none --- */

static enum status open_config(struct engine *e)
{
    struct engine_options *o = &e->options;
    TRY(model_config_load(&e->config, o->model));
    TRY(model_config_check_supported(&e->config, o->model));
    if (o->max_model_len == 0)
        o->max_model_len = e->config.max_position;
    if (o->max_model_len < 1 || o->max_model_len > e->config.max_position)
        FAIL(STATUS_USAGE,
             "--max-model-len %d: the model takes 1 to %d (max_position_embeddings of %s)",
             o->max_model_len, e->config.max_position, o->model);
    int64_t most = (int64_t)o->max_num_seqs * o->max_model_len; /* more tokens have no place */
    if (o->max_num_batched_tokens > most)
        o->max_num_batched_tokens = (int)most;
    return STATUS_OK;
}

/* A prompt's chunks agree in bits where each has the form of attention that decode has. */
static enum status open_deterministic(struct engine *e)
{
    struct engine_options *o = &e->options;
    if (o->deterministic == DETERMINISTIC_OFF)
        return STATUS_OK;
    if (!e->backend.device->is_host)
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic on a GPU: not in this version; use --backend cpu");
    if (o->mla_mode == MLA_EXPAND)
        FAIL(STATUS_UNSUPPORTED, "--deterministic with --mla-mode expand: not in this version; use "
                                 "absorb");
    o->mla_mode = MLA_ABSORB;
    return STATUS_OK;
}

static int begins_odd(int64_t columns)
{
    for (int u = 0; u < UNITS; u++)
        if (unit_begin(u, columns) % 2 != 0)
            return 1;
    return 0;
}

/* bf16 arithmetic takes columns in pairs, which no rank's first column may part (kernels/core/matrix.h). */
static int parts_pairs(const struct model_config *c)
{
    return c->d_v % 2 != 0 || begins_odd(c->dense_columns) ||
           begins_odd(c->n_shared_experts * c->expert_columns);
}

/* Sums go along a tree of 8 units (kernels/core/matrix.h), of which each rank has a whole subtree. */
static enum status check_layout_bits(const struct engine *e)
{
    int stage = e->mesh.stage.size, ep = e->mesh.ep.size, has_dp = e->mesh.dp.size > 1;
    char ranks[64];
    if (e->options.deterministic != DETERMINISTIC_LAYOUT)
        return STATUS_OK;
    snprintf(ranks, sizeof ranks, has_dp ? "tp x dp = %d" : "tp %d", stage);
    if (stage > UNITS || (stage & (stage - 1)) != 0)
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic layout with %s: sums have %d units, which 1, 2, 4 or 8 ranks can "
             "share; start as many, or use --deterministic batch",
             ranks, UNITS);
    if (e->config.router.n_experts > 0 && ep != stage)
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic layout with %s and ep %d: a rank must have whole experts; use "
             "--ep %d (the model has %d experts), or --deterministic batch",
             ranks, ep, stage, e->config.router.n_experts);
    if (e->options.rounds_inputs && parts_pairs(&e->config))
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic layout with --activation-dtype bf16: the sums of this model are cut "
             "at odd columns, and bf16 products take two at a time; use --activation-dtype f32, or "
             "--deterministic batch");
    return STATUS_OK;
}

/* What only the CPU does is asked of it here, before anything is loaded. */
static enum status open_backend(struct engine *e)
{
    const struct engine_options *o = &e->options;
    TRY(backend_open(&e->backend, o->backend, e->process.node_rank));
    TRY(open_deterministic(e));
    if (e->backend.device->is_host)
        return STATUS_OK;
    if (o->kv_placement == KV_AUTO)
        FAIL(STATUS_UNSUPPORTED,
             "--backend cuda with --kv-placement auto: not in this version; say "
             "replicated, node or sharded");
    if (o->all2all == ALL2ALL_ALLTOALL)
        FAIL(STATUS_UNSUPPORTED, "--backend cuda with --all2all-backend alltoall: not in this "
                                 "version; use allgather_reducescatter, or --backend cpu");
    if (o->has_i8_weights)
        FAIL(STATUS_UNSUPPORTED,
             "--backend cuda with --weight-dtype int8: not in this version; use "
             "auto, or --backend cpu");
    if (o->mla_mode == MLA_EXPAND)
        FAIL(STATUS_UNSUPPORTED, "--backend cuda with --mla-mode expand: not in this version; use "
                                 "absorb, or --backend cpu");
    e->options.mla_mode = MLA_ABSORB;
    if (!o->keeps_inputs)
        e->options.rounds_inputs = 1;
    return STATUS_OK;
}

/* Threads load the weights, and are the CPU's operations where that is the device. */
static enum status open_threads(struct engine *e)
{
    TRY(cpu_device_ops.open_threads(e->options.n_threads));
    e->has_threads = 1;
    return STATUS_OK;
}

static enum status open_layout(struct engine *e)
{
    const struct mesh_spec spec = {.world_size = e->process.size,
                                   .tp_size = e->options.tp,
                                   .ep_size = e->options.ep,
                                   .dp_size = e->options.dp,
                                   .pp_size = e->options.pp,
                                   .n_experts = e->config.router.n_experts,
                                   .n_layers = e->config.n_layers};
    struct model_extent extent = weights_extent(&e->config);
    TRY(mesh_build(&e->mesh, &spec, e->process.rank));
    TRY(check_layout_bits(e));
    TRY(engine_place_experts(e, &extent));
    shard_plan_build(&e->plan, &extent, &e->mesh);
    e->plan.expert_maps = e->expert_maps;
    e->vocab_counts = calloc((size_t)e->mesh.tp.size, sizeof *e->vocab_counts);
    e->gather_counts = calloc((size_t)e->mesh.stage.size, sizeof *e->gather_counts);
    e->sent_counts = calloc((size_t)e->mesh.stage.size, sizeof *e->sent_counts);
    e->received_counts = calloc((size_t)e->mesh.stage.size, sizeof *e->received_counts);
    if (e->vocab_counts == NULL || e->gather_counts == NULL || e->sent_counts == NULL ||
        e->received_counts == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the counts of %d ranks", e->mesh.stage.size);
    for (int m = 0; m < e->mesh.tp.size; m++)
        e->vocab_counts[m] = span_size(span_part(extent.vocab_size, e->mesh.tp.size, m));
    return STATUS_OK;
}

/* With stages they go by MPI: rank 0 is ahead of the last stage, which comm_shm does not let it be, and letters
 * travel while a rank waits for them there. */
static enum status open_orders(struct engine *e)
{
    if (e->mesh.pp.size == 1)
        return STATUS_OK;
    TRY(comm_mpi_open(&e->orders, &e->mesh.world));
    return ledger_wrap(&e->orders);
}

/* Logits of every step on its way, in blocks of each replica. */
static enum status open_letters(struct engine *e)
{
    int blocks = e->options.max_num_seqs + e->mesh.dp.size;
    const struct group alone = {.name = "ends", .size = 1};
    int is_end = e->mesh.tp.index == 0 && e->mesh.dp.index == 0;
    return mailbox_open(&e->letters, is_end ? &e->mesh.ends : &alone, blocks * e->mesh.pp.size);
}

/* The members of tp that are on this node, for KV_NODE. */
static enum status find_node_cache(struct engine *e)
{
    int size = e->process.size;
    int32_t own = e->process.node, *node = calloc((size_t)size, sizeof *node);
    int64_t *counts = calloc((size_t)size, sizeof *counts);
    enum status status = STATUS_OK;
    if (node == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__,
                             "no memory for the nodes of %d "
                             "ranks",
                             size);
    status = comm_agree(&e->world, status);
    for (int i = 0; status == STATUS_OK && i < size; i++)
        counts[i] = 1;
    struct tensor x = tensor_1d(&own, DTYPE_I32, 1), y = tensor_1d(node, DTYPE_I32, size);
    if (status == STATUS_OK)
        status = e->world.ops->all_gather(&e->world, &y, &x, counts, NULL);
    if (status == STATUS_OK)
        e->node_cache = mesh_node_group(&e->mesh, node + e->mesh.tp.first);
    free(node);
    free(counts);
    return status;
}

static enum status check_node_bits(const struct engine *e)
{
    if (e->options.deterministic == DETERMINISTIC_LAYOUT && e->options.kv_placement == KV_NODE &&
        !engine_shares_whole_units(&e->node_cache))
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic layout with --kv-placement node: %d ranks of a node would share the "
             "cache; 1, 2, 4 or 8 can",
             e->node_cache.size);
    return STATUS_OK;
}

static enum status open_node_cache(struct engine *e)
{
    enum kv_placement placement = e->options.kv_placement;
    if (placement != KV_NODE && placement != KV_AUTO)
        return STATUS_OK;
    TRY(find_node_cache(e));
    TRY(comm_agree(&e->world, check_node_bits(e)));
    return rank_comms_open_cache(&e->comms, &e->world, &e->node_cache);
}

static enum status open_device_comms(struct engine *e)
{
    struct comm_device device = {
        .device = e->backend.device, .pinned = e->backend.host, .stream = e->backend.stream};
    if (e->backend.device->is_host && comm_get_backend() == COMM_NCCL && e->process.size > 1)
        FAIL(STATUS_USAGE, "--comm nccl moves tensors of GPUs, and the device is the CPU; use "
                           "--backend cuda, or --comm auto");
    if (e->backend.device->is_host)
        return STATUS_OK;
    if (e->backend.find_comm != NULL)
        device.library = e->backend.find_comm(&device.reason);
    return rank_comms_open_device(&e->comms, &e->world, &device);
}

static enum status open_checkpoint(struct engine *e)
{
    if (e->options.is_dummy)
        return STATUS_OK;
    TRY(safetensors_open(&e->checkpoint, e->options.model));
    return weights_check(&e->config, e->checkpoint);
}

struct weight_loader_options engine_loader_options(const struct engine *e)
{
    return (struct weight_loader_options){
        .keeps_expanded = e->options.mla_mode != MLA_ABSORB,
        .to_i8 = e->options.has_i8_weights,
        .rounds_inputs = e->options.rounds_inputs,
        .on_progress = e->options.on_progress,
        .progress_context = e->options.progress_context,
    };
}

/* The weights as they were packed, to the device; the host's copy goes. */
static enum status upload_weights(struct engine *e)
{
    const struct device_ops *device = e->backend.device;
    struct arena loaded = e->weight_arena;
    e->weight_arena = (struct arena){0};
    enum status status = arena_open(&e->weight_arena, device, "weights", loaded.used);
    if (status == STATUS_OK)
        status = device->copy_in(e->weight_arena.data, loaded.data, loaded.used, e->backend.stream);
    if (status == STATUS_OK)
        status = device->synchronize(e->backend.stream);
    if (status == STATUS_OK)
        weights_move(&e->weights, e->config.n_layers, loaded.data, e->weight_arena.data);
    e->weight_arena.used = loaded.used;
    arena_close(&loaded);
    return status;
}

static enum status open_weights(struct engine *e)
{
    const struct weight_loader_options options = engine_loader_options(e);
    enum status status = weights_load(&e->weights, &e->weight_arena, &cpu_device_ops, &e->config,
                                      e->checkpoint, &e->plan, &options);
    if (status != STATUS_OK)
        log_print(LOG_INFO, "weights not loaded: %s", status_text());
    if (status != STATUS_OK || e->backend.device->is_host)
        return status;
    return upload_weights(e);
}

/* A hash of config.json as the ranks read it. */
static uint64_t config_hash(const struct engine *e)
{
    return XXH3_64bits(&e->config, sizeof e->config);
}

/* For step_check, which reads host memory. */
static enum status open_checks(struct engine *e)
{
    const char *checks = getenv("LATENTRANK_DEBUG_CHECK"),
               *trace = getenv("LATENTRANK_DEBUG_TRACE");
    if (!e->backend.device->is_host)
        return STATUS_OK;
    e->checks = checks != NULL && strcmp(checks, "1") == 0;
    if (trace == NULL || e->process.rank != 0)
        return STATUS_OK;
    e->trace = fopen(trace, "wb");
    if (e->trace == NULL)
        FAIL(STATUS_IO, "LATENTRANK_DEBUG_TRACE=%s: %s", trace, strerror(errno));
    return STATUS_OK;
}

static enum status open_phases(struct engine *e)
{
    TRY(comm_agree(&e->world, open_backend(e)));
    TRY(comm_same(&e->world, "the kind of the device (--backend)",
                  (uint64_t)e->backend.device->is_host));
    TRY(comm_agree(&e->world, open_checks(e)));
    TRY(comm_same(&e->world, "LATENTRANK_DEBUG_CHECK", (uint64_t)e->checks));
    TRY(comm_agree(&e->world, open_threads(e)));
    TRY(comm_agree(&e->world, open_config(e)));
    TRY(comm_same(&e->world, "config.json", config_hash(e)));
    TRY(engine_read_expert_load(e));
    TRY(comm_agree(&e->world, open_layout(e)));
    TRY(comm_agree(&e->world, open_orders(e)));
    TRY(comm_agree(&e->world, open_letters(e)));
    TRY(rank_comms_open(&e->comms, &e->world, &e->mesh));
    TRY(open_node_cache(e));
    TRY(comm_agree(&e->world, open_device_comms(e)));
    TRY(comm_agree(&e->world, open_checkpoint(e)));
    if (e->checkpoint != NULL)
        TRY(comm_same(&e->world, "the headers and sizes of the safetensors files",
                      safetensors_hash(e->checkpoint)));
    TRY(engine_check_memory(e));
    TRY(comm_agree(&e->world, open_weights(e)));
    safetensors_close(e->checkpoint);
    e->checkpoint = NULL;
    return comm_agree(&e->world, engine_open_memory(e));
}

enum status engine_open(struct engine **engine, const struct engine_options *options,
                        const struct process *process)
{
    const struct group all = {
        .name = "world", .size = process->size, .index = process->rank, .stride = 1};
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the engine");
    e->process = *process;
    e->options = *options;
    enum status status = comm_open(&e->world, &all);
    if (status == STATUS_OK)
        status = open_phases(e);
    if (status != STATUS_OK) {
        engine_free(e);
        return status;
    }
    *engine = e;
    return STATUS_OK;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    if (engine->process.rank == 0 && engine_rest(engine) != STATUS_OK)
        log_print(LOG_WARN, "the other ranks were not told to stop: %s", status_text());
    engine_free(engine);
}

/* --- what is open --- */

const struct model_config *engine_config(const struct engine *engine)
{
    return &engine->config;
}

const struct backend *engine_backend(const struct engine *engine)
{
    return &engine->backend;
}

int engine_rounds_inputs(const struct engine *engine)
{
    return engine->options.rounds_inputs;
}

int engine_max_model_len(const struct engine *engine)
{
    return engine->options.max_model_len;
}

int engine_max_batched_tokens(const struct engine *engine)
{
    return engine->options.max_num_batched_tokens;
}

int engine_max_num_seqs(const struct engine *engine)
{
    return engine->options.max_num_seqs;
}

int engine_replicas(const struct engine *engine)
{
    return engine->mesh.dp.size;
}

int engine_own_sequences(const struct engine *engine, int n_sequences)
{
    int own = engine->mesh.dp.index, n_replicas = engine->mesh.dp.size;
    return n_sequences > own ? (n_sequences - own - 1) / n_replicas + 1 : 0;
}

int engine_depth(const struct engine *engine)
{
    return engine->mesh.pp.size;
}

int64_t engine_length(const struct engine *engine, int sequence)
{
    return engine->length[sequence];
}
