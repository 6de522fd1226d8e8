/* cuda_ops.c - from the tensors of kernels/ops.h to the parameters of the kernels. */
#include "kernels/cuda/cuda_ops.h"

#include <assert.h>

#include "kernels/core/arena.h"
#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/cache_append.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/merge_partials.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"

/* --- products --- */

static enum status matrix_view(struct cuda_matrix *view, const struct matrix *w)
{
    *view = (struct cuda_matrix){.data = w->data,
                                 .count = w->count,
                                 .n = (int)w->n,
                                 .k = (int)w->k,
                                 .matrix_bytes =
                                     w->count > 0 ? (int64_t)matrix_bytes(w) / w->count : 0};
    switch (w->dtype) {
    case DTYPE_F32:
        view->type = PRODUCT_F32;
        break;
    case DTYPE_F16:
        view->type = PRODUCT_F16;
        break;
    case DTYPE_BF16:
        view->type = PRODUCT_BF16;
        break;
    case DTYPE_F8_E4M3:
        view->type = PRODUCT_F8;
        break;
    case DTYPE_I4:
        view->type = PRODUCT_I4;
        break;
    default:
        FAIL(STATUS_UNSUPPORTED,
             "weights of type %s on a GPU: not in this version; they run with --backend cpu",
             dtype_name(w->dtype));
    }
    if (!matrix_is_quantized(w))
        return STATUS_OK;
    view->scales = w->scales.data;
    view->scales_are_bf16 = w->scales.dtype == DTYPE_BF16;
    view->scale_bytes = w->count > 0 ? (int64_t)matrix_scale_bytes(w) / w->count : 0;
    view->step = (int)w->scales.step;
    view->first = (int)(w->scales.first % w->scales.step);
    view->shift = (int)(w->scales.shift % w->scales.step);
    view->groups = (int)matrix_groups(w);
    return STATUS_OK;
}

static int64_t padded(int64_t columns)
{
    return (columns + PRODUCT_INPUT_ALIGNMENT - 1) / PRODUCT_INPUT_ALIGNMENT *
           PRODUCT_INPUT_ALIGNMENT;
}

static int takes_tensor_cores(const struct matrix *w, const struct cuda_matrix *view)
{
    int rounds = w->dtype != DTYPE_BF16 || w->input == DTYPE_BF16;
    return rounds && cuda_product_tensor_takes(view);
}

/* What the scratch memory of inputs holds: several products in a row take the same.  `is_valid` ends when
 * an operation writes to that memory: those of this file, or a copy to the device. */
static struct {
    struct tensor x;
    int64_t copies;
    int is_valid;
} rounded;

/* Every operation that writes `y` comes by here. */
static void written(const struct tensor *y)
{
    const char *begin = rounded.x.data, *end = begin;
    const char *from = y->data, *to = from;
    for (int i = 0; i < rounded.x.ndim; i++)
        end += (rounded.x.dim[i] - 1) * rounded.x.stride[i] * (int64_t)sizeof(float);
    for (int i = 0; i < y->ndim; i++)
        to += (y->dim[i] - 1) * y->stride[i] * (int64_t)sizeof(float);
    if (to >= begin && from <= end)
        rounded.is_valid = 0;
}

static int is_rounded(const struct tensor *x)
{
    int is_same =
        rounded.is_valid && rounded.copies == cuda_device_copies() && rounded.x.data == x->data;
    for (int i = 0; i < 3; i++)
        is_same = is_same && rounded.x.dim[i] == x->dim[i] && rounded.x.stride[i] == x->stride[i];
    return is_same;
}

/* x[T, H, k] as bf16 [T, H, padded k] in the scratch memory. */
static enum status round_inputs(void **inputs, const struct tensor *x, struct stream *stream)
{
    int64_t tokens = x->dim[0], heads = x->dim[1], k = x->dim[2], row = padded(k);
    TRY(cuda_device_buffer(inputs, BUFFER_INPUTS, (size_t)(tokens * heads * row) * 2));
    if (is_rounded(x))
        return STATUS_OK;
    rounded.x = *x;
    rounded.copies = cuda_device_copies();
    rounded.is_valid = 1;
    if (heads == 1 || x->stride[0] == heads * x->stride[1]) {
        CUDA_TRY(cuda_round_inputs(*inputs, x->data, heads == 1 ? x->stride[0] : x->stride[1],
                                   tokens * heads, (int)k, cuda_stream(stream)));
        return STATUS_OK;
    }
    for (int64_t t = 0; t < tokens; t++)
        CUDA_TRY(cuda_round_inputs((char *)*inputs + t * heads * row * 2, tensor_f32(x, t),
                                   x->stride[1], heads, (int)k, cuda_stream(stream)));
    return STATUS_OK;
}

