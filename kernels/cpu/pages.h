/* pages.h - from a row of a sequence to its place in the cache. */
#ifndef KERNELS_CPU_PAGES_H
#define KERNELS_CPU_PAGES_H

#include "kernels/cpu/lanes.h"
#include "kernels/ops.h"

/* The cached row `row` of sequence `seq`, NULL when another rank holds its page. */
static inline char *page_row(const struct page_view *pages, int64_t seq, int64_t row)
{
    const int32_t *table = tensor_i32(&pages->table) + seq * pages->table.stride[0];
    int32_t page = table[row / PAGE_ROWS];
    if (page < 0)
        return NULL;
    int64_t at = page * pages->rows.stride[0] + row % PAGE_ROWS * pages->rows.stride[1];
    return (char *)pages->rows.data + (size_t)at * dtype_bytes(pages->rows.dtype);
}

/* y[width] = an fp8_ds_mla row, widened: as row_widen. */
static inline void row_widen_fp8(float *y, int64_t width, const char *row,
                                 const struct page_view *pages)
{
    int64_t d_c = pages->d_c, j = 0, latent = width < d_c ? width : d_c;
    int64_t n_scales = (d_c + CACHE_SCALE_STEP - 1) / CACHE_SCALE_STEP;
    for (int64_t group = 0; j < latent; group++) {
        int64_t end =
            (group + 1) * CACHE_SCALE_STEP < latent ? (group + 1) * CACHE_SCALE_STEP : latent;
        float scale;
        memcpy(&scale, row + d_c + group * (int64_t)sizeof scale, sizeof scale);
        struct lanes factor = lanes_splat(scale * 0x1p8f); /* lanes_load_f8 */
        for (; j + LANES <= end; j += LANES)
            lanes_store(y + j, lanes_mul(lanes_load_f8((const uint8_t *)row + j), factor));
        for (; j < end; j++)
            y[j] = f8_e4m3_to_f32((uint8_t)row[j]) * scale;
    }
    if (j < width)
        dtype_to_f32(y + j, row + d_c + n_scales * (int64_t)sizeof(float), DTYPE_BF16, width - j);
}

/* y[width] = the first `width` <= d_c + d_r numbers of a cached row, in f32. */
static inline void row_widen(float *y, int64_t width, const char *row,
                             const struct page_view *pages)
{
    enum dtype dtype = pages->rows.dtype;
    if (dtype == DTYPE_U8) {
        row_widen_fp8(y, width, row, pages);
        return;
    }
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES)
        lanes_store(y + j, lanes_load_as(row, j, dtype));
    if (j < width)
        dtype_to_f32(y + j, row + (size_t)j * dtype_bytes(dtype), dtype, width - j);
}

#endif
