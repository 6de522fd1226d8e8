/* Expected numbers are the published ones; expected counts of the tiny checkpoints are those of the
 * tensors in their files. */
#include "runtime/model_config.h"

#include "runtime/safetensors.h"
#include "tests/runtime/file_fixture.h"
#include <math.h>

static struct model_config load(const char *name)
{
    struct model_config config;
    char path[512];
    snprintf(path, sizeof path, "%s/configs/models/%s.json", SOURCE_DIR, name);
    ASSERT_OK(model_config_load(&config, path));
    return config;
}

/* In billions, as published: two digits. */
static void assert_billions(int64_t found, double expected)
{
    if (fabs((double)found / 1e9 - expected) > 0.005)
        fail_msg("%.4f billion, expected %.2f", (double)found / 1e9, expected);
}

static void sizes_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double parameters, mtp;
    } cases[] = {{"deepseek-v2-lite", 15.71, 0}, {"deepseek-v2", 235.74, 0},
                 {"deepseek-v3", 671.03, 11.61}, {"deepseek-v3.1", 671.03, 11.61},
                 {"kimi-k2", 1026.41, 0},        {"kimi-k2.5", 1026.41, 0},
                 {"glm-4.7-flash", 29.94, 0.64}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config config = load(cases[i].name);
        struct model_size size;
        model_config_size(&config, &size);
        assert_true(config.is_countable);
        assert_string_equal(config.unsupported, "");
        assert_billions(size.parameters, cases[i].parameters);
        assert_billions(size.mtp_parameters, cases[i].mtp);
    }
}

/* Papers say 2.4 (V2-Lite), 21 (V2), 37 (V3), 32 (K2) billion; 37 counts the embedding of V3. */
static void active_sizes_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double billions;
    } cases[] = {{"deepseek-v2-lite", 2.4}, {"deepseek-v2", 21}, {"kimi-k2", 32}};
    struct model_size size;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config config = load(cases[i].name);
        model_config_size(&config, &size);
        double found = (double)size.active_parameters / 1e9;
        assert_true(fabs(found / cases[i].billions - 1) < 0.025);
    }
    struct model_config config = load("deepseek-v3");
    model_config_size(&config, &size);
    double with_table = (double)(size.active_parameters + config.vocab_size * config.d) / 1e9;
    assert_true(with_table > 37 && with_table < 38);
}

static void keys_of_v3_are_read(void **state)
{
    (void)state;
    struct model_config c = load("deepseek-v3");
    assert_string_equal(c.architecture, "DeepseekV3ForCausalLM");
    assert_string_equal(c.model_type, "deepseek_v3");
    assert_true(c.is_v3);
    assert_int_equal(c.n_layers, 61);
    assert_int_equal(c.n_mtp_layers, 1);
    assert_int_equal(c.d, 7168);
    assert_int_equal(c.vocab_size, 129280);
    assert_int_equal(c.n_heads, 128);
    assert_int_equal(c.d_cq, 1536);
    assert_int_equal(c.d_c, 512);
    assert_int_equal(c.d_n, 128);
    assert_int_equal(c.d_r, 64);
    assert_int_equal(c.d_v, 128);
    assert_int_equal(c.dense_columns, 18432);
    assert_int_equal(c.expert_columns, 2048);
    assert_int_equal(c.n_shared_experts, 1);
    assert_int_equal(c.router.scoring, ROUTER_SIGMOID);
    assert_int_equal(c.router.method, ROUTER_NOAUX_TC);
    assert_int_equal(c.router.n_experts, 256);
    assert_int_equal(c.router.n_chosen, 8);
    assert_int_equal(c.router.n_groups, 8);
    assert_int_equal(c.router.n_chosen_groups, 4);
    assert_true(c.router.normalize);
    assert_true(c.router.scale == 2.5f);
    for (int i = 0; i < 61; i++)
        assert_int_equal(c.is_moe[i], i >= 3);
    assert_true(c.rope.is_yarn);
    assert_true(c.rope.theta == 10000.0f && c.rope.factor == 40.0f);
    assert_true(c.rope.beta_fast == 32.0f && c.rope.beta_slow == 1.0f);
    assert_int_equal(c.rope.original_max_position, 4096);
    assert_true(c.rope.has_mscale && c.rope.has_mscale_all_dim);
    assert_true(c.epsilon == 1e-6f);
    assert_false(c.has_attention_bias);
    assert_false(c.ties_embeddings);
    assert_int_equal(c.max_position, 163840);
    assert_int_equal(c.dtype, DTYPE_BF16);
    assert_int_equal(c.bos_id, 0);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_id[0], 1);
    assert_string_equal(c.tensor_prefix, "");
}

