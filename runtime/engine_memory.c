/* engine_memory.c - what a rank keeps in memory: laid out, compared with what there is, and taken. */
#include "runtime/engine_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/core/log.h"
#include "runtime/cache_choice.h"
#include "runtime/decode_bytes.h"
#include "runtime/memory_plan.h"

enum { SHORTEST_CONTEXT = 256 }; /* a default context below is refused instead */

int engine_sequences_of_replica(const struct engine *e)
{
    return replica_sequences(e->options.max_num_seqs, e->mesh.dp.size);
}

int engine_shares_whole_units(const struct group *members)
{
    return members->size <= UNITS && (members->size & (members->size - 1)) == 0;
}

struct group engine_cache_group(const struct engine *e, enum kv_placement placement)
{
    if (placement == KV_SHARDED)
        return e->mesh.tp;
    if (placement == KV_NODE)
        return e->node_cache;
    return (struct group){.name = "cache", .size = 1, .first = e->process.rank, .stride = 1};
}

/* As the options say, or as they would be with another placement. */
static struct latent_cache_shape cache_shape(const struct engine *e, enum kv_placement placement)
{
    const struct engine_options *o = &e->options;
    const struct group members = engine_cache_group(e, placement);
    struct latent_cache_shape shape = {
        .dtype = o->kv_cache_dtype,
        .n_sequences = engine_sequences_of_replica(e),
        .max_length = o->max_model_len,
        .n_pages = latent_cache_pages(engine_sequences_of_replica(e), o->max_model_len),
        .layers = e->plan.layers,
        .n_members = members.size,
        .member = members.index};
    if (o->cache_pages > 0 && o->cache_pages < shape.n_pages)
        shape.n_pages = o->cache_pages;
    return shape;
}

static enum status lay_out_cache(struct engine *e, struct arena *arena)
{
    const struct latent_cache_shape shape = cache_shape(e, e->options.kv_placement);
    const int64_t dim[] = {e->options.max_model_len, e->config.d_r};
    TRY(latent_cache_open(&e->cache, arena, &e->config, &shape));
    return arena_tensor(arena, &e->cos_sin, DTYPE_F32, 2, dim);
}

int engine_splits_moe(const struct engine *e)
{
    return e->options.deterministic == DETERMINISTIC_LAYOUT && e->mesh.stage.size > 1 &&
           e->config.n_shared_experts > 0;
}

int engine_dispatches(const struct engine *e)
{
    return e->options.all2all == ALL2ALL_ALLTOALL && e->mesh.dp.size > 1;
}

/* Heads of member `member` of those that share the pages, who are neighbours in tp. */
static int64_t heads_of_member(const struct engine *e, const struct group *members, int member)
{
    int first = e->mesh.tp.index - members->index;
    return span_size(span_part(e->config.n_heads, e->mesh.tp.size, first + member));
}

static int64_t heads_of_members(const struct engine *e, const struct group *members)
{
    int64_t n = 0;
    for (int m = 0; m < members->size; m++)
        n += heads_of_member(e, members, m);
    return n;
}

static enum status lay_out_work(struct engine *e, struct arena *arena)
{
    const struct group members = engine_cache_group(e, e->options.kv_placement);
    const struct workspace_shape shape = {.max_tokens = e->options.max_num_batched_tokens,
                                          .expands = e->options.mla_mode != MLA_ABSORB,
                                          .splits_moe = engine_splits_moe(e),
                                          .dispatches = engine_dispatches(e),
                                          .is_apart = !e->backend.device->is_host,
                                          .n_replicas = e->mesh.dp.size,
                                          .tp = e->mesh.tp.size,
                                          .ep = e->mesh.ep.size,
                                          .cache_members = members.size,
                                          .cache_heads = heads_of_members(e, &members)};
    int64_t table_pages =
        e->backend.device->is_host ? 0 : latent_cache_pages(1, e->options.max_model_len);
    TRY(batch_open(&e->batch, arena, shape.max_tokens, engine_sequences_of_replica(e), table_pages,
                   members.size > 1));
    return workspace_open(&e->work, arena, &e->config, &e->weights, &e->plan, e->backend.ops,
                          &shape);
}

static enum status lay_out_host_work(struct engine *e, struct arena *arena)
{
    return workspace_open_host(&e->work, arena, &e->config, &e->plan, e->backend.device);
}

static void undo_cache(struct engine *e)
{
    latent_cache_close(&e->cache);
}

static void undo_batch(struct engine *e)
{
    batch_close(&e->batch);
}

/* What this rank will take, found by laying everything out without memory. */
static enum status measure_memory(struct engine *e, struct memory_plan *plan)
{
    const struct weight_loader_options options = engine_loader_options(e);
    struct arena cache = {.name = "cache"}, work = {.name = "workspace"};
    struct arena host = {.name = "workspace"};
    TRY(lay_out_cache(e, &cache));
    undo_cache(e);
    if (e->weights.layer == NULL)
        TRY(weights_lay_out(&e->weights, &e->config, e->checkpoint, &e->plan, &options));
    TRY(lay_out_work(e, &work));
    undo_batch(e);
    if (e->backend.device->is_host)
        TRY(lay_out_host_work(e, &host));
    *plan = (struct memory_plan){.weights = e->weights.bytes_resident,
                                 .workspace = (int64_t)(work.used + host.used),
                                 .cache = (int64_t)cache.used};
    return STATUS_OK;
}

