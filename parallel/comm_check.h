/* comm_check.h - what every backend asks of its arguments, in the same words. */
#ifndef PARALLEL_COMM_CHECK_H
#define PARALLEL_COMM_CHECK_H

#include "kernels/core/tensor.h"
#include "parallel/mesh.h"

/* Where the parts of an all_gather stand, in bytes. */
struct gather_shape {
    int64_t width; /* of an element */
    int64_t own_offset, own_bytes, longest_bytes;
};

/* What an all_to_all hands this member itself, and the longest part that it sends or receives. */
struct exchange_shape {
    int64_t width;
    int64_t own_from, own_to, own_bytes, longest_bytes;
};

/* Errors: STATUS_INVALID. */
enum status comm_check_all_reduce(const struct tensor *x);
enum status comm_check_all_gather(struct gather_shape *shape, const struct group *group,
                                  const struct tensor *y, const struct tensor *x,
                                  const int64_t *counts);
/* shape->own_offset is in x, where every member has all parts. */
enum status comm_check_reduce_scatter(struct gather_shape *shape, const struct group *group,
                                      const struct tensor *y, const struct tensor *x,
                                      const int64_t *counts);
enum status comm_check_all_to_all(struct exchange_shape *shape, const struct group *group,
                                  const struct tensor *y, const struct tensor *x,
                                  const int64_t *received, const int64_t *sent);
enum status comm_check_broadcast(const struct tensor *x);

#endif
