/* test_mpi_int8.c - golden checkpoints with weights rounded to 8 bits, on this many ranks.
 *
 * One rank alone stays near the float64 oracle of the unrounded model; how near is
 * a median, since random models choose other experts when a score moves a little.
 * 1, 2, 4 and 8 ranks, for ep = 1 and ep = all, give the same tokens and logits:
 * weights, units and runs are the same, and only where the last bit of an input
 * differs may its rounding go the other way.  3 and 7 cut units elsewhere, so
 * inputs are rounded in other groups.
 */
#include "tests/runtime/golden_run.h"

/* Root mean squares of a difference, relative: of half the prompts, and of each. */
static const double median_oracle = 0.1, median_cuts = 0.05, worst_distance = 0.4;
/* Of the same runs: most, but for a rounding that goes the other way, and each. */
static const double tolerance_ranks = 1e-5, tolerance_flip = 5e-3;

enum { MOST = 4 * GOLDEN_MAX_CASES * GOLDEN_MAX_PROMPTS };
static struct distances {
    double value[MOST];
    int count;
} to_oracle, to_alone;
static int n_flips;

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
static void compare(const struct rows *rows, const float *alone, int ranks, const char *where)
{
    const struct golden_prompt *g = rows->golden;
    int64_t n_rows = g->n_ids - 1, count = n_rows * g->vocab;
    int wrong = 0;
    check(rows->next == n_rows, "rows of logits", where, (double)rows->next);
    double d = alone == NULL ? keep(&to_oracle, distance(rows->logits, g->logits, count))
                             : keep(&to_alone, distance(rows->logits, alone, count));
    check(d <= worst_distance, "distance", where, d);
    if (alone == NULL || (ranks & (ranks - 1)) != 0)
        return;
    d = difference(rows->logits, alone, count);
    n_flips += d > tolerance_ranks;
    check(d <= tolerance_flip, "difference to one rank", where, d);
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
    double oracle = median(&to_oracle), alone = median(&to_alone);
    check(oracle <= median_oracle, "median distance", "to the oracle", oracle);
    check(alone <= median_cuts, "median distance", "to one rank", alone);
    check(n_flips * 20 <= to_alone.count, "prompts with other roundings", "to one rank", n_flips);
    printf(
        "%d checks on %d ranks, %d failed; median distance to the oracle %.4f, to one rank %.4f\n",
        n_checks, ranks, n_failures, oracle, alone);
}

static enum status run_case(const struct process *process, const char *folder, const char *name,
                            int ep, float *kept[])
{
    struct engine_options options = engine_defaults();
    struct engine *engine;
    struct golden_case golden = {0};
    char where[256];
    enum status status = STATUS_OK;

    options.model = folder;
    options.ep = ep;
    options.has_i8_weights = 1;
    options.mla_mode = MLA_ABSORB;
    options.kv_cache_dtype = DTYPE_F32;
    options.max_model_len = 256;
    options.max_num_batched_tokens = 256;
    options.n_threads = process->size == 1 ? 2 : 1;
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
        snprintf(where, sizeof where, "%s prompt %d, %d ranks, ep %d", name, i, process->size, ep);
        rows.logits = malloc(count * sizeof *rows.logits);
        TRY_GOTO(status, end, run_prompt(engine, &rows, 256));
        compare(&rows, kept[i], process->size, where);
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

static enum status run_all(const struct process *process, const char *root)
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
            TRY(run_case(&alone, folder, name[i], 1, kept));
        for (int ep = 1; ranks > 1 && ep <= (experts_split ? ranks : 1); ep += ranks - 1)
            TRY(run_case(process, folder, name[i], ep, kept));
        for (int k = 0; k < GOLDEN_MAX_PROMPTS; k++)
            free(kept[k]);
    }
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    return golden_main(argc, argv, run_all, check_all);
}