/* What a placement would cost; the exchange is timed. */
static enum status weigh_placement(struct cache_choice *choice, struct engine *e,
                                   enum kv_placement placement, double bytes_per_us)
{
    const struct group members = engine_cache_group(e, placement);
    struct comm *comm = &e->comms.host[placement == KV_SHARDED ? AXIS_TP : AXIS_CACHE];
    struct memory_plan plan = {0};
    int64_t room, tokens = engine_sequences_of_replica(e);
    double rows = (double)tokens * e->options.max_model_len / members.size;
    int lacks;
    e->options.kv_placement = placement;
    TRY(comm_agree(&e->world, measure_memory(e, &plan)));
    TRY(memory_plan_room(&room, &plan, &e->process, e->backend.device, &e->world));
    TRY(e->world.ops->lowest(&e->world, &lacks, plan.cache > room));
    *choice = (struct cache_choice){
        .placement = placement,
        .bytes = plan.cache,
        .fits = lacks < 0,
        .read_us = rows * (double)latent_cache_row_bytes(&e->config, e->options.kv_cache_dtype) /
                   bytes_per_us};
    if (placement == KV_REPLICATED)
        return STATUS_OK;
    int64_t *heads = calloc((size_t)members.size, sizeof *heads);
    for (int m = 0; heads != NULL && m < members.size; m++)
        heads[m] = heads_of_member(e, &members, m);
    enum status status = STATUS_OK;
    if (heads == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d members",
                             members.size);
    status = comm_agree(&e->world, status);
    if (status == STATUS_OK)
        status = cache_choice_time_exchange(&choice->exchange_us, comm, &e->world, tokens, heads,
                                            sharded_state_width(e->config.d_c));
    free(heads);
    return status;
}

/* Resolves KV_AUTO; rank 0's figures count for all. */
static enum status choose_placement(struct engine *e)
{
    struct cache_choice choice[3];
    int n = 0, best, differs;
    double bytes_per_us;
    if (e->options.kv_placement != KV_AUTO)
        return STATUS_OK;
    /* a node is a choice of its own when it is neither one rank nor all */
    int is_own = e->node_cache.size > 1 && e->node_cache.size < e->mesh.tp.size;
    int is_whole = e->options.deterministic != DETERMINISTIC_LAYOUT ||
                   engine_shares_whole_units(&e->node_cache);
    TRY(e->world.ops->lowest(&e->world, &differs, !is_own || !is_whole));
    TRY(cache_choice_time_read(&bytes_per_us, &e->world, &cpu_device_ops));
    TRY(weigh_placement(&choice[n++], e, KV_REPLICATED, bytes_per_us));
    if (differs < 0)
        TRY(weigh_placement(&choice[n++], e, KV_NODE, bytes_per_us));
    if (e->mesh.tp.size > 1)
        TRY(weigh_placement(&choice[n++], e, KV_SHARDED, bytes_per_us));
    TRY(comm_broadcast_bytes(&e->world, choice, sizeof choice, 0));
    best = cache_choice_best(choice, n);
    e->options.kv_placement = choice[best].placement;
    cache_choice_explain(e->placement_reason, sizeof e->placement_reason, choice, n, best);
    return STATUS_OK;
}

/* Lowers max_model_len to what fits in 9 tenths of the memory left, where it may. */
static enum status fit_context(struct engine *e, struct memory_plan *plan)
{
    int64_t room, wanted = plan->cache, length = e->options.max_model_len;
    int64_t n_pages = cache_shape(e, e->options.kv_placement).n_pages;
    TRY(memory_plan_room(&room, plan, &e->process, e->backend.device, &e->world));
    if (!e->options.lowers_max_model_len || wanted <= room)
        return STATUS_OK;
    int64_t pages = (int64_t)((double)room * 0.9 / (double)wanted * (double)n_pages) /
                    engine_sequences_of_replica(e);
    if (pages * PAGE_ROWS < SHORTEST_CONTEXT)
        return STATUS_OK; /* memory_plan_check says why not */
    e->options.max_model_len = (int)(pages * PAGE_ROWS);
    if (e->process.rank == 0)
        log_print(LOG_WARN,
                  "the memory holds a context of %d tokens for each sequence, not %lld "
                  "(--max-model-len, --max-num-seqs%s)",
                  e->options.max_model_len, (long long)length,
                  e->mesh.tp.size > 1 && e->options.kv_placement == KV_REPLICATED
                      ? ", --kv-placement sharded"
                      : "");
    return comm_agree(&e->world, measure_memory(e, plan));
}

