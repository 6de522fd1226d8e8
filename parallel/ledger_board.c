#include "parallel/ledger_board.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    [LEDGER_ALL_REDUCE] = "all_reduce", [LEDGER_REDUCE_SCATTER] = "reduce_scatter",
    [LEDGER_ALL_GATHER] = "all_gather", [LEDGER_ALL_TO_ALL] = "all_to_all",
    [LEDGER_BROADCAST] = "broadcast",   [LEDGER_LOWEST] = "lowest",
    [LEDGER_BARRIER] = "barrier",       [LEDGER_HAND_OVER] = "hand_over",
};

void ledger_push(struct ledger_board *board, const struct ledger_entry *entry)
{
    uint64_t begun = atomic_load_explicit(&board->begun, memory_order_relaxed);
    uint64_t word[LEDGER_WORDS];
    memcpy(word, entry, sizeof word);
    for (int i = 0; i < LEDGER_WORDS; i++)
        atomic_store_explicit(&board->ring[begun % LEDGER_RING][i], word[i], memory_order_relaxed);
    atomic_store(&board->begun, begun + 1);
}

void ledger_pop(struct ledger_board *board, int64_t now_ns)
{
    uint64_t begun = atomic_load_explicit(&board->begun, memory_order_relaxed);
    atomic_store_explicit(&board->end_ns[(begun - 1) % LEDGER_RING], now_ns, memory_order_relaxed);
    atomic_store(&board->ended, begun);
}

struct ledger_entry ledger_at(const struct ledger_board *board, uint64_t index)
{
    struct ledger_entry entry;
    uint64_t word[LEDGER_WORDS];
    for (int i = 0; i < LEDGER_WORDS; i++)
        word[i] = atomic_load_explicit(&board->ring[index % LEDGER_RING][i], memory_order_acquire);
    memcpy(&entry, word, sizeof entry);
    return entry;
}

int ledger_last(struct ledger_entry *entry, const struct ledger_board *board)
{
    uint64_t begun = atomic_load(&board->begun);
    *entry = begun == 0 ? (struct ledger_entry){.step = -1} : ledger_at(board, begun - 1);
    return atomic_load(&board->begun) == begun;
}

static int is_member(int rank, const struct ledger_entry *entry)
{
    int distance = rank - entry->first;
    return distance >= 0 && distance % entry->stride == 0 && distance / entry->stride < entry->size;
}

int ledger_is_before(const struct ledger_entry *a, const struct ledger_entry *b)
{
    if (a->step != b->step)
        return a->step < b->step;
    return a->place < b->place || (a->place == b->place && a->number < b->number);
}

int ledger_is_absent(int rank, const struct ledger_entry *last, const struct ledger_entry *waiting)
{
    return is_member(rank, waiting) && ledger_is_before(last, waiting);
}

void ledger_name(char *text, size_t size, const struct ledger_entry *entry)
{
    char layer[32] = "";
    if (entry->layer >= 0)
        snprintf(layer, sizeof layer, " of layer %d", (int)entry->layer);
    snprintf(text, size, "%s %d%s, step %" PRId64, names[entry->operation], (int)entry->number,
             layer, entry->step);
}

void ledger_describe(char *text, size_t size, const struct ledger_board *board, int64_t now_ns)
{
    enum { SHOWN = 6 };
    uint64_t begun = atomic_load(&board->begun);
    size_t used = 0;
    *text = '\0';
    for (uint64_t i = begun; i > 0 && i + SHOWN > begun && used < size; i--) {
        const struct ledger_entry entry = ledger_at(board, i - 1);
        char name[96];
        ledger_name(name, sizeof name, &entry);
        int is_open = i > atomic_load(&board->ended);
        int64_t end_ns = is_open ? now_ns : atomic_load(&board->end_ns[(i - 1) % LEDGER_RING]);
        char how[48] = "queued";
        if (end_ns != LEDGER_QUEUED)
            snprintf(how, sizeof how, "%s %.3f ms", is_open ? "waits for" : "took",
                     (double)(end_ns - entry.begin_ns) * 1e-6);
        int length = snprintf(text + used, size - used, "%s%s (%s, %" PRId64 " bytes, %s)",
                              used > 0 ? "; " : "", name, entry.group, entry.bytes, how);
        used += length > 0 ? (size_t)length : 0;
    }
}
