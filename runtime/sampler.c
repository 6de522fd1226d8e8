/* The draw.  Gumbel-max: argmax of logit / T + g with g = -log(-log(u)) is a draw
 * from softmax(logit / T); with u from a counter instead of a state, any rank
 * that sees a part of the row can find the winner of its part.
 *
 * All filters keep the most likely tokens, so their result is a prefix of the order (logit
 * descending, id ascending), and a heap gives as much of that order as is needed. */
#include "runtime/sampler.h"

#include <Random123/philox.h>
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

struct sampler {
    int64_t vocab_size;
    int32_t n_ids;
    struct candidate *heap; /* [n_ids] */
    struct candidate *kept; /* [n_ids] */
};

struct sampling_params sampling_defaults(void)
{
    return (struct sampling_params){.top_p = 1};
}

enum status sampling_check(const struct sampling_params *params)
{
    if (!(params->temperature >= 0 && isfinite(params->temperature)))
        FAIL(STATUS_USAGE, "temperature is %g, but must be 0 (greedy) or a positive number",
             (double)params->temperature);
    if (params->top_k < 0)
        FAIL(STATUS_USAGE, "top-k is %d, but must be 0 (off) or a positive number", params->top_k);
    if (!(params->top_p > 0 && params->top_p <= 1))
        FAIL(STATUS_USAGE, "top-p is %g, but must be above 0 and at most 1 (off)",
             (double)params->top_p);
    if (!(params->min_p >= 0 && params->min_p <= 1))
        FAIL(STATUS_USAGE, "min-p is %g, but must be from 0 (off) to 1", (double)params->min_p);
    return STATUS_OK;
}

enum status sampler_open(struct sampler **sampler, int64_t vocab_size, int64_t n_ids)
{
    struct sampler *opened = NULL;

    if (n_ids < 1 || n_ids > vocab_size || vocab_size > INT32_MAX)
        FAIL(STATUS_INVALID, "%lld ids cannot be drawn from a vocabulary of %lld", (long long)n_ids,
             (long long)vocab_size);
    opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        goto no_memory;
    opened->vocab_size = vocab_size;
    opened->n_ids = (int32_t)n_ids;
    opened->heap = malloc((size_t)n_ids * sizeof *opened->heap);
    opened->kept = malloc((size_t)n_ids * sizeof *opened->kept);
    if (opened->heap == NULL || opened->kept == NULL)
        goto no_memory;
    *sampler = opened;
    return STATUS_OK;
no_memory:
    sampler_close(opened);
    FAIL(STATUS_NO_MEMORY, "no memory for a sampler of %lld ids", (long long)n_ids);
}

void sampler_close(struct sampler *sampler)
{
    if (sampler == NULL)
        return;
    free(sampler->heap);
    free(sampler->kept);
    free(sampler);
}

