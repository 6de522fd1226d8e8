/* attention_decode_narrow.cu - decode attention of up to 32 queries of a sequence at once.
 *
 * Tensor cores multiply 64 rows at a time, so the cached rows are the M side:
 * S^T[64 rows, N] = K q^T, then O^T[512, N] += V^T P^T with V = the latent columns
 * of K in the same shared memory.  16 heads then waste nothing (FlashMLA-ETAP,
 * arXiv 2506.01969).
 *
 * Grid (groups of N queries, parts).  A block: two groups of 128 threads which
 * take every other page, each with its own softmax, and meet only at the end of
 * a sequence; one thread copies pages into a ring of tiles. */
// sass: HGMMA UTMALDG
#include "kernels/cuda/attention_decode.cuh"

template <int N> struct narrow {
    static constexpr int query_bytes = ROW_TILES * N * 128;
    static constexpr int slots = N == 16 ? 25 : 22; /* tiles of the ring */
    static constexpr int p_bytes = N * 128;         /* per group: P^T, later parts of O^T */
    static constexpr int p_offset = query_bytes + slots * TILE_BYTES;
    static constexpr int stats_offset = p_offset + 2 * p_bytes;
    /* largest scores [group][warp][N], sums [group][warp][N], largest of all [group][N] */
    static constexpr int stats_bytes = (2 * 4 * N * 2 + 2 * N) * 4;
    static constexpr int barrier_offset = stats_offset + stats_bytes;
    static constexpr int bytes = barrier_offset + (2 * slots + 2) * 8;
    static_assert(bytes <= 232448, "shared memory of a block");
    static_assert(query_bytes % 1024 == 0 && p_offset % 1024 == 0, "swizzled tiles");
};

enum {
    CONSUMERS = 256,
    THREADS = 384,
    BOTH_GROUPS = 3 /* barrier ids 1 and 2 belong to the groups */
};

/* A place in the ring of tiles: the slot, and how often the ring went round. */
template <int N> struct ring_place {
    int slot, parity;
    __device__ void advance(int tiles)
    {
        slot += tiles;
        if (slot >= narrow<N>::slots) {
            slot -= narrow<N>::slots;
            parity ^= 1;
        }
    }
    __device__ void advance_pages(int pages)
    {
        int tiles = slot + pages * ROW_TILES;
        slot = tiles % narrow<N>::slots;
        parity ^= tiles / narrow<N>::slots & 1;
    }
};

template <int N>
static __device__ void produce(const decode_args &args, const tensor_map *q_map,
                               const tensor_map *rows_map, unsigned char *shared, uint64_t *full,
                               uint64_t *empty, uint64_t *q_full, uint64_t *q_empty)
{
    unsigned char *ring = shared + narrow<N>::query_bytes;
    ring_place<N> place = {0, 0};
    int q_parity = 0;
    decode_run run;
    for (int next = 0; decode_next_run(&run, args, blockIdx.y, next); next = run.sequence + 1) {
        const int *table = decode_table(args, run.sequence);
        for (int page = run.begin; page < run.end; page++) {
            int y = max(table[page], 0) * 64;
            for (int tile = 0; tile < ROW_TILES; tile++) {
                mbarrier_wait(&empty[place.slot], place.parity ^ 1);
                mbarrier_arrive_expect(&full[place.slot], TILE_BYTES);
                tma_load_2d_once(ring + place.slot * TILE_BYTES, rows_map, &full[place.slot],
                                 tile * TILE_COLUMNS, y);
                place.advance(1);
            }
            if (page == run.begin) {
                int row = run.sequence * args.n_tokens * args.n_heads + blockIdx.x * N;
                mbarrier_wait(q_empty, q_parity ^ 1);
                mbarrier_arrive_expect(q_full, narrow<N>::query_bytes);
                for (int tile = 0; tile < ROW_TILES; tile++)
                    tma_load_2d(shared + tile * N * 128, q_map, q_full, tile * TILE_COLUMNS, row);
                q_parity ^= 1;
            }
        }
    }
}

/* The state of one group: thread t holds, of S^T and O^T, rows 16 warp + lane / 4 (+ 8), columns
 * 8 j + 2 (lane % 4) (+ 1), as wgmma lays its results out; statistics are per column. */
template <int N> struct narrow_state {
    float o[VALUE_TILES][N / 2];
    float m[N / 4], l[N / 4]; /* in powers of 2; l only of this thread's rows */
};

