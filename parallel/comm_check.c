#include "parallel/comm_check.h"

enum status comm_check_all_reduce(const struct tensor *x)
{
    if (x->dtype != DTYPE_F32 || !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "all_reduce of a %s %s tensor: it must be dense f32",
             tensor_is_dense(x) ? "dense" : "strided", dtype_name(x->dtype));
    return STATUS_OK;
}

/* The parts of all members, one after another; returns how many elements they have. */
static int64_t lay_out_parts(struct gather_shape *shape, const struct group *group,
                             enum dtype dtype, const int64_t *counts)
{
    int64_t width = (int64_t)dtype_bytes(dtype), total = 0;
    *shape = (struct gather_shape){.width = width, .own_bytes = counts[group->index] * width};
    for (int i = 0; i < group->size; i++) {
        if (i == group->index)
            shape->own_offset = total * width;
        if (counts[i] * width > shape->longest_bytes)
            shape->longest_bytes = counts[i] * width;
        total += counts[i];
    }
    return total;
}

enum status comm_check_all_gather(struct gather_shape *shape, const struct group *group,
                                  const struct tensor *y, const struct tensor *x,
                                  const int64_t *counts)
{
    if (y->dtype != x->dtype || !tensor_is_dense(y) || !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "all_gather of %s into %s: both must be dense and of one type",
             dtype_name(x->dtype), dtype_name(y->dtype));
    int64_t total = lay_out_parts(shape, group, y->dtype, counts);
    if (tensor_count(y) != total || tensor_count(x) != counts[group->index])
        FAIL(STATUS_INVALID, "all_gather of %lld elements into %lld: the counts say %lld of %lld",
             (long long)tensor_count(x), (long long)tensor_count(y),
             (long long)counts[group->index], (long long)total);
    return STATUS_OK;
}

enum status comm_check_reduce_scatter(struct gather_shape *shape, const struct group *group,
                                      const struct tensor *y, const struct tensor *x,
                                      const int64_t *counts)
{
    if (y->dtype != DTYPE_F32 || x->dtype != DTYPE_F32 || !tensor_is_dense(y) ||
        !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "reduce_scatter of %s into %s: both must be dense f32",
             dtype_name(x->dtype), dtype_name(y->dtype));
    int64_t total = lay_out_parts(shape, group, DTYPE_F32, counts);
    if (tensor_count(x) != total || tensor_count(y) != counts[group->index])
        FAIL(STATUS_INVALID,
             "reduce_scatter of %lld elements into %lld: the counts say %lld of %lld",
             (long long)tensor_count(x), (long long)tensor_count(y), (long long)total,
             (long long)counts[group->index]);
    return STATUS_OK;
}

enum status comm_check_all_to_all(struct exchange_shape *shape, const struct group *group,
                                  const struct tensor *y, const struct tensor *x,
                                  const int64_t *received, const int64_t *sent)
{
    if (y->dtype != x->dtype || !tensor_is_dense(y) || !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "all_to_all of %s into %s: both must be dense and of one type",
             dtype_name(x->dtype), dtype_name(y->dtype));
    int own = group->index;
    int64_t width = (int64_t)dtype_bytes(y->dtype), y_total = 0, x_total = 0, longest = 0;
    int64_t y_own = 0, x_own = 0;
    for (int i = 0; i < group->size; i++) {
        y_own = i == own ? y_total : y_own;
        x_own = i == own ? x_total : x_own;
        y_total += received[i];
        x_total += sent[i];
        longest = received[i] * width > longest ? received[i] * width : longest;
        longest = sent[i] * width > longest ? sent[i] * width : longest;
    }
    if (tensor_count(y) != y_total || tensor_count(x) != x_total || received[own] != sent[own])
        FAIL(STATUS_INVALID,
             "all_to_all of %lld elements into %lld: the counts say %lld into %lld, %lld of this "
             "member's own into %lld",
             (long long)tensor_count(x), (long long)tensor_count(y), (long long)x_total,
             (long long)y_total, (long long)sent[own], (long long)received[own]);
    *shape = (struct exchange_shape){.width = width,
                                     .own_from = x_own * width,
                                     .own_to = y_own * width,
                                     .own_bytes = sent[own] * width,
                                     .longest_bytes = longest};
    return STATUS_OK;
}

enum status comm_check_broadcast(const struct tensor *x)
{
    if (!tensor_is_dense(x))
        FAIL(STATUS_INVALID, "broadcast of a strided tensor: it must be dense");
    return STATUS_OK;
}
