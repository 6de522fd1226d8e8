/* runtime.cpp - the part of the CUDA runtime that host code of the tests calls.  All of it is synchronous, but
 * for what a stream keeps: a graph is a list of things to do.
 *
 * CUDA_EMULATOR_DEVICES=N: so many devices, all in this process's memory (1).
 * CUDA_EMULATOR_GRAPHS=off: streams keep nothing. */
#include "tests/cuda_emulator/engine.h"

#include <time.h>

static __thread cudaError_t last_error;
static __thread int current_device;
static __thread int n_capturing; /* streams of this thread */

struct CUgraph_st {
    std::vector<std::function<void()>> operations;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> operations;
};
struct CUstream_st {
    CUgraph_st *kept; /* while it captures */
};
struct CUevent_st {
    double ms;
};

static double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static cudaError_t set_error(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

bool emulator::stream_keeps(cudaStream_t stream)
{
    return stream != nullptr && stream->kept != nullptr;
}

void emulator::stream_keep(cudaStream_t stream, const std::function<void()> &operation)
{
    stream->kept->operations.push_back(operation);
}

/* What a thread must not do while one of its streams captures. */
static bool is_forbidden()
{
    if (n_capturing > 0)
        set_error(cudaErrorStreamCaptureUnsupported);
    return n_capturing > 0;
}

static int n_devices()
{
    const char *text = getenv("CUDA_EMULATOR_DEVICES");
    return text != nullptr ? atoi(text) : 1;
}

void emulator::error_record(cudaError_t error)
{
    set_error(error);
}

extern "C" {

/* Device memory begins as NaNs, so that what is read before it is written shows. */
cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    if (is_forbidden())
        return cudaErrorStreamCaptureUnsupported;
    if (posix_memalign(memory, 256, bytes > 0 ? bytes : 1) != 0)
        return set_error(cudaErrorMemoryAllocation);
    memset(*memory, 0xff, bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory)
{
    if (is_forbidden())
        return cudaErrorStreamCaptureUnsupported;
    free(memory);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    return cudaMalloc(memory, bytes);
}
cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind)
{
    if (bytes > 0)
        memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (emulator::stream_keeps(stream)) {
        emulator::stream_keep(stream, [=] { cudaMemcpy(to, from, bytes, kind); });
        return cudaSuccess;
    }
    return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    if (bytes > 0)
        memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    if (emulator::stream_keeps(stream)) {
        emulator::stream_keep(stream, [=] { cudaMemset(to, value, bytes); });
        return cudaSuccess;
    }
    return cudaMemset(to, value, bytes);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = (size_t)1 << 30;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = new CUstream_st();
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return emulator::stream_keeps(stream) ? set_error(cudaErrorStreamCaptureUnsupported)
                                          : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    *status = emulator::stream_keeps(stream) ? cudaStreamCaptureStatusActive
                                             : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    if (emulator::stream_keeps(stream))
        emulator::stream_keep(stream, [=] { function(argument); });
    else
        function(argument);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new CUevent_st();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    event->ms = now_ms();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t)
{
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(end->ms - begin->ms);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    const char *graphs = getenv("CUDA_EMULATOR_GRAPHS");
    if (graphs != nullptr && strcmp(graphs, "off") == 0)
        return cudaErrorNotSupported;
    if (stream == nullptr || stream->kept != nullptr)
        return set_error(cudaErrorIllegalState);
    stream->kept = new CUgraph_st();
    n_capturing++;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = nullptr;
    if (stream == nullptr || stream->kept == nullptr)
        return set_error(cudaErrorIllegalState);
    *graph = stream->kept;
    stream->kept = nullptr;
    n_capturing--;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    *executable = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    if (emulator::stream_keeps(stream))
        return set_error(cudaErrorStreamCaptureUnsupported);
    for (const std::function<void()> &operation : executable->operations)
        operation();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void)
{
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count)
{
    *count = n_devices();
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= n_devices())
        return set_error(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *name, int size, int device)
{
    snprintf(name, (size_t)size, "0000:%02x:00.0", (unsigned)device + 1);
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int)
{
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "CUDA emulator");
    properties->major = 9;
    properties->multiProcessorCount = 2;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->sharedMemPerMultiprocessor = 228 << 10;
    properties->regsPerBlock = 65536;
    properties->totalGlobalMem = (size_t)1 << 30;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 2;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 << 10;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = 32;
        return cudaSuccess;
    default:
        return set_error(cudaErrorInvalidValue);
    }
}
cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int)
{
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    default:
        return "cudaError";
    }
}
const char *cudaGetErrorString(cudaError_t error)
{
    return cudaGetErrorName(error);
}
}
