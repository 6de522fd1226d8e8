#include "parallel/comm_check.h"

enum status comm_check_all_reduce(const struct tensor *x)
{
    if (x->dtype != DTYPE_F32 || !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "all_reduce of a %s %s tensor: it must be dense f32",
             tensor_is_dense(x) ? "dense" : "strided", dtype_name(x->dtype));
    return STATUS_OK;
}

enum status comm_check_all_gather(struct gather_shape *shape, const struct group *group,
                                  const struct tensor *y, const struct tensor *x,
                                  const int64_t *counts)
{
    if (y->dtype != x->dtype || !tensor_is_dense(y) || !tensor_is_dense(x))
        FAIL(STATUS_INVALID, "all_gather of %s into %s: both must be dense and of one type",
             dtype_name(x->dtype), dtype_name(y->dtype));
    int64_t width = (int64_t)dtype_bytes(y->dtype), total = 0;
    *shape = (struct gather_shape){.width = width, .own_bytes = counts[group->index] * width};
    for (int i = 0; i < group->size; i++) {
        if (i == group->index)
            shape->own_offset = total * width;
        if (counts[i] * width > shape->longest_bytes)
            shape->longest_bytes = counts[i] * width;
        total += counts[i];
    }
    if (tensor_count(y) != total || tensor_count(x) != counts[group->index])
        FAIL(STATUS_INVALID, "all_gather of %lld elements into %lld: the counts say %lld of %lld",
             (long long)tensor_count(x), (long long)tensor_count(y),
             (long long)counts[group->index], (long long)total);
    return STATUS_OK;
}

enum status comm_check_broadcast(const struct tensor *x)
{
    if (!tensor_is_dense(x))
        FAIL(STATUS_INVALID, "broadcast of a strided tensor: it must be dense");
    return STATUS_OK;
}
