/* workspace.c - the sizes of all activations, in one place. */
#include "runtime/step.h"

/* One f32 tensor of up to three dimensions; the first failure ends the layout. */
static enum status take(struct arena *arena, struct tensor *t, int64_t n0, int64_t n1, int64_t n2)
{
    const int64_t dim[] = {n0, n1, n2};
    return arena_tensor(arena, t, DTYPE_F32, n2 == 0 ? 2 : 3, dim);
}

static enum status take_state(struct arena *arena, struct attention_state *state, int64_t tokens,
                              int64_t heads, int64_t width)
{
    TRY(take(arena, &state->o, tokens, heads, width));
    TRY(take(arena, &state->m, tokens, heads, 0));
    return take(arena, &state->l, tokens, heads, 0);
}

/* What attention on latents needs: for all tokens, or for a block of them and the heads of all. */
static enum status take_latent(struct workspace *w, struct arena *arena,
                               const struct model_config *c, int64_t heads,
                               const struct workspace_shape *shape)
{
    int64_t d_row = c->d_c + c->d_r, state = sharded_state_width(c->d_c);
    if (shape->cache_members == 1) {
        TRY(take(arena, &w->q_latent, shape->max_tokens, heads, d_row));
        return take_state(arena, &w->latent, shape->max_tokens, heads, c->d_c);
    }
    int64_t all = shape->cache_heads, most = all > 0 ? SHARDED_PAIRS / all : SHARDED_PAIRS;
    int64_t tokens = most > 1 ? most : 1;
    tokens = tokens < shape->max_tokens ? tokens : shape->max_tokens;
    w->sharded_tokens = tokens;
    TRY(take(arena, &w->sharded_q, all, tokens, d_row));
    TRY(take(arena, &w->sharded_sent, all, tokens, state));
    if (shape->is_apart) {
        TRY(take(arena, &w->sharded_all_q, tokens, all, d_row));
        TRY(take_state(arena, &w->sharded_all, tokens, all, c->d_c));
    }
    TRY(take(arena, &w->sharded_received, shape->cache_members * heads, tokens, state));
    TRY(take(arena, &w->sharded_pages, shape->expands ? EXPANDED_ROWS : 0, d_row, 0));
    return take(arena, &w->o_latent, tokens, heads, c->d_c);
}

static enum status take_attention(struct workspace *w, struct arena *arena,
                                  const struct model_config *c, int64_t heads,
                                  const struct workspace_shape *shape)
{
    int64_t d_q = c->d_n + c->d_r, d_row = c->d_c + c->d_r, tokens = shape->max_tokens;
    int64_t expanded_tokens = shape->expands ? tokens : 0;
    int64_t rows = shape->expands ? EXPANDED_ROWS : 0;
    TRY(take(arena, &w->c_q, tokens, c->d_cq, 0));
    TRY(take(arena, &w->q, tokens, heads * d_q, 0));
    TRY(take(arena, &w->c_kv_k_r, tokens, d_row, 0));
    TRY(take_latent(w, arena, c, heads, shape));
    TRY(take(arena, &w->o, tokens, heads * c->d_v, 0));
    TRY(take(arena, &w->rows, rows, d_row, 0));
    TRY(take(arena, &w->k_c, rows, heads, c->d_n));
    TRY(take(arena, &w->v, rows, heads, c->d_v));
    TRY(take_state(arena, &w->expanded, expanded_tokens, heads, c->d_v));
    return take_state(arena, &w->partial, expanded_tokens, heads, c->d_v);
}

/* One that holds i32. */
static enum status take_i32(struct arena *arena, struct tensor *t, int64_t n0, int64_t n1)
{
    TRY(take(arena, t, n0, n1, 0));
    t->dtype = DTYPE_I32; /* of the same size */
    return STATUS_OK;
}

static enum status take_ffn(struct workspace *work, struct arena *arena,
                            const struct model_config *c, const struct weights *weights,
                            const struct ops *ops, int64_t tokens)
{
    int64_t columns = 0, n_chosen = c->router.n_chosen;
    size_t scratch = 0;
    for (int i = 0; i < c->n_layers; i++) {
        const struct layer_weights *layer = &weights->layer[i];
        if (layer->ffn.gate.n > columns)
            columns = layer->ffn.gate.n;
        if (!layer->is_moe)
            continue;
        size_t bytes = ops->experts_scratch_bytes(tokens, &layer->experts, c->router.n_chosen);
        if (bytes > scratch)
            scratch = bytes;
    }
    TRY(take(arena, &work->gate, tokens, columns, 0));
    TRY(take(arena, &work->up, tokens, columns, 0));
    TRY(take(arena, &work->router_logits, tokens, c->router.n_experts, 0));
    TRY(take_i32(arena, &work->chosen, tokens, n_chosen));
    TRY(take(arena, &work->chosen_weight, tokens, n_chosen, 0));
    return arena_take(arena, &work->experts_scratch, scratch);
}

