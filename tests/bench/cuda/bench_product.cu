/* bench_product.cu - products with packed weights, and experts, of V2-Lite and V3 shapes.
 *
 * GB/s are the bytes of the weights (those of the experts that have tokens) over the time. */
// sources: kernels/core/*.c kernels/cuda/product.cu kernels/cuda/experts.cu
#include "kernels/cuda/experts.h"
#include "kernels/cuda/product.h"

#include "tests/bench/cuda/bench.h"

static const char *const type_names[] = {"f32", "f16", "bf16", "f8", "i4"};
static const size_t pool_bytes = (size_t)8 << 30;
static char *pool;
static void *scales;
static float *workspace;

static size_t weight_bytes(enum product_type type, size_t numbers)
{
    return type == PRODUCT_BF16 ? numbers * 2 : type == PRODUCT_F8 ? numbers : numbers / 2;
}

static struct cuda_matrix matrix_of(enum product_type type, int count, int n, int k, size_t at)
{
    struct cuda_matrix w = {};
    w.data = pool + at;
    w.type = type;
    w.count = count;
    w.n = n;
    w.k = k;
    w.matrix_bytes = (int64_t)weight_bytes(type, (size_t)n * k);
    if (type != PRODUCT_BF16) {
        w.scales = scales;
        w.step = type == PRODUCT_F8 ? 128 : 32;
        w.groups = k / w.step;
        w.scale_bytes = (int64_t)n * w.groups * 4;
    }
    return w;
}

static void bench_one(enum product_type type, int count, int n, int k, int rows)
{
    const size_t bytes = weight_bytes(type, (size_t)count * n * k);
    const int copies = bench_copies(bytes, pool_bytes);
    struct cuda_product p = {};
    CUDA(cudaMalloc((void **)&p.y, (size_t)rows * count * n * sizeof(float)));
    void *x = bench_random_bf16((size_t)rows * count * k);
    p.x = x;
    p.y_row = (int64_t)count * n;
    p.y_matrix = n;
    p.x_row = (int64_t)count * k;
    p.x_matrix = k;
    p.rows = rows;
    p.workspace = workspace;
    p.n_processors = bench_processors();
    double us = bench_time(copies > 20 ? copies : 20, [&](int i, cudaStream_t stream) {
        p.w = matrix_of(type, count, n, k, bytes * (i % copies));
        CUDA(cuda_product_tensor(&p, stream));
    });
    printf("%-5s %3d x [%6d, %5d] %5d rows %10.1f us %7.0f GB/s %6.0f TFLOP/s\n", type_names[type],
           count, n, k, rows, us, (double)bytes / us / 1e3, 2.0 * rows * count * n * k / us / 1e6);
    CUDA(cudaFree(p.y));
    CUDA(cudaFree(x));
}

