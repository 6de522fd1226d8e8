/* weight_source.c - where a tensor of the graph stands in a checkpoint, and how.
 *
 * As it is (f32, f16, bf16); as fp8 with `_scale_inv` beside it, which despite its
 * name multiplies (DeepSeek-V3 README_WEIGHTS); as `_packed`, `_scale` and
 * `_shape` (compressed-tensors, "pack-quantized"); or, routed experts, inside the
 * fused tensors of newer Hugging Face classes. */
#include <stdio.h>
#include <string.h>

#include "runtime/weights.h"

enum { NAME_MAX_BYTES = 192, I4_IN_WORD = 8 };

struct finder {
    const struct model_config *config;
    const struct safetensors *checkpoint;
    const struct weight_item *item;
};

/* The Linear layers that a kind of quantization takes. */
static int is_quantized(enum quantization kind, enum weight_field field)
{
    return kind == QUANTIZED_FP8 ? weight_is_linear(field)
                                 : kind != QUANTIZED_NONE && weight_is_expert(field);
}

static int64_t blocks_of(int64_t n, int64_t width)
{
    return (n + width - 1) / width;
}

/* The item's name with `suffix` behind it. */
static const struct safetensors_entry *find_beside(const struct finder *f, const char *suffix)
{
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "%s%s", f->item->name, suffix);
    return safetensors_find(f->checkpoint, name);
}

/* "[a, b]" of a shape. */
static const char *shape_text(char text[96], int ndim, const int64_t *dim)
{
    size_t used = (size_t)snprintf(text, 96, "[");
    for (int i = 0; i < ndim; i++)
        used +=
            (size_t)snprintf(text + used, 96 - used, "%s%lld", i ? ", " : "", (long long)dim[i]);
    snprintf(text + used, 96 - used, "]");
    return text;
}

static enum status check_shape(const struct finder *f, const struct safetensors_entry *entry,
                               int ndim, const int64_t *dim, const char *from)
{
    char found[96], expected[96];
    int same = entry->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = entry->dim[i] == dim[i];
    if (!same)
        FAIL(STATUS_INVALID, "%s: tensor %s has shape %s, %s %s",
             safetensors_path(f->checkpoint, entry), entry->name,
             shape_text(found, entry->ndim, entry->dim), from, shape_text(expected, ndim, dim));
    return STATUS_OK;
}

static const char from_config[] = "config.json implies";

static enum status refuse_dtype(const struct finder *f, const struct safetensors_entry *entry,
                                const char *expected)
{
    FAIL(STATUS_UNSUPPORTED, "%s: tensor %s is stored as %s; this version takes %s",
         safetensors_path(f->checkpoint, entry), entry->name, dtype_name(entry->dtype), expected);
}

/* The scales of an fp8 tensor of `rows` rows, or of `n_fused` such one after another (0: it is one). */
static enum status find_fp8_scales(const struct finder *f, struct weight_source *source,
                                   const struct safetensors_entry *scale, int n_fused, int64_t rows)
{
    const struct model_config *c = f->config;
    const struct safetensors_entry *value = source->value;
    const char *path = safetensors_path(f->checkpoint, value);
    if (c->quantization != QUANTIZED_FP8)
        FAIL(STATUS_INVALID,
             "%s: tensor %s is stored as f8_e4m3, but config.json has no quantization_config with "
             "quant_method fp8 and its weight_block_size",
             path, value->name);
    if (scale == NULL)
        FAIL(STATUS_INVALID, "%s: tensor %s is stored as f8_e4m3, but %s_scale_inv is missing",
             path, value->name, value->name);
    const int64_t dim[] = {n_fused, blocks_of(rows, c->scale_rows),
                           blocks_of(f->item->dim[1], c->scale_columns)};
    if (scale->dtype != DTYPE_F32 && scale->dtype != DTYPE_F8_E8M0 && scale->dtype != DTYPE_BF16)
        return refuse_dtype(f, scale, "scales in f32, bf16 and f8_e8m0");
    TRY(check_shape(f, scale, n_fused > 0 ? 3 : 2, n_fused > 0 ? dim : dim + 1,
                    "weight_block_size implies"));
    source->scale = scale;
    source->scale_dtype = scale->dtype;
    source->scale_rows = c->scale_rows;
    source->scale_columns = c->scale_columns;
    return STATUS_OK;
}

