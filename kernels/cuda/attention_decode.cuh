/* attention_decode.cuh - what the kernels of attention_decode.h share. */
#ifndef KERNELS_CUDA_ATTENTION_DECODE_CUH
#define KERNELS_CUDA_ATTENTION_DECODE_CUH

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/common.cuh"

enum {
    TILE_COLUMNS = 64,                       /* bf16 numbers in a swizzled row of 128 bytes */
    TILE_BYTES = 64 * TILE_COLUMNS * 2,      /* 64 rows                                      */
    ROW_TILES = DECODE_ROW / TILE_COLUMNS,   /* 9: 8 of latent numbers, 1 of RoPE            */
    VALUE_TILES = DECODE_D_C / TILE_COLUMNS, /* 8 */
    K_STEPS = TILE_COLUMNS / 16              /* steps of a product over one tile             */
};

/* What a kernel needs to know; passed by value. */
struct decode_args {
    const int *table, *table_row, *position, *bound;
    int table_stride;
    int n_sequences, n_tokens, n_heads, n_parts;
    const __nv_bfloat16 *q;
    float scale_log2; /* scale x log2 e: exponentials are powers of 2 */
    void *o;
    int o_is_f32;
    float *lse, *ones;
    float *partial_o;   /* [groups][n_parts][2][columns][512] */
    float *partial_lse; /* [groups][n_parts][2][columns]      */
};

#define LN_2 0.693147180559945f

/* A run of pages [begin, end) of one sequence, in one part. */
struct decode_run {
    int sequence, begin, end, rows, is_whole, slot;
};

DEVICE int decode_rows(const decode_args &args, int sequence)
{
    return args.position[sequence * args.n_tokens + args.n_tokens - 1] + 1;
}
DEVICE int decode_pages(int rows)
{
    return max(1, (rows + 63) / 64); /* an idle sequence still writes its zeros */
}

DEVICE const int *decode_table(const decode_args &args, int sequence)
{
    int row = args.table_row == NULL ? sequence : args.table_row[sequence * args.n_tokens];
    return args.table + (int64_t)row * args.table_stride;
}

DEVICE void decode_store_lse(const decode_args &args, int64_t query, float lse)
{
    args.lse[query] = lse;
    if (args.ones != NULL)
        args.ones[query] = 1;
}

/* The next run of this part at or after `sequence`; 0 when there is none. */
DEVICE int decode_next_run(decode_run *run, const decode_args &args, int part, int sequence)
{
    int first = args.bound[2 * part], first_page = args.bound[2 * part + 1];
    int last = args.bound[2 * part + 2], last_page = args.bound[2 * part + 3];
    for (sequence = max(sequence, first); sequence <= last && sequence < args.n_sequences;
         sequence++) {
        run->sequence = sequence;
        run->rows = decode_rows(args, sequence);
        int pages = decode_pages(run->rows);
        run->begin = sequence == first ? first_page : 0;
        run->end = sequence == last ? last_page : pages;
        if (run->begin >= run->end)
            continue;
        run->is_whole = run->begin == 0 && run->end == pages;
        run->slot = sequence == first ? 0 : 1;
        return 1;
    }
    return 0;
}

/* Wherever `row` of a 128-byte wide swizzled tile keeps its 16-byte chunk `chunk`. */
DEVICE unsigned char *swizzled(unsigned char *tile, int row, int chunk)
{
    return tile + row * 128 + ((chunk ^ (row & 7)) << 4);
}

/* 2^(x - y) where x <= y, or both are -infinity: then 1. */
DEVICE float exp2_ratio(float x, float y)
{
    return x == y ? 1.0f : exp2_approx(x - y);
}

cudaError_t decode_launch_narrow(const decode_args &args, int n_columns, const tensor_map &q,
                                 const tensor_map &rows, cudaStream_t stream);
cudaError_t decode_launch_wide(const decode_args &args, const tensor_map &q, const tensor_map &rows,
                               cudaStream_t stream);
#endif
