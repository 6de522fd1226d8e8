/* product.cu - products with packed weights: see product.h.
 *
 * Tensor cores take 16 weight rows x 16 columns (A) and 16 columns x 8 input rows
 * (B).  The order of columns is free as long as both sides agree: of 32 columns
 * thread (g, c) of a warp, lane 4 g + c, holds columns 8 c .. 8 c + 7 in two operations.  They are
 * one 16-byte read of an input row, and four words of BF16 weights, two of F8, one of I4.
 * Rows are free too: thread (g, c) reads the words of rows 4 g .. 4 g + 3 and 32 + 4 g .. of the bundle,
 * 16 bytes each, and tile j of four has row 4 g + j as its g, row 32 + 4 g + j as its g + 8.
 *
 * Grid (bundles x matrices, splits, chunks of input rows).  The warps of a block share the
 * columns of its split; their sums meet in shared memory, those of several splits in
 * the workspace, where the last block adds them, always in the same order.
 */
// sass: HMMA
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/product.h"

#include <cuda_fp16.h>

enum {
    BUNDLE_ROWS = 64,
    STEP = 32, /* columns of two tensor operations */
    TILES = 4, /* of 16 rows in a bundle */
    WORKSPACE_FLOATS = 4 << 20,
    COUNTERS = 65536,
    PLAIN_THREADS = 1024, /* at most */
    PLAIN_EXPERT_THREADS = 256
};

static __host__ __device__ constexpr int line_columns(int type)
{
    return type == PRODUCT_BF16 ? 2 : type == PRODUCT_F8 ? 4 : type == PRODUCT_I4 ? 8 : 1;
}

DEVICE uint4 load_words(const unsigned char *p, int is_there)
{
    return is_there ? __ldg((const uint4 *)p) : make_uint4(0, 0, 0, 0);
}

DEVICE uint32_t word_of(const uint4 &words, int j)
{
    return j == 0 ? words.x : j == 1 ? words.y : j == 2 ? words.z : words.w;
}

/* Warps of a block, and blocks side by side on a multiprocessor: 64 KiB of weights are on their way to it. */
static __host__ __device__ constexpr int warps_for(int nt)
{
    return nt == 1 ? 8 : 4;
}
static __host__ __device__ constexpr int blocks_for(int nt)
{
    return nt == 2 ? 3 : 2;
}

/* Where one matrix's bundle lies. */
struct bundle_view {
    const unsigned char *data;
    int line_bytes, lines, rows;
    const unsigned char *scales; /* of its first block */
    int first;                   /* column 0 is column `first` of its group */
    int64_t block_scales;        /* scales of a block */
};

DEVICE bundle_view view_bundle(const cuda_matrix &w, int matrix, int bundle)
{
    bundle_view v;
    int columns = line_columns(w.type), blocks = (w.n + 15) / 16,
        here = min(4, blocks - 4 * bundle);
    v.lines = (w.k + columns - 1) / columns;
    v.line_bytes = here * 64;
    v.rows = min((int)BUNDLE_ROWS, w.n - BUNDLE_ROWS * bundle);
    v.data = (const unsigned char *)w.data + matrix * w.matrix_bytes +
             (int64_t)bundle * 4 * v.lines * 64;
    v.block_scales = (int64_t)w.groups * 16;
    v.scales = NULL;
    v.first = 0;
    if (w.scales != NULL) {
        v.first = (w.first + matrix * w.shift) % w.step;
        v.scales = (const unsigned char *)w.scales + matrix * w.scale_bytes +
                   (int64_t)bundle * 4 * v.block_scales * (w.scales_are_bf16 ? 2 : 4);
    }
    return v;
}

DEVICE float row_scale(const cuda_matrix &w, const bundle_view &v, int row, int group)
{
    int64_t at = row / 16 * v.block_scales + group * 16 + row % 16;
    return w.scales_are_bf16 ? __bfloat162float(((const __nv_bfloat16 *)v.scales)[at])
                             : ((const float *)v.scales)[at];
}

