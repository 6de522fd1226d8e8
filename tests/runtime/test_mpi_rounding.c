/* test_mpi_rounding.c - golden checkpoints with weights rounded to 8 bits, and with inputs of products
 * rounded to bf16, on this many ranks.
 *
 * One rank alone stays near the float64 oracle of the unrounded model; how near is
 * a median, since random models choose other experts when a score moves a little.
 * 1, 2, 4 and 8 ranks, for ep = 1 and ep = all, give the same tokens and logits:
 * weights, units and runs are the same, and only where the last bit of an input
 * differs may its rounding go the other way.  3 and 7 cut units elsewhere, so
 * inputs are rounded in other groups and added in other pairs.
 */
#include "tests/runtime/golden_run.h"

enum { MOST = 4 * GOLDEN_MAX_CASES * GOLDEN_MAX_PROMPTS };
struct distances {
    double value[MOST];
    int count;
};

/* Distances are root mean squares of a difference, relative. */
static struct rounding {
    const char *name;
    int has_i8_weights, rounds_inputs;
    double median_oracle, median_cuts; /* of half the prompts, at most */
    double worst_distance;             /* of each */
    double tolerance_flip;             /* of the same runs: a rounding that goes the other way */
    int prompts_per_flip;              /* at least */
    struct distances to_oracle, to_alone;
    int n_flips;
} roundings[] = {
    {.name = "int8 weights",
     .has_i8_weights = 1,
     .median_oracle = 0.1,
     .median_cuts = 0.05,
     .worst_distance = 0.4,
     .tolerance_flip = 5e-3,
     .prompts_per_flip = 20},
    /* An input of a product is off by at most 2^-9; from the embedding to the logits of these models there
     * are up to 25 products, whose errors add as squares do.  Every input is rounded alone, a few hundred
     * thousand in a prompt: an input whose last f32 bit differs flips more often than with int8, where a
     * group shares a scale. */
    {.name = "bf16 inputs",
     .rounds_inputs = 1,
     .median_oracle = 5 * 0x1p-9,
     .median_cuts = 5 * 0x1p-9,
     .worst_distance = 0.4,
     .tolerance_flip = 5e-3,
     .prompts_per_flip = 5},
};
enum { N_ROUNDINGS = sizeof roundings / sizeof roundings[0] };
static const double tolerance_ranks = 1e-5; /* of the same runs, most of them */

/* root mean square of a - b / that of b */
static double distance(const float *a, const float *b, int64_t n)
{
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(error / size);
}

static double keep(struct distances *all, double value)
{
    if (all->count < MOST)
        all->value[all->count++] = value;
    return value;
}

/* What one prompt gave, against the oracle on one rank, against that on more. */
static void compare(struct rounding *rounding, const struct rows *rows, const float *alone,
                    int ranks, const char *where)
{
    const struct golden_prompt *g = rows->golden;
    int64_t n_rows = g->n_ids - 1, count = n_rows * g->vocab;
    int wrong = 0;
    check(rows->next == n_rows, "rows of logits", where, (double)rows->next);
    double d = alone == NULL ? keep(&rounding->to_oracle, distance(rows->logits, g->logits, count))
                             : keep(&rounding->to_alone, distance(rows->logits, alone, count));
    check(d <= rounding->worst_distance, "distance", where, d);
    if (alone == NULL || (ranks & (ranks - 1)) != 0)
        return;
    d = difference(rows->logits, alone, count);
    rounding->n_flips += d > tolerance_ranks;
    check(d <= rounding->tolerance_flip, "difference to one rank", where, d);
    for (int64_t t = 0; t < n_rows; t++)
        wrong +=
            argmax(rows->logits + t * g->vocab, g->vocab) != argmax(alone + t * g->vocab, g->vocab);
    check(wrong == 0, "greedy tokens that differ from one rank", where, wrong);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct distances *all)
{
    qsort(all->value, (size_t)all->count, sizeof all->value[0], by_value);
    return all->count == 0 ? 0 : all->value[all->count / 2];
}

