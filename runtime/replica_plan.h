/* replica_plan.h - a step as the replicas of dp see it.
 *
 * Sequence s of the job is sequence s / dp of replica s mod dp.  Every rank knows the whole plan,
 * hence how many tokens each replica has in a step and which logits it owes. */
#ifndef RUNTIME_REPLICA_PLAN_H
#define RUNTIME_REPLICA_PLAN_H

#include "runtime/engine.h"

static inline int replica_of(int sequence, int n_replicas)
{
    return sequence % n_replicas;
}

/* Sequences of each replica, when the job has n_sequences. */
static inline int replica_sequences(int n_sequences, int n_replicas)
{
    return (n_sequences + n_replicas - 1) / n_replicas;
}

/* The part of one replica, with its own numbers of sequences. */
struct replica_plan {
    struct step_entry *entry; /* [max_entries] */
    int32_t *ids;             /* [max_tokens] */
    int64_t *tokens;          /* [n_replicas] of each replica in this step */
    int64_t all_tokens;
    struct step_plan plan; /* made of entry and ids; may be empty */
    int n_replicas;
};

/* Owner: caller; end with replica_plan_close.  Errors: STATUS_NO_MEMORY. */
enum status replica_plan_open(struct replica_plan *replica, int n_replicas, int max_entries,
                              int max_tokens);
void replica_plan_close(struct replica_plan *replica);

/* The part of replica `own` of a step of all. */
void replica_plan_build(struct replica_plan *replica, const struct step_plan *all, int own);

/* Some rows of a replica whose logits are wanted. */
enum { LOGITS_ROWS = 32 }; /* computed at a time */
struct wanted_rows {
    int count;
    int entry[LOGITS_ROWS];   /* of the step of all */
    int token[LOGITS_ROWS];   /* in that entry */
    int64_t row[LOGITS_ROWS]; /* in the replica's part of the step */
};

/* Block `block` of LOGITS_ROWS wanted rows of replica `own`, in their order; count 0: there is none. */
void wanted_rows_build(struct wanted_rows *wanted, const struct step_plan *all, int n_replicas,
                       int own, int block);

#endif