/* Scales of rows `row` .. row + 3, which one block holds. */
DEVICE void row_scales(float (&scale)[4], const cuda_matrix &w, const bundle_view &v, int row,
                       int group)
{
    int64_t at = row / 16 * v.block_scales + group * 16 + row % 16;
    if (row * 4 >= v.line_bytes) {
        scale[0] = scale[1] = scale[2] = scale[3] = 0;
    } else if (w.scales_are_bf16) {
        uint2 pairs = __ldg((const uint2 *)(v.scales + at * 2));
        scale[0] = __uint_as_float(pairs.x << 16);
        scale[1] = __uint_as_float(pairs.x & 0xffff0000u);
        scale[2] = __uint_as_float(pairs.y << 16);
        scale[3] = __uint_as_float(pairs.y & 0xffff0000u);
    } else {
        float4 four = __ldg((const float4 *)(v.scales + at * 4));
        scale[0] = four.x;
        scale[1] = four.y;
        scale[2] = four.z;
        scale[3] = four.w;
    }
}

/* The words of 8 columns x 8 rows of a thread, as they lie in memory: [word][low rows, high rows]. */
template <int TYPE> struct step_words {
    static constexpr int words = 8 / line_columns(TYPE);
    uint4 raw[words][2];
    __device__ __forceinline__ void load(const bundle_view &v, int step)
    {
        const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4, line = (step * 4 + c) * words;
        const unsigned char *p = v.data + (int64_t)line * v.line_bytes + g * 16;
#pragma unroll
        for (int i = 0; i < words; i++, p += v.line_bytes) {
            raw[i][0] = load_words(p, line + i < v.lines && g * 16 < v.line_bytes);
            raw[i][1] = load_words(p + 128, line + i < v.lines && 128 + g * 16 < v.line_bytes);
        }
    }
};

/* Two e4m3 numbers in the bits 8-15 and 24-31 of `word` as bf16: exponents moved into place, which
 * divides by 2^120. */
DEVICE uint32_t widen_f8(uint32_t word)
{
    uint32_t bits = (word >> 4 & 0x07f007f0u) | (word & 0x80008000u),
             factor = 0x7b807b80u; /* 2^120 */
    __nv_bfloat162 pair = __hmul2(*reinterpret_cast<__nv_bfloat162 *>(&bits),
                                  *reinterpret_cast<__nv_bfloat162 *>(&factor));
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Numbers + 8 in bits 0-3 and 16-19 of `word` as bf16: 128 + number is exact, 136 away from it. */
DEVICE uint32_t widen_i4(uint32_t word)
{
    uint32_t bits = (word & 0x000f000fu) | 0x43004300u, offset = 0xc308c308u; /* -136 */
    __nv_bfloat162 pair = __hadd2(*reinterpret_cast<__nv_bfloat162 *>(&bits),
                                  *reinterpret_cast<__nv_bfloat162 *>(&offset));
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Four pairs of columns of tile j's row g (half 0) or g + 8 (half 1), in the order of input_pairs. */
template <int TYPE>
DEVICE void weight_pairs(uint32_t (&pair)[4], const step_words<TYPE> &w, int j, int half)
{
    if constexpr (TYPE == PRODUCT_BF16) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            pair[i] = word_of(w.raw[i][half], j);
    } else if constexpr (TYPE == PRODUCT_F8) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t word = word_of(w.raw[i][half], j);
            pair[2 * i] = widen_f8(word << 8);
            pair[2 * i + 1] = widen_f8(word);
        }
    } else {
        uint32_t word = word_of(w.raw[0][half], j);
#pragma unroll
        for (int i = 0; i < 4; i++)
            pair[i] = widen_i4(word >> 4 * i);
    }
}

/* Columns 0 .. 7 of an input row in pairs as weight_pairs has them: BF16 01 23 45 67, F8 02 13 46 57,
 * I4 04 15 26 37. */
template <int TYPE> DEVICE uint4 input_pairs(uint4 x)
{
    if constexpr (TYPE == PRODUCT_F8)
        return make_uint4(__byte_perm(x.x, x.y, 0x5410), __byte_perm(x.x, x.y, 0x7632),
                          __byte_perm(x.z, x.w, 0x5410), __byte_perm(x.z, x.w, 0x7632));
    if constexpr (TYPE == PRODUCT_I4)
        return make_uint4(__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632),
                          __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632));
    return x;
}

/* 8 columns of an input row in bf16. */
DEVICE uint4 load_inputs(const __nv_bfloat16 *x)
{
    return *(const uint4 *)x;
}
DEVICE uint4 load_inputs(const float *x)
{
    const float4 a = *(const float4 *)x, b = *(const float4 *)(x + 4);
    return make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                      pack_bf16(b.z, b.w));
}

