#include "runtime/decode_bytes.h"

#include <assert.h>

enum { EXPERTS_MAX = 1 << 14, WORD_BITS = 64 };

static int64_t bytes_of(const struct matrix *w)
{
    return (int64_t)(matrix_bytes(w) + matrix_scale_bytes(w));
}

static int64_t ffn_bytes(const struct ffn_weights *w)
{
    return bytes_of(&w->gate) + bytes_of(&w->up) + bytes_of(&w->down);
}

int64_t decode_dense_bytes(const struct weights *weights, int n_layers)
{
    int64_t bytes = bytes_of(&weights->head);
    for (int l = 0; l < n_layers; l++) {
        const struct layer_weights *layer = &weights->layer[l];
        const struct mla_weights *mla = &layer->mla;
        bytes += bytes_of(&mla->w_dq) + bytes_of(&mla->w_uq) + bytes_of(&mla->w_dkv) +
                 bytes_of(&mla->w_uk_t) + bytes_of(&mla->w_uv) + bytes_of(&mla->w_o) +
                 ffn_bytes(&layer->ffn);
        if (layer->is_moe)
            bytes += bytes_of(&layer->router);
    }
    return bytes;
}

int64_t decode_expert_bytes(const struct expert_weights *experts)
{
    if (experts->gate.count == 0)
        return 0;
    return (bytes_of(&experts->gate) + bytes_of(&experts->up) + bytes_of(&experts->down)) /
           experts->gate.count;
}

int decode_experts(const struct tensor *chosen, const struct expert_weights *experts)
{
    uint64_t seen[EXPERTS_MAX / WORD_BITS] = {0};
    int count = 0;
    assert(experts->gate.count <= EXPERTS_MAX);
    for (int64_t t = 0; t < chosen->dim[0]; t++) {
        const int32_t *id = tensor_i32(chosen) + t * chosen->stride[0];
        for (int64_t k = 0; k < chosen->dim[1]; k++) {
            int64_t local = id[k] - experts->first;
            if (local < 0 || local >= experts->gate.count)
                continue;
            uint64_t bit = UINT64_C(1) << local % WORD_BITS;
            count += (seen[local / WORD_BITS] & bit) == 0;
            seen[local / WORD_BITS] |= bit;
        }
    }
    return count;
}
