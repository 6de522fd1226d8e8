/* Rules of attention over the latent cache and with expanded keys, and of merging partial results.
 * Expected values: dense softmax in double. */
#include "tests/kernels/kernel_test.h"

/* Some sequences in a cache of shuffled pages, and queries of some of their tokens. */
struct scene {
    int d_c, d_r, heads, n_sequences, tokens, max_pages, n_pages;
    enum dtype dtype;
    char *rows;     /* the cache as stored */
    float *dense;   /* [sequence][max_pages x PAGE_ROWS][width], as read back */
    int32_t *table; /* [sequence][max_pages] */
    int32_t *seq_of, *position;
    float *q; /* [tokens][heads][width] */
    float scale;
};

static int width_of(const struct scene *s)
{
    return s->d_c + s->d_r;
}

static struct page_view scene_view(const struct scene *s)
{
    int64_t width = cache_row_width(s->dtype, s->d_c, s->d_r);
    return (struct page_view){.rows = tensor_3d(s->rows, s->dtype, s->n_pages, PAGE_ROWS, width),
                              .table = tensor_2d(s->table, DTYPE_I32, s->n_sequences, s->max_pages),
                              .seq_of = tensor_1d(s->seq_of, DTYPE_I32, s->tokens),
                              .position = tensor_1d(s->position, DTYPE_I32, s->tokens),
                              .d_c = s->d_c,
                              .d_r = s->d_r};
}

/* Into the cache and back: x becomes what is stored. */
static void put_row(const struct scene *s, int32_t seq, int32_t position, float *x)
{
    struct page_view pages = scene_view(s);
    struct tensor row = tensor_2d(x, DTYPE_F32, 1, width_of(s));
    struct tensor c_kv = tensor_columns(&row, 0, s->d_c);
    struct tensor k_r = tensor_columns(&row, s->d_c, width_of(s));
    pages.seq_of = tensor_1d(&seq, DTYPE_I32, 1);
    pages.position = tensor_1d(&position, DTYPE_I32, 1);
    assert_ok(cpu_ops()->cache_append(&pages, &c_kv, &k_r, NULL, 0, NULL, NULL));
    assert_ok(cpu_ops()->cache_read(&row, &pages, seq, position, position + 1, NULL));
}

static void scene_open(struct scene *s, const int32_t *seq_of, const int32_t *position,
                       uint64_t seed)
{
    int64_t row_floats = (int64_t)s->n_sequences * s->max_pages * PAGE_ROWS * width_of(s);
    size_t row_bytes = (size_t)cache_row_width(s->dtype, s->d_c, s->d_r) * dtype_bytes(s->dtype);
    s->n_pages = s->n_sequences * s->max_pages + 3;
    s->rows = malloc((size_t)(s->n_pages * PAGE_ROWS) * row_bytes);
    s->table = malloc((size_t)(s->n_sequences * s->max_pages) * sizeof *s->table);
    s->seq_of = malloc((size_t)s->tokens * sizeof *s->seq_of + 1);
    s->position = malloc((size_t)s->tokens * sizeof *s->position + 1);
    assert_true(s->rows && s->table && s->seq_of && s->position);
    memset(s->rows, 0xff, (size_t)(s->n_pages * PAGE_ROWS) * row_bytes); /* NaN: nobody may look */
    memcpy(s->seq_of, seq_of, (size_t)s->tokens * sizeof *seq_of);
    memcpy(s->position, position, (size_t)s->tokens * sizeof *position);
    s->dense = random_floats(row_floats, seed);
    s->q = random_floats((int64_t)s->tokens * s->heads * width_of(s), seed + 1);
    s->scale = 0.7f;
    for (int i = 0; i < s->n_sequences * s->max_pages; i++) /* a permutation */
        s->table[i] = (int32_t)((i * 97 + 3) % s->n_pages);
    assert_true(s->n_pages % 97 != 0);
    for (int seq = 0; seq < s->n_sequences; seq++) {
        int64_t length = 0; /* only rows some token sees exist */
        for (int t = 0; t < s->tokens; t++)
            if (seq_of[t] == seq && position[t] + 1 > length)
                length = position[t] + 1;
        for (int64_t j = 0; j < length; j++) {
            int64_t at = (int64_t)seq * s->max_pages * PAGE_ROWS + j;
            put_row(s, seq, (int32_t)j, s->dense + at * width_of(s));
        }
    }
}