static void bench_experts(enum product_type type, int count, int width, int columns, int tokens,
                          int choices)
{
    const int pairs = tokens * choices, touched_most = pairs < count ? pairs : count;
    const size_t bytes = weight_bytes(type, (size_t)count * width * columns);
    int *ids = (int *)malloc(pairs * sizeof *ids), touched = 0;
    char *is_touched = (char *)calloc(count, 1);
    uint64_t seed = 7;
    for (int t = 0; t < tokens; t++) /* `choices` different ones of a token */
        for (int i = 0; i < choices; i++) {
            int id, is_new;
            do {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                id = (int)((seed >> 33) % count);
                is_new = 1;
                for (int j = 0; j < i; j++)
                    is_new = is_new && ids[t * choices + j] != id;
            } while (!is_new);
            ids[t * choices + i] = id;
            touched += !is_touched[id];
            is_touched[id] = 1;
        }
    int *device_ids, *lists;
    float *y, *u;
    void *h, *x = bench_random_bf16((size_t)tokens * width),
             *weights = bench_random(pairs * 4, 0x7fffff, 0x3d000000);
    CUDA(cudaMalloc((void **)&device_ids, pairs * sizeof *ids));
    CUDA(cudaMemcpy(device_ids, ids, pairs * sizeof *ids, cudaMemcpyHostToDevice));
    CUDA(cudaMalloc((void **)&lists, (2 * count + 2 + pairs) * sizeof *lists));
    CUDA(cudaMalloc((void **)&y, (size_t)pairs * width * sizeof *y));
    CUDA(cudaMalloc((void **)&u, (size_t)tokens * width * sizeof *u));
    CUDA(cudaMalloc(&h, (size_t)pairs * columns * 2));
    const struct cuda_expert_lists l = {lists, lists + count + 1, lists + count + 1 + pairs,
                                        lists + 2 * count + 1 + pairs};
    const int copies = bench_copies(3 * bytes, pool_bytes);
    double us = bench_time(20, [&](int i, cudaStream_t stream) {
        const size_t at = 3 * bytes * (i % copies);
        struct cuda_expert_product p = {};
        CUDA(cuda_experts_list(&l, device_ids, pairs, 0, count, stream));
        p.product.w = matrix_of(type, count, columns, width, at);
        p.up = matrix_of(type, count, columns, width, at + bytes);
        p.product.x = x;
        p.product.x_row = width;
        p.product.y = (float *)h;
        p.product.y_row = columns;
        p.product.rows = pairs;
        p.product.n_processors = bench_processors();
        p.expert = l.expert;
        p.n_active = l.n_active;
        p.begin = l.begin;
        p.pair = l.pair;
        p.choices = choices;
        p.max_active = touched_most;
        CUDA(cuda_experts_gate_up(&p, stream));
        p.product.w = matrix_of(type, count, width, columns, at + 2 * bytes);
        p.product.x = h;
        p.product.x_row = columns;
        p.product.y = y;
        p.product.y_row = width;
        p.choices = 1;
        CUDA(cuda_experts_down(&p, stream));
        CUDA(cuda_experts_combine(u, width, y, device_ids, (const float *)weights, tokens, choices,
                                  width, 0, count, stream));
    });
    double read = 3.0 * (double)bytes / count * touched;
    printf("%-5s %3d experts [%d, %d], %d of them for %d tokens: %.1f us %.0f GB/s %.0f TFLOP/s\n",
           type_names[type], count, columns, width, touched, tokens, us, read / us / 1e3,
           6.0 * pairs * width * columns / us / 1e6);
    void *const memory[] = {device_ids, lists, y, u, h, x, weights};
    for (void *m : memory)
        CUDA(cudaFree(m));
    free(ids);
    free(is_touched);
}

int main()
{
    printf("copy %.0f GB/s\n", bench_copy_gb_s());
    pool = (char *)bench_random(pool_bytes, 0x83ff83ffu, 0x3c003c00u);
    scales = bench_random((size_t)64 << 20, 0x7fffffu, 0x3c000000u);
    CUDA(cudaMalloc((void **)&workspace, cuda_product_workspace_bytes()));
    CUDA(cudaMemset(workspace, 0, cuda_product_workspace_bytes()));
    static const int rows[] = {1, 8, 16, 64, 512};
    static const int shapes[][3] = {{1, 3072, 2048}, {1, 576, 2048},    {1, 2048, 2048},
                                    {16, 512, 128},  {1, 102400, 2048}, {1, 7168, 16384}};
    for (int r : rows)
        for (const int *s : shapes)
            bench_one(PRODUCT_BF16, s[0], s[1], s[2], r);
    for (int r = 1; r <= 16; r *= 16) {
        bench_one(PRODUCT_F8, 1, 7168, 16384, r);
        bench_one(PRODUCT_I4, 1, 7168, 16384, r);
    }
    static const int tokens[] = {1, 8, 64, 683};
    for (int t : tokens)
        bench_experts(PRODUCT_BF16, 64, 2048, 1408, t, 6);
    for (int t = 1; t <= 64; t *= 64) {
        bench_experts(PRODUCT_F8, 32, 7168, 2048, t, 8);
        bench_experts(PRODUCT_I4, 32, 7168, 2048, t, 8);
    }
    return 0;
}