/* sum[tile][NT][4] += the steps [begin, end) of a bundle; x[i] points at columns 8 c of input row g of
 * tile i.  WAITS: for the kernel before, once the first weights are on their way; nobody writes those. */
template <int TYPE, int NT, int WAITS, class X>
static __device__ __forceinline__ void multiply_steps(float (&sum)[TILES][NT][4],
                                                      const cuda_matrix &w, const bundle_view &v,
                                                      const X *const (&x)[NT], int begin, int end)
{
    constexpr int DEPTH = TYPE == PRODUCT_I4 ? 4 : 2; /* steps on their way from memory */
    constexpr bool SCALES = TYPE != PRODUCT_BF16;
    constexpr int AT_ONCE = NT < 4 ? NT : 4; /* input tiles, for the registers' sake */
    step_words<TYPE> ahead[DEPTH];
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (begin + d < end)
            ahead[d].load(v, begin + d);
    if (WAITS)
        dependency_wait();
    float part[SCALES ? TILES : 1][NT][4] = {};
    for (int base = begin; base < end; base += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const int step = base + d;
            if (step >= end)
                break;
            const int after = v.first + (step + 1) * STEP;
            const bool ends_group = SCALES && (after % w.step == 0 || step + 1 == end);
            float low[4], high[4];
            if (ends_group) {
                const int g = threadIdx.x % 32 / 4;
                row_scales(low, w, v, 4 * g, (after - 1) / w.step);
                row_scales(high, w, v, 32 + 4 * g, (after - 1) / w.step);
            }
#pragma unroll
            for (int from = 0; from < NT; from += AT_ONCE) {
                uint4 b[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
                    b[i] = input_pairs<TYPE>(load_inputs(x[from + i] + step * STEP));
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    uint32_t even[4], odd[4];
                    weight_pairs<TYPE>(even, ahead[d], j, 0);
                    weight_pairs<TYPE>(odd, ahead[d], j, 1);
                    const uint32_t first[4] = {even[0], odd[0], even[1], odd[1]};
                    const uint32_t second[4] = {even[2], odd[2], even[3], odd[3]};
#pragma unroll
                    for (int i = 0; i < AT_ONCE; i++) {
                        float(&to)[4] =
                            *(SCALES ? &part[SCALES ? j : 0][from + i] : &sum[j][from + i]);
                        mma_m16n8k16_bf16(to, first, b[i].x, b[i].y);
                        mma_m16n8k16_bf16(to, second, b[i].z, b[i].w);
                    }
                }
            }
            if (step + DEPTH < end)
                ahead[d].load(v, step + DEPTH);
            if (ends_group) {
#pragma unroll
                for (int j = 0; j < TILES; j++)
#pragma unroll
                    for (int i = 0; i < NT; i++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            sum[j][i][e] += (e < 2 ? low[j] : high[j]) * part[SCALES ? j : 0][i][e];
                            part[SCALES ? j : 0][i][e] = 0;
                        }
            }
        }
    }
}

/* Sums of the warps to sums[8 NT input rows][64 weight rows] in shared memory: after it, thread t has
 * element t, t + threads, ... */
template <int NT>
static __device__ __forceinline__ void meet_warps(float *shared, const float (&sum)[TILES][NT][4])
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    float *mine = shared + warp * (NT * 8 * BUNDLE_ROWS);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float *row = mine + (8 * i + 2 * c + e) * BUNDLE_ROWS;
            *(float4 *)(row + 4 * g) =
                make_float4(sum[0][i][e], sum[1][i][e], sum[2][i][e], sum[3][i][e]);
            *(float4 *)(row + 32 + 4 * g) =
                make_float4(sum[0][i][2 + e], sum[1][i][2 + e], sum[2][i][2 + e], sum[3][i][2 + e]);
        }
    __syncthreads();
}

template <int NT> DEVICE float warps_sum(const float *shared, int at)
{
    float x = 0;
#pragma unroll
    for (int warp = 0; warp < warps_for(NT); warp++)
        x += shared[warp * (NT * 8 * BUNDLE_ROWS) + at];
    return x;
}