/* y[T, H, n] = x[T, H or 1, k] . w_h^T */
static enum status multiply(struct tensor *y, const struct tensor *x, const struct matrix *w,
                            struct stream *stream)
{
    struct cuda_product p = {.y = y->data,
                             .y_row = y->stride[0],
                             .y_matrix = y->stride[1],
                             .rows = (int)x->dim[0],
                             .n_processors = cuda_device_processors()};
    void *workspace, *inputs;
    if (x->dim[0] == 0 || w->n == 0 || w->count == 0)
        return STATUS_OK;
    TRY(matrix_view(&p.w, w));
    TRY(cuda_device_buffer(&workspace, BUFFER_SUMS, cuda_product_workspace_bytes()));
    p.workspace = workspace;
    int is_shared = x->dim[1] == 1;
    p.x = x->data;
    p.x_row = x->stride[0];
    p.x_matrix = is_shared ? 0 : x->stride[1];
    if (!takes_tensor_cores(w, &p.w)) {
        CUDA_TRY(cuda_product_plain(&p, cuda_stream(stream)));
    } else {
        p.x_is_f32 = cuda_product_takes_f32(&p);
        if (!p.x_is_f32) {
            TRY(round_inputs(&inputs, x, stream));
            p.x = inputs;
            p.x_row = x->dim[1] * padded(w->k);
            p.x_matrix = is_shared ? 0 : padded(w->k);
        }
        CUDA_TRY(cuda_product_tensor(&p, cuda_stream(stream)));
    }
    written(y);
    return cuda_device_check("product", stream);
}

static enum status gemm(struct tensor *y, const struct tensor *x, const struct matrix *w,
                        struct stream *stream)
{
    struct tensor y1 = tensor_3d(y->data, DTYPE_F32, y->dim[0], 1, y->dim[1]);
    struct tensor x1 = tensor_3d(x->data, DTYPE_F32, x->dim[0], 1, x->dim[1]);
    y1.stride[0] = y->stride[0];
    x1.stride[0] = x->stride[0];
    return multiply(&y1, &x1, w, stream);
}

static enum status gemm_heads(struct tensor *y, const struct tensor *x, const struct matrix *w,
                              struct stream *stream)
{
    return multiply(y, x, w, stream);
}

/* --- small operations --- */

static enum status embed(struct tensor *y, const struct tensor *ids, const struct tensor *table,
                         int64_t first, struct stream *stream)
{
    const struct cuda_embed p = {.y = y->data,
                                 .ids = ids->data,
                                 .table = table->data,
                                 .tokens = ids->dim[0],
                                 .d = y->dim[1],
                                 .rows = table->dim[0],
                                 .first = first,
                                 .y_stride = y->stride[0],
                                 .table_stride = table->stride[0],
                                 .table_dtype = table->dtype};
    CUDA_TRY(cuda_embed(&p, cuda_stream(stream)));
    written(y);
    return cuda_device_check("embed", stream);
}

/* With `u`: x += u first. */
static enum status norm(struct tensor *y, const struct tensor *x, const struct tensor *u,
                        const struct tensor *gain, float epsilon, struct stream *stream)
{
    const struct cuda_rms_norm p = {.y = y->data,
                                    .x = x->data,
                                    .residual = u == NULL ? NULL : u->data,
                                    .gain = gain->data,
                                    .rows = x->dim[0],
                                    .n = x->dim[1],
                                    .y_stride = y->stride[0],
                                    .x_stride = x->stride[0],
                                    .residual_stride = u == NULL ? 0 : u->stride[0],
                                    .y_dtype = DTYPE_F32,
                                    .epsilon = epsilon};
    CUDA_TRY(cuda_rms_norm(&p, cuda_stream(stream)));
    written(y);
    return cuda_device_check("rms_norm", stream);
}

static enum status rms_norm(struct tensor *y, const struct tensor *x, const struct tensor *gain,
                            float epsilon, struct stream *stream)
{
    return norm(y, x, NULL, gain, epsilon, stream);
}

