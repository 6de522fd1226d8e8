/* planted.cu - kernels with bugs, which the emulator must find, and the same kernels without, which must pass.
 *
 * Each bug runs in a process of its own, in every mode.  It is found when
 * the process reports a misuse, gives a wrong result, or is stopped by a
 * sanitizer; the table says in which modes at least.
 */
#include "kernels/cuda/ptx.cuh"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef __nv_bfloat16 bf16;

enum planted {
    NO_BUG,
    /* sum_kernel */
    SUM_WITHOUT_BARRIER,
    SUM_BARRIER_IN_BRANCH,
    SUM_BUFFER_REUSED,
    SUM_READS_BEYOND,
    SUM_SHUFFLE_DIVERGED,
    SUM_SHUFFLE_OUTSIDE_MASK,
    SUM_LANES_GONE,
    /* copy_kernel */
    COPY_WAITS_TOO_LITTLE,
    COPY_STAGE_OVERWRITTEN,
    COPY_NOT_WAITED_FOR,
    COPY_MISALIGNED,
    COPY_OUTSIDE,
    /* product_kernel */
    PRODUCT_PRODUCER_IGNORES_EMPTY,
    PRODUCT_WRONG_BYTES,
    PRODUCT_IGNORES_FULL,
    PRODUCT_FREES_TOO_EARLY,
    PRODUCT_READS_TOO_EARLY,
    PRODUCT_WRITES_ACCUMULATORS,
    PRODUCT_WITHOUT_FENCE,
    PRODUCT_NOT_WAITED_FOR,
    PRODUCT_TOO_MANY_ARRIVALS,
    PRODUCT_WITHOUT_INIT,
    PRODUCT_HALF_A_WARPGROUP,
    PRODUCT_MISALIGNED_TILE,
    PRODUCT_ODD_COLUMN,
    PRODUCT_LANES_DISAGREE,
    PRODUCT_INIT_NOT_FENCED,
    /* written_kernel */
    WRITTEN_WITHOUT_FENCE,
    /* barrier_kernel */
    BARRIER_COUNT_TOO_HIGH,
    BARRIER_COUNTS_DIFFER,
    BARRIER_HALF_A_WARP
};

/* Inverse root mean square, then the row's softmax: sums over a block, in shared memory. */

enum { SUM_THREADS = 128, SUM_WARPS = SUM_THREADS / 32, SUM_N = 512 };

template <int BUG> static __device__ float block_sum(float *part, float value)
{
    int t = (int)threadIdx.x;
    uint32_t mask = BUG == SUM_SHUFFLE_OUTSIDE_MASK ? 0x0000ffffu : ~0u;
    if (BUG == SUM_SHUFFLE_OUTSIDE_MASK && t % 32 >= 16)
        return 0.0f;
    for (int bits = 16; bits > 0; bits /= 2) {
        if (BUG == SUM_SHUFFLE_DIVERGED && t % 32 == 5 && bits == 4)
            value += __shfl_down_sync(mask, value, bits);
        else
            value += __shfl_xor_sync(mask, value, bits);
    }
    if (t % 32 == 0)
        part[t / 32] = value;
    if (BUG != SUM_WITHOUT_BARRIER && BUG != SUM_BARRIER_IN_BRANCH)
        __syncthreads();
    if (t < 32 && BUG == SUM_BARRIER_IN_BRANCH)
        __syncthreads();
    float sum = 0;
    for (int i = 0; i < SUM_WARPS; i++)
        sum += part[i];
    if (BUG != SUM_BUFFER_REUSED)
        __syncthreads();
    return sum;
}

