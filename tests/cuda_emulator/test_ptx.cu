/* test_ptx.cu - each wrapper of kernels/cuda/ptx.cuh does what it says.
 *
 * Small kernels run each wrapper on random bits; plain loops say what must
 * come out, from the PTX manual's formulas and not from the host twins.  Run
 * in the emulator this tests the twins, on a GPU the instructions: together,
 * that both are the same.
 */
// sass: HMMA HGMMA LDSM STSM LDGSTS UTMALDG
#include "tests/cuda_emulator/check.h"

enum { LANES = 32 };

static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}
/* A small whole number: sums of products of these are exact in any order. */
static float random_digit(uint64_t *seed)
{
    return (float)(int)(random_bits(seed) % 9) - 4.0f;
}

/* launch, DYNAMIC_SHARED, shared_address */

static __global__ void address_kernel(uint32_t *result)
{
    DYNAMIC_SHARED(unsigned char, shared);
    shared[threadIdx.x] = (unsigned char)threadIdx.x;
    __syncthreads();
    result[threadIdx.x * 3] = shared_address(shared + threadIdx.x);
    result[threadIdx.x * 3 + 1] = shared[blockDim.x - 1 - threadIdx.x];
    result[threadIdx.x * 3 + 2] = blockIdx.x;
}

static void launches()
{
    enum { THREADS = 96, BYTES = 200 * 1024 };
    uint32_t *result = device_new<uint32_t>(3 * THREADS), found[3 * THREADS];
    CUDA(launch(address_kernel, dim3(1), dim3(THREADS), (size_t)BYTES, (cudaStream_t)0, result));
    host_copy(found, result, 3 * THREADS);
    check(found[0] % 1024 == 0, "shared memory begins at %u", found[0]);
    for (uint32_t i = 0; i < THREADS; i++) {
        check(found[3 * i] == found[0] + i, "byte %u is at %u, the first at %u", i, found[3 * i],
              found[0]);
        check(found[3 * i + 1] == THREADS - 1 - i, "thread %u read %u", i, found[3 * i + 1]);
        check(found[3 * i + 2] == 0, "thread %u ran in block %u", i, found[3 * i + 2]);
    }
    cudaError_t error =
        launch(address_kernel, dim3(1), dim3(2048), (size_t)BYTES, (cudaStream_t)0, result);
    check(error != cudaSuccess, "a block of 2048 threads was launched");
    error =
        launch(address_kernel, dim3(1), dim3(32), (size_t)(228 * 1024), (cudaStream_t)0, result);
    check(error != cudaSuccess, "a block with 228 KiB of shared memory was launched");
    cudaGetLastError();
}

static __global__ void dependency_kernel(int *result)
{
    dependents_launch();
    dependency_wait();
    result[threadIdx.x] = (int)threadIdx.x + 1;
}

static void kernels_that_follow()
{
    int *result = device_new<int>(64), found[64];
    CUDA(launch(dependency_kernel, dim3(1), dim3(64), (size_t)0, (cudaStream_t)0, result));
    host_copy(found, result, 64);
    for (int i = 0; i < 64; i++)
        check(found[i] == i + 1, "thread %d wrote %d", i, found[i]);
}

/* cp_async_16: 4 groups of copies, some not valid, read by the next thread when one group is still open */

enum { COPY_THREADS = 64, COPY_GROUPS = 4 };

