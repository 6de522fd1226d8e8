/* pages.h - from a row of a sequence to its place in the cache. */
#ifndef KERNELS_CPU_PAGES_H
#define KERNELS_CPU_PAGES_H

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

#endif
