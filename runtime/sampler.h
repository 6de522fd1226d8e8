/* sampler.h - from logits to the next token.
 *
 * Order of the filters as in Hugging Face transformers: temperature, top-k, top-p,
 * min-p; then one draw.  The draw is Gumbel-max with noise from Philox4x32-10
 * keyed by (seed, position, id), so it does not depend on who computes it, on
 * the batch, or on earlier draws.  Ties go to the lowest id.
 * Source of the generator: Salmon et al., SC 2011 (Random123). */
#ifndef RUNTIME_SAMPLER_H
#define RUNTIME_SAMPLER_H

#include "kernels/core/status.h"
#include <stdint.h>

struct sampling_params {
    float temperature; /* 0: greedy */
    float top_p;       /* 1: off; smallest set of most likely tokens with at least this mass */
    int top_k;         /* 0: off */
    float min_p;       /* 0: off; tokens below min_p x the largest probability fall out */
    uint64_t seed;
};

/* Greedy, all filters off. */
struct sampling_params sampling_defaults(void);

/* Errors: STATUS_USAGE (text names the option, found and expected). */
enum status sampling_check(const struct sampling_params *params);

struct token_logprob {
    int32_t id;
    float logprob; /* natural logarithm, of the unfiltered distribution at temperature 1 */
};

struct sampler;

/* For a vocabulary of `vocab_size` logits of which only the first `n_ids` may be drawn (rows past the
 * tokenizer's size are untrained).  Owner: caller; end with sampler_close. */
enum status sampler_open(struct sampler **sampler, int64_t vocab_size, int64_t n_ids);
void sampler_close(struct sampler *sampler);

/* The token that follows `position` tokens.  Errors: STATUS_INVALID (no finite logit: the model gave
 * NaN; text says so). */
enum status sampler_draw(struct sampler *sampler, const float *logits,
                         const struct sampling_params *params, uint64_t position, int32_t *id);

/* top[count] = the `count` most likely tokens, descending, ties by id; *own = that of `id`. */
enum status sampler_logprobs(struct sampler *sampler, const float *logits, int32_t id, int count,
                             struct token_logprob *own, struct token_logprob *top);

/* Log of the softmax at `id`: what `eval` sums.  In double. */
double sampler_log_softmax(const float *logits, int64_t vocab_size, int32_t id);

#endif
