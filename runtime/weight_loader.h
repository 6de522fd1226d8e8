/* weight_loader.h - this rank's slices of a checkpoint, packed into device memory.
 *
 * Only the bytes of the slices are read (whole rows in one read, columns row by
 * row, or together where the gap between them is small).  Every value is looked at
 * while it is packed: NaN and infinity are refused with the tensor's name and
 * place.  W^UK and W^UV are split out of
 * kv_b_proj per head, W^UK transposed for the absorbed form (DeepSeek-V2, arXiv
 * 2405.04434, 2.1.2). */
#ifndef RUNTIME_WEIGHT_LOADER_H
#define RUNTIME_WEIGHT_LOADER_H

#include "kernels/core/arena.h"
#include "runtime/weights.h"

struct weight_loader_options {
    int keeps_expanded; /* also W^UK in expanded order (mla_mode other than absorb) */
    int to_i8;          /* the large matrices in 8 bits (weight_quantize.h), else all as stored */
    int rounds_inputs;  /* matrices of BF16 but the router take input rows rounded to it */
    void (*on_progress)(void *context, int64_t done, int64_t total); /* bytes; may be NULL */
    void *progress_context;
};

/* The shapes and types of all weights of this rank and, in bytes_resident, what they will take; no
 * memory for them yet.  `checkpoint` NULL: random weights (runtime/random_weights.h).
 * Owner: caller; end with weights_close.
 * Errors: STATUS_NO_MEMORY (of the table), STATUS_INVALID, STATUS_UNSUPPORTED (as weights_find; experts
 * of a layer stored in different types). */
enum status weights_lay_out(struct weights *weights, const struct model_config *config,
                            const struct safetensors *checkpoint, const struct shard_plan *plan,
                            const struct weight_loader_options *options);

/* Fills `weights` as laid out, from memory of `arena`, which is opened here with just the size needed.
 * Owner: caller; end with weights_close, then arena_close.
 * Errors: STATUS_NO_MEMORY, STATUS_IO, STATUS_INVALID (NaN or infinity). */
enum status weights_load(struct weights *weights, struct arena *arena,
                         const struct device_ops *device, const struct model_config *config,
                         const struct safetensors *checkpoint, const struct shard_plan *plan,
                         const struct weight_loader_options *options);

/* Frees what is not in the arena. */
void weights_close(struct weights *weights);

#endif
