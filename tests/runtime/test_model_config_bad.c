/* Broken or contradictory configurations: each is refused with one line that says file, key, what was
 * found and what was expected. */
#include "runtime/model_config.h"
#include "tests/runtime/file_fixture.h"

#include <jansson.h>

/* A small V3 with groups and YaRN that is right in itself. */
static const char right[] =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\","
    "\"num_hidden_layers\":4,\"hidden_size\":8,\"vocab_size\":16,\"num_attention_heads\":2,"
    "\"q_lora_rank\":6,\"kv_lora_rank\":4,\"qk_nope_head_dim\":2,\"qk_rope_head_dim\":2,"
    "\"v_head_dim\":3,\"intermediate_size\":6,\"max_position_embeddings\":64,"
    "\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":5,"
    "\"n_shared_experts\":1,\"n_group\":4,\"topk_group\":2,\"routed_scaling_factor\":2.5,"
    "\"first_k_dense_replace\":1,\"moe_layer_freq\":1,\"scoring_func\":\"sigmoid\","
    "\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"rms_norm_eps\":1e-6,"
    "\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
    "\"original_max_position_embeddings\":16,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":1,"
    "\"mscale_all_dim\":1},\"bos_token_id\":0,\"eos_token_id\":1,\"torch_dtype\":\"bfloat16\"}";

/* `right` with some keys replaced; a key of "remove" goes away. */
static char *change(const char *keys, const char *remove)
{
    json_error_t error;
    json_t *config = json_loads(right, 0, &error);
    json_t *changes = json_loads(keys, 0, &error);
    assert_non_null(config);
    if (changes == NULL)
        fail_msg("the test's own JSON: %s", error.text);
    json_object_update(config, changes);
    if (remove != NULL)
        assert_int_equal(json_object_del(config, remove), 0);
    char *text = json_dumps(config, 0);
    json_decref(changes);
    json_decref(config);
    return text;
}

static void assert_refused(const char *json, size_t length, const char *part)
{
    struct model_config config;
    ASSERT_FAILS(STATUS_INVALID, part,
                 model_config_parse(&config, json, length, "DIR/config.json"));
    assert_non_null(strstr(status_text(), "DIR/config.json"));
}

static void the_base_of_these_tests_is_right(void **state)
{
    (void)state;
    struct model_config config;
    ASSERT_OK(model_config_parse(&config, right, strlen(right), "x"));
    assert_string_equal(config.unsupported, "");
    assert_true(config.is_countable && config.rope.is_yarn && config.is_moe[3]);
}

