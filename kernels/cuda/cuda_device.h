/* cuda_device.h - the GPU of this process: its stream and its scratch memory, for the files of the backend. */
#ifndef KERNELS_CUDA_CUDA_DEVICE_H
#define KERNELS_CUDA_CUDA_DEVICE_H

#include "kernels/core/device.h"
#include <cuda_runtime_api.h>

/* Fails with what CUDA says of a call. */
#define CUDA_TRY(call)                                                                             \
    do {                                                                                           \
        cudaError_t cuda_error_ = (cudaError_t)(call);                                             \
        if (cuda_error_ != cudaSuccess)                                                            \
            FAIL(STATUS_DEVICE, "%s: %s", #call, cudaGetErrorString(cuda_error_));                 \
    } while (0)

enum cuda_buffer { BUFFER_INPUTS, BUFFER_SUMS, BUFFER_PLAN, BUFFER_DECODE, CUDA_BUFFERS };

/* The device and a stream of its own, which stay for the process.  Errors: STATUS_DEVICE. */
enum status cuda_device_open(int local_rank);

/* At least `bytes` of scratch memory, whose content is lost when it grows; a kind that must begin as zeros
 * is zero when it is new. */
enum status cuda_device_buffer(void **data, enum cuda_buffer buffer, size_t bytes);

int cuda_device_processors(void);
/* Copies to the device so far: what they may have changed is not what it was. */
int64_t cuda_device_copies(void);

/* With LATENTRANK_DEBUG_SYNC=1 waits for the operation and names it when it failed. */
enum status cuda_device_check(const char *operation, struct stream *stream);

extern const struct device_ops cuda_device_ops;

static inline cudaStream_t cuda_stream(struct stream *stream)
{
    return (cudaStream_t)(void *)stream;
}

#endif
