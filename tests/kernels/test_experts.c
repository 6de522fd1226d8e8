/* Rules of the routed experts. */
#include "tests/kernels/kernel_test.h"

/* A whole layer of experts and tokens that chose some of them. */
struct layer {
    int e, k;
    int64_t t, d, columns;
    struct weights gate, up, down;
    float *x, *weight;
    int32_t *ids;
};

static void layer_open(struct layer *l, enum dtype dtype, uint64_t seed)
{
    l->gate = weights_open(dtype, l->e, l->columns, l->d, seed);
    l->up = weights_open(dtype, l->e, l->columns, l->d, seed + 1);
    l->down = weights_open(dtype, l->e, l->d, l->columns, seed + 2);
    l->x = random_floats(l->t * l->d, seed + 3);
    l->weight = random_floats(l->t * l->k, seed + 4);
    l->ids = malloc((size_t)(l->t * l->k) * sizeof *l->ids + 1);
    assert_non_null(l->ids);
    for (int64_t i = 0; i < l->t; i++) { /* distinct ids, in no order; some experts more often */
        int32_t first = (int32_t)(random_bits(&seed) % (uint64_t)l->e);
        if (first > l->e / 2 && i % 2 == 0)
            first = l->e / 4;
        for (int k = 0; k < l->k; k++)
            l->ids[i * l->k + k] = (int32_t)((first + k * (l->e / l->k)) % l->e);
    }
}

static void layer_close(struct layer *l)
{
    weights_close(&l->gate);
    weights_close(&l->up);
    weights_close(&l->down);
    free(l->x);
    free(l->weight);
    free(l->ids);
}

/* Experts [begin, end) as they are. */
static struct expert_weights held(const struct layer *l, int begin, int end)
{
    struct expert_weights w = {.first = begin, .n_experts = l->e};
    const struct matrix *from[3] = {&l->gate.matrix, &l->up.matrix, &l->down.matrix};
    struct matrix *to[3] = {&w.gate, &w.up, &w.down};
    for (int i = 0; i < 3; i++) {
        *to[i] = *from[i];
        if (begin < end)
            *to[i] = matrix_at(from[i], begin);
        to[i]->count = end - begin;
    }
    return w;
}

/* The scratch memory has exactly the bytes asked for, so that a sanitizer sees one too many. */
static float *apply(const struct ops *ops, const struct layer *l, const struct expert_weights *w)
{
    float *u = floats(l->t * l->d);
    size_t bytes = ops->experts_scratch_bytes(l->t, w, l->k);
    void *scratch = bytes > 0 ? aligned_alloc(64, bytes) : NULL;
    struct tensor tu = tensor_2d(u, DTYPE_F32, l->t, l->d);
    struct tensor tx = tensor_2d(l->x, DTYPE_F32, l->t, l->d);
    struct tensor ti = tensor_2d(l->ids, DTYPE_I32, l->t, l->k);
    struct tensor tw = tensor_2d(l->weight, DTYPE_F32, l->t, l->k);
    assert_ok(ops->experts(&tu, &tx, &ti, &tw, w, scratch, NULL));
    free(scratch);
    return u;
}

static double row_dot(const float *w, const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)w[i] * x[i];
    return sum;
}

/* (12) token by token, in double */
static double *experts_in_double(const struct layer *l, int begin, int end)
{
    double *u = calloc((size_t)(l->t * l->d) + 1, sizeof *u);
    double *x = malloc((size_t)(l->d + l->columns) * sizeof *x), *a = x + l->d;
    assert_true(u && x);
    for (int64_t i = 0; i < l->t * l->k; i++) {
        int64_t t = i / l->k, e = l->ids[i];
        if (e < begin || e >= end)
            continue;
        for (int64_t j = 0; j < l->d; j++)
            x[j] = (double)l->x[t * l->d + j];
        for (int64_t c = 0; c < l->columns; c++) {
            int64_t row = (e * l->columns + c) * l->d;
            double g = row_dot(l->gate.values + row, x, l->d);
            a[c] = g / (1.0 + exp(-g)) * row_dot(l->up.values + row, x, l->d);
        }
        for (int64_t j = 0; j < l->d; j++)
            u[t * l->d + j] += (double)l->weight[i] *
                               row_dot(l->down.values + (e * l->d + j) * l->columns, a, l->columns);
    }
    free(x);
    return u;
}

