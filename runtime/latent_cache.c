#include "runtime/latent_cache.h"

#include <assert.h>
#include <stdlib.h>

#include "parallel/cache_placement.h"

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

static int64_t own_pages(const struct latent_cache_shape *shape)
{
    return cache_placement_room(shape->n_members, shape->n_sequences, pages_of(shape->max_length),
                                shape->n_pages);
}

size_t latent_cache_bytes(const struct model_config *config, const struct latent_cache_shape *shape)
{
    size_t rows = (size_t)(own_pages(shape) * PAGE_ROWS);
    return (size_t)span_size(shape->layers) *
           arena_rounded(rows * latent_cache_row_bytes(config, shape->dtype));
}

static enum status take_tables(struct latent_cache *cache, int n_layers)
{
    size_t n_sequences = (size_t)cache->n_sequences, n_members = (size_t)cache->n_members;
    size_t table = n_sequences * (size_t)cache->max_pages;
    cache->rows = calloc((size_t)n_layers, sizeof *cache->rows);
    cache->table = malloc((table + 1) * sizeof *cache->table);
    cache->length = calloc(n_sequences, sizeof *cache->length);
    cache->offset = calloc(n_sequences, sizeof *cache->offset);
    cache->held = calloc(n_members, sizeof *cache->held);
    cache->free_page = malloc(((size_t)cache->n_own + 1) * sizeof *cache->free_page);
    if (cache->rows == NULL || cache->table == NULL || cache->length == NULL ||
        cache->offset == NULL || cache->held == NULL || cache->free_page == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the tables of %d cache pages", cache->n_pages);
    for (size_t i = 0; i < table; i++)
        cache->table[i] = PAGE_NONE;
    while (cache->n_free < cache->n_own) { /* page 0 is given out first */
        cache->free_page[cache->n_free] = cache->n_own - 1 - cache->n_free;
        cache->n_free++;
    }
    return STATUS_OK;
}

enum status latent_cache_open(struct latent_cache *cache, struct arena *arena,
                              const struct model_config *config,
                              const struct latent_cache_shape *shape)
{
    assert(0 <= shape->member && shape->member < shape->n_members);
    *cache = (struct latent_cache){.n_sequences = shape->n_sequences,
                                   .max_pages = (int)pages_of(shape->max_length),
                                   .n_members = shape->n_members,
                                   .member = shape->member,
                                   .d_c = config->d_c,
                                   .d_r = config->d_r,
                                   .n_pages = (int)shape->n_pages,
                                   .n_own = (int)own_pages(shape)};
    TRY(take_tables(cache, config->n_layers));
    const int64_t dim[] = {cache->n_own, PAGE_ROWS,
                           cache_row_width(shape->dtype, config->d_c, config->d_r)};
    for (int64_t layer = shape->layers.begin; layer < shape->layers.end; layer++)
        TRY(arena_tensor(arena, &cache->rows[layer], shape->dtype, 3, dim));
    return STATUS_OK;
}

void latent_cache_close(struct latent_cache *cache)
{
    free(cache->rows);
    free(cache->table);
    free(cache->length);
    free(cache->offset);
    free(cache->held);
    free(cache->free_page);
    *cache = (struct latent_cache){0};
}

static int member_of(const struct latent_cache *cache, int sequence, int64_t page)
{
    return cache_placement_member(cache->n_members, cache->offset[sequence], page);
}

static int64_t count_held(const struct latent_cache *cache)
{
    int64_t n = 0;
    for (int i = 0; i < cache->n_members; i++)
        n += cache->held[i];
    return n;
}

enum status latent_cache_reserve(struct latent_cache *cache, int sequence, int64_t count)
{
    assert(0 <= sequence && sequence < cache->n_sequences && count >= 0);
    int64_t held = pages_of(cache->length[sequence]);
    int64_t wanted = pages_of(cache->length[sequence] + count);
    int64_t n_free = cache->n_pages - count_held(cache); /* of all members: the same for each */
    if (wanted > cache->max_pages || wanted - held > n_free)
        FAIL(STATUS_NO_MEMORY,
             "sequence %d needs %lld cache pages, %lld are free, at most %d are its", sequence,
             (long long)(wanted - held), (long long)n_free, cache->max_pages);
    int32_t *table = cache->table + (int64_t)sequence * cache->max_pages;
    if (held == 0)
        cache->offset[sequence] = cache_placement_offset(cache->n_members, cache->held);
    for (int64_t p = held; p < wanted; p++) {
        int member = member_of(cache, sequence, p);
        assert(member != cache->member || cache->n_free > 0); /* cache_placement_room */
        cache->held[member]++;
        table[p] = member == cache->member ? cache->free_page[--cache->n_free] : PAGE_ELSEWHERE;
    }
    cache->length[sequence] += count;
    return STATUS_OK;
}

void latent_cache_release(struct latent_cache *cache, int sequence)
{
    assert(0 <= sequence && sequence < cache->n_sequences);
    int32_t *table = cache->table + (int64_t)sequence * cache->max_pages;
    for (int64_t p = pages_of(cache->length[sequence]); p-- > 0;) {
        cache->held[member_of(cache, sequence, p)]--;
        if (table[p] >= 0)
            cache->free_page[cache->n_free++] = table[p];
        table[p] = PAGE_NONE;
    }
    cache->length[sequence] = 0;
    cache->offset[sequence] = 0;
}

/* Marks `page` as seen. */
static enum status mark(unsigned char *seen, const struct latent_cache *cache, int32_t page)
{
    if (page < 0 || page >= cache->n_own)
        FAIL(STATUS_INVALID, "page %d of %d", (int)page, cache->n_own);
    if (seen[page]++)
        FAIL(STATUS_INVALID, "page %d is held twice", (int)page);
    return STATUS_OK;
}

/* The table of one sequence; held[] counts down what the members should hold. */
static enum status check_sequence(const struct latent_cache *cache, int sequence,
                                  unsigned char *seen, int64_t *held)
{
    const int32_t *table = cache->table + (int64_t)sequence * cache->max_pages;
    int64_t pages = pages_of(cache->length[sequence]);
    for (int64_t p = 0; p < cache->max_pages; p++) {
        if (p >= pages && table[p] != PAGE_NONE)
            FAIL(STATUS_INVALID, "sequence %d has page %d past its length", sequence,
                 (int)table[p]);
        if (p >= pages)
            continue;
        int member = member_of(cache, sequence, p);
        held[member]--;
        if (member == cache->member)
            TRY(mark(seen, cache, table[p]));
        else if (table[p] != PAGE_ELSEWHERE)
            FAIL(STATUS_INVALID, "sequence %d has page %d here, which is member %d's", sequence,
                 (int)table[p], member);
    }
    return STATUS_OK;
}

/* What is marked here and counted for each member is everything. */
static enum status check_all(const struct latent_cache *cache, unsigned char *seen, int64_t *held)
{
    for (int i = 0; i < cache->n_members; i++)
        held[i] = cache->held[i];
    for (int i = 0; i < cache->n_free; i++)
        TRY(mark(seen, cache, cache->free_page[i]));
    for (int s = 0; s < cache->n_sequences; s++)
        TRY(check_sequence(cache, s, seen, held));
    for (int i = 0; i < cache->n_members; i++)
        if (held[i] != 0)
            FAIL(STATUS_INVALID, "member %d has %lld pages in no table", i, (long long)held[i]);
    int64_t lost = cache->n_own - cache->n_free - cache->held[cache->member];
    if (lost != 0)
        FAIL(STATUS_INVALID, "%lld of %d pages are lost", (long long)lost, cache->n_own);
    return STATUS_OK;
}

enum status latent_cache_check(const struct latent_cache *cache)
{
    enum status status;
    unsigned char *seen = calloc((size_t)cache->n_own + 1, 1);
    int64_t *held = calloc((size_t)cache->n_members, sizeof *held);
    if (seen != NULL && held != NULL)
        status = check_all(cache, seen, held);
    else
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory to check %d pages",
                             cache->n_own);
    free(seen);
    free(held);
    return status;
}