static void scene_close(struct scene *s)
{
    free(s->rows);
    free(s->dense);
    free(s->table);
    free(s->seq_of);
    free(s->position);
    free(s->q);
}

static struct attention_state state_open(int64_t tokens, int64_t heads, int64_t width)
{
    return (struct attention_state){
        .o = tensor_3d(floats(tokens * heads * width), DTYPE_F32, tokens, heads, width),
        .m = tensor_2d(floats(tokens * heads), DTYPE_F32, tokens, heads),
        .l = tensor_2d(floats(tokens * heads), DTYPE_F32, tokens, heads)};
}

static void state_close(struct attention_state *a)
{
    free(a->o.data);
    free(a->m.data);
    free(a->l.data);
}

static void assert_same_state(const struct attention_state *a, const struct attention_state *b)
{
    assert_same_bits(a->m.data, b->m.data, tensor_count(&a->m));
    assert_same_bits(a->l.data, b->l.data, tensor_count(&a->l));
    assert_same_bits(a->o.data, b->o.data, tensor_count(&a->o));
}

static struct attention_state attend(const struct ops *ops, const struct scene *s)
{
    struct attention_state a = state_open(s->tokens, s->heads, s->d_c);
    struct page_view pages = scene_view(s);
    struct tensor q = tensor_3d(s->q, DTYPE_F32, s->tokens, s->heads, width_of(s));
    assert_ok(ops->latent_attention(&a, &q, &pages, s->scale, NULL));
    return a;
}

static float *finished(const struct ops *ops, const struct attention_state *a)
{
    float *o = floats(tensor_count(&a->o));
    struct tensor to = tensor_3d(o, DTYPE_F32, a->o.dim[0], a->o.dim[1], a->o.dim[2]);
    assert_ok(ops->attention_finish(&to, a, NULL));
    return o;
}

/* o[n_values] = softmax(scale q . key_j) value_j over j < n, rows `stride` apart */
static void softmax_in_double(double *o, const float *q, const float *keys, const float *values,
                              int64_t n, int width, int n_values, int stride, double scale)
{
    double *s = calloc((size_t)n + 1, sizeof *s), largest = -HUGE_VAL, sum = 0.0;
    assert_non_null(s);
    for (int64_t j = 0; j < n; j++) {
        for (int i = 0; i < width; i++)
            s[j] += (double)q[i] * (double)keys[j * stride + i] * scale;
        largest = s[j] > largest ? s[j] : largest;
    }
    memset(o, 0, (size_t)n_values * sizeof *o);
    for (int64_t j = 0; j < n; j++)
        sum += s[j] = exp(s[j] - largest);
    for (int64_t j = 0; j < n; j++)
        for (int i = 0; i < n_values; i++)
            o[i] += s[j] / sum * (double)values[j * stride + i];
    free(s);
}

static void check_against_dense(const struct ops *ops, const struct scene *s)
{
    struct attention_state a = attend(ops, s);
    float *o = finished(ops, &a);
    double *expected = calloc((size_t)s->d_c, sizeof *expected);
    assert_non_null(expected);
    for (int t = 0; t < s->tokens; t++) {
        const float *rows =
            s->dense + (int64_t)s->seq_of[t] * s->max_pages * PAGE_ROWS * width_of(s);
        for (int h = 0; h < s->heads; h++) {
            int64_t at = (int64_t)t * s->heads + h;
            softmax_in_double(expected, s->q + at * width_of(s), rows, rows, s->position[t] + 1,
                              width_of(s), s->d_c, width_of(s), (double)s->scale);
            assert_close(o + at * s->d_c, expected, s->d_c, 1e-5);
        }
    }
    free(expected);
    free(o);
    state_close(&a);
}

static const int32_t mixed_seq[9] = {0, 0, 0, 0, 1, 2, 2, 2, 1};
static const int32_t mixed_position[9] = {0, 1, 2, 3, 530, 62, 63, 64, 600};

