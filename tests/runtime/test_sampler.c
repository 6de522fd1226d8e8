/* Draws are checked against probabilities computed here in another way (full
 * sort, ascending sums, as transformers writes its warpers), the noise against
 * a second Philox that reproduces the published vectors. */
#include "runtime/sampler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_SMALL = 12 };

/* xorshift64*: random logits for the tests, unrelated to the generator under test. */
static uint64_t random_state;

static double random_uniform(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (double)((random_state * 2685821657736338717u) >> 11) * 0x1p-53;
}

static void random_logits(float *logits, int count, double spread)
{
    for (int i = 0; i < count; i++)
        logits[i] = (float)((random_uniform() - 0.5) * spread);
}

/* Philox4x32-10 written from the paper: Salmon, Moraes, Dror, Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011, section 3.3. */
static void philox_by_hand(uint32_t counter[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * counter[0];
        const uint64_t b = (uint64_t)0xCD9E8D57u * counter[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ k0, (uint32_t)b,
                                  (uint32_t)(a >> 32) ^ counter[3] ^ k1, (uint32_t)a};
        memcpy(counter, next, sizeof next);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static int32_t draw(struct sampler *sampler, const float *logits, struct sampling_params params,
                    uint64_t position)
{
    int32_t id = -1;
    assert_int_equal(sampler_draw(sampler, logits, &params, position, &id), STATUS_OK);
    return id;
}

static struct sampler *open_sampler(int64_t vocab_size, int64_t n_ids)
{
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_open(&sampler, vocab_size, n_ids), STATUS_OK);
    return sampler;
}

static void philox_gives_the_published_vectors(void **state)
{
    /* Random123 1.14.0, tests/kat_vectors, the three lines "philox4x32 10": counter[4], key[2],
     * result[4]. */
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    (void)state;
    for (int i = 0; i < 3; i++) {
        uint32_t counter[4];
        memcpy(counter, kat[i], sizeof counter);
        philox_by_hand(counter, kat[i][4], kat[i][5]);
        assert_memory_equal(counter, &kat[i][6], sizeof counter);
    }
}

/* The draw as the header defines it, over all ids, by the Philox above. */
static int32_t draw_by_hand(const float *logits, int32_t n_ids, double temperature, uint64_t seed,
                            uint64_t position)
{
    double highest = -HUGE_VAL;
    int32_t winner = -1;
    for (int32_t id = 0; id < n_ids; id++) {
        uint32_t block[4] = {(uint32_t)position, (uint32_t)(position >> 32), (uint32_t)id / 4, 0};
        philox_by_hand(block, (uint32_t)seed, (uint32_t)(seed >> 32));
        const double u = ((double)block[id % 4] + 0.5) / 4294967296.0;
        const double score = (double)logits[id] / temperature - log(-log(u));
        if (score > highest) {
            highest = score;
            winner = id;
        }
    }
    return winner;
}

static void draws_are_those_of_philox_keyed_by_seed_position_and_id(void **state)
{
    enum { N = 1000 };
    float logits[N];
    struct sampler *sampler = open_sampler(N, N);
    (void)state;
    random_state = 1;
    for (int i = 0; i < 300; i++) {
        struct sampling_params params = sampling_defaults();
        const uint64_t position = (uint64_t)i * 0x123456789u; /* beyond 32 bits */
        params.temperature = i % 2 ? 1.0f : 0.5f;
        params.seed = (uint64_t)i << (i % 60);
        random_logits(logits, N, 40);
        assert_int_equal(
            draw(sampler, logits, params, position),
            draw_by_hand(logits, N, (double)params.temperature, params.seed, position));
    }
    sampler_close(sampler);
}

struct ranked {
    double logit;
    int id;
};

static int by_rising_logit(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit < b->logit ? -1 : 1;
    return a->id > b->id ? -1 : 1; /* of equals the lowest id is the last to fall */
}

static void softmax(double *p, const double *x, int count)
{
    double max = -HUGE_VAL, sum = 0;
    for (int i = 0; i < count; i++)
        max = fmax(max, x[i]);
    for (int i = 0; i < count; i++)
        sum += p[i] = exp(x[i] - max);
    for (int i = 0; i < count; i++)
        p[i] /= sum;
}

/* p[count] after temperature, top-k, top-p and min-p, step by step as transformers'
 * generation/logits_process.py does: masks, and a softmax again before each.
 * Returns how near the nearest comparison came to going the other way. */
static double probabilities_by_hand(double *p, const float *logits, int count,
                                    const struct sampling_params *params)
{
    struct ranked order[N_SMALL];
    double x[N_SMALL], cumulative = 0, margin = 1, largest = 0;
    for (int i = 0; i < count; i++)
        x[i] = (double)logits[i] / (double)params->temperature;
    for (int i = 0; i < count; i++)
        order[i] = (struct ranked){.logit = x[i], .id = i};
    qsort(order, (size_t)count, sizeof *order, by_rising_logit);
    if (params->top_k > 0)
        for (int i = 0; i < count - params->top_k; i++)
            x[order[i].id] = -HUGE_VAL;
    softmax(p, x, count);
    if (params->top_p < 1)
        for (int i = 0; i < count - 1; i++) {
            cumulative += p[order[i].id];
            margin = fmin(margin, fabs(cumulative - (1 - (double)params->top_p)));
            if (cumulative <= 1 - (double)params->top_p)
                x[order[i].id] = -HUGE_VAL;
        }
    softmax(p, x, count);
    for (int i = 0; i < count; i++)
        largest = fmax(largest, p[i]);
    for (int i = 0; i < count; i++) {
        margin = fmin(margin, p[i] > 0 ? fabs(p[i] / largest - (double)params->min_p) : 1);
        if (p[i] < (double)params->min_p * largest)
            x[i] = -HUGE_VAL;
    }
    softmax(p, x, count);
    return margin;
}

static struct sampling_params random_params(int count)
{
    struct sampling_params params = sampling_defaults();
    params.temperature = (float)(0.3 + 2 * random_uniform());
    if (random_uniform() < 0.5)
        params.top_k = 1 + (int)(random_uniform() * (count + 3));
    if (random_uniform() < 0.6)
        params.top_p = (float)(0.05 + 0.95 * random_uniform());
    if (random_uniform() < 0.5)
        params.min_p = (float)(random_uniform() * 0.6);
    params.seed = (uint64_t)(random_uniform() * 0x1p53);
    return params;
}

static void filters_leave_what_transformers_leaves(void **state)
{
    enum { DRAWS = 3000 };
    struct sampler *sampler = open_sampler(N_SMALL, N_SMALL);
    (void)state;
    random_state = 2;
    for (int trial = 0; trial < 400; trial++) {
        float logits[N_SMALL];
        double p[N_SMALL];
        int seen[N_SMALL] = {0};
        random_logits(logits, N_SMALL, 8);
        const struct sampling_params params = random_params(N_SMALL);
        if (probabilities_by_hand(p, logits, N_SMALL, &params) < 1e-6)
            continue; /* rounding decides: either set is right */
        for (int i = 0; i < DRAWS; i++)
            seen[draw(sampler, logits, params, (uint64_t)i)]++;
        for (int id = 0; id < N_SMALL; id++) {
            const double expected = DRAWS * p[id];
            if (p[id] <= 0 && seen[id] > 0)
                fail_msg("trial %d: id %d was filtered, but drawn %d times", trial, id, seen[id]);
            if (fabs(seen[id] - expected) > 5 * sqrt(expected * (1 - p[id])) + 3)
                fail_msg("trial %d: id %d: %g draws expected, %d seen", trial, id, expected,
                         seen[id]);
        }
    }
    sampler_close(sampler);
}

static void the_smallest_sets_with_equal_logits_hold_the_lowest_ids(void **state)
{
    static const float equal[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const float two[8] = {0, 3, 0, 3, 0, 0, 0, 3};
    struct sampler *sampler = open_sampler(8, 8);
    struct sampling_params greedy = sampling_defaults(), top_k = sampling_defaults();
    struct sampling_params top_p = sampling_defaults();
    (void)state;
    top_k.temperature = top_p.temperature = 1;
    top_k.top_k = 2;
    top_p.top_p = 0.25f; /* of 8 equal tokens exactly two reach it */
    assert_int_equal(draw(sampler, equal, greedy, 0), 0);
    assert_int_equal(draw(sampler, two, greedy, 0), 1);
    for (uint64_t position = 0; position < 1000; position++) {
        assert_in_range(draw(sampler, equal, top_k, position), 0, 1);
        assert_in_range(draw(sampler, equal, top_p, position), 0, 1);
        const int32_t id = draw(sampler, two, top_k, position);
        assert_true(id == 1 || id == 3);
    }
    sampler_close(sampler);
}

static void every_filter_leaves_the_best_token(void **state)
{
    static const float logits[4] = {0, 2, 1.9f, 1.8f};
    struct sampler *sampler = open_sampler(4, 4);
    struct sampling_params params = sampling_defaults();
    (void)state;
    params.temperature = 1;
    params.top_p = 1e-30f;
    assert_int_equal(draw(sampler, logits, params, 3), 1);
    params = sampling_defaults();
    params.temperature = 1;
    params.min_p = 1;
    assert_int_equal(draw(sampler, logits, params, 3), 1);
    params = sampling_defaults();
    params.temperature = 1e-40f; /* the differences become infinite, the best stays 0 */
    assert_int_equal(draw(sampler, logits, params, 3), 1);
    sampler_close(sampler);
}

/* Upper 1e-5 quantile of chi-square by Wilson and Hilferty (1931); 4.265 is that of the normal. */
static double chi_square_limit(int degrees)
{
    const double a = 2 / (9.0 * degrees), root = 1 - a + 4.265 * sqrt(a);
    return degrees * root * root * root;
}

static void draws_follow_the_softmax(void **state)
{
    enum { N = 50, DRAWS = 100000 };
    static const uint64_t seeds[] = {0, 1, 0xfedcba9876543210u};
    struct sampler *sampler = open_sampler(N, N);
    (void)state;
    for (size_t s = 0; s < sizeof seeds / sizeof *seeds; s++) {
        struct sampling_params params = sampling_defaults();
        float logits[N];
        double x[N], p[N], chi = 0, rare_expected = 0, rare_seen = 0;
        int seen[N] = {0}, cells = 0;
        random_state = 3 + s;
        random_logits(logits, N, 10);
        params.temperature = 0.8f;
        params.seed = seeds[s];
        for (int i = 0; i < N; i++)
            x[i] = (double)logits[i] / (double)params.temperature;
        softmax(p, x, N);
        for (int i = 0; i < DRAWS; i++)
            seen[draw(sampler, logits, params, (uint64_t)i)]++;
        for (int i = 0; i < N; i++)
            if (DRAWS * p[i] >= 5) {
                chi += (seen[i] - DRAWS * p[i]) * (seen[i] - DRAWS * p[i]) / (DRAWS * p[i]);
                cells++;
            } else {
                rare_expected += DRAWS * p[i];
                rare_seen += seen[i];
            }
        if (rare_expected > 0)
            chi += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
        if (chi > chi_square_limit(cells))
            fail_msg("seed %llu: chi-square %g over %d cells", (unsigned long long)seeds[s], chi,
                     cells);
    }
    sampler_close(sampler);
}

static void neighbouring_positions_and_seeds_are_independent(void **state)
{
    enum { N = 8, DRAWS = 100000 };
    float logits[N] = {0};
    struct sampler *sampler = open_sampler(N, N);
    struct sampling_params params = sampling_defaults();
    int by_position[N][N] = {{0}}, by_seed[N][N] = {{0}};
    (void)state;
    params.temperature = 1;
    for (int i = 0; i < DRAWS; i++) {
        params.seed = 7;
        const int32_t here = draw(sampler, logits, params, (uint64_t)i);
        by_position[here][draw(sampler, logits, params, (uint64_t)i + 1)]++;
        params.seed = 8;
        by_seed[here][draw(sampler, logits, params, (uint64_t)i)]++;
    }
    const double expected = (double)DRAWS / (N * N);
    double chi_position = 0, chi_seed = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            chi_position += pow(by_position[i][k] - expected, 2) / expected;
            chi_seed += pow(by_seed[i][k] - expected, 2) / expected;
        }
    assert_true(chi_position < chi_square_limit(N * N - 1));
    assert_true(chi_seed < chi_square_limit(N * N - 1));
    sampler_close(sampler);
}

static void a_draw_depends_on_nothing_but_seed_position_and_logits(void **state)
{
    enum { N = 200, DRAWS = 500 };
    struct sampler *forward = open_sampler(N, N), *backward = open_sampler(N, N);
    float logits[N];
    int32_t first[DRAWS];
    struct sampling_params params = sampling_defaults();
    (void)state;
    params.temperature = 1;
    params.seed = 11;
    random_state = 5;
    random_logits(logits, N, 6);
    for (int i = 0; i < DRAWS; i++)
        first[i] = draw(forward, logits, params, (uint64_t)i);
    for (int i = DRAWS - 1; i >= 0; i--)
        assert_int_equal(draw(backward, logits, params, (uint64_t)i), first[i]);
    sampler_close(forward);
    sampler_close(backward);
}

/* Gumbel-max: the winner of all tokens is the winner of every set that holds it.  Also what lets
 * ranks that hold parts of the vocabulary agree. */
static void losing_tokens_can_go_without_changing_the_draw(void **state)
{
    enum { N = 64 };
    struct sampler *sampler = open_sampler(N, N);
    int kept_winners = 0;
    (void)state;
    random_state = 6;
    for (int trial = 0; trial < 2000; trial++) {
        float logits[N];
        struct sampling_params params = sampling_defaults(), filtered;
        random_logits(logits, N, 8);
        params.temperature = 1;
        params.seed = (uint64_t)trial;
        const int32_t winner = draw(sampler, logits, params, 9);
        filtered = params;
        filtered.top_k = 8;
        int above = 0;
        for (int i = 0; i < N; i++)
            above += logits[i] > logits[winner];
        if (above < 8) {
            assert_int_equal(draw(sampler, logits, filtered, 9), winner);
            kept_winners++;
        }
        logits[winner == 0 ? 1 : 0] = -INFINITY;
        assert_int_equal(draw(sampler, logits, params, 9), winner);
    }
    assert_true(kept_winners > 500);
    sampler_close(sampler);
}

static void padded_ids_are_never_drawn(void **state)
{
    enum { VOCAB = 40, IDS = 33 };
    struct sampler *sampler = open_sampler(VOCAB, IDS);
    struct token_logprob own, top[IDS];
    float logits[VOCAB];
    (void)state;
    random_state = 7;
    for (int trial = 0; trial < 2000; trial++) {
        struct sampling_params params = random_params(IDS);
        random_logits(logits, VOCAB, 4);
        for (int i = IDS; i < VOCAB; i++)
            logits[i] = 100;
        params.temperature = trial % 3 == 0 ? 0 : params.temperature;
        assert_in_range(draw(sampler, logits, params, (uint64_t)trial), 0, IDS - 1);
    }
    assert_int_equal(sampler_logprobs(sampler, logits, 0, IDS, &own, top), STATUS_OK);
    for (int i = 0; i < IDS; i++)
        assert_in_range(top[i].id, 0, IDS - 1);
    sampler_close(sampler);
}

static void tokens_at_minus_infinity_are_never_drawn(void **state)
{
    static const float logits[6] = {-INFINITY, 1, -INFINITY, 0, -INFINITY, -INFINITY};
    struct sampler *sampler = open_sampler(6, 6);
    (void)state;
    random_state = 8;
    for (int trial = 0; trial < 2000; trial++) {
        const int32_t id = draw(sampler, logits, random_params(6), (uint64_t)trial);
        assert_true(id == 1 || id == 3);
    }
    sampler_close(sampler);
}

static void rows_that_no_model_should_give_are_refused(void **state)
{
    static const float bad[3][4] = {
        {0, 1, NAN, 3}, {0, INFINITY, 2, 3}, {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    static const char *const found[3] = {"NaN as the logit of id 2",
                                         "infinity as the logit of id 1",
                                         "minus infinity as the logit of all 4 ids"};
    struct sampler *sampler = open_sampler(4, 4);
    struct token_logprob own, top[4];
    (void)state;
    for (int i = 0; i < 3; i++)
        for (int sampled = 0; sampled < 2; sampled++) {
            struct sampling_params params = sampling_defaults();
            int32_t id = 77;
            params.temperature = (float)sampled;
            assert_int_equal(sampler_draw(sampler, bad[i], &params, 0, &id), STATUS_INVALID);
            assert_non_null(strstr(status_text(), found[i]));
            assert_int_equal(id, 77);
            assert_int_equal(sampler_logprobs(sampler, bad[i], 0, 4, &own, top), STATUS_INVALID);
        }
    sampler_close(sampler);
}

static void options_out_of_range_are_named(void **state)
{
    static const struct {
        struct sampling_params params;
        const char *name; /* NULL: fine */
    } cases[] = {
        {{.temperature = 0, .top_p = 1}, NULL},
        {{.temperature = 1, .top_p = 0.5f, .top_k = 3, .min_p = 1}, NULL},
        {{.temperature = -1, .top_p = 1}, "temperature is -1"},
        {{.temperature = NAN, .top_p = 1}, "temperature is nan"},
        {{.temperature = INFINITY, .top_p = 1}, "temperature is inf"},
        {{.top_p = 0}, "top-p is 0"},
        {{.top_p = 1.5f}, "top-p is 1.5"},
        {{.top_p = NAN}, "top-p is nan"},
        {{.top_p = 1, .top_k = -2}, "top-k is -2"},
        {{.top_p = 1, .min_p = -0.5f}, "min-p is -0.5"},
        {{.top_p = 1, .min_p = 2}, "min-p is 2"},
    };
    const struct sampling_params defaults = sampling_defaults();
    (void)state;
    assert_int_equal(sampling_check(&defaults), STATUS_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const enum status status = sampling_check(&cases[i].params);
        assert_int_equal(status, cases[i].name == NULL ? STATUS_OK : STATUS_USAGE);
        if (cases[i].name != NULL)
            assert_non_null(strstr(status_text(), cases[i].name));
    }
}

/* Neumaier's compensated sum in long double: the reference for the logs below. */
static long double log_softmax_by_hand(const float *logits, int count, int id)
{
    long double sum = 0, lost = 0, max = -HUGE_VALL;
    for (int i = 0; i < count; i++)
        max = fmaxl(max, (long double)logits[i]);
    for (int i = 0; i < count; i++) {
        const long double term = expl((long double)logits[i] - max), next = sum + term;
        lost += sum >= term ? (sum - next) + term : (term - next) + sum;
        sum = next;
    }
    return (long double)logits[id] - max - logl(sum + lost);
}

static void log_softmax_is_exact_to_double_precision(void **state)
{
    enum { N = 5000 };
    static const double spreads[] = {0, 1, 30, 2000, 6e38};
    float logits[N];
    (void)state;
    random_state = 9;
    for (size_t s = 0; s < sizeof spreads / sizeof *spreads; s++) {
        random_logits(logits, N, spreads[s]);
        for (int id = 0; id < N; id += 97) {
            const double expected = (double)log_softmax_by_hand(logits, N, id);
            const double found = sampler_log_softmax(logits, N, id);
            assert_true(fabs(found - expected) <= 1e-13 * fmax(1, fabs(expected)));
        }
    }
    /* Next to certain: the answer is minus the other probability, far below the spacing at 1. */
    static const float certain[2] = {60, 0};
    assert_true(fabs(sampler_log_softmax(certain, 2, 0) / -exp(-60) - 1) < 1e-12);
    static const float impossible[2] = {0, -INFINITY};
    assert_true(sampler_log_softmax(impossible, 2, 1) == (double)-INFINITY);
}

static void logprobs_are_the_most_likely_in_order(void **state)
{
    enum { N = 300, TOP = 20 };
    struct sampler *sampler = open_sampler(N, N);
    (void)state;
    random_state = 10;
    for (int trial = 0; trial < 50; trial++) {
        struct token_logprob own, top[TOP];
        struct ranked order[N];
        float logits[N];
        const int id = (int)(random_uniform() * N);
        random_logits(logits, N, 20);
        for (int i = 0; i < N; i++) {
            logits[i] = rintf(logits[i] * 8) / 8; /* many ties */
            order[i] = (struct ranked){.logit = (double)logits[i], .id = i};
        }
        qsort(order, N, sizeof *order, by_rising_logit);
        assert_int_equal(sampler_logprobs(sampler, logits, id, TOP, &own, top), STATUS_OK);
        assert_int_equal(own.id, id);
        assert_true(own.logprob == (float)log_softmax_by_hand(logits, N, id));
        for (int i = 0; i < TOP; i++) {
            const int expected = order[N - 1 - i].id;
            assert_int_equal(top[i].id, expected);
            assert_true(fabs((double)top[i].logprob -
                             (double)log_softmax_by_hand(logits, N, expected)) < 1e-6);
        }
        assert_int_equal(sampler_logprobs(sampler, logits, id, 0, &own, NULL), STATUS_OK);
        assert_int_equal(sampler_logprobs(sampler, logits, id, N + 1, &own, top), STATUS_USAGE);
    }
    sampler_close(sampler);
}

static void impossible_sizes_are_refused(void **state)
{
    struct sampler *sampler = NULL;
    (void)state;
    assert_int_equal(sampler_open(&sampler, 10, 11), STATUS_INVALID);
    assert_int_equal(sampler_open(&sampler, 10, 0), STATUS_INVALID);
    assert_int_equal(sampler_open(&sampler, (int64_t)1 << 40, 10), STATUS_INVALID);
    assert_null(sampler);
    sampler_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(draws_are_those_of_philox_keyed_by_seed_position_and_id),
        cmocka_unit_test(filters_leave_what_transformers_leaves),
        cmocka_unit_test(the_smallest_sets_with_equal_logits_hold_the_lowest_ids),
        cmocka_unit_test(every_filter_leaves_the_best_token),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(neighbouring_positions_and_seeds_are_independent),
        cmocka_unit_test(a_draw_depends_on_nothing_but_seed_position_and_logits),
        cmocka_unit_test(losing_tokens_can_go_without_changing_the_draw),
        cmocka_unit_test(padded_ids_are_never_drawn),
        cmocka_unit_test(tokens_at_minus_infinity_are_never_drawn),
        cmocka_unit_test(rows_that_no_model_should_give_are_refused),
        cmocka_unit_test(options_out_of_range_are_named),
        cmocka_unit_test(log_softmax_is_exact_to_double_precision),
        cmocka_unit_test(logprobs_are_the_most_likely_in_order),
        cmocka_unit_test(impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