static enum status check_dtype(const struct finder *f, struct weight_source *source)
{
    source->dtype = source->value->dtype;
    if (source->dtype == DTYPE_F32 || source->dtype == DTYPE_F16 || source->dtype == DTYPE_BF16)
        return STATUS_OK;
    if (source->dtype == DTYPE_F8_E4M3 && is_quantized(QUANTIZED_FP8, f->item->field))
        return STATUS_OK;
    return refuse_dtype(f, source->value,
                        is_quantized(QUANTIZED_FP8, f->item->field) ? "f32, f16, bf16 and f8_e4m3"
                                                                    : "f32, f16 and bf16 there");
}

static enum status find_plain(const struct finder *f, struct weight_source *source)
{
    TRY(check_shape(f, source->value, f->item->ndim, f->item->dim, from_config));
    TRY(check_dtype(f, source));
    if (source->dtype == DTYPE_F8_E4M3)
        TRY(find_fp8_scales(f, source, find_beside(f, "_scale_inv"), 0, f->item->dim[0]));
    return STATUS_OK;
}

/* weight_shape holds the shape before packing. */
static enum status check_unpacked_shape(const struct finder *f)
{
    const struct safetensors_entry *entry = find_beside(f, "_shape");
    const int64_t two[] = {2};
    int64_t dim[2] = {0, 0};
    int32_t narrow[2];
    if (entry == NULL)
        return STATUS_OK;
    TRY(check_shape(f, entry, 1, two, "expected"));
    if (entry->dtype != DTYPE_I64 && entry->dtype != DTYPE_I32)
        return refuse_dtype(f, entry, "i32 and i64 there");
    TRY(safetensors_read(f->checkpoint, entry, 0, entry->bytes,
                         entry->dtype == DTYPE_I64 ? (void *)dim : (void *)narrow));
    for (int i = 0; i < 2 && entry->dtype == DTYPE_I32; i++)
        dim[i] = narrow[i];
    if (dim[0] != f->item->dim[0] || dim[1] != f->item->dim[1])
        FAIL(STATUS_INVALID, "%s: tensor %s says [%lld, %lld], config.json implies [%lld, %lld]",
             safetensors_path(f->checkpoint, entry), entry->name, (long long)dim[0],
             (long long)dim[1], (long long)f->item->dim[0], (long long)f->item->dim[1]);
    return STATUS_OK;
}

static enum status find_packed(const struct finder *f, struct weight_source *source)
{
    const struct model_config *c = f->config;
    const struct safetensors_entry *value = source->value, *scale = find_beside(f, "_scale");
    const char *path = safetensors_path(f->checkpoint, value);
    const int64_t rows = f->item->dim[0], columns = f->item->dim[1];
    if (c->quantization != QUANTIZED_INT4 || !is_quantized(QUANTIZED_INT4, f->item->field))
        FAIL(STATUS_UNSUPPORTED,
             "%s: tensor %s is packed, but config.json does not say that it is int4 "
             "(compressed-tensors, pack-quantized, routed experts)",
             path, value->name);
    if (columns % I4_IN_WORD != 0)
        FAIL(STATUS_UNSUPPORTED, "%s: tensor %s: rows of %lld int4, expected a multiple of %d",
             path, value->name, (long long)columns, I4_IN_WORD);
    if (value->dtype != DTYPE_I32)
        return refuse_dtype(f, value, "int4 packed in i32");
    const int64_t packed[] = {rows, columns / I4_IN_WORD};
    const int64_t scales[] = {rows, blocks_of(columns, c->scale_columns)};
    TRY(check_shape(f, value, 2, packed, from_config));
    if (scale == NULL)
        FAIL(STATUS_INVALID, "%s: tensor %s is there, but %s_scale is missing", path, value->name,
             f->item->name);
    if (scale->dtype != DTYPE_BF16 && scale->dtype != DTYPE_F16 && scale->dtype != DTYPE_F32)
        return refuse_dtype(f, scale, "scales in f32, f16 and bf16");
    TRY(check_shape(f, scale, 2, scales, "group_size implies"));
    source->dtype = DTYPE_I4;
    source->scale = scale;
    source->scale_dtype = scale->dtype;
    source->scale_rows = 1;
    source->scale_columns = c->scale_columns;
    return check_unpacked_shape(f);
}

