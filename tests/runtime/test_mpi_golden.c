/* test_mpi_golden.c - every golden checkpoint against the float64 oracle, on this many ranks.
 *
 * For ep = 1 and ep = all ranks, for absorbed and expanded attention, and with a cache that
 * every rank holds and one that they share: logits of all positions within 2e-4 of the largest |logit|, greedy tokens equal; the
 * prompt in chunks and token by token; absorbed = expanded = the same on one
 * rank, within 1e-5; trace counters prove that the form meant was the one that ran.
 */
#include "kernels/core/trace.h"
#include "tests/runtime/golden_run.h"

static const double tolerance = 2e-4, tolerance_forms = 1e-5;

/* With sanitizers 7 and 8 ranks take every third case: the others run on fewer. */
#ifdef __SANITIZE_ADDRESS__
enum { MANY_RANKS_STEP = 3 };
#else
enum { MANY_RANKS_STEP = 1 };
#endif

static void compare(const struct rows *rows, const char *where)
{
    const struct golden_prompt *g = rows->golden;
    double d = difference(rows->logits, g->logits, (g->n_ids - 1) * g->vocab);
    int wrong = 0;
    check(rows->next == g->n_ids - 1, "rows of logits", where, (double)rows->next);
    check(d <= tolerance, "difference to the oracle", where, d);
    for (int t = g->n_prompt - 1; t < g->n_ids - 1; t++)
        wrong += argmax(rows->logits + t * g->vocab, g->vocab) != g->ids[t + 1];
    check(wrong == 0, "greedy tokens that differ", where, wrong);
}

struct layout {
    int ep;
    enum mla_mode mode;
    enum kv_placement placement;
    int dp, pp; /* 0: 1 */
    enum all2all_backend all2all;
};

/* One checkpoint, one layout; rank 0 compares. */
static enum status run_case(const struct process *process, const char *folder, const char *name,
                            const struct layout *layout, int chunk, float *kept[])
{
    int ep = layout->ep, is_sharded = layout->placement == KV_SHARDED;
    enum mla_mode mode = layout->mode;
    struct engine_options options = golden_options(folder, process);
    struct engine *engine;
    struct golden_case golden = {0};
    char where[256];
    enum status status = STATUS_OK;

    options.ep = ep;
    options.mla_mode = mode;
    options.kv_placement = layout->placement;
    options.dp = layout->dp;
    options.pp = layout->pp;
    options.all2all = layout->all2all;
    options.max_num_batched_tokens = chunk;
    TRY(engine_open(&engine, &options, process));
    if (process->rank != 0) {
        status = engine_work(engine);
        engine_close(engine);
        return status;
    }
    TRY_GOTO(status, end, golden_open(&golden, folder));
    check(golden.n_prompts > 0, "prompts", name, golden.n_prompts);
    for (int i = 0; i < golden.n_prompts; i++) {
        struct rows rows = {.golden = &golden.prompt[i]};
        int64_t count = (rows.golden->n_ids - 1) * rows.golden->vocab;
        int64_t absorbed = trace_value(TRACE_ATTENTION_ABSORBED);
        int64_t expanded = trace_value(TRACE_ATTENTION_EXPANDED);
        int64_t shared = trace_value(TRACE_CACHE_EXCHANGES) + trace_value(TRACE_CACHE_GATHERS);
        snprintf(
            where, sizeof where, "%s prompt %d, %d ranks, ep %d, dp %d, pp %d, %s%s, chunks of %d",
            name, i, process->size, ep, layout->dp, layout->pp,
            mode == MLA_ABSORB ? "absorbed" : "expanded", is_sharded ? ", sharded" : "", chunk);
        rows.logits = malloc((size_t)count * sizeof *rows.logits);
        TRY_GOTO(status, end, run_prompt(engine, &rows, chunk));
        compare(&rows, where);
        absorbed = trace_value(TRACE_ATTENTION_ABSORBED) - absorbed;
        expanded = trace_value(TRACE_ATTENTION_EXPANDED) - expanded;
        check((absorbed > 0) == (mode == MLA_ABSORB), "absorbed layers", where, (double)absorbed);
        shared = trace_value(TRACE_CACHE_EXCHANGES) + trace_value(TRACE_CACHE_GATHERS) - shared;
        check((shared > 0) == is_sharded, "exchanges over the cache", where, (double)shared);
        check((expanded > 0) == (mode == MLA_EXPAND), "expanded layers", where, (double)expanded);
        if (kept[i] == NULL) {
            kept[i] = rows.logits;
            continue;
        }
        double d = difference(rows.logits, kept[i], count);
        check(d <= tolerance_forms, "difference to one rank, absorbed, chunks of 50", where, d);
        free(rows.logits);
    }
end:
    golden_close(&golden);
    engine_close(engine);
    return status;
}