static void differences_between_the_families_are_data(void **state)
{
    (void)state;
    struct model_config c = load("deepseek-v2-lite");
    assert_false(c.is_v3);
    assert_int_equal(c.d_cq, 0);
    assert_int_equal(c.router.scoring, ROUTER_SOFTMAX);
    assert_int_equal(c.router.method, ROUTER_GREEDY);
    assert_int_equal(c.n_shared_experts, 2);
    assert_true(c.rope.mscale == 0.707f);
    c = load("deepseek-v2");
    assert_int_equal(c.router.method, ROUTER_GROUP_LIMITED);
    assert_int_equal(c.router.n_groups, 8);
    assert_int_equal(c.router.n_chosen_groups, 3);
    assert_true(c.router.scale == 16.0f);
    c = load("kimi-k2");
    assert_true(c.is_v3);
    assert_string_equal(c.model_type, "kimi_k2");
    assert_true(c.rope.beta_fast == 1.0f);
    c = load("moonlight-16b-a3b");
    assert_true(c.is_v3);
    assert_int_equal(c.d_cq, 0);
    assert_false(c.rope.is_yarn);
    assert_true(c.rope.theta == 50000.0f);
    c = load("glm-4.7-flash");
    assert_true(c.is_v3);
    assert_int_equal(c.d_n, 192);
    assert_int_equal(c.d_v, 256);
    assert_true(c.epsilon == 1e-5f);
    assert_int_equal(c.n_mtp_layers, 1);
    assert_true(c.rope.theta == 1e6f);
    assert_false(c.rope.is_yarn);
}

/* A dense V2 of one layer, with `more` in front of its last brace. */
static struct model_config parse(const char *more)
{
    struct model_config config;
    char text[4096];
    snprintf(text, sizeof text,
             "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"num_hidden_layers\":4,"
             "\"hidden_size\":8,\"vocab_size\":16,\"num_attention_heads\":2,\"q_lora_rank\":null,"
             "\"kv_lora_rank\":4,\"qk_nope_head_dim\":2,\"qk_rope_head_dim\":2,\"v_head_dim\":3,"
             "\"intermediate_size\":6,\"max_position_embeddings\":64%s%s}",
             more[0] == '\0' ? "" : ",", more);
    ASSERT_OK(model_config_parse(&config, text, strlen(text), "text"));
    return config;
}

static const char experts[] = "\"n_routed_experts\":8,\"num_experts_per_tok\":2,"
                              "\"moe_intermediate_size\":5";

static struct model_config parse_with_experts(const char *more)
{
    char text[2048];
    snprintf(text, sizeof text, "%s%s%s", experts, more[0] == '\0' ? "" : ",", more);
    return parse(text);
}

