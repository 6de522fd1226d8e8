/* decode_bytes.h - what a decode step must read of the weights: the yardstick of decode speed.
 *
 * A step of one token a sequence reads every weight matrix once, whatever the batch,
 * except the embedding (some rows of it), the form of W^UK it does not use, and the
 * experts that nobody chose.  Bytes are those of the packed matrices with their scales. */
#ifndef RUNTIME_DECODE_BYTES_H
#define RUNTIME_DECODE_BYTES_H

#include "kernels/core/tensor.h"
#include "runtime/weights.h"

/* Of this rank, without routed experts and gains; W^UK in one form. */
int64_t decode_dense_bytes(const struct weights *weights, int n_layers);

/* Bytes of one of the experts. */
int64_t decode_expert_bytes(const struct expert_weights *experts);

/* How many of the rank's experts stand in chosen[T, K], each counted once.  Host memory. */
int decode_experts(const struct tensor *chosen, const struct expert_weights *experts);

/* 1 when every entry has one token. */
static inline int decode_is_step(int64_t n_tokens, int n_entries)
{
    return n_tokens == n_entries;
}

#endif
