/* bench_kernel_attention.c - both forms of attention, and the operations on rows. */
#include "launcher/bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>

static const enum dtype cache_types[] = {DTYPE_BF16, DTYPE_F32};

struct attention {
    const struct ops *ops;
    struct attention_state state;
    struct tensor q, k_c, k_r, v, position;
    struct page_view pages;
    struct tensor table; /* [slots * batch, pages of a sequence]: other rows in each call */
    int64_t slots, batch;
};

static enum status take_state(struct kernel_bench *bench, struct attention_state *state,
                              int64_t tokens, int64_t width)
{
    int64_t heads = bench->config.n_heads;
    TRY(kernel_tensor(bench, &state->o, tokens, heads, width));
    TRY(kernel_tensor(bench, &state->m, tokens, heads, 0));
    return kernel_tensor(bench, &state->l, tokens, heads, 0);
}

/* [count] i32 from `first` on, `step` apart. */
static enum status take_numbers(struct kernel_bench *bench, struct tensor *tensor, int64_t count,
                                int64_t first, int64_t step)
{
    TRY(kernel_tensor(bench, tensor, count, 0, 0));
    tensor->dtype = DTYPE_I32;
    for (int64_t i = 0; i < count; i++)
        ((int32_t *)tensor->data)[i] = (int32_t)(first + i * step);
    return STATUS_OK;
}

static enum status call_latent(void *context, int64_t number)
{
    struct attention *a = context;
    int64_t begin = number % a->slots * a->batch;
    a->pages.table = tensor_rows(&a->table, begin, begin + a->batch);
    return a->ops->latent_attention(&a->state, &a->q, &a->pages, 0.1f, NULL);
}

/* Pages for `slots` batches, and their tables. */
static enum status lay_out_pages(struct kernel_bench *bench, struct attention *a, enum dtype dtype,
                                 int64_t context)
{
    const int64_t numbers = bench->config.d_c + bench->config.d_r, pages = context / PAGE_ROWS;
    const size_t batch_bytes = (size_t)(a->batch * context * numbers) * dtype_bytes(dtype);
    a->slots = kernel_copies(bench, batch_bytes);
    const int64_t n_pages = a->slots * a->batch * pages, dim[] = {n_pages, PAGE_ROWS, numbers};
    a->pages.d_c = bench->config.d_c;
    a->pages.d_r = bench->config.d_r;
    TRY(arena_tensor(&bench->cold, &a->pages.rows, dtype, 3, dim));
    kernel_fill_cold(bench, dtype);
    struct tensor all;
    TRY(take_numbers(bench, &all, n_pages, 0, 1));
    a->table = tensor_2d(all.data, DTYPE_I32, a->slots * a->batch, pages);
    TRY(take_numbers(bench, &a->pages.seq_of, a->batch, 0, 1));
    return take_numbers(bench, &a->pages.position, a->batch, context - 1, 0);
}

/* A decode step: one token of each sequence over its whole context. */
static enum status run_latent(struct kernel_bench *bench, enum dtype dtype, int64_t context,
                              int64_t batch)
{
    const struct model_config *c = &bench->config;
    struct attention a = {.ops = bench->ops, .batch = batch};
    double rows = (double)(batch * context), heads = c->n_heads;
    kernel_begin(bench);
    TRY(lay_out_pages(bench, &a, dtype, context));
    TRY(kernel_tensor(bench, &a.q, batch, c->n_heads, c->d_c + c->d_r));
    TRY(take_state(bench, &a.state, batch, c->d_c));
    struct kernel_case kernel = {.op = "latent_attention",
                                 .dtype = dtype,
                                 .rows = batch,
                                 .bytes =
                                     rows * (double)(c->d_c + c->d_r) * (double)dtype_bytes(dtype) +
                                     4 * (double)batch * heads * (double)(2 * c->d_c + c->d_r),
                                 .flop = 2 * rows * heads * (double)(2 * c->d_c + c->d_r),
                                 .call = call_latent,
                                 .context = &a};
    snprintf(kernel.shape, sizeof kernel.shape, "%d heads, context %lld", c->n_heads,
             (long long)context);
    return kernel_run(bench, &kernel);
}

