/* Values whose defaults differ between the classes that read such files (V3: n_group 8, topk_group 4,
 * routed_scaling_factor 2.5, first_k_dense_replace 3; its relatives: others) must be written there;
 * every published file does. */
#include "runtime/model_config_parts.h"

#include <stdio.h>
#include <string.h>

static enum status read_scoring(struct model_config *config, const struct json_place *place)
{
    static const char *const names[] = {"softmax", "sigmoid", "sqrtsoftplus"};
    int index = config->is_v3 ? 1 : 0;
    TRY(json_get_choice(&index, place, "scoring_func", names, 3));
    if (index == 2)
        model_config_refuse(config, "experts scored by sqrtsoftplus (DeepSeek-V4)");
    config->router.scoring = index == 0 ? ROUTER_SOFTMAX : ROUTER_SIGMOID;
    return STATUS_OK;
}

static enum status read_method(struct model_config *config, const struct json_place *place)
{
    /* "gready": the default of DeepSeek's own class of V2 is spelt so. */
    static const char *const names[] = {"greedy", "gready", "group_limited_greedy", "noaux_tc"};
    static const enum router_method methods[] = {ROUTER_GREEDY, ROUTER_GREEDY, ROUTER_GROUP_LIMITED,
                                                 ROUTER_NOAUX_TC};
    int index = config->is_v3 ? 3 : 0;
    TRY(json_get_choice(&index, place, "topk_method", names, 4));
    struct router_params *router = &config->router;
    router->method = methods[index];
    if ((router->scoring == ROUTER_SIGMOID) != (router->method == ROUTER_NOAUX_TC))
        model_config_refuse(config, "%s scores with topk_method %s",
                            router->scoring == ROUTER_SIGMOID ? "sigmoid" : "softmax",
                            names[index]);
    return STATUS_OK;
}

static enum status read_groups(struct model_config *config, const struct json_place *place)
{
    struct router_params *router = &config->router;
    if (config->is_v3) {
        TRY(json_require(place, "n_group"));
        TRY(json_require(place, "topk_group"));
    }
    TRY(model_config_get_int(&router->n_groups, place, "n_group", 1, router->n_experts));
    TRY(model_config_get_int(&router->n_chosen_groups, place, "topk_group", 1, router->n_groups));
    int width = router->n_experts / router->n_groups;
    if (router->n_experts % router->n_groups != 0)
        FAIL(STATUS_INVALID, "%s: n_group is %d, expected a divisor of n_routed_experts, %d",
             place->name, router->n_groups, router->n_experts);
    if (router->method == ROUTER_GREEDY) { /* looks at no groups, whatever is written */
        router->n_groups = router->n_chosen_groups = 1;
        return STATUS_OK;
    }
    if (router->n_chosen > router->n_chosen_groups * width)
        FAIL(STATUS_INVALID,
             "%s: num_experts_per_tok is %d, but topk_group %d leaves %d candidates (%d a group)",
             place->name, router->n_chosen, router->n_chosen_groups,
             router->n_chosen_groups * width, width);
    if (router->method == ROUTER_NOAUX_TC && router->n_groups > 1 && width < 2)
        FAIL(STATUS_INVALID,
             "%s: n_group is %d, expected groups of 2 experts at least (n_routed_experts %d)",
             place->name, router->n_groups, router->n_experts);
    return STATUS_OK;
}

static enum status read_router(struct model_config *config, const struct json_place *place)
{
    struct router_params *router = &config->router;
    int64_t chosen = 0;
    TRY(json_need_int(&chosen, place, "num_experts_per_tok", 1, router->n_experts));
    router->n_chosen = (int)chosen;
    TRY(json_need_int(&config->expert_columns, place, "moe_intermediate_size", 1,
                      MODEL_MAX_COLUMNS));
    TRY(model_config_get_int(&config->n_shared_experts, place, "n_shared_experts", 0,
                             MODEL_MAX_SHARED));
    router->normalize = config->is_v3;
    TRY(json_get_bool(&router->normalize, place, "norm_topk_prob"));
    if (config->is_v3)
        TRY(json_require(place, "routed_scaling_factor"));
    TRY(model_config_get_float(&router->scale, place, "routed_scaling_factor", 1e-6, 1e6));
    TRY(read_scoring(config, place));
    TRY(read_method(config, place));
    return read_groups(config, place);
}

/* mlp_layer_types: "dense" or "sparse" for each layer, perhaps for the MTP layers too. */
static enum status read_layer_types(struct model_config *config, const struct json_place *place,
                                    const json_t *types)
{
    size_t n = json_array_size(types), n_layers = (size_t)config->n_layers;
    if (n != n_layers && n != n_layers + (size_t)config->n_mtp_layers)
        FAIL(STATUS_INVALID,
             "%s: mlp_layer_types has %zu entries, expected %zu (num_hidden_layers)", place->name,
             n, n_layers);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(types, i);
        const char *text = json_is_string(item) ? json_string_value(item) : "";
        int is_sparse = strcmp(text, "sparse") == 0;
        char found[64];
        if (!is_sparse && strcmp(text, "dense") != 0)
            FAIL(STATUS_INVALID, "%s: mlp_layer_types[%zu] is %s, expected \"dense\" or \"sparse\"",
                 place->name, i, json_describe(found, item));
        if (is_sparse && config->router.n_experts == 0)
            FAIL(STATUS_INVALID,
                 "%s: mlp_layer_types[%zu] is \"sparse\", but there are no "
                 "n_routed_experts",
                 place->name, i);
        if (i < n_layers)
            config->is_moe[i] = (unsigned char)is_sparse;
    }
    return STATUS_OK;
}

static enum status read_layers(struct model_config *config, const struct json_place *place)
{
    const json_t *types = NULL;
    int first = 0, frequency = 1;
    TRY(json_get_array(&types, place, "mlp_layer_types"));
    if (types != NULL)
        return read_layer_types(config, place, types);
    if (config->is_v3 && config->router.n_experts > 0)
        TRY(json_require(place, "first_k_dense_replace"));
    TRY(model_config_get_int(&first, place, "first_k_dense_replace", 0, 1 << 20));
    TRY(model_config_get_int(&frequency, place, "moe_layer_freq", 1, 1 << 20));
    for (int i = 0; i < config->n_layers; i++)
        config->is_moe[i] = config->router.n_experts > 0 && i >= first && i % frequency == 0;
    return STATUS_OK;
}

enum status model_config_read_experts(struct model_config *config, const struct json_place *place)
{
    config->router = (struct router_params){.n_groups = 1, .n_chosen_groups = 1, .scale = 1};
    TRY(model_config_get_int(&config->router.n_experts, place, "n_routed_experts", 0,
                             MODEL_MAX_EXPERTS));
    if (config->router.n_experts > 0)
        TRY(read_router(config, place));
    return read_layers(config, place);
}
