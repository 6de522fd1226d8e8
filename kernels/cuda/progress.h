/* progress.h - a count in host memory of what a stream has passed.
 *
 * For a watch on the host, which must not wait for the stream; also inside graphs.
 */
#ifndef KERNELS_CUDA_PROGRESS_H
#define KERNELS_CUDA_PROGRESS_H

#ifdef __cplusplus
extern "C" {
#endif

#include <stdint.h>

struct CUstream_st; /* cudaStream_t points to it */

struct cuda_progress {
    uint64_t *passed; /* page-locked; nobody else writes it */
};

/* *passed += 1, in order of the stream.  Returns a cudaError_t. */
int cuda_progress_count(const struct cuda_progress *progress, struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