static enum status call_expanded(void *context, int64_t number)
{
    struct attention *a = context;
    (void)number;
    return a->ops->expanded_attention(&a->state, &a->q, &a->k_c, &a->k_r, &a->v, &a->position, 0,
                                      0.1f, NULL);
}

/* A chunk of a prompt over 256 decompressed rows before it. */
static enum status run_expanded(struct kernel_bench *bench, int64_t tokens)
{
    enum { ROWS = 256 };
    const struct model_config *c = &bench->config;
    struct attention a = {.ops = bench->ops};
    double heads = c->n_heads, row = (double)(c->d_n + c->d_r + c->d_v);
    kernel_begin(bench);
    TRY(kernel_tensor(bench, &a.q, tokens, c->n_heads, c->d_n + c->d_r));
    TRY(kernel_tensor(bench, &a.k_c, ROWS, c->n_heads, c->d_n));
    TRY(kernel_tensor(bench, &a.k_r, ROWS, c->d_r, 0));
    TRY(kernel_tensor(bench, &a.v, ROWS, c->n_heads, c->d_v));
    TRY(take_state(bench, &a.state, tokens, c->d_v));
    TRY(take_numbers(bench, &a.position, tokens, ROWS, 1));
    struct kernel_case kernel = {.op = "expanded_attention",
                                 .dtype = DTYPE_F32,
                                 .rows = tokens,
                                 .bytes = 4 * heads * row * (double)(tokens + ROWS),
                                 .flop = 2 * (double)tokens * heads * ROWS * row,
                                 .call = call_expanded,
                                 .context = &a};
    snprintf(kernel.shape, sizeof kernel.shape, "%d heads, %d rows", c->n_heads, ROWS);
    return kernel_run(bench, &kernel);
}

enum status kernel_attention(struct kernel_bench *bench)
{
    static const int64_t context[] = {1024, 8192, 32768}, batch[] = {1, 8},
                         tokens[] = {16, 96, 512};
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 3; i++)
            for (int b = 0; b < 2; b++)
                if (kernel_wants(bench, KERNEL_OP_LATENT_ATTENTION, cache_types[d]))
                    TRY(run_latent(bench, cache_types[d], context[i], batch[b]));
    for (int i = 0; i < 3; i++)
        if (kernel_wants(bench, KERNEL_OP_EXPANDED_ATTENTION, DTYPE_F32))
            TRY(run_expanded(bench, tokens[i]));
    return STATUS_OK;
}

/* --- operations on rows that are warm --- */

struct rows {
    const struct ops *ops;
    const struct model_config *config;
    struct tensor x, y, gain, ids, weights;
    struct page_view pages;
};

static enum status call_norm(void *context, int64_t number)
{
    struct rows *r = context;
    (void)number;
    return r->ops->rms_norm(&r->y, &r->x, &r->gain, r->config->epsilon, NULL);
}

static enum status call_router(void *context, int64_t number)
{
    struct rows *r = context;
    const struct tensor none = {.data = NULL};
    (void)number;
    return r->ops->router(&r->ids, &r->weights, &r->x, &none, &r->config->router, NULL);
}

static enum status call_append(void *context, int64_t number)
{
    struct rows *r = context;
    int64_t d_c = r->config->d_c, d_r = r->config->d_r;
    struct tensor c_kv = tensor_columns(&r->x, 0, d_c);
    struct tensor k_r = tensor_columns(&r->x, d_c, d_c + d_r);
    (void)number;
    return r->ops->cache_append(&r->pages, &c_kv, &k_r, NULL, 0, NULL, NULL);
}

