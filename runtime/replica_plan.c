#include "runtime/replica_plan.h"

#include <stdlib.h>
#include <string.h>

enum status replica_plan_open(struct replica_plan *replica, int n_replicas, int max_entries,
                              int max_tokens)
{
    *replica = (struct replica_plan){
        .entry = calloc((size_t)max_entries, sizeof *replica->entry),
        .ids = calloc((size_t)max_tokens, sizeof *replica->ids),
        .tokens = calloc((size_t)n_replicas, sizeof *replica->tokens),
        .n_replicas = n_replicas,
    };
    if (replica->entry == NULL || replica->ids == NULL || replica->tokens == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for steps of %d tokens", max_tokens);
    return STATUS_OK;
}

void replica_plan_close(struct replica_plan *replica)
{
    free(replica->entry);
    free(replica->ids);
    free(replica->tokens);
    *replica = (struct replica_plan){0};
}

void replica_plan_build(struct replica_plan *replica, const struct step_plan *all, int own)
{
    int n_replicas = replica->n_replicas;
    const int32_t *ids = all->ids;
    replica->plan = (struct step_plan){.entry = replica->entry, .ids = replica->ids};
    replica->all_tokens = all->n_tokens;
    memset(replica->tokens, 0, (size_t)n_replicas * sizeof *replica->tokens);
    for (int i = 0; i < all->n_entries; ids += all->entry[i++].n_tokens) {
        struct step_entry entry = all->entry[i];
        int of = replica_of(entry.sequence, n_replicas);
        replica->tokens[of] += entry.n_tokens;
        if (of != own)
            continue;
        entry.sequence /= n_replicas;
        memcpy(replica->ids + replica->plan.n_tokens, ids, (size_t)entry.n_tokens * sizeof *ids);
        replica->entry[replica->plan.n_entries++] = entry;
        replica->plan.n_tokens += entry.n_tokens;
    }
}

void wanted_rows_build(struct wanted_rows *wanted, const struct step_plan *all, int n_replicas,
                       int own, int block)
{
    int64_t row = 0, skipped = (int64_t)block * LOGITS_ROWS;
    wanted->count = 0;
    for (int i = 0; i < all->n_entries && wanted->count < LOGITS_ROWS; i++) {
        const struct step_entry *entry = &all->entry[i];
        if (replica_of(entry->sequence, n_replicas) != own)
            continue;
        int64_t first = entry->first_logits, here = entry->n_tokens - first;
        int64_t skips = skipped < here ? skipped : here;
        skipped -= skips;
        for (int64_t t = first + skips; t < entry->n_tokens && wanted->count < LOGITS_ROWS; t++) {
            wanted->entry[wanted->count] = i;
            wanted->token[wanted->count] = (int)t;
            wanted->row[wanted->count++] = row + t;
        }
        row += entry->n_tokens;
    }
}
