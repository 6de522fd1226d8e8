/* ledger_link.h - what the ledger knows of other nodes.
 *
 * MPI must not be called by the thread that watches, so reports go by TCP: ten times a second
 * each rank sends its last operation to two desks, rank 0 and the first rank of the second node, as far as
 * they are on other nodes.  Desks send a byte back each time: where the kernel of the other side does not
 * acknowledge it, the node cannot be reached; where it does and no reports come, the process is stopped.
 *
 * Rank 0 speaks for the job; the second desk when rank 0 is at fault. */
#ifndef PARALLEL_LEDGER_LINK_H
#define PARALLEL_LEDGER_LINK_H

#include "parallel/ledger_board.h"
#include "parallel/process.h"

struct ledger_link;

struct ledger_report {
    int32_t rank;
    int32_t is_leaving; /* closes its ledger, and is not missed from now on */
    struct ledger_entry last;
};

/* What a desk knows of a rank of another node. */
struct ledger_far {
    int is_known; /* it has reported */
    int has_ended, is_leaving;
    int64_t seen_ns, unanswered_ns; /* of the last report; as in ledger_sight */
    struct ledger_entry last;
};

/* Opens the port of a desk; all ranks learn where the desks are.  Collective; with one node there are none.
 * Owner: caller; end with ledger_link_close.  Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status ledger_link_open(struct ledger_link **link, const struct process *process);

/* Calls the desks, which must beat meanwhile, with a first report.  A desk that cannot be reached is no failure:
 * *n_missed counts them. */
void ledger_link_call(struct ledger_link *link, int *n_missed, const struct ledger_report *own);

/* 1 when this rank is the first, the second desk; else 0. */
int ledger_link_is_desk(const struct ledger_link *link, int desk);

/* Sends the report, takes those of others.  `has_spoken` is told to all by a desk, and comes back when one has
 * told it. */
int ledger_link_beat(struct ledger_link *link, const struct ledger_report *own, int has_spoken,
                     int64_t now_ns);

/* At a desk: what is known of `rank`; else nothing is. */
const struct ledger_far *ledger_link_far(const struct ledger_link *link, int rank);

void ledger_link_close(struct ledger_link *link);

#endif
