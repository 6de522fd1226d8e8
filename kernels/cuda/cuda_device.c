/* cuda_device.c - memory, copies and the stream of one GPU. */
#include "kernels/cuda/cuda_device.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_comm.h"
#include "kernels/cuda/cuda_ops.h"

static struct {
    int device, n_devices, processors, syncs, is_capturing;
    int64_t copies; /* to the device, so far */
    cudaStream_t stream;
    void *buffer[CUDA_BUFFERS];
    size_t buffer_bytes[CUDA_BUFFERS];
} self;

enum status cuda_device_open(int local_rank)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        FAIL(STATUS_DEVICE, "no GPU can be used: %s; run with --backend cpu",
             error != cudaSuccess ? cudaGetErrorString(error) : "there is none");
    if (self.stream != NULL) /* of an engine before */
        return STATUS_OK;
    self.device = local_rank % count;
    self.n_devices = count;
    CUDA_TRY(cudaSetDevice(self.device));
    int major = 0, minor = 0;
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, self.device));
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, self.device));
    if (major != 9)
        FAIL(STATUS_DEVICE, "device %d has compute capability %d.%d; the kernels are built for 9.0",
             self.device, major, minor);
    CUDA_TRY(cudaDeviceGetAttribute(&self.processors, cudaDevAttrMultiProcessorCount, self.device));
    CUDA_TRY(cudaStreamCreateWithFlags(&self.stream, cudaStreamNonBlocking));
    const char *syncs = getenv("LATENTRANK_DEBUG_SYNC");
    self.syncs = syncs != NULL && strcmp(syncs, "1") == 0;
    return STATUS_OK;
}

int cuda_device_processors(void)
{
    return self.processors;
}

int64_t cuda_device_copies(void)
{
    return self.copies;
}

enum status cuda_device_buffer(void **data, enum cuda_buffer buffer, size_t bytes)
{
    if (bytes > self.buffer_bytes[buffer]) {
        if (self.is_capturing)
            FAIL(STATUS_INVALID, "scratch memory of %zu bytes was not there before", bytes);
        CUDA_TRY(cudaStreamSynchronize(self.stream));
        CUDA_TRY(cudaFree(self.buffer[buffer]));
        self.buffer[buffer] = NULL;
        self.buffer_bytes[buffer] = 0;
        CUDA_TRY(cudaMalloc(&self.buffer[buffer], bytes));
        CUDA_TRY(cudaMemsetAsync(self.buffer[buffer], 0, bytes, self.stream));
        self.buffer_bytes[buffer] = bytes;
    }
    *data = self.buffer[buffer];
    return STATUS_OK;
}

enum status cuda_device_check(const char *operation, struct stream *stream)
{
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess && self.syncs && !self.is_capturing)
        error = cudaStreamSynchronize(cuda_stream(stream));
    if (error != cudaSuccess)
        FAIL(STATUS_DEVICE, "GPU %d: %s: %s%s", self.device, operation, cudaGetErrorString(error),
             self.syncs ? "" : " (LATENTRANK_DEBUG_SYNC=1 names the operation that failed)");
    return STATUS_OK;
}

static void free_memory(struct free_memory *memory)
{
    size_t left = 0, total = 0;
    *memory = (struct free_memory){.own = INT64_MAX, .shared = INT64_MAX};
    if (cudaMemGetInfo(&left, &total) != cudaSuccess)
        return;
    memory->own = (int64_t)left;
    memory->shared = (int64_t)left * self.n_devices; /* as if the GPUs of a node were alike */
}

static enum status allocate(void **data, size_t bytes)
{
    void *memory = NULL;
    if (bytes > 0 && cudaMalloc(&memory, bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        FAIL(STATUS_NO_MEMORY, "GPU %d has no %zu bytes of memory left", self.device, bytes);
    }
    if (bytes > 0)
        CUDA_TRY(cudaMemsetAsync(memory, 0, bytes, self.stream));
    *data = memory;
    return STATUS_OK;
}

static void release(void *data, size_t bytes)
{
    (void)bytes;
    (void)cudaFree(data);
}

static enum status copy_in(void *device, const void *host, size_t bytes, struct stream *stream)
{
    self.copies++;
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda_stream(stream)));
    return STATUS_OK;
}

