/* attention_decode_wide.cu - decode attention of 64 queries of a sequence at once.
 *
 * O[64, 512] fills half the registers of a multiprocessor, so two groups of 128
 * threads hold 256 columns each.  They take two pages at a time: group 0 makes
 * P = softmax(q K^T) of the first, group 1 of the second, and each multiplies
 * both by its half of the values (the split of FlashMLA's "seesaw", 2025-04).
 *
 * Unlike there, no group waits for the other's maximum: exponentials are taken
 * against a reference that both share and that need not be the maximum.  It is
 * raised only when a score exceeds it by 2^RAISE; the groups see each other's
 * raises when they exchange P, and only then rescale.  The result does not
 * depend on it: a softmax may be taken against any reference.
 *
 * Grid (groups of 64 queries, parts); one thread more copies tiles of pages. */
// sass: HGMMA UTMALDG
#include "kernels/cuda/attention_decode.cuh"

enum {
    M = 64,
    PAGE_BYTES = ROW_TILES * TILE_BYTES,
    ROPE_TILE = ROW_TILES - 1,
    HALF_TILES = VALUE_TILES / 2,
    ROWS_OFFSET = VALUE_TILES * TILE_BYTES, /* q without its RoPE part, which stays in registers */
    P_OFFSET = ROWS_OFFSET + 2 * PAGE_BYTES,
    REFERENCE_OFFSET = P_OFFSET + 2 * TILE_BYTES,
    SUM_OFFSET = REFERENCE_OFFSET + 2 * M * 4,
    RAISED_OFFSET = SUM_OFFSET + 2 * 2 * M * 4, /* sums of two runs: a group may be one ahead */
    BARRIER_OFFSET = RAISED_OFFSET + 2 * 4 * 4,
    N_BARRIERS = 2 * ROW_TILES + 2 * 3 + 2,
    SHARED_BYTES = BARRIER_OFFSET + N_BARRIERS * 8,
    CONSUMERS = 256,
    THREADS = 384,
    P_READY = 1, /* named barriers: P of group 0, of group 1 */
    BOTH_GROUPS = 3,
    OWN_GROUP = 4, /* and 5 */
    RAISE = 16
};
static_assert(SHARED_BYTES <= 232448, "shared memory of a block");

/* Page g of a pair lies in buffer g.  A buffer is freed in three parts: its RoPE tile by the group
 * whose page it is, each half of its values by the group that multiplies it. */
struct wide_barriers {
    uint64_t *full;  /* [2][ROW_TILES] */
    uint64_t *empty; /* [2][3]: values of group 0, of group 1, RoPE */
    uint64_t *q_full, *q_empty;
};

static __device__ void load_tiles(unsigned char *buffer, const tensor_map *map, uint64_t *full,
                                  uint64_t *empty, int parity, int first, int count, int y)
{
    mbarrier_wait(empty, parity ^ 1);
    for (int tile = first; tile < first + count; tile++) {
        mbarrier_arrive_expect(&full[tile], TILE_BYTES);
        tma_load_2d_once(buffer + tile * TILE_BYTES, map, &full[tile], tile * TILE_COLUMNS, y);
    }
}

