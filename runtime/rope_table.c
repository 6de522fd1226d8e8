/* Angles of RoPE with YaRN, and the factors that YaRN puts on attention.
 * Source: YaRN, arXiv 2309.00071, section 3; DeepSeek-V2, arXiv 2405.04434. */
#include "runtime/model_config_parts.h"

#include <assert.h>
#include <math.h>

static const double pi = 3.14159265358979323846;

/* m(factor, a): how much YaRN sharpens attention. */
static double yarn_m(double factor, double a)
{
    return factor <= 1 ? 1 : 0.1 * a * log(factor) + 1;
}

/* Index of the pair that turns `turns` times over the original context. */
static double yarn_pair(const struct model_config *config, double turns)
{
    const struct rope_config *rope = &config->rope;
    return (double)config->d_r * log(rope->original_max_position / (2 * pi * turns)) /
           (2 * log((double)rope->theta));
}

void model_config_inv_freq(const struct model_config *config, double *inv_freq)
{
    const struct rope_config *rope = &config->rope;
    double low = 0, high = 0;
    if (rope->is_yarn) {
        low = fmax(floor(yarn_pair(config, (double)rope->beta_fast)), 0);
        high = fmin(ceil(yarn_pair(config, (double)rope->beta_slow)), (double)config->d_r - 1);
        if (!(high < low) && !(high > low))
            high += 0.001;
    }
    for (int64_t j = 0; j < config->d_r / 2; j++) {
        double f = pow((double)rope->theta, -2.0 * (double)j / (double)config->d_r);
        double ramp = rope->is_yarn ? fmin(fmax(((double)j - low) / (high - low), 0), 1) : 0;
        inv_freq[j] = f / (double)rope->factor * ramp + f * (1 - ramp);
    }
}

float model_config_softmax_scale(const struct model_config *config)
{
    const struct rope_config *rope = &config->rope;
    double scale = 1 / sqrt((double)(config->d_n + config->d_r));
    if (rope->is_yarn && rope->has_mscale_all_dim) /* m(factor, 0) is 1 */
        scale *= pow(yarn_m((double)rope->factor, (double)rope->mscale_all_dim), 2);
    return (float)scale;
}

/* Factor on cos and sin: m(mscale) / m(mscale_all_dim), 1 where the two are equal.  A 0 counts as
 * absent, as in transformers. */
static double amplitude(const struct rope_config *rope)
{
    double factor = (double)rope->factor;
    if (!rope->is_yarn)
        return 1;
    if (rope->attention_factor > 0)
        return (double)rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_m(factor, (double)rope->mscale) / yarn_m(factor, (double)rope->mscale_all_dim);
    return yarn_m(factor, 1);
}

void model_config_cos_sin(const struct model_config *config, float *cos_sin, int64_t n_positions)
{
    int64_t pairs = config->d_r / 2;
    double scale = amplitude(&config->rope);
    double inv_freq[MODEL_MAX_HEAD_DIM / 2];
    assert(config->d_r <= MODEL_MAX_HEAD_DIM);
    model_config_inv_freq(config, inv_freq);
    for (int64_t t = 0; t < n_positions; t++) {
        for (int64_t j = 0; j < pairs; j++) {
            double angle = (double)t * inv_freq[j];
            cos_sin[(t * pairs + j) * 2] = (float)(scale * cos(angle));
            cos_sin[(t * pairs + j) * 2 + 1] = (float)(scale * sin(angle));
        }
    }
}