static void absent_keys_have_the_defaults_of_v2(void **state)
{
    (void)state;
    struct model_config c = parse("");
    assert_int_equal(c.router.n_experts, 0);
    assert_int_equal(c.router.n_groups, 1);
    assert_int_equal(c.n_mtp_layers, 0);
    assert_false(c.is_moe[0] || c.is_moe[3]);
    assert_true(c.epsilon == 1e-6f);
    assert_true(c.rope.theta == 10000.0f && c.rope.factor == 1.0f);
    assert_false(c.rope.is_yarn);
    assert_false(c.ties_embeddings);
    assert_int_equal(c.dtype, DTYPE_BF16);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos, 0);
    assert_string_equal(c.unsupported, "");
    c = parse_with_experts("");
    assert_int_equal(c.router.scoring, ROUTER_SOFTMAX);
    assert_int_equal(c.router.method, ROUTER_GREEDY);
    assert_false(c.router.normalize);
    assert_true(c.router.scale == 1.0f);
    assert_int_equal(c.n_shared_experts, 0);
    assert_true(c.is_moe[0] && c.is_moe[3]); /* first_k_dense_replace 0 */
}

static void null_means_absent(void **state)
{
    (void)state;
    struct model_config c = parse("\"n_routed_experts\":null,\"rope_scaling\":null,"
                                  "\"bos_token_id\":null,\"eos_token_id\":null,"
                                  "\"quantization_config\":null,\"text_config\":null");
    assert_int_equal(c.router.n_experts, 0);
    assert_int_equal(c.n_eos, 0);
    assert_string_equal(c.unsupported, "");
    c = parse_with_experts("\"n_group\":null,\"topk_group\":null,\"n_shared_experts\":null,"
                           "\"topk_method\":\"gready\"");
    assert_int_equal(c.router.n_groups, 1);
    assert_int_equal(c.router.n_chosen_groups, 1);
    assert_int_equal(c.router.method, ROUTER_GREEDY);
}

static void layers_with_experts_follow_frequency_or_list(void **state)
{
    (void)state;
    struct model_config c = parse_with_experts("\"first_k_dense_replace\":1,\"moe_layer_freq\":2");
    assert_false(c.is_moe[0] || c.is_moe[1] || c.is_moe[3]);
    assert_true(c.is_moe[2]);
    c = parse_with_experts("\"first_k_dense_replace\":99");
    assert_false(c.is_moe[0] || c.is_moe[3]);
    c = parse_with_experts("\"first_k_dense_replace\":9,"
                           "\"mlp_layer_types\":[\"sparse\",\"dense\",\"dense\",\"sparse\"]");
    assert_true(c.is_moe[0] && c.is_moe[3]);
    assert_false(c.is_moe[1] || c.is_moe[2]);
}

static void both_generations_of_rope_keys_mean_the_same(void **state)
{
    (void)state;
    struct model_config old =
        parse("\"rope_theta\":50000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,"
              "\"original_max_position_embeddings\":32,\"mscale\":1,\"mscale_all_dim\":0.5,"
              "\"beta_fast\":16.0,\"beta_slow\":2}");
    struct model_config new =
        parse("\"rope_parameters\":{\"rope_theta\":5e4,\"rope_type\":\"yarn\",\"factor\":8.0,"
              "\"original_max_position_embeddings\":32,\"mscale\":1.0,\"mscale_all_dim\":0.5,"
              "\"beta_fast\":16,\"beta_slow\":2.0}");
    assert_memory_equal(&old.rope, &new.rope, sizeof old.rope);
    assert_true(old.rope.is_yarn && old.rope.beta_fast == 16.0f);
    struct model_config both =
        parse("\"rope_theta\":50000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,"
              "\"mscale\":1.0},\"rope_parameters\":{\"rope_theta\":50000.0,\"rope_type\":\"yarn\","
              "\"factor\":8.0,\"original_max_position_embeddings\":32,\"mscale\":1,"
              "\"mscale_all_dim\":0.5,\"beta_fast\":16,\"beta_slow\":2}");
    assert_memory_equal(&old.rope, &both.rope, sizeof old.rope);
    struct model_config plain = parse("\"rope_parameters\":{\"rope_theta\":1000000,"
                                      "\"rope_type\":\"default\"}");
    assert_false(plain.rope.is_yarn);
    assert_true(plain.rope.theta == 1e6f);
    assert_true(model_config_softmax_scale(&plain) == 0.5f);
}

