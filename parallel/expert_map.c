#include "parallel/expert_map.h"
#include "parallel/shard_plan.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHARE_SHIFT = 10
}; /* loads per copy are whole 1024ths, so that all ranks compute the same */

/* What one map is made with; ranks have the slots [begin[r], begin[r + 1]). */
struct placing {
    struct expert_map *map;
    int32_t *copies; /* [n_experts] */
    int64_t *share;  /* [n_experts] load of one copy */
    int32_t *copy;   /* [n_slots] the expert of each copy, heaviest first */
    int32_t *begin;  /* [n_ranks + 1] */
    int32_t *filled; /* [n_ranks] slots */
    int64_t *sum;    /* [n_ranks] load */
};

/* Whether expert a is to have another copy rather than b.  Without load, or with as much, who has fewer. */
static int needs_more(const struct placing *p, const int64_t *load, int a, int b)
{
    int is_spread_a = p->copies[a] >= p->map->n_ranks,
        is_spread_b = p->copies[b] >= p->map->n_ranks;
    if (is_spread_a != is_spread_b)
        return is_spread_b;
    int64_t left = load[a] * p->copies[b], right = load[b] * p->copies[a];
    return left != right ? left > right : p->copies[a] < p->copies[b];
}

static void count_copies(struct placing *p, const int64_t *load)
{
    struct expert_map *map = p->map;
    for (int e = 0; e < map->n_experts; e++)
        p->copies[e] = 1;
    for (int i = map->n_experts; i < map->n_slots; i++) {
        int best = 0;
        for (int e = 1; e < map->n_experts; e++)
            if (needs_more(p, load, e, best))
                best = e;
        p->copies[best]++;
    }
    for (int e = 0; e < map->n_experts; e++)
        p->share[e] = (load[e] << SHARE_SHIFT) / p->copies[e];
}

static void sum_ranks(struct placing *p)
{
    for (int r = 0; r < p->map->n_ranks; r++) {
        p->sum[r] = 0;
        for (int i = p->begin[r]; i < p->begin[r + 1]; i++)
            p->sum[r] += p->share[p->map->expert[i]];
    }
}

static int most_loaded(const struct placing *p)
{
    int most = 0;
    for (int r = 1; r < p->map->n_ranks; r++)
        if (p->sum[r] > p->sum[most])
            most = r;
    return most;
}

/* Copies in the order of their experts. */
static void place_in_order(struct placing *p)
{
    int n = 0;
    for (int e = 0; e < p->map->n_experts; e++)
        for (int i = 0; i < p->copies[e]; i++)
            p->map->expert[n++] = e;
    sum_ranks(p);
}

/* p->copy = all copies, heaviest first, those of one expert side by side. */
static void sort_copies(struct placing *p)
{
    int n = 0;
    for (int e = 0; e < p->map->n_experts; e++)
        for (int i = 0; i < p->copies[e]; i++) {
            int at = n++;
            for (; at > 0 && p->share[p->copy[at - 1]] < p->share[e]; at--)
                p->copy[at] = p->copy[at - 1];
            p->copy[at] = e;
        }
}

/* Each to the least loaded rank that has room; of equal ones the emptiest, then the first. */
static void place_heaviest_first(struct placing *p)
{
    const struct expert_map *map = p->map;
    memset(p->sum, 0, (size_t)map->n_ranks * sizeof *p->sum);
    memset(p->filled, 0, (size_t)map->n_ranks * sizeof *p->filled);
    for (int i = 0; i < map->n_slots; i++) {
        int best = -1;
        for (int r = 0; r < map->n_ranks; r++) {
            if (p->begin[r] + p->filled[r] == p->begin[r + 1])
                continue;
            if (best < 0 || p->sum[r] < p->sum[best] ||
                (p->sum[r] == p->sum[best] && p->filled[r] < p->filled[best]))
                best = r;
        }
        map->expert[p->begin[best] + p->filled[best]++] = p->copy[i];
        p->sum[best] += p->share[p->copy[i]];
    }
}

/* Two slots of different ranks, and what one gives the other. */
struct exchange {
    int from, to; /* ranks */
    int from_slot, to_slot;
    int64_t highest; /* load of the two ranks, the larger, after it */
};

static void look_at(struct exchange *best, const struct placing *p, int from, int to)
{
    const int32_t *expert = p->map->expert;
    for (int i = p->begin[from]; i < p->begin[from + 1]; i++)
        for (int j = p->begin[to]; j < p->begin[to + 1]; j++) {
            int64_t gain = p->share[expert[i]] - p->share[expert[j]];
            int64_t a = p->sum[from] - gain, b = p->sum[to] + gain, highest = a > b ? a : b;
            if (gain > 0 && highest < best->highest)
                *best = (struct exchange){from, to, i, j, highest};
        }
}

/* The best exchange between the most loaded rank and another; 0 when none helps.  Each lowers the sum of
 * squares of the loads, so there are finitely many. */
