#include "runtime/batch.h"

#include <assert.h>
#include <stdlib.h>

#include "parallel/cache_placement.h"

/* The second set of tables, for pages that are shared. */
static enum status open_own(struct batch *batch, struct arena *arena, int64_t table_pages)
{
    const int64_t dim[] = {batch->max_entries, table_pages};
    size_t count = (size_t)batch->capacity, pages = (size_t)(batch->max_entries * table_pages);
    TRY(arena_tensor(arena, &batch->own_table, DTYPE_I32, 2, dim));
    TRY(arena_tensor(arena, &batch->own_position, DTYPE_I32, 1, &batch->capacity));
    batch->host_own_table = calloc(pages + count, sizeof *batch->host_own_table);
    if (batch->host_own_table == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the tables of %d sequences", batch->max_entries);
    batch->host_own_position = batch->host_own_table + pages;
    return STATUS_OK;
}

static enum status open_host(struct batch *batch, struct arena *arena, int64_t table_pages)
{
    const int64_t dim[] = {batch->max_entries, table_pages};
    size_t count = (size_t)batch->capacity;
    TRY(arena_tensor(arena, &batch->table, DTYPE_I32, 2, dim));
    batch->host_ids = calloc(3 * count, sizeof *batch->host_ids);
    if (batch->host_ids == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a batch of %zu tokens", count);
    batch->host_position = batch->host_ids + count;
    batch->host_seq_of = batch->host_position + count;
    return STATUS_OK;
}

enum status batch_open(struct batch *batch, struct arena *arena, int64_t max_tokens,
                       int max_entries, int64_t table_pages, int is_shared)
{
    *batch = (struct batch){.capacity = max_tokens, .max_entries = max_entries};
    TRY(arena_tensor(arena, &batch->ids, DTYPE_I32, 1, &max_tokens));
    TRY(arena_tensor(arena, &batch->position, DTYPE_I32, 1, &max_tokens));
    TRY(arena_tensor(arena, &batch->seq_of, DTYPE_I32, 1, &max_tokens));
    batch->entry = calloc((size_t)max_entries, sizeof *batch->entry);
    if (batch->entry == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a batch of %d sequences", max_entries);
    if (table_pages == 0)
        return STATUS_OK;
    TRY(open_host(batch, arena, table_pages));
    return is_shared ? open_own(batch, arena, table_pages) : STATUS_OK;
}

void batch_close(struct batch *batch)
{
    free(batch->entry);
    free(batch->host_ids);
    free(batch->host_own_table);
    *batch = (struct batch){0};
}

/* Own pages of a sequence, one after another; where each token's view of them ends. */
static void fill_own(struct batch *batch, const struct batch_entry *entry,
                     const struct latent_cache *cache)
{
    int s = entry->sequence, size = cache->n_members, offset = cache->offset[s];
    const int32_t *table = cache->table + (int64_t)s * cache->max_pages;
    int32_t *own = batch->host_own_table + (int64_t)s * cache->max_pages;
    int64_t n_pages = (cache->length[s] + PAGE_ROWS - 1) / PAGE_ROWS;
    for (int64_t p = 0; p < n_pages; p++)
        if (table[p] >= 0)
            *own++ = table[p];
    for (int64_t row = entry->begin; row < entry->end; row++) {
        int64_t at = batch->host_position[row], page = at / PAGE_ROWS;
        int64_t rows = PAGE_ROWS * cache_placement_count(size, offset, cache->member, page);
        if (table[page] >= 0)
            rows += at % PAGE_ROWS + 1;
        batch->host_own_position[row] = (int32_t)rows - 1;
    }
}

static enum status upload_own(struct batch *batch, const struct latent_cache *cache,
                              const struct backend *backend)
{
    const struct device_ops *device = backend->device;
    size_t row_bytes = (size_t)cache->max_pages * sizeof *batch->host_own_table;
    for (int i = 0; i < batch->n_entries; i++) {
        size_t at = (size_t)batch->entry[i].sequence * row_bytes;
        fill_own(batch, &batch->entry[i], cache);
        TRY(device->copy_in((char *)batch->own_table.data + at,
                            (const char *)batch->host_own_table + at, row_bytes, backend->stream));
    }
    return device->copy_in(batch->own_position.data, batch->host_own_position,
                           (size_t)batch->n_tokens * sizeof *batch->host_own_position,
                           backend->stream);
}

enum status batch_upload(struct batch *batch, const struct latent_cache *cache,
                         const struct backend *backend)
{
    if (batch->host_ids == NULL)
        return STATUS_OK;
    const struct device_ops *device = backend->device;
    size_t bytes = (size_t)batch->n_tokens * sizeof *batch->host_ids;
    size_t row_bytes = (size_t)cache->max_pages * sizeof *cache->table;
    TRY(device->copy_in(batch->ids.data, batch->host_ids, bytes, backend->stream));
    TRY(device->copy_in(batch->position.data, batch->host_position, bytes, backend->stream));
    TRY(device->copy_in(batch->seq_of.data, batch->host_seq_of, bytes, backend->stream));
    for (int i = 0; i < batch->n_entries; i++) {
        size_t at = (size_t)batch->entry[i].sequence * row_bytes;
        TRY(device->copy_in((char *)batch->table.data + at, (const char *)cache->table + at,
                            row_bytes, backend->stream));
    }
    return batch->host_own_table == NULL ? STATUS_OK : upload_own(batch, cache, backend);
}

enum status batch_build(struct batch *batch, const struct step_plan *plan,
                        struct latent_cache *cache)
{
    assert(plan->n_tokens <= batch->capacity && plan->n_entries <= batch->max_entries);
    int is_apart = batch->host_ids != NULL;
    int32_t *ids = is_apart ? batch->host_ids : batch->ids.data;
    int32_t *position = is_apart ? batch->host_position : batch->position.data;
    int32_t *seq_of = is_apart ? batch->host_seq_of : batch->seq_of.data;
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
        .table = batch->host_ids != NULL
                     ? batch->table
                     : tensor_2d(cache->table, DTYPE_I32, cache->n_sequences, cache->max_pages),
        .seq_of = batch->seq_of,
        .position = batch->position,
        .d_c = cache->d_c,
        .d_r = cache->d_r,
    };
}

struct page_view batch_own_pages(const struct batch *batch, const struct latent_cache *cache,
                                 int layer)
{
    struct page_view pages = batch_pages(batch, cache, layer);
    if (batch->host_own_table == NULL)
        return pages;
    pages.table = batch->own_table;
    pages.position = tensor_rows(&batch->own_position, 0, batch->n_tokens);
    return pages;
}
