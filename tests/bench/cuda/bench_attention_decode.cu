/* bench_attention_decode.cu - decode attention over a bf16 cache: heads, batch and context.
 *
 * GB/s are the bytes of the cached rows, 1152 each, over the time; TFLOP/s are
 * 2 x heads x rows x (576 + 512).  Pages lie in no order. */
// sources: kernels/cuda/attention_decode.cu kernels/cuda/attention_decode_narrow.cu kernels/cuda/attention_decode_wide.cu
#include "kernels/cuda/attention_decode.h"

#include "tests/bench/cuda/bench.h"

enum { PAGE_BYTES = 64 * DECODE_ROW * 2 };

static void bench(const void *cache, size_t n_pages, int heads, int batch, int context)
{
    const int n = bench_processors(), pages = (context + 63) / 64;
    const size_t of_copy = (size_t)batch * pages, queries = (size_t)batch * heads;
    if (of_copy > n_pages)
        return;
    const int copies = bench_copies(of_copy * PAGE_BYTES, n_pages * PAGE_BYTES);
    int *table = (int *)malloc(of_copy * copies * sizeof *table),
        *position = (int *)malloc(batch * sizeof *position);
    uint64_t seed = 1;
    for (size_t i = 0; i < of_copy * copies; i++)
        table[i] = (int)i;
    for (size_t i = of_copy * copies - 1; i > 0; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t j = (seed >> 33) % (i + 1);
        int other = table[i];
        table[i] = table[j];
        table[j] = other;
    }
    for (int i = 0; i < batch; i++)
        position[i] = context - 1;
    struct cuda_attention_decode p = {};
    int *device_table, *device_position;
    void *plan_memory;
    CUDA(cudaMalloc((void **)&device_table, of_copy * copies * sizeof *table));
    CUDA(cudaMalloc((void **)&device_position, batch * sizeof *position));
    CUDA(cudaMemcpy(device_table, table, of_copy * copies * sizeof *table, cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(device_position, position, batch * sizeof *position, cudaMemcpyHostToDevice));
    CUDA(cudaMalloc(&plan_memory, cuda_decode_plan_bytes(batch, n)));
    CUDA(cudaMalloc(&p.o, queries * DECODE_D_C * 2));
    CUDA(cudaMalloc((void **)&p.lse, queries * sizeof(float)));
    CUDA(cudaMalloc(&p.workspace, cuda_decode_workspace_bytes(1, heads, n)));
    p.q = bench_random_bf16(queries * DECODE_ROW);
    p.rows = cache;
    p.n_pages = (int64_t)n_pages;
    p.table_stride = pages;
    p.position = device_position;
    p.scale = 0.0722f;
    struct cuda_decode_plan plan;
    cuda_decode_plan_open(&plan, plan_memory, batch, 1, heads, n);
    CUDA(cuda_decode_schedule(&plan, device_position, 0));
    CUDA(cudaDeviceSynchronize());
    double us = bench_time(copies > 20        ? copies
                           : of_copy > 100000 ? 2
                                              : 20,
                           [&](int i, cudaStream_t stream) {
                               p.table = device_table + of_copy * (i % copies);
                               CUDA(cuda_attention_decode(&p, &plan, stream));
                           });
    double rows = (double)batch * context;
    printf("%5d %5d %8d %10.1f %8.0f %8.0f\n", heads, batch, context, us,
           rows * DECODE_ROW * 2 / us / 1e3,
           2 * rows * heads * (DECODE_ROW + DECODE_D_C) / us / 1e6);
    void *const memory[] = {device_table, device_position, plan_memory, p.o,
                            p.lse,        p.workspace,     (void *)p.q};
    for (void *m : memory)
        CUDA(cudaFree(m));
    free(table);
    free(position);
}

int main()
{
    static const int heads[] = {128, 64, 32, 16};
    static const int shapes[][2] = {{1, 1024},   {1, 4096},   {16, 8192},  {64, 4096},
                                    {128, 4096}, {128, 8192}, {32, 32768}, {128, 131072}};
    size_t left, all;
    printf("copy %.0f GB/s\n", bench_copy_gb_s());
    CUDA(cudaMemGetInfo(&left, &all));
    size_t n_pages = left / 10 * 8 / PAGE_BYTES, most = 128 * 2048 + 64;
    if (n_pages > most)
        n_pages = most;
    const void *cache = bench_random_bf16(n_pages * 64 * DECODE_ROW);
    printf("heads batch  context         us     GB/s  TFLOP/s\n");
    for (int h : heads)
        for (const int *shape : shapes)
            bench(cache, n_pages, h, shape[0], shape[1]);
    return 0;
}
