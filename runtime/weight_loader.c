#include "runtime/weight_loader.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/weight_quantize.h"
#include "runtime/weight_reader.h"

enum {
    PIECE_NUMBERS =
        15 << 17,  /* of a tensor that a thread takes at a time: bf16, one read from disk */
    IN_FLIGHT = 16 /* reads at once that keep a disk busy */
};

struct loader {
    struct weights *weights;
    struct arena *arena;
    const struct model_config *config;
    const struct safetensors *checkpoint; /* NULL: random */
    const struct shard_plan *plan;
    const struct weight_loader_options *options;
    const struct device_ops *device;
    struct reader_thread *thread; /* [n_threads + n_helpers] */
    int n_threads, n_helpers;
    atomic_int helpers_begun;
    int64_t total;
    atomic_llong bytes_read;
    atomic_llong next_piece;   /* that no thread has taken */
    atomic_llong failed_piece; /* the first that failed; LLONG_MAX: none */
};

/* What a thread reads with, where it is, and how it went.
 *
 * Every thread walks the table of tensors.  Their pieces are numbered on the way,
 * some rows each; a thread reads and packs those whose numbers it took. */
struct reader_thread {
    struct loader *loader;
    struct weight_reader reader;
    int is_first;          /* the caller's, which reports progress */
    int is_begun;          /* a helper that runs */
    pthread_t handle;      /* of a helper */
    long long piece, seen; /* the one taken; pieces of tensors walked over */
    enum status status;
    char text[STATUS_TEXT_MAX];
};

/* Where a tensor goes: a packed matrix (one of its `count`), or a plain tensor. */
static struct matrix *target_matrix(struct loader *l, const struct weight_item *item, int *index)
{
    struct layer_weights *layer = item->layer < 0 ? NULL : &l->weights->layer[item->layer];
    *index = item->expert < 0 ? 0 : item->slot - (int)l->plan->experts.begin;
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
    case WEIGHT_EXPERT_NORM_GAIN:
        return &layer->expert_norm_gain;
    default:
        return NULL;
    }
}

/* Takes memory for the matrices whose shape stands in `w`, and for the scales of quantized ones. */
static enum status take_matrix(struct loader *l, struct matrix *w)
{
    TRY(arena_take(l->arena, &w->data, matrix_bytes(w)));
    if (!matrix_is_quantized(w))
        return STATUS_OK;
    return arena_take(l->arena, &w->scales.data, matrix_scale_bytes(w));
}

/* Groups along the columns of the file, of a slice that begins at column `begin` of the tensor. */
static struct matrix_scales column_scales(const struct weight_source *source, int64_t begin)
{
    if (source->scale_columns == 0)
        return (struct matrix_scales){0};
    return (struct matrix_scales){.dtype =
                                      source->scale_dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32,
                                  .step = source->scale_columns,
                                  .first = begin % source->scale_columns};
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

/* The type of the matrix that a tensor becomes; a tied embedding becomes lm_head too. */
static enum dtype resident_dtype(const struct loader *l, const struct weight_item *item,
                                 const struct weight_source *source)
{
    struct weight_item as = *item;
    if (item->field == WEIGHT_EMBEDDING && l->config->ties_embeddings && l->plan->has_head)
        as.field = WEIGHT_HEAD;
    return weight_resident_dtype(&as, source, l->options->to_i8);
}

/* What input rows of the matrix are rounded to.  The router's are not: a score that moves a little may
 * choose another expert. */
static enum dtype input_dtype(const struct loader *l, const struct weight_item *item,
                              enum dtype dtype)
{
    int rounds = l->options->rounds_inputs && dtype == DTYPE_BF16 && item->field != WEIGHT_ROUTER;
    return rounds ? DTYPE_BF16 : DTYPE_F32;
}

static void set_shape(struct matrix *w, int64_t n, int64_t k)
{
    w->n = n;
    w->k = k;
    w->units = units_whole(k);
}

/* W^UK and W^UV of each head.  The columns of the transposed W^UK are rows of the file: its groups
 * begin elsewhere in each head. */
static enum status lay_out_latent(struct loader *l, const struct weight_item *item,
                                  const struct weight_source *source)
{
    struct mla_weights *mla = &l->weights->layer[item->layer].mla;
    const struct model_config *c = l->config;
    int heads = (int)span_size(l->plan->heads);
    int64_t head_rows = c->d_n + c->d_v;
    struct matrix_scales scales = column_scales(source, 0), transposed = scales;
    if (source->scale_rows > 0) {
        transposed.step = source->scale_rows;
        transposed.first = l->plan->heads.begin * head_rows % source->scale_rows;
        transposed.shift = head_rows;
    }
    mla->w_uk_t = mla->w_uk = mla->w_uv =
        (struct matrix){.dtype = source->dtype,
                        .input = input_dtype(l, item, source->dtype),
                        .count = heads,
                        .scales = scales};
    mla->w_uk_t.scales = transposed;
    set_shape(&mla->w_uk_t, c->d_c, c->d_n);
    set_shape(&mla->w_uk, l->options->keeps_expanded ? c->d_n : 0, c->d_c);
    set_shape(&mla->w_uv, c->d_v, c->d_c);
    TRY(take_matrix(l, &mla->w_uk_t));
    TRY(take_matrix(l, &mla->w_uk));
    return take_matrix(l, &mla->w_uv);
}

/* Shapes and memory of one tensor; called once with an arena that only counts, once with the real
 * one. */
static enum status lay_out_item(void *context, const struct weight_item *item)
{
    struct loader *l = context;
    struct weight_source source;
    struct span rows, columns;
    int index, count = 1;
    struct matrix *matrix = target_matrix(l, item, &index);
    struct tensor *vector = target_vector(l, item);

