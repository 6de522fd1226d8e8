/* model_config_parts.h - the parts of a config.json, each read in its own file. */
#ifndef RUNTIME_MODEL_CONFIG_PARTS_H
#define RUNTIME_MODEL_CONFIG_PARTS_H

#include "runtime/json.h"
#include "runtime/model_config.h"

/* Largest sizes believed; with them a count of parameters fits 63 bits. */
enum {
    MODEL_MAX_WIDTH = 1 << 18, /* hidden_size, q_lora_rank, kv_lora_rank */
    MODEL_MAX_HEAD_DIM = 1 << 14,
    MODEL_MAX_HEADS = 1 << 14,
    MODEL_MAX_COLUMNS = 1 << 20, /* intermediate sizes */
    MODEL_MAX_EXPERTS = 1 << 14,
    MODEL_MAX_SHARED = 1 << 10,
    MODEL_MAX_VOCAB = 1 << 24,
    MODEL_MAX_MTP = 16
};

/* Sets config->unsupported to "not in this version: " and the reason; the first reason stays. */
__attribute__((format(printf, 2, 3))) void model_config_refuse(struct model_config *config,
                                                               const char *format, ...);

/* Experts, router and which layers have them; n_layers and is_v3 are set.
 * Errors of all these: STATUS_INVALID. */
enum status model_config_read_experts(struct model_config *config, const struct json_place *place);

/* rope_theta, rope_scaling or rope_parameters, rope_interleave. */
enum status model_config_read_rope(struct model_config *config, const struct json_place *place);

/* quantization_config; what is read later replaces what was read before. */
enum status model_config_read_quantization(struct model_config *config,
                                           const struct json_place *place);

/* As json_get_int for members of type int. */
enum status model_config_get_int(int *value, const struct json_place *place, const char *key,
                                 int least, int most);

/* As json_get_number for members of type float. */
enum status model_config_get_float(float *value, const struct json_place *place, const char *key,
                                   double least, double most);

#endif
