/* attention_piece.h - softmax of some queries over one piece of their rows.
 *
 * The inner work of both attention forms.  Up to 32 queries, (token, head)
 * pairs that share their rows, go over the rows together, so that a row is
 * widened once for all of them.  A piece is at most 1024 rows; its scores are
 * all computed, then its maximum, its exponentials and its sums, so that a
 * query's result depends on its own rows alone, not on its neighbours.
 */
#ifndef KERNELS_CPU_ATTENTION_PIECE_H
#define KERNELS_CPU_ATTENTION_PIECE_H

#include "kernels/cpu/lanes.h"
#include "kernels/ops.h"

enum {
    QUERIES = 32,     /* queries that go over the rows together */
    QUERY_TILE = 4,   /* ... in steps of; the rest is padded with zeros */
    PIECE_PAGES = 16, /* pages of a piece */
    PIECE_ROWS = PIECE_PAGES * PAGE_ROWS,
    ROW_BATCH = 32,       /* rows widened at a time; a page is whole batches */
    ROW_WIDTH_MAX = 1280, /* floats of a widened row, 576 in DeepSeek-V3 */
    PARTIAL_FLOATS = QUERIES * 512
};

/* n rounded up to whole lanes */
static inline int64_t lanes_round_up(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* How many queries of these widths fit the buffers below: QUERIES, or fewer when they are wide. */
int ISA(queries_that_fit)(int64_t key_width, int64_t value_width);

struct queries {
    int count, padded;        /* padded: up to whole QUERY_TILEs, zeros */
    int64_t width;            /* whole lanes */
    int64_t visible[QUERIES]; /* a query sees rows 0 .. visible - 1 */
    int64_t most_visible;
    _Alignas(64) float q[QUERIES * 640]; /* [padded][width] */
};

/* Starts an empty set of queries of q_width numbers. */
void ISA(queries_begin)(struct queries *queries, int64_t q_width);
void ISA(queries_push)(struct queries *queries, const float *q, int64_t q_width, int64_t visible);
/* Pads; no query may follow. */
void ISA(queries_end)(struct queries *queries);

/* Where rows come from: both write rows [first, first + count) to `rows`, `width` floats (whole
 * lanes) each, zeros behind the numbers. */
struct row_source {
    void (*keys)(float *rows, int64_t width, const void *context, int64_t first, int count);
    void (*values)(float *rows, int64_t width, const void *context, int64_t first, int count);
    const void *context;
    int64_t key_width, value_width; /* of the widened rows, whole lanes */
};

/* Up to PIECE_PAGES runs of rows: run i begins at row first[i], a multiple of PAGE_ROWS, and has
 * PAGE_ROWS rows, or fewer when no query sees more. */
struct piece {
    int64_t first[PIECE_PAGES];
    int n_runs;
};

/* Unfinished softmax of each query, as struct attention_state. */
struct partial {
    float m[QUERIES], l[QUERIES];
    _Alignas(64) float o[PARTIAL_FLOATS]; /* [padded][value_width]; not set where m = -infinity */
};

void ISA(partial_clear)(struct partial *partial);

/* partial = the softmax of the queries over the piece. */
void ISA(partial_of_piece)(struct partial *partial, const struct queries *queries,
                           const struct row_source *source, const struct piece *piece, float scale);

/* a = a merged with b, a being the lower unit. */
void ISA(partial_merge)(struct partial *a, const struct partial *b, int count, int64_t width);

/* One query of merge_partials: (a_o[width], a_m, a_l) = itself merged with b. */
void ISA(merge_one)(float *a_o, float *a_m, float *a_l, const float *b_o, float b_m, float b_l,
                    int64_t width);

/* Query i of `partial` as an attention state: o[width], m, l; zeros where nothing was visible. */
void ISA(partial_store)(const struct partial *partial, int i, int64_t value_width, float *o,
                        int64_t width, float *m, float *l);

#endif
