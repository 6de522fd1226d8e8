/* quantization_config: DeepSeek's fp8 with scales for blocks of weights, and Kimi's int4 groups (the
 * "pack-quantized" format of compressed-tensors).  Anything else is refused by name. */
#include "runtime/model_config_parts.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SCALE_BLOCK = 1 << 16 };

static enum status read_block_size(struct model_config *config, const struct json_place *place)
{
    const json_t *size = NULL;
    char text[64];
    int *const side[2] = {&config->scale_rows, &config->scale_columns};
    TRY(json_get_array(&size, place, "weight_block_size"));
    if (size == NULL) {
        model_config_refuse(config, "fp8 weights without weight_block_size (one scale a tensor)");
        return STATUS_OK;
    }
    if (json_array_size(size) != 2)
        FAIL(STATUS_INVALID, "%s: weight_block_size has %zu entries, expected 2", place->name,
             json_array_size(size));
    for (size_t i = 0; i < 2; i++) {
        const json_t *item = json_array_get(size, i);
        if (!json_is_integer(item) || json_integer_value(item) < 1 ||
            json_integer_value(item) > MAX_SCALE_BLOCK)
            FAIL(STATUS_INVALID, "%s: weight_block_size[%zu] is %s, expected 1 to %d", place->name,
                 i, json_describe(text, item), MAX_SCALE_BLOCK);
        *side[i] = (int)json_integer_value(item);
    }
    return STATUS_OK;
}

static enum status read_fp8(struct model_config *config, const struct json_place *place)
{
    const char *format = "e4m3";
    TRY(json_get_string(&format, place, "fmt"));
    if (strcmp(format, "e4m3") != 0)
        model_config_refuse(config, "fp8 weights of format %.40s", format);
    config->quantization = QUANTIZED_FP8;
    return read_block_size(config, place);
}

/* One group of settings: what every quantized tensor is.  `name` says where it stands. */
static enum status read_int4(struct model_config *config, const json_t *group, const char *name)
{
    const struct json_place place = {group, name};
    const char *type = "int", *strategy = "group";
    int bits = 0, step = 0, is_symmetric = 1;
    TRY(model_config_get_int(&bits, &place, "num_bits", 1, 64));
    TRY(json_get_string(&type, &place, "type"));
    TRY(json_get_string(&strategy, &place, "strategy"));
    TRY(json_get_bool(&is_symmetric, &place, "symmetric"));
    if (strcmp(type, "int") != 0 || bits != 4)
        model_config_refuse(config, "weights quantized to %.20s%d", type, bits);
    else if (strcmp(strategy, "group") != 0)
        model_config_refuse(config, "int4 weights with scales by %.40s", strategy);
    else if (!is_symmetric)
        model_config_refuse(config, "int4 weights with zero points (symmetric false)");
    else if (json_has(&place, "actorder") && !json_is_false(json_object_get(group, "actorder")))
        model_config_refuse(config, "int4 weights with columns in another order (actorder)");
    else
        TRY(model_config_get_int(&step, &place, "group_size", 1, MAX_SCALE_BLOCK));
    if (config->unsupported[0] != '\0')
        return STATUS_OK;
    if (step == 0)
        FAIL(STATUS_INVALID, "%s: no group_size", name);
    if (config->quantization == QUANTIZED_INT4 && config->scale_columns != step)
        model_config_refuse(config, "int4 groups of several sizes");
    config->quantization = QUANTIZED_INT4;
    config->scale_rows = 1;
    config->scale_columns = step;
    return STATUS_OK;
}

static enum status read_compressed_tensors(struct model_config *config,
                                           const struct json_place *place)
{
    const char *format = "unnamed", *key;
    const json_t *groups = NULL;
    json_t *group;
    char name[1200];
    TRY(json_get_string(&format, place, "format"));
    TRY(json_get_object(&groups, place, "config_groups"));
    if (groups == NULL || json_object_size(groups) == 0)
        FAIL(STATUS_INVALID, "%s: quantization_config has no config_groups", place->name);
    if (strcmp(format, "pack-quantized") != 0) {
        model_config_refuse(config, "compressed-tensors of format %.60s", format);
        return STATUS_OK;
    }
    json_object_foreach((json_t *)(uintptr_t)groups, key, group)
    {
        const json_t *weights = json_object_get(group, "weights");
        snprintf(name, sizeof name, "%.900s: config_groups: %.60s: weights", place->name, key);
        if (!json_is_object(weights))
            FAIL(STATUS_INVALID, "%s is not an object", name);
        TRY(read_int4(config, weights, name));
    }
    return STATUS_OK;
}

enum status model_config_read_quantization(struct model_config *config,
                                           const struct json_place *place)
{
    const json_t *found = NULL;
    const char *method = "unnamed";
    TRY(json_get_object(&found, place, "quantization_config"));
    if (found == NULL || json_object_size(found) == 0)
        return STATUS_OK;
    char name[1024];
    snprintf(name, sizeof name, "%.900s: quantization_config", place->name);
    const struct json_place inside = {found, name};
    TRY(json_get_string(&method, &inside, "quant_method"));
    config->quantization = QUANTIZED_NONE;
    if (strcmp(method, "fp8") == 0)
        return read_fp8(config, &inside);
    if (strcmp(method, "compressed-tensors") == 0)
        return read_compressed_tensors(config, &inside);
    model_config_refuse(config, "weights quantized by %.60s", method);
    return STATUS_OK;
}
