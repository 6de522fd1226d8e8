/* weights.c - the one table of tensors of both graphs, and what a plan cuts of each. */
#include "runtime/weights.h"
#include "runtime/weight_quantize.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes of dimensions, by what they count. */
enum extent {
    X_NONE,
    X_D,        /* hidden size                             */
    X_VOCAB,    /* vocabulary                              */
    X_CQ,       /* compressed query                        */
    X_C,        /* latent                                  */
    X_C_R,      /* latent and RoPE key                     */
    X_HEADS_Q,  /* heads x (d_n + d_r)                     */
    X_HEADS_KV, /* heads x (d_n + d_v)                     */
    X_HEADS_V,  /* heads x d_v                             */
    X_DENSE,    /* columns of a dense FFN                  */
    X_EXPERT,   /* columns of a routed expert              */
    X_SHARED,   /* columns of the shared expert            */
    X_E         /* routed experts                          */
};

/* Where a tensor occurs. */
enum scope { ONCE, EACH_LAYER, DENSE_LAYERS, MOE_LAYERS, EACH_EXPERT };

/* On what its presence depends. */
enum condition {
    ALWAYS,
    UNTIED,
    WITH_CQ,
    WITHOUT_CQ,
    WITH_BIAS,
    WITH_CQ_AND_BIAS,
    NOAUX,
    SHARED,
    WITH_EXPERT_NORM
};