/* Four neighbours of the sums of `splits` blocks, `stride` apart: some at once, added in order. */
DEVICE float4 splits_sum(const float *first, int stride, int splits)
{
    constexpr int AT_ONCE = 4;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int from = 0; from < splits; from += AT_ONCE) {
        float4 x[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            x[i] = from + i < splits ? __ldcg((const float4 *)(first + (from + i) * stride))
                                     : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            sum.x += x[i].x;
            sum.y += x[i].y;
            sum.z += x[i].z;
            sum.w += x[i].w;
        }
    }
    return sum;
}

/* Steps of one warp: equal shares of those of the block; whole groups where there are scales. */
DEVICE void warp_steps(int *begin, int *end, const cuda_matrix &w, const bundle_view &v, int part,
                       int parts)
{
    int steps = (w.k + STEP - 1) / STEP;
    if (w.scales == NULL) {
        *begin = (int)((int64_t)steps * part / parts);
        *end = (int)((int64_t)steps * (part + 1) / parts);
        return;
    }
    int group_steps = w.step / STEP,
        lead = v.first / STEP; /* steps of the first group held elsewhere */
    int groups = (lead + steps + group_steps - 1) / group_steps;
    *begin = max(0, (int)((int64_t)groups * part / parts) * group_steps - lead);
    *end = min(steps, (int)((int64_t)groups * (part + 1) / parts) * group_steps - lead);
}

/* Shared memory: the sums of the warps, of one matrix or two. */
template <int NT> static __host__ __device__ constexpr size_t shared_bytes(int matrices)
{
    return (size_t)matrices * warps_for(NT) * NT * 8 * BUNDLE_ROWS * sizeof(float);
}

template <int TYPE, int NT, class X>
static __global__ void __launch_bounds__(warps_for(NT) * 32, blocks_for(NT))
    product(const cuda_product p)
{
    constexpr int WARPS = warps_for(NT);
    DYNAMIC_SHARED(float, sums);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const int bundles = (p.w.n + BUNDLE_ROWS - 1) / BUNDLE_ROWS;
    const int matrix = blockIdx.x / bundles, bundle = blockIdx.x % bundles,
              first_row = blockIdx.z * NT * 8;
    bundle_view v = view_bundle(p.w, matrix, bundle);
    int begin, end;
    warp_steps(&begin, &end, p.w, v, blockIdx.y * WARPS + warp, gridDim.y * WARPS);
    const X *x[NT];
#pragma unroll
    for (int i = 0; i < NT; i++) /* rows that are not there repeat the last */
        x[i] = (const X *)p.x + (int64_t)min(first_row + 8 * i + g, p.rows - 1) * p.x_row +
               matrix * p.x_matrix + 8 * c;
    float sum[TILES][NT][4] = {};
    dependents_launch();
    multiply_steps<TYPE, NT, 1>(sum, p.w, v, x, begin, end);
    meet_warps<NT>(sums, sum);

    float *y = p.y + matrix * p.y_matrix + bundle * BUNDLE_ROWS;
    const int rows = min(NT * 8, p.rows - first_row);
    float *all = p.workspace + COUNTERS; /* [block of x and z][split][8 NT][64] */
    const int block = blockIdx.z * gridDim.x + blockIdx.x;
    float *own = all + ((int64_t)block * gridDim.y + blockIdx.y) * (NT * 8 * BUNDLE_ROWS);
    for (int at = threadIdx.x; at < rows * BUNDLE_ROWS; at += WARPS * 32) {
        float value = warps_sum<NT>(sums, at);
        if (gridDim.y > 1)
            own[at] = value;
        else if (at % BUNDLE_ROWS < v.rows)
            y[(first_row + at / BUNDLE_ROWS) * p.y_row + at % BUNDLE_ROWS] = value;
    }
    if (gridDim.y == 1)
        return;
    int *counter = (int *)p.workspace + block, *is_last = (int *)sums; /* which are read */
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        *is_last = atomicAdd(counter, 1) == (int)gridDim.y - 1;
    __syncthreads();
    if (!*is_last)
        return;
    __threadfence();
    const float *first = all + (int64_t)block * gridDim.y * (NT * 8 * BUNDLE_ROWS);
#pragma unroll 2
    for (int at = 4 * threadIdx.x; at < rows * BUNDLE_ROWS; at += 4 * WARPS * 32) {
        float4 sum = splits_sum(first + at, NT * 8 * BUNDLE_ROWS, gridDim.y);
        const float four[4] = {sum.x, sum.y, sum.z, sum.w};
        const int column = at % BUNDLE_ROWS;
        float *to = y + (first_row + at / BUNDLE_ROWS) * p.y_row + column;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column + i < v.rows)
                to[i] = four[i];
    }
    if (threadIdx.x == 0)
        *counter = 0;
}

