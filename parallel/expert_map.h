/* expert_map.h - which routed experts of a layer stand where, from how often each was chosen.
 *
 * A stage has n_experts + n_redundant slots; rank r of its ep group holds those of
 * span_part(n_slots, n_ranks, r).  Extra slots hold copies of the most loaded experts:
 * each goes to the one with the largest load per copy (but to none that has a copy
 * for every rank already, while others have not).  Copies then go, heaviest first, to
 * the least loaded rank with a free slot; where the order of ids would have been
 * better that is taken instead, and pairs of slots are exchanged between the most loaded
 * rank and others as long as that helps.  The same input gives the same map everywhere.
 * Source: the load balancer of DeepSeek-V3 (arXiv 2412.19437, 3.4; EPLB), of which this is the part for one
 * level of ranks.
 *
 * Bound: with c the largest load per copy, the loads of two ranks differ by at most c, so
 * that none exceeds the mean by more than c, and none is above twice the largest load
 * of the best placement of these copies.  For when no exchange between the most and the least loaded
 * rank helps, and some slot a of the first outweighs some slot b of the second, their
 * loads differ by at most a - b <= c; when no slot does, the first has one slot
 * more (span_part gives no more than that), and their loads differ by at most that slot. */
#ifndef PARALLEL_EXPERT_MAP_H
#define PARALLEL_EXPERT_MAP_H

#include "kernels/core/status.h"
#include <assert.h>
#include <stdint.h>

/* One layer. */
struct expert_map {
    int n_experts, n_slots, n_ranks;
    int32_t *expert; /* [n_slots] which expert stands in a slot */
    int32_t *first;  /* [n_experts + 1] of the slots of each expert in `slot`; */
    int32_t *slot;   /* [n_slots] those of an expert are ascending */
};

struct expert_map_spec {
    int n_experts, n_redundant, n_ranks;
};

/* Loads of a layer may add up to this. */
#define EXPERT_LOAD_MAX (INT64_C(1) << 48)

enum { EXPERT_SLOTS_MAX = 1 << 14 };

/* load[n_experts]: 0 or more, together at most EXPERT_LOAD_MAX; n_experts + n_redundant: 1 to EXPERT_SLOTS_MAX.
 * Owner: caller; end with expert_map_close.  Errors: STATUS_NO_MEMORY. */
enum status expert_map_open(struct expert_map *map, const struct expert_map_spec *spec,
                            const int64_t *load);
void expert_map_close(struct expert_map *map);

static inline int expert_map_copies(const struct expert_map *map, int expert)
{
    return map->first[expert + 1] - map->first[expert];
}

/* The slot that serves `expert` for one token; tokens with different keys share the copies out. */
static inline int32_t expert_map_slot(const struct expert_map *map, int expert, int64_t key)
{
    assert(0 <= expert && expert < map->n_experts && key >= 0);
    return map->slot[map->first[expert] + key % expert_map_copies(map, expert)];
}

/* rank_load[n_ranks] when each expert's load is shared evenly by its copies. */
void expert_map_rank_loads(double *rank_load, const struct expert_map *map, const int64_t *load);

/* The largest of n loads over their mean; 1 when all are 0. */
double expert_map_imbalance(const double *rank_load, int n);

#endif
