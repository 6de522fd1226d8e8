/* ledger_queue.c - collectives on the stream of a device, as the ledger sees them; and those that graphs keep. */
#include "parallel/ledger_queue.h"
#include "parallel/ledger.h"
#include "parallel/ledger_board.h"

#include <stdlib.h>

/* One collective of a graph. */
struct kept {
    struct ledger_queue *queue;
    enum ledger_operation operation;
    const struct group *group;
    int32_t layer, place;
    int64_t bytes;
};

struct ledger_record {
    int n, capacity;
    struct kept *kept;
};

/* What is being recorded, by the thread that computes. */
static struct {
    int is_on, has_failed;
    struct ledger_record record;
} recording;

static void record_push(const struct kept *kept)
{
    struct ledger_record *record = &recording.record;
    if (record->n == record->capacity) {
        int capacity = 2 * record->capacity + 64;
        struct kept *grown = realloc(record->kept, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            recording.has_failed = 1;
            return;
        }
        record->kept = grown;
        record->capacity = capacity;
    }
    record->kept[record->n++] = *kept;
}

void ledger_record_begin(void)
{
    recording.is_on = 1;
    recording.has_failed = 0;
    recording.record = (struct ledger_record){0};
}

enum status ledger_record_end(struct ledger_record **record)
{
    struct ledger_record *made = NULL;
    recording.is_on = 0;
    *record = NULL;
    if (recording.record.n > 0 && !recording.has_failed)
        made = malloc(sizeof *made);
    if (made == NULL) {
        int is_lost = recording.record.n > 0;
        free(recording.record.kept);
        if (is_lost)
            FAIL(STATUS_NO_MEMORY, "no memory for the collectives of a graph");
        return STATUS_OK;
    }
    *made = recording.record;
    *record = made;
    return STATUS_OK;
}

void ledger_record_enter(const struct ledger_record *record)
{
    for (int i = 0; record != NULL && i < record->n; i++) {
        const struct kept *kept = &record->kept[i];
        ledger_set_place(kept->layer, kept->place);
        ledger_queue_push(kept->queue, kept->operation, kept->group, kept->bytes);
    }
}

void ledger_record_close(struct ledger_record *record)
{
    if (record == NULL)
        return;
    free(record->kept);
    free(record);
}

void ledger_queue_push(struct ledger_queue *queue, enum ledger_operation operation,
                       const struct group *group, int64_t bytes)
{
    struct ledger_entry entry;
    if (queue == NULL)
        return;
    ledger_enter(&entry, operation, group, bytes);
    ledger_push(&queue->board, &entry);
    if (recording.is_on)
        record_push(&(struct kept){.queue = queue,
                                   .operation = operation,
                                   .group = group,
                                   .layer = entry.layer,
                                   .place = entry.place,
                                   .bytes = bytes});
}

int ledger_queue_waits(struct ledger_entry *entry, struct ledger_queue *queue, int64_t now_ns)
{
    uint64_t passed = atomic_load((const _Atomic uint64_t *)queue->passed);
    uint64_t begun = atomic_load(&queue->board.begun);
    if (passed != queue->seen) {
        queue->seen = passed;
        queue->changed_ns = now_ns;
    }
    if (passed >= begun)
        return 0;
    if (begun - passed > LEDGER_RING) /* older ones are forgotten */
        passed = begun - LEDGER_RING;
    *entry = ledger_at(&queue->board, passed);
    if (entry->begin_ns < queue->changed_ns)
        entry->begin_ns = queue->changed_ns;
    return entry->has_deadline && atomic_load(&queue->board.begun) == begun;
}
