/* ledger_queue.h - between ledger.c, which watches, and ledger_queue.c. */
#ifndef PARALLEL_LEDGER_QUEUE_H
#define PARALLEL_LEDGER_QUEUE_H

#include "parallel/ledger_board.h"

struct ledger_queue {
    struct ledger_board board; /* of this process alone; nothing is ended in it */
    const uint64_t *passed;
    /* of the thread that watches */
    uint64_t seen;
    int64_t changed_ns;
    struct ledger_queue *next;
};

/* 1 when the stream has yet to pass an operation of a step: the first of those, begun when the one before was
 * passed. */
int ledger_queue_waits(struct ledger_entry *entry, struct ledger_queue *queue, int64_t now_ns);

#endif
