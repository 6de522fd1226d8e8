/* Parameters that a config implies; shapes as in weights.c. */
#include "runtime/model_config.h"

static int64_t attention_parameters(const struct model_config *c)
{
    int64_t q_rows = c->n_heads * (c->d_n + c->d_r);
    int64_t q = c->d_cq == 0 ? q_rows * c->d : c->d_cq * c->d + c->d_cq + q_rows * c->d_cq;
    int64_t kv = (c->d_c + c->d_r) * c->d + c->d_c + c->n_heads * (c->d_n + c->d_v) * c->d_c;
    int64_t o = c->d * c->n_heads * c->d_v;
    int64_t bias = c->has_attention_bias ? c->d_cq + c->d_c + c->d_r + c->d : 0;
    int64_t width = c->index_head_dim; /* wq_b, weights_proj, wk, k_norm with bias */
    int64_t indexer = c->n_index_heads * (width * c->d_cq + c->d) + width * c->d + 2 * width;
    return q + kv + o + bias + indexer;
}

/* One layer with its two norms; of the routed experts `n_experts` are counted. */
static int64_t layer_parameters(const struct model_config *c, int is_moe, int n_experts)
{
    int64_t both = attention_parameters(c) + 2 * c->d;
    if (!is_moe)
        return both + 3 * c->d * c->dense_columns;
    int64_t gate = c->router.n_experts * c->d;
    int64_t bias = c->router.method == ROUTER_NOAUX_TC ? c->router.n_experts : 0;
    int64_t norm = c->has_expert_norm ? c->d : 0;
    return both + norm + gate + bias +
           3 * c->d * c->expert_columns * (n_experts + c->n_shared_experts);
}

void model_config_size(const struct model_config *config, struct model_size *size)
{
    const struct model_config *c = config;
    int64_t table = c->vocab_size * c->d;
    size->parameters = table * (c->ties_embeddings ? 1 : 2) + c->d;
    size->active_parameters = table + c->d;
    for (int i = 0; i < c->n_layers; i++) {
        size->parameters += layer_parameters(c, c->is_moe[i], c->router.n_experts);
        size->active_parameters += layer_parameters(c, c->is_moe[i], c->router.n_chosen);
    }
    /* A layer, eh_proj, enorm, hnorm, shared_head.norm; its embedding and head are copies. */
    int64_t mtp = layer_parameters(c, c->router.n_experts > 0, c->router.n_experts) +
                  2 * c->d * c->d + 3 * c->d;
    size->mtp_parameters = c->n_mtp_layers * mtp;
}
