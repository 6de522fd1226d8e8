/* test_vectors.c - operations against tests/golden/vectors/ops.safetensors, which a float64 oracle
 * wrote without knowing this code. */
#include <stdio.h>

#include "runtime/safetensors.h"
#include "tests/kernels/kernel_test.h"

static struct safetensors *file;
static void *loaded[128];
static int n_loaded;

static int open_file(void **state)
{
    (void)state;
    return safetensors_open_file(&file, SOURCE_DIR "/tests/golden/vectors/ops.safetensors") !=
           STATUS_OK;
}

static int close_file(void **state)
{
    (void)state;
    safetensors_close(file);
    return 0;
}

static int free_loaded(void **state)
{
    (void)state;
    while (n_loaded > 0)
        free(loaded[--n_loaded]);
    return 0;
}

static void *keep(size_t bytes)
{
    assert_true(n_loaded < (int)(sizeof loaded / sizeof loaded[0]));
    return loaded[n_loaded++] = calloc(bytes + 1, 1);
}

/* Tensor `group`.`name` of the file. */
static struct tensor vector(const char *group, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", group, name);
    const struct safetensors_entry *entry = safetensors_find(file, full);
    if (entry == NULL)
        fail_msg("no tensor %s", full);
    void *data = keep((size_t)entry->bytes);
    assert_int_equal(safetensors_read(file, entry, 0, entry->bytes, data), STATUS_OK);
    if (entry->ndim == 3)
        return tensor_3d(data, entry->dtype, entry->dim[0], entry->dim[1], entry->dim[2]);
    if (entry->ndim == 2)
        return tensor_2d(data, entry->dtype, entry->dim[0], entry->dim[1]);
    return tensor_1d(data, entry->dtype, entry->dim[0]);
}

static struct tensor like(const struct tensor *t)
{
    struct tensor copy = *t;
    copy.data = keep((size_t)tensor_count(t) * dtype_bytes(t->dtype));
    return copy;
}

/* |a - b| <= tolerance x the largest |b|; both dense. */
static void same_values(const char *what, const struct tensor *a, const struct tensor *b,
                        double tolerance)
{
    const float *x = a->data, *y = b->data;
    double largest = 0;
    assert_int_equal(tensor_count(a), tensor_count(b));
    for (int64_t i = 0; i < tensor_count(b); i++)
        largest = fmax(largest, fabs((double)y[i]));
    for (int64_t i = 0; i < tensor_count(b); i++)
        if (!(fabs((double)x[i] - (double)y[i]) <= tolerance * largest))
            fail_msg("%s: element %lld is %.9g, expected %.9g (largest %.3g)", what, (long long)i,
                     (double)x[i], (double)y[i], largest);
}

static void norm_scales_by_the_root_of_the_mean_square(void **state)
{
    static const char *const groups[] = {"rms_norm", "rms_norm_small"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct tensor x = vector(groups[i], "x"), y = like(&x), expected = vector(groups[i], "y");
        struct tensor gamma = vector(groups[i], "gamma"), eps = vector(groups[i], "eps");
        assert_int_equal(cpu_ops()->rms_norm(&y, &x, &gamma, *(float *)eps.data, NULL), STATUS_OK);
        same_values(groups[i], &y, &expected, 1e-6);
    }
}

static void rope_turns_interleaved_pairs(void **state)
{
    static const char *const groups[] = {"rope.v2_lite", "rope.v3",  "rope.k2",
                                         "rope.k25",     "rope.glm", "rope.amplitude"};
    (void)state;
    for (int i = 0; i < 6; i++) {
        struct tensor x = vector(groups[i], "x"), y = like(&x), expected = vector(groups[i], "y");
        struct tensor position = vector(groups[i], "positions");
        struct tensor frequency = vector(groups[i], "inv_freq");
        double amplitude = (double)*(float *)vector(groups[i], "amplitude").data;
        int64_t pairs = frequency.dim[0], n_positions = 1;
        for (int64_t t = 0; t < position.dim[0]; t++)
            if (tensor_i32(&position)[t] >= n_positions)
                n_positions = tensor_i32(&position)[t] + 1;
        struct tensor table = tensor_2d(keep((size_t)(n_positions * pairs * 2) * sizeof(float)),
                                        DTYPE_F32, n_positions, pairs * 2);
        for (int64_t p = 0; p < n_positions; p++)
            for (int64_t j = 0; j < pairs; j++) {
                double angle = (double)p * (double)((float *)frequency.data)[j];
                tensor_f32(&table, p)[2 * j] = (float)(amplitude * cos(angle));
                tensor_f32(&table, p)[2 * j + 1] = (float)(amplitude * sin(angle));
            }
        assert_int_equal(cpu_ops()->rope(&y, &x, &position, &table, NULL), STATUS_OK);
        same_values(groups[i], &y, &expected, 1e-6);
        free_loaded(NULL);
    }
}

