#include "runtime/weight_loader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/random_weights.h"

enum { STAGING_BYTES = 4 << 20 }; /* read and checked at a time */

struct loader {
    struct weights *weights;
    struct arena *arena;
    const struct model_config *config;
    const struct safetensors *checkpoint; /* NULL: random */
    const struct shard_plan *plan;
    const struct weight_loader_options *options;
    char *staging;
    size_t staging_bytes;
    int64_t total;
};

/* Where a tensor goes: a packed matrix (one of its `count`), or a plain tensor. */
static struct matrix *target_matrix(struct loader *l, const struct weight_item *item, int *index)
{
    struct layer_weights *layer = item->layer < 0 ? NULL : &l->weights->layer[item->layer];
    *index = item->expert < 0 ? 0 : item->expert - (int)l->plan->experts.begin;
    switch (item->field) {
    case WEIGHT_HEAD:
        return &l->weights->head;
    case WEIGHT_Q:
    case WEIGHT_UQ:
        return &layer->mla.w_uq;
    case WEIGHT_DQ:
        return &layer->mla.w_dq;
    case WEIGHT_DKV:
        return &layer->mla.w_dkv;
    case WEIGHT_O:
        return &layer->mla.w_o;
    case WEIGHT_DENSE_GATE:
    case WEIGHT_SHARED_GATE:
        return &layer->ffn.gate;
    case WEIGHT_DENSE_UP:
    case WEIGHT_SHARED_UP:
        return &layer->ffn.up;
    case WEIGHT_DENSE_DOWN:
    case WEIGHT_SHARED_DOWN:
        return &layer->ffn.down;
    case WEIGHT_ROUTER:
        return &layer->router;
    case WEIGHT_EXPERT_GATE:
        return &layer->experts.gate;
    case WEIGHT_EXPERT_UP:
        return &layer->experts.up;
    case WEIGHT_EXPERT_DOWN:
        return &layer->experts.down;
    default:
        return NULL;
    }
}

static struct tensor *target_vector(struct loader *l, const struct weight_item *item)
{
    struct layer_weights *layer = item->layer < 0 ? NULL : &l->weights->layer[item->layer];
    switch (item->field) {
    case WEIGHT_FINAL_GAIN:
        return &l->weights->final_gain;
    case WEIGHT_ATTENTION_GAIN:
        return &layer->attention_gain;
    case WEIGHT_FFN_GAIN:
        return &layer->ffn_gain;
    case WEIGHT_DQ_BIAS:
        return &layer->mla.dq_bias;
    case WEIGHT_CQ_GAIN:
        return &layer->mla.cq_gain;
    case WEIGHT_DKV_BIAS:
        return &layer->mla.dkv_bias;
    case WEIGHT_CKV_GAIN:
        return &layer->mla.ckv_gain;
    case WEIGHT_O_BIAS:
        return &layer->mla.o_bias;
    case WEIGHT_ROUTER_BIAS:
        return &layer->router_bias;
    default:
        return NULL;
    }
}

/* Takes memory for `count` matrices of the shape a plan cuts `item` to. */
static enum status take_matrix(struct loader *l, struct matrix *w, enum dtype dtype, int count,
                               int64_t n, int64_t k, struct units units)
{
    *w = (struct matrix){.dtype = dtype, .count = count, .n = n, .k = k, .units = units};
    return arena_take(l->arena, &w->data, matrix_bytes(w));
}

/* Where the chains of a product with this tensor break. */
static struct units units_of(const struct loader *l, const struct weight_item *item,
                             const struct span *columns)
{
    const struct span *heads = &l->plan->heads;
    switch (item->split) {
    case SPLIT_HEAD_COLUMNS:
        return units_of_span(l->config->n_heads, heads->begin, heads->end, l->config->d_v);
    case SPLIT_DENSE_COLUMNS:
    case SPLIT_SHARED_COLUMNS:
    case SPLIT_EXPERT_COLUMNS:
        return units_of_span(item->dim[1], columns->begin, columns->end, 1);
    default:
        return units_whole(span_size(*columns));
    }
}

