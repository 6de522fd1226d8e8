#include "runtime/batch.h"

#include <assert.h>
#include <stdlib.h>

enum status batch_open(struct batch *batch, struct arena *arena, int64_t max_tokens,
                       int max_entries)
{
    *batch = (struct batch){.capacity = max_tokens, .max_entries = max_entries};
    TRY(arena_tensor(arena, &batch->ids, DTYPE_I32, 1, &max_tokens));
    TRY(arena_tensor(arena, &batch->position, DTYPE_I32, 1, &max_tokens));
    TRY(arena_tensor(arena, &batch->seq_of, DTYPE_I32, 1, &max_tokens));
    batch->entry = calloc((size_t)max_entries, sizeof *batch->entry);
    if (batch->entry == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a batch of %d sequences", max_entries);
    return STATUS_OK;
}

void batch_close(struct batch *batch)
{
    free(batch->entry);
    *batch = (struct batch){0};
}

enum status batch_build(struct batch *batch, const struct step_plan *plan,
                        struct latent_cache *cache)
{
    assert(plan->n_tokens <= batch->capacity && plan->n_entries <= batch->max_entries);
    int32_t *ids = batch->ids.data, *position = batch->position.data, *seq_of = batch->seq_of.data;
    int64_t row = 0;
    for (int i = 0; i < plan->n_entries; i++) {
        const struct step_entry *from = &plan->entry[i];
        struct batch_entry *entry = &batch->entry[i];
        *entry = (struct batch_entry){.sequence = from->sequence,
                                      .begin = row,
                                      .end = row + from->n_tokens,
                                      .position = cache->length[from->sequence],
                                      .first_logits = row + from->first_logits};
        TRY(latent_cache_reserve(cache, from->sequence, from->n_tokens));
        for (; row < entry->end; row++) {
            ids[row] = plan->ids[row];
            position[row] = (int32_t)(entry->position + row - entry->begin);
            seq_of[row] = from->sequence;
        }
    }
    batch->n_tokens = batch->ids.dim[0] = batch->position.dim[0] = batch->seq_of.dim[0] = row;
    batch->n_entries = plan->n_entries;
    return STATUS_OK;
}

struct page_view batch_pages(const struct batch *batch, const struct latent_cache *cache, int layer)
{
    return (struct page_view){
        .rows = cache->rows[layer],
        .table = tensor_2d(cache->table, DTYPE_I32, cache->n_sequences, cache->max_pages),
        .seq_of = batch->seq_of,
        .position = batch->position,
        .d_c = cache->d_c,
        .d_r = cache->d_r,
    };
}