static void types_and_stops_are_read(void **state)
{
    (void)state;
    struct model_config c = parse("\"torch_dtype\":\"float16\",\"eos_token_id\":[3,15,0],"
                                  "\"bos_token_id\":2,\"tie_word_embeddings\":true,"
                                  "\"attention_bias\":true");
    assert_int_equal(c.dtype, DTYPE_F16);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos_id[1], 15);
    assert_int_equal(c.bos_id, 2);
    assert_true(c.ties_embeddings && c.has_attention_bias);
    assert_int_equal(parse("\"dtype\":\"float32\"").dtype, DTYPE_F32);
}

/* embedding 128, head 128, norm 8; per layer: norms 16, q 8x8, kv_a 6x8, its norm 4, kv_b 10x4,
 * o 8x6, dense 3x8x6. */
static void size_of_a_model_counted_by_hand(void **state)
{
    (void)state;
    struct model_size size;
    struct model_config c = parse("");
    int64_t attention = 64 + 48 + 4 + 40 + 48, layer = 16 + attention + 144;
    model_config_size(&c, &size);
    assert_int_equal(size.parameters, 128 + 128 + 8 + 4 * layer);
    assert_int_equal(size.active_parameters, 128 + 8 + 4 * layer);
    assert_int_equal(size.mtp_parameters, 0);
    c = parse("\"tie_word_embeddings\":true,\"attention_bias\":true"); /* bias: kv_a 6, o 8 */
    model_config_size(&c, &size);
    assert_int_equal(size.parameters, 128 + 8 + 4 * (layer + 14));
    assert_int_equal(size.active_parameters, 128 + 8 + 4 * (layer + 14));
    c = parse_with_experts("\"n_shared_experts\":1,\"first_k_dense_replace\":1");
    model_config_size(&c, &size); /* gate 8x8, an expert 3x8x5 */
    assert_int_equal(size.parameters, 264 + layer + 3 * (16 + attention + 64 + 9 * 120));
    assert_int_equal(size.active_parameters, 136 + layer + 3 * (16 + attention + 64 + 3 * 120));
}

static void write_config(const char *name, const char *text)
{
    fixture_text(name, text);
}

static const char small[] =
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"num_hidden_layers\":4,\"hidden_size\":8,"
    "\"vocab_size\":16,\"num_attention_heads\":2,\"q_lora_rank\":null,\"kv_lora_rank\":4,"
    "\"qk_nope_head_dim\":2,\"qk_rope_head_dim\":2,\"v_head_dim\":3,\"intermediate_size\":6,"
    "\"max_position_embeddings\":64,\"eos_token_id\":1}";

static void generation_config_gives_the_stops(void **state)
{
    (void)state;
    struct model_config c;
    write_config("config.json", small);
    ASSERT_OK(model_config_load(&c, fixture_directory));
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_id[0], 1);
    write_config("generation_config.json", "{\"eos_token_id\":[7,8],\"temperature\":0.6}");
    ASSERT_OK(model_config_load(&c, fixture_directory));
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_id[0], 7);
    ASSERT_OK(model_config_load(&c, fixture_path("config.json")));
    assert_int_equal(c.n_eos, 2);
    write_config("other.json", small);
    ASSERT_OK(model_config_load(&c, fixture_path("other.json")));
    assert_int_equal(c.n_eos, 1);
    write_config("generation_config.json", "{\"temperature\":0.6}");
    ASSERT_OK(model_config_load(&c, fixture_directory));
    assert_int_equal(c.eos_id[0], 1);
    write_config("generation_config.json", "{\"eos_token_id\":16}");
    ASSERT_FAILS(STATUS_INVALID, "generation_config.json: eos_token_id is 16",
                 model_config_load(&c, fixture_directory));
    write_config("generation_config.json", "[]");
    ASSERT_FAILS(STATUS_INVALID, "expected an object", model_config_load(&c, fixture_directory));
}

