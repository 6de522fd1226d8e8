/* golden_run.h - what the tests that run golden checkpoints on several ranks share: the logits of a prompt,
 * checks that are counted, and a main that ends all ranks when one fails. */
#ifndef TESTS_RUNTIME_GOLDEN_RUN_H
#define TESTS_RUNTIME_GOLDEN_RUN_H

#include <math.h>

#include "kernels/core/log.h"
#include "runtime/engine.h"
#include "tests/runtime/golden_cases.h"

static int n_checks, n_failures;

static inline void check(int is_right, const char *what, const char *where, double value)
{
    n_checks++;
    if (is_right)
        return;
    n_failures++;
    printf("FAILED %s: %s: %g\n", where, what, value);
}

/* A golden checkpoint with exact rows in the cache, a prompt in one step. */
static inline struct engine_options golden_options(const char *folder,
                                                   const struct process *process)
{
    struct engine_options options = engine_defaults();
    options.model = folder;
    options.kv_cache_dtype = DTYPE_F32;
    options.max_model_len = 256;
    options.max_num_batched_tokens = 256;
    options.n_threads = process->size == 1 ? 2 : 1;
    return options;
}

struct rows {
    const struct golden_prompt *golden;
    int64_t next;  /* row the next logits belong to */
    float *logits; /* [n_ids - 1, vocab] as they came */
};

static inline enum status keep_row(void *context, int entry, int token, const float *logits)
{
    struct rows *rows = context;
    int64_t vocab = rows->golden->vocab;
    (void)entry;
    (void)token;
    memcpy(rows->logits + rows->next++ * vocab, logits, (size_t)vocab * sizeof *logits);
    return STATUS_OK;
}

/* Runs all ids but the last in steps of `chunk` tokens. */
static inline enum status run_prompt(struct engine *engine, struct rows *rows, int chunk)
{
    int n = rows->golden->n_ids - 1;
    rows->next = 0;
    for (int at = 0; at < n; at += chunk) {
        int count = n - at < chunk ? n - at : chunk;
        const struct step_entry entry = {.sequence = 0, .n_tokens = count, .first_logits = 0};
        const struct step_plan plan = {
            .n_entries = 1, .n_tokens = count, .entry = &entry, .ids = rows->golden->ids + at};
        TRY(engine_step(engine, &plan, keep_row, rows));
    }
    engine_release(engine, 0);
    return STATUS_OK;
}

static inline int argmax(const float *x, int64_t n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* max |a - b| / max |b| over all rows */
static inline double difference(const float *a, const float *b, int64_t n)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) /* NaN counts as worst */
            worst = d;
        largest = fmax(largest, fabs((double)b[i]));
    }
    return worst / largest;
}

/* The main of such a test: `run` on every rank for the folder of checkpoints, then `report` on rank 0. */
static inline int golden_main(int argc, char **argv,
                              enum status (*run)(const struct process *process, const char *root),
                              void (*report)(int ranks))
{
    struct process process;
    if (process_start(&process, &argc, &argv) != STATUS_OK) {
        log_error_line(status_text());
        return 1;
    }
    log_open(process.rank);
    if (run(&process, argc > 1 ? argv[1] : SOURCE_DIR "/tests/golden") != STATUS_OK) {
        log_error_line(status_text());
        fputs(status_frames(), stderr);
        process_abort(&process, 1);
    }
    if (process.rank == 0)
        report(process.size);
    process_end(&process);
    return n_failures > 0;
}

#endif
