/* tensor.h - a view of memory that somebody else owns. */
#ifndef KERNELS_CORE_TENSOR_H
#define KERNELS_CORE_TENSOR_H

#include "kernels/core/dtype.h"
#include "kernels/core/status.h"

enum { TENSOR_MAX_DIMS = 4 };

struct tensor {
    void *data; /* device memory; never freed from here */
    enum dtype dtype;
    int ndim;
    int64_t dim[TENSOR_MAX_DIMS];    /* outermost first           */
    int64_t stride[TENSOR_MAX_DIMS]; /* in elements; innermost is 1 */
};

/* A dense view of `data`; trailing dimensions may be left 0 to mean "not there". */
struct tensor tensor_1d(void *data, enum dtype dtype, int64_t n0);
struct tensor tensor_2d(void *data, enum dtype dtype, int64_t n0, int64_t n1);
struct tensor tensor_3d(void *data, enum dtype dtype, int64_t n0, int64_t n1, int64_t n2);

/* Rows [begin, end) of the outermost dimension; shares the memory of `t`. */
struct tensor tensor_rows(const struct tensor *t, int64_t begin, int64_t end);

/* Elements [begin, end) of the innermost dimension; shares the memory of `t`, so rows of the result
 * are not adjacent. */
struct tensor tensor_columns(const struct tensor *t, int64_t begin, int64_t end);

/* [a, b * c] seen as [a, b, c] and back; the memory of each row of the outermost dimension must be
 * dense. */
struct tensor tensor_split(const struct tensor *t, int64_t inner);
struct tensor tensor_merge(const struct tensor *t);

/* Number of elements. */
int64_t tensor_count(const struct tensor *t);

/* 1 when the elements lie one after another without gaps. */
int tensor_is_dense(const struct tensor *t);

/* f32 element (i0) or (i0, i1) or (i0, i1, i2): the row start for kernels. */
static inline float *tensor_f32(const struct tensor *t, int64_t i0)
{
    return (float *)t->data + i0 * t->stride[0];
}
static inline float *tensor_f32_2(const struct tensor *t, int64_t i0, int64_t i1)
{
    return (float *)t->data + i0 * t->stride[0] + i1 * t->stride[1];
}
static inline const int32_t *tensor_i32(const struct tensor *t)
{
    return (const int32_t *)t->data;
}

/* Fails with STATUS_INVALID, naming both shapes, unless they are equal. */
enum status tensor_expect(const struct tensor *t, const char *name, int ndim, const int64_t *dim);

#endif