static enum status add_rms_norm(struct tensor *y, struct tensor *x, const struct tensor *u,
                                const struct tensor *gain, float epsilon, struct stream *stream)
{
    written(x);
    return norm(y, x, u, gain, epsilon, stream);
}

static enum status add(struct tensor *x, const struct tensor *y, struct stream *stream)
{
    const struct cuda_add p = {.x = x->data,
                               .y = y->data,
                               .rows = x->dim[0],
                               .n = x->dim[1],
                               .x_stride = x->stride[0],
                               .y_stride = y->ndim == 1 ? 0 : y->stride[0]};
    CUDA_TRY(cuda_add(&p, cuda_stream(stream)));
    written(x);
    return cuda_device_check("add", stream);
}

static enum status copy(struct tensor *y, const struct tensor *x, struct stream *stream)
{
    const struct cuda_copy p = {.y = y->data,
                                .x = x->data,
                                .outer = y->dim[0],
                                .inner = y->dim[1],
                                .n = y->dim[2],
                                .y_outer_stride = y->stride[0],
                                .y_inner_stride = y->stride[1],
                                .x_outer_stride = x->stride[0],
                                .x_inner_stride = x->stride[1]};
    CUDA_TRY(cuda_copy(&p, cuda_stream(stream)));
    written(y);
    return cuda_device_check("copy", stream);
}

static enum status rope(struct tensor *y, const struct tensor *x, const struct tensor *position,
                        const struct tensor *cos_sin, struct stream *stream)
{
    const struct cuda_rope p = {.y = y->data,
                                .x = x->data,
                                .position = position->data,
                                .cos_sin = cos_sin->data,
                                .tokens = x->dim[0],
                                .heads = x->dim[1],
                                .d_r = x->dim[2],
                                .y_token_stride = y->stride[0],
                                .y_head_stride = y->stride[1],
                                .x_token_stride = x->stride[0],
                                .x_head_stride = x->stride[1],
                                .y_dtype = DTYPE_F32};
    CUDA_TRY(cuda_rope(&p, cuda_stream(stream)));
    written(y);
    return cuda_device_check("rope", stream);
}

static enum status swiglu(struct tensor *y, const struct tensor *gate, const struct tensor *up,
                          struct stream *stream)
{
    const struct cuda_swiglu p = {.y = y->data,
                                  .gate = gate->data,
                                  .up = up->data,
                                  .rows = y->dim[0],
                                  .n = y->dim[1],
                                  .y_stride = y->stride[0],
                                  .gate_stride = gate->stride[0],
                                  .up_stride = up->stride[0],
                                  .y_dtype = DTYPE_F32};
    CUDA_TRY(cuda_swiglu(&p, cuda_stream(stream)));
    written(y);
    return cuda_device_check("swiglu", stream);
}

static enum status router(struct tensor *ids, struct tensor *weights, const struct tensor *logits,
                          const struct tensor *bias, const struct router_params *params,
                          struct stream *stream)
{
    const struct cuda_router p = {.ids = ids->data,
                                  .weights = weights->data,
                                  .logits = logits->data,
                                  .bias = bias == NULL ? NULL : bias->data,
                                  .tokens = logits->dim[0],
                                  .ids_stride = ids->stride[0],
                                  .weights_stride = weights->stride[0],
                                  .logits_stride = logits->stride[0],
                                  .params = *params};
    CUDA_TRY(cuda_router(&p, cuda_stream(stream)));
    return cuda_device_check("router", stream);
}

/* --- cache and attention --- */

static enum status cache_append(const struct page_view *pages, struct tensor *c_kv,
                                struct tensor *k_r, const struct tensor *gain, float epsilon,
                                const struct tensor *cos_sin, struct stream *stream)
{
    const struct cuda_cache_append p = {.rows = pages->rows.data,
                                        .table = pages->table.data,
                                        .seq_of = pages->seq_of.data,
                                        .position = pages->position.data,
                                        .c_kv = c_kv->data,
                                        .gain = gain == NULL ? NULL : gain->data,
                                        .k_r = k_r->data,
                                        .cos_sin = cos_sin == NULL ? NULL : cos_sin->data,
                                        .tokens = c_kv->dim[0],
                                        .d_c = pages->d_c,
                                        .d_r = pages->d_r,
                                        .page_stride = pages->rows.stride[0],
                                        .row_stride = pages->rows.stride[1],
                                        .table_stride = pages->table.stride[0],
                                        .c_kv_stride = c_kv->stride[0],
                                        .k_r_stride = k_r->stride[0],
                                        .dtype = pages->rows.dtype,
                                        .epsilon = epsilon};
    CUDA_TRY(cuda_cache_append(&p, cuda_stream(stream)));
    return cuda_device_check("cache_append", stream);
}

