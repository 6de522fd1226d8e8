/* bpe.c - short words by scanning for the lowest rank, long ones with a heap (see bpe.h). */
#include "runtime/bpe.h"
#include "runtime/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Scanning costs n^2 / 2 steps, the heap n log n larger ones. */
enum { SHORT_WORD = 48 };
#define NO_RANK UINT32_MAX
#define NO_PAIR UINT64_MAX

struct bpe_symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
};
struct bpe_candidate {
    uint32_t rank;
    int32_t position, id;
};

enum status bpe_open(struct bpe *bpe, size_t count)
{
    size_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    *bpe = (struct bpe){.unknown_id = -1, .mask = slots - 1};
    bpe->merge = malloc(slots * sizeof *bpe->merge);
    if (!bpe->merge)
        FAIL(STATUS_NO_MEMORY, "no memory for a table of %zu merges", count);
    for (size_t i = 0; i < slots; i++)
        bpe->merge[i].pair = NO_PAIR;
    for (int i = 0; i < 256; i++)
        bpe->byte_id[i] = -1;
    return STATUS_OK;
}

void bpe_close(struct bpe *bpe)
{
    free(bpe->merge);
    *bpe = (struct bpe){0};
}

static inline struct bpe_merge *merge_slot(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t hash = (pair ^ pair >> 32) * 0x9E3779B97F4A7C15U;
    for (size_t at = (size_t)(hash >> 32) & bpe->mask;; at = (at + 1) & bpe->mask) {
        struct bpe_merge *merge = &bpe->merge[at];
        if (merge->pair == pair || merge->pair == NO_PAIR)
            return merge;
    }
}

/* NULL when the pair does not merge. */
static inline const struct bpe_merge *merge_find(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct bpe_merge *merge = merge_slot(bpe, left, right);
    return merge->pair == NO_PAIR ? NULL : merge;
}

void bpe_add_merge(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    *merge_slot(bpe, left, right) = (struct bpe_merge){.pair = pair, .rank = rank, .id = id};
}

static enum status scratch_reserve(struct bpe_scratch *scratch, size_t length)
{
    if (length > INT32_MAX / 4)
        FAIL(STATUS_INVALID, "a piece of %zu bytes without a place to cut is too long", length);
    if (length <= scratch->capacity)
        return STATUS_OK;
    size_t capacity = length + length / 2 + 64;
    /* Each position is a candidate once, and each merge makes two new ones at most. */
    void *symbol = realloc(scratch->symbol, capacity * sizeof *scratch->symbol);
    if (symbol)
        scratch->symbol = symbol;
    void *heap = symbol ? realloc(scratch->heap, 3 * capacity * sizeof *scratch->heap) : NULL;
    if (!heap)
        FAIL(STATUS_NO_MEMORY, "no memory to tokenize a word of %zu bytes", length);
    scratch->heap = heap;
    scratch->capacity = capacity;
    return STATUS_OK;
}

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    free(scratch->symbol);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

/* The ids of the single bytes; returns how many. */
static size_t symbols_begin(const struct bpe *bpe, struct bpe_symbol *symbol, const char *word,
                            size_t length)
{
    size_t count = 0;
    int after_unknown = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t id = bpe->byte_id[(unsigned char)word[i]];
        int is_unknown = id < 0;
        if (is_unknown)
            id = after_unknown && bpe->fuses_unknown ? -1 : bpe->unknown_id;
        after_unknown = is_unknown && bpe->unknown_id >= 0;
        if (id >= 0)
            symbol[count++].id = id;
    }
    return count;
}

static size_t merge_short(const struct bpe *bpe, struct bpe_symbol *symbol, size_t count)
{
    const struct bpe_merge *merge[SHORT_WORD]; /* of symbols i and i + 1 */
    assert(count <= SHORT_WORD);
    for (size_t i = 0; i + 1 < count; i++)
        merge[i] = merge_find(bpe, symbol[i].id, symbol[i + 1].id);
    for (;;) {
        uint32_t lowest = NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++)
            if (merge[i] && merge[i]->rank < lowest) {
                lowest = merge[i]->rank;
                at = i;
            }
        if (lowest == NO_RANK)
            return count;
        symbol[at].id = merge[at]->id;
        count--;
        for (size_t i = at + 1; i < count; i++) {
            symbol[i].id = symbol[i + 1].id;
            merge[i - 1] = merge[i];
        }
        if (at > 0)
            merge[at - 1] = merge_find(bpe, symbol[at - 1].id, symbol[at].id);
        if (at + 1 < count)
            merge[at] = merge_find(bpe, symbol[at].id, symbol[at + 1].id);
    }
}

static inline int is_before(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(struct bpe_candidate *heap, size_t *count, struct bpe_candidate candidate)
{
    size_t at = (*count)++;
    while (at > 0 && is_before(&candidate, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
}

static struct bpe_candidate heap_pop(struct bpe_candidate *heap, size_t *count)
{
    struct bpe_candidate top = heap[0], last = heap[--*count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *count; at = child) {
        if (child + 1 < *count && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &last))
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Makes the pair at `left` and what follows it a candidate, when it merges. */
static void consider(const struct bpe *bpe, const struct bpe_symbol *symbol, int32_t left,
                     struct bpe_candidate *heap, size_t *n_heap)
{
    if (left < 0 || symbol[left].next < 0)
        return;
    const struct bpe_merge *merge = merge_find(bpe, symbol[left].id, symbol[symbol[left].next].id);
    if (merge)
        heap_push(heap, n_heap,
                  (struct bpe_candidate){.rank = merge->rank, .position = left, .id = merge->id});
}

static size_t merge_long(const struct bpe *bpe, struct bpe_symbol *symbol, size_t count,
                         struct bpe_candidate *heap)
{
    size_t n_heap = 0, kept = 0;
    for (size_t i = 0; i < count; i++) {
        symbol[i].previous = (int32_t)i - 1;
        symbol[i].next = i + 1 < count ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i + 1 < count; i++)
        consider(bpe, symbol, (int32_t)i, heap, &n_heap);
    while (n_heap > 0) {
        struct bpe_candidate top = heap_pop(heap, &n_heap);
        struct bpe_symbol *left = &symbol[top.position];
        if (left->id < 0 || left->next < 0)
            continue;
        struct bpe_symbol *right = &symbol[left->next];
        const struct bpe_merge *merge = merge_find(bpe, left->id, right->id);
        if (!merge || merge->id != top.id)
            continue; /* one of the two was merged meanwhile */
        left->id = top.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0)
            symbol[left->next].previous = top.position;
        consider(bpe, symbol, left->previous, heap, &n_heap);
        consider(bpe, symbol, top.position, heap, &n_heap);
    }
    for (size_t i = 0; i < count; i++)
        if (symbol[i].id >= 0)
            symbol[kept++].id = symbol[i].id;
    return kept;
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, struct token_list *ids,
                       const char *word, size_t length)
{
    TRY(scratch_reserve(scratch, length));
    size_t count = symbols_begin(bpe, scratch->symbol, word, length);
    count = count <= SHORT_WORD ? merge_short(bpe, scratch->symbol, count)
                                : merge_long(bpe, scratch->symbol, count, scratch->heap);
    for (size_t i = 0; i < count; i++)
        TRY(token_list_push(ids, scratch->symbol[i].id));
    return STATUS_OK;
}
