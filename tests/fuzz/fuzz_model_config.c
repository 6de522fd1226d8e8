/* config.json, and what is computed from one that was accepted.  Behind a NUL:
 * generation_config.json; then both are read as files. */
#include "runtime/model_config.h"
#include "runtime/weights.h"
#include "tests/fuzz/fuzz_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POSITIONS = 3, MANY_TENSORS = 20000, HEAD_DIM_MAX = 1 << 14 };

static enum status count_tensor(void *context, const struct weight_item *item)
{
    int *count = context;
    REQUIRE(item->ndim == 1 || item->ndim == 2);
    REQUIRE(item->dim[0] > 0 && (item->ndim == 1 || item->dim[1] > 0));
    REQUIRE(item->name[0] != '\0' && strlen(item->name) + 1 < sizeof item->name);
    if (++*count == MANY_TENSORS)
        FAIL(STATUS_INVALID, "enough tensors"); /* a walk ends when its visitor fails */
    return STATUS_OK;
}

static void check_sizes(const struct model_config *config)
{
    struct model_size size;
    int count = 0;
    model_config_size(config, &size);
    REQUIRE(size.parameters > 0 && size.mtp_parameters >= 0);
    REQUIRE(size.active_parameters > 0 && size.active_parameters <= size.parameters);
    enum status status = weights_each(config, count_tensor, &count);
    REQUIRE(count > 0 && (status == STATUS_OK || count == MANY_TENSORS));
}

static void check_rope(const struct model_config *config)
{
    static double inv_freq[HEAD_DIM_MAX / 2];
    static float cos_sin[POSITIONS * HEAD_DIM_MAX];
    REQUIRE(config->d_r > 0 && config->d_r <= HEAD_DIM_MAX && config->d_r % 2 == 0);
    model_config_inv_freq(config, inv_freq);
    model_config_cos_sin(config, cos_sin, POSITIONS);
    for (int64_t i = 0; i < config->d_r / 2; i++)
        REQUIRE(inv_freq[i] >= 0 && inv_freq[i] <= 1);
    for (int64_t i = 0; i < POSITIONS * config->d_r; i++)
        REQUIRE(isfinite(cos_sin[i]));
    float scale = model_config_softmax_scale(config);
    REQUIRE(isfinite(scale) && scale > 0);
}

static void check_config(const struct model_config *config)
{
    int is_supported = model_config_check_supported(config, "config.json") == STATUS_OK;
    REQUIRE(is_supported == (config->unsupported[0] == '\0'));
    REQUIRE(config->is_countable || !is_supported);
    REQUIRE(strlen(config->architecture) < sizeof config->architecture);
    if (!is_supported)
        fuzz_refused(STATUS_UNSUPPORTED, "not in this version: ");
    if (!config->is_countable)
        return;
    REQUIRE(config->n_layers >= 1 && config->n_layers <= MODEL_MAX_LAYERS);
    REQUIRE(config->n_eos >= 0 && config->n_eos <= MODEL_MAX_EOS);
    for (int i = 0; i < config->n_eos; i++)
        REQUIRE(config->eos_id[i] >= 0 && config->eos_id[i] < config->vocab_size);
    REQUIRE(config->bos_id >= -1 && config->bos_id < config->vocab_size);
    check_sizes(config);
    check_rope(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config;
    size_t rest;
    const uint8_t *generation = fuzz_second(data, &size, &rest);
    enum status status;
    if (generation == NULL) {
        status = model_config_parse(&config, (const char *)data, size, "config.json");
    } else {
        fuzz_put("config.json", data, size);
        fuzz_put("generation_config.json", generation, rest);
        status = model_config_load(&config, fuzz_directory());
    }
    if (status != STATUS_OK)
        return fuzz_refused(status, "config.json");
    check_config(&config);
    return 0;
}