static int is_decode_shape(const struct attention_state *state, const struct page_view *pages)
{
    return pages->d_c == DECODE_D_C && pages->d_r == DECODE_D_R &&
           pages->rows.dtype == DTYPE_BF16 && tensor_is_dense(&pages->rows) &&
           tensor_is_dense(&state->o) && tensor_is_dense(&state->m) && tensor_is_dense(&state->l);
}

/* The results of the last decode attention, which leaves none to finish: their l is 1 (or o is 0). */
static const void *finished;

/* Whether the layer before left this schedule: positions change only by copies to the device.  Notes that
 * the caller makes it if not. */
static int is_scheduled(const struct cuda_decode_plan *plan, const int32_t *position)
{
    static struct {
        struct cuda_decode_plan plan;
        const int32_t *position;
        int64_t copies;
    } last;
    int is_same = last.copies == cuda_device_copies() && last.position == position &&
                  last.plan.cost == plan->cost && last.plan.n_sequences == plan->n_sequences &&
                  last.plan.n_heads == plan->n_heads;
    last.plan = *plan;
    last.position = position;
    last.copies = cuda_device_copies();
    return is_same;
}

/* Every token is a sequence of its own to the kernel, with the pages of the one it belongs to. */
static enum status attend_decode(struct attention_state *state, const struct tensor *q,
                                 const struct page_view *pages, float scale, struct stream *stream)
{
    int tokens = (int)q->dim[0], heads = (int)q->dim[1], n = cuda_device_processors();
    struct cuda_decode_plan plan;
    void *memory, *workspace, *inputs;
    TRY(cuda_device_buffer(&memory, BUFFER_PLAN, cuda_decode_plan_bytes(tokens, n)));
    TRY(cuda_device_buffer(&workspace, BUFFER_DECODE, cuda_decode_workspace_bytes(1, heads, n)));
    TRY(round_inputs(&inputs, q, stream));
    cuda_decode_plan_open(&plan, memory, tokens, 1, heads, n);
    const struct cuda_attention_decode p = {.q = inputs,
                                            .rows = pages->rows.data,
                                            .n_pages = pages->rows.dim[0],
                                            .table = pages->table.data,
                                            .table_stride = (int)pages->table.stride[0],
                                            .table_row = pages->seq_of.data,
                                            .position = pages->position.data,
                                            .scale = scale,
                                            .o = state->o.data,
                                            .o_is_f32 = 1,
                                            .lse = state->m.data,
                                            .ones = state->l.data,
                                            .workspace = workspace};
    if (!is_scheduled(&plan, p.position))
        CUDA_TRY(cuda_decode_schedule(&plan, p.position, cuda_stream(stream)));
    CUDA_TRY(cuda_attention_decode(&p, &plan, cuda_stream(stream)));
    written(&state->o);
    finished = state->o.data;
    return cuda_device_check("decode attention", stream);
}

static enum status latent_attention(struct attention_state *state, const struct tensor *q,
                                    const struct page_view *pages, float scale,
                                    struct stream *stream)
{
    if (q->dim[0] == 0 || q->dim[1] == 0)
        return STATUS_OK;
    if (is_decode_shape(state, pages))
        return attend_decode(state, q, pages, scale, stream);
    const struct cuda_attention_plain p = {.o = state->o.data,
                                           .m = state->m.data,
                                           .l = state->l.data,
                                           .q = q->data,
                                           .rows = pages->rows.data,
                                           .table = pages->table.data,
                                           .seq_of = pages->seq_of.data,
                                           .position = pages->position.data,
                                           .tokens = q->dim[0],
                                           .heads = q->dim[1],
                                           .d_c = pages->d_c,
                                           .d_r = pages->d_r,
                                           .q_token_stride = q->stride[0],
                                           .q_head_stride = q->stride[1],
                                           .row_stride = pages->rows.stride[1],
                                           .table_stride = pages->table.stride[0],
                                           .dtype = pages->rows.dtype,
                                           .scale = scale};
    assert(tensor_is_dense(&state->o) && tensor_is_dense(&state->m) && tensor_is_dense(&state->l));
    finished = NULL;
    CUDA_TRY(cuda_attention_plain(&p, cuda_stream(stream)));
    written(&state->o);
    return cuda_device_check("attention", stream);
}