static void paged_attention_is_dense_attention_over_each_tokens_prefix(void **state)
{
    (void)state;
    static const struct {
        int d_c, d_r, heads;
        enum dtype dtype;
    } shapes[] = {
        {32, 8, 3, DTYPE_F32},    {20, 6, 1, DTYPE_BF16},   {24, 8, 5, DTYPE_BF16},
        {512, 64, 1, DTYPE_BF16}, {16, 0, 4, DTYPE_F32},    {512, 64, 3, DTYPE_U8}, /* fp8_ds_mla */
        {140, 10, 2, DTYPE_U8},   {64, 32, 17, DTYPE_BF16}, {20, 12, 16, DTYPE_BF16},
        {24, 8, 33, DTYPE_F32},   {33, 3, 7, DTYPE_F32},    {160, 32, 12, DTYPE_U8},
        {16, 16, 128, DTYPE_BF16}};
    for (size_t c = 0; c < sizeof shapes / sizeof shapes[0]; c++) {
        struct scene s = {.d_c = shapes[c].d_c,
                          .d_r = shapes[c].d_r,
                          .heads = shapes[c].heads,
                          .n_sequences = 3,
                          .tokens = 9,
                          .max_pages = 10,
                          .dtype = shapes[c].dtype};
        scene_open(&s, mixed_seq, mixed_position, c);
        for (int i = 0; i < ISA_COUNT; i++)
            if (cpu_ops_for(isa_names[i]) != NULL)
                check_against_dense(cpu_ops_for(isa_names[i]), &s);
        scene_close(&s);
    }
}

static void check_bits_of_sets_and_threads(int d_c, int d_r, int heads, enum dtype dtype)
{
    struct scene s = {.d_c = d_c,
                      .d_r = d_r,
                      .heads = heads,
                      .n_sequences = 3,
                      .tokens = 9,
                      .max_pages = 10,
                      .dtype = dtype};
    scene_open(&s, mixed_seq, mixed_position, 3);
    struct attention_state first = attend(&cpu_ops_plain, &s);
    float *first_o = finished(&cpu_ops_plain, &first);
    for (int i = 1; i < ISA_COUNT * THREAD_COUNTS; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i % ISA_COUNT]);
        if (ops == NULL)
            continue;
        cpu_threads_close(); /* another number of them */
        assert_ok(cpu_threads_open(1 + i / ISA_COUNT));
        struct attention_state a = attend(ops, &s);
        float *o = finished(ops, &a);
        assert_same_state(&a, &first);
        assert_same_bits(o, first_o, tensor_count(&a.o));
        free(o);
        state_close(&a);
    }
    free(first_o);
    state_close(&first);
    scene_close(&s);
}

static void instruction_sets_and_threads_give_the_same_bits(void **state)
{
    (void)state;
    check_bits_of_sets_and_threads(40, 8, 5, DTYPE_U8);
    check_bits_of_sets_and_threads(64, 32, 17, DTYPE_BF16); /* read in the cache */
    check_bits_of_sets_and_threads(20, 6, 3, DTYPE_BF16);   /* copied */
    check_bits_of_sets_and_threads(32, 32, 7, DTYPE_F32);
}

/* 60 tokens in one call, each alone, and each head alone: nothing of the neighbours shows. */
static void check_alone_and_together(int heads, int d_r, enum dtype dtype)
{
    enum { T = 60 };
    int32_t seq_of[T] = {0}, position[T];
    for (int t = 0; t < T; t++)
        position[t] = 620 + t;
    struct scene s = {.d_c = 32,
                      .d_r = d_r,
                      .heads = heads,
                      .n_sequences = 1,
                      .tokens = T,
                      .max_pages = 12,
                      .dtype = dtype};
    scene_open(&s, seq_of, position, 4);
    struct attention_state all = attend(cpu_ops(), &s);
    for (int t = 0; t < T; t += 7) {
        for (int h = 0; h < heads; h++) {
            struct scene one = s;
            one.tokens = one.heads = 1;
            one.position = s.position + t;
            one.q = s.q + (t * heads + h) * width_of(&s);
            struct attention_state a = attend(cpu_ops(), &one);
            assert_same_bits(a.o.data, tensor_f32_2(&all.o, t, h), s.d_c);
            assert_same_bits(a.m.data, tensor_f32_2(&all.m, t, h), 1);
            assert_same_bits(a.l.data, tensor_f32_2(&all.l, t, h), 1);
            state_close(&a);
        }
    }
    state_close(&all);
    scene_close(&s);
}

static void tokens_and_heads_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    check_alone_and_together(3, 8, DTYPE_F32);
    check_alone_and_together(11, 32, DTYPE_BF16);
    check_alone_and_together(16, 32, DTYPE_U8);
}