static enum status lay_out_latent(struct loader *l, struct mla_weights *mla, enum dtype dtype)
{
    const struct model_config *c = l->config;
    int heads = (int)span_size(l->plan->heads);
    int64_t expanded = l->options->keeps_expanded ? c->d_n : 0;
    TRY(take_matrix(l, &mla->w_uk_t, dtype, heads, c->d_c, c->d_n, units_whole(c->d_n)));
    TRY(take_matrix(l, &mla->w_uk, dtype, heads, expanded, c->d_c, units_whole(c->d_c)));
    return take_matrix(l, &mla->w_uv, dtype, heads, c->d_v, c->d_c, units_whole(c->d_c));
}

/* Shapes and memory of one tensor; called once with an arena that only counts, once with the real
 * one. */
static enum status lay_out_item(void *context, const struct weight_item *item)
{
    struct loader *l = context;
    struct span rows, columns;
    int index, count = 1;
    struct matrix *matrix = target_matrix(l, item, &index);
    struct tensor *vector = target_vector(l, item);
    enum dtype dtype = item->is_f32 ? DTYPE_F32 : l->config->dtype;

    if (l->checkpoint != NULL)
        dtype = safetensors_find(l->checkpoint, item->name)->dtype;
    weight_cut(l->config, l->plan, item, &rows, &columns);
    const int64_t dim[] = {span_size(rows), span_size(columns)};

    if (item->expert > 0) /* expert 0 stands for all: they are one matrix */
        return STATUS_OK;
    if (item->expert == 0) {
        struct expert_weights *experts = &l->weights->layer[item->layer].experts;
        experts->first = (int)l->plan->experts.begin;
        experts->n_experts = l->config->router.n_experts;
        count = (int)span_size(l->plan->experts);
    }
    if (vector != NULL)
        return arena_tensor(l->arena, vector, DTYPE_F32, 1, dim);
    if (item->field == WEIGHT_UKV)
        return lay_out_latent(l, &l->weights->layer[item->layer].mla, dtype);
    if (item->field == WEIGHT_EMBEDDING) {
        TRY(arena_tensor(l->arena, &l->weights->embedding, dtype, 2, dim));
        if (!l->config->ties_embeddings)
            return STATUS_OK;
        matrix = &l->weights->head;
    }
    return take_matrix(l, matrix, dtype, count, dim[0], dim[1], units_of(l, item, &columns));
}

/* Head `head` of this rank: d_n rows of W^UK, then d_v rows of W^UV, each [*, d_c]. */
static void pack_head(struct loader *l, struct mla_weights *mla, int head, const char *source)
{
    const struct model_config *c = l->config;
    size_t uk_bytes = (size_t)(c->d_n * c->d_c) * dtype_bytes(mla->w_uv.dtype);
    matrix_pack_transposed(&mla->w_uk_t, head, source, c->d_c);
    matrix_pack(&mla->w_uk, head, 0, mla->w_uk.n, source, c->d_c);
    matrix_pack(&mla->w_uv, head, 0, c->d_v, source + uk_bytes, c->d_c);
}