static __global__ void copy_kernel(const uint4 *from, const int *valid, uint4 *to)
{
    DYNAMIC_SHARED(uint4, shared);
    int t = (int)threadIdx.x;
    for (int g = 0; g < COPY_GROUPS; g++) {
        int i = g * COPY_THREADS + t;
        cp_async_16(shared + i, from + i, valid[i] != 0);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    int next = (t + 1) % COPY_THREADS;
    for (int g = 0; g < COPY_GROUPS - 1; g++)
        to[g * COPY_THREADS + next] = shared[g * COPY_THREADS + next];
    cp_async_wait<0>();
    __syncthreads();
    to[(COPY_GROUPS - 1) * COPY_THREADS + next] = shared[(COPY_GROUPS - 1) * COPY_THREADS + next];
}

static void copies()
{
    enum { COUNT = COPY_THREADS * COPY_GROUPS };
    uint64_t seed = 1;
    uint64_t from[COUNT][2], found[COUNT][2];
    int valid[COUNT];
    for (int i = 0; i < COUNT; i++) {
        from[i][0] = random_bits(&seed);
        from[i][1] = random_bits(&seed);
        valid[i] = random_bits(&seed) % 3 != 0;
    }
    uint64_t *to = device_new<uint64_t>(2 * COUNT);
    CUDA(launch(copy_kernel, dim3(1), dim3(COPY_THREADS), sizeof from, (cudaStream_t)0,
                (const uint4 *)device_copy(&from[0][0], 2 * COUNT), device_copy(valid, COUNT),
                (uint4 *)to));
    host_copy(&found[0][0], to, 2 * COUNT);
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < 2; j++)
            check(found[i][j] == (valid[i] ? from[i][j] : 0), "half %d of copy %d: %016llx", j, i,
                  (unsigned long long)found[i][j]);
}

/* ldmatrix and stmatrix: rows at shuffled places.  `form`: 0 x4, 1 x4_trans, 2 x2, 3 x2_trans */

enum { MATRIX_ROWS = 32, MATRIX_BYTES = MATRIX_ROWS * 16 };

static __global__ void load_kernel(const uint32_t *image, const int *place, uint32_t *r, int form)
{
    DYNAMIC_SHARED(uint32_t, shared);
    int t = (int)threadIdx.x;
    for (int i = t; i < MATRIX_BYTES / 4; i += LANES)
        shared[i] = image[i];
    __syncthreads();
    const uint32_t *row = shared + place[t] * 4;
    uint32_t four[4] = {0, 0, 0, 0}, two[2];
    if (form == 0) {
        ldmatrix_x4(four, row);
    } else if (form == 1) {
        ldmatrix_x4_trans(four, row);
    } else {
        if (form == 2)
            ldmatrix_x2(two, row);
        else
            ldmatrix_x2_trans(two, row);
        four[0] = two[0];
        four[1] = two[1];
    }
    for (int i = 0; i < 4; i++)
        r[t * 4 + i] = four[i];
}

static __global__ void store_kernel(uint32_t *image, const int *place, const uint32_t *r, int form)
{
    DYNAMIC_SHARED(uint32_t, shared);
    int t = (int)threadIdx.x;
    for (int i = t; i < MATRIX_BYTES / 4; i += LANES)
        shared[i] = 0;
    __syncthreads();
    uint32_t *row = shared + place[t] * 4;
    uint32_t four[4], two[2];
    for (int i = 0; i < 4; i++)
        four[i] = r[t * 4 + i];
    two[0] = four[0];
    two[1] = four[1];
    if (form == 0)
        stmatrix_x4(row, four);
    else if (form == 1)
        stmatrix_x4_trans(row, four);
    else if (form == 2)
        stmatrix_x2(row, two);
    else
        stmatrix_x2_trans(row, two);
    __syncthreads();
    for (int i = t; i < MATRIX_BYTES / 4; i += LANES)
        image[i] = shared[i];
}

static void shuffle(int *place, int count, uint64_t *seed)
{
    for (int i = 0; i < count; i++) {
        int j = (int)(random_bits(seed) % (unsigned)(i + 1));
        place[i] = place[j];
        place[j] = i;
    }
}

/* Which number of matrix i half `h` of register i of a lane is: an index into the image of 16-bit numbers. */
static int number_of(const int *place, int lane, int i, int h, bool is_transposed)
{
    int row = is_transposed ? 2 * (lane % 4) + h : lane / 4;
    int column = is_transposed ? lane / 4 : 2 * (lane % 4) + h;
    return place[8 * i + row] * 8 + column;
}