/* Matrices of an expert that a block reads side by side: with few rows there are few blocks. */
static __host__ __device__ constexpr int sides_for(int nt, int is_gate_up)
{
    return is_gate_up && nt == 1 ? 2 : 1;
}

/* Both matrices of the first half of an expert, or the one of the second.  The second half may begin once
 * all blocks of the first have the lists, which it then reads without waiting. */
template <int TYPE, int NT, int IS_GATE_UP, class X>
static __global__ void __launch_bounds__(warps_for(NT) * 32 * sides_for(NT, IS_GATE_UP),
                                         blocks_for(NT) / sides_for(NT, IS_GATE_UP))
    product_experts(const cuda_expert_product p)
{
    constexpr int WARPS = warps_for(NT), SIDES = sides_for(NT, IS_GATE_UP);
    DYNAMIC_SHARED(float, sums);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    if (IS_GATE_UP)
        dependency_wait();
    dependents_launch();
    if ((int)blockIdx.y >= *p.n_active) {
        dependency_wait();
        return;
    }
    const int expert = p.expert[blockIdx.y], first = p.begin[expert],
              n_rows = p.begin[expert + 1] - first;
    const cuda_matrix &w = p.product.w;
    const bundle_view v = view_bundle(w, expert, blockIdx.x);
    int begin, end;
    warp_steps(&begin, &end, w, v, warp % WARPS, WARPS);
    for (int from = 0; from < n_rows; from += NT * 8) {
        const X *x[NT];
#pragma unroll
        for (int i = 0; i < NT; i++) {
            int pair = p.pair[first + min(from + 8 * i + g, n_rows - 1)];
            x[i] = (const X *)p.product.x + (int64_t)(pair / p.choices) * p.product.x_row + 8 * c;
        }
#pragma unroll 1
        for (int which = warp / WARPS; which <= IS_GATE_UP; which += SIDES) {
            float sum[TILES][NT][4] = {};
            multiply_steps<TYPE, NT, !IS_GATE_UP>(
                sum, which == 0 ? w : p.up, view_bundle(which == 0 ? w : p.up, expert, blockIdx.x),
                x, begin, end);
            meet_warps<NT>(sums + (which - warp / WARPS) * WARPS * NT * 8 * BUNDLE_ROWS, sum);
        }
        const int rows = min(NT * 8, n_rows - from);
        for (int at = threadIdx.x; at < rows * BUNDLE_ROWS; at += SIDES * WARPS * 32) {
            const int pair = p.pair[first + from + at / BUNDLE_ROWS],
                      column = blockIdx.x * BUNDLE_ROWS + at % BUNDLE_ROWS;
            float value = warps_sum<NT>(sums, at);
            if constexpr (IS_GATE_UP) { /* columns past the last fill the row up with zeros */
                float other = warps_sum<NT>(sums + WARPS * NT * 8 * BUNDLE_ROWS, at);
                float h = value / (1 + __expf(-value)) * other;
                ((__nv_bfloat16 *)p.product.y)[pair * p.product.y_row + column] =
                    __float2bfloat16(column < w.n ? h : 0);
            } else if (column < w.n) {
                p.product.y[pair * p.product.y_row + column] = value;
            }
        }
    }
}

DEVICE float word_number(const cuda_matrix &w, const unsigned char *block, int line_bytes, int row,
                         int column)
{
    const unsigned char *line;
    switch (w.type) {
    case PRODUCT_F32:
        return *(const float *)(block + (int64_t)column * line_bytes + row * 4);
    case PRODUCT_F16:
        return __half2float(*(const __half *)(block + (int64_t)column * line_bytes + row * 2));
    case PRODUCT_BF16:
        line = block + (int64_t)(column / 2) * line_bytes + row * 4 + column % 2 * 2;
        return __bfloat162float(*(const __nv_bfloat16 *)line);
    case PRODUCT_F8: {
        uint32_t byte = block[(int64_t)(column / 4) * line_bytes + row * 4 + column % 4];
        /* exponent and mantissa in place, 2^-120 too small; NaN is all ones */
        float small = __uint_as_float((byte & 0x80) << 24 | (byte & 0x7f) << 20);
        return (byte & 0x7f) == 0x7f ? NAN : small * 0x1p120f;
    }
    default: {
        uint32_t byte = block[(int64_t)(column / 8) * line_bytes + row * 4 + column % 8 / 2];
        return (float)((int)(byte >> (column % 2 * 4) & 15) - 8);
    }
    }
}