/* `n` rows from `row` on (in the file's rows) stand in the staging buffer. */
static void place_rows(struct loader *l, const struct weight_item *item, enum dtype dtype,
                       const struct span *rows, const struct span *columns, int64_t row, int64_t n)
{
    int index;
    int64_t width = span_size(*columns), local = row - rows->begin;
    struct matrix *matrix = target_matrix(l, item, &index);
    struct tensor *vector = target_vector(l, item);

    if (matrix != NULL) {
        matrix_pack(matrix, index, local, n, l->staging, width);
    } else if (vector != NULL) {
        dtype_to_f32((float *)vector->data + local, l->staging, dtype, n);
    } else if (item->field == WEIGHT_EMBEDDING) {
        size_t row_bytes = (size_t)width * dtype_bytes(dtype);
        memcpy((char *)l->weights->embedding.data + (size_t)local * row_bytes, l->staging,
               (size_t)n * row_bytes);
        if (l->config->ties_embeddings)
            matrix_pack(&l->weights->head, 0, local, n, l->staging, width);
    } else {
        assert(item->field == WEIGHT_UKV);
        int64_t head_rows = l->config->d_n + l->config->d_v;
        assert(local % head_rows == 0 && n == head_rows);
        pack_head(l, &l->weights->layer[item->layer].mla, (int)(local / head_rows), l->staging);
    }
}

/* Index of the first NaN or infinity among `count` values, or -1. */
static int64_t find_not_finite(const void *data, enum dtype dtype, int64_t count)
{
    if (dtype == DTYPE_F32) {
        const uint32_t *bits = data;
        for (int64_t i = 0; i < count; i++)
            if ((bits[i] & 0x7f800000u) == 0x7f800000u)
                return i;
        return -1;
    }
    const uint16_t *bits = data;
    uint16_t exponent = dtype == DTYPE_BF16 ? 0x7f80u : 0x7c00u;
    for (int64_t i = 0; i < count; i++)
        if ((bits[i] & exponent) == exponent)
            return i;
    return -1;
}

static enum status read_rows(struct loader *l, const struct weight_item *item,
                             const struct safetensors_entry *entry, const struct span *columns,
                             int64_t row, int64_t n)
{
    int64_t file_width = item->ndim == 2 ? item->dim[1] : 1, width = span_size(*columns);
    int64_t bytes = (int64_t)dtype_bytes(entry->dtype);
    if (width == file_width)
        return safetensors_read(l->checkpoint, entry, row * width * bytes, n * width * bytes,
                                l->staging);
    for (int64_t i = 0; i < n; i++)
        TRY(safetensors_read(l->checkpoint, entry,
                             ((row + i) * file_width + columns->begin) * bytes, width * bytes,
                             l->staging + i * width * bytes));
    return STATUS_OK;
}

static void fill_rows(struct loader *l, const struct weight_item *item, enum dtype dtype,
                      const struct span *columns, int64_t row, int64_t n)
{
    int64_t file_width = item->ndim == 2 ? item->dim[1] : 1, width = span_size(*columns);
    for (int64_t i = 0; i < n; i++)
        random_weights_fill(l->staging + (size_t)(i * width) * dtype_bytes(dtype), dtype, item, 0,
                            (row + i) * file_width + columns->begin, width);
}

static enum status load_item(void *context, const struct weight_item *item)
{
    struct loader *l = context;
    struct span rows, columns;
    enum dtype dtype = item->is_f32 ? DTYPE_F32 : l->config->dtype;
    const struct safetensors_entry *entry = NULL;

    weight_slice(l->config, l->plan, item, &rows, &columns);
    if (span_size(rows) == 0)
        return STATUS_OK;
    if (l->checkpoint != NULL) {
        entry = safetensors_find(l->checkpoint, item->name);
        dtype = entry->dtype;
    }
    int64_t width = span_size(columns), row_bytes = width * (int64_t)dtype_bytes(dtype);
    int64_t step = (int64_t)l->staging_bytes / row_bytes;
    if (item->field == WEIGHT_UKV)
        step = l->config->d_n + l->config->d_v;
    for (int64_t row = rows.begin; row < rows.end; row += step) {
        int64_t n = rows.end - row < step ? rows.end - row : step;
        if (entry != NULL) {
            TRY(read_rows(l, item, entry, &columns, row, n));
            int64_t bad = find_not_finite(l->staging, dtype, n * width);
            if (bad >= 0)
                FAIL(STATUS_INVALID,
                     "%s: tensor %s holds NaN or infinity at row %lld, column %lld; the file is "
                     "damaged or was saved from a broken run",
                     safetensors_path(l->checkpoint, entry), item->name,
                     (long long)(row + bad / width), (long long)(columns.begin + bad % width));
        } else {
            fill_rows(l, item, dtype, &columns, row, n);
        }
        place_rows(l, item, dtype, &rows, &columns, row, n);
        l->weights->bytes_read += n * row_bytes;
        if (l->options->on_progress != NULL)
            l->options->on_progress(l->options->progress_context, l->weights->bytes_read, l->total);
    }
    return STATUS_OK;
}