    if (item->slot > 0 || /* slot 0 stands for all: they are one matrix */
        !weight_is_held(l->config, l->plan, item))
        return STATUS_OK;
    TRY(weights_find(l->config, l->checkpoint, item, &source));
    weight_cut(l->config, l->plan, item, &rows, &columns);
    int64_t dim[] = {span_size(rows), span_size(columns)};
    if (item->slot == 0) {
        struct expert_weights *experts = &l->weights->layer[item->layer].experts;
        const struct expert_map *maps = l->plan->expert_maps;
        experts->first = (int)l->plan->experts.begin;
        experts->n_experts = maps != NULL ? maps[item->layer].n_slots : l->config->router.n_experts;
        count = (int)span_size(l->plan->experts);
    }
    if (vector != NULL)
        return arena_tensor(l->arena, vector, DTYPE_F32, 1, dim);
    if (item->field == WEIGHT_UKV)
        return lay_out_latent(l, item, &source);
    if (item->field == WEIGHT_EMBEDDING) {
        dim[0] = l->plan->has_embedding ? dim[0] : 0; /* else only the tied head is wanted */
        TRY(arena_tensor(l->arena, &l->weights->embedding, source.dtype, 2, dim));
        if (!l->config->ties_embeddings || !l->plan->has_head)
            return STATUS_OK;
        dim[0] = span_size(rows);
        matrix = &l->weights->head;
    }
    *matrix = (struct matrix){.dtype = resident_dtype(l, item, &source),
                              .count = count,
                              .n = dim[0],
                              .k = dim[1],
                              .units = units_of(l, item, &columns),
                              .scales = column_scales(&source, columns.begin)};
    matrix->input = input_dtype(l, item, matrix->dtype);
    if (matrix->dtype == DTYPE_I8)
        matrix->scales = weight_i8_scales(columns.begin);
    return take_matrix(l, matrix);
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

/* Scales of matrix `index`, whose rows are rows of the tensor from `row` on, its columns from
 * `column` on. */
static void set_scales(const struct weight_reader *reader, const struct weight_source *source,
                       struct matrix *w, int index, int64_t row, int64_t column)
{
    for (int64_t j = 0; j < w->k;) {
        int64_t group = matrix_group(w, index, j);
        for (int64_t i = 0; i < w->n; i++)
            matrix_set_scale(w, index, i, group,
                             weight_reader_scale(reader, source, row + i, column + j));
        while (j < w->k && matrix_group(w, index, j) == group)
            j++;
    }
}

/* The same for a transposed one: its rows are columns of the tensor. */
static void set_scales_transposed(const struct weight_reader *reader,
                                  const struct weight_source *source, struct matrix *w, int index,
                                  int64_t row)
{
    for (int64_t j = 0; j < w->k;) {
        int64_t group = matrix_group(w, index, j);
        for (int64_t i = 0; i < w->n; i++)
            matrix_set_scale(w, index, i, group, weight_reader_scale(reader, source, row + j, i));
        while (j < w->k && matrix_group(w, index, j) == group)
            j++;
    }
}

/* All scales of one tensor's slice. */
static enum status place_scales(struct loader *l, struct weight_reader *reader,
                                const struct weight_item *item, const struct weight_source *source,
                                const struct span *rows, const struct span *columns)
{
    int index;
    struct matrix *matrix = target_matrix(l, item, &index);
    TRY(weight_reader_scales(reader, item, source, rows, columns));
    if (matrix != NULL) {
        set_scales(reader, source, matrix, index, rows->begin, columns->begin);
        return STATUS_OK;
    }
    assert(item->field == WEIGHT_UKV);
    struct mla_weights *mla = &l->weights->layer[item->layer].mla;
    for (int head = 0; head < mla->w_uv.count; head++) {
        int64_t row = rows->begin + head * (l->config->d_n + l->config->d_v);
        set_scales_transposed(reader, source, &mla->w_uk_t, head, row);
        set_scales(reader, source, &mla->w_uk, head, row, 0);
        set_scales(reader, source, &mla->w_uv, head, row + l->config->d_n, 0);
    }
    return STATUS_OK;
}

/* `from` holds `n` rows from `row` on (in the tensor's rows).  Returns 1 when all were looked at on the
 * way and are finite. */
static int place_rows(struct loader *l, const struct weight_item *item, enum dtype dtype,
                      const struct span *rows, const struct span *columns, int64_t row, int64_t n,
                      const char *from)
{
    int index;
    int64_t width = span_size(*columns), local = row - rows->begin;
    struct matrix *matrix = target_matrix(l, item, &index);
    struct tensor *vector = target_vector(l, item);

    if (matrix != NULL) {
        return matrix_pack(matrix, index, local, n, from, width);
    } else if (vector != NULL) {
        dtype_to_f32((float *)vector->data + local, from, dtype, n);
    } else if (item->field == WEIGHT_EMBEDDING) {
        size_t row_bytes = (size_t)width * dtype_bytes(dtype);
        if (l->plan->has_embedding)
            memcpy((char *)l->weights->embedding.data + (size_t)local * row_bytes, from,
                   (size_t)n * row_bytes);
        if (l->config->ties_embeddings && l->plan->has_head && l->weights->head.dtype == dtype)
            matrix_pack(&l->weights->head, 0, local, n, from, width);
    } else {
        assert(item->field == WEIGHT_UKV);
        int64_t head_rows = l->config->d_n + l->config->d_v;
        assert(local % head_rows == 0 && n == head_rows);
        pack_head(l, &l->weights->layer[item->layer].mla, (int)(local / head_rows), from);
    }
    return 0;
}

/* The slice of one tensor. */
struct slice {
    const struct weight_item *item;
    const struct weight_source *source;
    struct span rows, columns;
    struct span read;       /* columns that are read: of a matrix in 8 bits also its neighbours' */
    struct matrix *rounded; /* that matrix, NULL without one, and which of its `count` */
    int index;
    int64_t step; /* rows that are not divided: a bundle of a matrix, a head of kv_b_proj */
};

/* Whether the tensor becomes a matrix in 8 bits, and what is read for it. */
static void look_for_rounding(struct loader *l, struct slice *slice)
{
    const struct weight_item *item = slice->item;
    slice->read = slice->columns;
    if (resident_dtype(l, item, slice->source) != DTYPE_I8)
        return;
    slice->rounded =
        item->field == WEIGHT_EMBEDDING ? &l->weights->head : target_matrix(l, item, &slice->index);
    slice->read = weight_i8_columns(&slice->columns, item->dim[1]);
}

/* Rows [row, row + n) of the tensor, as the reader has them, into the matrix in 8 bits. */
static enum status round_rows(const struct weight_reader *reader, const struct slice *slice,
                              int64_t row, int64_t n)
{
    const struct weight_rows rows = {.data = reader->rows,
                                     .source = slice->source,
                                     .reader = reader,
                                     .rows = {row, row + n},
                                     .columns = slice->read};
    TRY(weight_reader_check(reader, slice->item, slice->source, &slice->read, row, n));
    weight_quantize(slice->rounded, slice->index, row - slice->rows.begin, slice->columns.begin,
                    &rows);
    return STATUS_OK;
}

/* Only the caller's thread speaks, so that the report needs no lock. */
static void count_bytes(struct reader_thread *own, int64_t bytes)
{
    struct loader *l = own->loader;
    int64_t done = atomic_fetch_add(&l->bytes_read, bytes) + bytes;
    if (own->is_first && l->options->on_progress != NULL)
        l->options->on_progress(l->options->progress_context, done, l->total);
}

static void *help(void *context);

/* A core packs faster than a disk reads: more threads than cores keep several reads in flight.  None are
 * needed while all comes from memory.  A thread that the system refuses is one read less. */
static void begin_helpers(struct loader *l)
{
    if (atomic_exchange(&l->helpers_begun, 1))
        return;
    for (int i = l->n_threads; i < l->n_threads + l->n_helpers; i++)
        l->thread[i].is_begun =
            pthread_create(&l->thread[i].handle, NULL, help, &l->thread[i]) == 0;
}

/* Rows [begin, end) of the tensor. */
static enum status load_rows(struct reader_thread *own, const struct slice *slice, int64_t begin,
                             int64_t end)
{
    struct weight_reader *reader = &own->reader;
    const struct span rows = {begin, end};
    weight_reader_look(reader, slice->item, slice->source, begin, end - begin);
    if (reader->state != PAGES_CACHED)
        begin_helpers(own->loader);
    if (slice->rounded != NULL && slice->source->scale_rows > 0)
        TRY(weight_reader_scales(reader, slice->item, slice->source, &rows, &slice->read));
    int64_t most =
        weight_reader_count(reader, slice->item, slice->source, &slice->read, slice->step);
    if (slice->item->field == WEIGHT_UKV)
        most = slice->step;
    for (int64_t row = begin; row < end; row += most) {
        int64_t n = end - row < most ? end - row : most;
        TRY(weight_reader_rows(reader, slice->item, slice->source, &slice->read, row, n));
        if (slice->rounded != NULL)
            TRY(round_rows(reader, slice, row, n));
        if (slice->rounded != NULL && slice->item->field != WEIGHT_EMBEDDING)
            continue;
        if (!place_rows(own->loader, slice->item, slice->source->dtype, &slice->rows,
                        &slice->columns, row, n, reader->rows))
            TRY(weight_reader_check(reader, slice->item, slice->source, &slice->columns, row, n));
    }
    return STATUS_OK;
}

/* What is read with a tensor's last piece: its scales. */
static enum status load_scales(struct reader_thread *own, const struct slice *slice)
{
    struct weight_source values = *slice->source;
    values.scale_rows = 0;
    if (slice->source->scale_rows == 0)
        return STATUS_OK;
    if (slice->rounded == NULL) /* else read with each of its pieces */
        TRY(place_scales(own->loader, &own->reader, slice->item, slice->source, &slice->rows,
                         &slice->columns));
    count_bytes(own, weight_source_bytes(slice->source, &slice->rows, &slice->columns) -
                         weight_source_bytes(&values, &slice->rows, &slice->columns));
    return STATUS_OK;
}

/* Piece `index` of a tensor, `most` rows but for the last one. */
static enum status load_piece(struct reader_thread *own, const struct slice *slice, int64_t index,
                              int64_t most)
{
    struct weight_source values = *slice->source;
    struct span rows = {.begin = slice->rows.begin + index * most};
    if (rows.begin >= slice->rows.end)
        return load_scales(own, slice);
    rows.end = rows.begin + most < slice->rows.end ? rows.begin + most : slice->rows.end;
    TRY(load_rows(own, slice, rows.begin, rows.end));
    values.scale_rows = 0;
    count_bytes(own, weight_source_bytes(&values, &rows, &slice->columns));
    return STATUS_OK;
}

/* The next piece; after a failure none, since pieces before it are all taken. */
static void take_piece(struct reader_thread *own)
{
    own->piece = atomic_fetch_add(&own->loader->next_piece, 1);
    if (own->piece > atomic_load(&own->loader->failed_piece))
        own->piece = LLONG_MAX;
}

/* Pieces of a slice, and rows of each but the last: whole steps, about alike. */
static int64_t piece_count(const struct slice *slice, int64_t *rows)
{
    int64_t steps = (span_size(slice->rows) + slice->step - 1) / slice->step;
    int64_t step_numbers = span_size(slice->columns) * slice->step;
    int64_t most = step_numbers < PIECE_NUMBERS ? PIECE_NUMBERS / step_numbers : 1;
    int64_t each = (steps + (steps + most - 1) / most - 1) / ((steps + most - 1) / most);
    *rows = each * slice->step;
    return (steps + each - 1) / each;
}

static enum status load_item(void *context, const struct weight_item *item)
{
    struct reader_thread *own = context;
    struct loader *l = own->loader;
    struct weight_source source;
    struct slice slice = {.item = item, .source = &source, .step = MATRIX_BUNDLE * MATRIX_BLOCK};

