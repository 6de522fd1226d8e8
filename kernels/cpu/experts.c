/* experts.c - the routed experts of one rank, on all tokens (DeepSeek-V3 (12)).
 *
 * (token, choice) pairs are sorted by expert, so that an expert's weights are
 * read once for all its tokens.  A token's sum follows the units of the expert
 * ids: within a unit one chain of fused multiply-adds in ascending id, then the
 * tree of matrix.h, which goes on between ranks.
 *
 * Tokens go in tiles of 512 and the rows of an expert in batches of 96, which
 * bounds the scratch memory for prompts of any length.
 */
#include "kernels/core/arena.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

enum {
    TOKEN_TILE = 512,
    ROW_BATCH = 96, /* the rows that a strip of gemm.c takes at once */
    LEVELS = 4      /* unit sums waiting for their partner in a tree of 8 */
};

/* The scratch memory of one tile. */
struct scratch {
    int32_t *begin;       /* [local experts + 1]: first pair of each */
    int32_t *pair;        /* [tokens x K]: token x K + choice, by expert, then by token */
    float *level[LEVELS]; /* [tokens, d]: sums of units */
    float *x, *y;         /* [batch, d] */
    float *gate, *up;     /* [batch, columns] */
};

static int64_t min_64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Lays the scratch memory out for `tokens` <= TOKEN_TILE; with base NULL it only counts.  The order
 * is by growing size so that fewer tokens never need more. */
static size_t lay_out(struct scratch *s, void *base, int64_t tokens, const struct expert_weights *w,
                      int n_chosen)
{
    int64_t d = w->gate.k, columns = w->gate.n, batch = min_64(tokens, ROW_BATCH);
    struct {
        void *target;
        size_t bytes;
    } part[] = {
        {&s->begin, (size_t)(w->gate.count + 1) * sizeof *s->begin},
        {&s->pair, (size_t)(tokens * n_chosen) * sizeof *s->pair},
        {&s->level[0], (size_t)(tokens * d) * sizeof(float)},
        {&s->level[1], (size_t)(tokens * d) * sizeof(float)},
        {&s->level[2], (size_t)(tokens * d) * sizeof(float)},
        {&s->level[3], (size_t)(tokens * d) * sizeof(float)},
        {&s->x, (size_t)(batch * d) * sizeof(float)},
        {&s->y, (size_t)(batch * d) * sizeof(float)},
        {&s->gate, (size_t)(batch * columns) * sizeof(float)},
        {&s->up, (size_t)(batch * columns) * sizeof(float)},
    };
    size_t used = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        void *at = base == NULL ? NULL : (char *)base + used;
        memcpy(part[i].target, &at, sizeof at);
        used += arena_rounded(part[i].bytes);
    }
    return used;
}

size_t ISA(experts_scratch_bytes)(int64_t max_tokens, const struct expert_weights *w, int n_chosen)
{
    struct scratch unused;
    return lay_out(&unused, NULL, min_64(max_tokens, TOKEN_TILE), w, n_chosen);
}

/* Counting sort of the pairs whose expert is here. */
static void sort_pairs(struct scratch *s, const struct tensor *ids, const struct expert_weights *w)
{
    int64_t n_tokens = ids->dim[0], n_chosen = ids->dim[1];
    int count = w->gate.count;
    memset(s->begin, 0, (size_t)(count + 1) * sizeof *s->begin);
    for (int64_t t = 0; t < n_tokens; t++) {
        const int32_t *id = tensor_i32(ids) + t * ids->stride[0];
        for (int64_t k = 0; k < n_chosen; k++)
            if (id[k] >= w->first && id[k] < w->first + count)
                s->begin[id[k] - w->first + 1]++;
    }
    for (int e = 0; e < count; e++)
        s->begin[e + 1] += s->begin[e];
    for (int64_t t = 0; t < n_tokens; t++) {
        const int32_t *id = tensor_i32(ids) + t * ids->stride[0];
        for (int64_t k = 0; k < n_chosen; k++)
            if (id[k] >= w->first && id[k] < w->first + count)
                s->pair[s->begin[id[k] - w->first]++] = (int32_t)(t * n_chosen + k);
    }
    for (int e = count; e > 0; e--) /* each `begin` now stands at its end */
        s->begin[e] = s->begin[e - 1];
    s->begin[0] = 0;
}

/* s->y[rows, d] = expert `e` of s->x[rows, d] */
static enum status apply_expert(struct scratch *s, const struct expert_weights *w, int e,
                                int64_t rows)
{
    int64_t d = w->gate.k, columns = w->gate.n;
    struct matrix gate = matrix_at(&w->gate, e), up = matrix_at(&w->up, e);
    struct matrix down = matrix_at(&w->down, e);
    struct tensor g = tensor_2d(s->gate, DTYPE_F32, rows, columns);
    struct tensor u = tensor_2d(s->up, DTYPE_F32, rows, columns);
    ISA(product)(s->gate, columns, s->x, d, rows, &gate);
    ISA(product)(s->up, columns, s->x, d, rows, &up);
    TRY(ISA(swiglu)(&g, &g, &u, NULL));
    ISA(product)(s->y, d, s->gate, columns, rows, &down);
    return STATUS_OK;
}

