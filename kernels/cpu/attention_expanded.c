/* attention_expanded.c - attention with the keys and values of each head.
 *
 * DeepSeek-V3 (10) as written: k of head h is (k_c[., h], k_r).  Rows go in
 * pieces of 1024 from `begin` on, merged in order; the tokens of a head go over
 * them 32 at a time.
 */
#include "kernels/cpu/attention_piece.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

struct head_rows {
    const struct tensor *k_c, *k_r, *v;
    int64_t head;
};

/* Keys behind each other: k_c, k_r, zeros up to whole steps. */
static void copy_keys(struct run *run, float *to, const struct head_rows *from)
{
    int64_t d_n = from->k_c->dim[2], d_r = from->k_r->dim[1], width = step_round_up(d_n + d_r);
    run->keys[0] = run->keys[1] = (const char *)to;
    run->key_stride[0] = run->key_stride[1] = width * (int64_t)sizeof *to;
    for (int64_t r = run->first; r < run->first + run->count; r++, to += width) {
        if (d_n > 0)
            memcpy(to, tensor_f32_2(from->k_c, r, from->head), (size_t)d_n * sizeof *to);
        if (d_r > 0)
            memcpy(to + d_n, tensor_f32(from->k_r, r), (size_t)d_r * sizeof *to);
        memset(to + d_n + d_r, 0, (size_t)(width - d_n - d_r) * sizeof *to);
    }
}

static void copy_values(struct run *run, float *to, const struct head_rows *from)
{
    int64_t d_v = from->v->dim[2], width = step_round_up(d_v);
    run->values = (const char *)to;
    run->value_stride = width * (int64_t)sizeof *to;
    for (int64_t r = run->first; r < run->first + run->count; r++, to += width) {
        memcpy(to, tensor_f32_2(from->v, r, from->head), (size_t)d_v * sizeof *to);
        memset(to + d_v, 0, (size_t)(width - d_v) * sizeof *to);
    }
}

/* Rows of whole steps are read where they are, unless copies are faster. */
static int is_steps(int64_t width)
{
    return !COPIES_ROWS && width > 0 && width % STEP == 0;
}

static struct rows_ahead ahead_of(const struct tensor *x, int64_t row, int64_t head)
{
    const int64_t bytes = (int64_t)sizeof(float);
    return (struct rows_ahead){(const char *)tensor_f32_2(x, row, head), x->stride[0] * bytes,
                               x->dim[2] * bytes};
}

static void read_keys(struct run *run, float *buffer, const struct head_rows *from)
{
    const int64_t bytes = (int64_t)sizeof(float);
    if (!is_steps(from->k_c->dim[2]) || !is_steps(from->k_r->dim[1])) {
        copy_keys(run, buffer, from);
        return;
    }
    run->keys[0] = (const char *)tensor_f32_2(from->k_c, run->first, from->head);
    run->keys[1] = (const char *)tensor_f32(from->k_r, run->first);
    run->key_stride[0] = from->k_c->stride[0] * bytes;
    run->key_stride[1] = from->k_r->stride[0] * bytes;
}

/* While the keys of a run are used its values come from memory, unless they are copied now, and the
 * next keys. */
static void read_rows(struct run *run, float *buffer, const void *context)
{
    const struct head_rows *from = context;
    int64_t values = run->first;
    read_keys(run, buffer, from);
    if (is_steps(from->v->dim[2])) {
        run->values = (const char *)tensor_f32_2(from->v, run->first, from->head);
        run->value_stride = from->v->stride[0] * (int64_t)sizeof(float);
    } else {
        copy_values(run, buffer + PAGE_ROWS * ROW_WIDTH_MAX, from);
        values = run->next;
    }
    if (values >= 0)
        run->ahead[0] = ahead_of(from->v, values, from->head);
    if (run->next >= 0)
        run->ahead[1] = ahead_of(from->k_c, run->next, from->head);
}

static void attend(struct partial *partial, const struct queries *queries,
                   const struct row_source *source, float scale)
{
    struct partial next;
    ISA(partial_clear)(partial);
    for (int64_t begin = 0; begin < queries->most_visible; begin += PIECE_ROWS) {
        struct piece piece = {.n_runs = 0};
        for (int i = 0; i < PIECE_PAGES && begin + i * PAGE_ROWS < queries->most_visible; i++)
            piece.first[piece.n_runs++] = begin + i * PAGE_ROWS;
        piece.first[piece.n_runs] =
            begin + PIECE_ROWS < queries->most_visible ? begin + PIECE_ROWS : -1;
        ISA(partial_of_piece)(begin == 0 ? partial : &next, queries, source, &piece, scale);
        if (begin > 0)
            ISA(partial_merge)(partial, &next, queries->count, source->value_width);
    }
}

