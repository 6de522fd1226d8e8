/* latent_cache.h - pages of compressed keys and values.
 *
 * One row per token and layer: c^KV (d_c numbers, after its RMSNorm), then k^R
 * (d_r, after RoPE).  A page is PAGE_ROWS rows; page p of a layer's tensor belongs to
 * the same sequence in every layer, so one table serves all.  Replicated (a
 * group of one member): every tp rank holds all pages.  Sharded: the members
 * share them as parallel/cache_placement.h says, and only own pages have memory;
 * every member makes the same calls and knows what the others hold.
 * Source: DeepSeek-V2, arXiv 2405.04434, 2.1.2 and 2.1.3. */
#ifndef RUNTIME_LATENT_CACHE_H
#define RUNTIME_LATENT_CACHE_H

#include "kernels/core/arena.h"
#include "kernels/ops.h"
#include "parallel/shard_plan.h"
#include "runtime/model_config.h"

enum {
    PAGE_NONE = -1,     /* in a table: past the length of the sequence */
    PAGE_ELSEWHERE = -2 /* another member holds it */
};

struct latent_cache_shape {
    enum dtype dtype; /* F32, BF16, or U8 for fp8_ds_mla (kernels/ops.h) */
    int n_sequences;
    int64_t max_length; /* rows of a sequence */
    int64_t n_pages; /* of all sequences and members together; latent_cache_pages: enough for all */
    int n_members,
        member;         /* the group that shares the pages, this rank's place; 1, 0: replicated */
    struct span layers; /* of this rank's stage */
};

struct latent_cache {
    struct tensor *rows; /* [n_layers] of [n_own, PAGE_ROWS, cache_row_width]; of own layers only */
    int n_sequences, max_pages;
    int n_members, member;
    int64_t d_c, d_r;
    int32_t *table;     /* [n_sequences, max_pages]: own page, or negative as above */
    int64_t *length;    /* [n_sequences] rows held */
    int *offset;        /* [n_sequences] of the placement; 0 while nothing is held */
    int64_t *held;      /* [n_members] pages that each member holds */
    int n_pages, n_own; /* of all members together; this one has memory for */
    int32_t *free_page; /* stack of free own pages */
    int n_free;
};

/* Bytes of one row of one layer. */
size_t latent_cache_row_bytes(const struct model_config *config, enum dtype dtype);

/* Bytes of device memory of one member, in all layers of its stage. */
size_t latent_cache_bytes(const struct model_config *config,
                          const struct latent_cache_shape *shape);

/* Pages that `n_sequences` sequences of up to `max_length` rows need. */
int64_t latent_cache_pages(int n_sequences, int64_t max_length);

/* Memory for this member's pages from `arena`, and tables for all sequences.
 * Owner: caller; end with latent_cache_close.  Errors: STATUS_NO_MEMORY. */
enum status latent_cache_open(struct latent_cache *cache, struct arena *arena,
                              const struct model_config *config,
                              const struct latent_cache_shape *shape);
void latent_cache_close(struct latent_cache *cache);

/* Gives `sequence` pages for `count` more rows and lengthens it; all or nothing, the same on all
 * members.  Errors: STATUS_NO_MEMORY when too few pages are free or the table is full. */
enum status latent_cache_reserve(struct latent_cache *cache, int sequence, int64_t count);

/* Takes all pages of `sequence` back. */
void latent_cache_release(struct latent_cache *cache, int sequence);

/* Every own page free or held exactly once, the others' where they belong, tables as long as lengths
 * say; for tests and debug builds.  Errors: STATUS_INVALID (text: what is wrong). */
enum status latent_cache_check(const struct latent_cache *cache);

#endif
