#include "parallel/reduction_tree.h"

#include <assert.h>

void reduction_add(float *restrict x, const float *restrict y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] += y[i];
}

void reduction_tree_sum(float *parts, int n_parts, int64_t count)
{
    for (int stride = 1; stride < n_parts; stride *= 2)
        for (int i = 0; i + stride < n_parts; i += 2 * stride)
            reduction_add(parts + i * count, parts + (i + stride) * count, count);
}

struct reduction_exchange reduction_exchange_at(int size, int index, int stride)
{
    assert(0 <= index && index < size && 0 < stride && stride < size);
    int begin = index / (2 * stride) * (2 * stride);
    int middle = begin + stride;
    int end = middle + stride < size ? middle + stride : size;
    if (middle >= size)
        return (struct reduction_exchange){.receive_from = -1, .send_step = 1};

    /* The upper block may be the smaller one: its members then serve several of the lower block. */
    int upper = end - middle;
    if (index < middle)
        return (struct reduction_exchange){.receive_from = middle + (index - begin) % upper,
                                           .send_to = index + stride,
                                           .send_step = stride,
                                           .send_end = end};
    return (struct reduction_exchange){.receive_from = index - stride,
                                       .send_to = index - stride,
                                       .send_step = upper,
                                       .send_end = middle};
}
