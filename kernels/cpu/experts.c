/* experts.c - the routed experts of one rank, on all tokens (DeepSeek-V3 (12)).
 *
 * (token, choice) pairs are sorted by expert, so that an expert's weights are
 * read once for all its tokens.  A token's sum follows the units of the expert
 * ids: within a unit one chain of fused multiply-adds in ascending id, then the
 * tree of matrix.h, which goes on between ranks.
 *
 * A tile of 512 tokens is one parallel region.  Threads share the columns of every
 * expert in the first half and the outputs in the second, so each number has
 * one thread and one order whatever their count.  Tiles, rounds and batches bound
 * the scratch memory for prompts of any length.
 */
#include "kernels/core/arena.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/unit_tree.h"

#include <assert.h>

enum {
    TOKEN_TILE = 512,
    BATCH = 96,      /* rows of an expert at once: product_i8.c takes as many, product.c 100 */
    ROUND_ROWS = 192 /* rows of a round, of one expert or of many */
};

/* The scratch memory of one tile. */
struct scratch {
    int32_t *begin;            /* [local experts + 1]: first pair of each */
    int32_t *pair;             /* [tokens x K]: token x K + choice, by expert, then by token */
    float *level[TREE_LEVELS]; /* [tokens, d]: sums of units */
    float *x, *y;              /* [round, d] */
    float *gate, *up;          /* [round, columns] */
};

/* Some rows of one expert. */
struct batch {
    int expert;     /* local */
    int32_t pair;   /* its first pair */
    int32_t n_rows; /* 1 .. BATCH */
    int64_t at;     /* its first row in the round's buffers */
};

/* Batches that go through the two halves of the experts together: with few tokens all of them, so that
 * threads meet once, not once for each expert. */
struct round {
    struct batch batch[ROUND_ROWS];
    int n_batches, gathers;
    int64_t n_rows;
    int next_expert;
    int32_t next_pair;
};

static int64_t min_64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows that the buffers of a round hold. */
static int64_t round_rows(int64_t tokens, int n_chosen)
{
    return min_64(tokens * n_chosen, ROUND_ROWS);
}

/* Lays the scratch memory out for `tokens` <= TOKEN_TILE; with base NULL it only counts.  The order
 * is by growing size so that fewer tokens never need more. */