/* sum[tokens, d] += the weighted results of expert `e` */
static enum status add_expert(float *sum, struct scratch *s, const struct tensor *x,
                              const struct tensor *weights, const struct expert_weights *w, int e)
{
    int64_t d = w->gate.k;
    int32_t n_chosen = (int32_t)weights->dim[1];
    for (int64_t at = s->begin[e]; at < s->begin[e + 1]; at += ROW_BATCH) {
        int64_t rows = min_64(s->begin[e + 1] - at, min_64(x->dim[0], ROW_BATCH));
        const int32_t *pair = s->pair + at;
        for (int64_t r = 0; r < rows; r++)
            memcpy(s->x + r * d, tensor_f32(x, pair[r] / n_chosen), (size_t)d * sizeof *s->x);
        TRY(apply_expert(s, w, e, rows));
        for (int64_t r = 0; r < rows; r++) {
            float weight = *tensor_f32_2(weights, pair[r] / n_chosen, pair[r] % n_chosen);
            float *to = sum + pair[r] / n_chosen * d;
            const float *from = s->y + r * d;
            for (int64_t i = 0; i < d; i++)
                to[i] = fmaf(weight, from[i], to[i]);
        }
    }
    return STATUS_OK;
}

/* One tile: u[tokens, d] = the units of the local experts, met along the tree. */
static enum status apply_tile(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                              const struct tensor *weights, const struct expert_weights *w,
                              struct scratch *s)
{
    int64_t d = x->dim[1], count = x->dim[0] * d;
    int has[LEVELS], depth = 0;

    sort_pairs(s, ids, w);
    for (int unit = 0; unit < UNITS; unit++) {
        float *sum = s->level[depth];
        int64_t first = unit_begin(unit, w->n_experts) - w->first;
        int64_t end = min_64(unit_begin(unit + 1, w->n_experts) - w->first, w->gate.count);
        first = first < 0 ? 0 : first;
        has[depth] = first < end && s->begin[first] < s->begin[end];
        if (has[depth])
            memset(sum, 0, (size_t)count * sizeof *sum);
        for (int64_t e = first; e < end; e++)
            TRY(add_expert(sum, s, x, weights, w, (int)e));
        depth++;
        for (int done = unit + 1; done % 2 == 0; done /= 2) {
            float *a = s->level[--depth - 1];
            const float *b = s->level[depth];
            for (int64_t i = 0; i < count && has[depth]; i++)
                a[i] = has[depth - 1] ? a[i] + b[i] : b[i];
            has[depth - 1] |= has[depth];
        }
    }
    for (int64_t t = 0; t < x->dim[0]; t++) {
        if (has[0])
            memcpy(tensor_f32(u, t), s->level[0] + t * d, (size_t)d * sizeof(float));
        else
            memset(tensor_f32(u, t), 0, (size_t)d * sizeof(float));
    }
    return STATUS_OK;
}

enum status ISA(experts)(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                         const struct tensor *weights, const struct expert_weights *w,
                         void *scratch, struct stream *stream)
{
    (void)stream;
    int64_t n_tokens = x->dim[0];
    assert(u->ndim == 2 && x->ndim == 2 && u->dim[0] == n_tokens && u->dim[1] == x->dim[1]);
    assert(ids->dim[0] == n_tokens && weights->dim[0] == n_tokens);
    assert(ids->dim[1] == weights->dim[1]);
    assert(w->gate.count == 0 || (w->gate.k == x->dim[1] && w->down.n == x->dim[1]));

    if (w->gate.count == 0 || ids->dim[1] == 0 || x->dim[1] == 0) {
        for (int64_t t = 0; t < n_tokens && x->dim[1] > 0; t++)
            memset(tensor_f32(u, t), 0, (size_t)x->dim[1] * sizeof(float));
        return STATUS_OK;
    }
    for (int64_t t = 0; t < n_tokens; t += TOKEN_TILE) {
        int64_t end = min_64(n_tokens, t + TOKEN_TILE);
        struct tensor ut = tensor_rows(u, t, end), xt = tensor_rows(x, t, end);
        struct tensor it = tensor_rows(ids, t, end), wt = tensor_rows(weights, t, end);
        struct scratch s;
        lay_out(&s, scratch, end - t, w, (int)ids->dim[1]);
        TRY(apply_tile(&ut, &xt, &it, &wt, w, &s));
    }
    return STATUS_OK;
}