static void nested_language_models_are_followed(void **state)
{
    (void)state;
    struct model_config c;
    char text[2048];
    snprintf(text, sizeof text,
             "{\"architectures\":[\"KimiK25ForConditionalGeneration\"],"
             "\"model_type\":\"kimi_k25\",\"dtype\":\"float16\",\"eos_token_id\":2,"
             "\"vision_config\":{},\"text_config\":%s}",
             small);
    ASSERT_OK(model_config_parse(&c, text, strlen(text), "text"));
    assert_string_equal(c.architecture, "KimiK25ForConditionalGeneration");
    assert_string_equal(c.tensor_prefix, "language_model.");
    assert_int_equal(c.d, 8);
    assert_int_equal(c.dtype, DTYPE_F16);
    assert_int_equal(c.eos_id[0], 1); /* the inner one */
    assert_string_equal(c.unsupported, "");
    assert_false(c.is_v3);
}

static void model_type_decides_where_no_architecture_is_named(void **state)
{
    (void)state;
    struct model_config c;
    const char *v4 = "{\"model_type\":\"deepseek_v4\"}";
    ASSERT_OK(model_config_parse(&c, v4, strlen(v4), "text"));
    assert_non_null(strstr(c.unsupported, "DeepSeek-V4"));
    assert_false(c.is_countable);
    const char *nested = "{\"architectures\":[\"SomeVision\"],\"text_config\":{}}";
    ASSERT_OK(model_config_parse(&c, nested, strlen(nested), "text"));
    assert_non_null(strstr(c.unsupported, "the graph SomeVision"));
}

static void graphs_that_do_not_run_here_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *architecture, *reason;
    } cases[] = {
        {"LongcatFlashForCausalLM", "LongCat"}, {"KimiLinearForCausalLM", "linear attention"},
        {"DeepseekV4ForCausalLM", "V4"},        {"Mistral4ForCausalLM", "Mistral 4"},
        {"MiniCPM3ForCausalLM", "MiniCPM3"},    {"LlamaForCausalLM", "LlamaForCausalLM"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c;
        char text[128];
        snprintf(text, sizeof text, "{\"architectures\":[\"%s\"]}", cases[i].architecture);
        ASSERT_OK(model_config_parse(&c, text, strlen(text), "text"));
        assert_string_equal(c.architecture, cases[i].architecture);
        assert_non_null(strstr(c.unsupported, "not in this version: "));
        assert_non_null(strstr(c.unsupported, cases[i].reason));
        assert_false(c.is_countable);
    }
}

#define INT4(weights)                                                                              \
    "\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":"                 \
    "\"pack-quantized\",\"config_groups\":{\"group_0\":{\"weights\":{" weights "}}}}"

static void quantization_is_read_wherever_it_stands(void **state)
{
    (void)state;
    struct model_config c = parse("\"hidden_act\":\"silu\"");
    assert_int_equal(c.quantization, QUANTIZED_NONE);
    c = parse("\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
              "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,64]}");
    assert_string_equal(c.unsupported, "");
    assert_int_equal(c.quantization, QUANTIZED_FP8);
    assert_int_equal(c.scale_rows, 128);
    assert_int_equal(c.scale_columns, 64);
    c = parse(INT4("\"type\":\"int\",\"num_bits\":4,\"group_size\":32,\"actorder\":null,"
                   "\"strategy\":\"group\",\"symmetric\":true"));
    assert_string_equal(c.unsupported, "");
    assert_int_equal(c.quantization, QUANTIZED_INT4);
    assert_int_equal(c.scale_rows, 1);
    assert_int_equal(c.scale_columns, 32);
}

