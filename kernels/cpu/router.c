/* router.c - which experts a token goes to, and with what weights.
 *
 * DeepSeek-V2 (greedy, group limited) and DeepSeek-V3 (13)..(16).  Scores
 * select, after the bias of V3 and with whole expert groups masked to
 * -infinity; the weights are the unbiased scores.  Ties go to the lowest id.
 */
#include "kernels/cpu/math.h"
#include "kernels/cpu/tables.h"

#include <assert.h>

enum { EXPERTS_MAX = 4096 };

/* Softmax in the orders of norm.c: 16 chains met by lanes_sum. */
static void softmax(float *scores, const float *logits, int n)
{
    struct lanes largest = lanes_splat(-INFINITY), sum = lanes_zero();
    for (int i = 0; i < n; i += LANES)
        largest = lanes_max(largest, n - i < LANES ? lanes_load_part(logits + i, n - i, -INFINITY)
                                                   : lanes_load(logits + i));
    struct lanes m = lanes_splat(lanes_largest(largest));
    for (int i = 0; i < n; i += LANES) {
        struct lanes x =
            n - i < LANES ? lanes_load_part(logits + i, n - i, -INFINITY) : lanes_load(logits + i);
        struct lanes p = lanes_exp(lanes_sub(x, m));
        sum = lanes_add(sum, p);
        lanes_store(scores + i, p);
    }
    float total = lanes_sum(sum);
    for (int i = 0; i < n; i++)
        scores[i] /= total;
}

static void sigmoid(float *scores, const float *logits, int n)
{
    for (int i = 0; i < n; i += LANES)
        lanes_store(scores + i,
                    lanes_sigmoid(n - i < LANES ? lanes_load_part(logits + i, n - i, 0.0f)
                                                : lanes_load(logits + i)));
}

/* What expert_group scores: its largest, or for V3 the sum of its two largest (of one, that one). */
static float group_score(const float *scores, int n, enum router_method method)
{
    float first = scores[0], second = -INFINITY;
    for (int i = 1; i < n; i++) {
        if (scores[i] > first) {
            second = first;
            first = scores[i];
        } else if (scores[i] > second) {
            second = scores[i];
        }
    }
    return method == ROUTER_NOAUX_TC && n > 1 ? first + second : first;
}

/* The index of the largest among those not yet taken, the lowest of equals; takes it. */
static int take_largest(const float *scores, unsigned char *taken, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || scores[i] > scores[best]))
            best = i;
    taken[best] = 1;
    return best;
}

/* Sets the scores of all but the chosen expert groups to -infinity. */
static void mask_groups(float *scores, const struct router_params *params)
{
    float group[EXPERTS_MAX];
    unsigned char taken[EXPERTS_MAX] = {0};
    int size = params->n_experts / params->n_groups;
    for (int g = 0; g < params->n_groups; g++)
        group[g] = group_score(scores + g * size, size, params->method);
    for (int i = 0; i < params->n_chosen_groups; i++)
        take_largest(group, taken, params->n_groups);
    for (int i = 0; i < params->n_experts; i++)
        if (!taken[i / size])
            scores[i] = -INFINITY;
}

/* V2 normalizes OR scales, V3 normalizes AND scales (DeepSeek's published modeling code). */
static void finish_weights(float *weights, const struct router_params *params)
{
    int normalizes = params->normalize && params->n_chosen > 1;
    float sum = 0.0f;
    for (int k = 0; k < params->n_chosen; k++)
        sum += weights[k];
    for (int k = 0; k < params->n_chosen; k++) {
        if (normalizes)
            weights[k] /= sum + 1e-20f;
        if (!normalizes || params->scoring == ROUTER_SIGMOID)
            weights[k] *= params->scale;
    }
}

static void route(int32_t *ids, float *weights, const float *logits, const float *bias,
                  const struct router_params *params)
{
    float scores[EXPERTS_MAX + LANES], selection[EXPERTS_MAX];
    unsigned char taken[EXPERTS_MAX] = {0};
    int n = params->n_experts;

    if (params->scoring == ROUTER_SOFTMAX)
        softmax(scores, logits, n);
    else
        sigmoid(scores, logits, n);
    for (int i = 0; i < n; i++)
        selection[i] =
            bias != NULL && params->method == ROUTER_NOAUX_TC ? scores[i] + bias[i] : scores[i];
    if (params->method != ROUTER_GREEDY && params->n_groups > 1)
        mask_groups(selection, params);
    for (int k = 0; k < params->n_chosen; k++) {
        ids[k] = take_largest(selection, taken, n);
        weights[k] = scores[ids[k]];
    }
    finish_weights(weights, params);
}

enum status ISA(router)(struct tensor *ids, struct tensor *weights, const struct tensor *logits,
                        const struct tensor *bias, const struct router_params *params,
                        struct stream *stream)
{
    (void)stream;
    const float *b = bias == NULL ? NULL : bias->data;
    assert(ids->ndim == 2 && weights->ndim == 2 && logits->ndim == 2);
    assert(logits->dim[1] == params->n_experts && ids->dim[1] == params->n_chosen);
    assert(ids->dim[0] == logits->dim[0] && weights->dim[0] == logits->dim[0]);
    if (params->n_experts > EXPERTS_MAX)
        FAIL(STATUS_UNSUPPORTED, "%d routed experts, this build takes up to %d", params->n_experts,
             EXPERTS_MAX);
    if (params->n_chosen > params->n_experts || params->n_groups < 1 ||
        params->n_experts % params->n_groups != 0 || params->n_chosen_groups > params->n_groups)
        FAIL(STATUS_INVALID, "a router of %d experts cannot choose %d in %d of %d expert groups",
             params->n_experts, params->n_chosen, params->n_chosen_groups, params->n_groups);
    for (int64_t t = 0; t < logits->dim[0]; t++)
        route((int32_t *)ids->data + t * ids->stride[0], tensor_f32(weights, t),
              tensor_f32(logits, t), b, params);
    return STATUS_OK;
}