/* Sums of 16 rows of one matrix with one input row: thread 16 i + r has row r, the words of columns i, i + parts,
 * ...; the first 16 threads get the sums.  `shared` holds 16 floats for each warp. */
template <int HAS_BF16>
static __device__ __forceinline__ float plain_sum(float *shared, const cuda_matrix &w, int matrix,
                                                  int block, const float *x)
{
    const int row = threadIdx.x % 16, part = threadIdx.x / 16, parts = blockDim.x / 16;
    const bundle_view v = view_bundle(w, matrix, block / 4);
    const int word = w.type == PRODUCT_F16 ? 2 : 4, columns = line_columns(w.type);
    const int lines = (w.k + columns - 1) / columns, line_bytes = v.line_bytes / 4 * word;
    const unsigned char *data = (const unsigned char *)w.data + matrix * w.matrix_bytes +
                                (int64_t)(block / 4 * 4) * lines * 16 * word +
                                block % 4 * 16 * word;
    float sum = 0;
    if (HAS_BF16 && w.type == PRODUCT_BF16) { /* most routers': several lines on their way */
#pragma unroll 8
        for (int line = part; line < lines; line += parts) {
            const uint32_t pair =
                __ldg((const uint32_t *)(data + (int64_t)line * line_bytes + row * 4));
            sum = fmaf(__uint_as_float(pair << 16), x[2 * line], sum);
            if (2 * line + 1 < w.k)
                sum = fmaf(__uint_as_float(pair & 0xffff0000u), x[2 * line + 1], sum);
        }
    } else {
#pragma unroll 1
        for (int k = part; k < w.k; k += parts) {
            float weight = word_number(w, data, line_bytes, row, k);
            if (w.scales != NULL)
                weight *= row_scale(w, v, block % 4 * 16 + row, (v.first + k) / w.step);
            sum = fmaf(weight, x[k], sum);
        }
    }
    sum += __shfl_xor_sync(~0u, sum, 16);
    __syncthreads();
    if (threadIdx.x % 32 < 16)
        shared[threadIdx.x / 32 * 16 + row] = sum;
    __syncthreads();
    sum = 0;
    for (int i = row; threadIdx.x < 16 && i < (int)blockDim.x / 2; i += 16)
        sum += shared[i];
    return sum;
}

/* Grid (blocks of 16 rows x matrices, input rows) */
static __global__ void __launch_bounds__(PLAIN_THREADS) plain(const cuda_product p)
{
    DYNAMIC_SHARED(float, shared);
    const int blocks = (p.w.n + 15) / 16, matrix = blockIdx.x / blocks, block = blockIdx.x % blocks;
    dependents_launch();
    dependency_wait();
    const float *x = (const float *)p.x + blockIdx.y * p.x_row + matrix * p.x_matrix;
    const float sum = plain_sum<1>(shared, p.w, matrix, block, x);
    const int row = block * 16 + threadIdx.x;
    if (threadIdx.x < 16 && row < p.w.n)
        p.y[blockIdx.y * p.y_row + matrix * p.y_matrix + row] = sum;
}

/* Grid (blocks of 16 rows, pairs): both matrices of the first half of an expert, or that of the second. */
template <int IS_GATE_UP>
static __global__ void __launch_bounds__(PLAIN_EXPERT_THREADS)
    plain_experts(const cuda_expert_product p, const int *ids, int first)
{
    DYNAMIC_SHARED(float, shared);
    dependents_launch();
    dependency_wait();
    const int pair = blockIdx.y, expert = ids[pair] - first;
    if (expert < 0 || expert >= p.product.w.count)
        return;
    const float *x = (const float *)p.product.x + (int64_t)(pair / p.choices) * p.product.x_row;
    float sum = plain_sum<0>(shared, p.product.w, expert, blockIdx.x, x);
    if constexpr (IS_GATE_UP) {
        const float up = plain_sum<0>(shared, p.up, expert, blockIdx.x, x);
        sum = sum / (1 + expf(-sum)) * up;
    }
    const int row = blockIdx.x * 16 + threadIdx.x;
    if (threadIdx.x < 16 && row < p.product.w.n)
        p.product.y[pair * p.product.y_row + row] = sum;
}

