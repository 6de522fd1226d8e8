/* cpu_ops.c - chooses the table for this CPU, once, and passes every call on to it.
 *
 * LATENTRANK_DEBUG_ISA=plain|avx2|avx512 overrides the choice; the results are
 * the same bits whichever is taken.
 */
#include "kernels/cpu/tables.h"

#include <stdatomic.h>
#include <stdlib.h>

const struct ops *cpu_ops_for(const char *isa)
{
    if (strcmp(isa, "plain") == 0)
        return &cpu_ops_plain;
#if defined(CPU_HAS_X86_TABLES)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx2") == 0 && has_avx2)
        return &cpu_ops_avx2;
    if (strcmp(isa, "avx512") == 0 && has_avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &cpu_ops_avx512;
#endif
    return NULL;
}

/* Threads that come here together find the same table. */
static enum status choose(const struct ops **ops)
{
    static const char *const best_first[] = {"avx512", "avx2", "plain"};
    static _Atomic(const struct ops *) chosen;
    *ops = atomic_load(&chosen);
    if (*ops != NULL)
        return STATUS_OK;

    const char *wanted = getenv("LATENTRANK_DEBUG_ISA");
    if (wanted != NULL) {
        *ops = cpu_ops_for(wanted);
        if (*ops == NULL)
            FAIL(
                STATUS_USAGE,
                "LATENTRANK_DEBUG_ISA is \"%s\", which is not one of plain, avx2, avx512 or not on "
                "this CPU",
                wanted);
    }
    for (int i = 0; *ops == NULL; i++)
        *ops = cpu_ops_for(best_first[i]);
    atomic_store(&chosen, *ops);
    return STATUS_OK;
}

static enum status gemm(struct tensor *y, const struct tensor *x, const struct matrix *w,
                        struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->gemm(y, x, w, stream);
}

static enum status gemm_heads(struct tensor *y, const struct tensor *x, const struct matrix *w,
                              struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->gemm_heads(y, x, w, stream);
}

static enum status embed(struct tensor *y, const struct tensor *ids, const struct tensor *table,
                         int64_t first, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->embed(y, ids, table, first, stream);
}

static enum status rms_norm(struct tensor *y, const struct tensor *x, const struct tensor *gain,
                            float epsilon, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->rms_norm(y, x, gain, epsilon, stream);
}

static enum status add(struct tensor *x, const struct tensor *y, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->add(x, y, stream);
}

static enum status add_bias(struct tensor *x, const struct tensor *bias, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->add_bias(x, bias, stream);
}

static enum status rope(struct tensor *y, const struct tensor *x, const struct tensor *position,
                        const struct tensor *cos_sin, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->rope(y, x, position, cos_sin, stream);
}

static enum status cache_append(const struct page_view *pages, const struct tensor *c_kv,
                                const struct tensor *k_r, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->cache_append(pages, c_kv, k_r, stream);
}

static enum status cache_read(struct tensor *y, const struct page_view *pages, int seq,
                              int64_t begin, int64_t end, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->cache_read(y, pages, seq, begin, end, stream);
}

static enum status latent_attention(struct attention_state *state, const struct tensor *q,
                                    const struct page_view *pages, float scale,
                                    struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->latent_attention(state, q, pages, scale, stream);
}

static enum status expanded_attention(struct attention_state *state, const struct tensor *q,
                                      const struct tensor *k_c, const struct tensor *k_r,
                                      const struct tensor *v, const struct tensor *position,
                                      int64_t begin, float scale, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->expanded_attention(state, q, k_c, k_r, v, position, begin, scale, stream);
}

static enum status merge_partials(struct attention_state *a, const struct attention_state *b,
                                  struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->merge_partials(a, b, stream);
}

static enum status attention_finish(struct tensor *o, const struct attention_state *state,
                                    struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->attention_finish(o, state, stream);
}

static enum status swiglu(struct tensor *y, const struct tensor *gate, const struct tensor *up,
                          struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->swiglu(y, gate, up, stream);
}

static enum status router(struct tensor *ids, struct tensor *weights, const struct tensor *logits,
                          const struct tensor *bias, const struct router_params *params,
                          struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->router(ids, weights, logits, bias, params, stream);
}

static enum status experts(struct tensor *u, const struct tensor *x, const struct tensor *ids,
                           const struct tensor *weights, const struct expert_weights *w,
                           void *scratch, struct stream *stream)
{
    const struct ops *ops;
    TRY(choose(&ops));
    return ops->experts(u, x, ids, weights, w, scratch, stream);
}

/* The layout of the scratch memory is the same for every instruction set. */
static size_t experts_scratch_bytes(int64_t max_tokens, const struct expert_weights *w,
                                    int n_chosen)
{
    return cpu_ops_plain.experts_scratch_bytes(max_tokens, w, n_chosen);
}

const struct ops cpu_ops = {
    .name = "cpu",
    .gemm = gemm,
    .gemm_heads = gemm_heads,
    .embed = embed,
    .rms_norm = rms_norm,
    .add = add,
    .add_bias = add_bias,
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
