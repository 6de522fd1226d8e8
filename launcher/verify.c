/* verify.c - the same prompts through a list of layouts, each compared with one rank. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher/commands.h"
#include "launcher/failure.h"
#include "launcher/launch.h"
#include "launcher/layouts.h"
#include "launcher/logits_compare.h"
#include "launcher/random_numbers.h"
#include "launcher/report.h"
#include "parallel/process.h"
#include "runtime/model_config.h"
#include "runtime/step_trace.h"

/* Of the largest |logit| of a row: what sums in another order may change. */
#define TOLERANCE 2e-4

enum { PATH_BYTES = 4096, ERROR_BYTES = 512, ARGUMENTS_MAX = 40 };

static const char default_layouts[] =
    "tp=2;tp=2,ep=1;tp=2,kv=sharded;tp=2,ep=1,kv=sharded,comm=mpi;tp=3;tp=3,kv=sharded;tp=4;tp=4,"
    "ep=1;"
    "tp=4,ep=2;tp=4,kv=sharded;tp=4,comm=mpi;tp=8;tp=8,ep=1;tp=8,kv=sharded;tp=1,dp=2;tp=2,dp=2;"
    "tp=1,dp=4,a2a=alltoall;tp=2,dp=2,kv=sharded,a2a=alltoall;tp=1,pp=2;tp=2,dp=2,pp=2";
static const char default_bit_layouts[] =
    "tp=1,ep=1;tp=2,ep=2;tp=2,ep=2,kv=sharded;tp=2,ep=2,kv=sharded,comm=mpi;tp=4,ep=4;"
    "tp=4,ep=4,kv=sharded;tp=4,ep=4,comm=mpi;tp=8,ep=8;tp=8,ep=8,kv=sharded;tp=8,ep=8,comm=mpi;"
    "tp=1,dp=2,ep=2;tp=2,dp=2,ep=4,a2a=alltoall;tp=1,dp=8,ep=8;tp=1,pp=2;tp=2,dp=2,pp=2,ep=4";

/* At the ends of a page of the cache, and across many. */
static const int default_lengths[] = {1, 63, 64, 65, 700};
enum { DEFAULT_PROMPTS = sizeof default_lengths / sizeof default_lengths[0] };

struct row {
    struct logits_difference worst; /* over the prompts */
    char error[ERROR_BYTES];        /* of a job that failed; "" */
    int passed;
    int ties; /* prompts in which a token chose other experts: left out of `worst` */
    struct step_trace_place first; /* where the last such, or the one that fails, differs first */
    char ranks[ERROR_BYTES];       /* what its ranks say when they compare themselves; "" */
};

struct verify {
    const struct options *options;
    struct layout *layout;
    struct row *row;
    int n_layouts, n_prompts;
    char **prompt; /* ids as text */
    char folder[64];
};

/* "FOLDER/NAME", or with a number "FOLDER/NAME-NUMBER". */
static const char *path_in(const struct verify *v, char path[PATH_BYTES], const char *name,
                           int number)
{
    if (number < 0)
        snprintf(path, PATH_BYTES, "%s/%s", v->folder, name);
    else
        snprintf(path, PATH_BYTES, "%s/%s-%d", v->folder, name, number);
    return path;
}

static char *random_prompt(int length, int number, int64_t vocab_size)
{
    size_t used = 0, size = (size_t)length * 12;
    char *text = malloc(size);
    for (int i = 0; i < length && text != NULL; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%d", i > 0 ? "," : "",
                                 (int)(random_number((uint64_t)number, i) % (uint64_t)vocab_size));
    return text;
}