static enum status cache_read(struct tensor *y, const struct page_view *pages, int seq,
                              int64_t begin, int64_t end, struct stream *stream)
{
    (void)y, (void)pages, (void)seq, (void)begin, (void)end, (void)stream;
    FAIL(STATUS_UNSUPPORTED, "reading cached rows back on a GPU: not in this version");
}

static enum status expanded_attention(struct attention_state *state, const struct tensor *q,
                                      const struct tensor *k_c, const struct tensor *k_r,
                                      const struct tensor *v, const struct tensor *position,
                                      int64_t begin, float scale, struct stream *stream)
{
    (void)state, (void)q, (void)k_c, (void)k_r, (void)v, (void)position, (void)begin, (void)scale;
    (void)stream;
    FAIL(STATUS_UNSUPPORTED, "expanded attention on a GPU: not in this version");
}

static struct cuda_attention_state state_view(const struct attention_state *state)
{
    return (struct cuda_attention_state){.o = state->o.data,
                                         .m = state->m.data,
                                         .l = state->l.data,
                                         .o_token_stride = state->o.stride[0],
                                         .o_head_stride = state->o.stride[1],
                                         .m_token_stride = state->m.stride[0],
                                         .m_head_stride = state->m.stride[1],
                                         .l_token_stride = state->l.stride[0],
                                         .l_head_stride = state->l.stride[1]};
}

static enum status merge_partials(struct attention_state *a, const struct attention_state *b,
                                  struct stream *stream)
{
    const struct cuda_merge_partials p = {.a = state_view(a),
                                          .b = state_view(b),
                                          .tokens = a->o.dim[0],
                                          .heads = a->o.dim[1],
                                          .width = a->o.dim[2],
                                          .parts = 1};
    finished = NULL;
    CUDA_TRY(cuda_merge_partials(&p, cuda_stream(stream)));
    written(&a->o);
    return cuda_device_check("merge_partials", stream);
}

static enum status attention_finish(struct tensor *o, const struct attention_state *state,
                                    struct stream *stream)
{
    const struct cuda_attention_finish p = {.o = o->data,
                                            .state = state_view(state),
                                            .tokens = o->dim[0],
                                            .heads = o->dim[1],
                                            .width = o->dim[2],
                                            .o_token_stride = o->stride[0],
                                            .o_head_stride = o->stride[1],
                                            .o_dtype = DTYPE_F32};
    if (o->data == finished && state->o.data == finished)
        return STATUS_OK;
    CUDA_TRY(cuda_attention_finish(&p, cuda_stream(stream)));
    written(o);
    return cuda_device_check("attention_finish", stream);
}

/* --- experts --- */

/* The scratch memory of a step: lists, and both halves' results of every pair. */
struct expert_scratch {
    struct cuda_expert_lists lists;
    void *h;
    float *y;
    size_t bytes;
};

static struct expert_scratch scratch_layout(void *base, int64_t pairs,
                                            const struct expert_weights *w)
{
    struct expert_scratch s = {.bytes = 0};
    int64_t columns = padded(w->gate.n);
    const size_t part[] = {(size_t)(w->gate.count + 1) * 4, (size_t)pairs * 4,
                           (size_t)(w->gate.count + 1) * 4, 4,
                           (size_t)(pairs * columns) * 4,   (size_t)(pairs * w->down.n) * 4};
    void *at[sizeof part / sizeof part[0]];
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        at[i] = base == NULL ? NULL : (char *)base + s.bytes;
        s.bytes += arena_rounded(part[i]);
    }
    s.lists = (struct cuda_expert_lists){
        .begin = at[0], .pair = at[1], .expert = at[2], .n_active = at[3]};
    s.h = at[4];
    s.y = at[5];
    return s;
}

static size_t experts_scratch_bytes(int64_t max_tokens, const struct expert_weights *w,
                                    int n_chosen)
{
    return scratch_layout(NULL, max_tokens * n_chosen, w).bytes;
}

