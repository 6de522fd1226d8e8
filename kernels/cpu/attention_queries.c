/* attention_queries.c - queries and results, laid out as the rows that they meet. */
#include "kernels/cpu/attention_piece.h"

int ISA(queries_that_fit)(int64_t key_width, int64_t value_width)
{
    int64_t keys = QUERY_FLOATS / step_round_up(key_width) / QUERY_BLOCK * QUERY_BLOCK;
    int64_t values = PARTIAL_FLOATS / step_round_up(value_width);
    int64_t fit = keys < values ? keys : values;
    return fit > QUERIES ? QUERIES : (int)fit;
}

void ISA(queries_begin)(struct queries *queries, int64_t q_width, enum dtype dtype)
{
    queries->count = 0;
    queries->dtype = dtype;
    queries->most_visible = 0;
    queries->width = step_round_up(q_width);
}

/* The numbers of a step, x, in the order of their groups. */
static void step_to_groups(float *first, float *second, const float *x, enum dtype dtype)
{
    if (dtype == DTYPE_F32) {
        lanes_store(first, lanes_load(x));
        lanes_store(second, lanes_load(x + LANES));
        return;
    }
    for (int i = 0; i < LANES; i++) {
        first[i] = x[2 * i];
        second[i] = x[2 * i + 1];
    }
}

static void step_from_groups(float *x, const float *groups, enum dtype dtype)
{
    if (dtype == DTYPE_F32) {
        memcpy(x, groups, STEP * sizeof *x);
        return;
    }
    for (int i = 0; i < LANES; i++) {
        x[2 * i] = groups[i];
        x[2 * i + 1] = groups[LANES + i];
    }
}

void ISA(queries_push)(struct queries *queries, const float *q, int64_t q_width, int64_t visible)
{
    enum { GROUP = QUERY_BLOCK * LANES };
    float *to = queries->q + query_at(queries->count, queries->width);
    for (int64_t j = 0; j < queries->width; j += STEP, to += 2 * GROUP) {
        float padded[STEP] = {0};
        if (j + STEP > q_width)
            memcpy(padded, q + j, (size_t)(q_width - j) * sizeof *q);
        step_to_groups(to, to + GROUP, j + STEP > q_width ? padded : q + j, queries->dtype);
    }
    queries->visible[queries->count++] = visible;
    if (visible > queries->most_visible)
        queries->most_visible = visible;
}

void ISA(partial_clear)(struct partial *partial)
{
    for (int i = 0; i < QUERIES; i++) {
        partial->m[i] = -INFINITY;
        partial->l[i] = 0.0f;
    }
}

void ISA(partial_store)(const struct partial *partial, int i, const struct row_source *source,
                        float *o, int64_t width, float *m, float *l)
{
    const float *from = partial->o + i * source->value_width;
    *m = partial->m[i];
    *l = partial->l[i];
    if (*m == -INFINITY) {
        memset(o, 0, (size_t)width * sizeof *o);
        return;
    }
    int64_t j = 0;
    for (; j + STEP <= width; j += STEP)
        step_from_groups(o + j, from + j, source->dtype);
    if (j < width) {
        float last[STEP];
        step_from_groups(last, from + j, source->dtype);
        memcpy(o + j, last, (size_t)(width - j) * sizeof *o);
    }
}
