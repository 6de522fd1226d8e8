/* ledger.h - which collective each rank is in, so that a job that hangs can say for whom it waits.
 *
 * Each rank writes the operations that it begins and ends to a ring in memory that
 * the ranks of its node share.  A thread on each rank looks at its own ring: when
 * an operation inside a step has lasted longer than the deadline, it shows the
 * ring and reads where the others are.  One that never began that operation is
 * named in the error line, and the job ends.  Ranks of other nodes report by TCP
 * (ledger_link.h).
 *
 * What is queued on the stream of a device is entered when it is queued; the
 * device counts what the stream has passed, in memory of the host, so that the
 * thread knows without waiting for which operation the stream waits.
 *
 * Outside steps operations have no deadline: ranks wait for a plan as long as rank 0 has
 * nothing to do.  But a rank whose thread has not shown itself for that long is at fault
 * at any time: it is stopped, or its node is cut off. */
#ifndef PARALLEL_LEDGER_H
#define PARALLEL_LEDGER_H

#include "parallel/comm.h"
#include "parallel/process.h"

/* Starts the watch when `timeout_s` is above 0 and there are several ranks.  Collective, after
 * process_start; groups opened from then on are watched.
 * Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status ledger_open(const struct process *process, int timeout_s);

/* Collective.  Groups that are watched are closed before. */
void ledger_close(void);

/* Where this rank is.  These do nothing while there is no watch.  A step begins on rank 0 before its plan is
 * sent, on the others when they have it. */
void ledger_step_begin(void);
void ledger_step_end(void);
void ledger_step_pause(void); /* outside again, though the step is not over */

/* Operations are numbered within a place, and places are passed in this order: all ranks do the same in one that
 * they pass, but not all pass all of them.  With LEDGER_LOGITS `layer` is a block of logits. */
enum ledger_phase {
    LEDGER_LINK, /* what a stage gets before the layer */
    LEDGER_ATTENTION,
    LEDGER_FFN,
    LEDGER_LOGITS
};
void ledger_place(int layer, enum ledger_phase phase);

/* Operations that a graph keeps, to be entered again whenever it is launched.  *record is NULL where there is
 * nothing to enter; the others accept that.
 * Owner: caller; end with ledger_record_close.  Errors: STATUS_NO_MEMORY. */
struct ledger_record;
void ledger_record_begin(void);
enum status ledger_record_end(struct ledger_record **record);
void ledger_record_enter(const struct ledger_record *record);
void ledger_record_close(struct ledger_record *record);

/* Puts the ledger between `comm` and its backend, where there is a watch.
 * Errors: STATUS_NO_MEMORY; `comm` is closed then. */
enum status ledger_wrap(struct comm *comm);

#endif