/* What a token may not see could be anything: the row after it is NaN here. */
static void check_unseen_rows(int heads, int d_r, enum dtype dtype)
{
    enum { T = 10 };
    int32_t seq_of[T] = {0}, position[T];
    for (int t = 0; t < T; t++)
        position[t] = 60 + t;
    struct scene s = {.d_c = 32,
                      .d_r = d_r,
                      .heads = heads,
                      .n_sequences = 1,
                      .tokens = T,
                      .max_pages = 2,
                      .dtype = dtype};
    size_t row_bytes = (size_t)cache_row_width(dtype, s.d_c, d_r) * dtype_bytes(dtype);
    scene_open(&s, seq_of, position, 5);
    struct attention_state clean = attend(cpu_ops(), &s);
    memset(s.rows + (size_t)(s.table[1] * PAGE_ROWS + 66 % PAGE_ROWS) * row_bytes, 0xff, row_bytes);
    struct attention_state dirty = attend(cpu_ops(), &s);
    assert_same_bits(dirty.o.data, clean.o.data, 6 * heads * s.d_c); /* positions 60 .. 65 */
    assert_same_bits(dirty.l.data, clean.l.data, 6 * heads);
    for (int i = 0; i < 6 * heads * s.d_c; i++)
        assert_true(isfinite(((const float *)dirty.o.data)[i]));
    state_close(&clean);
    state_close(&dirty);
    scene_close(&s);
}

static void rows_after_a_token_do_not_show_in_it(void **state)
{
    (void)state;
    static const int heads[] = {1, 3, 16, 17};
    for (int i = 0; i < 4; i++) {
        check_unseen_rows(heads[i], 8, DTYPE_F32);
        check_unseen_rows(heads[i], 8, DTYPE_BF16);
        check_unseen_rows(heads[i], 32, DTYPE_BF16);
        check_unseen_rows(heads[i], 32, DTYPE_U8);
    }
}

/* Units of more than one piece, and a score that rises with the position, so that most runs of rows
 * raise the maximum of those before. */
static void long_contexts_and_rising_scores_are_dense_attention(void **state)
{
    (void)state;
    enum { T = 2, PAGES = 132 };
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_U8};
    int32_t seq_of[T] = {0, 0}, position[T] = {PAGES * PAGE_ROWS - 7, 8200};
    for (int d = 0; d < 2; d++) {
        struct scene s = {.d_c = 32,
                          .d_r = 32,
                          .heads = 3,
                          .n_sequences = 1,
                          .tokens = T,
                          .max_pages = PAGES,
                          .dtype = dtypes[d]};
        scene_open(&s, seq_of, position, 12);
        for (int rises = 0; rises < 2; rises++) {
            for (int i = 0; i < ISA_COUNT; i++)
                if (cpu_ops_for(isa_names[i]) != NULL)
                    check_against_dense(cpu_ops_for(isa_names[i]), &s);
            for (int j = 0; j <= position[0]; j++) {
                s.dense[j * width_of(&s) + 32] = (float)j / 256;
                put_row(&s, 0, j, s.dense + j * width_of(&s));
            }
            for (int i = 0; i < T * s.heads; i++)
                s.q[i * width_of(&s) + 32] = 1.0f;
        }
        scene_close(&s);
    }
}

/* The pages of each member of a cache group alone (others -1), merged along the tree. */
static void check_members(int heads)
{
    enum { T = 3, PAGES = 130 }; /* 17 pages in units 0 and 1: two pieces */
    int32_t seq_of[T] = {0, 0, 1}, position[T] = {100, PAGES * PAGE_ROWS - 5, 700};
    struct scene s = {.d_c = 24,
                      .d_r = 8,
                      .heads = heads,
                      .n_sequences = 2,
                      .tokens = T,
                      .max_pages = PAGES,
                      .dtype = DTYPE_BF16};
    scene_open(&s, seq_of, position, 6);
    struct attention_state whole = attend(cpu_ops(), &s);
    int32_t *table = s.table, own[2 * PAGES];
    for (int members = 2; members <= UNITS; members *= 2) {
        struct attention_state part[UNITS];
        for (int r = 0; r < members; r++) {
            for (int p = 0; p < 2 * PAGES; p++)
                own[p] = p % PAGES % members == r ? table[p] : -1;
            s.table = own;
            part[r] = attend(cpu_ops(), &s);
            s.table = table;
        }
        for (int step = members / 2; step > 0; step /= 2)
            for (int r = 0; r < step; r++) {
                assert_ok(cpu_ops()->merge_partials(&part[r], &part[r + step], NULL));
                state_close(&part[r + step]);
            }
        assert_same_state(&part[0], &whole);
        state_close(&part[0]);
    }
    state_close(&whole);
    scene_close(&s);
}