/* Those of the user, else random ids, as long as the model takes them. */
static enum status take_prompts(struct verify *v)
{
    const struct text_list *given = &v->options->prompt_ids;
    struct model_config config;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/config.json", v->options->model);
    TRY(model_config_load(&config, path));
    TRY(model_config_check_supported(&config, path));
    int n = given->count > 0 ? given->count : DEFAULT_PROMPTS;
    v->prompt = calloc((size_t)n, sizeof *v->prompt);
    if (v->prompt == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d prompts", n);
    for (int i = 0; i < n; i++) {
        if (given->count == 0 && default_lengths[i] + v->options->max_tokens > config.max_position)
            continue;
        char *text = given->count > 0 ? strdup(given->text[i])
                                      : random_prompt(default_lengths[i], i, config.vocab_size);
        if (text == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for a prompt");
        v->prompt[v->n_prompts++] = text;
    }
    if (v->n_prompts == 0)
        FAIL(STATUS_USAGE,
             "--max-tokens %lld: the model takes %d tokens in all (max_position_embeddings)",
             (long long)v->options->max_tokens, config.max_position);
    return STATUS_OK;
}

/* All options, as the jobs read them by --config. */
static enum status write_config(const struct verify *v)
{
    char path[PATH_BYTES], *text = options_json(v->options);
    FILE *file = fopen(path_in(v, path, "options.json", -1), "w");
    int is_written = text != NULL && file != NULL && fputs(text, file) >= 0;
    if (file != NULL && fclose(file) != 0)
        is_written = 0;
    free(text);
    if (!is_written)
        FAIL(STATUS_IO, "%s: cannot be written: %s", path, strerror(errno));
    return STATUS_OK;
}

/* `out` is written by the job, of several prompts `out`-0, `out`-1, ..., else `error` says what it said.
 * `layout` NULL: the reference. */
static enum status run_job(const struct verify *v, const struct layout *layout, int first_prompt,
                           int n_prompts, const char *out, char error[ERROR_BYTES])
{
    const struct options *o = v->options;
    char config[PATH_BYTES], log[PATH_BYTES], side_by_side[16];
    int n = 0, exit_code;
    const char **argument = calloc((size_t)(ARGUMENTS_MAX + 2 * n_prompts), sizeof *argument);
    if (argument == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d prompts", n_prompts);
    argument[n++] = "generate";
    argument[n++] = "--config";
    argument[n++] = path_in(v, config, "options.json", -1);
    for (int i = 0; i < n_prompts; i++) {
        argument[n++] = "--prompt-ids";
        argument[n++] = v->prompt[first_prompt + i];
    }
    snprintf(side_by_side, sizeof side_by_side, "%d", n_prompts);
    argument[n++] = "--max-num-seqs";
    argument[n++] = side_by_side;
    argument[n++] = "--ignore-eos";
    argument[n++] = "--dump-logits";
    argument[n++] = out;
    /* rounded rows would turn the last bits of sums into more */
    if (o->kv_cache_dtype == CACHE_AUTO && o->deterministic != DETERMINISTIC_OPTION_LAYOUT) {
        argument[n++] = "--kv-cache-dtype";
        argument[n++] = "f32";
    }
    for (int i = 0; layout != NULL && i < layout->n_options; i++) {
        argument[n++] = layout->name[i];
        argument[n++] = layout->value[i];
    }
    argument[n] = NULL;
    error[0] = '\0';
    enum status status = launch_job(&exit_code, o->launch, layout != NULL ? layout->ranks : 1,
                                    argument, path_in(v, log, "stderr", -1));
    free(argument);
    TRY(status);
    if (exit_code == 0)
        return STATUS_OK;
    int used = snprintf(error, ERROR_BYTES, "exit code %d: ", exit_code);
    launch_error(error + used, (size_t)(ERROR_BYTES - used), log);
    return STATUS_OK;
}

static enum status run_reference(const struct verify *v)
{
    char path[PATH_BYTES], error[ERROR_BYTES];
    for (int i = 0; i < v->n_prompts; i++) {
        TRY(run_job(v, NULL, i, 1, path_in(v, path, "one", i), error));
        if (error[0] != '\0')
            FAIL(STATUS_INVALID, "one rank, with which the layouts are compared: %s", error);
    }
    return STATUS_OK;
}

static int passes(const struct verify *v, const struct logits_difference *difference)
{
    if (v->options->deterministic == DETERMINISTIC_OPTION_LAYOUT)
        return difference->same_bits;
    return difference->same_tokens && difference->max_rel_diff <= TOLERANCE;
}

/* A job that writes its trace to `name` and whose ranks compare themselves. */
static enum status trace_job(const struct verify *v, const struct layout *layout, int prompt,
                             const char *name, char error[ERROR_BYTES])
{
    char path[PATH_BYTES], out[PATH_BYTES];
    setenv("LATENTRANK_DEBUG_TRACE", path_in(v, path, name, -1), 1);
    setenv("LATENTRANK_DEBUG_CHECK", "1", 1);
    enum status status = run_job(v, layout, prompt, 1, path_in(v, out, "layout", -1), error);
    unsetenv("LATENTRANK_DEBUG_TRACE");
    unsetenv("LATENTRANK_DEBUG_CHECK");
    unlink(out);
    return status;
}

/* Runs one rank and the layout once more, to see which tensor is the first that differs. */
static enum status find_first(const struct verify *v, int index, int prompt)
{
    struct row *row = &v->row[index];
    char expected[PATH_BYTES], found[PATH_BYTES], error[ERROR_BYTES];
    int compares_bits = v->options->deterministic == DETERMINISTIC_OPTION_LAYOUT;
    TRY(trace_job(v, NULL, prompt, "trace-one", error));
    TRY(trace_job(v, &v->layout[index], prompt, "trace-layout", row->ranks));
    return step_trace_compare(&row->first, path_in(v, expected, "trace-one", -1),
                              path_in(v, found, "trace-layout", -1),
                              compares_bits ? -1 : TOLERANCE);
}

/* All before the choice of experts is alike, so their scores nearly tie. */
static int is_tie(const struct verify *v, const struct row *row)
{
    return v->options->deterministic != DETERMINISTIC_OPTION_LAYOUT && row->ranks[0] == '\0' &&
           strcmp(row->first.name, STEP_CHOSEN_EXPERTS) == 0;
}

static void take_worst(struct row *row, const struct logits_difference *one)
{
    if (one->max_rel_diff > row->worst.max_rel_diff)
        row->worst.max_rel_diff = one->max_rel_diff;
    row->worst.same_tokens &= one->same_tokens;
    row->worst.same_bits &= one->same_bits;
}

/* Where the job of a layout writes the logits of a prompt. */
static const char *found_path(const struct verify *v, char path[PATH_BYTES], int prompt)
{
    return path_in(v, path, "layout", v->n_prompts > 1 ? prompt : -1);
}

/* All prompts side by side, which on one rank ran alone.  Ends with the first one that fails. */
static enum status run_layout(const struct verify *v, int index)
{
    struct row *row = &v->row[index];
    char found[PATH_BYTES], expected[PATH_BYTES];
    row->worst = (struct logits_difference){.same_tokens = 1, .same_bits = 1};
    TRY(run_job(v, &v->layout[index], 0, v->n_prompts, path_in(v, found, "layout", -1),
                row->error));
    row->passed = row->error[0] == '\0';
    if (!row->passed)
        return STATUS_OK;
    for (int i = 0; i < v->n_prompts && row->passed; i++) {
        struct logits_difference one;
        TRY(logits_compare(&one, path_in(v, expected, "one", i), found_path(v, found, i)));
        if (!passes(v, &one)) {
            TRY(find_first(v, index, i));
            row->passed = is_tie(v, row);
            row->ties += row->passed;
            row->worst.same_bits = 0;
        }
        if (passes(v, &one) || !row->passed)
            take_worst(row, &one);
    }
    row->passed &= row->ties < v->n_prompts; /* else nothing was compared */
    return STATUS_OK;
}

/* What stands behind "passed" or "FAILED": where it differs first, and what the ranks said. */
static const char *describe(const struct verify *v, const struct row *row, char *text, size_t size)
{
    char layer[32] = "";
    size_t used = 0;
    text[0] = '\0';
    if (row->passed && row->ties == 0)
        return text;
    if (row->first.layer >= 0)
        snprintf(layer, sizeof layer, "layer %d, ", row->first.layer);
    if (row->ties > 0)
        used = (size_t)snprintf(text, size, ", %d of %d prompts to nearly tied experts only",
                                row->ties, v->n_prompts);
    if (row->first.name[0] == '\0')
        snprintf(text + used, size - used, "; no tensor before the logits differs");
    else
        snprintf(text + used, size - used, "; the first to differ: step %lld, %s%s (%.1e)%s%s",
                 (long long)row->first.step, layer, row->first.name, row->first.difference,
                 row->ranks[0] != '\0' ? "; " : "", row->ranks);
    return text;
}

static enum status print_row(const struct verify *v, int index)
{
    const struct row *row = &v->row[index];
    char line[LAYOUT_TEXT_MAX + 2 * ERROR_BYTES + 256], first[2 * ERROR_BYTES] = "";
    if (row->error[0] != '\0')
        snprintf(line, sizeof line, "%-32s %12s %7s %6s  %s", v->layout[index].text, "-", "-", "-",
                 row->error);
    else
        snprintf(line, sizeof line, "%-32s %12.2e %7s %6s  %s%s", v->layout[index].text,
                 row->worst.max_rel_diff, row->worst.same_tokens ? "same" : "differ",
                 row->worst.same_bits ? "same" : "differ", row->passed ? "passed" : "FAILED",
                 describe(v, row, first, sizeof first));
    return report_line(line);
}

static enum status run_all(struct verify *v, int *failed)
{
    char line[LAYOUT_TEXT_MAX];
    TRY(run_reference(v));
    snprintf(line, sizeof line, "%-32s %12s %7s %6s", "layout", "max_rel_diff", "tokens", "bits");
    if (!v->options->json)
        TRY(report_line(line));
    *failed = 0;
    for (int i = 0; i < v->n_layouts; i++) {
        TRY(run_layout(v, i));
        *failed += !v->row[i].passed;
        if (!v->options->json)
            TRY(print_row(v, i));
    }
    return STATUS_OK;
}

static json_t *row_json(const struct layout *layout, const struct row *row)
{
    json_t *root = json_object();
    json_object_set_new(root, "layout", report_text(layout->text, strlen(layout->text)));
    json_object_set_new(root, "passed", json_boolean(row->passed));
    if (row->error[0] != '\0') {
        json_object_set_new(root, "error", report_text(row->error, strlen(row->error)));
        return root;
    }
    json_object_set_new(root, "max_rel_diff", report_real(row->worst.max_rel_diff));
    json_object_set_new(root, "same_tokens", json_boolean(row->worst.same_tokens));
    json_object_set_new(root, "same_bits", json_boolean(row->worst.same_bits));
    json_object_set_new(root, "ties", json_integer(row->ties));
    if (row->passed && row->ties == 0)
        return root;
    const struct step_trace_place *first = &row->first;
    if (first->name[0] != '\0')
        json_object_set_new(root, "first_difference",
                            json_pack("{s:I, s:i, s:s, s:o}", "step", (json_int_t)first->step,
                                      "layer", first->layer, "tensor", first->name, "difference",
                                      report_real(first->difference)));
    if (row->ranks[0] != '\0')
        json_object_set_new(root, "ranks_say", report_text(row->ranks, strlen(row->ranks)));
    return root;
}

static enum status report(const struct verify *v, int failed)
{
    json_t *rows = json_array();
    for (int i = 0; i < v->n_layouts; i++)
        json_array_append_new(rows, row_json(&v->layout[i], &v->row[i]));
    return report_json(json_pack("{s:o, s:i, s:i, s:i}", "rows", rows, "prompts", v->n_prompts,
                                 "passed", v->n_layouts - failed, "failed", failed));
}

static enum status open_verify(struct verify *v)
{
    const struct options *o = v->options;
    const char *temporary = getenv("TMPDIR");
    int is_layout = o->deterministic == DETERMINISTIC_OPTION_LAYOUT;
    TRY(layouts_parse(&v->layout, &v->n_layouts,
                      o->layouts != NULL ? o->layouts
                      : is_layout        ? default_bit_layouts
                                         : default_layouts));
    TRY(take_prompts(v));
    v->row = calloc((size_t)v->n_layouts, sizeof *v->row);
    if (v->row == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d layouts", v->n_layouts);
    if (temporary == NULL || strlen(temporary) + 32 > sizeof v->folder)
        temporary = "/tmp";
    snprintf(v->folder, sizeof v->folder, "%s/latentrank_verify_XXXXXX", temporary);
    if (mkdtemp(v->folder) == NULL) {
        int error = errno;
        v->folder[0] = '\0';
        FAIL(STATUS_IO, "no folder for logits in %s: %s", temporary, strerror(error));
    }
    return write_config(v);
}

static void close_verify(struct verify *v)
{
    static const char *const files[] = {"options.json", "stderr", "layout", "trace-one",
                                        "trace-layout"};
    char path[PATH_BYTES];
    for (int i = 0; i < v->n_prompts; i++) {
        if (v->folder[0] != '\0') {
            unlink(path_in(v, path, "one", i));
            unlink(found_path(v, path, i));
        }
        free(v->prompt[i]);
    }
    for (size_t i = 0; v->folder[0] != '\0' && i < sizeof files / sizeof files[0]; i++)
        unlink(path_in(v, path, files[i], -1));
    if (v->folder[0] != '\0')
        rmdir(v->folder);
    free(v->prompt);
    free(v->layout);
    free(v->row);
}

enum status verify_run(const struct options *options)
{
    struct verify v = {.options = options};
    int failed = 0;
    if (process_is_launched())
        FAIL(STATUS_USAGE,
             "verify starts the jobs itself: run it without mpirun (--launch says how "
             "jobs are started)");
    launch_catch_signals();
    enum status status = open_verify(&v);
    if (status == STATUS_OK)
        status = run_all(&v, &failed);
    if (status == STATUS_OK && options->json)
        status = report(&v, failed);
    close_verify(&v);
    if (launch_was_stopped())
        exit(EXIT_INTERRUPTED);
    TRY(status);
    if (failed > 0)
        FAIL(STATUS_INVALID, "%d of %d layouts do not give what one rank gives", failed,
             v.n_layouts);
    return STATUS_OK;
}
