/* bench_kernel_products.c - gemm and gemm_heads on the matrices of a model, and the experts. */
#include "kernels/core/log.h"
#include "launcher/bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>

static const enum dtype weight_types[] = {DTYPE_BF16,    DTYPE_F16, DTYPE_F32,
                                          DTYPE_F8_E4M3, DTYPE_I8,  DTYPE_I4};
enum { N_TYPES = sizeof weight_types / sizeof weight_types[0] };

static const int64_t product_rows[] = {1, 4, 16, 96, 512};
enum { N_ROWS = sizeof product_rows / sizeof product_rows[0], MOST_ROWS = 512 };

struct product {
    const struct ops *ops;
    struct tensor x, y;
    struct matrix *w; /* [copies] */
    int copies;
};

static enum status call_gemm(void *context, int64_t number)
{
    struct product *p = context;
    return p->ops->gemm(&p->y, &p->x, &p->w[number % p->copies], NULL);
}

static enum status call_gemm_heads(void *context, int64_t number)
{
    struct product *p = context;
    return p->ops->gemm_heads(&p->y, &p->x, &p->w[number % p->copies], NULL);
}

/* One matrix of the model; heads > 0: one for each head. */
struct shape {
    const char *name;
    int64_t n, k;
    int heads;
    int64_t most_rows; /* that a step gives it */
};

static enum status run_rows(struct kernel_bench *bench, const struct product *all,
                            const struct shape *shape, enum dtype dtype, int64_t rows)
{
    struct product p = *all;
    int count = shape->heads > 0 ? shape->heads : 1;
    p.x = tensor_rows(&p.x, 0, rows);
    p.y = tensor_rows(&p.y, 0, rows);
    double numbers = (double)rows * count * (double)(shape->n + shape->k);
    struct kernel_case kernel = {
        .op = shape->heads > 0 ? "gemm_heads" : "gemm",
        .dtype = dtype,
        .rows = rows,
        .bytes = (double)kernel_matrix_bytes(dtype, count, shape->n, shape->k) + 4 * numbers,
        .flop = 2.0 * (double)rows * count * (double)shape->n * (double)shape->k,
        .call = shape->heads > 0 ? call_gemm_heads : call_gemm,
        .context = &p};
    if (shape->heads > 0)
        snprintf(kernel.shape, sizeof kernel.shape, "%s %d x %lld x %lld", shape->name, count,
                 (long long)shape->n, (long long)shape->k);
    else
        snprintf(kernel.shape, sizeof kernel.shape, "%s %lld x %lld", shape->name,
                 (long long)shape->n, (long long)shape->k);
    return kernel_run(bench, &kernel);
}

