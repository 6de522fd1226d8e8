/* Two generations of keys say the same: rope_theta + rope_scaling, and rope_parameters with
 * rope_theta inside.  The type is called `type` or `rope_type`. */
#include "runtime/model_config_parts.h"

#include <stdio.h>
#include <string.h>

static const double most = 1e9; /* of any number here; theta reaches 1e7 in published models */

static enum status read_yarn(struct rope_config *rope, const struct json_place *place)
{
    int64_t original = 0;
    if (!json_has(place, "factor"))
        FAIL(STATUS_INVALID, "%s: yarn needs a factor, there is none", place->name);
    TRY(model_config_get_float(&rope->factor, place, "factor", 1, most));
    TRY(json_need_int(&original, place, "original_max_position_embeddings", 1, 1 << 30));
    rope->original_max_position = (int)original;
    TRY(model_config_get_float(&rope->beta_fast, place, "beta_fast", 1e-6, most));
    TRY(model_config_get_float(&rope->beta_slow, place, "beta_slow", 1e-6, most));
    if (rope->beta_fast < rope->beta_slow)
        FAIL(STATUS_INVALID, "%s: beta_fast is %g, expected at least beta_slow, %g", place->name,
             (double)rope->beta_fast, (double)rope->beta_slow);
    rope->has_mscale = json_has(place, "mscale");
    rope->has_mscale_all_dim = json_has(place, "mscale_all_dim");
    TRY(model_config_get_float(&rope->mscale, place, "mscale", 0, 1e3));
    TRY(model_config_get_float(&rope->mscale_all_dim, place, "mscale_all_dim", 0, 1e3));
    return model_config_get_float(&rope->attention_factor, place, "attention_factor", 1e-6, 1e6);
}

/* *type: the text of `rope_type` or `type`; NULL when neither is there. */
static enum status read_type(const char **type, const struct json_place *place)
{
    const char *old = NULL;
    *type = NULL;
    TRY(json_get_string(type, place, "rope_type"));
    TRY(json_get_string(&old, place, "type"));
    if (*type != NULL && old != NULL && strcmp(*type, old) != 0)
        FAIL(STATUS_INVALID, "%s: rope_type is \"%s\", but type is \"%s\"", place->name, *type,
             old);
    if (*type == NULL)
        *type = old;
    return STATUS_OK;
}

static enum status read_scaling(struct model_config *config, const struct json_place *place)
{
    const char *type = NULL;
    int truncates = 1;
    TRY(read_type(&type, place));
    if (type == NULL && json_has(place, "factor"))
        FAIL(STATUS_INVALID, "%s: a factor, but no rope_type", place->name);
    if (type == NULL || strcmp(type, "default") == 0)
        return STATUS_OK;
    if (strcmp(type, "yarn") != 0 && strcmp(type, "deepseek_yarn") != 0) {
        model_config_refuse(config, "RoPE of type %.40s", type);
        return STATUS_OK;
    }
    config->rope.is_yarn = 1;
    TRY(read_yarn(&config->rope, place));
    TRY(json_get_bool(&truncates, place, "truncate"));
    if (!truncates)
        model_config_refuse(config, "YaRN with truncate false");
    return STATUS_OK;
}

/* Where both generations stand side by side they must agree. */
static enum status check_both(const json_t *scaling, const json_t *parameters,
                              const struct json_place *place)
{
    const char *key;
    void *iter = json_object_iter((json_t *)(uintptr_t)scaling);
    for (; iter != NULL; iter = json_object_iter_next((json_t *)(uintptr_t)scaling, iter)) {
        key = json_object_iter_key(iter);
        const json_t *old = json_object_iter_value(iter), *new = json_object_get(parameters, key);
        char a[64], b[64];
        if (new == NULL || json_equal(old, new) ||
            (json_is_number(old) && json_is_number(new) &&
             !(json_number_value(old) < json_number_value(new)) &&
             !(json_number_value(old) > json_number_value(new))))
            continue;
        FAIL(STATUS_INVALID, "%s: %s is %s in rope_scaling, but %s in rope_parameters", place->name,
             key, json_describe(a, old), json_describe(b, new));
    }
    return STATUS_OK;
}

static enum status read_theta(struct rope_config *rope, const struct json_place *place,
                              const struct json_place *inner)
{
    float inside = 0;
    TRY(model_config_get_float(&rope->theta, place, "rope_theta", 1.001, 1e12));
    if (inner->object == NULL || !json_has(inner, "rope_theta"))
        return STATUS_OK;
    TRY(model_config_get_float(&inside, inner, "rope_theta", 1.001, 1e12));
    if (json_has(place, "rope_theta") && (inside < rope->theta || inside > rope->theta))
        FAIL(STATUS_INVALID, "%s: rope_theta is %g, expected %g as outside", inner->name,
             (double)inside, (double)rope->theta);
    rope->theta = inside;
    return STATUS_OK;
}

enum status model_config_read_rope(struct model_config *config, const struct json_place *place)
{
    const json_t *scaling = NULL, *parameters = NULL;
    char name[1024];
    int is_interleaved = 1;
    double query_scaling = 0;
    config->rope =
        (struct rope_config){.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1};
    TRY(json_get_object(&scaling, place, "rope_scaling"));
    TRY(json_get_object(&parameters, place, "rope_parameters"));
    if (scaling != NULL && parameters != NULL)
        TRY(check_both(scaling, parameters, place));

    snprintf(name, sizeof name, "%.900s: %s", place->name,
             parameters != NULL ? "rope_parameters" : "rope_scaling");
    struct json_place rope = {parameters != NULL ? parameters : scaling, name};
    TRY(read_theta(&config->rope, place, &rope));
    if (rope.object != NULL) {
        TRY(read_scaling(config, &rope));
        TRY(json_get_number(&query_scaling, &rope, "llama_4_scaling_beta", -most, most));
        if (query_scaling < 0 || query_scaling > 0)
            model_config_refuse(config, "queries scaled by position (llama_4_scaling_beta)");
    }
    TRY(json_get_bool(&is_interleaved, place, "rope_interleave"));
    if (!is_interleaved)
        model_config_refuse(config, "half-split RoPE (rope_interleave false)");
    return STATUS_OK;
}