static __device__ void produce(const decode_args &args, const tensor_map *q_map,
                               const tensor_map *rows_map, unsigned char *shared,
                               const wide_barriers &bar)
{
    unsigned char *buffer[2] = {shared + ROWS_OFFSET, shared + ROWS_OFFSET + PAGE_BYTES};
    int parity[2] = {0, 0}, q_parity = 0;
    decode_run run;
    for (int next = 0; decode_next_run(&run, args, blockIdx.y, next); next = run.sequence + 1) {
        const int *table = decode_table(args, run.sequence);
        for (int page = run.begin; page < run.end; page += 2) {
            int has_second = page + 1 < run.end;
            int y0 = max(table[page], 0) * 64, y1 = has_second ? max(table[page + 1], 0) * 64 : 0;
            uint64_t *full1 = bar.full + ROW_TILES, *empty1 = bar.empty + 3;
            /* in the order in which they are freed */
            load_tiles(buffer[0], rows_map, bar.full, bar.empty + 2, parity[0], ROPE_TILE, 1, y0);
            load_tiles(buffer[0], rows_map, bar.full, bar.empty + 0, parity[0], 0, HALF_TILES, y0);
            if (page == run.begin) {
                int row = run.sequence * args.n_tokens * args.n_heads + blockIdx.x * M;
                mbarrier_wait(bar.q_empty, q_parity ^ 1);
                mbarrier_arrive_expect(bar.q_full, VALUE_TILES * TILE_BYTES);
                for (int tile = 0; tile < VALUE_TILES; tile++)
                    tma_load_2d(shared + tile * TILE_BYTES, q_map, bar.q_full, tile * TILE_COLUMNS,
                                row);
                q_parity ^= 1;
            }
            load_tiles(buffer[0], rows_map, bar.full, bar.empty + 1, parity[0], HALF_TILES,
                       HALF_TILES, y0);
            if (has_second) {
                load_tiles(buffer[1], rows_map, full1, empty1 + 2, parity[1], ROPE_TILE, 1, y1);
                load_tiles(buffer[1], rows_map, full1, empty1 + 1, parity[1], HALF_TILES,
                           HALF_TILES, y1);
                load_tiles(buffer[1], rows_map, full1, empty1 + 0, parity[1], 0, HALF_TILES, y1);
                parity[1] ^= 1;
            }
            parity[0] ^= 1;
        }
    }
}

/* s[64, 64] = q K^T of this group's page; tiles in the order in which they arrive. */
static __device__ __forceinline__ void scores(float (&s)[M / 2],
                                              const uint32_t (&q_rope)[K_STEPS][4],
                                              unsigned char *shared, unsigned char *buffer,
                                              uint64_t *full, int parity, int group)
{
    mbarrier_wait(&full[ROPE_TILE], parity);
    wgmma_fence();
    uint64_t b = wgmma_descriptor(buffer + ROPE_TILE * TILE_BYTES, 16, 1024);
#pragma unroll
    for (int k = 0; k < K_STEPS; k++)
        wgmma_rs<64, 0>(s, q_rope[k], b + 2 * k, k != 0);
    uint64_t q0 = wgmma_descriptor(shared, 16, 1024), k0 = wgmma_descriptor(buffer, 16, 1024);
#pragma unroll
    for (int i = 0; i < VALUE_TILES; i++) {
        int tile = i ^ (group * HALF_TILES);
        mbarrier_wait(&full[tile], parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K_STEPS; k++)
            wgmma_ss<64, 0, 0>(s, q0 + tile * (TILE_BYTES / 16) + 2 * k,
                               k0 + tile * (TILE_BYTES / 16) + 2 * k, 1);
    }
    wgmma_commit();
}

static __device__ __forceinline__ void scale_rows(float (&o)[M * 2], float (&l)[2], float factor0,
                                                  float factor1)
{
    l[0] *= factor0;
    l[1] *= factor1;
#pragma unroll
    for (int i = 0; i < M * 2; i++)
        o[i] *= i / 2 % 2 == 0 ? factor0 : factor1;
}

/* What a group needs of the other's page. */
struct other_page {
    uint64_t p, v;           /* descriptors: P[64, 64], our half of the values */
    uint64_t *full;          /* of these values */
    const int *raised;       /* [4] */
    const float *references; /* of our rows */
    int barrier;
};

/* o += P V with the other group's P.  Its reference, which is never the lower one, is adopted first. */
static __device__ __forceinline__ void multiply_other(float (&o)[M * 2], float (&l)[2],
                                                      float (&reference)[2], const other_page &page,
                                                      int parity)
{
    named_barrier_sync(page.barrier, CONSUMERS);
#pragma unroll
    for (int tile = 0; tile < HALF_TILES; tile++)
        mbarrier_wait(&page.full[tile], parity);
    if ((page.raised[0] | page.raised[1] | page.raised[2] | page.raised[3]) != 0) {
        wgmma_wait<0>(); /* the compiler keeps products in flight only when nothing else writes o */
        float theirs[2] = {page.references[0], page.references[8]};
        scale_rows(o, l, exp2_ratio(reference[0], theirs[0]), exp2_ratio(reference[1], theirs[1]));
        reference[0] = theirs[0];
        reference[1] = theirs[1];
    }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < K_STEPS; k++)
        wgmma_ss<256, 0, 1>(o, page.p + 2 * k, page.v + 128 * k, 1);
    wgmma_commit();
}