static void parts_that_do_not_run_here_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *keys, *reason;
    } cases[] = {
        {"\"quantization_config\":{\"quant_method\":\"fp8\"}", "without weight_block_size"},
        {"\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\","
         "\"weight_block_size\":[128,128]}",
         "format e5m2"},
        {"\"quantization_config\":{\"quant_method\":\"awq\"}", "quantized by awq"},
        {"\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":"
         "\"nvfp4-pack-quantized\",\"config_groups\":{\"group_0\":{}}}",
         "nvfp4-pack-quantized"},
        {INT4("\"type\":\"float\",\"num_bits\":4"), "float4"},
        {INT4("\"type\":\"int\",\"num_bits\":8"), "int8"},
        {INT4("\"num_bits\":4,\"strategy\":\"channel\""), "scales by channel"},
        {INT4("\"num_bits\":4,\"symmetric\":false"), "zero points"},
        {INT4("\"num_bits\":4,\"actorder\":\"group\""), "actorder"},
        {INT4("\"num_bits\":4,\"group_size\":32}},\"group_1\":{\"weights\":{\"num_bits\":4,"
              "\"group_size\":64"),
         "several sizes"},
        {"\"rope_interleave\":false", "half-split RoPE"},
        {"\"rope_scaling\":{\"type\":\"longrope\"}", "longrope"},
        {"\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2,\"truncate\":false,"
         "\"original_max_position_embeddings\":32}",
         "truncate"},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"llama_4_scaling_beta\":0.1}",
         "llama_4_scaling_beta"},
        {"\"index_topk\":8,\"index_n_heads\":2,\"index_head_dim\":4", "an indexer"},
        {"\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":5,"
         "\"scoring_func\":\"sigmoid\"",
         "sigmoid scores with topk_method greedy"},
        {"\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":5,"
         "\"topk_method\":\"noaux_tc\"",
         "softmax scores with topk_method noaux_tc"},
        {"\"n_routed_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":5,"
         "\"scoring_func\":\"sqrtsoftplus\"",
         "sqrtsoftplus"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c = parse(cases[i].keys);
        if (strstr(c.unsupported, cases[i].reason) == NULL)
            fail_msg("\"%s\", expected \"%s\"", c.unsupported, cases[i].reason);
        assert_non_null(strstr(c.unsupported, "not in this version: "));
        assert_true(c.is_countable);
    }
    struct model_config c;
    const char *plain = "{\"model_type\":\"deepseek_v2\",\"qk_nope_head_dim\":0,"
                        "\"qk_rope_head_dim\":0}";
    ASSERT_OK(model_config_parse(&c, plain, strlen(plain), "text"));
    assert_non_null(strstr(c.unsupported, "attention without latents"));
    c = parse("\"use_mla\":false");
    assert_non_null(strstr(c.unsupported, "attention without latents"));
    assert_false(c.is_countable);
}

/* V3.2 has V3's shapes and an indexer of 64 heads of 128: 671.88 billion are published. */
/* A.X-K1 is Kimi-K2 with half the experts and one more norm in each layer of experts. */
static void the_norm_behind_experts_is_counted(void **state)
{
    (void)state;
    struct model_config c = load("kimi-k2");
    struct model_size with, without;
    c.router.n_experts = 192;
    model_config_size(&c, &without);
    c.has_expert_norm = 1;
    model_config_size(&c, &with);
    assert_billions(with.parameters, 518.98);
    assert_int_equal(with.parameters - without.parameters, 60 * 7168);
}

static void indexers_are_counted(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double parameters;
    } cases[] = {{"deepseek-v3.2", 671.88}, {"glm-5", 743.91}};
    for (size_t i = 0; i < 2; i++) {
        struct model_config c = load(cases[i].name);
        struct model_size size;
        model_config_size(&c, &size);
        assert_billions(size.parameters, cases[i].parameters);
        assert_non_null(strstr(c.unsupported, "an indexer"));
    }
}