/* One page: scores, softmax, and its values added to the state. */
template <int N>
static __device__ __forceinline__ void
attend_page(narrow_state<N> &state, const int (&visible)[N / 4], int page_row, int rows, int masks,
            unsigned char *shared, ring_place<N> place, uint64_t *full, uint64_t *q_empty,
            int is_last, int group, float scale_log2)
{
    int thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
    unsigned char *ring = shared + narrow<N>::query_bytes;
    unsigned char *p = shared + narrow<N>::p_offset + group * narrow<N>::p_bytes;
    float *largest = (float *)(shared + narrow<N>::stats_offset) + group * 4 * N;
    int slot[ROW_TILES];
    float s[N / 2];

    ring_place<N> at = place;
#pragma unroll
    for (int tile = 0; tile < ROW_TILES; tile++) {
        slot[tile] = at.slot;
        mbarrier_wait(&full[at.slot], at.parity);
        wgmma_fence();
        uint64_t a = wgmma_descriptor(ring + at.slot * TILE_BYTES, 16, 1024);
        uint64_t b = wgmma_descriptor(shared + tile * N * 128, 16, 1024);
#pragma unroll
        for (int k = 0; k < K_STEPS; k++)
            wgmma_ss<N, 0, 0>(s, a + 2 * k, b + 2 * k, tile + k != 0);
        at.advance(1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    __syncwarp();
    if (is_last && lane == 0)
        mbarrier_arrive(q_empty);

    float m_new[N / 4];
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float &x = s[4 * j + 2 * h + e];
                int row = page_row + 16 * warp + lane / 4 + 8 * h;
                x = !masks || row < visible[2 * j + e] ? x * scale_log2 : -INFINITY;
            }
            float x = fmaxf(s[4 * j + e], s[4 * j + 2 + e]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2)
                x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
            if (lane < 4)
                largest[warp * N + 8 * j + 2 * lane + e] = x;
        }
    named_barrier_sync(1 + group, 128);
    if (rows - page_row <
        64) { /* rows past the end hold anything, also NaN, which 0 would not hide */
        int valid = max(rows - page_row, 0);
        for (int i = thread; i < (64 - valid) * 8 * VALUE_TILES; i += 128) {
            int tile = i / 8 % VALUE_TILES, row = valid + i / (8 * VALUE_TILES);
            int place_of = 0;
#pragma unroll
            for (int t = 0; t < VALUE_TILES; t++)
                place_of = t == tile ? slot[t] : place_of;
            *(uint4 *)(ring + place_of * TILE_BYTES + row * 128 + i % 8 * 16) =
                make_uint4(0, 0, 0, 0);
        }
    }
    float factor[N / 4];
    int rescales = 0;
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        int column = 8 * (i / 2) + 2 * (lane % 4) + i % 2;
        float x = state.m[i];
#pragma unroll
        for (int w = 0; w < 4; w++)
            x = fmaxf(x, largest[w * N + column]);
        m_new[i] = x;
        factor[i] = exp2_ratio(state.m[i], x);
        rescales |= state.m[i] != x;
        state.m[i] = x;
    }
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float m = m_new[2 * j + e] == -INFINITY ? 0 : m_new[2 * j + e];
            float low = exp2_approx(s[4 * j + e] - m), high = exp2_approx(s[4 * j + 2 + e] - m);
            s[4 * j + e] = low;
            s[4 * j + 2 + e] = high;
            state.l[2 * j + e] = state.l[2 * j + e] * factor[2 * j + e] + (low + high);
        }
        /* P^T as [N, 64 rows of the page]: what the products below read as their B */
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++) /* j, j with rows + 8, j + 1, j + 1 with rows + 8 */
            r[i] =
                pack_bf16(s[4 * (j + i / 2) + 2 * (i % 2)], s[4 * (j + i / 2) + 2 * (i % 2) + 1]);
        int column = 8 * (j + lane / 16) + lane % 8;
        stmatrix_x4_trans(swizzled(p, column, 2 * warp + lane / 8 % 2), r);
    }
    fence_proxy_async();
    if (__any_sync(0xffffffffu, rescales)) {
#pragma unroll
        for (int tile = 0; tile < VALUE_TILES; tile++)
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                state.o[tile][i] *= factor[i / 4 * 2 + i % 2];
    }
    named_barrier_sync(1 + group, 128);

    wgmma_fence();
    uint64_t b = wgmma_descriptor(p, 16, 1024);