static void members_of_a_cache_group_merge_to_the_whole(void **state)
{
    (void)state;
    check_members(1);
    check_members(2); /* threads take units; with 8 members there is one, and they take heads */
    check_members(11);
}

/* Latents through W^UK and W^UV for each head, q not absorbed: the same mathematics. */
static void absorbed_attention_is_expanded_attention(void **state)
{
    (void)state;
    enum { T = 37, H = 2, D_C = 32, D_R = 8, D_N = 12, D_V = 20, L = 1060, BEGIN = 40 };
    static int32_t seq_of[T], position[T];
    for (int t = 0; t < T; t++)
        position[t] = t == 0 ? BEGIN - 1 : L - T + t; /* the first sees nothing of the later part */
    struct scene s = {.d_c = D_C,
                      .d_r = D_R,
                      .heads = H,
                      .n_sequences = 1,
                      .tokens = T,
                      .max_pages = 18,
                      .dtype = DTYPE_F32};
    scene_open(&s, seq_of, position, 7);
    float *w_uk = random_floats(H * D_N * D_C, 8), *w_uv = random_floats(H * D_V * D_C, 9);
    float *q = random_floats(T * H * (D_N + D_R), 10);
    for (int t = 0; t < T; t++) {
        for (int h = 0; h < H; h++) {
            const float *from = q + (t * H + h) * (D_N + D_R);
            float *to = s.q + (t * H + h) * (D_C + D_R);
            for (int c = 0; c < D_C; c++) {
                double sum = 0.0;
                for (int i = 0; i < D_N; i++)
                    sum += (double)w_uk[(h * D_N + i) * D_C + c] * (double)from[i];
                to[c] = (float)sum;
            }
            memcpy(to + D_C, from + D_N, D_R * sizeof *to);
        }
    }
    float *k_c = floats(L * H * D_N), *v = floats(L * H * D_V), *k_r = floats(L * D_R);
    for (int j = 0; j < L; j++) {
        const float *row = s.dense + j * (D_C + D_R);
        for (int i = 0; i < H * D_N; i++) {
            double sum = 0.0;
            for (int c = 0; c < D_C; c++)
                sum += (double)w_uk[i * D_C + c] * (double)row[c];
            k_c[j * H * D_N + i] = (float)sum;
        }
        for (int i = 0; i < H * D_V; i++) {
            double sum = 0.0;
            for (int c = 0; c < D_C; c++)
                sum += (double)w_uv[i * D_C + c] * (double)row[c];
            v[j * H * D_V + i] = (float)sum;
        }
        memcpy(k_r + j * D_R, row + D_C, D_R * sizeof *row);
    }
    struct attention_state latent = attend(cpu_ops(), &s);
    float *o = finished(cpu_ops(), &latent);

    struct tensor tq = tensor_3d(q, DTYPE_F32, T, H, D_N + D_R);
    struct tensor tk = tensor_3d(k_c, DTYPE_F32, L, H, D_N), tr = tensor_2d(k_r, DTYPE_F32, L, D_R);
    struct tensor tv = tensor_3d(v, DTYPE_F32, L, H, D_V);
    struct tensor at = tensor_1d(position, DTYPE_I32, T);
    for (int i = 0; i < ISA_COUNT; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i]);
        struct attention_state a = state_open(T, H, D_V), b = state_open(T, H, D_V);
        if (ops != NULL) { /* in two parts, as a prompt longer than the workspace */
            struct tensor k0 = tensor_rows(&tk, 0, BEGIN), k1 = tensor_rows(&tk, BEGIN, L);
            struct tensor r0 = tensor_rows(&tr, 0, BEGIN), r1 = tensor_rows(&tr, BEGIN, L);
            struct tensor v0 = tensor_rows(&tv, 0, BEGIN), v1 = tensor_rows(&tv, BEGIN, L);
            assert_ok(ops->expanded_attention(&a, &tq, &k0, &r0, &v0, &at, 0, s.scale, NULL));
            assert_ok(ops->expanded_attention(&b, &tq, &k1, &r1, &v1, &at, BEGIN, s.scale, NULL));
            assert_true(*(float *)b.m.data == -INFINITY && *(float *)b.l.data == 0.0f);
            assert_true(*(float *)b.o.data == 0.0f);
            assert_ok(ops->merge_partials(&a, &b, NULL));
            float *found = finished(ops, &a);
            for (int k = 0; k < T * H; k++) {
                double expected[D_V] = {0};
                for (int e = 0; e < D_V; e++)
                    for (int c = 0; c < D_C; c++)
                        expected[e] +=
                            (double)w_uv[(k % H * D_V + e) * D_C + c] * (double)o[k * D_C + c];
                assert_close(found + k * D_V, expected, D_V, 1e-5);
            }
            free(found);
        }
        state_close(&a);
        state_close(&b);
    }
    free(w_uk);
    free(w_uv);
    free(q);
    free(k_c);
    free(k_r);
    free(v);
    free(o);
    state_close(&latent);
    scene_close(&s);
}

