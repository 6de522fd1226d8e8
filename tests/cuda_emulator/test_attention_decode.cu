/* test_attention_decode.cu - decode attention against a plain softmax in double precision. */
// sources: kernels/cuda/attention_decode.cu kernels/cuda/attention_decode_narrow.cu kernels/cuda/attention_decode_wide.cu
#include "kernels/cuda/attention_decode.h"

#include "tests/cuda_emulator/check.h"

#include <math.h>

enum { D_C = DECODE_D_C, ROW = DECODE_ROW, MAX_SEQUENCES = 32 };

struct shape {
    int heads, tokens; /* tokens: queries of a sequence, at its last positions */
    int processors;
    float q_scale; /* 0: all rows alike; large: one row has all the weight */
    float drift;   /* later rows are longer, so that the reference of a softmax must rise */
    int n, length[MAX_SEQUENCES]; /* rows of each sequence; 0: an idle one */
};

/* The device's own where there is one, so that cuts fall as they do in use. */
static int processors(const struct shape *s)
{
#ifdef __CUDACC__
    struct cudaDeviceProp properties;
    CUDA(cudaGetDeviceProperties(&properties, 0));
    return s->processors > 0 ? s->processors : properties.multiProcessorCount;
#else
    return s->processors > 0 ? s->processors : 8;
#endif
}

struct problem {
    __nv_bfloat16 *q, *rows;
    int *table, *position;
    int n_pages, table_stride;
};

