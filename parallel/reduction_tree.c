#include "parallel/reduction_tree.h"

#include <assert.h>
#include <string.h>

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

/* Numbers summed at a time: the partial sums of all levels stay in the nearest cache. */
enum { BLOCK = 256, LEVELS_MAX = 16 };

static void add_pair(float *restrict y, const float *restrict a, const float *restrict b,
                     int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

/* Sums of 1, 2, 4, ... parts wait on a stack until their neighbour is complete, as carries of a binary
 * counter; an odd rest then moves up unchanged. */
static void sum_block(float *y, const float *const *part, int n_parts, int64_t begin, int64_t count)
{
    float sum[LEVELS_MAX][BLOCK];
    int size[LEVELS_MAX], depth = 0; /* parts in each sum of the stack */
    for (int i = 0; i + 1 < n_parts; i += 2) {
        add_pair(sum[depth], part[i] + begin, part[i + 1] + begin, count);
        size[depth++] = 2;
        for (; depth > 1 && size[depth - 1] == size[depth - 2]; depth--) {
            reduction_add(sum[depth - 2], sum[depth - 1], count);
            size[depth - 2] *= 2;
        }
    }
    if (n_parts % 2 == 1)
        memcpy(sum[depth++], part[n_parts - 1] + begin, (size_t)count * sizeof(float));
    for (; depth > 1; depth--)
        reduction_add(sum[depth - 2], sum[depth - 1], count);
    memcpy(y, sum[0], (size_t)count * sizeof *y);
}

void reduction_tree_sum_of(float *y, const float *const *part, int n_parts, int64_t count)
{
    assert(0 < n_parts && n_parts < 1 << LEVELS_MAX);
    for (int64_t begin = 0; begin < count; begin += BLOCK)
        sum_block(y + begin, part, n_parts, begin, count - begin < BLOCK ? count - begin : BLOCK);
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
