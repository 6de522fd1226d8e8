/* arena.h - device memory, taken once and handed out front to back.
 *
 * The engine sizes an arena, opens it, and gives parts of it to weights, cache
 * and workspace; parts are never returned one by one.
 */
#ifndef KERNELS_CORE_ARENA_H
#define KERNELS_CORE_ARENA_H

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

enum { ARENA_ALIGNMENT = 64 }; /* bytes; one cache line, one AVX-512 register */

struct arena {
    const struct device_ops *device;
    const char *name; /* "weights", "cache", "workspace": for messages */
    char *data;
    size_t capacity;
    size_t used;
};

/* Bytes that `bytes` take in an arena, with the rounding to ARENA_ALIGNMENT. */
size_t arena_rounded(size_t bytes);

/* Owner: caller; end with arena_close.  `capacity` 0 is legal.
 * Errors: STATUS_NO_MEMORY (text: name and bytes wanted). */
enum status arena_open(struct arena *arena, const struct device_ops *device, const char *name,
                       size_t capacity);

/* `bytes` of zeroed memory, aligned.  A measuring arena (device NULL) gives NULL and only counts, so
 * that one function both sizes and lays out.
 * Errors: STATUS_NO_MEMORY when the capacity is exceeded, a bug of whoever sized it. */
enum status arena_take(struct arena *arena, void **data, size_t bytes);

/* A dense tensor from the arena; dimensions that are not there are 0. */
enum status arena_tensor(struct arena *arena, struct tensor *tensor, enum dtype dtype, int ndim,
                         const int64_t *dim);

void arena_close(struct arena *arena);

#endif