static int exchange_once(struct placing *p)
{
    int from = most_loaded(p);
    struct exchange best = {.highest = p->sum[from]};
    for (int r = 0; r < p->map->n_ranks; r++)
        if (r != from)
            look_at(&best, p, from, r);
    if (best.highest == p->sum[from])
        return 0;
    int32_t *a = &p->map->expert[best.from_slot], *b = &p->map->expert[best.to_slot];
    int64_t gain = p->share[*a] - p->share[*b];
    int32_t moved = *a;
    *a = *b;
    *b = moved;
    p->sum[best.from] -= gain;
    p->sum[best.to] += gain;
    return 1;
}

/* The bound of expert_map.h holds. */
static int is_even(const struct placing *p)
{
    int64_t lowest = p->sum[0], largest = 0;
    for (int r = 1; r < p->map->n_ranks; r++)
        lowest = p->sum[r] < lowest ? p->sum[r] : lowest;
    for (int e = 0; e < p->map->n_experts; e++)
        largest = p->share[e] > largest ? p->share[e] : largest;
    return p->sum[most_loaded(p)] - lowest <= largest;
}

static int compare_ids(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The slots of each expert.  Within a rank experts stand in the order of their ids. */
static void list_slots(struct placing *p)
{
    struct expert_map *map = p->map;
    for (int r = 0; r < map->n_ranks; r++)
        qsort(map->expert + p->begin[r], (size_t)(p->begin[r + 1] - p->begin[r]),
              sizeof *map->expert, compare_ids);
    map->first[0] = 0;
    for (int e = 0; e < map->n_experts; e++)
        map->first[e + 1] = map->first[e] + p->copies[e];
    for (int i = map->n_slots - 1; i >= 0; i--) {
        int e = map->expert[i];
        map->slot[map->first[e] + --p->copies[e]] = i;
    }
}

static void place(struct placing *p, const int64_t *load)
{
    const struct expert_map *map = p->map;
    int n_exchanges = 0;
    for (int r = 0; r < map->n_ranks; r++) {
        struct span slots = span_part(map->n_slots, map->n_ranks, r);
        p->begin[r] = (int32_t)slots.begin;
        p->begin[r + 1] = (int32_t)slots.end;
    }
    count_copies(p, load);
    sort_copies(p);
    place_in_order(p);
    int64_t in_order = p->sum[most_loaded(p)];
    place_heaviest_first(p);
    if (p->sum[most_loaded(p)] > in_order)
        place_in_order(p);
    /* past the bound exchanges help little: they are counted, so that many slots take no long time */
    while ((n_exchanges < map->n_ranks || !is_even(p)) && exchange_once(p))
        n_exchanges++;
    list_slots(p);
}

enum status expert_map_open(struct expert_map *map, const struct expert_map_spec *spec,
                            const int64_t *load)
{
    int n_slots = spec->n_experts + spec->n_redundant;
    size_t slots = (size_t)n_slots, experts = (size_t)spec->n_experts,
           ranks = (size_t)spec->n_ranks;
    assert(spec->n_experts > 0 && n_slots <= EXPERT_SLOTS_MAX && spec->n_ranks > 0);
    *map = (struct expert_map){
        .n_experts = spec->n_experts, .n_slots = n_slots, .n_ranks = spec->n_ranks};
    struct placing p = {.map = map};
    map->expert = calloc(slots, sizeof *map->expert);
    map->first = calloc(experts + 1, sizeof *map->first);
    map->slot = calloc(slots, sizeof *map->slot);
    p.copies = calloc(experts, sizeof *p.copies);
    p.share = calloc(experts, sizeof *p.share);
    p.copy = calloc(slots, sizeof *p.copy);
    p.begin = calloc(ranks + 1, sizeof *p.begin);
    p.filled = calloc(ranks, sizeof *p.filled);
    p.sum = calloc(ranks, sizeof *p.sum);
    int has_all = map->expert != NULL && map->first != NULL && map->slot != NULL &&
                  p.copies != NULL && p.share != NULL && p.copy != NULL && p.begin != NULL &&
                  p.filled != NULL && p.sum != NULL;
    if (has_all)
        place(&p, load);
    free(p.copies);
    free(p.share);
    free(p.copy);
    free(p.begin);
    free(p.filled);
    free(p.sum);
    if (has_all)
        return STATUS_OK;
    expert_map_close(map);
    FAIL(STATUS_NO_MEMORY, "no memory for the places of %d experts", spec->n_experts);
}

void expert_map_close(struct expert_map *map)
{
    free(map->expert);
    free(map->first);
    free(map->slot);
    *map = (struct expert_map){0};
}

void expert_map_rank_loads(double *rank_load, const struct expert_map *map, const int64_t *load)
{
    for (int r = 0; r < map->n_ranks; r++) {
        struct span slots = span_part(map->n_slots, map->n_ranks, r);
        rank_load[r] = 0;
        for (int64_t i = slots.begin; i < slots.end; i++) {
            int e = map->expert[i];
            rank_load[r] += (double)load[e] / expert_map_copies(map, e);
        }
    }
}

double expert_map_imbalance(const double *rank_load, int n)
{
    double sum = 0, most = 0;
    for (int r = 0; r < n; r++) {
        sum += rank_load[r];
        most = rank_load[r] > most ? rank_load[r] : most;
    }
    return sum > 0 ? most * n / sum : 1;
}