static const struct row {
    enum weight_field field;
    enum scope scope;
    enum condition condition;
    enum weight_split split;
    enum extent rows, columns;
    const char *name; /* after "model.layers.L." where it is of a layer */
} table[] = {
    // clang-format off
    {WEIGHT_EMBEDDING,      ONCE,         ALWAYS,           SPLIT_VOCAB_ROWS,     X_VOCAB,    X_D,
        "model.embed_tokens.weight"},
    {WEIGHT_ATTENTION_GAIN, EACH_LAYER,   ALWAYS,           SPLIT_NONE,           X_D,        X_NONE,
        "input_layernorm.weight"},
    {WEIGHT_Q,              EACH_LAYER,   WITHOUT_CQ,       SPLIT_HEAD_ROWS,      X_HEADS_Q,  X_D,
        "self_attn.q_proj.weight"},
    {WEIGHT_DQ,             EACH_LAYER,   WITH_CQ,          SPLIT_NONE,           X_CQ,       X_D,
        "self_attn.q_a_proj.weight"},
    {WEIGHT_DQ_BIAS,        EACH_LAYER,   WITH_CQ_AND_BIAS, SPLIT_NONE,           X_CQ,       X_NONE,
        "self_attn.q_a_proj.bias"},
    {WEIGHT_CQ_GAIN,        EACH_LAYER,   WITH_CQ,          SPLIT_NONE,           X_CQ,       X_NONE,
        "self_attn.q_a_layernorm.weight"},
    {WEIGHT_UQ,             EACH_LAYER,   WITH_CQ,          SPLIT_HEAD_ROWS,      X_HEADS_Q,  X_CQ,
        "self_attn.q_b_proj.weight"},
    {WEIGHT_DKV,            EACH_LAYER,   ALWAYS,           SPLIT_NONE,           X_C_R,      X_D,
        "self_attn.kv_a_proj_with_mqa.weight"},
    {WEIGHT_DKV_BIAS,       EACH_LAYER,   WITH_BIAS,        SPLIT_NONE,           X_C_R,      X_NONE,
        "self_attn.kv_a_proj_with_mqa.bias"},
    {WEIGHT_CKV_GAIN,       EACH_LAYER,   ALWAYS,           SPLIT_NONE,           X_C,        X_NONE,
        "self_attn.kv_a_layernorm.weight"},
    {WEIGHT_UKV,            EACH_LAYER,   ALWAYS,           SPLIT_HEAD_ROWS,      X_HEADS_KV, X_C,
        "self_attn.kv_b_proj.weight"},
    {WEIGHT_O,              EACH_LAYER,   ALWAYS,           SPLIT_HEAD_COLUMNS,   X_D,        X_HEADS_V,
        "self_attn.o_proj.weight"},
    {WEIGHT_O_BIAS,         EACH_LAYER,   WITH_BIAS,        SPLIT_NONE,           X_D,        X_NONE,
        "self_attn.o_proj.bias"},
    {WEIGHT_FFN_GAIN,       EACH_LAYER,   ALWAYS,           SPLIT_NONE,           X_D,        X_NONE,
        "post_attention_layernorm.weight"},
    {WEIGHT_DENSE_GATE,     DENSE_LAYERS, ALWAYS,           SPLIT_DENSE_ROWS,     X_DENSE,    X_D,
        "mlp.gate_proj.weight"},
    {WEIGHT_DENSE_UP,       DENSE_LAYERS, ALWAYS,           SPLIT_DENSE_ROWS,     X_DENSE,    X_D,
        "mlp.up_proj.weight"},
    {WEIGHT_DENSE_DOWN,     DENSE_LAYERS, ALWAYS,           SPLIT_DENSE_COLUMNS,  X_D,        X_DENSE,
        "mlp.down_proj.weight"},
    {WEIGHT_ROUTER,         MOE_LAYERS,   ALWAYS,           SPLIT_NONE,           X_E,        X_D,
        "mlp.gate.weight"},
    {WEIGHT_ROUTER_BIAS,    MOE_LAYERS,   NOAUX,            SPLIT_NONE,           X_E,        X_NONE,
        "mlp.gate.e_score_correction_bias"},
    {WEIGHT_EXPERT_NORM_GAIN, MOE_LAYERS, WITH_EXPERT_NORM, SPLIT_NONE,           X_D,        X_NONE,
        "post_mlp_layernorm.weight"},
    {WEIGHT_SHARED_GATE,    MOE_LAYERS,   SHARED,           SPLIT_SHARED_ROWS,    X_SHARED,   X_D,
        "mlp.shared_experts.gate_proj.weight"},
    {WEIGHT_SHARED_UP,      MOE_LAYERS,   SHARED,           SPLIT_SHARED_ROWS,    X_SHARED,   X_D,
        "mlp.shared_experts.up_proj.weight"},
    {WEIGHT_SHARED_DOWN,    MOE_LAYERS,   SHARED,           SPLIT_SHARED_COLUMNS, X_D,        X_SHARED,
        "mlp.shared_experts.down_proj.weight"},
    {WEIGHT_EXPERT_GATE,    EACH_EXPERT,  ALWAYS,           SPLIT_EXPERT_ROWS,    X_EXPERT,   X_D,
        "gate_proj.weight"},
    {WEIGHT_EXPERT_UP,      EACH_EXPERT,  ALWAYS,           SPLIT_EXPERT_ROWS,    X_EXPERT,   X_D,
        "up_proj.weight"},
    {WEIGHT_EXPERT_DOWN,    EACH_EXPERT,  ALWAYS,           SPLIT_EXPERT_COLUMNS, X_D,        X_EXPERT,
        "down_proj.weight"},
    {WEIGHT_FINAL_GAIN,     ONCE,         ALWAYS,           SPLIT_NONE,           X_D,        X_NONE,
        "model.norm.weight"},
    {WEIGHT_HEAD,           ONCE,         UNTIED,           SPLIT_VOCAB_ROWS,     X_VOCAB,    X_D,
        "lm_head.weight"},
    // clang-format on
};
enum { TABLE_ROWS = sizeof table / sizeof table[0] };

int weight_is_linear(enum weight_field field)
{
    switch (field) {
    case WEIGHT_Q:
    case WEIGHT_DQ:
    case WEIGHT_UQ:
    case WEIGHT_DKV:
    case WEIGHT_UKV:
    case WEIGHT_O:
    case WEIGHT_DENSE_GATE:
    case WEIGHT_DENSE_UP:
    case WEIGHT_DENSE_DOWN:
    case WEIGHT_SHARED_GATE:
    case WEIGHT_SHARED_UP:
    case WEIGHT_SHARED_DOWN:
        return 1;
    default:
        return weight_is_expert(field);
    }
}