static void matrix_loads()
{
    uint64_t seed = 2;
    for (int form = 0; form < 4; form++) {
        uint16_t image[MATRIX_BYTES / 2];
        int place[LANES], count = form < 2 ? 4 : 2;
        uint32_t *r = device_new<uint32_t>(4 * LANES), found[4 * LANES];
        for (uint16_t &number : image)
            number = (uint16_t)random_bits(&seed);
        shuffle(place, LANES, &seed);
        CUDA(launch(load_kernel, dim3(1), dim3(LANES), (size_t)MATRIX_BYTES, (cudaStream_t)0,
                    (const uint32_t *)device_copy(image, MATRIX_BYTES / 2),
                    device_copy(place, LANES), r, form));
        host_copy(found, r, 4 * LANES);
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < count; i++)
                for (int h = 0; h < 2; h++)
                    check((uint16_t)(found[4 * lane + i] >> (16 * h)) ==
                              image[number_of(place, lane, i, h, form % 2 == 1)],
                          "form %d, lane %d, register %d, half %d", form, lane, i, h);
    }
}

static void matrix_stores()
{
    uint64_t seed = 3;
    for (int form = 0; form < 4; form++) {
        uint16_t expected[MATRIX_BYTES / 2] = {0}, found[MATRIX_BYTES / 2];
        int place[LANES], count = form < 2 ? 4 : 2;
        uint32_t r[4 * LANES];
        uint16_t *image = device_new<uint16_t>(MATRIX_BYTES / 2);
        shuffle(place, LANES, &seed);
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 4; i++) {
                uint32_t bits = r[4 * lane + i] = (uint32_t)random_bits(&seed);
                for (int h = 0; h < 2 && i < count; h++)
                    expected[number_of(place, lane, i, h, form % 2 == 1)] =
                        (uint16_t)(bits >> (16 * h));
            }
        CUDA(launch(store_kernel, dim3(1), dim3(LANES), (size_t)MATRIX_BYTES, (cudaStream_t)0,
                    (uint32_t *)image, device_copy(place, LANES), device_copy(r, 4 * LANES), form));
        host_copy(found, image, MATRIX_BYTES / 2);
        for (int i = 0; i < MATRIX_BYTES / 2; i++)
            check(found[i] == expected[i], "form %d, number %d: %04x, expected %04x", form, i,
                  found[i], expected[i]);
    }
}

/* mma_m16n8k16_bf16 */

static __global__ void mma_kernel(const uint32_t *a, const uint32_t *b, float *d)
{
    int t = (int)threadIdx.x;
    float sums[4];
    uint32_t four[4];
    for (int i = 0; i < 4; i++) {
        sums[i] = d[t * 4 + i];
        four[i] = a[t * 4 + i];
    }
    mma_m16n8k16_bf16(sums, four, b[t * 2], b[t * 2 + 1]);
    for (int i = 0; i < 4; i++)
        d[t * 4 + i] = sums[i];
}

static void mma()
{
    uint64_t seed = 4;
    float a[16][16], b[16][8], d[16][8], before[4 * LANES], found[4 * LANES];
    uint16_t a_r[LANES][8], b_r[LANES][4];
    for (int lane = 0; lane < LANES; lane++) {
        int group = lane / 4, in_group = lane % 4;
        for (int i = 0; i < 8; i++) {
            int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
            int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            a[row][column] = random_digit(&seed);
            a_r[lane][i] = bf16_of(a[row][column]);
        }
        for (int i = 0; i < 4; i++) {
            int k = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
            b[k][group] = random_digit(&seed);
            b_r[lane][i] = bf16_of(b[k][group]);
        }
        for (int i = 0; i < 4; i++)
            d[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = before[4 * lane + i] =
                random_digit(&seed);
    }
    float *sums = device_copy(before, 4 * LANES);
    CUDA(launch(mma_kernel, dim3(1), dim3(LANES), (size_t)0, (cudaStream_t)0,
                (const uint32_t *)device_copy(&a_r[0][0], 8 * LANES),
                (const uint32_t *)device_copy(&b_r[0][0], 4 * LANES), sums));
    host_copy(found, sums, 4 * LANES);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) {
            int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
            float expected = d[row][column];
            for (int k = 0; k < 16; k++)
                expected += a[row][k] * b[k][column];
            check(found[4 * lane + i] == expected, "(%d, %d): %g, expected %g", row, column,
                  (double)found[4 * lane + i], (double)expected);
        }
}