static void check_all(int ranks)
{
    for (int i = 0; i < N_ROUNDINGS; i++) {
        struct rounding *r = &roundings[i];
        double oracle = median(&r->to_oracle), alone = median(&r->to_alone);
        check(oracle <= r->median_oracle, r->name, "median distance to the oracle", oracle);
        check(oracle >= 1e-4, r->name, "median distance of what is not rounded", oracle);
        check(alone <= r->median_cuts, r->name, "median distance to one rank", alone);
        check(r->n_flips * r->prompts_per_flip <= r->to_alone.count, r->name,
              "prompts with other roundings", r->n_flips);
        printf(
            "%s, %d ranks: median distance to the oracle %.5f, to one rank %.5f, %d of %d prompts "
            "with other roundings\n",
            r->name, ranks, oracle, alone, r->n_flips, r->to_alone.count);
    }
    printf("%d checks on %d ranks, %d failed\n", n_checks, ranks, n_failures);
}

static enum status run_case(struct rounding *rounding, const struct process *process,
                            const char *folder, const char *name, int ep, float *kept[])
{
    struct engine_options options = golden_options(folder, process);
    struct engine *engine;
    struct golden_case golden = {0};
    char where[256];
    enum status status = STATUS_OK;

    options.ep = ep;
    options.has_i8_weights = rounding->has_i8_weights;
    options.rounds_inputs = rounding->rounds_inputs;
    options.mla_mode = MLA_ABSORB;
    TRY(engine_open(&engine, &options, process));
    if (process->rank != 0) {
        status = engine_work(engine);
        engine_close(engine);
        return status;
    }
    TRY_GOTO(status, end, golden_open(&golden, folder));
    for (int i = 0; i < golden.n_prompts; i++) {
        struct rows rows = {.golden = &golden.prompt[i]};
        size_t count = (size_t)(rows.golden->n_ids - 1) * (size_t)rows.golden->vocab;
        snprintf(where, sizeof where, "%s, %s prompt %d, %d ranks, ep %d", rounding->name, name, i,
                 process->size, ep);
        rows.logits = malloc(count * sizeof *rows.logits);
        TRY_GOTO(status, end, run_prompt(engine, &rows, 256));
        compare(rounding, &rows, kept[i], process->size, where);
        if (kept[i] == NULL)
            kept[i] = rows.logits;
        else
            free(rows.logits);
    }
end:
    golden_close(&golden);
    engine_close(engine);
    return status;
}

static enum status run_rounding(struct rounding *rounding, const struct process *process,
                                const char *root)
{
    char name[GOLDEN_MAX_CASES][64], folder[1024];
    int n = golden_list(root, name), ranks = process->size;
    check(n > 0, "golden cases found", root, n);
    for (int i = 0; i < n; i++) {
        float *kept[GOLDEN_MAX_PROMPTS] = {NULL};
        struct process alone = *process;
        int experts_split = strstr(name[i], "dense") == NULL;
        alone.size = 1; /* and has two threads */
        snprintf(folder, sizeof folder, "%s/%s", root, name[i]);
        if (process->rank == 0)
            TRY(run_case(rounding, &alone, folder, name[i], 1, kept));
        for (int ep = 1; ranks > 1 && ep <= (experts_split ? ranks : 1); ep += ranks - 1)
            TRY(run_case(rounding, process, folder, name[i], ep, kept));
        for (int k = 0; k < GOLDEN_MAX_PROMPTS; k++)
            free(kept[k]);
    }
    return STATUS_OK;
}

static enum status run_all(const struct process *process, const char *root)
{
    for (int i = 0; i < N_ROUNDINGS; i++)
        TRY(run_rounding(&roundings[i], process, root));
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    return golden_main(argc, argv, run_all, check_all);
}
