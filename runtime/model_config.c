#include "runtime/model_config.h"

#include "runtime/model_config_parts.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PATH = 4096 };

enum graph { GRAPH_OTHER, GRAPH_V2, GRAPH_V3, GRAPH_AXK1 /* V3, experts normed */ };

/* The graphs known by name.  `lacks` is NULL for those that this file can read. */
static const struct family {
    const char *architecture, *model_type;
    enum graph graph;
    const char *lacks;
} families[] = {
    {"DeepseekV2ForCausalLM", "deepseek_v2", GRAPH_V2, NULL},
    {"DeepseekV3ForCausalLM", "deepseek_v3", GRAPH_V3, NULL},
    {"DeepseekV3ForCausalLM", "kimi_k2", GRAPH_V3, NULL},
    {"KimiK25ForConditionalGeneration", "kimi_k25", GRAPH_V3, NULL},
    {"Glm4MoeLiteForCausalLM", "glm4_moe_lite", GRAPH_V3, NULL},
    {"AXK1ForCausalLM", "axk1", GRAPH_AXK1, NULL},
    {"YoutuForCausalLM", "youtu", GRAPH_V3, NULL},              /* dense, tied embeddings */
    {"DeepseekV32ForCausalLM", "deepseek_v32", GRAPH_V3, NULL}, /* refused for its indexer */
    {"GlmMoeDsaForCausalLM", "glm_moe_dsa", GRAPH_V3, NULL},
    {"DeepseekV4ForCausalLM", "deepseek_v4", GRAPH_OTHER,
     "compressed sparse attention (DeepSeek-V4)"},
    {"DeepseekV41ForCausalLM", "deepseek_v41", GRAPH_OTHER,
     "an encoder and n-gram tables (DeepSeek-V4.1)"},
    {"LongcatFlashForCausalLM", "longcat_flash", GRAPH_OTHER,
     "double layers, zero experts (LongCat-Flash)"},
    {"KimiLinearForCausalLM", "kimi_linear", GRAPH_OTHER, "linear attention layers (Kimi-Linear)"},
    {"Mistral4ForCausalLM", "mistral4", GRAPH_OTHER, "queries scaled by position (Mistral 4)"},
    {"MistralLarge3ForCausalLM", "mistral_large_3", GRAPH_OTHER,
     "tensor names of Mistral (Large 3)"},
    {"MiniCPM3ForCausalLM", "minicpm3", GRAPH_OTHER,
     "half-split RoPE, scaled residuals (MiniCPM3)"},
};

/* A vision model keeps the language model in text_config: `text` is that or the file itself. */
struct places {
    struct json_place file, text;
};