static __global__ void __launch_bounds__(256)
    round_inputs(__nv_bfloat16 *y, const float *x, int64_t x_row, int columns, int padded)
{
    dependents_launch();
    dependency_wait();
    const float *from = x + blockIdx.x * x_row;
    __nv_bfloat16 *to = y + (int64_t)blockIdx.x * padded;
    for (int i = threadIdx.x; i < padded; i += blockDim.x)
        to[i] = __float2bfloat16(i < columns ? from[i] : 0);
}

int cuda_round_inputs(void *y, const float *x, int64_t x_row, int64_t rows, int columns,
                      cudaStream_t stream)
{
    if (rows == 0)
        return cudaSuccess;
    int padded =
        (columns + PRODUCT_INPUT_ALIGNMENT - 1) / PRODUCT_INPUT_ALIGNMENT * PRODUCT_INPUT_ALIGNMENT;
    return launch_dependent(round_inputs, dim3((unsigned)rows), dim3(256), 0, stream,
                            (__nv_bfloat16 *)y, x, x_row, columns, padded);
}

size_t cuda_product_workspace_bytes(void)
{
    return (WORKSPACE_FLOATS + COUNTERS) * sizeof(float);
}

int cuda_product_tensor_takes(const struct cuda_matrix *w)
{
    if (w->type == PRODUCT_BF16)
        return 1;
    return (w->type == PRODUCT_F8 || w->type == PRODUCT_I4) && w->step % STEP == 0 &&
           w->first % STEP == 0 && w->shift % STEP == 0;
}

/* Inputs in f32 are read as they are: whole steps of columns, 16 bytes at a time. */
static int is_f32_input(const struct cuda_product *p)
{
    return p->w.k % STEP == 0 && (uintptr_t)p->x % 16 == 0 && p->x_row % 4 == 0 &&
           p->x_matrix % 4 == 0;
}

/* Rows that the kernel of an expert takes at once: twice those of an equal share; more take several turns
 * over its weights. */
static int expert_rows(const struct cuda_expert_product *p)
{
    return p->max_active == 0 ? 0 : 2 * p->product.rows / p->max_active;
}

int cuda_product_takes_f32(const struct cuda_product *p)
{
    return p->rows <= PRODUCT_F32_ROWS && is_f32_input(p);
}

int cuda_experts_takes_f32(const struct cuda_expert_product *p)
{
    return expert_rows(p) <= PRODUCT_F32_ROWS && is_f32_input(&p->product);
}

template <int TYPE, int NT>
static cudaError_t launch_product(const struct cuda_product *p, cudaStream_t stream)
{
    int bundles = (p->w.n + BUNDLE_ROWS - 1) / BUNDLE_ROWS * p->w.count,
        chunks = (p->rows + NT * 8 - 1) / (NT * 8);
    int64_t blocks = (int64_t)bundles * chunks;
    /* enough blocks for every processor, as long as each warp has some steps */
    int splits = (int)(2 * p->n_processors / blocks), most = p->w.k / STEP / warps_for(NT) / 2;
    splits = splits > most ? most : splits;
    if (splits < 2 || blocks > COUNTERS ||
        blocks * splits * NT * 8 * BUNDLE_ROWS > WORKSPACE_FLOATS)
        splits = 1;
    const dim3 grid(bundles, splits, chunks), block(warps_for(NT) * 32);
    if constexpr (NT * 8 <= PRODUCT_F32_ROWS)
        if (p->x_is_f32)
            return launch_dependent(product<TYPE, NT, float>, grid, block, shared_bytes<NT>(1),
                                    stream, *p);
    return launch_dependent(product<TYPE, NT, __nv_bfloat16>, grid, block, shared_bytes<NT>(1),
                            stream, *p);
}

template <int TYPE>
static cudaError_t launch_type(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows <= 8)
        return launch_product<TYPE, 1>(p, stream);
    if (p->rows <= 16)
        return launch_product<TYPE, 2>(p, stream);
    if constexpr (TYPE == PRODUCT_BF16)
        if (p->rows > 32)
            return launch_product<TYPE, 8>(p, stream);
    return launch_product<TYPE, 4>(p, stream);
}

