/* ledger_fault.h - whose fault it is that a job stands still, and the line that says so.  Pure.
 *
 * A rank sees those of its own node in shared memory: where they are now.  Of others it
 * has the last report (ledger_link.h), which says nothing of what came after; so a rank of
 * another node is said to have never entered an operation only while its reports go on. */
#ifndef PARALLEL_LEDGER_FAULT_H
#define PARALLEL_LEDGER_FAULT_H

#include "parallel/ledger_board.h"

/* What one rank knows of another. */
struct ledger_sight {
    int32_t rank;
    int is_near;    /* on the same node */
    int is_at_work; /* its board changed while it was read */
    int has_ended;
    int64_t silent_ns;     /* since it has shown that it runs */
    int64_t unanswered_ns; /* since its node has taken a packet, where one is on its way; else 0 */
    struct ledger_entry last; /* of step -1: none */
};

enum ledger_fault_kind {
    LEDGER_NO_FAULT,
    LEDGER_ABSENT,      /* runs, and never entered the operation */
    LEDGER_STOPPED,     /* does not run */
    LEDGER_UNREACHABLE, /* its node does not answer */
    LEDGER_ENDED
};

struct ledger_fault {
    enum ledger_fault_kind kind;
    int at;       /* of the sights */
    int n_others; /* absent too, or fell silent with it */
};

/* One who is silent for `patience_ns` goes before one who is absent; of several the one who fell silent first, or
 * is farthest behind, and the lowest of equals.  `waiting`: the operation that has passed its deadline;
 * NULL: none has. */
void ledger_find_fault(struct ledger_fault *fault, const struct ledger_sight *sight, int n,
                       const struct ledger_entry *waiting, int64_t patience_ns);

/* `host` is that of the rank at fault; rank `own` has waited for `seconds`. */
void ledger_tell_fault(char *text, size_t size, const struct ledger_fault *fault,
                       const struct ledger_sight *sight, const char *host,
                       const struct ledger_entry *waiting, int own, double seconds);

#endif
