/* engine_experts.c - what an engine counts of its experts, and where it places them. */
#include "runtime/engine_internal.h"

#include "runtime/expert_load.h"

/* What is asked for, before anything is read. */
static enum status check_options(const struct engine *e)
{
    const struct engine_options *o = &e->options;
    const char *option = o->expert_map != NULL ? "--expert-map" : "--expert-load-out";
    if (!e->backend.device->is_host)
        FAIL(STATUS_UNSUPPORTED, "--backend cuda with %s: not in this version; use --backend cpu",
             option);
    if (o->expert_map != NULL && o->deterministic == DETERMINISTIC_LAYOUT)
        FAIL(STATUS_UNSUPPORTED,
             "--deterministic layout with --expert-map: sums of experts have the order of their "
             "places; use --deterministic batch");
    return STATUS_OK;
}

static enum status read_loads(struct engine *e)
{
    const struct engine_options *o = &e->options;
    TRY(check_options(e));
    if (o->expert_load != NULL) {
        enum status status = expert_load_open(o->expert_load, &e->config);
        if (status != STATUS_OK)
            return status_prefix(status, "--expert-load-out");
    }
    if (o->expert_map == NULL)
        return STATUS_OK;
    return expert_load_read(&e->placed_by, &e->config, o->expert_map);
}

enum status engine_read_expert_load(struct engine *e)
{
    if (e->options.expert_map == NULL && e->options.expert_load == NULL)
        return STATUS_OK;
    TRY(comm_agree(&e->world, read_loads(e)));
    if (e->options.expert_map == NULL)
        return STATUS_OK;
    return comm_same(&e->world, "the loads of --expert-map", expert_load_hash(&e->placed_by));
}

enum status engine_place_experts(struct engine *e, struct model_extent *extent)
{
    if (e->options.expert_map == NULL)
        return STATUS_OK;
    TRY(expert_maps_open(&e->expert_maps, &e->placed_by, e->options.n_redundant_experts,
                         e->mesh.ep.size));
    extent->n_experts += e->options.n_redundant_experts;
    return STATUS_OK;
}

void engine_close_experts(struct engine *e)
{
    expert_load_close(&e->placed_by);
    expert_maps_close(e->expert_maps, e->config.n_layers);
}

void step_place_experts(struct step *s, int layer, struct tensor *chosen)
{
    if (s->expert_load != NULL)
        expert_load_add(s->expert_load, layer, chosen);
    if (s->plan->expert_maps == NULL)
        return;
    const struct expert_map *map = &s->plan->expert_maps[layer];
    const int32_t *id = tensor_i32(&s->batch->ids), *position = tensor_i32(&s->batch->position);
    for (int64_t t = 0; t < chosen->dim[0]; t++) {
        int32_t *expert = (int32_t *)chosen->data + t * chosen->stride[0];
        for (int64_t k = 0; k < chosen->dim[1]; k++)
            expert[k] = expert_map_slot(map, expert[k], (int64_t)position[t] + id[t]);
    }
}
