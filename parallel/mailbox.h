/* mailbox.h - messages from one rank to another, which need not be awaited by name when they come.
 *
 * The receiver says early where the next letters go, and takes them later, in
 * order.  So a sender is not held up by a receiver that is at work elsewhere, once
 * that one is inside MPI. */
#ifndef PARALLEL_MAILBOX_H
#define PARALLEL_MAILBOX_H

#include "parallel/mesh.h"
#include <stdint.h>

struct mailbox;

enum { MAILBOX_LETTER_MAX = 1 << 30 }; /* bytes */

/* From member 1 of `pair` to member 0; a group of one has no mailbox (*box = NULL).  At most `capacity` letters
 * are expected and not taken.  Collective over the pair, and called on all ranks in the same order.
 * Owner: caller; end with mailbox_close.  Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status mailbox_open(struct mailbox **box, const struct group *pair, int capacity);

/* Letters that were expected and never sent are given up. */
void mailbox_close(struct mailbox *box);

/* Member 0: the next letter, of `bytes` bytes, goes to `data`. */
enum status mailbox_expect(struct mailbox *box, void *data, int64_t bytes);

/* Member 0: waits for the first letter that was expected and not taken. */
enum status mailbox_take(struct mailbox *box);

/* Member 1: the next letter.  Returns when `data` may be written again. */
enum status mailbox_send(struct mailbox *box, const void *data, int64_t bytes);

#endif
