/* cuda_comm.h - collectives between GPUs: NCCL (cuda_comm.c), or none where the build had no nccl.h
 * (cuda_comm_absent.c). */
#ifndef KERNELS_CUDA_CUDA_COMM_H
#define KERNELS_CUDA_CUDA_COMM_H

#include "kernels/core/device_comm.h"

/* NULL when there are none; *reason, a line that stays, says why. */
const struct device_comm_ops *cuda_comm_find(const char **reason);

/* Whether this process is a member of a group: then waiting for a stream is waiting for other processes. */
int cuda_comm_is_open(void);

/* Errors: STATUS_COMM when a group has failed, which its operations on a stream never say. */
enum status cuda_comm_check(void);

#endif
