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

/* y[count] = elements [begin, begin + count) of the tensor, row-major, in the type of `source`; of I4 a
 * byte each, 0 .. 15. */
void random_weights_fill(void *y, const struct weight_source *source,
                         const struct weight_item *item, uint64_t seed, int64_t begin,
                         int64_t count);

/* The scale in row `row`, column `column` of the scales of a quantized tensor; exact in its type. */
float random_weights_scale(const struct weight_source *source, const struct weight_item *item,
                           uint64_t seed, int64_t row, int64_t column);

#endif