/* A prompt's attention, the same for all threads. */
struct expanded_work {
    struct attention_state *state;
    const struct tensor *q, *k_c, *k_r, *v, *position;
    int64_t begin;
    float scale;
    int fit; /* tokens that go over the rows together */
};

/* Tokens [t, end) of one head. */
static void attend_tokens(const struct expanded_work *work, int64_t head, int64_t t, int64_t end)
{
    int64_t width = work->q->dim[2], d_v = work->v->dim[2], n_rows = work->k_c->dim[0];
    struct head_rows rows = {.k_c = work->k_c, .k_r = work->k_r, .v = work->v, .head = head};
    struct row_source source = {.dtype = DTYPE_F32,
                                .key_width = {step_round_up(width), 0},
                                .value_width = step_round_up(d_v),
                                .read = read_rows,
                                .context = &rows};
    if (is_steps(work->k_c->dim[2]) && is_steps(work->k_r->dim[1])) {
        source.key_width[0] = work->k_c->dim[2];
        source.key_width[1] = work->k_r->dim[1];
    }
    struct partial partial;
    struct queries queries;
    ISA(queries_begin)(&queries, width, DTYPE_F32);
    for (int64_t i = t; i < end; i++) {
        int64_t visible = tensor_i32(work->position)[i] - work->begin + 1;
        visible = visible < 0 ? 0 : visible > n_rows ? n_rows : visible;
        ISA(queries_push)(&queries, tensor_f32_2(work->q, i, head), width, visible);
    }
    attend(&partial, &queries, &source, work->scale);
    for (int i = 0; i < queries.count; i++)
        ISA(partial_store)
    (&partial, i, &source, tensor_f32_2(&work->state->o, t + i, head), d_v,
     tensor_f32_2(&work->state->m, t + i, head), tensor_f32_2(&work->state->l, t + i, head));
}

/* Blocks of tokens of all heads in turn: later ones see more rows. */
static void expanded_part(void *context, int thread, int n_threads)
{
    const struct expanded_work *work = context;
    int64_t n_tokens = work->q->dim[0], n_heads = work->q->dim[1], n = 0;
    for (int64_t h = 0; h < n_heads; h++)
        for (int64_t t = 0; t < n_tokens; t += work->fit, n++)
            if (n % n_threads == thread)
                attend_tokens(work, h, t, t + work->fit < n_tokens ? t + work->fit : n_tokens);
}

enum status ISA(expanded_attention)(struct attention_state *state, const struct tensor *q,
                                    const struct tensor *k_c, const struct tensor *k_r,
                                    const struct tensor *v, const struct tensor *position,
                                    int64_t begin, float scale, struct stream *stream)
{
    (void)stream;
    int64_t n_tokens = q->dim[0], n_heads = q->dim[1], width = q->dim[2], d_v = state->o.dim[2];
    int64_t n_rows = k_c->dim[0];

    assert(q->ndim == 3 && k_c->ndim == 3 && k_r->ndim == 2 && v->ndim == 3);
    assert(k_c->dim[2] + k_r->dim[1] == width && v->dim[2] == d_v && k_c->dim[1] == n_heads);
    assert(v->dim[0] == n_rows && k_r->dim[0] == n_rows && state->o.dim[0] == n_tokens);
    if (n_tokens * n_heads == 0)
        return STATUS_OK;
    if (step_round_up(width) > ROW_WIDTH_MAX || step_round_up(d_v) > ROW_WIDTH_MAX)
        FAIL(STATUS_UNSUPPORTED, "a key has %lld numbers, this build takes up to %d",
             (long long)width, ROW_WIDTH_MAX);

    struct expanded_work work = {.state = state,
                                 .q = q,
                                 .k_c = k_c,
                                 .k_r = k_r,
                                 .v = v,
                                 .position = position,
                                 .begin = begin,
                                 .scale = scale,
                                 .fit = ISA(queries_that_fit)(width, d_v)};
    cpu_threads_run(expanded_part, &work);
    return STATUS_OK;
}