static void every_choice_is_applied_once_with_its_weight(void **state)
{
    (void)state;
    static const struct layer shapes[] = {
        {.e = 8, .k = 3, .t = 5, .d = 20, .columns = 12},
        {.e = 16, .k = 4, .t = 120, .d = 33, .columns = 17}, /* more rows than a batch */
        {.e = 6, .k = 2, .t = 1, .d = 16, .columns = 40},
        {.e = 5, .k = 5, .t = 600, .d = 8, .columns = 8}, /* more tokens than a tile */
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct layer l = shapes[s];
        layer_open(&l, s % 2 ? DTYPE_BF16 : DTYPE_F32, s);
        for (int part = 0; part < 2; part++) { /* all experts, and some in the middle */
            int begin = part * l.e / 4, end = l.e - part * l.e / 4;
            struct expert_weights w = held(&l, begin, end);
            double *expected = experts_in_double(&l, begin, end);
            for (int i = 0; i < ISA_COUNT; i++) {
                const struct ops *ops = cpu_ops_for(isa_names[i]);
                if (ops == NULL)
                    continue;
                float *u = apply(ops, &l, &w);
                assert_close(u, expected, l.t * l.d, 2e-5);
                free(u);
            }
            free(expected);
        }
        layer_close(&l);
    }
}

static void same_bits(enum dtype dtype, enum dtype input)
{
    struct layer l = {.e = 16, .k = 4, .t = 200, .d = 40, .columns = 24};
    layer_open(&l, dtype, 9);
    l.gate.matrix.input = l.up.matrix.input = l.down.matrix.input = input;
    struct expert_weights w = held(&l, 0, l.e);
    float *first = apply(&cpu_ops_plain, &l, &w);
    for (int i = 1; i < ISA_COUNT * THREAD_COUNTS; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i % ISA_COUNT]);
        if (ops == NULL)
            continue;
        cpu_threads_close(); /* another number of them */
        assert_ok(cpu_threads_open(1 + i / ISA_COUNT));
        float *u = apply(ops, &l, &w);
        assert_same_bits(u, first, l.t * l.d);
        free(u);
    }
    for (int64_t t = 0; t < l.t; t += 13) {
        struct layer one = l;
        one.t = 1;
        one.x += t * l.d;
        one.weight += t * l.k;
        one.ids += t * l.k;
        float *u = apply(cpu_ops(), &one, &w);
        assert_same_bits(u, first + t * l.d, l.d);
        free(u);
    }
    free(first);
    layer_close(&l);
}

static void instruction_sets_threads_and_tokens_alone_give_the_same_bits(void **state)
{
    (void)state;
    same_bits(DTYPE_BF16, DTYPE_F32);
    same_bits(DTYPE_BF16, DTYPE_BF16);
    same_bits(DTYPE_I8, DTYPE_F32);
}

static void ranks_with_ranges_of_experts_sum_to_the_whole_along_the_tree(void **state)
{
    (void)state;
    static const int counts[] = {16, 10, 8, 4}; /* 4: half of the units are empty */
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct layer l = {.e = counts[c], .k = 2, .t = 30, .d = 24, .columns = 16};
        layer_open(&l, DTYPE_BF16, c);
        struct expert_weights w = held(&l, 0, l.e);
        float *whole = apply(cpu_ops(), &l, &w);
        for (int ranks = 2; ranks <= UNITS; ranks *= 2) {
            float *sum[UNITS];
            for (int r = 0; r < ranks; r++) {
                w = held(&l, (int)unit_begin(r * UNITS / ranks, l.e),
                         (int)unit_begin((r + 1) * UNITS / ranks, l.e));
                sum[r] = apply(cpu_ops(), &l, &w);
            }
            for (int step = 1; step < ranks; step *= 2)
                for (int r = 0; r < ranks; r += 2 * step) {
                    for (int64_t i = 0; i < l.t * l.d; i++)
                        sum[r][i] += sum[r + step][i];
                    free(sum[r + step]);
                }
            assert_same_bits(sum[0], whole, l.t * l.d);
            free(sum[0]);
        }
        free(whole);
        layer_close(&l);
    }
}