static void swiglu_gates_the_upper_half(void **state)
{
    struct tensor gate = vector("swiglu", "gate"), up = vector("swiglu", "up");
    struct tensor expected = vector("swiglu", "act"), y = like(&expected);
    (void)state;
    assert_int_equal(cpu_ops()->swiglu(&y, &gate, &up, NULL), STATUS_OK);
    same_values("swiglu", &y, &expected, 1e-6);
}

static void check_router(const char *group, int is_sigmoid)
{
    struct tensor logits = vector(group, "logits"), ids = vector(group, "ids");
    struct tensor weights = vector(group, "weights"), rule = vector(group, "rule");
    struct tensor bias = is_sigmoid ? vector(group, "bias") : (struct tensor){0};
    struct tensor own_ids = like(&ids), own_weights = like(&weights);
    const int32_t *r = rule.data; /* K, n_group, topk_group, norm */
    const struct router_params params = {
        .scoring = is_sigmoid ? ROUTER_SIGMOID : ROUTER_SOFTMAX,
        .method = is_sigmoid ? ROUTER_NOAUX_TC
                  : r[1] > 1 ? ROUTER_GROUP_LIMITED
                             : ROUTER_GREEDY,
        .n_experts = (int)logits.dim[1],
        .n_chosen = r[0],
        .n_groups = r[1],
        .n_chosen_groups = r[2],
        .normalize = r[3],
        .scale = *(float *)vector(group, "scale").data,
    };
    assert_int_equal(cpu_ops()->router(&own_ids, &own_weights, &logits, &bias, &params, NULL),
                     STATUS_OK);
    assert_memory_equal(own_ids.data, ids.data, (size_t)tensor_count(&ids) * sizeof(int32_t));
    same_values(group, &own_weights, &weights, 2e-6);
    free_loaded(NULL);
}

static void routers_choose_and_weigh_as_v2_and_v3_do(void **state)
{
    static const char *const softmax[] = {"router.softmax_greedy", "router.softmax_group",
                                          "router.softmax_group_norm", "router.softmax_v2",
                                          "router.softmax_v2_lite"};
    static const char *const sigmoid[] = {
        "router.sigmoid_group",   "router.sigmoid_k2",    "router.sigmoid_negative_bias",
        "router.sigmoid_no_norm", "router.sigmoid_plain", "router.sigmoid_tiny",
        "router.sigmoid_v3"};
    (void)state;
    for (int i = 0; i < 5; i++)
        check_router(softmax[i], 0);
    for (int i = 0; i < 7; i++)
        check_router(sigmoid[i], 1);
}

static void equal_scores_go_to_the_lowest_id(void **state)
{
    struct tensor logits = vector("router.ties", "logits"), ids = vector("router.ties", "ids");
    struct tensor weights = vector("router.ties", "weights");
    struct tensor own_ids = like(&ids), own_weights = like(&weights), bias = {0};
    const struct router_params params = {.scoring = ROUTER_SOFTMAX,
                                         .method = ROUTER_GREEDY,
                                         .n_experts = (int)logits.dim[1],
                                         .n_chosen = (int)ids.dim[1],
                                         .n_groups = 1,
                                         .n_chosen_groups = 1,
                                         .scale = 1};
    (void)state;
    assert_int_equal(cpu_ops()->router(&own_ids, &own_weights, &logits, &bias, &params, NULL),
                     STATUS_OK);
    assert_memory_equal(own_ids.data, ids.data, (size_t)tensor_count(&ids) * sizeof(int32_t));
    same_values("router.ties", &own_weights, &weights, 2e-6);
}

/* Keys and queries side by side as the engine holds them. */
static struct tensor side_by_side(const struct tensor *a, const struct tensor *b, int64_t rows)
{
    int64_t wa = a->dim[a->ndim - 1], wb = b->dim[b->ndim - 1];
    struct tensor y =
        tensor_2d(keep((size_t)(rows * (wa + wb)) * sizeof(float)), DTYPE_F32, rows, wa + wb);
    for (int64_t i = 0; i < rows; i++) {
        memcpy(tensor_f32(&y, i), (float *)a->data + i * wa, (size_t)wa * sizeof(float));
        memcpy(tensor_f32(&y, i) + wa, (float *)b->data + i * wb, (size_t)wb * sizeof(float));
    }
    return y;
}

static struct attention_state new_state(int64_t tokens, int64_t heads, int64_t width)
{
    size_t n = (size_t)(tokens * heads);
    return (struct attention_state){
        .o = tensor_3d(keep(n * (size_t)width * sizeof(float)), DTYPE_F32, tokens, heads, width),
        .m = tensor_2d(keep(n * sizeof(float)), DTYPE_F32, tokens, heads),
        .l = tensor_2d(keep(n * sizeof(float)), DTYPE_F32, tokens, heads),
    };
}