/* mbarriers: a producer warp and a consumer warp share a ring of 2 slots for 7 rounds, filled by hand */

enum { RING = 2, ROUNDS = 7 };

static __global__ void ring_kernel(int *result)
{
    DYNAMIC_SHARED(uint64_t, full);
    uint64_t *empty = full + RING;
    int *slot = (int *)(empty + RING), lane = (int)threadIdx.x % LANES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < RING; i++) {
            mbarrier_init(full + i, LANES);
            mbarrier_init(empty + i, LANES);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    for (int round = 0; round < ROUNDS; round++) {
        int s = round % RING;
        uint32_t parity = (uint32_t)(round / RING) & 1;
        if (threadIdx.x < LANES) {
            mbarrier_wait(empty + s, parity ^ 1);
            slot[s * LANES + lane] = round * 100 + lane;
            mbarrier_arrive(full + s);
        } else {
            mbarrier_wait(full + s, parity);
            result[round * LANES + lane] = slot[s * LANES + (lane + 1) % LANES];
            mbarrier_arrive(empty + s);
        }
    }
}

static void mbarriers()
{
    int *result = device_new<int>(ROUNDS * LANES), found[ROUNDS * LANES];
    CUDA(launch(ring_kernel, dim3(1), dim3(2 * LANES), (size_t)(16 * RING + 4 * RING * LANES),
                (cudaStream_t)0, result));
    host_copy(found, result, ROUNDS * LANES);
    for (int round = 0; round < ROUNDS; round++)
        for (int lane = 0; lane < LANES; lane++)
            check(found[round * LANES + lane] == round * 100 + (lane + 1) % LANES,
                  "round %d, lane %d: %d", round, lane, found[round * LANES + lane]);
}

/* Named barriers: two pairs of warps hand values on; the second pair only arrives */

static __global__ void named_barrier_kernel(int *result)
{
    DYNAMIC_SHARED(int, shared);
    int t = (int)threadIdx.x, warp = t / LANES;
    if (warp < 2) {
        shared[t] = t * 3;
        named_barrier_sync(1, 64);
        result[t] = shared[63 - t];
    } else if (warp == 2) {
        shared[t] = t * 5;
        named_barrier_arrive(2, 64);
    } else {
        named_barrier_sync(2, 64);
        result[t - LANES] = shared[t - LANES];
    }
}

static void named_barriers()
{
    int *result = device_new<int>(96), found[96];
    CUDA(launch(named_barrier_kernel, dim3(1), dim3(128), (size_t)512, (cudaStream_t)0, result));
    host_copy(found, result, 96);
    for (int t = 0; t < 96; t++)
        check(found[t] == (t < 64 ? (63 - t) * 3 : t * 5), "thread %d: %d", t, found[t]);
}

/* Tensor copies.  The image in shared memory: 16-byte chunk c of row r lies at chunk c xor (r mod 8). */

enum { COLUMNS = 72, ROWS = 50, PLANES = 3, ROW_STRIDE = 80, PLANE_STRIDE = ROW_STRIDE * 51 };

enum copy_kind { COPY_2D, COPY_3D, COPY_2D_ONCE };

