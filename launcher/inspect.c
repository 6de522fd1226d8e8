/* inspect.c - what a model holds, what its cache costs, and what each rank of a hypothetical world
 * would hold.  Arithmetic on config.json and the headers of the weights. */
#include "launcher/commands.h"
#include "launcher/inspect_experts.h"
#include "launcher/report.h"
#include "parallel/mesh.h"
#include "parallel/shard_plan.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { RANKS_MAX = 1 << 16 };

struct rank_share {
    struct shard_plan plan;
    int ep_index;
    int64_t weight_bytes;
};

struct inspection {
    const char *path; /* as the user gave it */
    struct model_config config;
    struct model_size size;
    struct safetensors *checkpoint; /* NULL: no weights there */
    struct mesh mesh;
    int64_t weight_bytes;               /* as stored */
    int has_i8_weights;                 /* in the ranks' memory */
    int64_t row_f32, row_bf16, row_fp8; /* bytes of a cached row, one token and layer */
    int64_t token_bytes, expanded_token_bytes, paper_token_bytes;
    struct inspect_experts experts;
    struct rank_share *rank;      /* [mesh.world.size] */
    char reason[STATUS_TEXT_MAX]; /* empty: supported */
};

static int has_weights(const char *directory)
{
    static const char *const name[] = {"model.safetensors", "model.safetensors.index.json"};
    char path[4096];
    struct stat found;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, name[i]);
        if (lstat(path, &found) == 0)
            return 1;
    }
    return 0;
}

static enum status open_model(struct inspection *inspection, const struct options *options)
{
    struct model_config *config = &inspection->config;
    inspection->path = options->model != NULL ? options->model : options->model_config;
    TRY(model_config_load(config, inspection->path));
    snprintf(inspection->reason, sizeof inspection->reason, "%s", config->unsupported);
    if (config->is_countable)
        model_config_size(config, &inspection->size);
    if (options->model == NULL || !has_weights(options->model))
        return STATUS_OK;
    TRY(safetensors_open(&inspection->checkpoint, options->model));
    for (int i = 0; i < safetensors_count(inspection->checkpoint); i++)
        inspection->weight_bytes += safetensors_at(inspection->checkpoint, i)->bytes;
    if (inspection->reason[0] == '\0' &&
        weights_check(config, inspection->checkpoint) != STATUS_OK) {
        snprintf(inspection->reason, sizeof inspection->reason, "%s", status_text());
        status_clear();
    }
    return STATUS_OK;
}

/* Names as in the papers: latent row = d_c + d_r numbers; expanded = keys and values of every head. */
static void size_cache(struct inspection *inspection)
{
    const struct model_config *config = &inspection->config;
    int64_t layers = config->n_layers, heads = config->n_heads;
    int64_t row = config->d_c + config->d_r;
    inspection->row_f32 = row * 4;
    inspection->row_bf16 = row * 2;
    /* e4m3 with an f32 scale for each 128 numbers; the RoPE part stays bf16 */
    inspection->row_fp8 = config->d_c + (config->d_c + 127) / 128 * 4 + config->d_r * 2;
    inspection->token_bytes = layers * inspection->row_bf16;
    inspection->expanded_token_bytes =
        layers * heads * (config->d_n + config->d_r + config->d_v) * 2;
    inspection->paper_token_bytes = layers * heads * 2 * config->d_n * 2;
}