/* Both halves without tensor cores: h stays in f32. */
static enum status multiply_plain(struct cuda_expert_product *p, const struct expert_weights *w,
                                  const struct expert_scratch *s, const struct tensor *x,
                                  const struct tensor *ids, struct stream *stream)
{
    p->product.x = x->data;
    p->product.x_row = x->stride[0];
    p->product.y = s->h;
    p->product.y_row = w->gate.n;
    CUDA_TRY(cuda_experts_plain_gate_up(p, ids->data, w->first, cuda_stream(stream)));
    TRY(matrix_view(&p->product.w, &w->down));
    p->product.x = s->h;
    p->product.x_row = w->gate.n;
    p->product.y = s->y;
    p->product.y_row = w->down.n;
    p->choices = 1;
    CUDA_TRY(cuda_experts_plain_down(p, ids->data, w->first, cuda_stream(stream)));
    return STATUS_OK;
}

static enum status multiply_tensor(struct cuda_expert_product *p, const struct expert_weights *w,
                                   const struct expert_scratch *s, const struct tensor *x,
                                   const struct tensor *ids, struct stream *stream)
{
    int64_t columns = padded(w->gate.n);
    struct tensor x1 = tensor_3d(x->data, DTYPE_F32, x->dim[0], 1, x->dim[1]);
    void *inputs;
    x1.stride[0] = x->stride[0];
    p->product.x = x->data;
    p->product.x_row = x->stride[0];
    p->product.x_is_f32 = cuda_experts_takes_f32(p);
    if (!p->product.x_is_f32) {
        TRY(round_inputs(&inputs, &x1, stream));
        p->product.x = inputs;
        p->product.x_row = padded(w->gate.k);
    }
    CUDA_TRY(cuda_experts_list(&s->lists, ids->data, p->product.rows, w->first, w->gate.count,
                               cuda_stream(stream)));
    p->product.y = s->h;
    p->product.y_row = columns;
    CUDA_TRY(cuda_experts_gate_up(p, cuda_stream(stream)));
    TRY(matrix_view(&p->product.w, &w->down));
    p->product.x = s->h;
    p->product.x_row = columns;
    p->product.x_is_f32 = 0;
    p->product.y = s->y;
    p->product.y_row = w->down.n;
    p->choices = 1;
    CUDA_TRY(cuda_experts_down(p, cuda_stream(stream)));
    return STATUS_OK;
}

static enum status experts(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                           const struct tensor *weights, const struct expert_weights *w,
                           void *scratch, struct stream *stream)
{
    int tokens = (int)x->dim[0], choices = (int)ids->dim[1], pairs = tokens * choices;
    const struct expert_scratch s = scratch_layout(scratch, pairs, w);
    struct cuda_expert_product p = {.product.rows = pairs,
                                    .product.n_processors = cuda_device_processors(),
                                    .expert = s.lists.expert,
                                    .n_active = s.lists.n_active,
                                    .begin = s.lists.begin,
                                    .pair = s.lists.pair,
                                    .choices = choices,
                                    .max_active = pairs < w->gate.count ? pairs : w->gate.count};
    struct cuda_matrix down;
    assert(tensor_is_dense(ids) && tensor_is_dense(weights));
    if (tokens == 0)
        return STATUS_OK;
    if (w->gate.count > 0 && w->gate.n > 0) {
        TRY(matrix_view(&p.product.w, &w->gate));
        TRY(matrix_view(&p.up, &w->up));
        TRY(matrix_view(&down, &w->down));
        if (takes_tensor_cores(&w->gate, &p.product.w) && takes_tensor_cores(&w->down, &down))
            TRY(multiply_tensor(&p, w, &s, x, ids, stream));
        else
            TRY(multiply_plain(&p, w, &s, x, ids, stream));
    }
    int count = w->gate.n > 0 ? w->gate.count : 0;
    CUDA_TRY(cuda_experts_combine(u->data, u->stride[0], s.y, ids->data, weights->data, tokens,
                                  choices, (int)u->dim[1], w->first, count, cuda_stream(stream)));
    written(u);
    return cuda_device_check("experts", stream);
}

const struct ops cuda_ops = {
    .name = "cuda",
    .gemm = gemm,
    .gemm_heads = gemm_heads,
    .embed = embed,
    .rms_norm = rms_norm,
    .add_rms_norm = add_rms_norm,
    .add = add,
    .copy = copy,
    .add_bias = add,
    .rope = rope,
    .cache_append = cache_append,
    .cache_read = cache_read,
    .latent_attention = latent_attention,
    .expanded_attention = expanded_attention,
    .merge_partials = merge_partials,
    .attention_finish = attention_finish,
    .swiglu = swiglu,
    .router = router,
    .experts = experts,
    .experts_scratch_bytes = experts_scratch_bytes,
};
