#include "launcher/inspect_experts.h"
#include "launcher/report.h"

#include <stdlib.h>
#include <string.h>

/* Loads of the ranks were expert e in slot e. */
static void loads_in_order(double *rank_load, const int64_t *load, int n_experts, int n_ranks)
{
    for (int r = 0; r < n_ranks; r++) {
        struct span own = span_part(n_experts, n_ranks, r);
        rank_load[r] = 0;
        for (int64_t e = own.begin; e < own.end; e++)
            rank_load[r] += (double)load[e];
    }
}

static void weigh(struct inspect_experts *x)
{
    int n_moe = 0;
    for (int layer = 0; layer < x->load.n_layers; layer++) {
        double *rank_load = x->rank_load + (int64_t)layer * x->n_ranks;
        const int64_t *load = expert_load_of(&x->load, layer);
        if (!x->load.is_moe[layer])
            continue;
        loads_in_order(rank_load, load, x->load.n_experts, x->n_ranks);
        x->in_order += expert_map_imbalance(rank_load, x->n_ranks);
        expert_map_rank_loads(rank_load, &x->maps[layer], load);
        x->imbalance += expert_map_imbalance(rank_load, x->n_ranks);
        n_moe++;
    }
    x->in_order /= n_moe;
    x->imbalance /= n_moe;
}

enum status inspect_experts_open(struct inspect_experts *experts, const struct options *options,
                                 const struct model_config *config, int n_ranks)
{
    struct inspect_experts x = {.n_redundant = (int)options->redundant_experts, .n_ranks = n_ranks};
    enum status status;
    *experts = (struct inspect_experts){0};
    if (options->expert_map == NULL)
        return STATUS_OK;
    TRY(expert_load_read(&x.load, config, options->expert_map));
    TRY_GOTO(status, fail, expert_maps_open(&x.maps, &x.load, x.n_redundant, n_ranks));
    x.rank_load = calloc((size_t)x.load.n_layers * (size_t)n_ranks, sizeof *x.rank_load);
    if (x.rank_load == NULL) {
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__,
                             "no memory for the loads of %d ranks", n_ranks);
        goto fail;
    }
    weigh(&x);
    *experts = x;
    return STATUS_OK;
fail:
    inspect_experts_close(&x);
    return status;
}

void inspect_experts_close(struct inspect_experts *experts)
{
    expert_maps_close(experts->maps, experts->load.n_layers);
    expert_load_close(&experts->load);
    free(experts->rank_load);
    *experts = (struct inspect_experts){0};
}

double inspect_experts_rank_load(const struct inspect_experts *experts, struct span layers,
                                 int rank)
{
    double sum = 0;
    for (int64_t layer = layers.begin; layer < layers.end; layer++)
        sum += experts->rank_load[layer * experts->n_ranks + rank];
    return sum;
}

json_t *inspect_experts_json(const struct inspect_experts *experts)
{
    json_t *slots = json_object();
    for (int layer = 0; layer < experts->load.n_layers; layer++) {
        char key[16];
        snprintf(key, sizeof key, "%d", layer);
        if (experts->load.is_moe[layer])
            json_object_set_new(
                slots, key, report_ids(experts->maps[layer].expert, experts->maps[layer].n_slots));
    }
    return json_pack("{s:i, s:o, s:o, s:o}", "redundant", experts->n_redundant, "imbalance",
                     report_real(experts->imbalance), "imbalance_in_order",
                     report_real(experts->in_order), "slots", slots);
}

void inspect_experts_print(FILE *out, const struct inspect_experts *experts)
{
    fprintf(out,
            "experts by load     the busiest of %d ranks has %.3f times the mean load of a layer "
            "(in order of ids: %.3f), %d more slots\n",
            experts->n_ranks, experts->imbalance, experts->in_order, experts->n_redundant);
}
