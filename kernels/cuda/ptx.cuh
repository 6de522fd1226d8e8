/* ptx.cuh - every PTX instruction that kernels use, each behind one function.
 *
 * Kernels hold no asm of their own: the same source then runs in the emulator
 * of tests/cuda_emulator, whose functions of these names take the place of the
 * instructions.  test_ptx.cu there states what each of them does.
 *
 * Rules for kernels: dynamic shared memory only; launch() only; no
 * cooperative groups; whole warps where an instruction takes a warp.
 */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#define DEVICE static __device__ __forceinline__

#ifndef __CUDACC__
#include "tests/cuda_emulator/ptx_host.cuh"
#else

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <stdint.h>

/* type *name = the block's dynamic shared memory */
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_[];                             \
    type *name = reinterpret_cast<type *>(dynamic_shared_)

template <class... P, class... A>
static inline cudaError_t launch_with(int overlaps, void (*kernel)(P...), dim3 grid, dim3 block,
                                      size_t shared_bytes, cudaStream_t stream, A &&...arguments)
{
    if (shared_bytes > 48 * 1024) {
        cudaError_t error = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (error != cudaSuccess)
            return error;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = (unsigned)overlaps;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

/* After all that the stream had before. */
template <class... P, class... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                 cudaStream_t stream, A &&...arguments)
{
    return launch_with(0, kernel, grid, block, shared_bytes, stream,
                       static_cast<A &&>(arguments)...);
}

/* It may begin when all blocks of the kernel before have called dependents_launch or ended: it must call
 * dependency_wait before it touches memory that others write or read. */
template <class... P, class... A>
static inline cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block,
                                           size_t shared_bytes, cudaStream_t stream,
                                           A &&...arguments)
{
    return launch_with(1, kernel, grid, block, shared_bytes, stream,
                       static_cast<A &&>(arguments)...);
}

/* The address in shared memory, as instructions and descriptors take it. */
DEVICE uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* The 128-byte swizzle: bits 4-6 of an address in shared memory, exclusive or with bits 7-9. */
DEVICE uint32_t swizzle_128(uint32_t address)
{
    return address ^ (address >> 3 & 0x70u);
}

/* Copies of single threads: 16 bytes, both addresses 16-byte aligned; zeros when not `valid`. */

DEVICE void cp_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most N groups of this thread are on their way. */
template <int N> DEVICE void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Matrices of 8 x 8 16-bit numbers.  Lane 8 i + r brings the address of row r of matrix i, 16-byte aligned;
 * lane 4 r + c gets numbers 2 c and 2 c + 1 of row r of each (trans: of column r). */

DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void stmatrix_x4(void *row, const uint32_t (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
DEVICE void stmatrix_x4_trans(void *row, const uint32_t (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
DEVICE void stmatrix_x2(void *row, const uint32_t (&r)[2])
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1])
        : "memory");
}
DEVICE void stmatrix_x2_trans(void *row, const uint32_t (&r)[2])
{
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1])
        : "memory");
}

/* d[16, 8] += a[16, 16] . b[8, 16]^T, a and b as ldmatrix gives them. */
DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* mbarriers: a phase ends when `count` arrivals and all expected bytes have come. */

DEVICE void mbarrier_init(uint64_t *bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count)
                 : "memory");
}
/* After the last init, before the block's barrier: makes them visible to tensor copies. */
DEVICE void mbarrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEVICE void mbarrier_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
DEVICE void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
        "r"(bytes)
        : "memory");
}
/* Until the phase of this parity has ended; 1 passes at once on a fresh mbarrier. */
DEVICE void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
    uint32_t is_over;
    do
        asm volatile("{\n"
                     ".reg .pred is_over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 is_over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, is_over;\n"
                     "}"
                     : "=r"(is_over)
                     : "r"(shared_address(bar)), "r"(parity)
                     : "memory");
    while (!is_over);
}

/* Tensor copies: boxes of 64 columns x box_rows rows of bf16, 128-byte swizzle, zeros beyond the edges. */