static void ranks_with_columns_of_experts_sum_to_the_whole(void **state)
{
    (void)state;
    enum { CUT = 10 };
    struct layer l = {.e = 6, .k = 2, .t = 20, .d = 32, .columns = 24};
    layer_open(&l, DTYPE_F32, 4);
    struct expert_weights w = held(&l, 0, l.e);
    float *whole = apply(cpu_ops(), &l, &w), *part[2];
    for (int r = 0; r < 2; r++) {
        int64_t begin = r ? CUT : 0, end = r ? l.columns : CUT;
        struct weights gate = weights_open(DTYPE_F32, l.e, end - begin, l.d, 1);
        struct weights up = weights_open(DTYPE_F32, l.e, end - begin, l.d, 1);
        struct weights down = weights_columns(&l.down, begin, end);
        memset(gate.matrix.data, 0, matrix_bytes(&gate.matrix));
        memset(up.matrix.data, 0, matrix_bytes(&up.matrix));
        for (int e = 0; e < l.e; e++) {
            int64_t at = (e * l.columns + begin) * l.d;
            matrix_pack(&gate.matrix, e, 0, end - begin, l.gate.values + at, l.d);
            matrix_pack(&up.matrix, e, 0, end - begin, l.up.values + at, l.d);
        }
        struct expert_weights cut = {
            .gate = gate.matrix, .up = up.matrix, .down = down.matrix, .n_experts = l.e};
        part[r] = apply(cpu_ops(), &l, &cut);
        weights_close(&gate);
        weights_close(&up);
        weights_close(&down);
    }
    float largest = 0.0f;
    for (int64_t i = 0; i < l.t * l.d; i++)
        largest = fabsf(whole[i]) > largest ? fabsf(whole[i]) : largest;
    for (int64_t i = 0; i < l.t * l.d; i++)
        assert_true(fabsf(part[0][i] + part[1][i] - whole[i]) <= 1e-6f * largest);
    free(part[0]);
    free(part[1]);
    free(whole);
    layer_close(&l);
}

static void a_rank_without_experts_or_tokens_adds_nothing(void **state)
{
    (void)state;
    struct layer l = {.e = 8, .k = 2, .t = 3, .d = 20, .columns = 12};
    layer_open(&l, DTYPE_BF16, 2);
    struct expert_weights w = held(&l, 3, 3);
    float *u = apply(cpu_ops(), &l, &w);
    for (int64_t i = 0; i < l.t * l.d; i++)
        assert_true(u[i] == 0.0f);
    free(u);
    w = (struct expert_weights){.n_experts = 8}; /* not even shapes */
    u = apply(cpu_ops(), &l, &w);
    for (int64_t i = 0; i < l.t * l.d; i++)
        assert_true(u[i] == 0.0f);
    free(u);
    w = held(&l, 0, l.e);
    l.t = 0;
    u = apply(cpu_ops(), &l, &w);
    free(u);
    layer_close(&l);
}

static void scratch_memory_is_bounded(void **state)
{
    (void)state;
    struct layer l = {.e = 4, .k = 2, .t = 1, .d = 16, .columns = 8};
    layer_open(&l, DTYPE_BF16, 2);
    struct expert_weights w = held(&l, 0, l.e);
    size_t bytes = cpu_ops()->experts_scratch_bytes(10000, &w, 2);
    assert_true(bytes == cpu_ops()->experts_scratch_bytes(1000000, &w, 2));
    for (int64_t t = 0; t < 700; t++)
        assert_true(cpu_ops()->experts_scratch_bytes(t, &w, 2) <=
                    cpu_ops()->experts_scratch_bytes(t + 1, &w, 2));
    layer_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_choice_is_applied_once_with_its_weight),
        cmocka_unit_test(instruction_sets_threads_and_tokens_alone_give_the_same_bits),
        cmocka_unit_test(ranks_with_ranges_of_experts_sum_to_the_whole_along_the_tree),
        cmocka_unit_test(ranks_with_columns_of_experts_sum_to_the_whole),
        cmocka_unit_test(a_rank_without_experts_or_tokens_adds_nothing),
        cmocka_unit_test(scratch_memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) +
           cmocka_run_group_tests_name("three threads", tests, open_three_threads, close_threads);
}
