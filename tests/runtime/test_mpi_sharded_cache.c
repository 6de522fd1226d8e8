/* test_mpi_sharded_cache.c - a cache whose pages the ranks share gives the logits of a whole one.
 *
 * Several sequences side by side: longer than a page for each rank, ending at and
 * around the end of a page, released and begun again; steps of more tokens than
 * attend at a time, and mixed ones; both forms of attention, all types of cache.
 *
 *   1, 2, 4, 8 ranks   the bits of the same ranks holding every row; those of one rank too where no
 *                      sum over experts stands between them (a dense model)
 *   others, expanded   the bits of the same ranks: rows arrive as they were written
 *   others, absorbed   pages are summed in another order: within 1e-5 of the largest |logit|.  A model
 *                      of one layer, so that a rounded row of the next cannot differ, and with
 *                      f32 rows a deep one
 */
#include <math.h>

#include "kernels/core/log.h"
#include "kernels/core/trace.h"
#include "runtime/engine.h"
#include "runtime/latent_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 4, MAX_LENGTH = 1000, MAX_TOKENS = 900, MAX_ROWS = 1400, MAX_VOCAB = 512 };

static int n_checks, n_failures;

/* With sanitizers every other model. */
#ifdef __SANITIZE_ADDRESS__
enum { MODEL_STEP = 2 };
#else
enum { MODEL_STEP = 1 };
#endif

struct rows {
    int64_t count, vocab;
    float *logits; /* [MAX_ROWS, vocab] */
};

static void check(int is_right, const char *what, const char *where, double value)
{
    n_checks++;
    if (is_right)
        return;
    n_failures++;
    printf("FAILED %s: %s: %g\n", where, what, value);
}

static enum status keep_row(void *context, int entry, int token, const float *logits)
{
    struct rows *rows = context;
    (void)entry;
    (void)token;
    if (rows->count == MAX_ROWS)
        FAIL(STATUS_INVALID, "more than %d rows of logits", MAX_ROWS);
    memcpy(rows->logits + rows->count++ * rows->vocab, logits,
           (size_t)rows->vocab * sizeof *logits);
    return STATUS_OK;
}

/* One step: n_tokens[s] more tokens of each sequence, 0: none; logits of all of them. */
static enum status run_step(struct engine *engine, struct rows *rows, uint64_t *random,
                            const int n_tokens[SEQUENCES])
{
    struct step_entry entry[SEQUENCES];
    int32_t ids[MAX_TOKENS + SEQUENCES];
    struct step_plan plan = {.entry = entry, .ids = ids};
    for (int s = 0; s < SEQUENCES; s++) {
        if (n_tokens[s] == 0)
            continue;
        entry[plan.n_entries++] = (struct step_entry){.sequence = s, .n_tokens = n_tokens[s]};
        for (int i = 0; i < n_tokens[s]; i++) {
            *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            ids[plan.n_tokens++] = (int32_t)((*random >> 33) % (uint64_t)rows->vocab);
        }
    }
    return engine_step(engine, &plan, keep_row, rows);
}

static enum status run_sequences(struct engine *engine, struct rows *rows)
{
    uint64_t random = 20261126;
    static const int prompts[][SEQUENCES] = {{850, 0, 0, 0}, {1, 63, 64, 65}};
    static const int decode[SEQUENCES] = {1, 1, 1, 1}, again[SEQUENCES] = {1, 1, 130, 1};
    for (int i = 0; i < 2; i++)
        TRY(run_step(engine, rows, &random, prompts[i]));
    for (int i = 0; i < 3; i++) /* over the end of a page */
        TRY(run_step(engine, rows, &random, decode));
    engine_release(engine, 2);
    TRY(run_step(engine, rows, &random, again));
    TRY(run_step(engine, rows, &random, decode));
    for (int s = 0; s < SEQUENCES; s++)
        engine_release(engine, s);
    return run_step(engine, rows, &random, decode); /* shorter than a page for each rank */
}

static enum status run(const struct process *process, const struct engine_options *options,
                       struct rows *rows, const char *where)
{
    struct engine *engine;
    struct engine_memory memory;
    TRY(engine_open(&engine, options, process));
    engine_memory(engine, &memory);
    enum status status;
    if (process->rank != 0) {
        status = engine_work(engine);
        engine_close(engine);
        return status;
    }
    int64_t exchanges = trace_value(TRACE_CACHE_EXCHANGES);
    int64_t gathers = trace_value(TRACE_CACHE_GATHERS);
    int is_shared = process->size > 1 && options->kv_placement == KV_SHARDED;
    int is_absorbed = options->mla_mode == MLA_ABSORB;
    rows->count = 0;
    rows->vocab = engine_config(engine)->vocab_size;
    status = rows->vocab <= MAX_VOCAB ? run_sequences(engine, rows) : STATUS_INVALID;
    exchanges = trace_value(TRACE_CACHE_EXCHANGES) - exchanges;
    gathers = trace_value(TRACE_CACHE_GATHERS) - gathers;
    check((exchanges > 0) == (is_shared && is_absorbed), "exchanges", where, (double)exchanges);
    check((gathers > 0) == (is_shared && !is_absorbed), "gathers", where, (double)gathers);

    int64_t page = PAGE_ROWS * memory.cache_token_bytes;
    int members = is_shared ? process->size : 1;
    int64_t most = memory.replicated_cache_bytes / members + (is_shared ? SEQUENCES * page : 0);
    check(memory.cache_members == members, "members", where, memory.cache_members);
    check(memory.cache_bytes <= most, "bytes of the cache", where, (double)memory.cache_bytes);
    engine_close(engine);
    return status;
}

