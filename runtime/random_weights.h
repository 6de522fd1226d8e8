/* random_weights.h - random checkpoints: any element of any tensor, computed alone.
 *
 * Element i of a tensor is normal, drawn by Philox4x32-10 keyed by (seed, hash of
 * the tensor's name, i), so a rank fills only its slices and dropping layers
 * changes no other tensor.  Gains are 1; products keep the size of their
 * input (deviation 1 / sqrt(columns)), so activations stay finite at any depth.
 */
#ifndef RUNTIME_RANDOM_WEIGHTS_H
#define RUNTIME_RANDOM_WEIGHTS_H

#include "runtime/weights.h"

/* y[count] in `dtype` (F32, F16 or BF16) = elements [begin, begin + count) of the tensor, row-major. */
void random_weights_fill(void *y, enum dtype dtype, const struct weight_item *item, uint64_t seed,
                         int64_t begin, int64_t count);

#endif