template <int BUG> static __global__ void sum_kernel(const float *x, float *y)
{
    DYNAMIC_SHARED(float, row);
    float *part = row + SUM_N, squares = 0, total = 0;
    int t = (int)threadIdx.x;
    if (BUG == SUM_LANES_GONE && t % 32 == 31)
        return;
    for (int i = t; i < SUM_N; i += SUM_THREADS)
        squares += x[i] * x[i];
    float factor = rsqrtf(block_sum<BUG>(part, squares) / SUM_N);
    for (int i = t; i < SUM_N; i += SUM_THREADS)
        total += row[i] = __expf(x[i] * factor);
    total = block_sum<BUG>(part, total);
    __syncthreads();
    for (int i = t; i < SUM_N; i += SUM_THREADS)
        y[i] = (BUG == SUM_READS_BEYOND ? row[i + SUM_WARPS + 1] : row[SUM_N - 1 - i]) / total;
}

template <int BUG> static double sum_error()
{
    float x[SUM_N], y[SUM_N], *device_x, *device_y;
    double squares = 0, total = 0, error = 0;
    for (int i = 0; i < SUM_N; i++) {
        x[i] = (float)((i * 37 + 11) % 101) / 50.0f - 1.0f;
        squares += x[i] * x[i];
    }
    double factor = 1 / sqrt(squares / SUM_N);
    for (int i = 0; i < SUM_N; i++)
        total += exp(x[i] * factor);
    cudaMalloc(&device_x, sizeof x);
    cudaMalloc(&device_y, sizeof y);
    cudaMemcpy(device_x, x, sizeof x, cudaMemcpyHostToDevice);
    launch(sum_kernel<BUG>, dim3(1), dim3(SUM_THREADS), sizeof x + SUM_WARPS * sizeof(float),
           (cudaStream_t)0, device_x, device_y);
    cudaMemcpy(y, device_y, sizeof y, cudaMemcpyDeviceToHost);
    for (int i = 0; i < SUM_N; i++) {
        double off = fabs(y[i] - exp(x[SUM_N - 1 - i] * factor) / total);
        error = off > error || off != off ? (off != off ? 1e30 : off) : error;
    }
    cudaFree(device_x);
    cudaFree(device_y);
    return error / 1e-6;
}

/* c[16, 8] = a[16, k] . b[8, k]^T for each of 4 warps' own b, k in steps of 16 through 2 stages of copies. */

enum { COPY_K = 128, COPY_STEPS = COPY_K / 16, COPY_WARPS = 4, COPY_ROWS = 16 + 8 * COPY_WARPS };
enum { COPY_STRIDE = 24 }; /* of rows in shared memory: ldmatrix without bank conflicts */

template <int BUG> static __global__ void copy_kernel(const bf16 *rows, float *c)
{
    DYNAMIC_SHARED(bf16, stages);
    int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    float d[4] = {0, 0, 0, 0};
    auto load = [&](int step) {
        for (int i = t; i < COPY_ROWS * 2; i += 32 * COPY_WARPS) {
            bf16 *to = stages + (step % 2 * COPY_ROWS + i / 2) * COPY_STRIDE + i % 2 * 8;
            if (BUG == COPY_MISALIGNED && step == 3)
                to += 2;
            if (BUG == COPY_OUTSIDE && step == 3)
                to += 2 * COPY_ROWS * COPY_STRIDE;
            cp_async_16(to, rows + (i / 2) * COPY_K + step * 16 + i % 2 * 8, true);
        }
        cp_async_commit();
    };
    load(0);
    for (int step = 0; step < COPY_STEPS; step++) {
        if (step + 1 < COPY_STEPS) {
            load(step + 1);
            cp_async_wait<BUG == COPY_WAITS_TOO_LITTLE ? 2 : 1>();
        } else if (BUG == COPY_NOT_WAITED_FOR) {
            return;
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const bf16 *stage = stages + step % 2 * COPY_ROWS * COPY_STRIDE;
        uint32_t a[4], b[2];
        ldmatrix_x4(a, stage + lane % 16 * COPY_STRIDE + lane / 16 * 8);
        ldmatrix_x2(b, stage + (16 + warp * 8 + lane % 8) * COPY_STRIDE + lane / 8 % 2 * 8);
        mma_m16n8k16_bf16(d, a, b[0], b[1]);
        if (BUG != COPY_STAGE_OVERWRITTEN)
            __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 * COPY_WARPS + warp * 8 + lane % 4 * 2 + i % 2] = d[i];
}

static double product_error(const bf16 *a, const bf16 *b, const float *c, int m, int n, int k)
{
    double error = 0;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++)
                sum +=
                    (double)__bfloat162float(a[i * k + l]) * (double)__bfloat162float(b[j * k + l]);
            double off = fabs(c[i * n + j] - sum);
            error = off > error || off != off ? (off != off ? 1e30 : off) : error;
        }
    return error;
}