static float bf16(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* Pages in no order; rows that no token sees are NaN. */
static struct problem make_problem(const struct shape *s)
{
    struct problem p = {};
    uint64_t seed = 1;
    int next = 0;
    p.table_stride = 1;
    for (int i = 0; i < s->n; i++) {
        int pages = (s->length[i] + 63) / 64;
        p.n_pages += pages;
        p.table_stride = pages > p.table_stride ? pages : p.table_stride;
    }
    p.n_pages += 2;
    int64_t queries = (int64_t)s->n * s->tokens * s->heads;
    p.q = host_new<__nv_bfloat16>(queries * ROW);
    p.rows = host_new<__nv_bfloat16>((int64_t)p.n_pages * 64 * ROW);
    p.table = host_new<int>((int64_t)s->n * p.table_stride);
    p.position = host_new<int>((int64_t)s->n * s->tokens);
    int *order = host_new<int>(p.n_pages);
    for (int i = 0; i < p.n_pages; i++)
        order[i] = i;
    for (int i = p.n_pages - 1; i > 0; i--) {
        int j = (int)(random_bits(&seed) % (uint64_t)(i + 1)), other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    for (int64_t i = 0; i < queries * ROW; i++)
        p.q[i] = __float2bfloat16(random_float(&seed) * s->q_scale);
    for (int i = 0; i < s->n; i++) {
        for (int page = 0; page < p.table_stride; page++)
            p.table[i * p.table_stride + page] = page * 64 < s->length[i] ? order[next++] : -1;
        for (int row = 0; row < s->length[i]; row++) {
            int64_t at = (int64_t)p.table[i * p.table_stride + row / 64] * 64 + row % 64;
            for (int d = 0; d < ROW; d++)
                p.rows[at * ROW + d] =
                    __float2bfloat16(random_float(&seed) * (1 + s->drift * (float)row));
        }
        for (int t = 0; t < s->tokens; t++) {
            int position = s->length[i] - s->tokens + t;
            p.position[i * s->tokens + t] = position < -1 ? -1 : position;
        }
    }
    return p;
}

/* o and lse of one query; scores[length] is scratch. */
static double attend(double *o, double *scores, const __nv_bfloat16 *q, const struct problem *p,
                     int sequence, int length, double scale)
{
    const int *table = p->table + (int64_t)sequence * p->table_stride;
    double largest = -INFINITY, sum = 0;
    for (int row = 0; row < length; row++) {
        const __nv_bfloat16 *k = p->rows + ((int64_t)table[row / 64] * 64 + row % 64) * ROW;
        scores[row] = 0;
        for (int d = 0; d < ROW; d++)
            scores[row] += (double)bf16(q[d]) * (double)bf16(k[d]);
        scores[row] *= scale;
        largest = scores[row] > largest ? scores[row] : largest;
    }
    for (int d = 0; d < D_C; d++)
        o[d] = 0;
    for (int row = 0; row < length; row++) {
        const __nv_bfloat16 *k = p->rows + ((int64_t)table[row / 64] * 64 + row % 64) * ROW;
        double weight = exp(scores[row] - largest);
        sum += weight;
        for (int d = 0; d < D_C; d++)
            o[d] += weight * (double)bf16(k[d]);
    }
    for (int d = 0; d < D_C && sum > 0; d++)
        o[d] /= sum;
    return length > 0 ? largest + log(sum) : -INFINITY;
}

static void check_shape(const struct shape *s)
{
    struct problem p = make_problem(s);
    const int n_processors = processors(s), n_queries = s->tokens * s->heads;
    const int64_t queries = (int64_t)s->n * n_queries;
    const float scale = 0.0721f;
    struct cuda_decode_plan plan;
    cuda_decode_plan_open(&plan,
                          device_new<char>((int64_t)cuda_decode_plan_bytes(s->n, n_processors)),
                          s->n, s->tokens, s->heads, n_processors);
    int *position = device_copy(p.position, (int64_t)s->n * s->tokens);
    struct cuda_attention_decode params = {};
    params.q = device_copy(p.q, queries * ROW);
    params.rows = device_copy(p.rows, (int64_t)p.n_pages * 64 * ROW);
    params.n_pages = p.n_pages;
    params.table_stride = p.table_stride;
    if (s->n % 2 == 0) {
        params.table = device_copy(p.table, (int64_t)s->n * p.table_stride);
    } else { /* the sequences' tables in reverse order */
        int *table = host_new<int>((int64_t)s->n * p.table_stride);
        int *row = host_new<int>((int64_t)s->n * s->tokens);
        for (int i = 0; i < s->n; i++) {
            memcpy(table + (int64_t)(s->n - 1 - i) * p.table_stride,
                   p.table + (int64_t)i * p.table_stride, (size_t)p.table_stride * sizeof *table);
            for (int t = 0; t < s->tokens; t++)
                row[i * s->tokens + t] = s->n - 1 - i;
        }
        params.table = device_copy(table, (int64_t)s->n * p.table_stride);
        params.table_row = device_copy(row, (int64_t)s->n * s->tokens);
    }
    params.position = position;
    params.scale = scale;
    params.o = device_new<float>(queries * D_C); /* room for either type */
    params.o_is_f32 = s->n % 2;
    params.ones = s->n % 2 ? device_new<float>(queries) : NULL;
    params.lse = device_new<float>(queries);
    params.workspace =
        device_new<char>((int64_t)cuda_decode_workspace_bytes(s->tokens, s->heads, n_processors));
    CUDA((cudaError_t)cuda_decode_schedule(&plan, position, 0));
    CUDA((cudaError_t)cuda_attention_decode(&params, &plan, 0));
    float *o = host_new<float>(queries * D_C), *lse = host_new<float>(queries);
    float *ones = host_new<float>(queries);
    __nv_bfloat16 *rounded = host_new<__nv_bfloat16>(queries * D_C);
    if (params.o_is_f32) {
        host_copy(o, (const float *)params.o, queries * D_C);
        host_copy(ones, params.ones, queries);
    } else {
        host_copy(rounded, (const __nv_bfloat16 *)params.o, queries * D_C);
        for (int64_t i = 0; i < queries * D_C; i++)
            o[i] = bf16(rounded[i]);
    }
    host_copy(lse, params.lse, queries);

    double *scores = host_new<double>((int64_t)p.table_stride * 64),
           *expected = host_new<double>(D_C);
    for (int64_t i = 0; i < queries; i++) {
        int length = p.position[i / s->heads] + 1;
        double expected_lse = attend(expected, scores, p.q + i * ROW, &p, (int)(i / n_queries),
                                     length, (double)scale);
        double difference = 0, size = 0;
        for (int d = 0; d < D_C; d++) {
            double found = (double)o[i * D_C + d];
            difference += (found - expected[d]) * (found - expected[d]);
            size += expected[d] * expected[d];
        }
        /* weights and results are rounded to bf16, 2^-9 at most each and at random */
        check(sqrt(difference) <= 0x1p-8 * sqrt(size),
              "query %lld of length %d: o is off by %.2e of its size", (long long)i, length,
              sqrt(difference / size));
        bool is_close =
            length == 0 ? lse[i] == -INFINITY
                        : fabs((double)lse[i] - expected_lse) <= 1e-5 * (1 + fabs(expected_lse));
        check(is_close, "query %lld of length %d: lse %.7g, expected %.7g", (long long)i, length,
              (double)lse[i], expected_lse);
    }
}

static void check_shapes(const struct shape *shapes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_shape(&shapes[i]);
}
#define CHECK_SHAPES(shapes) check_shapes(shapes, sizeof(shapes) / sizeof *(shapes))

static void sixteen_queries()
{
    static const struct shape shapes[] = {{16, 1, 0, 0.3f, 0, 1, {64}},
                                          {16, 1, 2, 0.5f, 0, 6, {1, 63, 64, 65, 128, 200}},
                                          {16, 1, 3, 1.5f, 0.003f, 5, {450, 0, 5, 449, 64}},
                                          {8, 2, 4, 0.5f, 0, 3, {130, 2, 65}}};
    CHECK_SHAPES(shapes);
}

static void thirty_two_queries()
{
    static const struct shape shapes[] = {{20, 1, 0, 0.3f, 0, 3, {64, 1, 190}},
                                          {16, 2, 2, 1, 0.003f, 3, {260, 2, 65}}};
    CHECK_SHAPES(shapes);
}

static void sixty_four_queries()
{
    static const struct shape shapes[] = {{64, 1, 0, 0, 0, 1, {64}},
                                          {64, 1, 2, 0.3f, 0, 4, {1, 65, 128, 200}},
                                          {16, 4, 3, 1.5f, 0.003f, 2, {450, 4}},
                                          {48, 1, 3, 40, 0.1f, 2, {330, 70}}};
    CHECK_SHAPES(shapes);
}

static void more_queries_than_a_block_takes()
{
    static const struct shape shapes[] = {{128, 1, 6, 0.4f, 0, 2, {200, 65}}};
    CHECK_SHAPES(shapes);
}

int main()
{
    static const struct check_group groups[] = {{"16 queries", sixteen_queries},
                                                {"32 queries", thirty_two_queries},
                                                {"64 queries", sixty_four_queries},
                                                {"128 queries", more_queries_than_a_block_takes}};
    return run_groups(groups, sizeof groups / sizeof *groups);
}
