/* device.h - memory of one device: the seam between the engine and CPU or GPU. */
#ifndef KERNELS_CORE_DEVICE_H
#define KERNELS_CORE_DEVICE_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

struct stream; /* a queue of work; NULL on devices that run at once (the CPU) */

/* Bytes that could still be allocated; INT64_MAX: no limit is known. */
struct free_memory {
    int64_t own;    /* by this process */
    int64_t shared; /* by all ranks of this node together */
};

struct device_ops {
    const char *name; /* "cpu", "cuda" */
    int is_host;      /* its memory is the host's: no copies are needed */

    void (*free_memory)(struct free_memory *memory);

    /* The CPU only: threads for its operations, the caller among them; one pool a process.
     * Errors: STATUS_NO_MEMORY (the system refuses a thread), STATUS_INVALID (there is a pool). */
    enum status (*open_threads)(int n_threads);
    void (*close_threads)(void);
    int (*count_threads)(void);

    /* Calls work(context, thread, n_threads) on every thread; returns when all are done. */
    void (*run_threads)(void (*work)(void *context, int thread, int n_threads), void *context);

    /* Zeroed memory, aligned to at least 64 bytes.  Owner: caller; end with `release`.
     * Errors: STATUS_NO_MEMORY (text: bytes wanted). */
    enum status (*allocate)(void **data, size_t bytes);
    void (*release)(void *data, size_t bytes);

    /* Copies between host and device; queued on `stream`, done after `synchronize`. */
    enum status (*copy_in)(void *device, const void *host, size_t bytes, struct stream *stream);
    enum status (*copy_out)(void *host, const void *device, size_t bytes, struct stream *stream);
    enum status (*synchronize)(struct stream *stream);

    /* Where a device can keep a sequence of operations and repeat it in one go; NULL elsewhere.  What is
     * queued between `begin` and `end` is kept, not done; it repeats with the same addresses.
     * Errors: STATUS_UNSUPPORTED (this device after all cannot). */
    enum status (*graph_begin)(struct stream *stream);
    enum status (*graph_end)(void **graph, struct stream *stream);
    enum status (*graph_launch)(void *graph, struct stream *stream);
    void (*graph_close)(void *graph);
};

/* The CPU: memory is host memory, copies are immediate, `stream` is NULL. */
extern const struct device_ops cpu_device_ops;

#endif