    weight_slice(l->config, l->plan, item, &slice.rows, &slice.columns);
    if (span_size(slice.rows) == 0)
        return STATUS_OK;
    if (item->field == WEIGHT_UKV)
        slice.step = l->config->d_n + l->config->d_v;
    int64_t most, n_pieces = piece_count(&slice, &most);
    long long first = own->seen;
    own->seen += n_pieces + 1; /* the last: scales */
    if (own->piece >= own->seen)
        return STATUS_OK;
    TRY(weights_find(l->config, l->checkpoint, item, &source));
    look_for_rounding(l, &slice);
    for (; own->piece < own->seen; take_piece(own))
        TRY(load_piece(own, &slice, own->piece - first, most));
    return STATUS_OK;
}

/* The pieces of one thread. */
static void load_share(struct reader_thread *own)
{
    struct loader *l = own->loader;
    take_piece(own);
    own->status = weights_each_slot(l->config, l->plan->expert_maps, load_item, own);
    if (own->status == STATUS_OK)
        return;
    memcpy(own->text, status_text(), strlen(status_text()) + 1);
    long long failed = atomic_load(&l->failed_piece);
    while (own->piece < failed &&
           !atomic_compare_exchange_weak(&l->failed_piece, &failed, own->piece))
        ;
}

static void *help(void *context)
{
    struct reader_thread *own = context;
    if (weight_reader_open(&own->reader, own->loader->config, own->loader->checkpoint) == STATUS_OK)
        load_share(own);
    return NULL;
}

static void load_part(void *context, int thread, int n_threads)
{
    struct loader *l = context;
    (void)n_threads;
    load_share(&l->thread[thread]);
}

/* The first failure in the order of pieces becomes that of the caller's thread. */
static enum status first_failure(const struct loader *l)
{
    for (int i = 0; i < l->n_threads + l->n_helpers; i++) {
        const struct reader_thread *thread = &l->thread[i];
        if (thread->status == STATUS_OK || thread->piece != atomic_load(&l->failed_piece))
            continue;
        status_set_text(thread->text);
        return status_trace(thread->status, __FILE__, __LINE__, "load_share");
    }
    return STATUS_OK;
}

static enum status load_all(struct loader *l)
{
    l->device->run_threads(load_part, l);
    for (int i = l->n_threads; i < l->n_threads + l->n_helpers; i++)
        if (l->thread[i].is_begun)
            pthread_join(l->thread[i].handle, NULL);
    TRY(first_failure(l));
    l->weights->bytes_read = atomic_load(&l->bytes_read);
    assert(l->weights->bytes_read == l->total);
    if (l->options->on_progress != NULL) /* the caller's thread need not have been the last */
        l->options->on_progress(l->options->progress_context, l->total, l->total);
    return STATUS_OK;
}

/* The experts of a layer are one matrix: they must be stored alike. */
static enum status check_expert_types(void *context, const struct weight_item *item)
{
    struct loader *l = context;
    struct weight_source source;
    int index;
    if (item->expert < 0 || l->checkpoint == NULL || !weight_is_held(l->config, l->plan, item))
        return STATUS_OK;
    TRY(weights_find(l->config, l->checkpoint, item, &source));
    const struct matrix *all = target_matrix(l, item, &index);
    enum dtype scales = column_scales(&source, 0).dtype;
    if (all->dtype == DTYPE_I8 && resident_dtype(l, item, &source) == DTYPE_I8)
        return STATUS_OK; /* rounded from whatever is stored */
    if (source.dtype != all->dtype || (source.scale != NULL && scales != all->scales.dtype))
        FAIL(STATUS_UNSUPPORTED,
             "%s: tensor %s is stored as %s%s%s, the first one as %s%s%s; the experts of a layer "
             "must have one type",
             safetensors_path(l->checkpoint, source.value), source.value->name,
             dtype_name(source.dtype), source.scale != NULL ? " with scales in " : "",
             source.scale != NULL ? dtype_name(scales) : "", dtype_name(all->dtype),
             matrix_is_quantized(all) ? " with scales in " : "",
             matrix_is_quantized(all) ? dtype_name(all->scales.dtype) : "");
    return STATUS_OK;
}

enum status weights_lay_out(struct weights *weights, const struct model_config *config,
                            const struct safetensors *checkpoint, const struct shard_plan *plan,
                            const struct weight_loader_options *options)
{
    struct arena measure = {.name = "weights"};
    struct loader l = {.weights = weights,
                       .arena = &measure,
                       .config = config,
                       .checkpoint = checkpoint,
                       .plan = plan,
                       .options = options};
    *weights = (struct weights){0};
    weights->layer = calloc((size_t)config->n_layers, sizeof *weights->layer);
    if (weights->layer == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a table of %d layers", config->n_layers);
    for (int i = 0; i < config->n_layers; i++)
        weights->layer[i].is_moe = config->is_moe[i];
    TRY(weights_each_slot(config, plan->expert_maps, lay_out_item, &l));
    TRY(weights_each_slot(config, plan->expert_maps, check_expert_types, &l));
    weights->bytes_resident = (int64_t)measure.used;
    return STATUS_OK;
}

enum status weights_load(struct weights *weights, struct arena *arena,
                         const struct device_ops *device, const struct model_config *config,
                         const struct safetensors *checkpoint, const struct shard_plan *plan,
                         const struct weight_loader_options *options)
{
    enum status status = STATUS_OK;
    struct loader l = {.weights = weights,
                       .arena = arena,
                       .config = config,
                       .checkpoint = checkpoint,
                       .plan = plan,
                       .options = options,
                       .device = device,
                       .n_threads = device->count_threads()};
    if (checkpoint != NULL && l.n_threads < IN_FLIGHT)
        l.n_helpers = IN_FLIGHT - l.n_threads;
    atomic_init(&l.failed_piece, LLONG_MAX);
    l.thread = calloc((size_t)(l.n_threads + l.n_helpers), sizeof *l.thread);
    if (l.thread == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d readers", l.n_threads);
    for (int i = 0; i < l.n_threads + l.n_helpers; i++)
        l.thread[i] = (struct reader_thread){.loader = &l, .is_first = i == 0};
    for (int i = 0; i < l.n_threads; i++)
        TRY_GOTO(status, end, weight_reader_open(&l.thread[i].reader, config, checkpoint));
    TRY_GOTO(status, end, weights_rank_bytes(config, checkpoint, plan, &l.total));
    TRY_GOTO(status, end, arena_open(arena, device, "weights", (size_t)weights->bytes_resident));
    TRY_GOTO(status, end, weights_each_slot(config, plan->expert_maps, lay_out_item, &l));
    TRY_GOTO(status, end, load_all(&l));
end:
    for (int i = 0; i < l.n_threads + l.n_helpers; i++)
        weight_reader_close(&l.thread[i].reader);
    free(l.thread);
    return status;
}

void weights_close(struct weights *weights)
{
    free(weights->layer);
    *weights = (struct weights){0};
}