#pragma unroll
    for (int k = 0; k < K_STEPS; k++)
#pragma unroll
        for (int tile = 0; tile < VALUE_TILES; tile++) {
            uint64_t a = wgmma_descriptor(ring + slot[tile] * TILE_BYTES, TILE_BYTES, 1024);
            wgmma_ss<N, 1, 0>(state.o[tile], a + 128 * k, b + 2 * k, 1);
        }
    wgmma_commit();
    wgmma_wait<0>();
}

/* Both groups' states to one result, written as bf16 or, for a cut sequence, to its slot. */
template <int N>
static __device__ __forceinline__ void finish_run(narrow_state<N> &state, const decode_args &args,
                                                  const decode_run &run, unsigned char *shared,
                                                  int group)
{
    int thread = threadIdx.x & 127, warp = thread / 32, lane = thread % 32;
    float *stats = (float *)(shared + narrow<N>::stats_offset);
    float *sums = stats + 2 * 4 * N, *largest = stats + 2 * 4 * N * 2;
    float mine[N / 4];
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        int column = 8 * (i / 2) + 2 * (lane % 4) + i % 2;
        float l = state.l[i];
#pragma unroll
        for (int step = 4; step < 32; step *= 2)
            l += __shfl_xor_sync(0xffffffffu, l, step);
        if (lane < 4) {
            sums[(group * 4 + warp) * N + column] = l;
            if (warp == 0)
                largest[group * N + column] = state.m[i];
        }
    }
    named_barrier_sync(BOTH_GROUPS, CONSUMERS);
    int n_columns = min(N, args.n_tokens * args.n_heads - (int)blockIdx.x * N);
    size_t slot = ((size_t)blockIdx.x * args.n_parts + blockIdx.y) * 2 + run.slot;
    size_t row = (size_t)run.sequence * args.n_tokens * args.n_heads + blockIdx.x * N;
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        int column = 8 * (i / 2) + 2 * (lane % 4) + i % 2;
        float m0 = largest[column], m1 = largest[N + column], m = fmaxf(m0, m1), l0 = 0, l1 = 0;
#pragma unroll
        for (int w = 0; w < 4; w++) {
            l0 += sums[w * N + column];
            l1 += sums[(4 + w) * N + column];
        }
        float l = l0 * exp2_ratio(m0, m) + l1 * exp2_ratio(m1, m);
        mine[i] = l == 0 ? 0 : exp2_ratio(state.m[i], m) / l; /* a NaN stays one */
        if (group == 0 && warp == 0 && lane < 4 && column < n_columns) {
            float lse = l == 0 ? -INFINITY : (m + log2f(l)) * LN_2;
            if (run.is_whole)
                decode_store_lse(args, (int64_t)(row + column), lse);
            else
                args.partial_lse[slot * N + column] = lse;
        }
    }
#pragma unroll
    for (int tile = 0; tile < VALUE_TILES; tile++)
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            state.o[tile][i] *= mine[i / 4 * 2 + i % 2];

    /* group 0 takes over the lower tiles of values, group 1 the upper; half a tile at a time through
     * the memory of P */
    float *give = (float *)(shared + narrow<N>::p_offset + group * narrow<N>::p_bytes) + thread;
    float *take =
        (float *)(shared + narrow<N>::p_offset + (group ^ 1) * narrow<N>::p_bytes) + thread;
#pragma unroll
    for (int round = 0; round < VALUE_TILES; round++) {
        int t = round / 2, i0 = round % 2 * (N / 4);
#pragma unroll
        for (int i = 0; i < N / 4; i++)
            give[i * 128] = group == 0 ? state.o[4 + t][i0 + i] : state.o[t][i0 + i];
        named_barrier_sync(BOTH_GROUPS, CONSUMERS);
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            float x = (group == 0 ? state.o[t][i0 + i] : state.o[4 + t][i0 + i]) + take[i * 128];
            int value = 64 * (t + 4 * group) + 16 * warp + lane / 4 + (i0 + i) / 2 % 2 * 8;
            int column = (i0 + i) / 4 * 8 + 2 * (lane % 4) + i % 2;
            if (column >= n_columns)
                continue;
            if (run.is_whole && !args.o_is_f32)
                ((__nv_bfloat16 *)args.o)[(row + column) * DECODE_D_C + value] =
                    __float2bfloat16(x);
            else if (run.is_whole)
                ((float *)args.o)[(row + column) * DECODE_D_C + value] = x;
            else
                args.partial_o[(slot * N + column) * DECODE_D_C + value] = x;
        }
        named_barrier_sync(BOTH_GROUPS, CONSUMERS);
    }
}