void model_config_refuse(struct model_config *config, const char *format, ...)
{
    va_list args;
    char reason[200];
    if (config->unsupported[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    snprintf(config->unsupported, sizeof config->unsupported, "not in this version: %s", reason);
}

enum status model_config_get_int(int *value, const struct json_place *place, const char *key,
                                 int least, int most)
{
    int64_t wide = *value;
    TRY(json_get_int(&wide, place, key, least, most));
    *value = (int)wide;
    return STATUS_OK;
}

enum status model_config_get_float(float *value, const struct json_place *place, const char *key,
                                   double least, double most)
{
    double wide = (double)*value;
    TRY(json_get_number(&wide, place, key, least, most));
    *value = (float)wide;
    return STATUS_OK;
}

/* architectures[0], NULL when there is none. */
static enum status first_architecture(const char **name, const struct json_place *place)
{
    const json_t *names = NULL;
    char text[64];
    *name = NULL;
    TRY(json_get_array(&names, place, "architectures"));
    if (names == NULL || json_array_size(names) == 0)
        return STATUS_OK;
    *name = json_string_value(json_array_get(names, 0));
    if (*name == NULL)
        FAIL(STATUS_INVALID, "%s: architectures[0] is %s, expected a string", place->name,
             json_describe(text, json_array_get(names, 0)));
    return STATUS_OK;
}

/* By architecture first, model_type second; NULL: not in the list. */
static const struct family *find_family(const char *architecture, const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const struct family *family = &families[i];
        if (architecture != NULL ? strcmp(architecture, family->architecture) == 0
                                 : strcmp(model_type, family->model_type) == 0)
            return family;
    }
    return NULL;
}

static enum status read_family(struct model_config *config, const struct places *places)
{
    const char *outer = NULL, *architecture = NULL, *model_type = NULL;
    TRY(first_architecture(&outer, &places->file));
    TRY(first_architecture(&architecture, &places->text));
    TRY(json_get_string(&model_type, &places->file, "model_type"));
    TRY(json_get_string(&model_type, &places->text, "model_type"));
    if (outer == NULL)
        outer = architecture;
    if (architecture == NULL && model_type == NULL)
        architecture = outer;
    if (architecture == NULL && model_type == NULL)
        FAIL(STATUS_INVALID, "%s: neither architectures nor model_type is there",
             places->text.name);
    snprintf(config->architecture, sizeof config->architecture, "%s", outer == NULL ? "" : outer);
    snprintf(config->model_type, sizeof config->model_type, "%s",
             model_type == NULL ? "" : model_type);

    const struct family *family = find_family(architecture, model_type == NULL ? "" : model_type);
    config->is_countable = family != NULL && family->lacks == NULL;
    config->is_v3 = config->is_countable && family->graph != GRAPH_V2;
    config->has_expert_norm = config->is_countable && family->graph == GRAPH_AXK1;
    if (family == NULL)
        model_config_refuse(config, "the graph %.64s",
                            architecture == NULL ? model_type : architecture);
    else if (family->lacks != NULL)
        model_config_refuse(config, "%s", family->lacks);
    return STATUS_OK;
}

static enum status read_sizes(struct model_config *config, const struct json_place *place)
{
    int64_t n_layers = 0, n_heads = 0, max_position = 0;
    const struct {
        int64_t *value;
        const char *key;
        int64_t most;
    } sizes[] = {
        {&n_layers, "num_hidden_layers", MODEL_MAX_LAYERS},
        {&config->d, "hidden_size", MODEL_MAX_WIDTH},
        {&config->vocab_size, "vocab_size", MODEL_MAX_VOCAB},
        {&n_heads, "num_attention_heads", MODEL_MAX_HEADS},
        {&config->d_c, "kv_lora_rank", MODEL_MAX_WIDTH},
        {&config->d_n, "qk_nope_head_dim", MODEL_MAX_HEAD_DIM},
        {&config->d_r, "qk_rope_head_dim", MODEL_MAX_HEAD_DIM},
        {&config->d_v, "v_head_dim", MODEL_MAX_HEAD_DIM},
        {&config->dense_columns, "intermediate_size", MODEL_MAX_COLUMNS},
        {&max_position, "max_position_embeddings", INT32_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        TRY(json_need_int(sizes[i].value, place, sizes[i].key, 1, sizes[i].most));
    config->n_layers = (int)n_layers;
    config->n_heads = (int)n_heads;
    config->max_position = (int)max_position;
    if (config->d_r % 2 != 0)
        FAIL(STATUS_INVALID, "%s: qk_rope_head_dim is %lld, expected an even number (pairs)",
             place->name, (long long)config->d_r);

    /* null means no compression; absent would mean 1536 to the class that reads it elsewhere. */
    if (json_object_get(place->object, "q_lora_rank") == NULL)
        FAIL(STATUS_INVALID,
             "%s: q_lora_rank is not there, expected a number or null (no compression)",
             place->name);
    TRY(json_get_int(&config->d_cq, place, "q_lora_rank", 0, MODEL_MAX_WIDTH));
    return model_config_get_int(&config->n_mtp_layers, place, "num_nextn_predict_layers", 0,
                                MODEL_MAX_MTP);
}

/* DeepSeek-VL2-tiny and OCR: the sizes of latent attention are 0 or use_mla is false. */
static enum status read_is_latent(int *is_latent, const struct json_place *place)
{
    int64_t nope = 1, rope = 1;
    *is_latent = 1;
    TRY(json_get_bool(is_latent, place, "use_mla"));
    TRY(json_get_int(&nope, place, "qk_nope_head_dim", INT64_MIN, INT64_MAX));
    TRY(json_get_int(&rope, place, "qk_rope_head_dim", INT64_MIN, INT64_MAX));
    if (nope == 0 && rope == 0)
        *is_latent = 0;
    return STATUS_OK;
}

static enum status read_indexer(struct model_config *config, const struct json_place *place)
{
    int64_t n_heads = 0;
    if (!json_has(place, "index_topk"))
        return STATUS_OK;
    model_config_refuse(config, "an indexer (DeepSeek sparse attention)");
    TRY(json_need_int(&n_heads, place, "index_n_heads", 1, MODEL_MAX_HEADS));
    config->n_index_heads = (int)n_heads;
    return json_need_int(&config->index_head_dim, place, "index_head_dim", 1, MODEL_MAX_HEAD_DIM);
}

static enum status add_eos(struct model_config *config, const struct json_place *place,
                           const json_t *item)
{
    char text[64];
    if (!json_is_integer(item) || json_integer_value(item) < 0 ||
        json_integer_value(item) >= config->vocab_size)
        FAIL(STATUS_INVALID, "%s: eos_token_id is %s, expected ids below vocab_size, %lld",
             place->name, json_describe(text, item), (long long)config->vocab_size);
    config->eos_id[config->n_eos++] = (int)json_integer_value(item);
    return STATUS_OK;
}

/* An id or a list of them; what was read before is replaced. */
static enum status read_eos(struct model_config *config, const struct json_place *place)
{
    if (!json_has(place, "eos_token_id"))
        return STATUS_OK;
    const json_t *found = json_object_get(place->object, "eos_token_id");
    config->n_eos = 0;
    if (!json_is_array(found))
        return add_eos(config, place, found);
    if (json_array_size(found) > MODEL_MAX_EOS)
        FAIL(STATUS_INVALID, "%s: eos_token_id has %zu ids, expected at most %d", place->name,
             json_array_size(found), MODEL_MAX_EOS);
    for (size_t i = 0; i < json_array_size(found); i++)
        TRY(add_eos(config, place, json_array_get(found, i)));
    return STATUS_OK;
}

/* Keys that a vision model writes beside text_config or in it; the inner one wins. */
static enum status read_shared_keys(struct model_config *config, const struct json_place *place)
{
    static const char *const names[] = {"bfloat16", "float16", "float32"};
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};
    int dtype = -1;
    TRY(json_get_choice(&dtype, place, "torch_dtype", names, 3));
    TRY(json_get_choice(&dtype, place, "dtype", names, 3));
    if (dtype >= 0)
        config->dtype = dtypes[dtype];
    TRY(json_get_bool(&config->ties_embeddings, place, "tie_word_embeddings"));
    TRY(model_config_get_int(&config->bos_id, place, "bos_token_id", 0,
                             (int)config->vocab_size - 1));
    TRY(read_eos(config, place));
    return model_config_read_quantization(config, place);
}

static enum status read_text_model(struct model_config *config, const struct places *places)
{
    static const char *const activations[] = {"silu"};
    const struct json_place *text = &places->text;
    int is_latent = 1, index = 0;
    TRY(read_is_latent(&is_latent, text));
    if (!is_latent) {
        model_config_refuse(config, "attention without latents");
        config->is_countable = config->is_v3 = 0;
        return STATUS_OK;
    }
    TRY(read_sizes(config, text));
    TRY(read_indexer(config, text));
    TRY(model_config_read_experts(config, text));
    TRY(model_config_read_rope(config, text));
    config->epsilon = 1e-6f;
    TRY(model_config_get_float(&config->epsilon, text, "rms_norm_eps", 1e-20, 1));
    TRY(json_get_bool(&config->has_attention_bias, text, "attention_bias"));
    TRY(json_get_choice(&index, text, "hidden_act", activations, 1));
    TRY(read_shared_keys(config, &places->file));
    return read_shared_keys(config, text);
}

static enum status read_file(struct model_config *config, const json_t *root, const char *name)
{
    char text_name[1024];
    struct places places = {{root, name}, {root, name}};
    const json_t *text = NULL;
    char found[64];
    memset(config, 0, sizeof *config);
    config->bos_id = -1;
    config->dtype = DTYPE_BF16;
    if (!json_is_object(root))
        FAIL(STATUS_INVALID, "%s: the file is %s, expected an object", name,
             json_describe(found, root));
    TRY(json_get_object(&text, &places.file, "text_config"));
    if (text != NULL) {
        snprintf(text_name, sizeof text_name, "%.900s: text_config", name);
        places.text = (struct json_place){text, text_name};
        strcpy(config->tensor_prefix, "language_model.");
    }
    TRY(read_family(config, &places));
    return config->is_countable ? read_text_model(config, &places) : STATUS_OK;
}

enum status model_config_parse(struct model_config *config, const char *json, size_t length,
                               const char *name)
{
    json_t *root = NULL;
    TRY(json_parse(&root, json, length, name));
    enum status status = read_file(config, root, name);
    json_decref(root);
    return status;
}

/* The ids at which generation stops; Kimi's config.json names another one. */
static enum status read_generation_config(struct model_config *config, const char *path)
{
    json_t *root = NULL;
    struct stat info;
    char text[64];
    if ((lstat(path, &info) != 0 && errno == ENOENT) || !config->is_countable)
        return STATUS_OK;
    TRY(json_read(&root, path));
    enum status status;
    if (json_is_object(root))
        status = read_eos(config, &(struct json_place){root, path});
    else
        status =
            status_fail(STATUS_INVALID, __FILE__, __LINE__,
                        "%s: the file is %s, expected an object", path, json_describe(text, root));
    json_decref(root);
    return status;
}

enum status model_config_load(struct model_config *config, const char *path)
{
    char file[MAX_PATH], beside[MAX_PATH];
    struct stat info;
    json_t *root = NULL;
    size_t length = strlen(path);
    if (length > MAX_PATH - 64)
        FAIL(STATUS_INVALID, "%.200s...: a path of %zu bytes, expected at most %d", path, length,
             MAX_PATH - 64);
    int is_directory = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    snprintf(file, sizeof file, "%s%s", path, is_directory ? "/config.json" : "");

    TRY(json_read(&root, file));
    enum status status = read_file(config, root, file);
    json_decref(root);
    if (status != STATUS_OK)
        return status;

    const char *slash = strrchr(file, '/');
    const char *base = slash == NULL ? file : slash + 1;
    if (strcmp(base, "config.json") != 0) /* one of many configurations in a folder */
        return STATUS_OK;
    snprintf(beside, sizeof beside, "%.*sgeneration_config.json", (int)(base - file), file);
    return read_generation_config(config, beside);
}

enum status model_config_check_supported(const struct model_config *config, const char *path)
{
    if (config->unsupported[0] != '\0')
        FAIL(STATUS_UNSUPPORTED, "%s: %s (%s): %s", path, config->architecture, config->model_type,
             config->unsupported);
    return STATUS_OK;
}
