/* emulator.h - CUDA C++ kernels on the host: one fiber for each CUDA thread.
 *
 * A kernel's source is compiled as C++ by the host compiler.  NVIDIA's own
 * headers give the types; this file gives what nvcc would: threadIdx, warp
 * collectives, atomics.  PTX is in kernels/cuda/ptx.cuh, its host twins in
 * ptx_host.cuh.  README.md says what is modelled.
 */
#ifndef TESTS_CUDA_EMULATOR_EMULATOR_H
#define TESTS_CUDA_EMULATOR_EMULATOR_H

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <type_traits>

#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __shared__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
/* Static shared memory would be neither poisoned nor bounded: kernels use DYNAMIC_SHARED. */
#define __shared__ _Pragma("GCC error \"static shared memory is not emulated\"")

namespace emulator
{

struct thread_place {
    uint3 index;
    int number, lane, warp; /* in the block */
};

struct block_place {
    uint3 index;
    dim3 size, grid;
    unsigned char *shared; /* dynamic shared memory */
    size_t shared_bytes;
};

/* Who runs now; `block` is NULL outside of kernels. */
extern __thread const thread_place *thread;
extern __thread const block_place *block;

/* When asynchronous operations (cp.async, TMA, wgmma) happen: at the last moment that the kernel allows,
 * at once, or each as the dice of `seed` say; then warps and lanes also run in random order. */
enum async_mode { ASYNC_LATE, ASYNC_EARLY, ASYNC_RANDOM };

/* For the launches to come.  At first it is what the environment's CUDA_EMULATOR says: late, early, or the
 * number of a seed; late without it. */
void mode_set(enum async_mode mode, unsigned seed);

/* Reports a misuse, with the kernel, the block and the thread, and what all threads wait for; ends the
 * program with status EXIT_MISUSE. */
enum { EXIT_MISUSE = 3 };
[[noreturn]] __attribute__((format(printf, 1, 2))) void misuse(const char *format, ...);

/* Runs body(argument) once for each thread of each block. `kernel` names it in reports. */
cudaError_t launch_body(const void *kernel, dim3 grid, dim3 size, size_t shared_bytes,
                        void (*body)(void *), void *argument);

/* Whether the stream keeps what it is given, for a graph (runtime.cpp); then it is to be kept. */
bool stream_keeps(cudaStream_t stream);
void stream_keep(cudaStream_t stream, const std::function<void()> &operation);

/* What cudaGetLastError will say. */
void error_record(cudaError_t error);

/* The threads of `mask` of this warp meet: each brings `bytes` bytes, and all see what all brought.  `lead`,
 * if there, runs once, in the last thread to come, and may change the slots.  Meetings order no memory
 * unless they say so, as in CUDA.  The slots are valid until this thread's next meeting. */
enum { SLOT_BYTES = 64 };
struct slots {
    alignas(64) unsigned char of_lane[32][SLOT_BYTES];
};
typedef void lead_function(slots &all, uint32_t mask);
slots &warp_meet(uint32_t mask, const char *name, const void *input, size_t bytes,
                 lead_function *lead = nullptr, bool orders_memory = false);

/* Barrier `id`; threads = 0 means all of the block. */
void barrier_sync(int id, int threads);
void barrier_arrive(int id, int threads);

/* Lets others run: what a loop that waits for memory must call. */
void yield();

/* Where the kernels' shared memory begins in the address space of shared memory. */
enum { SHARED_BASE = 1024 };
uint32_t shared_offset(const void *pointer, const char *what);
/* The bytes at a shared address; misuse when they are not in the block's memory. */
unsigned char *shared_at(uint32_t address, size_t bytes, const char *what);

template <class T> T shuffle(uint32_t mask, T value, int from, const char *name)
{
    static_assert(sizeof(T) <= SLOT_BYTES && std::is_trivially_copyable<T>::value, "shuffled type");
    slots &all = warp_meet(mask, name, &value, sizeof value);
    if (!(mask >> from & 1))
        misuse("%s reads lane %d, which is not in mask %08x", name, from, mask);
    T result;
    memcpy(&result, all.of_lane[from], sizeof result);
    return result;
}

template <class T> T fetch(const slots &all, int lane)
{
    T value;
    memcpy(&value, all.of_lane[lane], sizeof value);
    return value;
}

template <class T, class F> T reduce(uint32_t mask, T value, const char *name, F join)
{
    slots &all = warp_meet(mask, name, &value, sizeof value);
    bool is_first = true;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1))
            continue;
        value = is_first ? fetch<T>(all, lane) : join(value, fetch<T>(all, lane));
        is_first = false;
    }
    return value;
}