static int64_t extent_of(const struct model_config *c, enum extent extent)
{
    switch (extent) {
    case X_NONE:
        return 0;
    case X_D:
        return c->d;
    case X_VOCAB:
        return c->vocab_size;
    case X_CQ:
        return c->d_cq;
    case X_C:
        return c->d_c;
    case X_C_R:
        return c->d_c + c->d_r;
    case X_HEADS_Q:
        return c->n_heads * (c->d_n + c->d_r);
    case X_HEADS_KV:
        return c->n_heads * (c->d_n + c->d_v);
    case X_HEADS_V:
        return c->n_heads * c->d_v;
    case X_DENSE:
        return c->dense_columns;
    case X_EXPERT:
        return c->expert_columns;
    case X_SHARED:
        return c->n_shared_experts * c->expert_columns;
    case X_E:
        return c->router.n_experts;
    }
    return 0;
}

static int holds(const struct model_config *c, enum condition condition)
{
    switch (condition) {
    case ALWAYS:
        return 1;
    case UNTIED:
        return !c->ties_embeddings;
    case WITH_CQ:
        return c->d_cq > 0;
    case WITHOUT_CQ:
        return c->d_cq == 0;
    case WITH_BIAS:
        return c->has_attention_bias;
    case WITH_CQ_AND_BIAS:
        return c->has_attention_bias && c->d_cq > 0;
    case NOAUX:
        return c->router.method == ROUTER_NOAUX_TC;
    case SHARED:
        return c->n_shared_experts > 0;
    case WITH_EXPERT_NORM:
        return c->has_expert_norm;
    }
    return 0;
}

static int is_in_layer(const struct model_config *c, enum scope scope, int layer)
{
    switch (scope) {
    case ONCE:
        return 0;
    case EACH_LAYER:
        return 1;
    case DENSE_LAYERS:
        return !c->is_moe[layer];
    case MOE_LAYERS:
    case EACH_EXPERT:
        return c->is_moe[layer];
    }
    return 0;
}

static enum status visit_row(const struct model_config *c, const struct row *row, int layer,
                             int expert, int slot, weight_visitor visit, void *context)
{
    struct weight_item item = {.field = row->field,
                               .split = row->split,
                               .layer = layer,
                               .expert = expert,
                               .slot = slot,
                               .ndim = row->columns == X_NONE ? 1 : 2,
                               .dim = {extent_of(c, row->rows), extent_of(c, row->columns)},
                               .is_f32 = row->field == WEIGHT_ROUTER_BIAS};
    if (expert >= 0)
        snprintf(item.name, sizeof item.name, "%smodel.layers.%d.mlp.experts.%d.%s",
                 c->tensor_prefix, layer, expert, row->name);
    else if (layer >= 0)
        snprintf(item.name, sizeof item.name, "%smodel.layers.%d.%s", c->tensor_prefix, layer,
                 row->name);
    else
        snprintf(item.name, sizeof item.name, "%s%s", c->tensor_prefix, row->name);
    return visit(context, &item);
}

static enum status visit_layer(const struct model_config *c, const struct expert_map *map,
                               int layer, weight_visitor visit, void *context)
{
    for (int i = 0; i < TABLE_ROWS; i++) {
        const struct row *row = &table[i];
        if (row->scope == EACH_EXPERT || !is_in_layer(c, row->scope, layer) ||
            !holds(c, row->condition))
            continue;
        TRY(visit_row(c, row, layer, -1, -1, visit, context));
    }
    int n_slots = map != NULL ? map->n_slots : c->router.n_experts;
    for (int s = 0; c->is_moe[layer] && s < n_slots; s++)
        for (int i = 0; i < TABLE_ROWS; i++)
            if (table[i].scope == EACH_EXPERT)
                TRY(visit_row(c, &table[i], layer, map != NULL ? map->expert[s] : s, s, visit,
                              context));
    return STATUS_OK;
}

enum status weights_each(const struct model_config *config, weight_visitor visit, void *context)
{
    return weights_each_slot(config, NULL, visit, context);
}

enum status weights_each_slot(const struct model_config *config, const struct expert_map *maps,
                              weight_visitor visit, void *context)
{
    int i = 0;
    for (; table[i].scope == ONCE; i++)
        TRY(visit_row(config, &table[i], -1, -1, -1, visit, context));
    for (int layer = 0; layer < config->n_layers; layer++)
        TRY(visit_layer(config, maps != NULL ? &maps[layer] : NULL, layer, visit, context));
    for (; i < TABLE_ROWS; i++)
        if (table[i].scope == ONCE && holds(config, table[i].condition))
            TRY(visit_row(config, &table[i], -1, -1, -1, visit, context));
    return STATUS_OK;
}

