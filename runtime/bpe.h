/* bpe.h - byte pair encoding: of all adjacent pairs the one of the lowest rank is merged, the
 * leftmost first among equals, until no pair has a rank.
 * Source: Sennrich, Haddow, Birch 2016, section 3.2; order of merges as in the package `tokenizers`. */
#ifndef RUNTIME_BPE_H
#define RUNTIME_BPE_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

struct token_list;

/* Open addressing over pairs of ids. */
struct bpe_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank;
    int32_t id;
};
struct bpe {
    struct bpe_merge *merge;
    size_t mask;
    int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
    int32_t unknown_id;   /* for bytes it lacks; -1: they are left out */
    int fuses_unknown;    /* a run of unknown bytes gives one id */
};

/* Memory of one encoding; grows, kept between words. */
struct bpe_scratch {
    struct bpe_symbol *symbol;
    struct bpe_candidate *heap;
    size_t capacity;
};

/* Reserves room for `count` merges; byte_id and unknown_id are -1.
 * Owner: caller; end with bpe_close. */
enum status bpe_open(struct bpe *bpe, size_t count);
void bpe_close(struct bpe *bpe);

/* Gives the pair its rank and result; the last one given counts. */
void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* Appends the ids of word[length].  Errors: STATUS_NO_MEMORY. */
enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct token_list *ids,
                       const char *word, size_t length);
void bpe_scratch_free(struct bpe_scratch *scratch);

#endif