static const struct {
    const char *keys, *text;
} wrong[] = {
    /* sizes */
    {"{\"hidden_size\":0}", "hidden_size is 0, expected an integer from 1 to 262144"},
    {"{\"hidden_size\":-8}", "hidden_size is -8, expected an integer"},
    {"{\"hidden_size\":\"8\"}", "hidden_size is \"8\", expected an integer"},
    {"{\"hidden_size\":8.5}", "hidden_size is 8.5, expected an integer"},
    {"{\"hidden_size\":null}", "hidden_size is null, expected an integer"},
    {"{\"hidden_size\":[8]}", "hidden_size is an array of 1, expected an integer"},
    {"{\"hidden_size\":4294967304}", "hidden_size is 4294967304, expected an integer"},
    {"{\"num_hidden_layers\":0}", "num_hidden_layers is 0"},
    {"{\"num_hidden_layers\":257}", "num_hidden_layers is 257, expected an integer from 1 to 256"},
    {"{\"num_hidden_layers\":9223372036854775807}", "num_hidden_layers is 9223372036854775807"},
    {"{\"vocab_size\":0}", "vocab_size is 0"},
    {"{\"vocab_size\":true}", "vocab_size is true"},
    {"{\"num_attention_heads\":0}", "num_attention_heads is 0"},
    {"{\"num_attention_heads\":{}}", "num_attention_heads is an object"},
    {"{\"kv_lora_rank\":0}", "kv_lora_rank is 0"},
    {"{\"q_lora_rank\":-1}", "q_lora_rank is -1, expected an integer from 0"},
    {"{\"q_lora_rank\":\"none\"}", "q_lora_rank is \"none\""},
    {"{\"qk_nope_head_dim\":0}", "qk_nope_head_dim is 0"},
    {"{\"qk_rope_head_dim\":0}", "qk_rope_head_dim is 0"},
    {"{\"qk_rope_head_dim\":3}", "qk_rope_head_dim is 3, expected an even number"},
    {"{\"v_head_dim\":-3}", "v_head_dim is -3"},
    {"{\"intermediate_size\":1073741824}", "intermediate_size is 1073741824"},
    {"{\"max_position_embeddings\":0}", "max_position_embeddings is 0"},
    {"{\"max_position_embeddings\":2147483648}", "max_position_embeddings is 2147483648"},
    {"{\"num_nextn_predict_layers\":-1}", "num_nextn_predict_layers is -1"},
    /* experts */
    {"{\"n_routed_experts\":-8}", "n_routed_experts is -8"},
    {"{\"n_routed_experts\":2147483647}", "n_routed_experts is 2147483647"},
    {"{\"num_experts_per_tok\":9}", "num_experts_per_tok is 9, expected an integer from 1 to 8"},
    {"{\"num_experts_per_tok\":0}", "num_experts_per_tok is 0"},
    {"{\"num_experts_per_tok\":null}", "num_experts_per_tok is null"},
    {"{\"moe_intermediate_size\":0}", "moe_intermediate_size is 0"},
    {"{\"n_shared_experts\":-1}", "n_shared_experts is -1"},
    {"{\"n_group\":3}", "n_group is 3, expected a divisor of n_routed_experts, 8"},
    {"{\"n_group\":0}", "n_group is 0"},
    {"{\"n_group\":9}", "n_group is 9, expected an integer from 1 to 8"},
    {"{\"n_group\":8}", "n_group is 8, expected groups of 2 experts at least"},
    {"{\"topk_group\":5}", "topk_group is 5, expected an integer from 1 to 4"},
    {"{\"topk_group\":0}", "topk_group is 0"},
    {"{\"topk_group\":1,\"num_experts_per_tok\":3}",
     "num_experts_per_tok is 3, but topk_group 1 leaves 2 candidates"},
    {"{\"routed_scaling_factor\":0}", "routed_scaling_factor is 0"},
    {"{\"routed_scaling_factor\":-2.5}", "routed_scaling_factor is -2.5"},
    {"{\"routed_scaling_factor\":\"2.5\"}", "routed_scaling_factor is \"2.5\", expected a number"},
    {"{\"norm_topk_prob\":1}", "norm_topk_prob is 1, expected true or false"},
    {"{\"scoring_func\":\"tanh\"}", "scoring_func is \"tanh\", expected one of softmax, sigmoid"},
    {"{\"scoring_func\":1}", "scoring_func is 1, expected a string"},
    {"{\"topk_method\":\"best\"}", "topk_method is \"best\", expected one of greedy"},
    {"{\"first_k_dense_replace\":-1}", "first_k_dense_replace is -1"},
    {"{\"moe_layer_freq\":0}", "moe_layer_freq is 0"},
    {"{\"mlp_layer_types\":[\"dense\"]}", "mlp_layer_types has 1 entries, expected 4"},
    {"{\"mlp_layer_types\":[\"dense\",\"moe\",\"dense\",\"dense\"]}",
     "mlp_layer_types[1] is \"moe\", expected \"dense\" or \"sparse\""},
    {"{\"mlp_layer_types\":[\"dense\",1,\"dense\",\"dense\"]}", "mlp_layer_types[1] is 1"},
    {"{\"mlp_layer_types\":\"dense\"}", "mlp_layer_types is \"dense\", expected an array"},
    {"{\"n_routed_experts\":null,\"mlp_layer_types\":[\"dense\",\"sparse\",\"dense\",\"dense\"]}",
     "mlp_layer_types[1] is \"sparse\", but there are no n_routed_experts"},
    /* the rest */
    {"{\"rms_norm_eps\":0}", "rms_norm_eps is 0, expected a number from 1e-20 to 1"},
    {"{\"rms_norm_eps\":-1e-6}", "rms_norm_eps is -1e-06"},
    {"{\"rms_norm_eps\":1e-50}", "rms_norm_eps is 1e-50"},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act is \"gelu\", expected silu"},
    {"{\"attention_bias\":\"false\"}", "attention_bias is \"false\", expected true or false"},
    {"{\"tie_word_embeddings\":0}", "tie_word_embeddings is 0"},
    {"{\"torch_dtype\":\"int8\"}", "torch_dtype is \"int8\", expected one of bfloat16"},
    {"{\"dtype\":16}", "dtype is 16"},
    {"{\"bos_token_id\":16}", "bos_token_id is 16, expected an integer from 0 to 15"},
    {"{\"eos_token_id\":16}", "eos_token_id is 16, expected ids below vocab_size, 16"},
    {"{\"eos_token_id\":-1}", "eos_token_id is -1"},
    {"{\"eos_token_id\":\"</s>\"}", "eos_token_id is \"</s>\""},
    {"{\"eos_token_id\":[1,16]}", "eos_token_id is 16"},
    {"{\"eos_token_id\":[1,[2]]}", "eos_token_id is an array of 1"},
    {"{\"eos_token_id\":[0,1,2,3,4,5,6,7,8]}", "eos_token_id has 9 ids, expected at most 8"},
    {"{\"quantization_config\":\"fp8\"}", "quantization_config is \"fp8\", expected an object"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}}",
     "weight_block_size has 1 entries, expected 2"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,0]}}",
     "weight_block_size[1] is 0, expected 1 to"},
    {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}", "no config_groups"},
    {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":"
     "\"pack-quantized\",\"config_groups\":{\"g\":{\"weights\":null}}}}",
     "config_groups: g: weights is not an object"},
    {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":"
     "\"pack-quantized\",\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":4}}}}}",
     "no group_size"},
    {"{\"index_topk\":4}", "index_n_heads is not there"},
    {"{\"index_topk\":4,\"index_n_heads\":2,\"index_head_dim\":0}", "index_head_dim is 0"},
    {"{\"architectures\":\"DeepseekV3ForCausalLM\"}", "architectures is \"Deepseek"},
    {"{\"architectures\":[3]}", "architectures[0] is 3, expected a string"},
    {"{\"model_type\":3}", "model_type is 3, expected a string"},
    {"{\"text_config\":[]}", "text_config is an array of 0, expected an object"},
    {"{\"text_config\":{}}", "text_config: num_hidden_layers is not there"},
    /* RoPE */
    {"{\"rope_theta\":0}", "rope_theta is 0"},
    {"{\"rope_theta\":1}", "rope_theta is 1"},
    {"{\"rope_theta\":\"1e4\"}", "rope_theta is \"1e4\", expected a number"},
    {"{\"rope_scaling\":\"yarn\"}", "rope_scaling is \"yarn\", expected an object"},
    {"{\"rope_interleave\":1}", "rope_interleave is 1, expected true or false"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"original_max_position_embeddings\":16}}",
     "rope_scaling: yarn needs a factor"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}",
     "rope_scaling: original_max_position_embeddings is not there"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":0.5,"
     "\"original_max_position_embeddings\":16}}",
     "rope_scaling: factor is 0.5, expected a number from 1"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}}",
     "original_max_position_embeddings is 0"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16,"
     "\"beta_fast\":1,\"beta_slow\":32}}",
     "beta_fast is 1, expected at least beta_slow, 32"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16,"
     "\"beta_slow\":0}}",
     "beta_slow is 0"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16,"
     "\"mscale\":-1}}",
     "mscale is -1"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16,"
     "\"attention_factor\":0}}",
     "attention_factor is 0"},
    {"{\"rope_scaling\":{\"factor\":4}}", "rope_scaling: a factor, but no rope_type"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"rope_type\":\"default\"}}",
     "rope_type is \"default\", but type is \"yarn\""},
    {"{\"rope_scaling\":{\"type\":3}}", "type is 3, expected a string"},
    {"{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":8,"
     "\"original_max_position_embeddings\":16}}",
     "factor is 4 in rope_scaling, but 8 in rope_parameters"},
    {"{\"rope_scaling\":null,\"rope_parameters\":{\"rope_theta\":5,\"rope_type\":\"default\"}}",
     "rope_theta is 5, expected 10000 as outside"},
};

