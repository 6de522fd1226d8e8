/* ledger_board.h - what ranks of a node show each other, and who of them is missing; shared by ledger*.c and
 * their test. */
#ifndef PARALLEL_LEDGER_BOARD_H
#define PARALLEL_LEDGER_BOARD_H

#include "kernels/core/status.h"
#include "parallel/mesh.h"
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum ledger_operation {
    LEDGER_ALL_REDUCE,
    LEDGER_REDUCE_SCATTER,
    LEDGER_ALL_GATHER,
    LEDGER_ALL_TO_ALL,
    LEDGER_BROADCAST,
    LEDGER_LOWEST,
    LEDGER_BARRIER,
    LEDGER_HAND_OVER /* a letter of mailbox.h */
};

struct ledger_entry {
    int64_t step;   /* from 0; what stands between two steps counts to the second one */
    int32_t number; /* of the operation in its place (ledger.h), from 1 */
    int32_t layer;  /* -1: none */
    int32_t operation, has_deadline;
    char group[8];
    int32_t place;               /* grows within a step; 0: before the first one */
    int32_t first, stride, size; /* the group's ranks */
    int64_t bytes, begin_ns;
};

enum { LEDGER_RING = 512, LEDGER_WORDS = sizeof(struct ledger_entry) / sizeof(uint64_t) };
_Static_assert(sizeof(struct ledger_entry) == LEDGER_WORDS * sizeof(uint64_t), "whole words");

/* Written by its rank alone, read by all threads of the node at any time: entries are words that are read one by
 * one, and count when `begun` has not changed meanwhile. */
struct ledger_board {
    _Alignas(128) int32_t rank;
    atomic_int is_reported; /* of the first rank of a node: one of them speaks */
    atomic_int is_leaving;  /* closes its ledger */
    /* The watch of this rank looked last; it runs on in a rank that waits. */
    _Atomic int64_t seen_ns;
    _Atomic uint64_t begun, ended;
    _Atomic uint64_t ring[LEDGER_RING][LEDGER_WORDS];
    _Atomic int64_t end_ns[LEDGER_RING]; /* of the entry at this place */
};

/* The end of an operation that a stream has: struct ledger_queue knows it. */
enum { LEDGER_QUEUED = 0 };

/* Begins an operation, and ends it. */
void ledger_push(struct ledger_board *board, const struct ledger_entry *entry);
void ledger_pop(struct ledger_board *board, int64_t now_ns);

/* Operation `index` of those that were begun, from 0; one of the last LEDGER_RING. */
struct ledger_entry ledger_at(const struct ledger_board *board, uint64_t index);

/* The last operation that was begun, of step -1 when there is none; 0 when the rank is at work on it. */
int ledger_last(struct ledger_entry *entry, const struct ledger_board *board);

int ledger_is_before(const struct ledger_entry *a, const struct ledger_entry *b);

/* 1 when `rank` is of the group of `waiting` and has never begun it.  Pure. */
int ledger_is_absent(int rank, const struct ledger_entry *last, const struct ledger_entry *waiting);

/* "all_reduce 41 of layer 22, step 1088". */
void ledger_name(char *text, size_t size, const struct ledger_entry *entry);

/* The last operations of a board, the youngest first, for a log line. */
void ledger_describe(char *text, size_t size, const struct ledger_board *board, int64_t now_ns);

/* Between the wrapper of comm_ledger.c and the board of this rank. */
void ledger_begin(enum ledger_operation operation, const struct group *group, int64_t bytes);
void ledger_end(void);
void ledger_enter(struct ledger_entry *entry, enum ledger_operation operation,
                  const struct group *group, int64_t bytes); /* and goes on: it is queued */
int ledger_is_on(void);
void ledger_set_place(int32_t layer, int32_t place);

/* Operations that are queued on a stream, of comm_nccl.c: each counts as entered when it is queued, and ends
 * when the stream adds 1 to *passed.  NULL where there is no watch; the functions accept it.
 * Owner: caller; end with ledger_queue_close.  Errors: STATUS_NO_MEMORY. */
struct ledger_queue;
enum status ledger_queue_open(struct ledger_queue **queue, const uint64_t *passed);
void ledger_queue_push(struct ledger_queue *queue, enum ledger_operation operation,
                       const struct group *group, int64_t bytes);
void ledger_queue_close(struct ledger_queue *queue);

/* 1 when the caller is to say why the job ends: without a watch always, else for the first of a node. */
int ledger_take_word(void);

#endif
