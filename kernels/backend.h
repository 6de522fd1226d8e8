/* backend.h - the device of a rank: its memory, its operations. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "kernels/core/device_comm.h"
#include "kernels/ops.h"

enum backend_kind { BACKEND_AUTO, BACKEND_CPU, BACKEND_CUDA };

struct backend {
    const struct device_ops *device;
    const struct device_ops *host; /* host memory that the device copies fast; the CPU: itself */
    const struct ops *ops;
    struct stream *stream; /* of all operations; NULL on the CPU */
    void *library;         /* of the CUDA backend; NULL on the CPU */

    /* Looked for when it is asked for, since a rank alone needs none: collectives between devices, or
     * NULL with a reason that stays.  NULL itself on the CPU. */
    const struct device_comm_ops *(*find_comm)(const char **reason);
};

/* The device numbered `local_rank` mod the devices of this machine.  AUTO takes a GPU where the CUDA
 * backend and a device are there, else the CPU, and says why in the log.
 * Owner: caller; end with backend_close.
 * Errors: STATUS_DEVICE (CUDA, with the reason), STATUS_USAGE (cpu_ops_choose). */
enum status backend_open(struct backend *backend, enum backend_kind kind, int local_rank);
void backend_close(struct backend *backend);

/* What the library of the CUDA backend has, under this name, for backend_open. */
#define CUDA_BACKEND_OPEN "latentrank_cuda_open"
typedef enum status (*cuda_backend_open)(struct backend *backend, int local_rank);

#endif
