/* expert_load.h - how often the router chose each expert of each layer: counted while steps run, and kept in a
 * file for --expert-map.
 *
 * The file is JSON: {"n_experts": E, "layers": {"3": [E counts], ...}} with each layer
 * that has routed experts. */
#ifndef RUNTIME_EXPERT_LOAD_H
#define RUNTIME_EXPERT_LOAD_H

#include "kernels/core/tensor.h"
#include "parallel/comm.h"
#include "parallel/expert_map.h"
#include "runtime/model_config.h"

struct expert_load {
    int n_layers, n_experts;
    unsigned char is_moe[MODEL_MAX_LAYERS];
    int64_t *count; /* [n_layers, n_experts]: (token, choice) pairs; 0 in dense layers */
};

/* All counts 0.  Owner: caller; end with expert_load_close.
 * Errors: STATUS_USAGE (no routed experts), STATUS_NO_MEMORY. */
enum status expert_load_open(struct expert_load *load, const struct model_config *config);
void expert_load_close(struct expert_load *load);

static inline int64_t *expert_load_of(const struct expert_load *load, int layer)
{
    return load->count + (int64_t)layer * load->n_experts;
}

/* Counts chosen[T, K], ids of experts in host memory. */
void expert_load_add(struct expert_load *load, int layer, const struct tensor *chosen);

/* The counts of all members, on each of them.  Collective.  Errors: STATUS_NO_MEMORY, STATUS_COMM. */
enum status expert_load_sum(struct expert_load *load, struct comm *comm);

/* Fails when expert_load_write could not write there; leaves nothing behind.  Errors: STATUS_IO. */
enum status expert_load_check_path(const char *path);

/* The file is there as a whole or not at all.  Errors: STATUS_IO. */
enum status expert_load_write(const struct expert_load *load, const char *path);

/* Opens `load` with the counts of a file, which must be of this model's layers and experts.
 * Errors: STATUS_IO, STATUS_INVALID (text: file, layer, expert), those of expert_load_open. */
enum status expert_load_read(struct expert_load *load, const struct model_config *config,
                             const char *path);

/* Of all counts. */
uint64_t expert_load_hash(const struct expert_load *load);

/* One map for each layer, [n_layers]; that of a dense layer is empty.
 * Owner: caller; end with expert_maps_close.  Errors: STATUS_USAGE (too many slots), STATUS_NO_MEMORY. */
enum status expert_maps_open(struct expert_map **maps, const struct expert_load *load,
                             int n_redundant, int n_ranks);
void expert_maps_close(struct expert_map *maps, int n_layers);

#endif
