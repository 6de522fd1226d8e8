#include "runtime/latent_cache.h"

#include <assert.h>
#include <stdlib.h>

static int64_t pages_of(int64_t rows)
{
    return (rows + PAGE_ROWS - 1) / PAGE_ROWS;
}

int64_t latent_cache_pages(int n_sequences, int64_t max_length)
{
    return n_sequences * pages_of(max_length);
}

size_t latent_cache_row_bytes(const struct model_config *config, enum dtype dtype)
{
    return (size_t)cache_row_width(dtype, config->d_c, config->d_r) * dtype_bytes(dtype);
}

size_t latent_cache_bytes(const struct model_config *config, enum dtype dtype, int64_t n_pages)
{
    size_t rows = (size_t)(n_pages * PAGE_ROWS);
    return (size_t)config->n_layers * arena_rounded(rows * latent_cache_row_bytes(config, dtype));
}

enum status latent_cache_open(struct latent_cache *cache, struct arena *arena,
                              const struct model_config *config, enum dtype dtype, int n_sequences,
                              int64_t max_length, int64_t n_pages)
{
    *cache = (struct latent_cache){.n_layers = config->n_layers,
                                   .d_c = config->d_c,
                                   .d_r = config->d_r,
                                   .n_sequences = n_sequences,
                                   .max_pages = (int)pages_of(max_length),
                                   .n_pages = (int)n_pages};
    size_t table = (size_t)n_sequences * (size_t)cache->max_pages;
    cache->rows = calloc((size_t)config->n_layers, sizeof *cache->rows);
    cache->table = malloc((table + 1) * sizeof *cache->table);
    cache->length = calloc((size_t)n_sequences, sizeof *cache->length);
    cache->free_page = malloc(((size_t)cache->n_pages + 1) * sizeof *cache->free_page);
    if (cache->rows == NULL || cache->table == NULL || cache->length == NULL ||
        cache->free_page == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the tables of %d cache pages", cache->n_pages);
    for (size_t i = 0; i < table; i++)
        cache->table[i] = -1;
    while (cache->n_free < cache->n_pages) { /* page 0 is given out first */
        cache->free_page[cache->n_free] = cache->n_pages - 1 - cache->n_free;
        cache->n_free++;
    }
    const int64_t dim[] = {cache->n_pages, PAGE_ROWS,
                           cache_row_width(dtype, config->d_c, config->d_r)};
    for (int layer = 0; layer < config->n_layers; layer++)
        TRY(arena_tensor(arena, &cache->rows[layer], dtype, 3, dim));
    return STATUS_OK;
}

void latent_cache_close(struct latent_cache *cache)
{
    free(cache->rows);
    free(cache->table);
    free(cache->length);
    free(cache->free_page);
    *cache = (struct latent_cache){0};
}

enum status latent_cache_reserve(struct latent_cache *cache, int sequence, int64_t count)
{
    assert(0 <= sequence && sequence < cache->n_sequences && count >= 0);
    int64_t held = pages_of(cache->length[sequence]);
    int64_t wanted = pages_of(cache->length[sequence] + count);
    if (wanted > cache->max_pages || wanted - held > cache->n_free)
        FAIL(STATUS_NO_MEMORY,
             "sequence %d needs %lld cache pages, %d are free, at most %d are its", sequence,
             (long long)(wanted - held), cache->n_free, cache->max_pages);
    int32_t *table = cache->table + (int64_t)sequence * cache->max_pages;
    for (int64_t p = held; p < wanted; p++)
        table[p] = cache->free_page[--cache->n_free];
    cache->length[sequence] += count;
    return STATUS_OK;
}

void latent_cache_release(struct latent_cache *cache, int sequence)
{
    assert(0 <= sequence && sequence < cache->n_sequences);
    int32_t *table = cache->table + (int64_t)sequence * cache->max_pages;
    for (int64_t p = pages_of(cache->length[sequence]); p-- > 0;) {
        cache->free_page[cache->n_free++] = table[p];
        table[p] = -1;
    }
    cache->length[sequence] = 0;
}

/* Marks `page` as seen. */
static enum status mark(unsigned char *seen, const struct latent_cache *cache, int32_t page)
{
    if (page < 0 || page >= cache->n_pages)
        FAIL(STATUS_INVALID, "page %d of %d", (int)page, cache->n_pages);
    if (seen[page]++)
        FAIL(STATUS_INVALID, "page %d is held twice", (int)page);
    return STATUS_OK;
}

enum status latent_cache_check(const struct latent_cache *cache)
{
    enum status status = STATUS_OK;
    int64_t held = cache->n_free;
    unsigned char *seen = calloc((size_t)cache->n_pages + 1, 1);
    if (seen == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to check %d pages", cache->n_pages);
    for (int i = 0; i < cache->n_free; i++)
        TRY_GOTO(status, end, mark(seen, cache, cache->free_page[i]));
    for (int s = 0; s < cache->n_sequences; s++) {
        const int32_t *table = cache->table + (int64_t)s * cache->max_pages;
        int64_t pages = pages_of(cache->length[s]);
        held += pages;
        for (int64_t p = 0; p < cache->max_pages; p++) {
            if (p < pages)
                TRY_GOTO(status, end, mark(seen, cache, table[p]));
            else if (table[p] != -1)
                TRY_GOTO(status, end,
                         status_fail(STATUS_INVALID, __FILE__, __LINE__,
                                     "sequence %d has page %d past its length", s, (int)table[p]));
        }
    }
    if (held != cache->n_pages)
        status = status_fail(STATUS_INVALID, __FILE__, __LINE__, "%lld of %d pages are lost",
                             (long long)(cache->n_pages - held), cache->n_pages);
end:
    free(seen);
    return status;
}