static __global__ void tensor_kernel(const __grid_constant__ tensor_map map, int kind, int x, int y,
                                     int z, int bytes, uint32_t *image)
{
    DYNAMIC_SHARED(unsigned char, shared);
    uint64_t *bar = (uint64_t *)(shared + bytes);
    if (threadIdx.x == 0) {
        mbarrier_init(bar, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(bar, (uint32_t)bytes);
        tensor_map_prefetch(&map);
        if (kind == COPY_3D)
            tma_load_3d(shared, &map, bar, x, y, z);
        else if (kind == COPY_2D)
            tma_load_2d(shared, &map, bar, x, y);
        else
            tma_load_2d_once(shared, &map, bar, x, y);
    }
    __syncthreads();
    mbarrier_wait(bar, 0);
    for (int i = (int)threadIdx.x; i < bytes / 4; i += (int)blockDim.x)
        image[i] = ((const uint32_t *)shared)[i];
}

static void check_box(const uint16_t *data, int kind, int box_rows, const int (&at)[3])
{
    const bool is_3d = kind == COPY_3D;
    tensor_map map;
    static uint16_t found[256 * 64];
    uint16_t *from = device_copy(data, PLANES * PLANE_STRIDE);
    uint32_t *image = device_new<uint32_t>(box_rows * 32);
    CUDA(is_3d
             ? tensor_map_3d(&map, from, COLUMNS, ROWS, PLANES, ROW_STRIDE, PLANE_STRIDE, box_rows)
             : tensor_map_2d(&map, from, COLUMNS, ROWS, ROW_STRIDE, box_rows));
    CUDA(launch(tensor_kernel, dim3(1), dim3(64), (size_t)(box_rows * 128 + 8), (cudaStream_t)0,
                map, kind, at[0], at[1], at[2], box_rows * 128, image));
    host_copy((uint32_t *)found, image, box_rows * 32);
    for (int r = 0; r < box_rows; r++)
        for (int c = 0; c < 64; c++) {
            int row = at[1] + r, column = at[0] + c, plane = is_3d ? at[2] : 0;
            bool is_inside = row >= 0 && row < ROWS && column >= 0 && column < COLUMNS &&
                             plane >= 0 && plane < PLANES;
            uint16_t expected =
                is_inside ? data[plane * PLANE_STRIDE + row * ROW_STRIDE + column] : 0;
            uint16_t number = found[r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8];
            check(number == expected, "box at (%d, %d, %d), row %d, column %d: %04x, expected %04x",
                  at[0], at[1], at[2], r, c, number, expected);
        }
}

static void tensor_copies(int kind)
{
    uint64_t seed = 5;
    static uint16_t data[PLANES * PLANE_STRIDE];
    const int at[][3] = {{0, 0, 0}, {8, 16, 1}, {-8, -3, 2}, {64, 40, 1}, {0, 60, 0}, {16, 1, 5}};
    for (uint16_t &number : data)
        number = (uint16_t)(random_bits(&seed) & 0x7f7f); /* no NaN */
    for (const int(&place)[3] : at)
        for (int box_rows : {1, 8, 50})
            check_box(data, kind, box_rows, place);
}

static void tensor_copies_2d()
{
    tensor_copies(COPY_2D);
    tensor_map map;
    check(tensor_map_2d(&map, device_new<uint16_t>(64 * 9), 64, 8, 65, 8) != cudaSuccess,
          "rows that are not 16-byte aligned were taken");
    check(tensor_map_2d(&map, device_new<uint16_t>(64 * 9), 64, 8, 64, 257) != cudaSuccess,
          "a box of 257 rows was taken");
    cudaGetLastError();
}
static void tensor_copies_2d_once()
{
    tensor_copies(COPY_2D_ONCE);
}

static void tensor_copies_3d()
{
    tensor_copies(COPY_3D);
}

/* wgmma.  Both operands have 64 k, in 4 steps, and lie in an image that the host writes and the kernel copies.
 * `skip` rows (K-major: k) of what lies there come first: operands may begin inside a swizzled row. */

enum { PRODUCT_K = 64, WARPGROUP = 128 };

struct operand {
    int is_transposed, rows, skip; /* rows: M or N */
    int begin;                     /* byte in the image */
    int leading, stride;           /* bytes, as in the descriptor */
};

static int operand_bytes(const struct operand *o)
{
    return o->is_transposed ? (o->rows + o->skip + 63) / 64 * o->leading + PRODUCT_K / 8 * o->stride
                            : o->rows / 8 * o->stride;
}

/* The byte of number (row, k) of the operand. */
static int operand_at(const struct operand *o, int row, int k)
{
    if (o->is_transposed) {
        int r = row + o->skip;
        return o->begin + r / 64 * o->leading + k / 8 * o->stride + k % 8 * 128 +
               ((r % 64 / 8) ^ (k % 8)) * 16 + r % 8 * 2;
    }
    return o->begin + row / 8 * o->stride + row % 8 * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2;
}

/* Of step k / 16: what the descriptor begins with, relative to `begin`. */
static __device__ __forceinline__ int operand_step(const struct operand &o, int step)
{
    return o.is_transposed ? o.skip * 2 + step * 2 * o.stride : step * 32;
}

template <int N, int TRANS_A, int TRANS_B, int A_IN_REGISTERS>
static __global__ void __launch_bounds__(WARPGROUP)
    product_kernel(const uint32_t *image, int bytes, struct operand a, struct operand b,
                   const uint32_t *a_registers, float *result, int keeps)
{
    DYNAMIC_SHARED(unsigned char, shared);
    int t = (int)threadIdx.x;
    for (int i = t; i < bytes / 4; i += WARPGROUP)
        ((uint32_t *)shared)[i] = image[i];
    fence_proxy_async();
    __syncthreads();
    float d[N / 2];
    uint32_t registers[PRODUCT_K / 16][4];
    for (int i = 0; i < N / 2; i++)
        d[i] = 3.0f;
    for (int step = 0; step < PRODUCT_K / 16; step++)
        for (int i = 0; i < 4; i++)
            registers[step][i] = a_registers[(t * (PRODUCT_K / 16) + step) * 4 + i];
    wgmma_pin(d);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < PRODUCT_K / 16; step++) {
        const unsigned char *b_begin = shared + b.begin + operand_step(b, step);
        uint64_t b_descriptor = wgmma_descriptor(b_begin, (uint32_t)b.leading, (uint32_t)b.stride);
        int accumulates = step > 0 || keeps;
        if constexpr (A_IN_REGISTERS) {
            wgmma_rs<N, TRANS_B>(d, registers[step], b_descriptor, accumulates);
        } else {
            const unsigned char *a_begin = shared + a.begin + operand_step(a, step);
            wgmma_ss<N, TRANS_A, TRANS_B>(
                d, wgmma_descriptor(a_begin, (uint32_t)a.leading, (uint32_t)a.stride), b_descriptor,
                accumulates);
        }
        if (step == 1)
            wgmma_commit();
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < N / 2; i++)
        result[t * (N / 2) + i] = d[i];
}