template <int N>
static __device__ void consume(const decode_args &args, unsigned char *shared, uint64_t *full,
                               uint64_t *empty, uint64_t *q_full, uint64_t *q_empty)
{
    int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
    ring_place<N> ring = {0, 0};
    int q_parity = 0, turn = 0; /* turn: the group that takes the next page */
    narrow_state<N> state;
    decode_run run;
    for (int next = 0; decode_next_run(&run, args, blockIdx.y, next); next = run.sequence + 1) {
        int visible[N / 4], all_visible = run.rows;
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            int column = blockIdx.x * N + 8 * (i / 2) + 2 * (lane % 4) + i % 2;
            int token = min(column / args.n_heads, args.n_tokens - 1);
            visible[i] = args.position[run.sequence * args.n_tokens + token] + 1;
            all_visible = min(all_visible, visible[i]);
            state.m[i] = -INFINITY;
            state.l[i] = 0;
        }
#pragma unroll
        for (int tile = 0; tile < VALUE_TILES; tile++)
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                state.o[tile][i] = 0;
        mbarrier_wait(q_full, q_parity);
        q_parity ^= 1;
        int page = run.begin + (group ^ turn);
        if (page >= run.end && lane == 0)
            mbarrier_arrive(q_empty); /* the other group has the only page */
        ring_place<N> place = ring;
        place.advance((group ^ turn) * ROW_TILES);
        for (; page < run.end; page += 2) {
            attend_page<N>(state, visible, page * 64, run.rows, page * 64 + 64 > all_visible,
                           shared, place, full, q_empty, page + 2 >= run.end, group,
                           args.scale_log2);
            __syncwarp();
            if (lane < ROW_TILES) {
                ring_place<N> at = place;
                at.advance(lane);
                mbarrier_arrive(&empty[at.slot]);
            }
            place.advance(ROW_TILES);
            place.advance(ROW_TILES);
        }
        ring.advance_pages(run.end - run.begin);
        turn = (turn + run.end - run.begin) & 1;
        finish_run<N>(state, args, run, shared, group);
    }
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1)
    attention_decode_narrow(const __grid_constant__ decode_args args,
                            const __grid_constant__ tensor_map q_map,
                            const __grid_constant__ tensor_map rows_map)
{
    DYNAMIC_SHARED(unsigned char, shared);
    uint64_t *full = (uint64_t *)(shared + narrow<N>::barrier_offset),
             *empty = full + narrow<N>::slots;
    uint64_t *q_full = empty + narrow<N>::slots, *q_empty = q_full + 1;
    if (threadIdx.x == 0) {
        tensor_map_prefetch(&rows_map);
        tensor_map_prefetch(&q_map);
        for (int i = 0; i < narrow<N>::slots; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4); /* the warps of the group that had the page */
        }
        mbarrier_init(q_full, 1);
        mbarrier_init(q_empty, 8); /* the warps of both groups */
        mbarrier_init_fence();
    }
    __syncthreads();
    dependents_launch();
    dependency_wait();
    if (__shfl_sync(0xffffffffu, threadIdx.x / 128, 0) == CONSUMERS / 128) {
        registers_lower<40>();
        if (threadIdx.x == CONSUMERS)
            produce<N>(args, &q_map, &rows_map, shared, full, empty, q_full, q_empty);
    } else {
        registers_raise<232>();
        consume<N>(args, shared, full, empty, q_full, q_empty);
    }
}

cudaError_t decode_launch_narrow(const decode_args &args, int n_columns, const tensor_map &q,
                                 const tensor_map &rows, cudaStream_t stream)
{
    dim3 grid((args.n_tokens * args.n_heads + n_columns - 1) / n_columns, args.n_parts);
    if (n_columns == 16)
        return launch_dependent(attention_decode_narrow<16>, grid, dim3(THREADS), narrow<16>::bytes,
                                stream, args, q, rows);
    return launch_dependent(attention_decode_narrow<32>, grid, dim3(THREADS), narrow<32>::bytes,
                            stream, args, q, rows);
}