static void wrong_values_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char *text = change(wrong[i].keys, NULL);
        assert_refused(text, strlen(text), wrong[i].text);
        free(text);
    }
}

/* Keys whose default differs between classes, and those without any. */
static void missing_keys_are_named(void **state)
{
    (void)state;
    static const char *const keys[] = {"num_hidden_layers",
                                       "hidden_size",
                                       "vocab_size",
                                       "num_attention_heads",
                                       "q_lora_rank",
                                       "kv_lora_rank",
                                       "qk_nope_head_dim",
                                       "qk_rope_head_dim",
                                       "v_head_dim",
                                       "intermediate_size",
                                       "num_experts_per_tok",
                                       "max_position_embeddings",
                                       "n_group",
                                       "moe_intermediate_size",
                                       "topk_group",
                                       "routed_scaling_factor",
                                       "first_k_dense_replace"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char part[80];
        char *text = change("{}", keys[i]);
        snprintf(part, sizeof part, "%s is not there", keys[i]);
        assert_refused(text, strlen(text), part);
        free(text);
    }
    assert_refused("{}", 2, "neither architectures nor model_type is there");
}

static void text_that_is_not_a_json_object_gives_one_line(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "nonsense",
                                        "{\"hidden_size\":8",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":NaN}",
                                        "{\"a\":Infinity}",
                                        "{\"a\":1e999}",
                                        "{\"a\":123456789012345678901234567890}",
                                        "{\"a\":\"\xff\xfe\"}",
                                        "{\"a\":\"\xed\xa0\x80\"}",
                                        "{\"a\":\"\\ud800\"}",
                                        "{} trailing",
                                        "\xef\xbb\xbf{}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], strlen(texts[i]), "not JSON at line 1");
    assert_refused("{\0}", 3, "not JSON");
    assert_refused("[]", 2, "the file is an array of 0, expected an object");

    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH);
    assert_non_null(deep);
    memset(deep, '[', DEPTH);
    assert_refused(deep, DEPTH, "maximum parsing depth reached");
    free(deep);
}