static float product_a[64][PRODUCT_K], product_b[256][PRODUCT_K];

static void fill_operand(unsigned char *image, const struct operand *o, float (*numbers)[PRODUCT_K],
                         uint64_t *seed)
{
    for (int row = 0; row < o->rows; row++)
        for (int k = 0; k < PRODUCT_K; k++) {
            numbers[row][k] = random_digit(seed);
            uint16_t bits = bf16_of(numbers[row][k]);
            memcpy(image + operand_at(o, row, k), &bits, sizeof bits);
        }
}

/* Registers of A: as those of mma, for the 16 rows of each warp. */
static void fill_registers(uint16_t *registers)
{
    for (int t = 0; t < WARPGROUP; t++)
        for (int step = 0; step < PRODUCT_K / 16; step++)
            for (int i = 0; i < 8; i++) {
                int row = t / 32 * 16 + t % 32 / 4 + (i / 2 % 2) * 8;
                int k = step * 16 + t % 4 * 2 + i % 2 + i / 4 * 8;
                registers[(t * (PRODUCT_K / 16) + step) * 8 + i] = bf16_of(product_a[row][k]);
            }
}

template <int N, int TRANS_A, int TRANS_B, int A_IN_REGISTERS>
static void check_product(int skip, int gap, int keeps)
{
    static unsigned char image[200 * 1024];
    static uint16_t registers[WARPGROUP * PRODUCT_K / 2];
    static float found[64 * 256];
    uint64_t seed = (uint64_t)(N + 1000 * TRANS_A + 2000 * TRANS_B + 4000 * A_IN_REGISTERS + skip);
    /* groups of 8 rows, with a gap between; transposed: those of the next 64 rows come between or after */
    int stride = 1024 + gap;
    struct operand a = {TRANS_A, 64, 0, 0, 16, stride}, b = {TRANS_B, N, 0, 0, 16, stride};
    if (TRANS_A) {
        a.skip = skip;
        a.leading = 8 * stride + gap;
    }
    if (TRANS_B) {
        b.skip = skip;
        b.leading = 1024;
        b.stride = (N + skip + 63) / 64 * 1024 + gap;
    }
    b.begin = operand_bytes(&a);
    int bytes = b.begin + operand_bytes(&b);
    if (bytes > (int)sizeof image)
        abort();
    memset(image, 0xff, sizeof image); /* NaN */
    fill_operand(image, &a, product_a, &seed);
    fill_operand(image, &b, product_b, &seed);
    fill_registers(registers);
    float *result = device_new<float>(64 * N);
    CUDA(launch(product_kernel<N, TRANS_A, TRANS_B, A_IN_REGISTERS>, dim3(1), dim3(WARPGROUP),
                (size_t)bytes, (cudaStream_t)0, (const uint32_t *)device_copy(image, bytes), bytes,
                a, b, (const uint32_t *)device_copy(registers, WARPGROUP * PRODUCT_K / 2), result,
                keeps));
    host_copy(found, result, 64 * N);
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < N / 2; i++) {
            int row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8;
            int column = i / 4 * 8 + t % 4 * 2 + i % 2;
            float expected = keeps ? 3.0f : 0.0f;
            for (int k = 0; k < PRODUCT_K; k++)
                expected += product_a[row][k] * product_b[column][k];
            check(found[t * (N / 2) + i] == expected,
                  "N %d, transposed %d %d, A in registers %d, skip %d, gap %d: (%d, %d) is %g, "
                  "expected %g",
                  N, TRANS_A, TRANS_B, A_IN_REGISTERS, skip, gap, row, column,
                  (double)found[t * (N / 2) + i], (double)expected);
        }
    free_all();
}