static enum status run_shape(struct kernel_bench *bench, const struct shape *shape,
                             enum dtype dtype)
{
    int count = shape->heads > 0 ? shape->heads : 1;
    struct product p = {.ops = bench->ops};
    size_t bytes = kernel_matrix_bytes(dtype, count, shape->n, shape->k) + 2 * ARENA_ALIGNMENT;
    kernel_begin(bench);
    if (bytes > bench->cold.capacity) {
        log_print(LOG_WARN, "%s in %s left out: it takes %.1f GB", shape->name, dtype_name(dtype),
                  (double)bytes * 1e-9);
        return STATUS_OK;
    }
    p.copies = kernel_copies(bench, bytes);
    p.w = calloc((size_t)p.copies, sizeof *p.w);
    enum status status = STATUS_OK;
    if (p.w == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d matrices", p.copies);
    TRY_GOTO(status, end, kernel_matrices(bench, p.w, p.copies, dtype, count, shape->n, shape->k));
    int64_t x_dim = shape->heads > 0 ? count : shape->k,
            y_dim = shape->heads > 0 ? count : shape->n;
    TRY_GOTO(status, end,
             kernel_tensor(bench, &p.x, shape->most_rows, x_dim, shape->heads > 0 ? shape->k : 0));
    TRY_GOTO(status, end,
             kernel_tensor(bench, &p.y, shape->most_rows, y_dim, shape->heads > 0 ? shape->n : 0));
    for (int i = 0; i < N_ROWS && product_rows[i] <= shape->most_rows; i++)
        TRY_GOTO(status, end, run_rows(bench, &p, shape, dtype, product_rows[i]));
end:
    free(p.w);
    return status;
}

enum status kernel_products(struct kernel_bench *bench)
{
    const struct model_config *c = &bench->config;
    const struct shape shapes[] = {
        {"w_dkv", c->d_c + c->d_r, c->d, 0, MOST_ROWS},
        {"w_uq", c->n_heads * (c->d_n + c->d_r), c->d_cq > 0 ? c->d_cq : c->d, 0, MOST_ROWS},
        {"w_o", c->d, c->n_heads * c->d_v, 0, MOST_ROWS},
        {"gate", c->dense_columns, c->d, 0, MOST_ROWS},
        {"down", c->d, c->dense_columns, 0, MOST_ROWS},
        {"lm_head", c->vocab_size, c->d, 0, 32},
        {"w_uk", c->d_c, c->d_n, c->n_heads, MOST_ROWS},
        {"w_uv", c->d_v, c->d_c, c->n_heads, MOST_ROWS},
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int i = 0; i < N_TYPES; i++)
            if (kernel_wants(bench, shapes[s].heads > 0 ? KERNEL_OP_GEMM_HEADS : KERNEL_OP_GEMM,
                             weight_types[i]))
                TRY(run_shape(bench, &shapes[s], weight_types[i]));
    return STATUS_OK;
}

/* --- routed experts --- */

enum { ROUTINGS = 16 }; /* different choices, called in turn */

struct routed {
    const struct ops *ops;
    struct tensor x, u, weights;
    struct tensor ids[ROUTINGS];
    struct matrix *gate, *up, *down; /* [copies] */
    int copies, n_experts;
    void *scratch;
};

static enum status call_experts(void *context, int64_t number)
{
    struct routed *r = context;
    int copy =
        (int)(number % r->copies); /* and not number / ROUTINGS: the next call finds others */
    const struct expert_weights w = {
        .gate = r->gate[copy], .up = r->up[copy], .down = r->down[copy], .n_experts = r->n_experts};
    return r->ops->experts(&r->u, &r->x, &r->ids[number % ROUTINGS], &r->weights, &w, r->scratch,
                           NULL);
}

/* Different experts for each token; *n_touched: distinct ones. */
static void choose(struct tensor *ids, int n_experts, uint64_t *random, unsigned char *is_chosen,
                   int64_t *n_touched)
{
    memset(is_chosen, 0, (size_t)n_experts);
    for (int64_t t = 0; t < ids->dim[0]; t++) {
        int32_t *id = (int32_t *)ids->data + t * ids->stride[0];
        for (int64_t k = 0; k < ids->dim[1]; k++) {
            int is_new;
            do {
                *random = *random * 6364136223846793005u + 1442695040888963407u;
                id[k] = (int32_t)((*random >> 33) % (uint64_t)n_experts);
                is_new = 1;
                for (int64_t j = 0; j < k; j++)
                    is_new = is_new && id[j] != id[k];
            } while (!is_new);
            *n_touched += !is_chosen[id[k]];
            is_chosen[id[k]] = 1;
        }
    }
}

static enum status run_tokens(struct kernel_bench *bench, struct routed *r, enum dtype dtype,
                              int64_t tokens)
{
    const struct model_config *c = &bench->config;
    unsigned char *is_chosen = malloc((size_t)r->n_experts);
    uint64_t random = 1;
    int64_t n_touched = 0, n_chosen = r->weights.dim[1];
    if (is_chosen == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d experts", r->n_experts);
    struct routed own = *r;
    own.x = tensor_rows(&r->x, 0, tokens);
    own.u = tensor_rows(&r->u, 0, tokens);
    own.weights = tensor_rows(&r->weights, 0, tokens);
    for (int i = 0; i < ROUTINGS; i++) {
        own.ids[i] = tensor_rows(&r->ids[i], 0, tokens);
        choose(&own.ids[i], r->n_experts, &random, is_chosen, &n_touched);
    }
    free(is_chosen);
    double expert = (double)(2 * kernel_matrix_bytes(dtype, 1, c->expert_columns, c->d) +
                             kernel_matrix_bytes(dtype, 1, c->d, c->expert_columns));
    struct kernel_case kernel = {
        .op = "experts",
        .dtype = dtype,
        .rows = tokens,
        .bytes = (double)n_touched / ROUTINGS * expert + 8.0 * (double)(tokens * c->d),
        .flop = 6.0 * (double)(tokens * n_chosen) * (double)c->d * (double)c->expert_columns,
        .call = call_experts,
        .context = &own};
    snprintf(kernel.shape, sizeof kernel.shape, "%lld of %d, %lld x %lld", (long long)n_chosen,
             r->n_experts, (long long)c->expert_columns, (long long)c->d);
    return kernel_run(bench, &kernel);
}

static enum status lay_out_experts(struct kernel_bench *bench, struct routed *r, enum dtype dtype)
{
    const struct model_config *c = &bench->config;
    int64_t n_chosen = c->router.n_chosen < r->n_experts ? c->router.n_chosen : r->n_experts;
    TRY(kernel_matrices(bench, r->gate, r->copies, dtype, r->n_experts, c->expert_columns, c->d));
    TRY(kernel_matrices(bench, r->up, r->copies, dtype, r->n_experts, c->expert_columns, c->d));
    TRY(kernel_matrices(bench, r->down, r->copies, dtype, r->n_experts, c->d, c->expert_columns));
    TRY(kernel_tensor(bench, &r->x, MOST_ROWS, c->d, 0));
    TRY(kernel_tensor(bench, &r->u, MOST_ROWS, c->d, 0));
    TRY(kernel_tensor(bench, &r->weights, MOST_ROWS, n_chosen, 0));
    for (int i = 0; i < ROUTINGS; i++) {
        TRY(kernel_tensor(bench, &r->ids[i], MOST_ROWS, n_chosen, 0));
        r->ids[i].dtype = DTYPE_I32;
    }
    const struct expert_weights w = {
        .gate = r->gate[0], .up = r->up[0], .down = r->down[0], .n_experts = r->n_experts};
    return arena_take(&bench->warm, &r->scratch,
                      bench->ops->experts_scratch_bytes(MOST_ROWS, &w, (int)n_chosen));
}

static enum status run_experts(struct kernel_bench *bench, enum dtype dtype)
{
    static const int64_t tokens[] = {1, 16, 512};
    const struct model_config *c = &bench->config;
    struct routed r = {.ops = bench->ops, .n_experts = c->router.n_experts};
    size_t expert = 2 * kernel_matrix_bytes(dtype, 1, c->expert_columns, c->d) +
                    kernel_matrix_bytes(dtype, 1, c->d, c->expert_columns);
    size_t room = bench->cold.capacity / (expert + 6 * ARENA_ALIGNMENT);
    kernel_begin(bench);
    if ((size_t)r.n_experts > room)
        r.n_experts = (int)room; /* as many as the memory holds, as if others were elsewhere */
    r.copies = kernel_copies(bench, (size_t)r.n_experts * expert + 6 * ARENA_ALIGNMENT);
    struct matrix *w = calloc((size_t)r.copies * 3, sizeof *w);
    enum status status = STATUS_OK;
    if (w == NULL || r.n_experts == 0)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for experts");
    r.gate = w;
    r.up = w + r.copies;
    r.down = w + 2 * r.copies;
    if (status == STATUS_OK)
        status = lay_out_experts(bench, &r, dtype);
    for (size_t i = 0; status == STATUS_OK && i < sizeof tokens / sizeof tokens[0]; i++)
        status = run_tokens(bench, &r, dtype, tokens[i]);
    free(w);
    return status;
}

enum status kernel_experts(struct kernel_bench *bench)
{
    for (int i = 0; i < N_TYPES && bench->config.router.n_experts > 0; i++)
        if (kernel_wants(bench, KERNEL_OP_EXPERTS, weight_types[i]))
            TRY(run_experts(bench, weight_types[i]));
    return STATUS_OK;
}
