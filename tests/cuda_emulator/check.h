/* check.h - what the tests of CUDA kernels share: groups of checks, memory of the device, random numbers.
 *
 * The same source runs in the emulator and, compiled by nvcc, on a GPU.  In
 * the emulator each group runs in all modes: late, early, 8 random seeds.
 */
#ifndef TESTS_CUDA_EMULATOR_CHECK_H
#define TESTS_CUDA_EMULATOR_CHECK_H

#include "kernels/cuda/ptx.cuh"
#include "tests/random.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_group {
    const char *name;
    void (*run)();
};

static int n_checks, n_failed, n_group_checks, n_group_failed;
static char check_mode[32];

/* Counts one check; says the first few failures of a group. */
__attribute__((format(printf, 2, 3))) static void check(bool is_good, const char *format, ...)
{
    n_group_checks++;
    if (is_good)
        return;
    if (n_group_failed++ >= 5)
        return;
    va_list arguments;
    va_start(arguments, format);
    printf("  failed%s: ", check_mode);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

#define CUDA(call)                                                                                 \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess) {                                                               \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Memory of the host and of the device, freed at the end of the group.  Both begin with all bits 1: NaN. */
enum { BUFFERS = 4096 };
static void *device_buffers[BUFFERS], *host_buffers[BUFFERS];
static int n_device_buffers, n_host_buffers;

template <class T> static T *host_new(int64_t count)
{
    size_t bytes = (size_t)(count > 0 ? count : 1) * sizeof(T);
    T *memory = (T *)malloc(bytes);
    if (n_host_buffers == BUFFERS || memory == NULL)
        abort();
    memset((void *)memory, 0xff, bytes);
    host_buffers[n_host_buffers++] = memory;
    return memory;
}

template <class T> static T *device_new(int64_t count)
{
    void *memory = NULL;
    CUDA(cudaMalloc(&memory, (size_t)(count > 0 ? count : 1) * sizeof(T)));
    CUDA(cudaMemset(memory, 0xff, (size_t)(count > 0 ? count : 1) * sizeof(T)));
    if (n_device_buffers == BUFFERS)
        abort();
    device_buffers[n_device_buffers++] = memory;
    return (T *)memory;
}
template <class T> static T *device_copy(const T *from, int64_t count)
{
    T *to = device_new<T>(count);
    if (count > 0)
        CUDA(cudaMemcpy(to, from, (size_t)count * sizeof(T), cudaMemcpyHostToDevice));
    return to;
}
template <class T> static void host_copy(T *to, const T *from, int64_t count)
{
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    if (count > 0)
        CUDA(cudaMemcpy(to, from, (size_t)count * sizeof(T), cudaMemcpyDeviceToHost));
}
static void free_all()
{
    while (n_host_buffers > 0)
        free(host_buffers[--n_host_buffers]);
    while (n_device_buffers > 0)
        CUDA(cudaFree(device_buffers[--n_device_buffers]));
}

static void run_once(const struct check_group *group)
{
    group->run();
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    free_all();
}

static void run_group(const struct check_group *group)
{
    n_group_checks = n_group_failed = 0;
#ifdef __CUDACC__
    run_once(group);
#else
#ifdef __SANITIZE_THREAD__ /* sees races whatever the order */
    enum { ALL_MODES = 4 };
#else
    enum { ALL_MODES = 10 };
#endif
    const int modes = getenv("CUDA_EMULATOR") == NULL ? (int)ALL_MODES : 1;
    for (int mode = 0; mode < modes; mode++) {
        if (modes > 1) {
            static const char *const names[2] = {" (late)", " (early)"};
            emulator::mode_set(mode == 0   ? emulator::ASYNC_LATE
                               : mode == 1 ? emulator::ASYNC_EARLY
                                           : emulator::ASYNC_RANDOM,
                               (unsigned)mode - 1);
            if (mode < 2)
                snprintf(check_mode, sizeof check_mode, "%s", names[mode]);
            else
                snprintf(check_mode, sizeof check_mode, " (seed %d)", mode - 1);
        }
        run_once(group);
    }
#endif
    printf("%-6s %s: %d checks, %d failed\n", n_group_failed == 0 ? "ok" : "FAILED", group->name,
           n_group_checks, n_group_failed);
    n_checks += n_group_checks;
    n_failed += n_group_failed;
}

/* The status for main to return. */
static int run_groups(const struct check_group *groups, size_t count)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < count; i++)
        run_group(&groups[i]);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0 || n_checks == 0;
}

#endif