static enum status share_ranks(struct inspection *inspection, const struct options *options)
{
    struct model_extent extent = weights_extent(&inspection->config);
    const struct safetensors *checkpoint =
        inspection->reason[0] == '\0' ? inspection->checkpoint : NULL;
    int dp = (int)options->dp, pp = (int)options->pp, ep = (int)options->ep;
    int tp = options->tp != 0 ? (int)options->tp : ep > dp ? ep / dp : 1;
    struct mesh_spec spec = {.world_size = tp * dp * pp,
                             .tp_size = tp,
                             .ep_size = ep,
                             .dp_size = dp,
                             .pp_size = pp,
                             .n_experts = inspection->config.router.n_experts,
                             .n_layers = inspection->config.n_layers};
    if ((int64_t)tp * dp * pp > RANKS_MAX)
        FAIL(STATUS_USAGE, "--tp %d x --dp %d x --pp %d: a hypothetical world has up to %d ranks",
             tp, dp, pp, RANKS_MAX);
    inspection->has_i8_weights = options->weight_dtype == WEIGHT_INT8;
    TRY(mesh_build(&inspection->mesh, &spec, 0));
    TRY(inspect_experts_open(&inspection->experts, options, &inspection->config,
                             inspection->mesh.ep.size));
    extent.n_experts += options->redundant_experts;
    inspection->rank = calloc((size_t)spec.world_size, sizeof *inspection->rank);
    if (inspection->rank == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d ranks", spec.world_size);
    for (int i = 0; i < spec.world_size; i++) {
        struct mesh mesh;
        struct rank_share *share = &inspection->rank[i];
        TRY(mesh_build(&mesh, &spec, i));
        shard_plan_build(&share->plan, &extent, &mesh);
        share->plan.expert_maps = inspection->experts.maps;
        share->ep_index = mesh.ep.index;
        if (!inspection->config.is_countable)
            continue;
        TRY((inspection->has_i8_weights ? weights_rank_i8_bytes : weights_rank_bytes)(
            &inspection->config, checkpoint, &share->plan, &share->weight_bytes));
    }
    return STATUS_OK;
}

/* Without files: every tensor in the type the config names, as one rank would read it. */
static enum status count_config_bytes(struct inspection *inspection)
{
    struct model_extent extent = weights_extent(&inspection->config);
    struct mesh_spec spec = {.world_size = 1, .n_experts = inspection->config.router.n_experts};
    struct mesh mesh;
    struct shard_plan plan;
    if (inspection->checkpoint != NULL || !inspection->config.is_countable)
        return STATUS_OK;
    TRY(mesh_build(&mesh, &spec, 0));
    shard_plan_build(&plan, &extent, &mesh);
    return weights_rank_bytes(&inspection->config, NULL, &plan, &inspection->weight_bytes);
}

static json_t *ranks_json(const struct inspection *inspection)
{
    json_t *ranks = json_array();
    for (int i = 0; i < inspection->mesh.world.size; i++) {
        const struct rank_share *share = &inspection->rank[i];
        const struct shard_plan *plan = &share->plan;
        json_t *rank =
            json_pack("{s:i, s:I, s:[I,I], s:[I,I], s:[I,I], s:[I,I]}", "rank", i, "weight_bytes",
                      (json_int_t)share->weight_bytes, "layers", (json_int_t)plan->layers.begin,
                      (json_int_t)plan->layers.end, "heads", (json_int_t)plan->heads.begin,
                      (json_int_t)plan->heads.end, "experts", (json_int_t)plan->experts.begin,
                      (json_int_t)plan->experts.end, "vocab", (json_int_t)plan->vocab.begin,
                      (json_int_t)plan->vocab.end);
        if (inspection->experts.maps != NULL)
            json_object_set_new(rank, "expert_load",
                                report_real(inspect_experts_rank_load(
                                    &inspection->experts, plan->layers, share->ep_index)));
        json_array_append_new(ranks, rank);
    }
    return ranks;
}

static json_t *cache_json(const struct inspection *inspection)
{
    double token = (double)inspection->token_bytes;
    return json_pack(
        "{s:{s:I, s:I, s:I}, s:I, s:I, s:o, s:o, s:{s:o, s:o}}", "row_bytes", "f32",
        (json_int_t)inspection->row_f32, "bf16", (json_int_t)inspection->row_bf16, "fp8_ds_mla",
        (json_int_t)inspection->row_fp8, "bytes_per_token", (json_int_t)inspection->token_bytes,
        "expanded_bytes_per_token", (json_int_t)inspection->expanded_token_bytes, "ratio",
        report_real(token / (double)inspection->expanded_token_bytes), "paper_ratio",
        report_real(token / (double)inspection->paper_token_bytes), "rank_bytes_per_token",
        "replicated", report_real(token), "sharded", report_real(token / inspection->mesh.tp.size));
}

static json_t *counted(const struct inspection *inspection, int64_t count)
{
    return inspection->config.is_countable ? json_integer(count) : json_null();
}

static enum status print_json(const struct inspection *inspection)
{
    const struct model_config *config = &inspection->config;
    int is_counted = config->is_countable || inspection->checkpoint != NULL;
    json_t *root = json_object();
    json_object_set_new(root, "model", report_text(inspection->path, strlen(inspection->path)));
    json_object_set_new(root, "architecture", json_string(config->architecture));
    json_object_set_new(root, "parameters", counted(inspection, inspection->size.parameters));
    json_object_set_new(root, "mtp_parameters",
                        counted(inspection, inspection->size.mtp_parameters));
    json_object_set_new(root, "active_parameters",
                        counted(inspection, inspection->size.active_parameters));
    json_object_set_new(root, "weight_bytes",
                        is_counted ? json_integer(inspection->weight_bytes) : json_null());
    json_object_set_new(root, "weight_bytes_from",
                        json_string(inspection->checkpoint != NULL ? "files" : "config"));
    json_object_set_new(root, "rank_weight_dtype",
                        json_string(inspection->has_i8_weights ? "int8" : "auto"));
    json_object_set_new(root, "layers", json_integer(config->n_layers));
    json_object_set_new(root, "cache", cache_json(inspection));
    json_object_set_new(root, "tp", json_integer(inspection->mesh.tp.size));
    json_object_set_new(root, "ep", json_integer(inspection->mesh.ep.size));
    json_object_set_new(root, "dp", json_integer(inspection->mesh.dp.size));
    json_object_set_new(root, "pp", json_integer(inspection->mesh.pp.size));
    json_object_set_new(root, "ranks", ranks_json(inspection));
    if (inspection->experts.maps != NULL)
        json_object_set_new(root, "expert_placement", inspect_experts_json(&inspection->experts));
    json_object_set_new(root, "supported", json_boolean(inspection->reason[0] == '\0'));
    json_object_set_new(root, "reason",
                        inspection->reason[0] == '\0'
                            ? json_null()
                            : report_text(inspection->reason, strlen(inspection->reason)));
    return report_json(root);
}

static void print_cache(FILE *out, const struct inspection *inspection)
{
    fprintf(out,
            "cache row           %" PRId64 " bytes f32, %" PRId64 " bf16, %" PRId64
            " fp8_ds_mla (one token, one layer)\n",
            inspection->row_f32, inspection->row_bf16, inspection->row_fp8);
    fprintf(out, "cache per token     %" PRId64 " bytes (bf16, %d layers)\n",
            inspection->token_bytes, inspection->config.n_layers);
    if (inspection->mesh.tp.size > 1)
        fprintf(out, "  a rank of %-7d %.0f bytes with --kv-placement sharded\n",
                inspection->mesh.tp.size,
                (double)inspection->token_bytes / inspection->mesh.tp.size);
    fprintf(out, "  expanded          %" PRId64 " bytes: keys and values of %d heads\n",
            inspection->expanded_token_bytes, inspection->config.n_heads);
    fprintf(out, "  ratio             %.4f (%.4f counting 2 x heads x d_nope, as the paper does)\n",
            (double)inspection->token_bytes / (double)inspection->expanded_token_bytes,
            (double)inspection->token_bytes / (double)inspection->paper_token_bytes);
}

static void print_table(FILE *out, const void *context)
{
    const struct inspection *inspection = context;
    char a[64], b[64], c[64];
    const struct model_size *size = &inspection->size;
    fprintf(out, "model               %s (%s)\n", inspection->path,
            inspection->config.architecture);
    fprintf(out, "supported           %s%s\n",
            inspection->reason[0] == '\0' ? "yes" : "no: ", inspection->reason);
    if (inspection->config.is_countable)
        fprintf(out, "parameters          %s, %s active per token, %s of MTP\n",
                report_count(a, sizeof a, size->parameters),
                report_count(b, sizeof b, size->active_parameters),
                report_count(c, sizeof c, size->mtp_parameters));
    if (inspection->config.is_countable || inspection->checkpoint != NULL)
        fprintf(out, "weights             %s (%s)\n",
                report_size(a, sizeof a, inspection->weight_bytes),
                inspection->checkpoint != NULL ? "as stored" : "from the config, no files");
    print_cache(out, inspection);
    if (inspection->experts.maps != NULL)
        inspect_experts_print(out, &inspection->experts);
    fprintf(out, "\n%6s %12s %9s %13s %13s %17s\n", "rank",
            inspection->has_i8_weights ? "int8 weights" : "weights", "layers", "heads", "experts",
            "vocabulary");
    for (int i = 0; i < inspection->mesh.world.size; i++) {
        const struct shard_plan *plan = &inspection->rank[i].plan;
        fprintf(out,
                "%6d %12s %4" PRId64 "-%-4" PRId64 " %6" PRId64 "-%-6" PRId64 " %6" PRId64
                "-%-6" PRId64 " %8" PRId64 "-%-8" PRId64 "\n",
                i, report_size(a, sizeof a, inspection->rank[i].weight_bytes), plan->layers.begin,
                plan->layers.end, plan->heads.begin, plan->heads.end, plan->experts.begin,
                plan->experts.end, plan->vocab.begin, plan->vocab.end);
    }
}

enum status inspect_run(const struct options *options)
{
    struct inspection *inspection = calloc(1, sizeof *inspection);
    enum status status;
    if (inspection == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a model's description");
    TRY_GOTO(status, end, open_model(inspection, options));
    size_cache(inspection);
    TRY_GOTO(status, end, share_ranks(inspection, options));
    TRY_GOTO(status, end, count_config_bytes(inspection));
    status = options->json ? print_json(inspection) : report_printed(print_table, inspection);
end:
    safetensors_close(inspection->checkpoint);
    inspect_experts_close(&inspection->experts);
    free(inspection->rank);
    free(inspection);
    return status;
}
