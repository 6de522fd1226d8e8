#include "kernels/core/tensor.h"

#include <assert.h>
#include <stdio.h>

static struct tensor dense(void *data, enum dtype dtype, int ndim, const int64_t *dim)
{
    struct tensor t = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t stride = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = stride;
        stride *= dim[i];
    }
    return t;
}

struct tensor tensor_1d(void *data, enum dtype dtype, int64_t n0)
{
    return dense(data, dtype, 1, (const int64_t[]){n0});
}

struct tensor tensor_2d(void *data, enum dtype dtype, int64_t n0, int64_t n1)
{
    return dense(data, dtype, 2, (const int64_t[]){n0, n1});
}

struct tensor tensor_3d(void *data, enum dtype dtype, int64_t n0, int64_t n1, int64_t n2)
{
    return dense(data, dtype, 3, (const int64_t[]){n0, n1, n2});
}

static void *offset(const struct tensor *t, int64_t elements)
{
    return t->data == NULL ? NULL : (char *)t->data + elements * (int64_t)dtype_bytes(t->dtype);
}

struct tensor tensor_rows(const struct tensor *t, int64_t begin, int64_t end)
{
    assert(0 <= begin && begin <= end && end <= t->dim[0]);
    struct tensor part = *t;
    part.data = offset(t, begin * t->stride[0]);
    part.dim[0] = end - begin;
    return part;
}

struct tensor tensor_columns(const struct tensor *t, int64_t begin, int64_t end)
{
    int last = t->ndim - 1;
    assert(0 <= begin && begin <= end && end <= t->dim[last]);
    struct tensor part = *t;
    part.data = offset(t, begin);
    part.dim[last] = end - begin;
    return part;
}

struct tensor tensor_split(const struct tensor *t, int64_t inner)
{
    assert(t->ndim == 2 && inner > 0 && t->dim[1] % inner == 0);
    struct tensor view = *t;
    view.ndim = 3;
    view.dim[1] = t->dim[1] / inner;
    view.dim[2] = inner;
    view.stride[1] = inner;
    view.stride[2] = 1;
    return view;
}

struct tensor tensor_merge(const struct tensor *t)
{
    assert(t->ndim == 3 && (t->dim[1] <= 1 || t->stride[1] == t->dim[2]));
    struct tensor view = *t;
    view.ndim = 2;
    view.dim[1] = t->dim[1] * t->dim[2];
    view.stride[1] = 1;
    return view;
}

int64_t tensor_count(const struct tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++)
        count *= t->dim[i];
    return count;
}

int tensor_is_dense(const struct tensor *t)
{
    int64_t stride = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->dim[i] > 1 && t->stride[i] != stride)
            return 0;
        stride *= t->dim[i];
    }
    return 1;
}

static void print_shape(char *text, size_t size, int ndim, const int64_t *dim)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < ndim && used < size; i++)
        used +=
            (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)dim[i]);
}

enum status tensor_expect(const struct tensor *t, const char *name, int ndim, const int64_t *dim)
{
    int same = t->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = t->dim[i] == dim[i];
    if (same)
        return STATUS_OK;
    char found[128], expected[128];
    print_shape(found, sizeof found, t->ndim, t->dim);
    print_shape(expected, sizeof expected, ndim, dim);
    FAIL(STATUS_INVALID, "%s has shape [%s], expected [%s]", name, found, expected);
}
