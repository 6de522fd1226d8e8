/* backend_golden.c - golden checkpoints through the CUDA backend, one rank, against the CPU's.
 *
 * Where weights are multiplied in f32 the two differ by the order of sums alone.
 * Where inputs are rounded to bf16 (quantized weights; BF16 ones when asked) a
 * model differs as its depth makes of that, and its greedy tokens only where
 * the two best are as near.  Random models choose other experts when a score
 * moves a little: then nothing is near, so such prompts are counted.
 *
 * usage: backend_golden [GOLDEN_FOLDER]
 */
#include "tests/runtime/golden_run.h"

/* max |a - b| / max |b|: sums in another order; sums of inputs rounded to 2^-9. */
static const double tolerance_sums = 1e-4, tolerance_rounded = 3e-2;
/* Prompts of 100 that may lie beyond tolerance_rounded: another expert was chosen. */
enum { MOST_REROUTED = 15 };

static int n_rounded, n_rerouted, n_wrong_kept;

/* Logits of one prompt. */
static enum status run_on(float **logits, enum backend_kind backend, enum dtype cache,
                          const struct golden_prompt *golden, const char *folder,
                          const struct process *process, int chunk)
{
    struct engine_options options = engine_defaults();
    struct rows rows = {.golden = golden};
    struct engine *engine;
    options.model = folder;
    options.backend = backend;
    options.mla_mode = MLA_ABSORB;
    options.kv_cache_dtype = cache;
    options.max_model_len = 256;
    options.max_num_batched_tokens = 256;
    TRY(engine_open(&engine, &options, process));
    rows.logits = malloc((size_t)(golden->n_ids - 1) * (size_t)golden->vocab * sizeof(float));
    enum status status = run_prompt(engine, &rows, chunk);
    engine_close(engine);
    *logits = rows.logits;
    return status;
}

/* Greedy tokens that differ though the margin of the best is more than twice `error`. */
static int wrong_tokens(const float *a, const float *b, const struct golden_prompt *g, double error)
{
    int wrong = 0;
    for (int64_t t = 0; t < g->n_ids - 1; t++) {
        const float *x = a + t * g->vocab, *y = b + t * g->vocab;
        int best = argmax(y, g->vocab), other = argmax(x, g->vocab);
        wrong += best != other && (double)y[best] - (double)y[other] > 2 * error;
    }
    return wrong;
}

static enum status compare(const struct process *process, const char *folder, const char *name,
                           const struct golden_prompt *golden, int prompt, enum dtype cache)
{
    const int rounds = strstr(name, "fp8") != NULL || strstr(name, "int4") != NULL;
    const int64_t count = (int64_t)(golden->n_ids - 1) * golden->vocab;
    static const int chunks[] = {256, 7, 1};
    float *cpu, *gpu, largest = 0;
    char where[256];
    TRY(run_on(&cpu, BACKEND_CPU, cache, golden, folder, process, 256));
    for (int64_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(cpu[i]));
    for (int i = 0; i < 3; i++) {
        snprintf(where, sizeof where, "%s prompt %d, %s cache, chunks of %d", name, prompt,
                 dtype_name(cache), chunks[i]);
        TRY(run_on(&gpu, BACKEND_CUDA, cache, golden, folder, process, chunks[i]));
        double d = difference(gpu, cpu, count);
        double allowed = rounds ? tolerance_rounded : tolerance_sums;
        n_rounded += rounds;
        if (rounds && d > allowed && d < 1) {
            n_rerouted++;
        } else {
            check(d <= allowed, "difference to the CPU", where, d);
            check(wrong_tokens(gpu, cpu, golden, d * (double)largest) == 0, "greedy tokens", where,
                  wrong_tokens(gpu, cpu, golden, d * (double)largest));
        }
        if (getenv("SHOW_DIFFERENCES") != NULL)
            printf("%-60s %.2e\n", where, d);
        free(gpu);
    }
    free(cpu);
    return STATUS_OK;
}

static enum status run_all(const struct process *process, const char *root)
{
    char name[GOLDEN_MAX_CASES][64], folder[1024];
    int n = golden_list(root, name);
    check(n > 0, "golden cases found", root, n);
    for (int i = 0; i < n; i++) {
        struct golden_case golden;
        snprintf(folder, sizeof folder, "%s/%s", root, name[i]);
        TRY(golden_open(&golden, folder));
        for (int k = 0; k < golden.n_prompts; k++)
            TRY(compare(process, folder, name[i], &golden.prompt[k], k,
                        k % 2 == 0 ? DTYPE_F32 : DTYPE_BF16));
        golden_close(&golden);
    }
    return STATUS_OK;
}

static void report(int ranks)
{
    (void)ranks, (void)n_wrong_kept;
    check(n_rerouted * 100 <= n_rounded * MOST_REROUTED, "prompts with other experts", "in all",
          n_rerouted);
    printf("%d checks, %d failed; %d of %d rounded prompts chose other experts\n", n_checks,
           n_failures, n_rerouted, n_rounded);
}

int main(int argc, char **argv)
{
    return golden_main(argc, argv, run_all, report);
}
