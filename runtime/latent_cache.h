/* latent_cache.h - pages of compressed keys and values.
 *
 * One row per token and layer: c^KV (d_c numbers, after its RMSNorm), then k^R
 * (d_r, after RoPE).  A page is PAGE_ROWS rows; page p of a layer's tensor belongs to
 * the same sequence in every layer, so one table serves all.  Replicated:
 * every tp rank holds all pages.
 * Source: DeepSeek-V2, arXiv 2405.04434, 2.1.2 and 2.1.3. */
#ifndef RUNTIME_LATENT_CACHE_H
#define RUNTIME_LATENT_CACHE_H

#include "kernels/core/arena.h"
#include "kernels/ops.h"
#include "runtime/model_config.h"

struct latent_cache {
    struct tensor *rows; /* [n_layers] of [n_pages, PAGE_ROWS, cache_row_width] */
    int n_layers, n_pages, n_sequences, max_pages;
    int64_t d_c, d_r;
    int32_t *table;     /* [n_sequences, max_pages], -1: no page */
    int64_t *length;    /* [n_sequences] rows held */
    int32_t *free_page; /* stack of free pages */
    int n_free;
};

/* Bytes of one row of one layer; `dtype` F32, BF16, or U8 for fp8_ds_mla (kernels/ops.h). */
size_t latent_cache_row_bytes(const struct model_config *config, enum dtype dtype);

/* Bytes of device memory for `n_pages` pages in every layer. */
size_t latent_cache_bytes(const struct model_config *config, enum dtype dtype, int64_t n_pages);

/* Pages that `n_sequences` sequences of up to `max_length` rows need. */
int64_t latent_cache_pages(int n_sequences, int64_t max_length);

/* Memory for `n_pages` pages from `arena`, and tables for `n_sequences` sequences of up to
 * `max_length` rows each; latent_cache_pages says how many are enough for all of them at once.
 * Owner: caller; end with latent_cache_close.  Errors: STATUS_NO_MEMORY. */
enum status latent_cache_open(struct latent_cache *cache, struct arena *arena,
                              const struct model_config *config, enum dtype dtype, int n_sequences,
                              int64_t max_length, int64_t n_pages);
void latent_cache_close(struct latent_cache *cache);

/* Gives `sequence` pages for `count` more rows and lengthens it; all or nothing.
 * Errors: STATUS_NO_MEMORY when too few pages are free or the table is full. */
enum status latent_cache_reserve(struct latent_cache *cache, int sequence, int64_t count);

/* Takes all pages of `sequence` back. */
void latent_cache_release(struct latent_cache *cache, int sequence);

/* Every page free or held exactly once, tables as long as lengths say; for tests and debug builds.
 * Errors: STATUS_INVALID (text: what is wrong). */
enum status latent_cache_check(const struct latent_cache *cache);

#endif
