/* backend_golden.c - golden checkpoints through the CUDA backend, one rank, against the CPU's.
 *
 * With inputs as they are (--activation-dtype f32) the two differ by the order of
 * sums, and with a bf16 cache by numbers that are rounded the other way.  With
 * inputs rounded to bf16 a model differs as its depth makes of that.  Random
 * models choose other experts when a score moves a little, and then nothing of a
 * row is near: half the rows must be, and few may be far.
 *
 * usage: backend_golden [GOLDEN_FOLDER]
 */
#include "tests/runtime/golden_run.h"

/* max |a - b| / max |b|: sums in another order; a cached number on the other side of a rounding, 2^-8;
 * sums of inputs rounded by 2^-9 each, through a few layers. */
static const double tolerance_sums = 1e-4, tolerance_cache = 0x1p-8, tolerance_rounded = 3e-2;
enum { MOST_FAR = 10 }; /* rows of 100 beyond tolerance_rounded: another expert was chosen */

/* Of the checkpoints: under AddressSanitizer all of them take minutes. */
#ifdef __SANITIZE_ADDRESS__
enum { EACH = 3 };
#else
enum { EACH = 1 };
#endif

static int n_rows, n_far;

/* Logits of one prompt. */
static enum status run_on(float **logits, const struct engine_options *options,
                          const struct golden_prompt *golden, const struct process *process,
                          int chunk)
{
    struct rows rows = {.golden = golden};
    struct engine *engine;
    TRY(engine_open(&engine, options, process));
    rows.logits = malloc((size_t)(golden->n_ids - 1) * (size_t)golden->vocab * sizeof(float));
    enum status status = run_prompt(engine, &rows, chunk);
    engine_close(engine);
    *logits = rows.logits;
    return status;
}

/* Rows that are further than `tolerance` from the CPU's; a NaN is. */
static int far_rows(const float *a, const float *b, const struct golden_prompt *g, double tolerance)
{
    int n = 0;
    for (int64_t t = 0; t < g->n_ids - 1; t++)
        n += !(difference(a + t * g->vocab, b + t * g->vocab, g->vocab) <= tolerance);
    return n;
}

/* Greedy tokens of rows near to the CPU's that differ though the best leads by more than the rows differ. */
static int wrong_tokens(const float *a, const float *b, const struct golden_prompt *g)
{
    int wrong = 0;
    for (int64_t t = 0; t < g->n_ids - 1; t++) {
        const float *x = a + t * g->vocab, *y = b + t * g->vocab;
        int best = argmax(y, g->vocab), other = argmax(x, g->vocab);
        double error = 0;
        for (int64_t i = 0; i < g->vocab; i++)
            error = fmax(error, fabs((double)x[i] - (double)y[i]));
        wrong += best != other && (double)y[best] - (double)y[other] > 2 * error;
    }
    return wrong;
}

static void compare(const float *gpu, const float *cpu, const struct golden_prompt *golden,
                    const struct engine_options *options, const char *where)
{
    int rows = golden->n_ids - 1;
    check(wrong_tokens(gpu, cpu, golden) == 0, "greedy tokens", where,
          wrong_tokens(gpu, cpu, golden));
    if (options->keeps_inputs) {
        double allowed = options->kv_cache_dtype == DTYPE_F32 ? tolerance_sums : tolerance_cache;
        double d = difference(gpu, cpu, rows * golden->vocab);
        check(d <= allowed, "difference to the CPU", where, d);
        return;
    }
    int n = far_rows(gpu, cpu, golden, tolerance_rounded);
    n_rows += rows;
    n_far += n;
    check(far_rows(gpu, cpu, golden, 2) == 0, "rows that are not numbers, or absurd", where, n);
}

/* Quantized weights take rounded inputs whatever is asked. */
static int always_rounds(const char *name)
{
    return strstr(name, "fp8") != NULL || strstr(name, "int4") != NULL;
}

static enum status run_prompt_on_both(const struct process *process, const char *folder,
                                      const char *name, const struct golden_prompt *golden,
                                      int prompt)
{
    struct engine_options options = golden_options(folder, process);
    static const int chunks[] = {256, 7, 1};
    char where[256];
    float *cpu, *gpu;
    options.mla_mode = MLA_ABSORB;
    options.kv_cache_dtype = prompt % 2 == 0 ? DTYPE_F32 : DTYPE_BF16;
    options.backend = BACKEND_CPU;
    TRY(run_on(&cpu, &options, golden, process, 256));
    options.backend = BACKEND_CUDA;
    for (int i = 0; i < 4;
         i++) { /* the last with rounded inputs; chunks of the first prompt only */
        if (prompt > 0 && (i == 1 || i == 2))
            continue;
        options.keeps_inputs = i < 3 && !always_rounds(name);
        int chunk = chunks[i % 3];
        snprintf(where, sizeof where, "%s prompt %d, %s cache, %s inputs, chunks of %d", name,
                 prompt, dtype_name(options.kv_cache_dtype),
                 options.keeps_inputs ? "exact" : "rounded", chunk);
        TRY(run_on(&gpu, &options, golden, process, chunk));
        compare(gpu, cpu, golden, &options, where);
        if (getenv("SHOW_DIFFERENCES") != NULL)
            printf("%-70s %.2e\n", where,
                   difference(gpu, cpu, (golden->n_ids - 1) * golden->vocab));
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
    for (int i = 0; i < n; i += EACH) {
        struct golden_case golden;
        snprintf(folder, sizeof folder, "%s/%s", root, name[i]);
        TRY(golden_open(&golden, folder));
        for (int k = 0; k < golden.n_prompts; k++)
            TRY(run_prompt_on_both(process, folder, name[i], &golden.prompt[k], k));
        golden_close(&golden);
    }
    return STATUS_OK;
}

static void report(int ranks)
{
    (void)ranks;
    check(n_far * 100 <= n_rows * MOST_FAR, "rows far from the CPU's", "with rounded inputs",
          n_far);
    printf("%d checks, %d failed; %d of %d rows with rounded inputs are far from the CPU's\n",
           n_checks, n_failures, n_far, n_rows);
}

int main(int argc, char **argv)
{
    return golden_main(argc, argv, run_all, report);
}