/* What experts need whose tokens are on several replicas. */
static enum status take_exchange(struct workspace *work, struct arena *arena,
                                 const struct model_config *c, const struct workspace_shape *shape)
{
    int64_t tokens = c->router.n_experts > 0 ? shape->max_tokens : 0;
    int64_t n_chosen = c->router.n_chosen;
    if (shape->n_replicas == 1)
        return STATUS_OK;
    TRY(take(arena, &work->all_h, tokens, c->d, 0));
    TRY(take(arena, &work->all_u, tokens, c->d, 0));
    TRY(take_i32(arena, &work->all_chosen, tokens, n_chosen));
    return take(arena, &work->all_chosen_weight, tokens, n_chosen, 0);
}

/* A row goes to the ranks of its experts, each of which etp ranks share. */
static enum status take_dispatch(struct dispatch_work *work, struct arena *arena,
                                 const struct model_config *c, const struct workspace_shape *shape)
{
    int stage = shape->n_replicas * shape->tp, etp = stage / shape->ep;
    int64_t tokens = c->router.n_experts > 0 ? shape->max_tokens : 0;
    int64_t n_chosen = c->router.n_chosen, own = (tokens + shape->tp - 1) / shape->tp;
    int64_t targets = n_chosen * etp < stage ? n_chosen * etp : stage;
    void *counts, *place, *part, *zeros;
    if (!shape->dispatches)
        return STATUS_OK;
    work->capacity = own * targets;
    TRY(take(arena, &work->sent_h, work->capacity, c->d, 0));
    TRY(take_i32(arena, &work->sent_pair, work->capacity, 2 * n_chosen));
    TRY(take_i32(arena, &work->received_pair, tokens, 2 * n_chosen));
    TRY(arena_take(arena, &counts, 2 * (size_t)stage * sizeof *work->counts));
    TRY(arena_take(arena, &place, (size_t)(stage * own) * sizeof *work->place));
    TRY(arena_take(arena, &part, (size_t)stage * sizeof *work->part));
    TRY(arena_take(arena, &zeros, (size_t)c->d * sizeof *work->zeros));
    work->counts = counts;
    work->place = place;
    work->part = part;
    work->zeros = zeros; /* arenas are zeroed */
    return STATUS_OK;
}

enum status workspace_open(struct workspace *work, struct arena *arena,
                           const struct model_config *model, const struct weights *weights,
                           const struct shard_plan *plan, const struct ops *ops,
                           const struct workspace_shape *shape)
{
    const int64_t max_tokens = shape->max_tokens;
    /* the final norm of LOGITS_ROWS rows goes to h */
    int64_t rows = max_tokens > LOGITS_ROWS ? max_tokens : LOGITS_ROWS;
    *work = (struct workspace){0};
    TRY(take(arena, &work->x, max_tokens, model->d, 0));
    TRY(take(arena, &work->h, rows, model->d, 0));
    TRY(take(arena, &work->u, (shape->splits_moe ? 2 : 1) * max_tokens, model->d, 0));
    TRY(take_attention(work, arena, model, span_size(plan->heads), shape));
    TRY(take_ffn(work, arena, model, weights, ops, max_tokens));
    TRY(take_exchange(work, arena, model, shape));
    TRY(take_dispatch(&work->dispatch, arena, model, shape));
    return take(arena, &work->logits, LOGITS_ROWS, span_size(plan->vocab), 0);
}

enum status workspace_open_host(struct workspace *work, struct arena *arena,
                                const struct model_config *model, const struct shard_plan *plan,
                                const struct device_ops *device)
{
    const int64_t all_rows = LOGITS_ROWS * model->vocab_size;
    void *joined;
    work->host_logits = (struct tensor){0};
    if (!device->is_host)
        TRY(take(arena, &work->host_logits, LOGITS_ROWS, span_size(plan->vocab), 0));
    TRY(arena_tensor(arena, &work->gathered, DTYPE_F32, 1, &all_rows));
    TRY(arena_take(arena, &joined, (size_t)model->vocab_size * sizeof(float)));
    work->joined = joined;
    return STATUS_OK;
}