static void files_that_cannot_be_read_are_named(void **state)
{
    (void)state;
    struct model_config config;
    ASSERT_FAILS(STATUS_IO, "absent: cannot open: No such file",
                 model_config_load(&config, fixture_path("absent")));
    ASSERT_FAILS(STATUS_IO, "config.json: cannot open: No such file",
                 model_config_load(&config, fixture_directory));
    ASSERT_FAILS(STATUS_IO, "not a regular file", model_config_load(&config, "/dev/zero"));
    const char *path = fixture_text("huge.json", "");
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    ASSERT_FAILS(STATUS_INVALID, "expected at most 268435456", model_config_load(&config, path));
    fixture_text("config.json", right);
    ASSERT_OK(model_config_load(&config, fixture_directory));
    fixture_text("generation_config.json", "{");
    ASSERT_FAILS(STATUS_INVALID, "generation_config.json: not JSON",
                 model_config_load(&config, fixture_directory));
}

/* Each byte of a good file replaced by each of some others: no crash, a line when it fails. */
static void no_damaged_byte_crashes(void **state)
{
    (void)state;
    static const char bytes[] = "\0\"{}[],:-019eE.\\x\xff";
    char text[sizeof right];
    for (size_t i = 0; i < sizeof right - 1; i++) {
        for (size_t j = 0; j < sizeof bytes - 1; j++) {
            struct model_config config;
            struct model_size size;
            memcpy(text, right, sizeof right);
            text[i] = bytes[j];
            status_clear();
            if (model_config_parse(&config, text, sizeof right - 1, "x") != STATUS_OK)
                assert_string_not_equal(status_text(), "");
            else if (config.is_countable)
                model_config_size(&config, &size);
        }
    }
}

/* The largest believed sizes together: the count must not overflow. */
static void the_largest_model_can_be_counted(void **state)
{
    (void)state;
    struct model_config config;
    struct model_size size;
    char *text = change("{\"num_hidden_layers\":256,\"hidden_size\":262144,"
                        "\"vocab_size\":16777216,\"num_attention_heads\":16384,"
                        "\"q_lora_rank\":262144,\"kv_lora_rank\":262144,"
                        "\"qk_nope_head_dim\":16384,\"qk_rope_head_dim\":16384,"
                        "\"v_head_dim\":16384,\"intermediate_size\":1048576,"
                        "\"n_routed_experts\":16384,\"num_experts_per_tok\":16384,"
                        "\"moe_intermediate_size\":1048576,\"n_shared_experts\":1024,"
                        "\"n_group\":1,\"topk_group\":1,\"first_k_dense_replace\":0,"
                        "\"num_nextn_predict_layers\":16,\"index_topk\":1,"
                        "\"index_n_heads\":16384,\"index_head_dim\":16384}",
                        NULL);
    ASSERT_OK(model_config_parse(&config, text, strlen(text), "x"));
    model_config_size(&config, &size);
    assert_true(size.parameters > ((int64_t)1 << 60));
    assert_true(size.active_parameters > ((int64_t)1 << 60));
    assert_true(size.mtp_parameters > ((int64_t)1 << 56));
    free(text);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_of_these_tests_is_right),
        cmocka_unit_test(wrong_values_are_refused),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(text_that_is_not_a_json_object_gives_one_line),
        TEST(files_that_cannot_be_read_are_named),
        cmocka_unit_test(no_damaged_byte_crashes),
        cmocka_unit_test(the_largest_model_can_be_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