/* Gate and up of all experts in one tensor, gate first; down of all experts in another. */
static enum status find_fused(const struct finder *f, struct weight_source *source)
{
    const struct weight_item *item = f->item;
    const struct model_config *c = f->config;
    int is_down = item->field == WEIGHT_EXPERT_DOWN, count = c->router.n_experts;
    int64_t rows = is_down ? item->dim[0] : 2 * item->dim[0];
    int64_t into = item->field == WEIGHT_EXPERT_UP ? item->dim[0] : 0;
    const int64_t dim[] = {count, rows, item->dim[1]};
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "%smodel.layers.%d.mlp.experts.%s", c->tensor_prefix, item->layer,
             is_down ? "down_proj" : "gate_up_proj");
    source->value = safetensors_find(f->checkpoint, name);
    if (source->value == NULL)
        return STATUS_OK;
    TRY(check_shape(f, source->value, 3, dim, from_config));
    TRY(check_dtype(f, source));
    source->first_row = item->expert * rows + into;
    if (source->dtype != DTYPE_F8_E4M3)
        return STATUS_OK;
    strcat(name, "_scale_inv");
    TRY(find_fp8_scales(f, source, safetensors_find(f->checkpoint, name), count, rows));
    source->scale_row = item->expert * blocks_of(rows, c->scale_rows) + into / c->scale_rows;
    source->into_block = into % c->scale_rows;
    return STATUS_OK;
}

/* What make-model writes and --load-format dummy pretends to read. */
static void plan_source(const struct model_config *c, const struct weight_item *item,
                        struct weight_source *source)
{
    source->dtype = item->is_f32 ? DTYPE_F32 : c->dtype;
    if (!is_quantized(c->quantization, item->field))
        return;
    int is_fp8 = c->quantization == QUANTIZED_FP8;
    source->dtype = is_fp8 ? DTYPE_F8_E4M3 : DTYPE_I4;
    source->scale_dtype = is_fp8 ? DTYPE_F32 : DTYPE_BF16;
    source->scale_rows = c->scale_rows;
    source->scale_columns = c->scale_columns;
}

enum status weights_find(const struct model_config *config, const struct safetensors *checkpoint,
                         const struct weight_item *item, struct weight_source *source)
{
    const struct finder f = {config, checkpoint, item};
    *source = (struct weight_source){0};
    if (checkpoint == NULL) {
        plan_source(config, item, source);
        return STATUS_OK;
    }
    source->value = safetensors_find(checkpoint, item->name);
    if (source->value != NULL)
        return find_plain(&f, source);
    source->value = item->ndim == 2 ? find_beside(&f, "_packed") : NULL;
    if (source->value != NULL)
        return find_packed(&f, source);
    if (item->expert >= 0)
        TRY(find_fused(&f, source));
    if (source->value == NULL)
        FAIL(STATUS_INVALID,
             "tensor %s is missing: config.json (%s) needs it; is the checkpoint complete?",
             item->name, config->model_type);
    return STATUS_OK;
}

int64_t weight_source_bytes(const struct weight_source *source, const struct span *rows,
                            const struct span *columns)
{
    int64_t n = span_size(*rows), k = span_size(*columns), scale_columns;
    if (n == 0 || k == 0)
        return 0;
    int64_t bytes =
        source->dtype == DTYPE_I4 ? n * ((k + 1) / 2) : n * k * (int64_t)dtype_bytes(source->dtype);
    if (source->scale_rows == 0)
        return bytes;
    n = blocks_of(rows->end + source->into_block, source->scale_rows) -
        (rows->begin + source->into_block) / source->scale_rows;
    scale_columns =
        blocks_of(columns->end, source->scale_columns) - columns->begin / source->scale_columns;
    return bytes + n * scale_columns * (int64_t)dtype_bytes(source->scale_dtype);
}