/* Keys and values that are read where they are (whole steps of 32) or copied; the rows that no
 * token sees are NaN. */
static void check_expanded(int d_n, int d_r, int d_v)
{
    enum { T = 21, H = 2, L = 150 };
    int width = d_n + d_r;
    int32_t position[T];
    float *q = random_floats(T * H * width, 1), *k_c = random_floats(L * H * d_n, 2);
    float *k_r = random_floats(L * d_r, 3), *v = random_floats(L * H * d_v, 4);
    float *keys = floats(L * width), *first = floats(T * H * d_v);
    double *expected = calloc((size_t)d_v, sizeof *expected);
    assert_non_null(expected);
    for (int t = 0; t < T; t++)
        position[t] = L - 2 - T + t;
    for (int i = 0; i < H * d_v; i++)
        v[(L - 1) * H * d_v + i] = v[(L - 2) * H * d_v + i] = NAN;
    for (int i = 0; i < H * d_n; i++)
        k_c[(L - 1) * H * d_n + i] = NAN;
    struct tensor tq = tensor_3d(q, DTYPE_F32, T, H, width), tr = tensor_2d(k_r, DTYPE_F32, L, d_r);
    struct tensor tk = tensor_3d(k_c, DTYPE_F32, L, H, d_n),
                  tv = tensor_3d(v, DTYPE_F32, L, H, d_v);
    struct tensor at = tensor_1d(position, DTYPE_I32, T);
    for (int i = 0; i < ISA_COUNT; i++) {
        const struct ops *ops = cpu_ops_for(isa_names[i]);
        if (ops == NULL)
            continue;
        struct attention_state a = state_open(T, H, d_v);
        assert_ok(ops->expanded_attention(&a, &tq, &tk, &tr, &tv, &at, 0, 0.3f, NULL));
        float *o = finished(ops, &a);
        if (i == 0)
            memcpy(first, o, (size_t)(T * H * d_v) * sizeof *o);
        assert_same_bits(o, first, T * H * d_v);
        for (int h = 0; h < H; h++) {
            for (int j = 0; j < L; j++) {
                memcpy(keys + j * width, k_c + (j * H + h) * d_n, (size_t)d_n * sizeof *keys);
                memcpy(keys + j * width + d_n, k_r + j * d_r, (size_t)d_r * sizeof *keys);
            }
            float *values = floats(L * width); /* as far apart as the keys */
            for (int j = 0; j < L; j++)
                memcpy(values + j * width, v + (j * H + h) * d_v, (size_t)d_v * sizeof *values);
            for (int t = 0; t < T; t++) {
                softmax_in_double(expected, q + (t * H + h) * width, keys, values, position[t] + 1,
                                  width, d_v, width, (double)0.3f);
                assert_close(o + (t * H + h) * d_v, expected, d_v, 1e-5);
            }
            free(values);
        }
        free(o);
        state_close(&a);
    }
    free(expected);
    free(q);
    free(k_c);
    free(k_r);
    free(v);
    free(keys);
    free(first);
}

static void expanded_attention_is_dense_attention(void **state)
{
    (void)state;
    check_expanded(128, 64, 128);
    check_expanded(32, 32, 20); /* values are copied */
    check_expanded(40, 8, 32);  /* keys are copied */
    check_expanded(48, 0, 48);
}

