/* mesh.h - which ranks work together on what.  Arithmetic only: no MPI, no
 * NCCL, so that a plan for 512 GPUs can be made and tested on a laptop.
 *
 * The world is pp x dp x tp, tp innermost, so that its members are neighbours and
 * stay in a node when they can: rank ((p dp) + d) tp + t is member t of replica d of
 * stage p.  pp splits the layers, dp the sequences, tp heads, dense and shared FFN
 * columns and the vocabulary.
 * The dp x tp ranks of a stage share its routed experts: ep splits them into whole
 * ones, and each expert is cut by columns over the remaining etp = dp tp / ep ranks.
 * Rank s of a stage is member s % etp of its etp group and member s / etp of its ep
 * group. */
#ifndef PARALLEL_MESH_H
#define PARALLEL_MESH_H

#include "kernels/core/status.h"
#include <stdint.h>

struct mesh_spec {
    int world_size;
    int tp_size;   /* 0: world_size / (dp pp) */
    int dp_size;   /* 0: 1 */
    int pp_size;   /* 0: 1 */
    int ep_size;   /* 0: dp x tp when the model has that many experts, else 1 */
    int n_experts; /* routed experts of the model, 0 for a dense one; only for the default of ep */
    int n_layers;  /* of the model, which pp may not exceed; 0: not known */
};

/* One set of ranks, in order; `index` is this rank's place in it. */
struct group {
    const char *name; /* "world", "tp", "ep", "etp", ...: for logs */
    int size;
    int index;
    int first;  /* world rank of member 0 */
    int stride; /* world ranks between neighbours */
};

struct mesh {
    int rank; /* this process, in the world */
    struct group world;
    struct group tp;
    struct group dp;    /* the same member of every replica of a stage */
    struct group pp;    /* the same member of every stage */
    struct group stage; /* all replicas of a stage */
    struct group ep;    /* other experts, same columns */
    struct group etp;   /* the same experts, other columns */
    /* Stages that hand rows on: 2q and 2q + 1 in link[0], 2q + 1 and 2q + 2 in link[1].  A stage without
     * such a neighbour is alone in its group. */
    struct group link[2];
    struct group ends; /* the first stage and the last one; the others are alone */
};

/* Pure.  Errors: STATUS_USAGE when pp x dp x tp differs from the ranks, ep does not divide dp x tp, or
 * there are more stages than layers (text: the sizes and what would fit). */
enum status mesh_build(struct mesh *mesh, const struct mesh_spec *spec, int rank);

/* The members of tp that are neighbours of this rank, itself included, on its node: node[tp.size] says where each
 * is.  Pure. */
struct group mesh_node_group(const struct mesh *mesh, const int32_t *node);

/* The link to the stage before this one, and to the one behind it, as an index of `link`. */
static inline int mesh_link_before(const struct mesh *mesh)
{
    return (mesh->pp.index + 1) % 2;
}
static inline int mesh_link_behind(const struct mesh *mesh)
{
    return mesh->pp.index % 2;
}

#endif