/* A row of the widest tensor and one head of kv_b_proj must fit the staging buffer. */
static size_t staging_size(const struct model_config *c)
{
    int64_t widest = c->d > c->dense_columns ? c->d : c->dense_columns;
    int64_t head = (c->d_n + c->d_v) * c->d_c;
    int64_t heads_v = c->n_heads * c->d_v;
    widest = widest > heads_v ? widest : heads_v;
    widest = widest > c->d_cq ? widest : c->d_cq;
    widest = widest > head ? widest : head;
    widest = widest > c->n_shared_experts * c->expert_columns
                 ? widest
                 : c->n_shared_experts * c->expert_columns;
    size_t bytes = (size_t)widest * sizeof(float);
    return bytes > STAGING_BYTES ? bytes : STAGING_BYTES;
}

/* The experts of a layer are one matrix: they must be stored alike. */
static enum status check_expert_types(void *context, const struct weight_item *item)
{
    struct loader *l = context;
    int index;
    if (item->expert < 0 || l->checkpoint == NULL)
        return STATUS_OK;
    const struct safetensors_entry *entry = safetensors_find(l->checkpoint, item->name);
    enum dtype first = target_matrix(l, item, &index)->dtype;
    if (entry->dtype != first)
        FAIL(STATUS_UNSUPPORTED,
             "%s: tensor %s is stored as %s, that of expert 0 as %s; the "
             "experts of a layer must have one type",
             safetensors_path(l->checkpoint, entry), item->name, dtype_name(entry->dtype),
             dtype_name(first));
    return STATUS_OK;
}

enum status weights_load(struct weights *weights, struct arena *arena,
                         const struct device_ops *device, const struct model_config *config,
                         const struct safetensors *checkpoint, const struct shard_plan *plan,
                         const struct weight_loader_options *options)
{
    enum status status;
    struct arena measure = {.name = "weights"};
    struct loader l = {.weights = weights,
                       .arena = &measure,
                       .config = config,
                       .checkpoint = checkpoint,
                       .plan = plan,
                       .options = options,
                       .staging_bytes = staging_size(config)};

    *weights = (struct weights){0};
    weights->layer = calloc((size_t)config->n_layers, sizeof *weights->layer);
    l.staging = malloc(l.staging_bytes);
    if (weights->layer == NULL || l.staging == NULL) {
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__,
                             "no memory for a staging buffer of %zu bytes", l.staging_bytes);
        goto end;
    }
    for (int i = 0; i < config->n_layers; i++)
        weights->layer[i].is_moe = config->is_moe[i];
    TRY_GOTO(status, end, weights_rank_bytes(config, checkpoint, plan, &l.total));
    TRY_GOTO(status, end, weights_each(config, lay_out_item, &l));
    TRY_GOTO(status, end, arena_open(arena, device, "weights", measure.used));
    l.arena = arena;
    TRY_GOTO(status, end, weights_each(config, lay_out_item, &l));
    TRY_GOTO(status, end, weights_each(config, check_expert_types, &l));
    TRY_GOTO(status, end, weights_each(config, load_item, &l));
    weights->bytes_resident = (int64_t)arena->used;
end:
    free(l.staging);
    return status;
}

void weights_close(struct weights *weights)
{
    free(weights->layer);
    *weights = (struct weights){0};
}
