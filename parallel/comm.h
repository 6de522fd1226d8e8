/* comm.h - collectives over one group of ranks.  Backends: self, MPI, shared memory; for tensors of a device
 * NCCL, or one of them through host memory.
 *
 * Every member calls the same operations in the same order with the same
 * shapes.  all_reduce gives the same bits on every member (routing depends on
 * it), summed along the fixed binary tree over members,
 * ((0 + 1) + (2 + 3)) + ..., so that groups of 1, 2, 4 and 8 continue the tree of
 * kernels/core/matrix.h.  NCCL alone has an order of its own. */
#ifndef PARALLEL_COMM_H
#define PARALLEL_COMM_H

#include "kernels/core/device_comm.h"
#include "kernels/core/tensor.h"
#include "parallel/mesh.h"

struct comm;

struct comm_ops {
    const char *name; /* "self", "mpi", "shm", "staged", "nccl" */

    /* Tensors are moved when the stream comes to it and the host goes on, so that a graph may hold it. */
    int is_stream_ordered;

    /* x = sum over members of x; dense f32. */
    enum status (*all_reduce)(struct comm *comm, struct tensor *x, struct stream *stream);

    /* y[sum of counts] = the parts of all members, in order; counts[size] in elements, equal on all
     * members; x holds counts[index] dense elements; any count may be 0. */
    enum status (*all_gather)(struct comm *comm, struct tensor *y, const struct tensor *x,
                              const int64_t *counts, struct stream *stream);

    /* y = this member's part of the sum over members of x; the parts of x stand in order of members,
     * counts[size] elements each, equal on all members.  Dense f32, not overlapping; any count may be
     * 0.  Summed along the tree, as all_reduce does. */
    enum status (*reduce_scatter)(struct comm *comm, struct tensor *y, const struct tensor *x,
                                  const int64_t *counts, struct stream *stream);

    /* y = what each member has for this one, in order of members; x = what this one has for each of
     * them.  Counts in elements: received[size] of y, sent[size] of x; sent[j] here is received[index]
     * on member j.  Both dense and of one type, not overlapping; any count may be 0. */
    enum status (*all_to_all)(struct comm *comm, struct tensor *y, const struct tensor *x,
                              const int64_t *received, const int64_t *sent, struct stream *stream);

    /* x of member `root` to all; dense, any dtype. */
    enum status (*broadcast)(struct comm *comm, struct tensor *x, int root, struct stream *stream);

    /* The lowest member whose `flag` is not 0, or -1, to all; no tensor, so it is host data on every
     * backend.  What comm_agree and comm_same are made of. */
    enum status (*lowest)(struct comm *comm, int *index, int flag);

    enum status (*barrier)(struct comm *comm);
    void (*close)(struct comm *comm);
};

struct comm {
    const struct comm_ops *ops;
    struct group group;
    void *state; /* owned by the backend */
};

/* A group of one: copies, no messages.  Errors: STATUS_INVALID unless group->size is 1. */
enum status comm_self_open(struct comm *comm, const struct group *group);

/* MPI between the members of `group` (host memory).  Collective over the world: all ranks call it
 * with their own group of the same axis, after process_start.
 * Errors: STATUS_COMM (text of the library). */
enum status comm_mpi_open(struct comm *comm, const struct group *group);

/* Shared memory between members on one node; over several nodes sums inside the nodes, MPI between their
 * first members.  As comm_mpi_open.  `node_members` is 0, or for tests: this many neighbours count as a
 * node.  Errors: STATUS_UNSUPPORTED, on all members, when those of a node are not 2, 4, 8, ... in a row
 * (on a single node any number is right) or there is no shared memory. */
enum status comm_shm_open(struct comm *comm, const struct group *group, int node_members);

/* Tensors of `device` through memory of `pinned` (which the device copies fast) and `host`, a communicator of
 * host tensors that stays the caller's and must stay open.  Local: no messages.
 * Errors: STATUS_NO_MEMORY. */
enum status comm_staged_open(struct comm *comm, struct comm *host, const struct device_ops *device,
                             const struct device_ops *pinned);

/* What moves the tensors of a device. */
struct comm_device {
    const struct device_ops *device, *pinned;
    const struct device_comm_ops *library; /* NULL: none */
    const char *reason;                    /* why not, then */
    struct stream *stream;                 /* for set-up */
    int is_quiet;                          /* the choice has been told */
};

/* NCCL between the members of `host`, a communicator of host tensors that stays the caller's and must stay
 * open; the tensors are the device's.  Every way in which data moves has been gone once, so that NCCL has the
 * memory it takes.  Collective over the group.
 * Errors: STATUS_COMM, STATUS_TIMEOUT, STATUS_NO_MEMORY, on all members. */
enum status comm_nccl_open(struct comm *comm, struct comm *host, const struct comm_device *device);

/* comm_nccl where the library is there and every member has a device of its own, else comm_staged, with a
 * warning that says why; or as comm_set_backend says.  The same for all groups of the axis: `all` are the
 * ranks that call it, each with the `host` of its group.
 * Errors: STATUS_UNSUPPORTED (COMM_NCCL, with the reason), those of comm_nccl_open; on all ranks. */
enum status comm_device_open(struct comm *comm, struct comm *host, struct comm *all,
                             const struct comm_device *device);

/* The library's own collectives, whose sums have no fixed order: what benchmarks compare with.  As
 * comm_mpi_open. */
enum status comm_library_open(struct comm *comm, const struct group *group);

/* What comm_open takes for groups of several; the same on all ranks.  COMM_AUTO: comm_shm, else
 * comm_mpi; COMM_NCCL: so for host tensors. */
enum comm_backend { COMM_AUTO, COMM_MPI, COMM_SHM, COMM_NCCL };
void comm_set_backend(enum comm_backend backend);
enum comm_backend comm_get_backend(void);

/* comm_self for a group of one, else as comm_set_backend says.  Collective over the world whatever the
 * size. */
enum status comm_open(struct comm *comm, const struct group *group);

void comm_close(struct comm *comm);

/* Bytes from `root` to all members; a wrapper of `broadcast` for plain data.  This and what follows is for
 * communicators of host tensors. */
enum status comm_broadcast_bytes(struct comm *comm, void *data, size_t bytes, int root);

/* Ends a phase of set-up: every member gives its own status; all get STATUS_OK when all had it, else
 * the code of the lowest failing member, with its text as "rank R (HOST): TEXT" in the record (the
 * text alone when every member failed with the same text).  Never leaves a rank waiting. */
enum status comm_agree(struct comm *comm, enum status own);

/* Fails on all members when `hash` differs between them, naming `what` and the lowest rank that
 * differs from member 0. */
enum status comm_same(struct comm *comm, const char *what, uint64_t hash);

#endif