template <class T, class F> T atomic(T *at, F change)
{
    T old, wanted;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do
        wanted = change(old);
    while (!__atomic_compare_exchange(at, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

} // namespace emulator

#define threadIdx (emulator::thread->index)
#define blockIdx  (emulator::block->index)
#define blockDim  (emulator::block->size)
#define gridDim   (emulator::block->grid)

static constexpr int warpSize = 32;

/* Warp and block */

static inline void __syncthreads()
{
    emulator::barrier_sync(0, 0);
}
static inline void __syncwarp(uint32_t mask = ~0u)
{
    emulator::warp_meet(mask, "__syncwarp", nullptr, 0, nullptr, true);
}
static inline void __threadfence()
{
#ifndef __SANITIZE_THREAD__ /* which knows no fences; it takes the blocks of a launch for ordered */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
static inline void __threadfence_block()
{
#ifndef __SANITIZE_THREAD__ /* which knows no fences; it takes the blocks of a launch for ordered */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
static inline void __threadfence_system()
{
    __threadfence();
}
static inline void __nanosleep(unsigned)
{
    emulator::yield();
}
template <class T> T __shfl_sync(uint32_t mask, T value, int from, int width = 32)
{
    int lane = emulator::thread->lane;
    return emulator::shuffle(mask, value, (lane & ~(width - 1)) | (from & (width - 1)),
                             "__shfl_sync");
}
template <class T> T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32)
{
    int lane = emulator::thread->lane, from = lane ^ bits;
    return emulator::shuffle(mask, value, from / width > lane / width ? lane : from,
                             "__shfl_xor_sync");
}
template <class T> T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32)
{
    int lane = emulator::thread->lane;
    bool is_inside = (lane & (width - 1)) + delta < width;
    return emulator::shuffle(mask, value, is_inside ? lane + delta : lane, "__shfl_down_sync");
}
template <class T> T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32)
{
    int lane = emulator::thread->lane;
    bool is_inside = (lane & (width - 1)) >= delta;
    return emulator::shuffle(mask, value, is_inside ? lane - delta : lane, "__shfl_up_sync");
}
static inline uint32_t __ballot_sync(uint32_t mask, int predicate)
{
    emulator::slots &all = emulator::warp_meet(mask, "__ballot_sync", &predicate, sizeof predicate);
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && emulator::fetch<int>(all, lane) != 0)
            bits |= 1u << lane;
    return bits;
}
static inline int __any_sync(uint32_t mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(uint32_t mask, int predicate)
{
    return __ballot_sync(mask, predicate) == mask;
}
template <class T> T __reduce_add_sync(uint32_t mask, T value)
{
    return emulator::reduce(mask, value, "__reduce_add_sync", [](T a, T b) { return T(a + b); });
}
template <class T> T __reduce_max_sync(uint32_t mask, T value)
{
    return emulator::reduce(mask, value, "__reduce_max_sync",
                            [](T a, T b) { return a > b ? a : b; });
}
template <class T> T __reduce_min_sync(uint32_t mask, T value)
{
    return emulator::reduce(mask, value, "__reduce_min_sync",
                            [](T a, T b) { return a < b ? a : b; });
}

/* Atomics: relaxed, as in CUDA */

template <class T> T atomicAdd(T *at, T value)
{
    return emulator::atomic(at, [=](T old) { return T(old + value); });
}
template <class T> T atomicMax(T *at, T value)
{
    return emulator::atomic(at, [=](T old) { return old > value ? old : value; });
}
template <class T> T atomicMin(T *at, T value)
{
    return emulator::atomic(at, [=](T old) { return old < value ? old : value; });
}
template <class T> T atomicExch(T *at, T value)
{
    return emulator::atomic(at, [=](T) { return value; });
}
template <class T> T atomicCAS(T *at, T expected, T value)
{
    return emulator::atomic(at, [=](T old) { return old == expected ? value : old; });
}

/* Arithmetic.  The approximate functions are exact here: compare with tolerances. */

#define __expf(x) expf(x) /* glibc declares functions of these names */
#define __logf(x) logf(x)
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __uint_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint32_t __float_as_uint(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __int_as_float(int bits)
{
    return __uint_as_float((uint32_t)bits);
}
static inline int __float_as_int(float value)
{
    return (int)__float_as_uint(value);
}
static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
/* Byte i is the byte of y:x that digit i of `selector` names; 8 in it repeats that byte's sign. */
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t digit = selector >> 4 * i & 15, byte = (uint32_t)(bytes >> 8 * (digit & 7)) & 0xff;
        if (digit & 8)
            byte = byte & 0x80 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}
static inline int __clz(int x)
{
    return x != 0 ? __builtin_clz((unsigned)x) : 32;
}
template <class T> T __ldg(const T *at)
{
    return *at;
}
template <class T> T __ldcs(const T *at)
{
    return *at;
}
template <class T> T __ldcg(const T *at)
{
    return *at;
}
template <class T> void __stcs(T *at, T value)
{
    *at = value;
}
template <class T> void __stcg(T *at, T value)
{
    *at = value;
}
template <class T> constexpr T min(T a, T b)
{
    return a < b ? a : b;
}
template <class T> constexpr T max(T a, T b)
{
    return a > b ? a : b;
}

#endif