/* Group 0 has the first page of a pair, group 1 the second.  Group 1 multiplies the first page's values
 * beside its own softmax, so that they are free early; group 0 makes the scores of the next pair while
 * group 1 finishes. */
template <int GROUP>
static __device__ void consume(const decode_args &args, unsigned char *shared,
                               const wide_barriers &bar)
{
    constexpr int other = GROUP ^ 1;
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    unsigned char *own_buffer = shared + ROWS_OFFSET + GROUP * PAGE_BYTES;
    unsigned char *other_buffer = shared + ROWS_OFFSET + other * PAGE_BYTES;
    unsigned char *own_p = shared + P_OFFSET + GROUP * TILE_BYTES;
    float *references = (float *)(shared + REFERENCE_OFFSET);
    int *raised = (int *)(shared + RAISED_OFFSET);
    uint64_t *own_full = bar.full + GROUP * ROW_TILES;
    uint64_t *own_empty = bar.empty + GROUP * 3, *other_empty = bar.empty + other * 3;
    const uint64_t own_v =
        wgmma_descriptor(own_buffer + GROUP * HALF_TILES * TILE_BYTES, TILE_BYTES, 1024);
    const int r0 = 16 * warp + lane / 4, n_queries = args.n_tokens * args.n_heads;
    const other_page other_values = {
        wgmma_descriptor(shared + P_OFFSET + other * TILE_BYTES, 16, 1024),
        wgmma_descriptor(other_buffer + GROUP * HALF_TILES * TILE_BYTES, TILE_BYTES, 1024),
        bar.full + other * ROW_TILES + GROUP * HALF_TILES,
        raised + other * 4,
        references + other * M + r0,
        P_READY + other,
    };
    int own_parity = 0, other_parity = 0, q_parity = 0;
    decode_run run;

    for (int next = 0; decode_next_run(&run, args, blockIdx.y, next); next = run.sequence + 1) {
        const size_t first_query = (size_t)run.sequence * n_queries;
        uint32_t q_rope[K_STEPS][4]; /* as the A side of a product */
        int visible[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int query = min((int)blockIdx.x * M + r0 + 8 * h, n_queries - 1);
            const __nv_bfloat16 *q =
                args.q + (first_query + query) * DECODE_ROW + DECODE_D_C + 2 * (lane % 4);
#pragma unroll
            for (int k = 0; k < K_STEPS; k++) {
                q_rope[k][h] = *(const uint32_t *)(q + 16 * k);
                q_rope[k][2 + h] = *(const uint32_t *)(q + 16 * k + 8);
            }
            visible[h] = args.position[run.sequence * args.n_tokens + query / args.n_heads] + 1;
        }
        const int all_see = args.position[run.sequence * args.n_tokens] + 1;
        float o[M * 2], reference[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < M * 2; i++)
            o[i] = 0;
        mbarrier_wait(bar.q_full, q_parity);
        q_parity ^= 1;
        if (run.begin + GROUP >= run.end && lane == 0)
            mbarrier_arrive(bar.q_empty);

        for (int pair = run.begin; pair < run.end; pair += 2) {
            const int own_page = pair + GROUP, has_own = own_page < run.end,
                      has_other = pair + other < run.end;
            float s[M / 2];
            if (has_own) {
                scores(s, q_rope, shared, own_buffer, own_full, own_parity, GROUP);
                if (GROUP == 1)
                    multiply_other(o, l, reference, other_values, other_parity);
                wgmma_wait<GROUP>(); /* group 1 has the other page's values in flight */
                __syncwarp();
                if (lane == 0) {
                    mbarrier_arrive(&own_empty[2]);
                    if (own_page + 2 >= run.end)
                        mbarrier_arrive(bar.q_empty);
                }
                const int valid = max(run.rows - own_page * 64, 0);
                if (valid <
                    64) { /* rows past the end hold anything, also NaN, which 0 would not hide */
                    named_barrier_sync(OWN_GROUP + GROUP, 128); /* their scores are made */
                    for (int i = thread; i < (64 - valid) * 8 * VALUE_TILES; i += 128)
                        *(uint4 *)(own_buffer + i / 8 % VALUE_TILES * TILE_BYTES +
                                   (valid + i / (8 * VALUE_TILES)) * 128 + i % 8 * 16) =
                            make_uint4(0, 0, 0, 0);
                    fence_proxy_async();
                    named_barrier_sync(OWN_GROUP + GROUP, 128);
                }

                if (own_page * 64 + 64 > all_see) {
#pragma unroll
                    for (int i = 0; i < M / 2; i++) {
                        int row = own_page * 64 + i / 4 * 8 + 2 * (lane % 4) + i % 2;
                        s[i] = row < visible[i / 2 % 2] ? s[i] : -INFINITY;
                    }
                }
                float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
                for (int i = 0; i < M / 2; i++)
                    largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], s[i]);
                /* no thread needs the maximum of its row unless one of them must raise the reference */
                int raises = 0;
#pragma unroll
                for (int h = 0; h < 2; h++)
                    raises |= largest[h] * args.scale_log2 > reference[h] + RAISE;
                raises = __any_sync(0xffffffffu, raises);
                if (raises) {
                    wgmma_wait<0>();
                    float factor[2];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 1));
                        largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], 2));
                        float raised_to = fmaxf(largest[h] * args.scale_log2, reference[h]);
                        factor[h] = exp2_ratio(reference[h], raised_to);
                        reference[h] = raised_to;
                    }
                    scale_rows(o, l, factor[0], factor[1]);
                }
                uint32_t p[K_STEPS][4];
                float zero[2]; /* the exponent's offset; nothing visible yet: any */
