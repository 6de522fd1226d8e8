/* step_plan.h - how rank 0 tells the others what to run: one small message per step. */
#ifndef RUNTIME_STEP_PLAN_H
#define RUNTIME_STEP_PLAN_H

#include "parallel/comm.h"
#include "runtime/engine.h"

/* What rank 0 decided; pointers lead into the message and hold until the next exchange. */
struct step_order {
    int stops; /* 1: the others leave engine_work, there is no plan */
    int n_released;
    const int32_t *released; /* sequences whose pages go back before the step */
    struct step_plan plan;
};

struct step_message {
    int32_t *word; /* [capacity] as it travels: header, released, entries, ids */
    int64_t capacity;
    int32_t *pending; /* [max_entries] rank 0: released since the last exchange */
    int n_pending, max_entries, max_tokens;
};

/* Room for plans of up to `max_entries` entries and `max_tokens` ids.
 * Owner: caller; end with step_message_close.  Errors: STATUS_NO_MEMORY. */
enum status step_message_open(struct step_message *message, int max_entries, int max_tokens);
void step_message_close(struct step_message *message);

/* Rank 0: `sequence` is released before the next step. */
void step_message_release(struct step_message *message, int sequence);

/* Rank 0 sends `plan` (NULL: stop), the others receive it; all get the same `order`.
 * Errors: STATUS_COMM. */
enum status step_message_exchange(struct step_message *message, struct comm *world,
                                  const struct step_plan *plan, struct step_order *order);

#endif