struct model_extent weights_extent(const struct model_config *c)
{
    return (struct model_extent){
        .n_heads = c->n_heads,
        .vocab_size = c->vocab_size,
        .n_experts = c->router.n_experts,
        .dense_columns = c->dense_columns,
        .shared_columns = extent_of(c, X_SHARED),
        .expert_columns = c->expert_columns,
        .n_layers = c->n_layers,
    };
}

void weight_cut(const struct model_config *c, const struct shard_plan *plan,
                const struct weight_item *item, struct span *rows, struct span *columns)
{
    *rows = (struct span){0, item->dim[0]};
    *columns = (struct span){0, item->ndim == 2 ? item->dim[1] : 1};
    int64_t head_rows = item->dim[0] / c->n_heads; /* of the tensors that are split by heads */
    switch (item->split) {
    case SPLIT_NONE:
        break;
    case SPLIT_VOCAB_ROWS:
        *rows = plan->vocab;
        break;
    case SPLIT_HEAD_ROWS:
        *rows = (struct span){plan->heads.begin * head_rows, plan->heads.end * head_rows};
        break;
    case SPLIT_HEAD_COLUMNS:
        *columns = (struct span){plan->heads.begin * c->d_v, plan->heads.end * c->d_v};
        break;
    case SPLIT_DENSE_ROWS:
        *rows = plan->dense_columns;
        break;
    case SPLIT_DENSE_COLUMNS:
        *columns = plan->dense_columns;
        break;
    case SPLIT_SHARED_ROWS:
        *rows = plan->shared_columns;
        break;
    case SPLIT_SHARED_COLUMNS:
        *columns = plan->shared_columns;
        break;
    case SPLIT_EXPERT_ROWS:
        *rows = plan->expert_columns;
        break;
    case SPLIT_EXPERT_COLUMNS:
        *columns = plan->expert_columns;
        break;
    }
}

int weight_is_held(const struct model_config *config, const struct shard_plan *plan,
                   const struct weight_item *item)
{
    if (item->layer >= 0)
        return plan->layers.begin <= item->layer && item->layer < plan->layers.end;
    if (item->field == WEIGHT_EMBEDDING)
        return plan->has_embedding || (plan->has_head && config->ties_embeddings);
    return plan->has_head;
}

void weight_slice(const struct model_config *config, const struct shard_plan *plan,
                  const struct weight_item *item, struct span *rows, struct span *columns)
{
    int is_elsewhere =
        item->expert >= 0 && (item->slot < plan->experts.begin || item->slot >= plan->experts.end);
    weight_cut(config, plan, item, rows, columns);
    if (is_elsewhere || !weight_is_held(config, plan, item) || span_size(*rows) == 0 ||
        span_size(*columns) == 0)
        *rows = *columns = (struct span){0, 0};
}

struct byte_count {
    const struct model_config *config;
    const struct safetensors *checkpoint;
    const struct shard_plan *plan;
    int to_i8;
    int64_t bytes;
};

static enum status count_bytes(void *context, const struct weight_item *item)
{
    struct byte_count *count = context;
    struct weight_source source;
    struct span rows, columns;
    TRY(weights_find(count->config, count->checkpoint, item, &source));
    weight_slice(count->config, count->plan, item, &rows, &columns);
    count->bytes += weight_resident_dtype(item, &source, count->to_i8) == DTYPE_I8
                        ? weight_i8_bytes(&rows, &columns)
                        : weight_source_bytes(&source, &rows, &columns);
    return STATUS_OK;
}

enum status weights_rank_bytes(const struct model_config *config,
                               const struct safetensors *checkpoint, const struct shard_plan *plan,
                               int64_t *bytes)
{
    struct byte_count count = {config, checkpoint, plan, 0, 0};
    TRY(weights_each_slot(config, plan->expert_maps, count_bytes, &count));
    *bytes = count.bytes;
    return STATUS_OK;
}

enum status weights_rank_i8_bytes(const struct model_config *config,
                                  const struct safetensors *checkpoint,
                                  const struct shard_plan *plan, int64_t *bytes)
{
    struct byte_count count = {config, checkpoint, plan, 1, 0};
    TRY(weights_each_slot(config, plan->expert_maps, count_bytes, &count));
    *bytes = count.bytes;
    return STATUS_OK;
}

