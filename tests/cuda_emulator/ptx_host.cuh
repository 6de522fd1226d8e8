/* ptx_host.cuh - what the wrappers of kernels/cuda/ptx.cuh do, on the host.
 *
 * Written from the PTX manual; test_ptx.cu compares them with plain
 * computations here, and the instructions with the same ones on a GPU.
 */
#ifndef TESTS_CUDA_EMULATOR_PTX_HOST_CUH
#define TESTS_CUDA_EMULATOR_PTX_HOST_CUH

#include "tests/cuda_emulator/emulator.h"

#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(emulator::block->shared)

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, A &&...arguments)
{
    auto call = [=] { kernel(static_cast<P>(arguments)...); };
    using call_type = decltype(call);
    auto run = [=] {
        call_type own = call;
        return emulator::launch_body((const void *)kernel, grid, block, shared_bytes,
                                     [](void *f) { (*static_cast<call_type *>(f))(); }, &own);
    };
    if (!emulator::stream_keeps(stream))
        return run();
    emulator::stream_keep(stream, [=] {
        if (run() != cudaSuccess)
            emulator::misuse("a graph has a kernel that cannot be launched");
    });
    return cudaSuccess;
}

template <class... P, class... A>
cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                             cudaStream_t stream, A &&...arguments)
{
    return launch(kernel, grid, block, shared_bytes, stream, static_cast<A &&>(arguments)...);
}

static inline uint32_t shared_address(const void *pointer)
{
    return emulator::shared_offset(pointer, "shared_address");
}

/* The 128-byte swizzle: bits 4-6 of an address in shared memory, exclusive or with bits 7-9. */
static inline uint32_t swizzle_128(uint32_t address)
{
    return address ^ (address >> 3 & 0x70u);
}

/* Copies of single threads */

void cp_async_16(void *shared, const void *global, bool valid);
void cp_async_commit();
namespace emulator
{
void copies_wait(int groups_left);
}
template <int N> void cp_async_wait()
{
    emulator::copies_wait(N);
}

/* Matrices of a warp */

namespace emulator
{
void matrix_load(uint32_t *r, int count, bool is_transposed, const void *row);
void matrix_store(void *row, int count, bool is_transposed, const uint32_t *r);
} // namespace emulator
static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    emulator::matrix_load(r, 4, false, row);
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    emulator::matrix_load(r, 4, true, row);
}
static inline void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    emulator::matrix_load(r, 2, false, row);
}
static inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    emulator::matrix_load(r, 2, true, row);
}
static inline void stmatrix_x4(void *row, const uint32_t (&r)[4])
{
    emulator::matrix_store(row, 4, false, r);
}
static inline void stmatrix_x4_trans(void *row, const uint32_t (&r)[4])
{
    emulator::matrix_store(row, 4, true, r);
}
static inline void stmatrix_x2(void *row, const uint32_t (&r)[2])
{
    emulator::matrix_store(row, 2, false, r);
}
static inline void stmatrix_x2_trans(void *row, const uint32_t (&r)[2])
{
    emulator::matrix_store(row, 2, true, r);
}
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

/* mbarriers and tensor copies */

void mbarrier_init(uint64_t *bar, int count);
void mbarrier_init_fence();
void mbarrier_arrive(uint64_t *bar);
void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes);
void mbarrier_wait(uint64_t *bar, uint32_t parity);

struct alignas(64) tensor_map {
    uint64_t opaque[16];
};

namespace emulator
{
enum { BOX_COLUMNS = 64, TENSOR_MAP_MAGIC = 0x74656e73 };
struct tensor_map_contents {
    uint64_t magic;
    const uint16_t *data;
    int64_t columns, rows, planes, row_stride, plane_stride; /* strides in elements */
    int dimensions, box_rows;
};
void tensor_load(void *to, const tensor_map *map, uint64_t *bar, int dimensions, int x, int y,
                 int z);
} // namespace emulator

cudaError_t tensor_map_2d(tensor_map *map, const void *data, int64_t columns, int64_t rows,
                          int64_t row_stride, int box_rows);
cudaError_t tensor_map_3d(tensor_map *map, const void *data, int64_t columns, int64_t rows,
                          int64_t planes, int64_t row_stride, int64_t plane_stride, int box_rows);

static inline void tma_load_2d(void *shared, const tensor_map *map, uint64_t *bar, int x, int y)
{
    emulator::tensor_load(shared, map, bar, 2, x, y, 0);
}
static inline void tma_load_2d_once(void *shared, const tensor_map *map, uint64_t *bar, int x,
                                    int y)
{
    tma_load_2d(shared, map, bar, x, y);
}
static inline void tensor_map_prefetch(const tensor_map *map)
{
    (void)map;
}
static inline void tma_load_3d(void *shared, const tensor_map *map, uint64_t *bar, int x, int y,
                               int z)
{
    emulator::tensor_load(shared, map, bar, 3, x, y, z);
}

void fence_proxy_async();
static inline void named_barrier_sync(int id, int threads)
{
    emulator::barrier_sync(id, threads);
}
static inline void named_barrier_arrive(int id, int threads)
{
    emulator::barrier_arrive(id, threads);
}

/* Products of a warpgroup */

void wgmma_fence();
void wgmma_commit();
namespace emulator
{
void products_wait(int groups_left);
void product_issue(int n, float *d, const uint32_t *a_registers, uint64_t a, uint64_t b,
                   bool a_transposed, bool b_transposed, int accumulate);
} // namespace emulator
template <int N> void wgmma_wait()
{
    emulator::products_wait(N);
}
template <int COUNT> void wgmma_pin(float (&)[COUNT])
{
}
static inline uint64_t wgmma_descriptor(const void *shared, uint32_t leading_bytes,
                                        uint32_t stride_bytes)
{
    return (uint64_t)(shared_address(shared) >> 4 & 0x3fff) |
           (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | (uint64_t)1 << 62;
}
template <int N, int TRANS_A, int TRANS_B>
void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate)
{
    static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "wgmma_ss: N");
    emulator::product_issue(N, d, nullptr, a, b, TRANS_A != 0, TRANS_B != 0, accumulate);
}
template <int N, int TRANS_B>
void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate)
{
    static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "wgmma_rs: N");
    emulator::product_issue(N, d, a, 0, b, false, TRANS_B != 0, accumulate);
}

/* Numbers of registers, and kernels that follow each other: nothing to do */

template <int N> void registers_raise()
{
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg");
}
template <int N> void registers_lower()
{
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg");
}
static inline float exp2_approx(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y; /* NaN stays */
}

static inline void dependents_launch()
{
}
static inline void dependency_wait()
{
}

#endif
