/* attention_decode.cu - the schedule of decode attention, its launch, and the merge of cut sequences. */
#include "kernels/cuda/attention_decode.cuh"

enum {
    OVERHEAD_PAGES = 4, /* what starting a sequence costs, at most, in pages */
    LEAST_SHARE =
        2, /* pages of a part: both groups of a block have one, and there is less to merge */
    SCHEDULE_THREADS = 1024,
    MERGE_WAYS = 8,                /* parts of a sequence that are read side by side, at most */
    MERGE_THREADS = DECODE_D_C / 4 /* four columns a thread */
};

/* Queries of a sequence that one block takes: fewer waste tensor work, more read rows less often. */
static int columns_of_group(int n_queries)
{
    return n_queries <= 16 ? 16 : n_queries <= 32 ? 32 : 64;
}
static int n_groups(int n_queries)
{
    int columns = columns_of_group(n_queries);
    return (n_queries + columns - 1) / columns;
}
static int n_parts(int n_queries, int n_processors)
{
    int groups = n_groups(n_queries);
    return n_processors > groups ? n_processors / groups : 1;
}

/* One block.  cost[s] becomes the pages of all sequences before s, each with an overhead behind it; a
 * part is an equal share of the sum, and a part that would begin in an overhead begins behind it. */
static __global__ void __launch_bounds__(SCHEDULE_THREADS)
    schedule(const cuda_decode_plan plan, const int *position)
{
    DYNAMIC_SHARED(int, sum);
    const int thread = threadIdx.x, n = plan.n_sequences;
    const int begin = (int)((int64_t)n * thread / SCHEDULE_THREADS);
    const int end = (int)((int64_t)n * (thread + 1) / SCHEDULE_THREADS);
    dependents_launch();
    dependency_wait();
    int pages = 0;
    for (int s = begin; s < end; s++)
        pages += decode_pages(position[s * plan.n_tokens + plan.n_tokens - 1] + 1);
    sum[thread] = pages;
    for (int step = 1; step < SCHEDULE_THREADS; step *= 2) { /* inclusive sums */
        __syncthreads();
        int x = thread >= step ? sum[thread - step] : 0;
        __syncthreads();
        sum[thread] += x;
    }
    __syncthreads();
    const int total_pages = sum[SCHEDULE_THREADS - 1];
    const int overhead = min((int)OVERHEAD_PAGES, total_pages / plan.n_parts / 4);
    int before = sum[thread] - pages + begin * overhead;
    for (int s = begin; s < end; s++) {
        plan.cost[s] = before;
        before += decode_pages(position[s * plan.n_tokens + plan.n_tokens - 1] + 1) + overhead;
    }
    const int total = total_pages + n * overhead;
    if (thread == 0)
        plan.cost[n] = total;
    __syncthreads();
    const int share = max((int)LEAST_SHARE, (total + plan.n_parts - 1) / plan.n_parts);
    for (int part = thread; part <= plan.n_parts; part += SCHEDULE_THREADS) {
        int64_t x = (int64_t)part * share;
        int low = 0, high = n; /* the last sequence with cost <= x */
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (plan.cost[middle] <= x)
                low = middle;
            else
                high = middle;
        }
        int page = (int)min(x - plan.cost[low], (int64_t)total);
        int in_overhead = x >= plan.cost[low + 1] - overhead;
        plan.bound[2 * part] = in_overhead ? low + 1 : low;
        plan.bound[2 * part + 1] = in_overhead ? 0 : page;
    }
    for (int s = thread; s < n; s += SCHEDULE_THREADS) {
        plan.part_of[2 * s] = plan.cost[s] / share;
        plan.part_of[2 * s + 1] = (plan.cost[s + 1] - overhead - 1) / share;
    }
}

/* Block (query, i): the parts of a cut sequence to one result; i is the sequence or, when there are fewer
 * parts than sequences, the part in which it begins.  Threads [MERGE_THREADS, ways]: the ways read every
 * ways-th part. */