static void check_attention(const char *group)
{
    struct tensor q_lat = vector(group, "q_lat"), q_r = vector(group, "q_r");
    struct tensor c_kv = vector(group, "c_kv"), k_r = vector(group, "k_r");
    struct tensor expected = vector(group, "o_lat"), lse = vector(group, "lse");
    float scale = *(float *)vector(group, "scale").data;
    int64_t tokens = q_lat.dim[0], heads = q_lat.dim[1], n_rows = c_kv.dim[0];
    struct tensor rows = side_by_side(&c_kv, &k_r, n_rows);
    struct tensor q = side_by_side(&q_lat, &q_r, tokens * heads);
    q = tensor_3d(q.data, DTYPE_F32, tokens, heads, q.dim[1]);

    /* row j of sequence 0 in page 2 - j / 64: pages in an order of their own */
    int64_t width = rows.dim[1];
    int32_t table[] = {2, 1}, position[8], seq_of[8] = {0};
    struct tensor paged = tensor_3d(keep((size_t)(3 * PAGE_ROWS * width) * sizeof(float)),
                                    DTYPE_F32, 3, PAGE_ROWS, width);
    for (int64_t j = 0; j < n_rows; j++)
        memcpy((float *)paged.data + (table[j / PAGE_ROWS] * PAGE_ROWS + j % PAGE_ROWS) * width,
               tensor_f32(&rows, j), (size_t)width * sizeof(float));
    for (int t = 0; t < tokens; t++)
        position[t] = (int32_t)(n_rows - tokens + t);
    struct page_view pages = {.rows = paged,
                              .table = tensor_2d(table, DTYPE_I32, 1, 2),
                              .seq_of = tensor_1d(seq_of, DTYPE_I32, tokens),
                              .position = tensor_1d(position, DTYPE_I32, tokens),
                              .d_c = c_kv.dim[1],
                              .d_r = paged.dim[2] - c_kv.dim[1]};

    struct attention_state state = new_state(tokens, heads, c_kv.dim[1]);
    struct tensor o = like(&expected), own_lse = like(&lse);
    assert_int_equal(cpu_ops()->latent_attention(&state, &q, &pages, scale, NULL), STATUS_OK);
    assert_int_equal(cpu_ops()->attention_finish(&o, &state, NULL), STATUS_OK);
    same_values(group, &o, &expected, 2e-6);
    for (int64_t i = 0; i < tokens * heads; i++)
        ((float *)own_lse.data)[i] = ((float *)state.m.data)[i] + logf(((float *)state.l.data)[i]);
    same_values(group, &own_lse, &lse, 2e-6);
    free_loaded(NULL);
}

static void latent_attention_over_pages_equals_the_oracle(void **state)
{
    (void)state;
    check_attention("attention");
    check_attention("attention_wide");
}

static void absorbing_the_up_projections_changes_nothing(void **state)
{
    struct tensor q_c = vector("attention", "q_c"), w_uk = vector("attention", "w_uk");
    struct tensor w_uv = vector("attention", "w_uv"), o_lat = vector("attention", "o_lat");
    struct tensor q_lat = vector("attention", "q_lat"), o = vector("attention", "o");
    int heads = (int)w_uk.dim[0];
    int64_t d_n = w_uk.dim[1], d_c = w_uk.dim[2], d_v = w_uv.dim[1];
    struct matrix uk_t = {.dtype = DTYPE_F32, .count = heads, .n = d_c, .k = d_n};
    struct matrix uv = {.dtype = DTYPE_F32, .count = heads, .n = d_v, .k = d_c};
    struct tensor own_q = like(&q_lat), own_o = like(&o);
    (void)state;
    uk_t.units = units_whole(d_n);
    uv.units = units_whole(d_c);
    uk_t.data = keep(matrix_bytes(&uk_t));
    uv.data = keep(matrix_bytes(&uv));
    for (int h = 0; h < heads; h++) {
        matrix_pack_transposed(&uk_t, h, (float *)w_uk.data + h * d_n * d_c, d_c);
        matrix_pack(&uv, h, 0, d_v, (float *)w_uv.data + h * d_v * d_c, d_c);
    }
    assert_int_equal(cpu_ops()->gemm_heads(&own_q, &q_c, &uk_t, NULL), STATUS_OK);
    same_values("q_lat", &own_q, &q_lat, 2e-6);
    assert_int_equal(cpu_ops()->gemm_heads(&own_o, &o_lat, &uv, NULL), STATUS_OK);
    same_values("o", &own_o, &o, 2e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(norm_scales_by_the_root_of_the_mean_square, free_loaded),
        cmocka_unit_test_teardown(rope_turns_interleaved_pairs, free_loaded),
        cmocka_unit_test_teardown(swiglu_gates_the_upper_half, free_loaded),
        cmocka_unit_test_teardown(routers_choose_and_weigh_as_v2_and_v3_do, free_loaded),
        cmocka_unit_test_teardown(equal_scores_go_to_the_lowest_id, free_loaded),
        cmocka_unit_test_teardown(latent_attention_over_pages_equals_the_oracle, free_loaded),
        cmocka_unit_test_teardown(absorbing_the_up_projections_changes_nothing, free_loaded),
    };
    return cmocka_run_group_tests(tests, open_file, close_file);
}