static enum status run_norm(struct kernel_bench *bench, int64_t tokens)
{
    const struct model_config *c = &bench->config;
    struct rows r = {.ops = bench->ops, .config = c};
    kernel_begin(bench);
    TRY(kernel_tensor(bench, &r.x, tokens, c->d, 0));
    TRY(kernel_tensor(bench, &r.y, tokens, c->d, 0));
    TRY(kernel_tensor(bench, &r.gain, c->d, 0, 0));
    struct kernel_case kernel = {.op = "rms_norm",
                                 .dtype = DTYPE_F32,
                                 .rows = tokens,
                                 .bytes = 8.0 * (double)(tokens * c->d),
                                 .is_warm = 1,
                                 .call = call_norm,
                                 .context = &r};
    snprintf(kernel.shape, sizeof kernel.shape, "%lld", (long long)c->d);
    return kernel_run(bench, &kernel);
}

static enum status run_router(struct kernel_bench *bench, int64_t tokens)
{
    const struct model_config *c = &bench->config;
    struct rows r = {.ops = bench->ops, .config = c};
    kernel_begin(bench);
    TRY(kernel_tensor(bench, &r.x, tokens, c->router.n_experts, 0));
    TRY(kernel_tensor(bench, &r.weights, tokens, c->router.n_chosen, 0));
    TRY(kernel_tensor(bench, &r.ids, tokens, c->router.n_chosen, 0));
    r.ids.dtype = DTYPE_I32;
    struct kernel_case kernel = {.op = "router",
                                 .dtype = DTYPE_F32,
                                 .rows = tokens,
                                 .bytes = (double)tokens *
                                          (4.0 * c->router.n_experts + 8.0 * c->router.n_chosen),
                                 .is_warm = 1,
                                 .call = call_router,
                                 .context = &r};
    snprintf(kernel.shape, sizeof kernel.shape, "%d of %d", c->router.n_chosen,
             c->router.n_experts);
    return kernel_run(bench, &kernel);
}

/* Rows 0 .. tokens - 1 of one sequence. */
static enum status run_append(struct kernel_bench *bench, enum dtype dtype, int64_t tokens)
{
    const struct model_config *c = &bench->config;
    struct rows r = {.ops = bench->ops, .config = c};
    int64_t numbers = c->d_c + c->d_r, n_pages = (tokens + PAGE_ROWS - 1) / PAGE_ROWS;
    const int64_t dim[] = {n_pages, PAGE_ROWS, numbers};
    kernel_begin(bench);
    TRY(kernel_tensor(bench, &r.x, tokens, numbers, 0));
    r.pages.d_c = c->d_c;
    r.pages.d_r = c->d_r;
    TRY(arena_tensor(&bench->warm, &r.pages.rows, dtype, 3, dim));
    TRY(take_numbers(bench, &r.pages.table, n_pages, 0, 1));
    r.pages.table = tensor_2d(r.pages.table.data, DTYPE_I32, 1, n_pages);
    TRY(take_numbers(bench, &r.pages.seq_of, tokens, 0, 0));
    TRY(take_numbers(bench, &r.pages.position, tokens, 0, 1));
    struct kernel_case kernel = {.op = "cache_append",
                                 .dtype = dtype,
                                 .rows = tokens,
                                 .bytes =
                                     (double)(tokens * numbers) * (4 + (double)dtype_bytes(dtype)),
                                 .is_warm = 1,
                                 .call = call_append,
                                 .context = &r};
    snprintf(kernel.shape, sizeof kernel.shape, "%lld", (long long)numbers);
    return kernel_run(bench, &kernel);
}

enum status kernel_small(struct kernel_bench *bench)
{
    static const int64_t tokens[] = {1, 16, 512};
    for (int i = 0; i < 3; i++)
        if (kernel_wants(bench, KERNEL_OP_RMS_NORM, DTYPE_F32))
            TRY(run_norm(bench, tokens[i]));
    for (int i = 0; i < 3 && bench->config.router.n_experts > 0; i++)
        if (kernel_wants(bench, KERNEL_OP_ROUTER, DTYPE_F32))
            TRY(run_router(bench, tokens[i]));
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 3; i++)
            if (kernel_wants(bench, KERNEL_OP_CACHE_APPEND, cache_types[d]))
                TRY(run_append(bench, cache_types[d], tokens[i]));
    return STATUS_OK;
}