int cuda_product_tensor(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 0 || p->w.n == 0 || p->w.count == 0)
        return cudaSuccess;
    switch (p->w.type) {
    case PRODUCT_BF16:
        return launch_type<PRODUCT_BF16>(p, stream);
    case PRODUCT_F8:
        return launch_type<PRODUCT_F8>(p, stream);
    case PRODUCT_I4:
        return launch_type<PRODUCT_I4>(p, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

/* About 8 words of columns a thread, so that all of them are on their way at once. */
static dim3 plain_threads(const struct cuda_matrix *w)
{
    int words = w->k / line_columns(w->type), threads = words / 8 * 16 / 64 * 64;
    return dim3(threads < 256 ? 256 : threads > PLAIN_THREADS ? (int)PLAIN_THREADS : threads);
}

int cuda_product_plain(const struct cuda_product *p, cudaStream_t stream)
{
    if (p->rows == 0 || p->w.n == 0 || p->w.count == 0)
        return cudaSuccess;
    return launch_dependent(plain, dim3((p->w.n + 15) / 16 * p->w.count, p->rows),
                            plain_threads(&p->w), PLAIN_THREADS / 2 * sizeof(float), stream, *p);
}

template <int TYPE, int NT, int IS_GATE_UP>
static cudaError_t launch_experts(const struct cuda_expert_product *p, cudaStream_t stream)
{
    const dim3 grid((p->product.w.n + BUNDLE_ROWS - 1) / BUNDLE_ROWS, p->max_active);
    const dim3 block(warps_for(NT) * 32 * sides_for(NT, IS_GATE_UP));
    if constexpr (IS_GATE_UP && NT * 8 <= PRODUCT_F32_ROWS)
        if (p->product.x_is_f32)
            return launch_dependent(product_experts<TYPE, NT, 1, float>, grid, block,
                                    shared_bytes<NT>(2), stream, *p);
    return launch_dependent(product_experts<TYPE, NT, IS_GATE_UP, __nv_bfloat16>, grid, block,
                            shared_bytes<NT>(1 + IS_GATE_UP), stream, *p);
}

template <int IS_GATE_UP>
static cudaError_t choose_experts(const struct cuda_expert_product *p, cudaStream_t stream)
{
    if (p->product.rows == 0 || p->max_active == 0)
        return cudaSuccess;
    const int rows = expert_rows(p);
    switch (p->product.w.type) {
    case PRODUCT_BF16:
        return rows <= 8    ? launch_experts<PRODUCT_BF16, 1, IS_GATE_UP>(p, stream)
               : rows <= 16 ? launch_experts<PRODUCT_BF16, 2, IS_GATE_UP>(p, stream)
                            : launch_experts<PRODUCT_BF16, 4, IS_GATE_UP>(p, stream);
    case PRODUCT_F8:
        return rows <= 8 ? launch_experts<PRODUCT_F8, 1, IS_GATE_UP>(p, stream)
                         : launch_experts<PRODUCT_F8, 2, IS_GATE_UP>(p, stream);
    case PRODUCT_I4:
        return rows <= 8 ? launch_experts<PRODUCT_I4, 1, IS_GATE_UP>(p, stream)
                         : launch_experts<PRODUCT_I4, 2, IS_GATE_UP>(p, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

int cuda_experts_gate_up(const struct cuda_expert_product *p, cudaStream_t stream)
{
    return choose_experts<1>(p, stream);
}

int cuda_experts_down(const struct cuda_expert_product *p, cudaStream_t stream)
{
    return choose_experts<0>(p, stream);
}

template <int IS_GATE_UP>
static int launch_plain_experts(const struct cuda_expert_product *p, const int *ids, int first,
                                cudaStream_t stream)
{
    if (p->product.rows == 0 || p->product.w.count == 0)
        return cudaSuccess;
    return launch_dependent(plain_experts<IS_GATE_UP>,
                            dim3((p->product.w.n + 15) / 16, p->product.rows),
                            dim3(PLAIN_EXPERT_THREADS), PLAIN_EXPERT_THREADS / 2 * sizeof(float),
                            stream, *p, ids, first);
}

int cuda_experts_plain_gate_up(const struct cuda_expert_product *p, const int *ids, int first,
                               cudaStream_t stream)
{
    return launch_plain_experts<1>(p, ids, first, stream);
}

int cuda_experts_plain_down(const struct cuda_expert_product *p, const int *ids, int first,
                            cudaStream_t stream)
{
    return launch_plain_experts<0>(p, ids, first, stream);
}
