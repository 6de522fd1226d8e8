#include "runtime/step_plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A decode step of a few sequences fits INLINE_WORDS and costs one broadcast; a prompt chunk costs a
 * second one for the rest. */
enum { STOPS, N_RELEASED, N_ENTRIES, N_TOKENS, HEADER_WORDS, INLINE_WORDS = 256 };
enum { ENTRY_WORDS = (int)(sizeof(struct step_entry) / sizeof(int32_t)) };

enum status step_message_open(struct step_message *message, int max_entries, int max_tokens)
{
    int64_t words = HEADER_WORDS + (int64_t)max_entries * (ENTRY_WORDS + 1) + max_tokens;
    *message = (struct step_message){.max_entries = max_entries, .max_tokens = max_tokens};
    message->capacity = words < INLINE_WORDS ? INLINE_WORDS : words;
    message->word = calloc((size_t)message->capacity, sizeof *message->word);
    message->pending = calloc((size_t)max_entries, sizeof *message->pending);
    if (message->word == NULL || message->pending == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for step plans of %lld words",
             (long long)message->capacity);
    return STATUS_OK;
}

void step_message_close(struct step_message *message)
{
    free(message->word);
    free(message->pending);
    *message = (struct step_message){0};
}

void step_message_release(struct step_message *message, int sequence)
{
    assert(message->n_pending < message->max_entries);
    message->pending[message->n_pending++] = sequence;
}

static void write_message(struct step_message *message, const struct step_plan *plan)
{
    int32_t *word = message->word;
    word[STOPS] = plan == NULL;
    word[N_RELEASED] = message->n_pending;
    word[N_ENTRIES] = plan == NULL ? 0 : plan->n_entries;
    word[N_TOKENS] = plan == NULL ? 0 : plan->n_tokens;
    assert(word[N_ENTRIES] <= message->max_entries && word[N_TOKENS] <= message->max_tokens);
    word += HEADER_WORDS;
    memcpy(word, message->pending, (size_t)message->n_pending * sizeof *word);
    word += message->n_pending;
    message->n_pending = 0;
    if (plan == NULL)
        return;
    memcpy(word, plan->entry, (size_t)plan->n_entries * sizeof *plan->entry);
    memcpy(word + plan->n_entries * ENTRY_WORDS, plan->ids, (size_t)plan->n_tokens * sizeof *word);
}

enum status step_message_exchange(struct step_message *message, struct comm *world,
                                  const struct step_plan *plan, struct step_order *order)
{
    const int32_t *word = message->word;
    if (world->group.index == 0)
        write_message(message, plan);
    TRY(comm_broadcast_bytes(world, message->word, INLINE_WORDS * sizeof *word, 0));

    const int32_t *entries = word + HEADER_WORDS + word[N_RELEASED];
    const int32_t *ids = entries + word[N_ENTRIES] * ENTRY_WORDS;
    int64_t used = (ids - word) + word[N_TOKENS];
    if (used > INLINE_WORDS)
        TRY(comm_broadcast_bytes(world, message->word + INLINE_WORDS,
                                 (size_t)(used - INLINE_WORDS) * sizeof *word, 0));
    *order = (struct step_order){
        .stops = word[STOPS],
        .n_released = word[N_RELEASED],
        .released = word + HEADER_WORDS,
        .plan = {.n_entries = word[N_ENTRIES],
                 .n_tokens = word[N_TOKENS],
                 .entry = (const struct step_entry *)(const void *)entries,
                 .ids = ids},
    };
    return STATUS_OK;
}
