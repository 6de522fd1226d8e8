/* engine_internal.h - what a rank has open; shared by engine.c, which opens it, and engine_step.c, which runs steps
 * through it. */
#ifndef RUNTIME_ENGINE_INTERNAL_H
#define RUNTIME_ENGINE_INTERNAL_H

#include "runtime/engine.h"
#include "runtime/expert_load.h"
#include "runtime/rank_comms.h"
#include "runtime/safetensors.h"
#include "runtime/step.h"
#include "runtime/step_graph.h"
#include "runtime/step_plan.h"
#include "runtime/weight_loader.h"

/* A step that rank 0 has begun: what its logits are of. */
struct flight {
    struct step_entry *entry; /* [max_num_seqs] */
    struct step_plan plan;    /* without ids */
    float *came;     /* [max_num_seqs, vocabulary] its logits; NULL when rank 0 has them itself */
    int is_expected; /* they go there */
};

struct engine {
    struct process process;
    struct engine_options options; /* the lengths filled in */
    int has_threads;               /* the device's pool is ours */
    int checks;                    /* step_check compares */
    FILE *trace;                   /* and writes here */
    struct model_config config;
    struct mesh mesh;
    struct group node_cache; /* members of tp on this node */
    char placement_reason[512];
    struct shard_plan plan;
    struct expert_load placed_by;   /* of --expert-map */
    struct expert_map *expert_maps; /* [n_layers]; NULL: expert e is in slot e */
    struct comm world;              /* of host tensors */
    struct mailbox *letters;        /* logits, to rank 0 */
    struct comm orders;             /* of all ranks too, for steps; ops NULL: world serves */
    struct rank_comms comms;
    struct safetensors *checkpoint; /* while loading */
    struct backend backend;
    struct arena weight_arena, cache_arena, work_arena, host_arena;
    struct weights weights;
    struct latent_cache cache;
    struct batch batch;
    struct workspace work;
    struct step_graphs graphs;
    struct step_message message;
    struct replica_plan replica;
    struct flight *flight; /* [depth], a ring; rank 0 only */
    int first_flight, n_flights;
    int64_t *length; /* [max_num_seqs] rows of each sequence, of all replicas */
    struct tensor cos_sin;
    int64_t *vocab_counts;                                  /* [tp] */
    int64_t *gather_counts, *sent_counts, *received_counts; /* [stage] */
};

/* Sequences that this rank's replica has room for. */
int engine_sequences_of_replica(const struct engine *engine);

/* The members of tp that share the pages of the cache, with that placement. */
struct group engine_cache_group(const struct engine *engine, enum kv_placement placement);

/* 1 when sums over them continue the tree of units (kernels/core/matrix.h). */
int engine_shares_whole_units(const struct group *members);

struct weight_loader_options engine_loader_options(const struct engine *engine);

/* Chooses where the cache lies and how long it may be, where that is left open, and refuses what does not fit.
 * Collective.  Errors: STATUS_NO_MEMORY, STATUS_COMM; agreed. */
enum status engine_check_memory(struct engine *engine);

/* Takes everything but the weights.  Errors: STATUS_NO_MEMORY. */
enum status engine_open_memory(struct engine *engine);

/* Whether routed and shared experts are summed over ranks apart, as one rank sums them. */
int engine_splits_moe(const struct engine *engine);

/* Reads --expert-map, and makes room for the counts of --expert-load-out.  Collective. */
enum status engine_read_expert_load(struct engine *engine);

/* Places experts over the ranks of ep, once they are known; extent->n_experts becomes the number of slots. */
enum status engine_place_experts(struct engine *engine, struct model_extent *extent);
void engine_close_experts(struct engine *engine);

/* Whether tokens are sent to their experts. */
int engine_dispatches(const struct engine *engine);

#endif