struct alignas(64) tensor_map {
    uint64_t opaque[16];
};
static_assert(sizeof(tensor_map) == sizeof(CUtensorMap), "tensor_map is a CUtensorMap");

static inline cudaError_t tensor_map_encode(tensor_map *map, int dimensions, const void *data,
                                            const cuuint64_t *size, const cuuint64_t *stride_bytes,
                                            int box_rows)
{
    void *function = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                         cudaEnableDefault, &found);
    if (error != cudaSuccess)
        return error;
    if (found != cudaDriverEntryPointSuccess || function == NULL)
        return cudaErrorNotSupported;
    const cuuint32_t box[3] = {64, (cuuint32_t)box_rows, 1}, steps[3] = {1, 1, 1};
    CUresult result = ((decltype(&cuTensorMapEncodeTiled))function)(
        (CUtensorMap *)map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)dimensions,
        const_cast<void *>(data), size, stride_bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, /* 256B costs 8% of decode attention on H200 */
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* data[rows, columns] and data[planes, rows, columns], strides in elements, multiples of 8; data 16-byte
 * aligned; no count 0. */
static inline cudaError_t tensor_map_2d(tensor_map *map, const void *data, int64_t columns,
                                        int64_t rows, int64_t row_stride, int box_rows)
{
    const cuuint64_t size[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t stride[1] = {(cuuint64_t)row_stride * 2};
    return tensor_map_encode(map, 2, data, size, stride, box_rows);
}
static inline cudaError_t tensor_map_3d(tensor_map *map, const void *data, int64_t columns,
                                        int64_t rows, int64_t planes, int64_t row_stride,
                                        int64_t plane_stride, int box_rows)
{
    const cuuint64_t size[3] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)planes};
    const cuuint64_t stride[2] = {(cuuint64_t)row_stride * 2, (cuuint64_t)plane_stride * 2};
    return tensor_map_encode(map, 3, data, size, stride, box_rows);
}

/* One thread starts it; `shared` 1024-byte aligned; x a multiple of 8 (an H200 takes others for an illegal
 * instruction); box_rows * 128 bytes come to `bar`. */