#pragma unroll
                for (int h = 0; h < 2; h++)
                    zero[h] = reference[h] == -INFINITY ? 0 : reference[h];
#pragma unroll
                for (int i = 0; i < M / 2; i++) {
                    s[i] = exp2_approx(fmaf(s[i], args.scale_log2, -zero[i / 2 % 2]));
                    l[i / 2 % 2] += s[i];
                }
#pragma unroll
                for (int k = 0; k < K_STEPS; k++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        p[k][i] = pack_bf16(s[8 * k + i / 2 * 4 + i % 2 * 2],
                                            s[8 * k + i / 2 * 4 + i % 2 * 2 + 1]);
                if (GROUP == 1) {
                    wgmma_wait<0>();
                    __syncwarp();
                    if (lane == 0)
                        mbarrier_arrive(&other_empty[GROUP]);
                }
                wgmma_fence();
#pragma unroll
                for (int k = 0; k < K_STEPS; k++)
                    wgmma_rs<256, 1>(o, p[k], own_v + 128 * k, 1);
                wgmma_commit();
                /* to the other group, beside our product */
#pragma unroll
                for (int k = 0; k < K_STEPS; k++)
                    stmatrix_x4(swizzled(own_p, 16 * warp + lane % 16, 2 * k + lane / 16), p[k]);
                if (lane % 4 == 0) {
                    references[GROUP * M + r0] = reference[0];
                    references[GROUP * M + r0 + 8] = reference[1];
                }
                if (lane == 0)
                    raised[GROUP * 4 + warp] = raises;
                fence_proxy_async();
                named_barrier_arrive(P_READY + GROUP, CONSUMERS);
                wgmma_wait<0>();
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(&own_empty[GROUP]);
            }
            if (GROUP == 0 ? has_other : !has_own) {
                multiply_other(o, l, reference, other_values, other_parity);
                wgmma_wait<0>();
                __syncwarp();
                if (lane == 0)
                    mbarrier_arrive(&other_empty[GROUP]);
            }
            own_parity ^= has_own;
            other_parity ^= has_other;
        }

        /* both groups hold the same reference now */
        float *sums = (float *)(shared + SUM_OFFSET) + q_parity * 2 * M;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            l[h] += __shfl_xor_sync(0xffffffffu, l[h], 1);
            l[h] += __shfl_xor_sync(0xffffffffu, l[h], 2);
            if (lane % 4 == 0)
                sums[GROUP * M + r0 + 8 * h] = l[h];
        }
        named_barrier_sync(BOTH_GROUPS, CONSUMERS);
        const size_t slot = ((size_t)blockIdx.x * args.n_parts + blockIdx.y) * 2 + run.slot;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = r0 + 8 * h, query = blockIdx.x * M + row;
            if (query >= n_queries)
                continue;
            float sum = sums[row] + sums[M + row], scale = sum == 0 ? 0 : 1 / sum;
            float lse = sum == 0 ? -INFINITY : (reference[h] + log2f(sum)) * LN_2;
            if (GROUP == 0 && lane % 4 == 0) {
                if (run.is_whole)
                    decode_store_lse(args, (int64_t)(first_query + query), lse);
                else
                    args.partial_lse[slot * M + row] = lse;
            }
            size_t column = GROUP * 256 + 2 * (lane % 4);
            size_t at = (first_query + query) * DECODE_D_C + column;
            float *to = run.is_whole ? (float *)args.o + at
                                     : args.partial_o + (slot * M + row) * DECODE_D_C + column;