static size_t lay_out(struct scratch *s, void *base, int64_t tokens, const struct expert_weights *w,
                      int n_chosen)
{
    int64_t d = w->gate.k, columns = w->gate.n, rows = round_rows(tokens, n_chosen);
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
        {&s->x, (size_t)(rows * d) * sizeof(float)},
        {&s->y, (size_t)(rows * d) * sizeof(float)},
        {&s->gate, (size_t)(rows * columns) * sizeof(float)},
        {&s->up, (size_t)(rows * columns) * sizeof(float)},
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

/* One tile of tokens: the same for all threads. */
struct tile {
    struct tensor *u;
    const struct tensor *x, *weights;
    const struct expert_weights *w;
    struct scratch s;
};

/* One thread's share of it. */
struct share {
    const struct tile *tile;
    int thread, n_threads;
    int64_t d_begin, d_end;       /* blocks of the d outputs: all of its sums stay in them */
    int64_t begin;                /* the first of them */
    int64_t gate_begin, gate_end; /* blocks of an expert's columns */
    struct round round;
    struct unit_tree tree; /* its numbers of each token */
};

/* The next batches, in order of experts.  The same on every thread. */
static void round_next(struct round *round, const struct scratch *s, int count, int64_t capacity)
{
    round->n_batches = 0;
    round->n_rows = 0;
    round->gathers = 0;
    while (round->next_expert < count && round->n_rows < capacity) {
        int32_t left = s->begin[round->next_expert + 1] - round->next_pair;
        int32_t n = (int32_t)min_64(left, min_64(BATCH, capacity - round->n_rows));
        if (left == 0) {
            round->next_expert++;
            continue;
        }
        round->batch[round->n_batches++] = (struct batch){.expert = round->next_expert,
                                                          .pair = round->next_pair,
                                                          .n_rows = n,
                                                          .at = round->n_rows};
        round->gathers |= n > 1;
        round->n_rows += n;
        round->next_pair += n;
    }
}

static const float *pair_row(const struct tile *tile, int32_t pair)
{
    return tensor_f32(tile->x, pair / (int32_t)tile->weights->dim[1]);
}

/* s->x = the rows of the round, next to each other */
static void gather(const struct share *share)
{
    const struct tile *tile = share->tile;
    int64_t d = tile->w->gate.k, begin, end;
    thread_part(share->round.n_rows, share->thread, share->n_threads, &begin, &end);
    for (int b = 0; b < share->round.n_batches; b++) {
        const struct batch *batch = &share->round.batch[b];
        for (int64_t r = 0; r < batch->n_rows; r++) {
            int64_t at = batch->at + r;
            if (at >= begin && at < end)
                memcpy(tile->s.x + at * d, pair_row(tile, tile->s.pair[batch->pair + r]),
                       (size_t)d * sizeof(float));
        }
    }
}

/* s->gate = silu(gate x) * up x, this thread's columns */
static void first_half(const struct share *share)
{
    const struct tile *tile = share->tile;
    const struct expert_weights *w = tile->w;
    int64_t d = w->gate.k, columns = w->gate.n;
    int64_t begin = share->gate_begin * MATRIX_BLOCK;
    int64_t n = min_64(share->gate_end * MATRIX_BLOCK, columns) - begin;
    for (int b = 0; b < share->round.n_batches && n > 0; b++) {
        const struct batch *batch = &share->round.batch[b];
        const float *x = share->round.gathers ? tile->s.x + batch->at * d
                                              : pair_row(tile, tile->s.pair[batch->pair]);
        struct matrix gate = matrix_at(&w->gate, batch->expert);
        struct matrix up = matrix_at(&w->up, batch->expert);
        float *g = tile->s.gate + batch->at * columns, *u = tile->s.up + batch->at * columns;
        ISA(product)
        (g, columns, x, d, batch->n_rows, &gate, share->gate_begin, share->gate_end);
        ISA(product)(u, columns, x, d, batch->n_rows, &up, share->gate_begin, share->gate_end);
        for (int64_t r = 0; r < batch->n_rows; r++)
            ISA(swiglu_row)
        (g + r * columns + begin, g + r * columns + begin, u + r * columns + begin, n);
    }
}

/* The unit of an expert. */
static int unit_of(const struct expert_weights *w, int expert)
{
    int unit = 0;
    while (unit_begin(unit + 1, w->n_experts) <= w->first + expert)
        unit++;
    return unit;
}

/* sum += weight * down s->gate, this thread's numbers, in the order of experts */
static void second_half(struct share *share)
{
    const struct tile *tile = share->tile;
    const struct scratch *s = &tile->s;
    struct unit_tree *units = &share->tree;
    int64_t d = tile->w->gate.k, columns = tile->w->gate.n, n = units->n;
    int32_t n_chosen = (int32_t)tile->weights->dim[1];
    for (int b = 0; b < share->round.n_batches; b++) {
        const struct batch *batch = &share->round.batch[b];
        struct matrix down = matrix_at(&tile->w->down, batch->expert);
        float *y = s->y + batch->at * d;
        unit_tree_move(units, unit_of(tile->w, batch->expert));
        float *sum = units->level[units->depth];
        for (int64_t t = 0; t < tile->x->dim[0] && !units->has[units->depth]; t++)
            memset(sum + t * d, 0, (size_t)n * sizeof *sum);
        units->has[units->depth] = 1;
        ISA(product)
        (y, d, s->gate + batch->at * columns, columns, batch->n_rows, &down, share->d_begin,
         share->d_end);
        for (int64_t r = 0; r < batch->n_rows; r++) {
            int32_t pair = s->pair[batch->pair + r];
            float weight = *tensor_f32_2(tile->weights, pair / n_chosen, pair % n_chosen);
            float *to = sum + pair / n_chosen * d;
            const float *from = y + r * d + share->begin;
            for (int64_t i = 0; i < n; i++)
                to[i] = fmaf(weight, from[i], to[i]);
        }
    }
}

static void store_sum(struct share *share)
{
    const struct tile *tile = share->tile;
    struct unit_tree *units = &share->tree;
    size_t bytes = (size_t)units->n * sizeof(float);
    unit_tree_move(units, UNITS);
    for (int64_t t = 0; t < units->rows; t++) {
        float *to = tensor_f32(tile->u, t) + share->begin;
        if (units->has[0])
            memcpy(to, units->level[0] + t * units->stride, bytes);
        else
            memset(to, 0, bytes);
    }
}

/* What every thread does with a tile.  A round's buffers are written again only after all threads have
 * read them: they meet before the first half of the next round. */
static void tile_part(void *context, int thread, int n_threads)
{
    const struct tile *tile = context;
    const struct expert_weights *w = tile->w;
    struct share share = {.tile = tile, .thread = thread, .n_threads = n_threads};
    int64_t capacity = round_rows(tile->x->dim[0], (int)tile->weights->dim[1]);
    blocks_part(matrix_blocks(&w->down), thread, n_threads, &share.d_begin, &share.d_end);
    blocks_part(matrix_blocks(&w->gate), thread, n_threads, &share.gate_begin, &share.gate_end);
    share.begin = min_64(share.d_begin * MATRIX_BLOCK, w->gate.k);
    share.tree =
        (struct unit_tree){.rows = tile->x->dim[0],
                           .stride = w->gate.k,
                           .n = min_64(share.d_end * MATRIX_BLOCK, w->gate.k) - share.begin};
    for (int i = 0; i < TREE_LEVELS; i++)
        share.tree.level[i] = tile->s.level[i] + share.begin;
    for (;;) {
        round_next(&share.round, &tile->s, w->gate.count, capacity);
        if (share.round.n_batches == 0)
            break;
        if (share.round.gathers) {
            gather(&share);
            cpu_threads_meet();
        }
        first_half(&share);
        cpu_threads_meet();
        second_half(&share);
        cpu_threads_meet();
    }
    store_sum(&share);
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
        struct tile tile = {.u = &ut, .x = &xt, .weights = &wt, .w = w};
        lay_out(&tile.s, scratch, end - t, w, (int)ids->dim[1]);
        sort_pairs(&tile.s, &it, w);
        cpu_threads_run(tile_part, &tile);
    }
    return STATUS_OK;
}