static void fill(bf16 *x, int count)
{
    for (int i = 0; i < count; i++)
        x[i] = __float2bfloat16((float)((i * 2654435761u >> 7) % 17) - 8.0f);
}

template <int BUG> static double copy_error()
{
    static bf16 rows[COPY_ROWS * COPY_K];
    static float c[16 * 8 * COPY_WARPS];
    bf16 *device_rows;
    float *device_c;
    fill(rows, COPY_ROWS * COPY_K);
    cudaMalloc(&device_rows, sizeof rows);
    cudaMalloc(&device_c, sizeof c);
    cudaMemcpy(device_rows, rows, sizeof rows, cudaMemcpyHostToDevice);
    launch(copy_kernel<BUG>, dim3(1), dim3(32 * COPY_WARPS),
           2 * COPY_ROWS * COPY_STRIDE * sizeof(bf16), (cudaStream_t)0, device_rows, device_c);
    cudaMemcpy(c, device_c, sizeof c, cudaMemcpyDeviceToHost);
    cudaFree(device_rows);
    cudaFree(device_c);
    return product_error(rows, rows + 16 * COPY_K, c, 16, 8 * COPY_WARPS, COPY_K);
}

/* c[64, 64] = a[64, k] . b[64, k]^T: warp 4 loads tiles into a ring of 3, warps 0 to 3 multiply. */

enum { RING = 3, TILE_BYTES = 64 * 128, SLOT = 2 * TILE_BYTES, PRODUCT_STEPS = 8 };
enum { PRODUCT_K = PRODUCT_STEPS * 64 };

template <int BUG>
static __device__ void produce(unsigned char *ring, uint64_t *full, uint64_t *empty,
                               const tensor_map *a, const tensor_map *b)
{
    for (int step = 0; step < PRODUCT_STEPS; step++) {
        int s = step % RING, parity = step / RING & 1;
        if (BUG != PRODUCT_PRODUCER_IGNORES_EMPTY)
            mbarrier_wait(empty + s, (uint32_t)parity ^ 1);
        mbarrier_arrive_expect(full + s, BUG == PRODUCT_WRONG_BYTES ? SLOT + 16 : SLOT);
        unsigned char *to = ring + s * SLOT + (BUG == PRODUCT_MISALIGNED_TILE ? 128 : 0);
        tma_load_2d(to, a, full + s, step * 64 + (BUG == PRODUCT_ODD_COLUMN ? 4 : 0), 0);
        tma_load_2d(ring + s * SLOT + TILE_BYTES, b, full + s, step * 64, 0);
    }
}