enum status engine_check_memory(struct engine *e)
{
    struct memory_plan plan = {0};
    TRY(choose_placement(e));
    TRY(comm_agree(&e->world, measure_memory(e, &plan)));
    TRY(fit_context(e, &plan));
    const struct latent_cache_shape sharded = cache_shape(e, KV_SHARDED);
    char other[128] = "", advice[256];
    if (e->options.kv_placement == KV_REPLICATED && sharded.n_members > 1)
        snprintf(other, sizeof other, "--kv-placement sharded (cache %.2f GB on each rank), ",
                 (double)latent_cache_bytes(&e->config, &sharded) * 1e-9);
    snprintf(advice, sizeof advice,
             "%smore nodes, a shorter --max-model-len or a smaller model would do", other);
    enum status status =
        memory_plan_check(&plan, &e->process, e->backend.device, &e->world, advice);
    return comm_agree(&e->world, status);
}

/* Runs a layout over an arena that counts, then over one of that size. */
static enum status open_arena(struct engine *e, struct arena *arena, const char *name,
                              enum status (*lay_out)(struct engine *, struct arena *),
                              void (*undo)(struct engine *))
{
    struct arena measure = {.name = name};
    TRY(lay_out(e, &measure));
    undo(e);
    TRY(arena_open(arena, e->backend.device, name, measure.used));
    return lay_out(e, arena);
}

static enum status open_host_work(struct engine *e)
{
    struct arena measure = {.name = "workspace"};
    TRY(lay_out_host_work(e, &measure));
    TRY(arena_open(&e->host_arena, e->backend.host, "workspace", measure.used));
    return lay_out_host_work(e, &e->host_arena);
}

static enum status fill_cos_sin(struct engine *e)
{
    const struct device_ops *device = e->backend.device;
    size_t bytes = (size_t)tensor_count(&e->cos_sin) * sizeof(float);
    if (device->is_host) {
        model_config_cos_sin(&e->config, e->cos_sin.data, e->options.max_model_len);
        return STATUS_OK;
    }
    float *table = malloc(bytes + 1);
    if (table == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the rotations of %d positions",
             e->options.max_model_len);
    model_config_cos_sin(&e->config, table, e->options.max_model_len);
    enum status status = device->copy_in(e->cos_sin.data, table, bytes, e->backend.stream);
    if (status == STATUS_OK)
        status = device->synchronize(e->backend.stream);
    free(table);
    return status;
}

/* What steps are made of, and those on their way. */
static enum status open_steps(struct engine *e)
{
    int max_seqs = e->options.max_num_seqs, max_tokens = e->options.max_num_batched_tokens;
    TRY(step_message_open(&e->message, max_seqs, max_tokens));
    TRY(replica_plan_open(&e->replica, e->mesh.dp.size, max_seqs, max_tokens));
    e->length = calloc((size_t)max_seqs, sizeof *e->length);
    e->flight = calloc((size_t)e->mesh.pp.size, sizeof *e->flight);
    int has_all = e->length != NULL && e->flight != NULL;
    for (int i = 0; has_all && i < e->mesh.pp.size; i++) {
        struct flight *flight = &e->flight[i];
        int is_apart = e->letters != NULL && e->process.rank == 0;
        flight->entry = calloc((size_t)max_seqs, sizeof *flight->entry);
        if (is_apart)
            flight->came = malloc((size_t)max_seqs * (size_t)e->config.vocab_size * sizeof(float));
        has_all = flight->entry != NULL && (!is_apart || flight->came != NULL);
    }
    if (!has_all)
        FAIL(STATUS_NO_MEMORY, "no memory for steps of %d sequences", max_seqs);
    return STATUS_OK;
}

enum status engine_open_memory(struct engine *e)
{
    TRY(open_arena(e, &e->cache_arena, "cache", lay_out_cache, undo_cache));
    TRY(open_arena(e, &e->work_arena, "workspace", lay_out_work, undo_batch));
    TRY(open_host_work(e));
    TRY(fill_cos_sin(e));
    return open_steps(e);
}

const char *engine_placement_reason(const struct engine *engine)
{
    return engine->placement_reason;
}

void engine_memory(const struct engine *engine, struct engine_memory *memory)
{
    const struct model_config *c = &engine->config;
    int64_t row = (int64_t)latent_cache_row_bytes(c, engine->options.kv_cache_dtype);
    const struct latent_cache_shape whole = cache_shape(engine, KV_REPLICATED);
    const struct latent_cache_shape own = cache_shape(engine, engine->options.kv_placement);
    *memory = (struct engine_memory){
        .weight_bytes_read = engine->weights.bytes_read,
        .weight_bytes = engine->weights.bytes_resident,
        .dense_bytes = decode_dense_bytes(&engine->weights, c->n_layers),
        .cache_bytes = (int64_t)latent_cache_bytes(c, &own),
        .replicated_cache_bytes = (int64_t)latent_cache_bytes(c, &whole),
        .cache_members = own.n_members,
        .kv_placement = engine->options.kv_placement,
        .workspace_bytes = (int64_t)(engine->work_arena.used + engine->host_arena.used),
        .cache_row_bytes = row,
        .cache_token_bytes = row * c->n_layers,
        .stage_token_bytes = row * span_size(engine->plan.layers),
        .expanded_token_bytes = c->n_layers * c->n_heads * (c->d_n + c->d_r + c->d_v) * 2,
    };
}
