/* shard_plan.h - which part of the model a rank holds.
 *
 * Part i of P of n items is [floor(i n / P), floor((i + 1) n / P)): for P of 1, 2, 4
 * or 8 these are whole reduction units (kernels/core/matrix.h).  Spans may be
 * empty. */
#ifndef PARALLEL_SHARD_PLAN_H
#define PARALLEL_SHARD_PLAN_H

#include "parallel/expert_map.h"
#include "parallel/mesh.h"
#include <stdint.h>

struct span {
    int64_t begin, end; /* half open: [begin, end) */
};

/* What of a model can be cut. */
struct model_extent {
    int64_t n_heads, vocab_size;
    int64_t n_experts;                                     /* with expert maps: their slots */
    int64_t dense_columns, shared_columns, expert_columns; /* FFN widths; 0 when absent */
    int64_t n_layers;
};

struct shard_plan {
    struct span heads, vocab;                  /* over tp  */
    struct span dense_columns, shared_columns; /* over tp  */
    struct span experts;                       /* over ep; slots of the maps where there are some */
    struct span expert_columns;                /* over etp */
    struct span layers;                        /* over pp  */
    int has_embedding, has_head;               /* the first stage, and the last one */
    const struct expert_map *expert_maps; /* [n_layers]; NULL: expert e is in slot e.  Not owned */
};

static inline int64_t span_size(struct span span)
{
    return span.end - span.begin;
}

/* Part `index` of `parts` of `n` items. */
struct span span_part(int64_t n, int parts, int index);

/* Pure; cannot fail. */
void shard_plan_build(struct shard_plan *plan, const struct model_extent *extent,
                      const struct mesh *mesh);

#endif
