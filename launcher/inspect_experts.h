/* inspect_experts.h - where --expert-map would place experts, and how even that is. */
#ifndef LAUNCHER_INSPECT_EXPERTS_H
#define LAUNCHER_INSPECT_EXPERTS_H

#include "launcher/options.h"
#include "parallel/shard_plan.h"
#include "runtime/expert_load.h"
#include <jansson.h>
#include <stdio.h>

/* Imbalance: the load of a layer's busiest rank over the mean, the mean over layers. */
struct inspect_experts {
    struct expert_load load;
    struct expert_map *maps; /* [load.n_layers]; NULL: no --expert-map */
    int n_redundant, n_ranks;
    double *rank_load; /* [load.n_layers, n_ranks] (token, choice) pairs */
    double imbalance, in_order;
};

/* For the ranks of one ep group.  Without --expert-map all is empty.
 * Owner: caller; end with inspect_experts_close.  Errors: those of expert_load_read and expert_maps_open. */
enum status inspect_experts_open(struct inspect_experts *experts, const struct options *options,
                                 const struct model_config *config, int n_ranks);
void inspect_experts_close(struct inspect_experts *experts);

/* Pairs that fall to rank `rank` of its ep group in these layers. */
double inspect_experts_rank_load(const struct inspect_experts *experts, struct span layers,
                                 int rank);

/* Owner: caller. */
json_t *inspect_experts_json(const struct inspect_experts *experts);
void inspect_experts_print(FILE *out, const struct inspect_experts *experts);

#endif
