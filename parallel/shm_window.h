/* shm_window.h - memory that the members of a group on one node share, and who of them has come how far.
 *
 * Every member owns a line with its epoch, and two slots; the others only read
 * them.  An epoch is never reset: to arrive is to raise the own one, to wait is to
 * see that of another.  An operation takes a turn, which uses the slots by turns,
 * and one epoch or two.
 *
 * One rule replaces the barrier behind an operation: a member that writes to its
 * slot has first seen all others at the epoch before (shm_claim).  They are then
 * past the turn before the last one, where this slot was read for the last time.
 * Operations in which all wait for all see that on their way. */
#ifndef PARALLEL_SHM_WINDOW_H
#define PARALLEL_SHM_WINDOW_H

#include "kernels/core/status.h"
#include "parallel/mesh.h"
#include "parallel/mpi_internal.h"
#include <stddef.h>
#include <stdint.h>

/* 64, 128 and 256 KiB sum 1 MiB in the same time within 5%: what matters is that both slots of all members
 * stay in the caches. */
enum { SHM_SLOT_BYTES = 128 * 1024 };

/* The members of a node are a subtree of reduction_tree.h when they are a block of neighbours: how many,
 * or 0 when some node holds others.  A last node may hold fewer; a single node any number.  Pure.
 * first_on_node[size]: the lowest member on the node of each member. */
int shm_block(const int *first_on_node, int size);

struct shm_member; /* the memory of one member */

struct shm_window {
    struct group group; /* the members on this node */
    MPI_Comm mpi;       /* between them */
    MPI_Win win;
    struct shm_member **member; /* [group.size] */
    uint64_t epoch, turn;
    uint64_t all_at;   /* all members have been seen here */
    int spins, yields; /* looks before a waiter sleeps: keeping its core, giving it away */
    int sees_all;      /* members are processes that this one can look for */
};

/* Takes `mpi`, a communicator of the members of `group`, which share a node; also when it fails.
 * Collective over them, and either all have the window or none.
 * Owner: caller; end with shm_close.  Errors: STATUS_COMM. */
enum status shm_open_window(struct shm_window *window, const struct group *group, MPI_Comm mpi);
void shm_close_window(struct shm_window *window);

/* Begins an operation, on every member. */
void shm_turn(struct shm_window *window);

/* The slot of `member` in this turn; one's own is written after shm_claim only. */
char *shm_slot(const struct shm_window *window, int member);
int *shm_flag(const struct shm_window *window, int member);

enum status shm_claim(struct shm_window *window);

/* What was written before is seen by all who wait for the new epoch. */
void shm_arrive(struct shm_window *window);

/* Waits for `member`, for all, to arrive where this one is.  A short spin, then sleep until the other
 * arrives.
 * Errors: STATUS_COMM when the process of the other has ended. */
enum status shm_wait(struct shm_window *window, int member);
enum status shm_wait_all(struct shm_window *window);

#endif