static enum status copy_out(void *host, const void *device, size_t bytes, struct stream *stream)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda_stream(stream)));
    return STATUS_OK;
}

/* Operations between processes wait on the device for ever when one of them has failed, so there the stream
 * is asked again and again, and the group now and then. */
static enum status synchronize(struct stream *stream)
{
    enum { LOOKS = 1024 }; /* of about 1 us */
    if (!cuda_comm_is_open()) {
        CUDA_TRY(cudaStreamSynchronize(cuda_stream(stream)));
        return STATUS_OK;
    }
    for (unsigned look = 1;; look++) {
        cudaError_t error = cudaStreamQuery(cuda_stream(stream));
        if (error == cudaSuccess)
            return STATUS_OK;
        if (error != cudaErrorNotReady)
            CUDA_TRY(error);
        (void)cudaGetLastError(); /* not ready is no error, but may be kept as one */
        if (look % LOOKS == 0)
            TRY(cuda_comm_check());
        sched_yield();
    }
}

static enum status graph_begin(struct stream *stream)
{
    cudaError_t error =
        cudaStreamBeginCapture(cuda_stream(stream), cudaStreamCaptureModeThreadLocal);
    if (error == cudaErrorNotSupported)
        FAIL(STATUS_UNSUPPORTED, "GPU %d keeps no graphs", self.device);
    CUDA_TRY(error);
    self.is_capturing = 1;
    return STATUS_OK;
}

static enum status graph_end(void **graph, struct stream *stream)
{
    cudaGraph_t captured = NULL;
    cudaGraphExec_t executable = NULL;
    self.is_capturing = 0;
    CUDA_TRY(cudaStreamEndCapture(cuda_stream(stream), &captured));
    cudaError_t error = cudaGraphInstantiate(&executable, captured, 0);
    (void)cudaGraphDestroy(captured);
    CUDA_TRY(error);
    *graph = executable;
    return STATUS_OK;
}

static enum status graph_launch(void *graph, struct stream *stream)
{
    CUDA_TRY(cudaGraphLaunch((cudaGraphExec_t)graph, cuda_stream(stream)));
    return STATUS_OK;
}

static void graph_close(void *graph)
{
    if (graph != NULL)
        (void)cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

const struct device_ops cuda_device_ops = {
    .name = "cuda",
    .free_memory = free_memory,
    .allocate = allocate,
    .release = release,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .synchronize = synchronize,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_launch = graph_launch,
    .graph_close = graph_close,
};

static enum status allocate_host(void **data, size_t bytes)
{
    void *memory = NULL;
    if (bytes > 0 && cudaMallocHost(&memory, bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        FAIL(STATUS_NO_MEMORY, "the system has no %zu bytes of page-locked memory left", bytes);
    }
    if (bytes > 0)
        memset(memory, 0, bytes);
    *data = memory;
    return STATUS_OK;
}

static void release_host(void *data, size_t bytes)
{
    (void)bytes;
    (void)cudaFreeHost(data);
}

/* Page-locked host memory. */
static const struct device_ops cuda_host_ops = {
    .name = "host", .is_host = 1, .allocate = allocate_host, .release = release_host};

enum status latentrank_cuda_open(struct backend *backend, int local_rank)
{
    TRY(cuda_device_open(local_rank));
    backend->device = &cuda_device_ops;
    backend->host = &cuda_host_ops;
    backend->ops = &cuda_ops;
    backend->find_comm = cuda_comm_find;
    backend->stream = (struct stream *)(void *)self.stream;
    return STATUS_OK;
}
