/* mailbox.h - messages from one rank to another, which need not be awaited by name when they come.
 *
 * The receiver says early where the next letters go, and takes them later, in
 * order.  The sender keeps a copy until a letter has gone, so neither holds the
 * other up; letters travel while their sender is inside MPI, where it must come
 * before it waits for something else that the receiver does after taking them. */
#ifndef PARALLEL_MAILBOX_H
#define PARALLEL_MAILBOX_H

#include "parallel/mesh.h"
#include <stdint.h>

struct mailbox;

enum { MAILBOX_LETTER_MAX = 1 << 30 }; /* bytes */

/* From member 1 of `pair` to member 0; a group of one has no mailbox (*box = NULL).  At most `capacity` letters
 * are expected and not taken, and as many are on their way.  Collective over the pair, and called on all ranks in the same order.
 * Owner: caller; end with mailbox_close.  Errors: STATUS_COMM, STATUS_NO_MEMORY. */
enum status mailbox_open(struct mailbox **box, const struct group *pair, int capacity);

/* Letters that were expected and never sent are given up, and those that were sent and never taken. */
void mailbox_close(struct mailbox *box);

/* Member 0: the next letter, of `bytes` bytes, goes to `data`. */
enum status mailbox_expect(struct mailbox *box, void *data, int64_t bytes);

/* Member 0: waits for the first letter that was expected and not taken. */
enum status mailbox_take(struct mailbox *box);

/* Member 1: the next letter.  Waits only while `capacity` of them are on their way.
 * Errors: also STATUS_NO_MEMORY. */
enum status mailbox_send(struct mailbox *box, const void *data, int64_t bytes);

#endif
