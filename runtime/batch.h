/* batch.h - the tokens of one step, flattened over its sequences. */
#ifndef RUNTIME_BATCH_H
#define RUNTIME_BATCH_H

#include "kernels/backend.h"
#include "kernels/core/arena.h"
#include "runtime/engine.h"
#include "runtime/latent_cache.h"

/* The tokens [begin, end) of the step belong to one sequence, at positions from `position` on. */
struct batch_entry {
    int sequence;
    int64_t begin, end;
    int64_t position;
    int64_t first_logits; /* in the step; end: none */
};

struct batch {
    int64_t n_tokens;
    int n_entries;
    struct batch_entry *entry;           /* [capacity of entries] */
    struct tensor ids, position, seq_of; /* [n_tokens] i32, in device memory */
    /* The same on the host, and the page tables on the device, where that is not the host. */
    int32_t *host_ids, *host_position, *host_seq_of;
    struct tensor table; /* [n_sequences, max_pages] i32 */
    /* Where others hold pages too, this member's as a cache of their own: they follow each other, and what a token
     * sees of them ends at own_position (-1: nothing). */
    int32_t *host_own_table, *host_own_position; /* NULL: this member has all */
    struct tensor own_table, own_position;
    int64_t capacity; /* tokens */
    int max_entries;
};

/* Memory for steps of up to `max_tokens` tokens and `max_entries` sequences, of up to `table_pages` pages
 * each; 0 when the device is the host, which needs no second tables.  `is_shared`: others hold pages too.
 * Owner: caller; end with batch_close.  Errors: STATUS_NO_MEMORY. */
enum status batch_open(struct batch *batch, struct arena *arena, int64_t max_tokens,
                       int max_entries, int64_t table_pages, int is_shared);
void batch_close(struct batch *batch);

/* Fills the batch from a plan and lengthens the sequences of `cache` by their new tokens.
 * Errors: STATUS_NO_MEMORY (cache pages). */
enum status batch_build(struct batch *batch, const struct step_plan *plan,
                        struct latent_cache *cache);

/* Copies the batch to the device; nothing where that is the host. */
enum status batch_upload(struct batch *batch, const struct latent_cache *cache,
                         const struct backend *backend);

/* What attention reads of the pages that this member holds: with a device of its own those alone, else as
 * batch_pages. */
struct page_view batch_own_pages(const struct batch *batch, const struct latent_cache *cache,
                                 int layer);

/* What attention reads: the cache of `layer` under the tables of this step. */
struct page_view batch_pages(const struct batch *batch, const struct latent_cache *cache,
                             int layer);

#endif
