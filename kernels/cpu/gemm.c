/* gemm.c - the products of a step, split over the threads. */
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

/* y[T, H, n] = x[T, H or 1, k] . w_h: the bundles of all heads, one after another, are split over
 * threads. */
struct gemm_work {
    struct tensor *y;
    const struct tensor *x;
    const struct matrix *w;
};

static void gemm_part(void *context, int thread, int n_threads)
{
    const struct gemm_work *work = context;
    const struct tensor *x = work->x, *y = work->y;
    int64_t blocks = matrix_blocks(work->w), begin, end;
    int64_t bundles = (blocks + MATRIX_BUNDLE - 1) / MATRIX_BUNDLE; /* of a head */
    thread_part(bundles * work->w->count, thread, n_threads, &begin, &end);
    for (int64_t next; begin < end; begin = next) {
        int64_t h = begin / bundles, first = begin % bundles * MATRIX_BUNDLE;
        struct matrix one = matrix_at(work->w, (int)h);
        const float *xh = x->data;
        if (xh != NULL && x->dim[1] > 1)
            xh += h * x->stride[1];
        next = (h + 1) * bundles < end ? (h + 1) * bundles : end;
        int64_t last = first + (next - begin) * MATRIX_BUNDLE;
        ISA(product)
        (tensor_f32_2(y, 0, h), y->stride[0], xh, x->stride[0], y->dim[0], &one, first,
         last < blocks ? last : blocks);
    }
}

enum status ISA(gemm_heads)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                            struct stream *stream)
{
    (void)stream;
    assert(y->ndim == 3 && x->ndim == 3 && y->dim[1] == w->count);
    assert(x->dim[1] == w->count || x->dim[1] == 1);
    assert(y->dim[0] == x->dim[0] && y->dim[2] == w->n && x->dim[2] == w->k);
    struct gemm_work work = {y, x, w};
    if (y->dim[0] > 0 && w->n > 0 && w->count > 0)
        cpu_threads_run(gemm_part, &work);
    return STATUS_OK;
}

/* [T, n] as [T, 1, n] */
static struct tensor one_head(const struct tensor *t)
{
    struct tensor view = *t;
    view.ndim = 3;
    view.dim[1] = 1;
    view.dim[2] = t->dim[1];
    view.stride[1] = t->dim[1];
    view.stride[2] = 1;
    return view;
}

enum status ISA(gemm)(struct tensor *y, const struct tensor *x, const struct matrix *w,
                      struct stream *stream)
{
    assert(y->ndim == 2 && x->ndim == 2 && w->count == 1);
    struct tensor y_heads = one_head(y), x_heads = one_head(x);
    return ISA(gemm_heads)(&y_heads, &x_heads, w, stream);
}