static void an_empty_partial_returns_the_other(void **state)
{
    (void)state;
    enum { W = 20 };
    struct attention_state a = state_open(1, 2, W), b = state_open(1, 2, W);
    float *values = random_floats(2 * W, 1);
    static const float a_m[2] = {-INFINITY, 3.0f}, a_l[2] = {0.0f, 5.0f};
    static const float b_m[2] = {2.0f, -INFINITY}, b_l[2] = {7.0f, 0.0f};
    memcpy(a.m.data, a_m, sizeof a_m);
    memcpy(a.l.data, a_l, sizeof a_l);
    memcpy(b.m.data, b_m, sizeof b_m);
    memcpy(b.l.data, b_l, sizeof b_l);
    memset(a.o.data, 0, 2 * W * sizeof(float));
    memset(b.o.data, 0, 2 * W * sizeof(float));
    memcpy((float *)b.o.data, values, W * sizeof *values);
    memcpy((float *)a.o.data + W, values + W, W * sizeof *values);
    assert_ok(cpu_ops()->merge_partials(&a, &b, NULL));
    assert_same_bits(a.o.data, values, 2 * W);
    assert_same_bits(a.m.data, (const float[]){2.0f, 3.0f}, 2);
    assert_same_bits(a.l.data, (const float[]){7.0f, 5.0f}, 2);
    free(values);
    state_close(&a);
    state_close(&b);
}

static void a_token_that_sees_nothing_gets_zeros(void **state)
{
    (void)state;
    int32_t seq_of[2] = {0, 0}, position[2] = {0, 70};
    struct scene s = {.d_c = 16,
                      .d_r = 8,
                      .heads = 1,
                      .n_sequences = 1,
                      .tokens = 2,
                      .max_pages = 2,
                      .dtype = DTYPE_BF16};
    scene_open(&s, seq_of, position, 2);
    s.table[0] = -1; /* this rank holds the second page only */
    struct attention_state a = attend(cpu_ops(), &s);
    float *o = finished(cpu_ops(), &a);
    assert_true(*tensor_f32(&a.m, 0) == -INFINITY && *tensor_f32(&a.l, 0) == 0.0f);
    for (int i = 0; i < s.d_c; i++)
        assert_true(o[i] == 0.0f && *tensor_f32(&a.o, 0) == 0.0f && isfinite(o[s.d_c + i]));
    free(o);
    state_close(&a);
    scene_close(&s);
}

static void no_tokens_or_heads_need_no_memory(void **state)
{
    (void)state;
    for (int heads = 0; heads < 2; heads++) {
        struct scene s = {.d_c = 16, .d_r = 8, .heads = heads, .max_pages = 1, .tokens = 0};
        struct tensor q = tensor_3d(NULL, DTYPE_F32, 0, heads, 24), o;
        struct attention_state a = {.o = tensor_3d(NULL, DTYPE_F32, 0, heads, 16),
                                    .m = tensor_2d(NULL, DTYPE_F32, 0, heads),
                                    .l = tensor_2d(NULL, DTYPE_F32, 0, heads)};
        struct page_view pages = scene_view(&s);
        o = a.o;
        assert_ok(cpu_ops()->latent_attention(&a, &q, &pages, 1.0f, NULL));
        assert_ok(cpu_ops()->merge_partials(&a, &a, NULL));
        assert_ok(cpu_ops()->attention_finish(&o, &a, NULL));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paged_attention_is_dense_attention_over_each_tokens_prefix),
        cmocka_unit_test(instruction_sets_and_threads_give_the_same_bits),
        cmocka_unit_test(tokens_and_heads_have_the_bits_they_have_alone),
        cmocka_unit_test(rows_after_a_token_do_not_show_in_it),
        cmocka_unit_test(members_of_a_cache_group_merge_to_the_whole),
        cmocka_unit_test(absorbed_attention_is_expanded_attention),
        cmocka_unit_test(expanded_attention_is_dense_attention),
        cmocka_unit_test(long_contexts_and_rising_scores_are_dense_attention),
        cmocka_unit_test(an_empty_partial_returns_the_other),
        cmocka_unit_test(a_token_that_sees_nothing_gets_zeros),
        cmocka_unit_test(no_tokens_or_heads_need_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) +
           cmocka_run_group_tests_name("three threads", tests, open_three_threads, close_threads);
}