#pragma unroll
            for (int j = 0; j < 32; j++) {
                float x = o[4 * j + 2 * h] * scale, y = o[4 * j + 2 * h + 1] * scale;
                if (run.is_whole && !args.o_is_f32)
                    *(uint32_t *)((__nv_bfloat16 *)args.o + at + 8 * j) = pack_bf16(x, y);
                else
                    *(float2 *)(to + 8 * j) = make_float2(x, y);
            }
        }
    }
}

static __global__ void __launch_bounds__(THREADS, 1)
    attention_decode_wide(const __grid_constant__ decode_args args,
                          const __grid_constant__ tensor_map q_map,
                          const __grid_constant__ tensor_map rows_map)
{
    DYNAMIC_SHARED(unsigned char, shared);
    wide_barriers bar;
    bar.full = (uint64_t *)(shared + BARRIER_OFFSET);
    bar.empty = bar.full + 2 * ROW_TILES;
    bar.q_full = bar.empty + 2 * 3;
    bar.q_empty = bar.q_full + 1;
    if (threadIdx.x == 0) {
        tensor_map_prefetch(&rows_map);
        tensor_map_prefetch(&q_map);
        for (int i = 0; i < 2 * ROW_TILES; i++)
            mbarrier_init(&bar.full[i], 1);
        for (int i = 0; i < 2 * 3; i++)
            mbarrier_init(&bar.empty[i], 4); /* the warps of one group */
        mbarrier_init(bar.q_full, 1);
        mbarrier_init(bar.q_empty, 8); /* the warps of both */
        mbarrier_init_fence();
    }
    __syncthreads();
    dependents_launch();
    dependency_wait();
    const int role = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (role == CONSUMERS / 128) {
        registers_lower<40>();
        if (threadIdx.x == CONSUMERS)
            produce(args, &q_map, &rows_map, shared, bar);
    } else {
        registers_raise<232>();
        if (role == 0)
            consume<0>(args, shared, bar);
        else
            consume<1>(args, shared, bar);
    }
}

cudaError_t decode_launch_wide(const decode_args &args, const tensor_map &q, const tensor_map &rows,
                               cudaStream_t stream)
{
    dim3 grid((args.n_tokens * args.n_heads + M - 1) / M, args.n_parts);
    return launch_dependent(attention_decode_wide, grid, dim3(THREADS), SHARED_BYTES, stream, args,
                            q, rows);
}
