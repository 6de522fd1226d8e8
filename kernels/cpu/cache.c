/* cache.c - rows of the latent cache, in and out.
 *
 * A negative entry of the page table stands for a page that another rank
 * holds: rows are not written there.
 */
#include "kernels/cpu/pages.h"
#include "kernels/cpu/tables.h"

#include <assert.h>
#include <float.h>

/* y[0, count) = x[count], rounded; y may be NULL + 0 only if count is 0. */
static void write_part(char *row, int64_t at, const float *x, int64_t count, enum dtype dtype)
{
    if (count > 0)
        dtype_from_f32(row + (size_t)at * dtype_bytes(dtype), dtype, x, count);
}

/* The fp8_ds_mla form of c_kv[d_c] and k_r[d_r]. */
static void write_fp8(char *row, const float *c_kv, int64_t d_c, const float *k_r, int64_t d_r)
{
    char *scales = row + d_c;
    for (int64_t begin = 0; begin < d_c; begin += CACHE_SCALE_STEP, scales += sizeof(float)) {
        int64_t end = begin + CACHE_SCALE_STEP < d_c ? begin + CACHE_SCALE_STEP : d_c;
        float largest = 0.0f;
        for (int64_t i = begin; i < end; i++)
            largest = fabsf(c_kv[i]) > largest ? fabsf(c_kv[i]) : largest;
        float scale = largest / 448.0f > FLT_MIN ? largest / 448.0f : FLT_MIN;
        for (int64_t i = begin; i < end; i++)
            row[i] = (char)f8_e4m3_from_f32(c_kv[i] / scale);
        memcpy(scales, &scale, sizeof scale);
    }
    write_part(scales, 0, k_r, d_r, DTYPE_BF16);
}

enum status ISA(cache_append)(const struct page_view *pages, struct tensor *c_kv,
                              struct tensor *k_r, const struct tensor *gain, float epsilon,
                              const struct tensor *cos_sin, struct stream *stream)
{
    int64_t d_c = c_kv->dim[1], d_r = k_r->dim[1];
    assert(c_kv->ndim == 2 && k_r->ndim == 2 && c_kv->dim[0] == k_r->dim[0]);
    enum dtype dtype = pages->rows.dtype;
    assert(d_c == pages->d_c && d_r == pages->d_r && pages->rows.dim[1] == PAGE_ROWS);
    assert(pages->rows.dim[2] == cache_row_width(dtype, d_c, d_r));
    if (gain != NULL)
        TRY(ISA(rms_norm)(c_kv, c_kv, gain, epsilon, stream));
    if (cos_sin != NULL) {
        struct tensor head = tensor_split(k_r, d_r);
        TRY(ISA(rope)(&head, &head, &pages->position, cos_sin, stream));
    }
    for (int64_t t = 0; t < c_kv->dim[0]; t++) {
        int32_t seq = tensor_i32(&pages->seq_of)[t], at = tensor_i32(&pages->position)[t];
        if (at < 0 || at / PAGE_ROWS >= pages->table.dim[1])
            FAIL(STATUS_INVALID, "token %lld stands at position %d, its page table ends at %lld",
                 (long long)t, at, (long long)pages->table.dim[1] * PAGE_ROWS);
        char *row = page_row(pages, seq, at);
        if (row == NULL)
            continue;
        if (dtype == DTYPE_U8) {
            write_fp8(row, tensor_f32(c_kv, t), d_c, tensor_f32(k_r, t), d_r);
            continue;
        }
        write_part(row, 0, tensor_f32(c_kv, t), d_c, dtype);
        write_part(row, d_c, tensor_f32(k_r, t), d_r, dtype);
    }
    return STATUS_OK;
}

enum status ISA(cache_read)(struct tensor *y, const struct page_view *pages, int seq, int64_t begin,
                            int64_t end, struct stream *stream)
{
    (void)stream;
    int64_t width = pages->d_c + pages->d_r;
    assert(y->ndim == 2 && y->dim[0] == end - begin && y->dim[1] == width);
    for (int64_t j = begin; j < end && width > 0; j++) {
        const char *row = page_row(pages, seq, j);
        if (row == NULL)
            FAIL(STATUS_INVALID, "row %lld of sequence %d is not in the cache of this rank",
                 (long long)j, seq);
        row_widen(tensor_f32(y, j - begin), width, row, pages);
    }
    return STATUS_OK;
}
