/* mesh.h - which ranks work together on what.  Arithmetic only: no MPI, no
 * NCCL, so that a plan for 512 GPUs can be made and tested on a laptop.
 *
 * tp splits heads, dense and shared FFN columns and the vocabulary; ep splits
 * the routed experts into whole ones; each expert is cut by columns over the
 * remaining etp = tp / ep ranks.  Rank r is member r % etp of its etp group and
 * member r / etp of its ep group. */
#ifndef PARALLEL_MESH_H
#define PARALLEL_MESH_H

#include "kernels/core/status.h"

struct mesh_spec {
    int world_size;
    int tp_size;   /* 0: world_size */
    int ep_size;   /* 0: tp_size when the model has that many experts, else 1 */
    int n_experts; /* routed experts of the model, 0 for a dense one; only for the default of ep */
};

/* One set of ranks, in order; `index` is this rank's place in it. */
struct group {
    const char *name; /* "world", "tp", "ep", "etp": for logs */
    int size;
    int index;
    int first;  /* world rank of member 0 */
    int stride; /* world ranks between neighbours */
};

struct mesh {
    int rank; /* this process, in the world */
    struct group world;
    struct group tp;
    struct group ep;  /* other experts, same columns */
    struct group etp; /* the same experts, other columns */
};

/* Pure.  Errors: STATUS_USAGE when tp differs from the ranks, or ep does not divide tp (text: the
 * sizes and what would fit). */
enum status mesh_build(struct mesh *mesh, const struct mesh_spec *spec, int rank);

#endif