/* Elements of the files of one golden checkpoint, those of the MTP layers apart; its copies of
 * embedding and head do not count. */
static void count_file(struct model_size *size, const struct model_config *config,
                       const char *directory)
{
    struct safetensors *checkpoint = NULL;
    *size = (struct model_size){0};
    ASSERT_OK(safetensors_open(&checkpoint, directory));
    for (int i = 0; i < safetensors_count(checkpoint); i++) {
        const struct safetensors_entry *entry = safetensors_at(checkpoint, i);
        const char *layer = strstr(entry->name, "model.layers.");
        int64_t elements = entry->bytes / (int64_t)dtype_bytes(entry->dtype);
        if (strncmp(entry->name, config->tensor_prefix, strlen(config->tensor_prefix)) != 0)
            continue; /* vision */
        if (strstr(entry->name, "_scale") != NULL || strstr(entry->name, "_shape") != NULL)
            continue; /* of quantized weights */
        if (strstr(entry->name, "_packed") != NULL)
            elements *= 8; /* int4 in i32 */
        if (layer == NULL || atoi(layer + strlen("model.layers.")) < config->n_layers)
            size->parameters += elements;
        else if (strstr(layer, "embed_tokens") == NULL && strstr(layer, "shared_head.head") == NULL)
            size->mtp_parameters += elements;
    }
    safetensors_close(checkpoint);
}

static void sizes_equal_the_tensors_of_golden_checkpoints(void **state)
{
    (void)state;
    DIR *folder = opendir(SOURCE_DIR "/tests/golden");
    int n_checked = 0;
    for (struct dirent *item; folder != NULL && (item = readdir(folder)) != NULL;) {
        char path[600], file[700];
        struct model_config config;
        struct model_size expected, found;
        snprintf(path, sizeof path, "%s/tests/golden/%s", SOURCE_DIR, item->d_name);
        snprintf(file, sizeof file, "%s/config.json", path);
        if (item->d_name[0] == '.' || access(file, F_OK) != 0)
            continue;
        ASSERT_OK(model_config_load(&config, path));
        if (!config.is_countable || config.unsupported[0] != '\0')
            continue;
        count_file(&expected, &config, path);
        model_config_size(&config, &found);
        if (found.parameters != expected.parameters ||
            found.mtp_parameters != expected.mtp_parameters)
            fail_msg("%s: %lld + %lld, the files hold %lld + %lld", path,
                     (long long)found.parameters, (long long)found.mtp_parameters,
                     (long long)expected.parameters, (long long)expected.mtp_parameters);
        n_checked++;
    }
    if (folder != NULL)
        closedir(folder);
    if (n_checked == 0)
        skip();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_the_published_ones),
        cmocka_unit_test(active_sizes_are_the_published_ones),
        cmocka_unit_test(keys_of_v3_are_read),
        cmocka_unit_test(differences_between_the_families_are_data),
        cmocka_unit_test(absent_keys_have_the_defaults_of_v2),
        cmocka_unit_test(null_means_absent),
        cmocka_unit_test(layers_with_experts_follow_frequency_or_list),
        cmocka_unit_test(both_generations_of_rope_keys_mean_the_same),
        cmocka_unit_test(types_and_stops_are_read),
        cmocka_unit_test(size_of_a_model_counted_by_hand),
        TEST(generation_config_gives_the_stops),
        cmocka_unit_test(nested_language_models_are_followed),
        cmocka_unit_test(model_type_decides_where_no_architecture_is_named),
        cmocka_unit_test(graphs_that_do_not_run_here_are_named),
        cmocka_unit_test(quantization_is_read_wherever_it_stands),
        cmocka_unit_test(parts_that_do_not_run_here_are_named),
        cmocka_unit_test(the_norm_behind_experts_is_counted),
        cmocka_unit_test(indexers_are_counted),
        cmocka_unit_test(sizes_equal_the_tensors_of_golden_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