static __global__ void __launch_bounds__(MERGE_THREADS *MERGE_WAYS)
    merge(const decode_args args, const int *part_of, int columns)
{
    DYNAMIC_SHARED(float4, sums);
    dependents_launch();
    dependency_wait();
    const int query = blockIdx.x, n_queries = args.n_tokens * args.n_heads, ways = blockDim.y;
    int sequence = blockIdx.y;
    if (args.n_sequences > args.n_parts) {
        if (args.bound[2 * blockIdx.y + 3] == 0)
            return; /* the next part begins a sequence */
        sequence = args.bound[2 * blockIdx.y + 2];
        if (part_of[2 * sequence] != (int)blockIdx.y)
            return;
    }
    const int first = part_of[2 * sequence], last = part_of[2 * sequence + 1];
    if (first == last)
        return;
    const size_t group_slots = (size_t)(query / columns) * args.n_parts;
    const int column = query % columns, thread = threadIdx.x, way = threadIdx.y;
    /* only the first part may have begun in an earlier sequence */
    const int first_slot = args.bound[2 * first] == sequence ? 0 : 1;

    float largest = -INFINITY;
    for (int part = first + thread % 32; part <= last; part += 32)
        largest =
            fmaxf(largest,
                  args.partial_lse[((group_slots + part) * 2 + (part == first ? first_slot : 0)) *
                                       columns +
                                   column]);
    for (int step = 16; step > 0; step /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    const float reference = largest == -INFINITY ? 0 : largest;

    float4 o = make_float4(0, 0, 0, 0);
    float l = 0;
#pragma unroll 8
    for (int part = first + way; part <= last; part += ways) {
        size_t slot =
            ((group_slots + part) * 2 + (part == first ? first_slot : 0)) * columns + column;
        float4 x = *(const float4 *)(args.partial_o + slot * DECODE_D_C + 4 * thread);
        float weight = expf(args.partial_lse[slot] - reference);
        l += weight;
        o.x += weight * x.x;
        o.y += weight * x.y;
        o.z += weight * x.z;
        o.w += weight * x.w;
    }
    float *weights = (float *)(sums + ways * MERGE_THREADS);
    sums[way * MERGE_THREADS + thread] = o;
    if (thread == 0)
        weights[way] = l;
    __syncthreads();
    if (way > 0)
        return;
    l = 0;
    o = make_float4(0, 0, 0, 0);
    for (int i = 0; i < ways; i++) {
        float4 x = sums[i * MERGE_THREADS + thread];
        l += weights[i];
        o.x += x.x;
        o.y += x.y;
        o.z += x.z;
        o.w += x.w;
    }
    const float scale = l == 0 ? 0 : 1 / l;
    const size_t row = (size_t)sequence * n_queries + query;
    const size_t at = row * DECODE_D_C + 4 * thread;
    o = make_float4(o.x * scale, o.y * scale, o.z * scale, o.w * scale);
    if (args.o_is_f32)
        *(float4 *)((float *)args.o + at) = o;
    else
        *(uint2 *)((__nv_bfloat16 *)args.o + at) =
            make_uint2(pack_bf16(o.x, o.y), pack_bf16(o.z, o.w));
    if (thread == 0)
        decode_store_lse(args, (int64_t)row, l == 0 ? -INFINITY : reference + logf(l));
}

size_t cuda_decode_plan_bytes(int n_sequences, int n_processors)
{
    return sizeof(int) *
           ((size_t)2 * (n_processors + 1) + (size_t)2 * n_sequences + (size_t)n_sequences + 1);
}

size_t cuda_decode_workspace_bytes(int n_tokens, int n_heads, int n_processors)
{
    int n_queries = n_tokens * n_heads;
    size_t rows = (size_t)n_groups(n_queries) * n_parts(n_queries, n_processors) * 2 *
                  columns_of_group(n_queries);
    return rows * (DECODE_D_C + 1) * sizeof(float);
}

void cuda_decode_plan_open(struct cuda_decode_plan *plan, void *memory, int n_sequences,
                           int n_tokens, int n_heads, int n_processors)
{
    plan->n_sequences = n_sequences;
    plan->n_tokens = n_tokens;
    plan->n_heads = n_heads;
    plan->n_parts = n_parts(n_tokens * n_heads, n_processors);
    plan->bound = (int *)memory;
    plan->part_of = plan->bound + 2 * (plan->n_parts + 1);
    plan->cost = plan->part_of + 2 * n_sequences;
}

int cuda_decode_schedule(const struct cuda_decode_plan *plan, const int *position,
                         cudaStream_t stream)
{
    return launch_dependent(schedule, dim3(1), dim3(SCHEDULE_THREADS),
                            SCHEDULE_THREADS * sizeof(int), stream, *plan, position);
}

int cuda_attention_decode(const struct cuda_attention_decode *params,
                          const struct cuda_decode_plan *plan, cudaStream_t stream)
{
    const int n_queries = plan->n_tokens * plan->n_heads, columns = columns_of_group(n_queries);
    decode_args args = {};
    args.table = params->table;
    args.position = params->position;
    args.bound = plan->bound;
    args.table_stride = params->table_stride;
    args.n_sequences = plan->n_sequences;
    args.n_tokens = plan->n_tokens;
    args.n_heads = plan->n_heads;
    args.n_parts = plan->n_parts;
    args.q = (const __nv_bfloat16 *)params->q;
    args.scale_log2 = params->scale / LN_2;
    args.o = params->o;
    args.o_is_f32 = params->o_is_f32;
    args.lse = params->lse;
    args.ones = params->ones;
    args.table_row = params->table_row;
    args.partial_lse = (float *)params->workspace;
    size_t slots = (size_t)n_groups(n_queries) * plan->n_parts * 2 * columns;
    args.partial_o = args.partial_lse + slots;

    tensor_map q, rows;
    cudaError_t error = tensor_map_2d(&q, params->q, DECODE_ROW,
                                      (int64_t)plan->n_sequences * n_queries, DECODE_ROW, columns);
    if (error == cudaSuccess)
        error =
            tensor_map_2d(&rows, params->rows, DECODE_ROW, params->n_pages * 64, DECODE_ROW, 64);
    if (error != cudaSuccess)
        return error;
    error = columns == 64 ? decode_launch_wide(args, q, rows, stream)
                          : decode_launch_narrow(args, columns, q, rows, stream);
    if (error != cudaSuccess)
        return error;
    int ways = plan->n_parts / plan->n_sequences;
    ways = ways < 1 ? 1 : ways > MERGE_WAYS ? MERGE_WAYS : ways;
    int sequences = plan->n_sequences < plan->n_parts ? plan->n_sequences : plan->n_parts;
    size_t shared = ways * (MERGE_THREADS * sizeof(float4) + sizeof(float));
    return launch_dependent(merge, dim3(n_queries, sequences), dim3(MERGE_THREADS, ways), shared,
                            stream, args, (const int *)plan->part_of, columns);
}
