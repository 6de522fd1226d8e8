/* bench.h - what the benches of CUDA kernels share: random memory, and times of repeated graphs.
 *
 * A time is that of one call in a graph of many, over other memory each time, so
 * that the L2 cache does not help: median of 7 runs.  The card cools for a
 * moment before.  Data are random: zeros are faster. */
#ifndef TESTS_BENCH_CUDA_BENCH_H
#define TESTS_BENCH_CUDA_BENCH_H

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        cudaError_t error_ = (cudaError_t)(call);                                                  \
        if (error_ != cudaSuccess) {                                                               \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { BENCH_RUNS = 7, BENCH_COOLING_US = 100000 };
static const size_t bench_l2_bytes = (size_t)300
                                     << 20; /* copies of data to go round, several times the L2 */

static __global__ void bench_fill(uint32_t *to, size_t count, uint32_t mask, uint32_t bits)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u + 12345;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        to[i] = ((x ^ x >> 16) & mask) | bits;
    }
}

/* Memory of random words, of which `mask` are random bits and `bits` set. */
static void *bench_random(size_t bytes, uint32_t mask, uint32_t bits)
{
    void *memory;
    CUDA(cudaMalloc(&memory, bytes + 64));
    bench_fill<<<4096, 256>>>((uint32_t *)memory, bytes / 4 + 16, mask, bits);
    CUDA(cudaDeviceSynchronize());
    return memory;
}
/* bf16 numbers of sizes 2^-7 to 2. */
static void *bench_random_bf16(size_t count)
{
    return bench_random(count * 2, 0x83ff83ffu, 0x3c003c00u);
}

static int bench_copies(size_t bytes, size_t available)
{
    size_t copies = 1 + bench_l2_bytes / (bytes > 0 ? bytes : 1);
    if (copies > available / bytes)
        copies = available / bytes;
    return copies < 1 ? 1 : copies > 64 ? 64 : (int)copies;
}

static int by_time(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Microseconds of one of `calls` calls of work(i, stream). */
template <class F> static double bench_time(int calls, F work)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t repeated;
    cudaEvent_t begin, end;
    float ms[BENCH_RUNS];
    CUDA(cudaStreamCreate(&stream));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; i++)
        work(i, stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&repeated, graph, 0));
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    CUDA(cudaGraphLaunch(repeated, stream));
    CUDA(cudaStreamSynchronize(stream));
    usleep(BENCH_COOLING_US);
    for (int i = 0; i < BENCH_RUNS; i++) {
        CUDA(cudaEventRecord(begin, stream));
        CUDA(cudaGraphLaunch(repeated, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaEventElapsedTime(&ms[i], begin, end));
    }
    qsort(ms, BENCH_RUNS, sizeof ms[0], by_time);
    CUDA(cudaGraphExecDestroy(repeated));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(stream));
    return (double)ms[BENCH_RUNS / 2] * 1e3 / calls;
}

/* GB/s of a device-to-device copy, read and written bytes counted. */
static double bench_copy_gb_s()
{
    const size_t bytes = (size_t)2 << 30;
    char *from, *to;
    CUDA(cudaMalloc((void **)&from, bytes));
    CUDA(cudaMalloc((void **)&to, bytes));
    CUDA(cudaMemset(from, 1, bytes));
    double us = bench_time(1, [&](int, cudaStream_t stream) {
        CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
    });
    CUDA(cudaFree(from));
    CUDA(cudaFree(to));
    return 2.0 * (double)bytes / us / 1e3;
}

static int bench_processors()
{
    struct cudaDeviceProp properties;
    CUDA(cudaGetDeviceProperties(&properties, 0));
    return properties.multiProcessorCount;
}

#endif
