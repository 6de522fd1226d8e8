/* device_comm.h - collectives between devices, queued on a stream: what a library for them gives.
 *
 * parallel/comm_nccl.c makes a backend of comm.h of it.  Plain pointers and
 * bytes, since a backend of kernels/ knows no groups of ranks. */
#ifndef KERNELS_CORE_DEVICE_COMM_H
#define KERNELS_CORE_DEVICE_COMM_H

#include "kernels/core/device.h"

enum { DEVICE_COMM_ID_BYTES = 128, DEVICE_NAME_BYTES = 64 };

struct device_comm; /* one member of a group */

/* What goes to a member, and what comes from it; either may be nothing. */
struct device_message {
    const void *sent;
    void *received;
    size_t sent_bytes, received_bytes;
};

/* All members call the same operations in the same order.  All but `open` and `close` are queued on the
 * stream, and may stand in a graph if they do on all members.
 * Errors of all: STATUS_COMM (text of the library). */
struct device_comm_ops {
    const char *name; /* "nccl" */

    /* The device of this process; the same text for all processes of a node that have it. */
    enum status (*identify)(char name[DEVICE_NAME_BYTES]);

    /* A name for a group to come, on one member, which tells it the others. */
    enum status (*make_id)(unsigned char id[DEVICE_COMM_ID_BYTES]);

    /* Waits for the other members, two minutes at most.
     * Owner: caller; end with `close`.
     * Errors: also STATUS_TIMEOUT, when it is another member that does not come or has failed. */
    enum status (*open)(struct device_comm **comm, const unsigned char id[DEVICE_COMM_ID_BYTES],
                        int size, int index);

    /* x[count] = sum over members; the same bits on all of them, in the library's order. */
    enum status (*all_reduce)(struct device_comm *comm, float *x, int64_t count,
                              struct stream *stream);

    /* y = this member's part of the sum over members of x[sum of counts]; counts[size] of the parts. */
    enum status (*reduce_scatter)(struct device_comm *comm, float *y, const float *x,
                                  const int64_t *counts, struct stream *stream);

    /* y = x of all members, in order, bytes[size] of each. */
    enum status (*all_gather)(struct device_comm *comm, void *y, const void *x, const size_t *bytes,
                              struct stream *stream);

    /* message[size]: with each member, this one among them. */
    enum status (*exchange)(struct device_comm *comm, const struct device_message *message,
                            struct stream *stream);

    enum status (*broadcast)(struct device_comm *comm, void *x, size_t bytes, int root,
                             struct stream *stream);

    /* *passed += 1, page-locked host memory that nobody else writes: what a watch reads that must not wait. */
    enum status (*count)(uint64_t *passed, struct stream *stream);

    /* On all members, when what was queued is done; with has_failed on any of them, and what is queued is
     * ended.  Accepts NULL. */
    void (*close)(struct device_comm *comm, int has_failed);
};

#endif
