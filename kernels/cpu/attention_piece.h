/* attention_piece.h - softmax of some queries over one piece of their rows.
 *
 * The inner work of both attention forms.  Up to 32 queries, (token, head)
 * pairs that share their rows, go over the rows together.  A piece is at most
 * 16 runs of 64 rows.  A run is scored, weighed and summed before the next one,
 * while its rows are in the second-level cache: they come from memory once.
 * Tiles read the rows as they are stored; whether a row is widened once or for
 * each tile, and which queries share a tile, changes no bit of a query.
 */
#ifndef KERNELS_CPU_ATTENTION_PIECE_H
#define KERNELS_CPU_ATTENTION_PIECE_H

#include "kernels/cpu/lanes.h"
#include "kernels/ops.h"

enum {
    QUERIES = 32,     /* queries that go over the rows together */
    QUERY_BLOCK = 8,  /* ... as they lie side by side; most tiles take so many or half */
    PIECE_PAGES = 16, /* runs of a piece */
    PIECE_ROWS = PIECE_PAGES * PAGE_ROWS,
    STEP =
        2 * LANES, /* numbers of a row that tiles take at a time; rows are padded to whole steps */
    ROW_WIDTH_MAX = 1280, /* numbers of a padded row, 576 in DeepSeek-V3 */
    QUERY_FLOATS = QUERIES * 640,
    PARTIAL_FLOATS = QUERIES * 512
};

/* n rounded up to whole steps */
static inline int64_t step_round_up(int64_t n)
{
    return (n + STEP - 1) / STEP * STEP;
}

/* How many queries of these widths fit the buffers below: QUERIES, or fewer when they are wide. */
int ISA(queries_that_fit)(int64_t key_width, int64_t value_width);

/* A step of numbers is two groups of lanes.  Stored as F32 the first 16 are the first group; as BF16
 * two neighbours share a word, so the even ones are the first group, the odd ones the second.
 * q and o lie as the rows that they meet. */
struct queries {
    int count;
    enum dtype dtype;         /* of the rows */
    int64_t width;            /* whole steps */
    int64_t visible[QUERIES]; /* a query sees rows 0 .. visible - 1 */
    int64_t most_visible;
    /* [count / QUERY_BLOCK][width / LANES][QUERY_BLOCK][LANES] */
    _Alignas(64) float q[QUERY_FLOATS];
};

/* Where query i begins in `q`: lane 0 of its first group. */
static inline int64_t query_at(int64_t i, int64_t width)
{
    return i / QUERY_BLOCK * QUERY_BLOCK * width + i % QUERY_BLOCK * LANES;
}

/* Starts an empty set of queries of q_width numbers, for rows stored as `dtype`: F32 or BF16. */
void ISA(queries_begin)(struct queries *queries, int64_t q_width, enum dtype dtype);
void ISA(queries_push)(struct queries *queries, const float *q, int64_t q_width, int64_t visible);

/* PAGE_ROWS rows that will be needed: `bytes` of each, 0: none. */
struct rows_ahead {
    const char *row;
    int64_t stride, bytes;
};

/* The rows [first, first + count) of a run as tiles read them: whole steps, zeros behind the
 * numbers that count.  A key is keys[0], then keys[1]. */
struct run {
    int64_t first, count;
    enum dtype dtype; /* F32 or BF16 */
    int64_t next;     /* the first row of the run to come, -1: not known */
    const char *keys[2], *values;
    int64_t key_stride[2], value_stride; /* bytes from row to row */
    /* What is fetched meanwhile, or nothing: rows while the run is scored, [next_at, next_end)
     * while it is summed. */
    struct rows_ahead ahead[2];
    const char *next_at, *next_end;
};

/* Where rows come from. */
struct row_source {
    enum dtype dtype;                  /* F32 or BF16 */
    int64_t key_width[2], value_width; /* whole steps */
    /* Fills in the pointers of `run`; rows that cannot be read where they are go to
     * `buffer` [2][PAGE_ROWS * ROW_WIDTH_MAX] first. */
    void (*read)(struct run *run, float *buffer, const void *context);
    const void *context;
};

/* Up to PIECE_PAGES runs of rows: run i begins at row first[i], a multiple of PAGE_ROWS, and has
 * PAGE_ROWS rows, or fewer when no query sees more.  first[n_runs]: the run after the piece, if
 * known, or -1. */
struct piece {
    int64_t first[PIECE_PAGES + 1];
    int n_runs;
};

/* Unfinished softmax of each query, as struct attention_state. */
struct partial {
    float m[QUERIES], l[QUERIES];
    _Alignas(64) float o[PARTIAL_FLOATS]; /* [count][value_width]; not set where m = -infinity */
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
void ISA(partial_store)(const struct partial *partial, int i, const struct row_source *source,
                        float *o, int64_t width, float *m, float *l);

#endif