/* max |a - b| / max |b|; NaN counts as worst */
static double difference(const struct rows *a, const struct rows *b)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < b->count * b->vocab; i++) {
        double d = fabs((double)a->logits[i] - (double)b->logits[i]);
        if (!(d <= worst))
            worst = d;
        largest = fmax(largest, fabs((double)b->logits[i]));
    }
    return worst / largest;
}

static const double tolerance_order = 1e-5;

/* Logits of a run, in order: on one rank, on all holding every row, on all sharing them. */
enum { ALONE, WHOLE, SHARED, RUNS };

static void compare(const struct rows rows[RUNS], int from, int has_same_bits, const char *where)
{
    static const char *const bits[RUNS] = {"bits of one rank", "bits of a whole cache"};
    static const char *const order[RUNS] = {"difference to one rank", "... to a whole cache"};
    const struct rows *shared = &rows[SHARED], *other = &rows[from];
    size_t bytes = (size_t)(other->count * other->vocab) * sizeof *other->logits;
    double d = difference(shared, other);
    check(shared->count == other->count && other->count > 1100, "rows", where,
          (double)shared->count);
    if (has_same_bits)
        check(memcmp(shared->logits, other->logits, bytes) == 0, bits[from], where, d);
    else
        check(d <= tolerance_order, order[from], where, d);
}

struct test_case {
    const char *folder;
    int is_dense, is_deep;
    enum dtype dtype;
    enum mla_mode mode;
};

static enum status run_case(const struct process *process, const struct test_case *c,
                            struct rows rows[RUNS])
{
    char where[256];
    struct process one = *process;
    struct engine_options options = engine_defaults();
    int size = process->size, is_tree = size == 1 || size == 2 || size == 4 || size == 8;
    int is_expanded = c->mode == MLA_EXPAND;
    one.size = 1;
    options.model = c->folder;
    options.is_dummy = !c->is_deep;
    options.ep = 1;
    options.mla_mode = c->mode;
    options.kv_cache_dtype = c->dtype;
    options.max_model_len = MAX_LENGTH;
    options.max_num_seqs = SEQUENCES;
    options.max_num_batched_tokens = MAX_TOKENS;
    snprintf(where, sizeof where, "%s, %d ranks, %s cache, %s", strrchr(c->folder, '/') + 1, size,
             c->dtype == DTYPE_U8 ? "fp8_ds_mla" : dtype_name(c->dtype),
             is_expanded ? "expanded" : "absorbed");

    if (process->rank == 0)
        TRY(run(&one, &options, &rows[ALONE], where));
    TRY(run(process, &options, &rows[WHOLE], where));
    options.kv_placement = KV_SHARDED;
    TRY(run(process, &options, &rows[SHARED], where));
    if (process->rank != 0)
        return STATUS_OK;
    if (is_tree || is_expanded || !c->is_deep || c->dtype == DTYPE_F32)
        compare(rows, WHOLE, is_tree || is_expanded, where);
    if ((is_tree && c->is_dense) || !c->is_deep || c->dtype == DTYPE_F32)
        compare(rows, ALONE, is_tree && c->is_dense, where);
    return STATUS_OK;
}

static enum status run_all(const struct process *process, const char *root, struct rows rows[RUNS])
{
    static const struct test_case model[] = {
        {.folder = "runtime/one_layer", .is_dense = 1},
        {.folder = "golden/t11-dense", .is_dense = 1, .is_deep = 1},
        {.folder = "golden/t3-v3", .is_deep = 1},
        {.folder = "golden/t1-v2-greedy", .is_deep = 1},
    };
    static const enum dtype dtype[] = {DTYPE_BF16, DTYPE_U8, DTYPE_F32};
    for (int i = 0; i < (int)(sizeof model / sizeof model[0]); i += MODEL_STEP)
        for (int d = 0; d < 3; d++)
            for (int expands = 0; expands < 2; expands++) {
                char folder[1024];
                struct test_case c = model[i];
                snprintf(folder, sizeof folder, "%s/%s", root, c.folder);
                c.folder = folder;
                c.dtype = dtype[d];
                c.mode = expands ? MLA_EXPAND : MLA_ABSORB;
                TRY(run_case(process, &c, rows));
            }
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    struct process process;
    if (process_start(&process, &argc, &argv) != STATUS_OK) {
        log_error_line(status_text());
        return 1;
    }
    log_open(process.rank);
    struct rows rows[RUNS];
    enum status status = STATUS_OK;
    for (int i = 0; i < RUNS; i++) {
        rows[i].logits = malloc(MAX_ROWS * (size_t)MAX_VOCAB * sizeof(float));
        if (rows[i].logits == NULL)
            status = STATUS_NO_MEMORY;
    }
    if (status == STATUS_OK)
        status = run_all(&process, SOURCE_DIR "/tests", rows);
    if (status != STATUS_OK) {
        log_error_line(status_text());
        fputs(status_frames(), stderr);
        process_abort(&process, 1);
    }
    if (process.rank == 0)
        printf("%d checks on %d ranks, %d failed\n", n_checks, process.size, n_failures);
    for (int i = 0; i < RUNS; i++)
        free(rows[i].logits);
    process_end(&process);
    return n_failures > 0;
}
