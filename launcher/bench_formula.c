#include "launcher/bench_formula.h"

#include <math.h>
#include <stdlib.h>

double bench_step_bytes(const struct bench_reads *reads, int64_t batch, int64_t input_len,
                        int64_t output_len)
{
    if (reads->n_steps == 0 || output_len < 2)
        return (double)NAN;
    /* step j = 1 .. output_len - 1 sees input_len + j rows, its own among them */
    double rows = (double)input_len + (double)output_len / 2;
    return (double)reads->dense_bytes + (double)reads->expert_bytes / (double)reads->n_steps +
           (double)batch * rows * (double)reads->cache_token_bytes / (double)reads->cache_members;
}

double bench_prefill_flop(const struct model_config *config, int64_t batch, int64_t input_len)
{
    struct model_size size;
    model_config_size(config, &size);
    double tokens = (double)batch * (double)input_len;
    double head = (double)config->vocab_size * (double)config->d;
    double pairs = (double)batch * (double)input_len * ((double)input_len + 1) / 2;
    double per_pair = (double)config->n_layers * config->n_heads *
                      (double)(config->d_n + config->d_r + config->d_v);
    return 2 * (tokens * ((double)size.active_parameters - head) + (double)batch * head +
                pairs * per_pair);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_spread bench_spread_of(double *value, int count)
{
    if (count == 0)
        return (struct bench_spread){(double)NAN, (double)NAN, (double)NAN};
    qsort(value, (size_t)count, sizeof *value, compare);
    return (struct bench_spread){.median = (value[(count - 1) / 2] + value[count / 2]) / 2,
                                 .min = value[0],
                                 .max = value[count - 1]};
}