static int precedes(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void heap_sift(struct candidate *heap, int32_t count, int32_t at)
{
    const struct candidate moved = heap[at];
    while (at < count / 2) {
        int32_t child = 2 * at + 1;
        if (child + 1 < count && precedes(heap[child + 1], heap[child]))
            child++;
        if (!precedes(heap[child], moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void heap_build(struct candidate *heap, int32_t count)
{
    for (int32_t i = count / 2 - 1; i >= 0; i--)
        heap_sift(heap, count, i);
}

static struct candidate heap_pop(struct candidate *heap, int32_t count)
{
    const struct candidate top = heap[0];
    heap[0] = heap[count - 1];
    heap_sift(heap, count - 1, 0);
    return top;
}

/* The most likely id, lowest of equals; refuses a row that no model should give. */
static enum status best_id(const float *logits, int32_t n_ids, int32_t *best)
{
    int32_t found = -1;
    for (int32_t id = 0; id < n_ids; id++) {
        if (isnan(logits[id]) || logits[id] == INFINITY)
            FAIL(STATUS_INVALID,
                 "the model gave %s as the logit of id %d, but a number was expected: weights or "
                 "activations overflow",
                 isnan(logits[id]) ? "NaN" : "infinity", id);
        if (logits[id] != -INFINITY && (found < 0 || logits[id] > logits[found]))
            found = id;
    }
    if (found < 0)
        FAIL(STATUS_INVALID, "the model gave minus infinity as the logit of all %d ids", n_ids);
    *best = found;
    return STATUS_OK;
}

/* Fills `list` with the ids of finite logit, in order of ids. */
static int32_t gather(struct candidate *list, const float *logits, int32_t n_ids)
{
    int32_t count = 0;
    for (int32_t id = 0; id < n_ids; id++)
        if (logits[id] != -INFINITY)
            list[count++] = (struct candidate){.logit = logits[id], .id = id};
    return count;
}

/* Probability at temperature T in units of that of the best token. */
static double weight(float logit, float best, float temperature)
{
    return exp(((double)logit - (double)best) / (double)temperature);
}

/* kept[] = what top-k, then top-p leave of the `n_all` tokens of the heap, most likely first.  Top-p
 * works on the renormalized result of top-k and keeps a token while the mass before it is below
 * top_p, as the warpers of transformers do. */
static int32_t keep_likely(struct sampler *sampler, int32_t n_all, float best,
                           const struct sampling_params *params)
{
    struct candidate *heap = sampler->heap, *kept = sampler->kept;
    const int cuts_top_k = params->top_k > 0 && params->top_k < n_all;
    const int32_t limit = cuts_top_k ? params->top_k : n_all;
    int32_t count = 0, popped = 0;
    double total = 0, mass = 0;

    heap_build(heap, n_all);
    for (; cuts_top_k && popped < limit; popped++)
        kept[popped] = heap_pop(heap, n_all - popped);
    if (params->top_p >= 1)
        return limit;
    for (int32_t i = 0; i < limit; i++)
        total += weight(cuts_top_k ? kept[i].logit : heap[i].logit, best, params->temperature);
    for (; count < limit && mass < (double)params->top_p * total; count++) {
        if (count == popped) {
            kept[count] = heap_pop(heap, n_all - popped);
            popped++;
        }
        mass += weight(kept[count].logit, best, params->temperature);
    }
    return count;
}

/* kept[] = what all filters leave; the most likely token is always among them. */
static int32_t filter_tokens(struct sampler *sampler, const float *logits, float best,
                             const struct sampling_params *params)
{
    struct candidate *kept = sampler->kept;
    int32_t count = gather(sampler->heap, logits, sampler->n_ids), left = 0;

    if ((params->top_k > 0 && params->top_k < count) || params->top_p < 1)
        count = keep_likely(sampler, count, best, params);
    else
        memcpy(kept, sampler->heap, (size_t)count * sizeof *kept);
    if (params->min_p <= 0)
        return count;
    for (int32_t i = 0; i < count; i++)
        if (weight(kept[i].logit, best, params->temperature) >= (double)params->min_p)
            kept[left++] = kept[i];
    return left;
}

/* Standard Gumbel noise of (seed, position, id).  Four ids share a Philox block; u lies in
 * the middle of one of 2^32 intervals, so it is never 0 or 1. */
static double gumbel(uint64_t seed, uint64_t position, int32_t id)
{
    const uint32_t index = (uint32_t)id;
    const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    const philox4x32_ctr_t counter = {
        {(uint32_t)position, (uint32_t)(position >> 32), index / 4, 0}};
    const philox4x32_ctr_t block = philox4x32_R(10, counter, key);
    const double u = ((double)block.v[index % 4] + 0.5) * 0x1p-32;
    return -log(-log(u));
}

/* -log(-log(1 - 2^-33)) = 33 log 2, rounded up: no noise is larger. */
static const double gumbel_max = 22.88;

enum status sampler_draw(struct sampler *sampler, const float *logits,
                         const struct sampling_params *params, uint64_t position, int32_t *id)
{
    int32_t best, winner;
    TRY(best_id(logits, sampler->n_ids, &best));
    if (params->temperature <= 0) {
        *id = best;
        return STATUS_OK;
    }
    const int32_t count = filter_tokens(sampler, logits, logits[best], params);
    double highest = gumbel(params->seed, position, best);
    winner = best;
    for (int32_t i = 0; i < count; i++) {
        const struct candidate c = sampler->kept[i];
        const double base = ((double)c.logit - (double)logits[best]) / (double)params->temperature;
        if (base + gumbel_max < highest)
            continue; /* cannot win: spares the noise of most of a vocabulary */
        const double score = base + gumbel(params->seed, position, c.id);
        if (score > highest || (score == highest && c.id < winner)) {
            highest = score;
            winner = c.id;
        }
    }
    *id = winner;
    return STATUS_OK;
}

/* Log of the sum of exp(logit - logits[best]) over the row.  log1p of the others keeps the digits of a
 * probability close to 1. */
static double log_sum(const float *logits, int64_t vocab_size, int32_t best)
{
    double others = 0;
    for (int64_t i = 0; i < vocab_size; i++)
        if (i != best)
            others += exp((double)logits[i] - (double)logits[best]);
    return log1p(others);
}

double sampler_log_softmax(const float *logits, int64_t vocab_size, int32_t id)
{
    int32_t best = 0;
    for (int32_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best])
            best = i;
    return (double)logits[id] - (double)logits[best] - log_sum(logits, vocab_size, best);
}

enum status sampler_logprobs(struct sampler *sampler, const float *logits, int32_t id, int count,
                             struct token_logprob *own, struct token_logprob *top)
{
    int32_t best;
    double sum;

    assert(id >= 0 && id < sampler->vocab_size);
    if (count < 0 || count > sampler->n_ids)
        FAIL(STATUS_USAGE, "%d logprobs a token were asked for, but the vocabulary has %d ids",
             count, sampler->n_ids);
    TRY(best_id(logits, (int32_t)sampler->vocab_size, &best));
    sum = log_sum(logits, sampler->vocab_size, best);
    own->id = id;
    own->logprob = (float)((double)logits[id] - (double)logits[best] - sum);
    if (count == 0)
        return STATUS_OK;
    for (int32_t i = 0; i < sampler->n_ids; i++) /* impossible ids too: `count` must come out */
        sampler->heap[i] = (struct candidate){.logit = logits[i], .id = i};
    heap_build(sampler->heap, sampler->n_ids);
    for (int i = 0; i < count; i++) {
        const struct candidate next = heap_pop(sampler->heap, sampler->n_ids - i);
        top[i].id = next.id;
        top[i].logprob = (float)((double)next.logit - (double)logits[best] - sum);
    }
    return STATUS_OK;
}