template <int BUG>
static __global__ void product_kernel(const __grid_constant__ tensor_map a,
                                      const __grid_constant__ tensor_map b, float *c)
{
    DYNAMIC_SHARED(unsigned char, ring);
    uint64_t *full = (uint64_t *)(ring + RING * SLOT), *empty = full + RING;
    int t = (int)threadIdx.x;
    if (t == 0) {
        for (int i = 0; i < RING && BUG != PRODUCT_WITHOUT_INIT; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, BUG == PRODUCT_TOO_MANY_ARRIVALS ? 100 : 128);
        }
        if (BUG != PRODUCT_INIT_NOT_FENCED)
            mbarrier_init_fence();
    }
    __syncthreads();
    if (t >= 128) {
        if (t == 128)
            produce<BUG>(ring, full, empty, &a, &b);
        return;
    }
    float d[32];
    for (float &sum : d)
        sum = 0.0f;
    for (int step = 0; step < PRODUCT_STEPS; step++) {
        int s = step % RING;
        if (BUG != PRODUCT_IGNORES_FULL)
            mbarrier_wait(full + s, (uint32_t)(step / RING) & 1);
        if (BUG != PRODUCT_WITHOUT_FENCE)
            wgmma_fence();
        if (BUG == PRODUCT_HALF_A_WARPGROUP && step == 4 && t >= 64)
            continue;
        for (int k = 0; k < 128; k += 32) {
            int extra = BUG == PRODUCT_LANES_DISAGREE && t % 32 == 7 ? 1024 : 0;
            const unsigned char *tile = ring + s * SLOT + k + extra;
            wgmma_ss<64, 0, 0>(d, wgmma_descriptor(tile, 16, 1024),
                               wgmma_descriptor(tile + TILE_BYTES, 16, 1024), 1);
        }
        wgmma_commit();
        if (BUG == PRODUCT_WRITES_ACCUMULATORS && step == 5)
            d[3] *= 0.5f;
        if (BUG == PRODUCT_FREES_TOO_EARLY || BUG == PRODUCT_READS_TOO_EARLY)
            wgmma_wait<1>();
        else if (BUG != PRODUCT_NOT_WAITED_FOR)
            wgmma_wait<0>();
        if (BUG != PRODUCT_READS_TOO_EARLY)
            mbarrier_arrive(empty + s);
        else if (step > 0) /* correct: the step before this one has been read */
            mbarrier_arrive(empty + (step - 1) % RING);
    }
    if (BUG == PRODUCT_FREES_TOO_EARLY)
        wgmma_wait<0>();
    for (int i = 0; i < 32; i++)
        c[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = d[i];
    if (BUG == PRODUCT_READS_TOO_EARLY)
        wgmma_wait<0>();
}

