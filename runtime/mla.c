/* mla.c - multi-head latent attention.
 *
 * The cache keeps only c^KV and k^R of each token.  In the absorbed form W^UK
 * moves to the query side and W^UV to the output side (DeepSeek-V2, arXiv
 * 2405.04434, 2.1.2): attention runs in the latent space, and all heads share
 * one key per token.  In the expanded form keys and values are decompressed
 * from the cached rows.  Equation numbers are those of arXiv 2412.19437.
 */
#include "kernels/core/trace.h"
#include "runtime/step.h"

/* c^KV and k^R of the step's tokens, the same on every tp rank, into the pages that this one holds */
static enum status append_latent(struct step *s, int layer, const struct tensor *h)
{
    const struct ops *ops = s->ops;
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    const struct page_view pages = batch_pages(s->batch, s->cache, layer);
    int64_t d_c = s->model->d_c, d_r = s->model->d_r;
    struct tensor both = step_rows(s, &s->work->c_kv_k_r);
    struct tensor c_kv = tensor_columns(&both, 0, d_c);
    struct tensor k_r = tensor_columns(&both, d_c, d_c + d_r);

    /* (1) c^KV = W^DKV h, (3) k^R = RoPE(W^KR h) */
    TRY(ops->gemm(&both, h, &w->w_dkv, s->stream));
    if (w->dkv_bias.data != NULL)
        TRY(ops->add_bias(&both, &w->dkv_bias, s->stream));
    TRY(step_check(s, layer, "latent rows", &both)); /* before norm and RoPE */
    return ops->cache_append(&pages, &c_kv, &k_r, &w->ckv_gain, s->model->epsilon, s->cos_sin,
                             s->stream);
}

/* q[T, H (d_n + d_r)] of this rank's heads, the RoPE part not yet rotated */
static enum status project_queries(struct step *s, int layer, struct tensor *q,
                                   const struct tensor *h)
{
    const struct ops *ops = s->ops;
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    if (w->w_dq.n == 0) /* V2-Lite: queries are not compressed */
        return ops->gemm(q, h, &w->w_uq, s->stream);

    /* (6) c^Q = W^DQ h */
    struct tensor c_q = step_rows(s, &s->work->c_q);
    TRY(ops->gemm(&c_q, h, &w->w_dq, s->stream));
    if (w->dq_bias.data != NULL)
        TRY(ops->add_bias(&c_q, &w->dq_bias, s->stream));
    TRY(ops->rms_norm(&c_q, &c_q, &w->cq_gain, s->model->epsilon, s->stream));
    TRY(step_check(s, layer, "compressed queries", &c_q));
    /* (7) q^C = W^UQ c^Q and (8) W^QR c^Q, head by head in one matrix */
    return ops->gemm(q, &c_q, &w->w_uq, s->stream);
}

enum status mla_forward(struct step *s, int layer, struct tensor *u, const struct tensor *h)
{
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    struct tensor q = step_rows(s, &s->work->q);
    struct tensor o = step_rows(s, &s->work->o);
    struct tensor q_heads = tensor_split(&q, s->model->d_n + s->model->d_r);
    struct tensor o_heads = tensor_split(&o, s->model->d_v);

    TRY(append_latent(s, layer, h));
    TRY(project_queries(s, layer, &q, h));
    trace_add(s->expands ? TRACE_ATTENTION_EXPANDED : TRACE_ATTENTION_ABSORBED, 1);
    if (s->expands)
        TRY(expanded_attend(s, layer, &o_heads, &q_heads));
    else if (s->cache->n_members > 1)
        TRY(sharded_attend(s, layer, &o_heads, &q_heads));
    else
        TRY(latent_attend(s, layer, &o_heads, &q_heads));

    /* (11) u = W^O [o_1; ...; o_nh]: our heads' columns, then the sum over tp */
    TRY(s->ops->gemm(u, &o, &w->w_o, s->stream));
    TRY(s->tp->ops->all_reduce(s->tp, u, s->stream));
    if (w->o_bias.data != NULL)
        TRY(s->ops->add_bias(u, &w->o_bias, s->stream));
    return STATUS_OK;
}

enum status latent_attend(struct step *s, int layer, struct tensor *o, const struct tensor *q)
{
    const struct ops *ops = s->ops;
    const struct mla_weights *w = &s->weights->layer[layer].mla;
    const struct page_view pages = batch_pages(s->batch, s->cache, layer);
    int64_t d_n = s->model->d_n, d_r = s->model->d_r, d_c = s->model->d_c;
    struct tensor q_c = tensor_columns(q, 0, d_n), q_r = tensor_columns(q, d_n, d_n + d_r);
    struct tensor q_latent = step_rows(s, &s->work->q_latent);
    struct tensor q_latent_c = tensor_columns(&q_latent, 0, d_c);
    struct tensor q_latent_r = tensor_columns(&q_latent, d_c, d_c + d_r);
    struct attention_state state = {.o = step_rows(s, &s->work->latent.o),
                                    .m = step_rows(s, &s->work->latent.m),
                                    .l = step_rows(s, &s->work->latent.l)};

    /* (2) absorbed: q~ = (W^UK)^T q^C, so that q~ . c^KV = q^C . k^C; (8) q^R */
    TRY(ops->gemm_heads(&q_latent_c, &q_c, &w->w_uk_t, s->stream));
    TRY(ops->rope(&q_latent_r, &q_r, &s->batch->position, s->cos_sin, s->stream));
    /* (10) o~ = sum_j softmax_j((q~ . c^KV_j + q^R . k^R_j) scale) c^KV_j */
    TRY(ops->latent_attention(&state, &q_latent, &pages, s->softmax_scale, s->stream));
    TRY(ops->attention_finish(&state.o, &state, s->stream));
    /* (5) absorbed: o = W^UV o~ */
    return ops->gemm_heads(o, &state.o, &w->w_uv, s->stream);
}