/* All ranks as replicas, with each exchange of experts; two replicas of several ranks; two stages. */
static enum status run_replicas(const struct process *process, const char *folder, const char *name,
                                float *kept[])
{
    int ranks = process->size;
    const struct layout layouts[] = {
        {.mode = MLA_ABSORB, .dp = ranks},
        {.mode = MLA_ABSORB, .dp = ranks, .all2all = ALL2ALL_ALLTOALL},
        {.ep = 1, .mode = MLA_EXPAND, .dp = ranks, .all2all = ALL2ALL_ALLTOALL},
        {.mode = MLA_ABSORB, .dp = ranks / 2},
        {.mode = MLA_ABSORB, .dp = 2, .placement = KV_SHARDED, .all2all = ALL2ALL_ALLTOALL},
        {.mode = MLA_ABSORB, .pp = 2},
        {.mode = MLA_EXPAND, .pp = 2, .dp = ranks / 2},
    };
    TRY(run_case(process, folder, name, &layouts[1], 50, kept));
#ifdef __SANITIZE_ADDRESS__ /* several times as long */
    return ranks % 2 == 0 ? run_case(process, folder, name, &layouts[6], 50, kept) : STATUS_OK;
#endif
    TRY(run_case(process, folder, name, &layouts[0], 50, kept));
    TRY(run_case(process, folder, name, &layouts[2], 1, kept));
    if (ranks % 2 != 0)
        return STATUS_OK;
    if (ranks > 2) {
        TRY(run_case(process, folder, name, &layouts[3], 50, kept));
        TRY(run_case(process, folder, name, &layouts[4], 50, kept));
    }
    TRY(run_case(process, folder, name, &layouts[5], 50, kept));
    return run_case(process, folder, name, &layouts[6], 50, kept);
}

static enum status run_all(const struct process *process, const char *root)
{
    char name[GOLDEN_MAX_CASES][64], folder[1024];
    int n = golden_list(root, name);
    check(n > 0, "golden cases found", root, n);
    for (int i = 0; i<n; i += process->size> 4 ? MANY_RANKS_STEP : 1) {
        int ranks = process->size;
        int experts_split = strstr(name[i], "dense") == NULL;
        float *kept[GOLDEN_MAX_PROMPTS] = {NULL};
        const struct layout first = {.ep = 1, .mode = MLA_ABSORB};
        struct process alone = *process;
        alone.size = 1; /* and has two threads */
        snprintf(folder, sizeof folder, "%s/%s", root, name[i]);
        if (process->rank == 0)
            TRY(run_case(&alone, folder, name[i], &first, 50, kept));
        for (int ep = 1; ep <= ranks; ep += ranks > 1 ? ranks - 1 : 1) {
            if (ep > 1 && !experts_split)
                break;
            const struct layout absorbed = {.ep = ep, .mode = MLA_ABSORB};
            const struct layout expanded = {.ep = ep, .mode = MLA_EXPAND};
            if (ranks > 1)
                TRY(run_case(process, folder, name[i], &absorbed, 50, kept));
            TRY(run_case(process, folder, name[i], &expanded, 128, kept));
            TRY(run_case(process, folder, name[i], &absorbed, 1, kept));
        }
        const struct layout absorbed = {.ep = 1, .mode = MLA_ABSORB, .placement = KV_SHARDED};
        const struct layout expanded = {.ep = 1, .mode = MLA_EXPAND, .placement = KV_SHARDED};
        if (ranks > 1) {
            TRY(run_case(process, folder, name[i], &absorbed, 50, kept));
            TRY(run_case(process, folder, name[i], &expanded, 128, kept));
            TRY(run_case(process, folder, name[i], &absorbed, 1, kept));
        }
        if (ranks > 1)
            TRY(run_replicas(process, folder, name[i], kept));
        for (int k = 0; k < GOLDEN_MAX_PROMPTS; k++)
            free(kept[k]);
    }
    return STATUS_OK;
}

static void report(int ranks)
{
    printf("%d checks on %d ranks, %d failed\n", n_checks, ranks, n_failures);
}

int main(int argc, char **argv)
{
    return golden_main(argc, argv, run_all, report);
}