struct check {
    const struct model_config *config;
    const struct safetensors *checkpoint;
    unsigned char *is_known; /* [safetensors_count] */
};

static void mark_known(struct check *check, const struct safetensors_entry *entry)
{
    if (entry != NULL)
        check->is_known[entry - safetensors_at(check->checkpoint, 0)] = 1;
}

static enum status check_item(void *context, const struct weight_item *item)
{
    struct check *check = context;
    struct weight_source source;
    char shape[sizeof item->name + 8];
    TRY(weights_find(check->config, check->checkpoint, item, &source));
    mark_known(check, source.value);
    mark_known(check, source.scale);
    snprintf(shape, sizeof shape, "%s_shape",
             item->name); /* of int4; weights_find has compared it */
    mark_known(check, safetensors_find(check->checkpoint, shape));
    return STATUS_OK;
}

/* MTP layers follow the last layer; old checkpoints hold inv_freq; a tied lm_head may be written. */
static int is_skipped(const struct model_config *c, const char *name)
{
    static const char layers[] = "model.layers.";
    size_t prefix = strlen(c->tensor_prefix);
    if (strncmp(name, c->tensor_prefix, prefix) != 0)
        return 1; /* a vision tower beside the language model */
    name += prefix;
    if (strncmp(name, layers, sizeof layers - 1) == 0) {
        long layer = strtol(name + sizeof layers - 1, NULL, 10);
        if (layer >= c->n_layers && layer < (long)c->n_layers + c->n_mtp_layers)
            return 1;
    }
    if (strstr(name, ".rotary_emb.inv_freq") != NULL)
        return 1;
    return c->ties_embeddings && strcmp(name, "lm_head.weight") == 0;
}

enum status weights_check(const struct model_config *config, const struct safetensors *checkpoint)
{
    int count = safetensors_count(checkpoint);
    unsigned char *is_known = calloc((size_t)count + 1, 1);
    if (is_known == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a list of %d tensors", count);
    struct check check = {config, checkpoint, is_known};
    enum status status = weights_each(config, check_item, &check);
    for (int i = 0; status == STATUS_OK && i < count; i++) {
        const struct safetensors_entry *entry = safetensors_at(checkpoint, i);
        if (!is_known[i] && !is_skipped(config, entry->name))
            status =
                status_fail(STATUS_UNSUPPORTED, __FILE__, __LINE__,
                            "%s: tensor %s is not part of the graph that config.json "
                            "describes (%s, %d layers); running without it would give wrong text",
                            safetensors_path(checkpoint, entry), entry->name, config->model_type,
                            config->n_layers);
    }
    free(is_known);
    return status;
}

static void move_data(void **data, const char *from, char *to)
{
    if (*data != NULL)
        *data = to + ((const char *)*data - from);
}

static void move_matrix(struct matrix *w, const char *from, char *to)
{
    move_data(&w->data, from, to);
    move_data(&w->scales.data, from, to);
}

static void move_layer(struct layer_weights *l, const char *from, char *to)
{
    struct mla_weights *mla = &l->mla;
    struct matrix *const matrices[] = {
        &mla->w_dq, &mla->w_uq,       &mla->w_dkv,    &mla->w_uk_t,    &mla->w_uk,
        &mla->w_uv, &mla->w_o,        &l->ffn.gate,   &l->ffn.up,      &l->ffn.down,
        &l->router, &l->experts.gate, &l->experts.up, &l->experts.down};
    struct tensor *const tensors[] = {&l->attention_gain, &l->ffn_gain,    &mla->cq_gain,
                                      &mla->ckv_gain,     &mla->dq_bias,   &mla->dkv_bias,
                                      &mla->o_bias,       &l->router_bias, &l->expert_norm_gain};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        move_matrix(matrices[i], from, to);
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        move_data(&tensors[i]->data, from, to);
}

void weights_move(struct weights *weights, int n_layers, const void *from, void *to)
{
    move_data(&weights->embedding.data, from, to);
    move_data(&weights->final_gain.data, from, to);
    move_matrix(&weights->head, from, to);
    for (int i = 0; i < n_layers; i++)
        move_layer(&weights->layer[i], from, to);
}