template <int TRANS_A, int TRANS_B, int A_IN_REGISTERS> static void check_products()
{
    check_product<16, TRANS_A, TRANS_B, A_IN_REGISTERS>(0, 0, 1);
    check_product<32, TRANS_A, TRANS_B, A_IN_REGISTERS>(0, 1024, 0);
    check_product<64, TRANS_A, TRANS_B, A_IN_REGISTERS>(0, 0, 0);
    check_product<128, TRANS_A, TRANS_B, A_IN_REGISTERS>(0, 1024, 1);
    check_product<256, TRANS_A, TRANS_B, A_IN_REGISTERS>(0, 0, 1);
}

static void products_of_rows()
{
    check_products<0, 0, 0>();
}
static void products_of_transposed_a()
{
    check_products<1, 0, 0>();
}
static void products_of_transposed_b()
{
    check_products<0, 1, 0>();
}
static void products_of_transposed_both()
{
    check_products<1, 1, 0>();
}
static void products_of_registers()
{
    check_products<0, 0, 1>();
    check_products<0, 1, 1>();
}
/* A descriptor that begins at the second 16 or 32 of the 64 numbers of a swizzled row. */
static void products_that_begin_inside_a_row()
{
    check_product<16, 0, 1, 0>(16, 0, 0);
    check_product<32, 0, 1, 1>(32, 0, 0);
    check_product<16, 0, 1, 0>(48, 1024, 1);
}

/* setmaxnreg: one warpgroup gives registers, the other takes them, and both still compute */

static __global__ void __launch_bounds__(256, 1) registers_kernel(const int *from, int *to)
{
    int t = (int)threadIdx.x, value = from[t];
    if (t < 128) {
        registers_lower<40>();
        value *= 2;
    } else {
        registers_raise<208>();
        value *= 3;
    }
    to[t] = value;
}

