/* reduction_tree.h - the one order in which parts of a sum are added, for any number of members.
 *
 * Neighbours are paired level by level, an odd last one moves up unchanged:
 * ((0 + 1) + (2 + 3)) + 4 for five.  For 1, 2, 4 and 8 members this continues
 * the tree of units in kernels/core/matrix.h.  Equivalently, at the level of
 * `stride` 1, 2, 4, ... the block of members [b, b + stride), with b a multiple of
 * 2 stride, meets [b + stride, b + 2 stride) cut to the members there are.
 *
 * IEEE addition commutes, so only the tree matters and not which operand is the
 * lower one (the payload of a NaN aside).  A member with nothing to add gives -0:
 * x + -0 is x for every x, while x + 0 turns -0 into 0. */
#ifndef PARALLEL_REDUCTION_TREE_H
#define PARALLEL_REDUCTION_TREE_H

#include <stdint.h>

/* x[count] += y[count]; the two do not overlap. */
void reduction_add(float *restrict x, const float *restrict y, int64_t count);

/* parts[0][count] = the sum of parts[n_parts][count] along the tree; the other parts are left with
 * partial sums. */
void reduction_tree_sum(float *parts, int n_parts, int64_t count);

/* y[count] = the sum of part[n_parts][count] along the tree; y may be one of the parts, none other
 * overlaps it.  n_parts is below 2^16. */
void reduction_tree_sum_of(float *y, const float *const *part, int n_parts, int64_t count);

/* What one member does at one level, when each member of both blocks shall end with the sum of both:
 * it sends its own sum to `send_to`, `send_to` + `send_step`, ... below `send_end`, and receives the
 * sum of the other block from `receive_from`; -1 when its block moves up unchanged. */
struct reduction_exchange {
    int receive_from;
    int send_to, send_step, send_end;
};

/* The exchange of member `index` of `size` at the level of `stride` (1, 2, 4, ... below size). */
struct reduction_exchange reduction_exchange_at(int size, int index, int stride);

#endif