DEVICE void tma_load_2d(void *shared, const tensor_map *map, uint64_t *bar, int x, int y)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y)
                 : "memory");
}
DEVICE void tma_load_3d(void *shared, const tensor_map *map, uint64_t *bar, int x, int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

/* The same for memory that is read once: it is the first to leave the L2 cache. */
DEVICE void tma_load_2d_once(void *shared, const tensor_map *map, uint64_t *bar, int x, int y)
{
    const uint64_t evict_first = 0x12f0000000000000u; /* as createpolicy makes it */
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "l"(evict_first)
                 : "memory");
}
/* Has the map at hand before its first use. */
DEVICE void tensor_map_prefetch(const tensor_map *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Between a thread's own writes to shared memory and their reading by wgmma (or a tensor copy). */
DEVICE void fence_proxy_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Barriers 1 to 15 of some warps. */
DEVICE void named_barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_barrier_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Products of a warpgroup: d[64, N] (+)= a[64, 16] . b[N, 16]^T, bf16 to f32. */

/* Before the first product, and after other code has touched accumulators or a's registers. */
DEVICE void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most N groups are on their way; only then may accumulators be read. */
template <int N> DEVICE void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* The compiler does not see that a product writes d later: this keeps it from moving uses of d across. */
template <int COUNT> DEVICE void wgmma_pin(float (&d)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* An operand in shared memory with the 128-byte swizzle, its groups of 8 rows of 128 bytes at multiples of
 * 1024 bytes.  K-major: a row is one of M or N, stride_bytes is from 8 rows to the next 8, leading_bytes is
 * not used.  Transposed: a row is one k with 64 of M or N, stride_bytes is from 8 k to the next 8,
 * leading_bytes from 64 of M or N to the next 64. */
DEVICE uint64_t wgmma_descriptor(const void *shared, uint32_t leading_bytes, uint32_t stride_bytes)
{
    return (uint64_t)(shared_address(shared) >> 4 & 0x3fff) |
           (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | (uint64_t)1 << 62;
}

/* The registers of an instruction, written out: their names in its text, and d[i] as operands. */
#define TEXT_8  "%0,%1,%2,%3,%4,%5,%6,%7"
#define TEXT_16 TEXT_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define TEXT_32 TEXT_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TEXT_64                                                                                    \
    TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                     \
            ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TEXT_128                                                                                   \
    TEXT_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"                     \
            ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"                     \
            ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"         \
            ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SUMS_4(i)   "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SUMS_8(i)   SUMS_4(i), SUMS_4((i) + 4)
#define SUMS_16(i)  SUMS_8(i), SUMS_8((i) + 8)
#define SUMS_32(i)  SUMS_16(i), SUMS_16((i) + 16)
#define SUMS_64(i)  SUMS_32(i), SUMS_32((i) + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64((i) + 64)

/* `a` to `tb`: the names of the operands that follow the accumulators */
#define WGMMA_SS(n, count, a, b, flag, ta, tb)                                                     \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " flag ", 0;\n"                           \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" TEXT_##count         \
                 "}, " a ", " b ", adds, 1, 1, " ta ", " tb ";\n}"                                 \
                 : SUMS_##count(0)                                                                 \
                 : "l"(a_descriptor), "l"(b_descriptor), "r"(accumulate), "n"(TRANS_A),            \
                   "n"(TRANS_B))
#define WGMMA_RS(n, count, a0, a1, a2, a3, b, flag, tb)                                            \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " flag ", 0;\n"                           \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" TEXT_##count         \
                 "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", adds, 1, 1, " tb ";\n}"              \
                 : SUMS_##count(0)                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_descriptor), "r"(accumulate), \
                   "n"(TRANS_B))

/* `accumulate` 0: d is set. */
template <int N, int TRANS_A, int TRANS_B>
DEVICE void wgmma_ss(float (&d)[N / 2], uint64_t a_descriptor, uint64_t b_descriptor,
                     int accumulate)
{
    static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "wgmma_ss: N");
    if constexpr (N == 16)
        WGMMA_SS(16, 8, "%8", "%9", "%10", "%11", "%12");
    else if constexpr (N == 32)
        WGMMA_SS(32, 16, "%16", "%17", "%18", "%19", "%20");
    else if constexpr (N == 64)
        WGMMA_SS(64, 32, "%32", "%33", "%34", "%35", "%36");
    else if constexpr (N == 128)
        WGMMA_SS(128, 64, "%64", "%65", "%66", "%67", "%68");
    else
        WGMMA_SS(256, 128, "%128", "%129", "%130", "%131", "%132");
}

/* a as the registers of mma_m16n8k16_bf16 for the 16 rows of each warp */
template <int N, int TRANS_B>
DEVICE void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_descriptor,
                     int accumulate)
{
    static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "wgmma_rs: N");
    if constexpr (N == 16)
        WGMMA_RS(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14");
    else if constexpr (N == 32)
        WGMMA_RS(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22");
    else if constexpr (N == 64)
        WGMMA_RS(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38");
    else if constexpr (N == 128)
        WGMMA_RS(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70");
    else
        WGMMA_RS(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134");
}

#undef WGMMA_SS
#undef WGMMA_RS
#undef TEXT_8
#undef TEXT_16
#undef TEXT_32
#undef TEXT_64
#undef TEXT_128
#undef SUMS_4
#undef SUMS_8
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
#undef SUMS_128

/* 2^x, 2 ulp; results below 2^-126 are 0 */
DEVICE float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Registers a thread, of all warps of a warpgroup. */
template <int N> DEVICE void registers_raise()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> DEVICE void registers_lower()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* Where the launch allows overlap: the next kernel may begin; the results of the one before are there. */
DEVICE void dependents_launch()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
DEVICE void dependency_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

#endif
#endif