static void registers()
{
    int from[256], found[256], *to = device_new<int>(256);
    for (int i = 0; i < 256; i++)
        from[i] = i * i;
    CUDA(launch(registers_kernel, dim3(1), dim3(256), (size_t)0, (cudaStream_t)0,
                device_copy(from, 256), to));
    host_copy(found, to, 256);
    for (int i = 0; i < 256; i++)
        check(found[i] == from[i] * (i < 128 ? 2 : 3), "thread %d: %d", i, found[i]);
}

/* 2^x within 2 ulp, 0 below 2^-126, NaN as it is */

static __global__ void power_kernel(const float *x, float *y)
{
    y[threadIdx.x] = exp2_approx(x[threadIdx.x]);
}

static void powers()
{
    enum { COUNT = 256 };
    float x[COUNT], found[COUNT], *y = device_new<float>(COUNT);
    uint64_t seed = 9;
    for (int i = 0; i < COUNT; i++)
        x[i] = random_float(&seed) * 140;
    x[0] = -INFINITY, x[1] = INFINITY, x[2] = NAN, x[3] = 0, x[4] = -126, x[5] = -200;
    CUDA(launch(power_kernel, dim3(1), dim3(COUNT), (size_t)0, (cudaStream_t)0,
                device_copy(x, COUNT), y));
    host_copy(found, y, COUNT);
    for (int i = 0; i < COUNT; i++) {
        double expected = exp2((double)x[i]);
        bool is_good = x[i] != x[i]                ? found[i] != found[i]
                       : expected > 0x1.fffffep127 ? isinf(found[i])
                       : expected < 0x1p-126
                           ? found[i] == 0
                           : fabs((double)found[i] - expected) <= expected * 0x1p-22;
        check(is_good, "2^%.9g: %.9g", (double)x[i], (double)found[i]);
    }
}

/* A chain of kernels that may begin early, each of which adds 1 to what the one before left. */

static __global__ void chain_kernel(const int *from, int *to)
{
    dependents_launch();
    dependency_wait();
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    to[i] = from[i] + 1;
}

static void kernels_that_overlap()
{
    enum { COUNT = 32 * 128, LINKS = 20 };
    int *numbers[2] = {device_new<int>(COUNT), device_new<int>(COUNT)};
    static int found[COUNT];
    CUDA(cudaMemset(numbers[0], 0, COUNT * sizeof(int)));
    for (int i = 0; i < LINKS; i++)
        CUDA(launch_dependent(chain_kernel, dim3(32), dim3(128), (size_t)0, (cudaStream_t)0,
                              numbers[i % 2], numbers[(i + 1) % 2]));
    host_copy(found, numbers[LINKS % 2], COUNT);
    for (int i = 0; i < COUNT; i++)
        check(found[i] == LINKS, "number %d: %d", i, found[i]);
}

int main()
{
    static const struct check_group groups[] = {
        {"launch, DYNAMIC_SHARED, shared_address", launches},
        {"dependents_launch, dependency_wait", kernels_that_follow},
        {"cp_async", copies},
        {"ldmatrix", matrix_loads},
        {"stmatrix", matrix_stores},
        {"mma_m16n8k16_bf16", mma},
        {"mbarrier", mbarriers},
        {"named_barrier", named_barriers},
        {"tma_load_2d, tensor_map_prefetch", tensor_copies_2d},
        {"tma_load_2d_once", tensor_copies_2d_once},
        {"wgmma_ss of rows", products_of_rows},
        {"wgmma_ss, A transposed", products_of_transposed_a},
        {"wgmma_ss, B transposed", products_of_transposed_b},
        {"wgmma_ss, both transposed", products_of_transposed_both},
        {"wgmma_rs", products_of_registers},
        {"wgmma, operands that begin inside a row", products_that_begin_inside_a_row},
        {"registers_raise, registers_lower", registers},
        {"exp2_approx", powers},
        {"launch_dependent", kernels_that_overlap},
        {"tma_load_3d", tensor_copies_3d},
    };
    return run_groups(groups, sizeof groups / sizeof *groups);
}