template <int BUG> static double ring_error()
{
    static bf16 a[64 * PRODUCT_K], b[64 * PRODUCT_K];
    static float c[64 * 64];
    tensor_map map_a, map_b;
    bf16 *device_a, *device_b;
    float *device_c;
    fill(a, 64 * PRODUCT_K);
    fill(b, 64 * PRODUCT_K);
    cudaMalloc(&device_a, sizeof a);
    cudaMalloc(&device_b, sizeof b);
    cudaMalloc(&device_c, sizeof c);
    cudaMemcpy(device_a, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(device_b, b, sizeof b, cudaMemcpyHostToDevice);
    tensor_map_2d(&map_a, device_a, PRODUCT_K, 64, PRODUCT_K, 64);
    tensor_map_2d(&map_b, device_b, PRODUCT_K, 64, PRODUCT_K, 64);
    launch(product_kernel<BUG>, dim3(1), dim3(160), (size_t)(RING * SLOT + 16 * RING),
           (cudaStream_t)0, map_a, map_b, device_c);
    cudaMemcpy(c, device_c, sizeof c, cudaMemcpyDeviceToHost);
    cudaFree(device_a);
    cudaFree(device_b);
    cudaFree(device_c);
    return product_error(a, b, c, 64, 64, PRODUCT_K);
}

/* c[64, 16] = a[64, 16] . b[16, 16]^T, b written by the threads: what wgmma reads must be fenced. */

template <int BUG> static __global__ void written_kernel(const bf16 *a, const bf16 *b, float *c)
{
    DYNAMIC_SHARED(unsigned char, shared);
    int t = (int)threadIdx.x;
    uint32_t registers[4];
    for (int i = 0; i < 4; i++)
        memcpy(&registers[i],
               a + (t / 32 * 16 + t % 32 / 4 + i % 2 * 8) * 16 + t % 4 * 2 + i / 2 * 8, 4);
    for (int round = 0; round < 2; round++) { /* the second time over what the first has read */
        for (int i = t; i < 16 * 16; i += 128) {
            int row = i / 16, k = i % 16;
            uint32_t at = (uint32_t)(row * 128 + k * 2);
            *reinterpret_cast<bf16 *>(shared + swizzle_128(at)) = b[i];
        }
        if (BUG != WRITTEN_WITHOUT_FENCE || round == 0)
            fence_proxy_async();
        __syncthreads();
        float d[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        wgmma_fence();
        wgmma_rs<16, 0>(d, registers, wgmma_descriptor(shared, 16, 1024), 1);
        wgmma_commit();
        wgmma_wait<0>();
        __syncthreads();
        for (int i = 0; i < 8; i++)
            c[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 16 + i / 4 * 8 + t % 4 * 2 + i % 2] =
                d[i];
    }
}

template <int BUG> static double written_error()
{
    static bf16 a[64 * 16], b[16 * 16];
    static float c[64 * 16];
    bf16 *device_a, *device_b;
    float *device_c;
    fill(a, 64 * 16);
    fill(b, 16 * 16);
    cudaMalloc(&device_a, sizeof a);
    cudaMalloc(&device_b, sizeof b);
    cudaMalloc(&device_c, sizeof c);
    cudaMemcpy(device_a, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(device_b, b, sizeof b, cudaMemcpyHostToDevice);
    launch(written_kernel<BUG>, dim3(2), dim3(128), (size_t)2048, (cudaStream_t)0, device_a,
           device_b, device_c);
    cudaMemcpy(c, device_c, sizeof c, cudaMemcpyDeviceToHost);
    cudaFree(device_a);
    cudaFree(device_b);
    cudaFree(device_c);
    return product_error(a, b, c, 64, 16, 16);
}

/* Two of three warps meet at a barrier of their own. */

template <int BUG> static __global__ void barrier_kernel(int *y)
{
    DYNAMIC_SHARED(int, shared);
    int t = (int)threadIdx.x;
    shared[t] = t;
    if (t < 64) {
        int count = BUG == BARRIER_COUNT_TOO_HIGH ? 96 : 64;
        if (BUG == BARRIER_COUNTS_DIFFER && t >= 32)
            count = 96;
        if (BUG == BARRIER_HALF_A_WARP)
            count = 32;
        if (BUG != BARRIER_HALF_A_WARP || t % 32 < 16)
            named_barrier_sync(3, count);
        y[t] = shared[63 - t];
    } else {
        y[t] = t;
    }
}

template <int BUG> static double barrier_error()
{
    int y[96], *device_y;
    double error = 0;
    cudaMalloc(&device_y, sizeof y);
    launch(barrier_kernel<BUG>, dim3(2), dim3(96), sizeof y, (cudaStream_t)0, device_y);
    cudaMemcpy(y, device_y, sizeof y, cudaMemcpyDeviceToHost);
    for (int t = 0; t < 96; t++)
        error += y[t] != (t < 64 ? 63 - t : t);
    cudaFree(device_y);
    return error;
}

/* `finds`: in which modes it is found at least.  `is_race`: TSan sees it in one of them.  `text`: what one
 * report says. */
enum finds { NEVER, BY_TSAN, SOMEWHERE, EVERYWHERE };
struct bug {
    const char *name;
    double (*error)(); /* relative to what is allowed where that is not 0 */
    enum finds finds;
    bool is_race;
    const char *text;
};

static const struct bug bugs[] = {
    {"sum, correct", sum_error<NO_BUG>, NEVER, false, NULL},
    {"sum: no barrier", sum_error<SUM_WITHOUT_BARRIER>, EVERYWHERE, true, NULL},
    {"sum: a barrier in one branch", sum_error<SUM_BARRIER_IN_BRANCH>, EVERYWHERE, true, NULL},
    {"sum: buffer written while read", sum_error<SUM_BUFFER_REUSED>, SOMEWHERE, true, NULL},
    {"sum: reads beyond shared memory", sum_error<SUM_READS_BEYOND>, EVERYWHERE, false, NULL},
    {"sum: lanes in different shuffles", sum_error<SUM_SHUFFLE_DIVERGED>, EVERYWHERE, false,
     "diverged warp"},
    {"sum: shuffle from outside the mask", sum_error<SUM_SHUFFLE_OUTSIDE_MASK>, EVERYWHERE, false,
     "which is not in mask 0000ffff"},
    {"sum: mask names lanes that are gone", sum_error<SUM_LANES_GONE>, EVERYWHERE, false,
     "lanes that are done"},
    {"copy, correct", copy_error<NO_BUG>, NEVER, false, NULL},
    {"copy: waits for one group too few", copy_error<COPY_WAITS_TOO_LITTLE>, SOMEWHERE, false,
     NULL},
    {"copy: stage overwritten while read", copy_error<COPY_STAGE_OVERWRITTEN>, SOMEWHERE, true,
     NULL},
    {"copy: ends without waiting", copy_error<COPY_NOT_WAITED_FOR>, EVERYWHERE, false,
     "cp.async not waited for"},
    {"copy: misaligned", copy_error<COPY_MISALIGNED>, EVERYWHERE, false,
     "not both 16-byte aligned"},
    {"copy: outside of shared memory", copy_error<COPY_OUTSIDE>, EVERYWHERE, false,
     "not in the block's shared memory"},
    {"product, correct", ring_error<NO_BUG>, NEVER, false, NULL},
    {"product: producer ignores the empty barrier", ring_error<PRODUCT_PRODUCER_IGNORES_EMPTY>,
     EVERYWHERE, false, NULL},
    {"product: wrong number of bytes", ring_error<PRODUCT_WRONG_BYTES>, EVERYWHERE, false,
     "0 of 1 arrivals and 16 bytes are missing"},
    {"product: consumer ignores the full barrier", ring_error<PRODUCT_IGNORES_FULL>, SOMEWHERE,
     true, NULL},
    {"product: slot freed one group early", ring_error<PRODUCT_FREES_TOO_EARLY>, SOMEWHERE, true,
     NULL},
    {"product: accumulators read too early", ring_error<PRODUCT_READS_TOO_EARLY>, EVERYWHERE, false,
     NULL},
    {"product: accumulators written too early", ring_error<PRODUCT_WRITES_ACCUMULATORS>, EVERYWHERE,
     false, "wrote accumulator 3"},
    {"product: no fence", ring_error<PRODUCT_WITHOUT_FENCE>, EVERYWHERE, false,
     "before a wgmma_fence"},
    {"product: ends without waiting", ring_error<PRODUCT_NOT_WAITED_FOR>, EVERYWHERE, false,
     "wgmma not waited for"},
    {"product: too many arrivals", ring_error<PRODUCT_TOO_MANY_ARRIVALS>, SOMEWHERE, false, NULL},
    {"product: mbarriers without init", ring_error<PRODUCT_WITHOUT_INIT>, EVERYWHERE, false,
     "not initialized, or overwritten"},
    {"product: half a warpgroup", ring_error<PRODUCT_HALF_A_WARPGROUP>, EVERYWHERE, false, NULL},
    {"product: misaligned tile", ring_error<PRODUCT_MISALIGNED_TILE>, EVERYWHERE, false,
     "aligned to 1024 bytes"},
    {"product: a column inside 16 bytes", ring_error<PRODUCT_ODD_COLUMN>, EVERYWHERE, false,
     "no multiple of 8"},
    {"product: lanes disagree", ring_error<PRODUCT_LANES_DISAGREE>, EVERYWHERE, false,
     "different descriptors"},
    {"product: init of mbarriers not fenced", ring_error<PRODUCT_INIT_NOT_FENCED>, EVERYWHERE,
     false, "no mbarrier_init_fence"},
    {"written operand, correct", written_error<NO_BUG>, NEVER, false, NULL},
    {"written operand: not fenced", written_error<WRITTEN_WITHOUT_FENCE>, BY_TSAN, true, NULL},
    {"barrier, correct", barrier_error<NO_BUG>, NEVER, false, NULL},
    {"barrier: count too high", barrier_error<BARRIER_COUNT_TOO_HIGH>, EVERYWHERE, false,
     "deadlock"},
    {"barrier: counts differ", barrier_error<BARRIER_COUNTS_DIFFER>, EVERYWHERE, false,
     "expects 96 threads, others 64"},
    {"barrier: half a warp", barrier_error<BARRIER_HALF_A_WARP>, EVERYWHERE, false, "only lanes"},
};

#ifdef EMULATOR_TSAN
enum { MODES = 4 };
#else
enum { MODES = 10 };
#endif
enum { REPORT_MAX = 8192 };

/* Runs one bug in one mode; whether it was found, and what was said. */
static bool is_found(const struct bug *bug, int mode, char *report)
{
    int pipes[2], status;
    if (pipe(pipes) != 0)
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        alarm(60);
        emulator::mode_set(mode == 0   ? emulator::ASYNC_LATE
                           : mode == 1 ? emulator::ASYNC_EARLY
                                       : emulator::ASYNC_RANDOM,
                           (unsigned)mode - 1);
        double error = bug->error();
        exit(error <= 1e-3 ? 0 : 1);
    }
    close(pipes[1]);
    size_t length = 0;
    char rest[256];
    for (;;) {
        bool has_room = length + 1 < REPORT_MAX;
        ssize_t n = has_room ? read(pipes[0], report + length, REPORT_MAX - 1 - length)
                             : read(pipes[0], rest, sizeof rest);
        if (n <= 0)
            break;
        length += has_room ? (size_t)n : 0;
    }
    report[length] = '\0';
    close(pipes[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        abort();
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main(int argc, char **argv)
{
    char report[REPORT_MAX], last[REPORT_MAX];
    int n_failed = 0, n_checks = 0;
    for (const struct bug &bug : bugs) {
        int found = 0;
        bool has_text = bug.text == NULL, names_place = true, has_race = false;
        last[0] = '\0';
        if (argc > 1 && strstr(bug.name, argv[1]) == NULL)
            continue;
        for (int mode = 0; mode < MODES; mode++) {
            bool is = is_found(&bug, mode, report);
            found += is;
            has_text = has_text || (bug.text != NULL && strstr(report, bug.text) != NULL);
            has_race = has_race || strstr(report, "data race") != NULL;
            if (strstr(report, "cuda_emulator: ") != NULL && strstr(report, "_kernel<") == NULL)
                names_place = false;
            if (report[0] != '\0')
                memcpy(last, report, sizeof last);
        }
        bool is_good = bug.finds == NEVER       ? found == 0
                       : bug.finds == BY_TSAN   ? has_race || found == 0
                       : bug.finds == SOMEWHERE ? found > 0
                                                : found == MODES;
#ifdef EMULATOR_TSAN
        is_good = is_good && (has_race || !bug.is_race);
#endif
        /* A sanitizer may stop the program before the emulator would. */
        has_text = has_text || has_race || strstr(last, "AddressSanitizer") != NULL;
        is_good = is_good && has_text && names_place;
        printf("%-6s %s: found in %d of %d modes\n", is_good ? "ok" : "FAILED", bug.name, found,
               (int)MODES);
        if (!is_good || argc > 1)
            printf("%s", last);
        n_checks++;
        n_failed += !is_good;
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0 || n_checks == 0;
}
