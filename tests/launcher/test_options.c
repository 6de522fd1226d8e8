/* The rules of options.h, on the table itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher/option_table.h"
#include "launcher/options.h"

enum { ARGUMENTS_MAX = 32 };

/* Reads one command line, given as words between spaces; `environment` likewise. */
static enum status read_words(struct options *options, const char *line, const char *variables)
{
    static char text[2][2048];
    static char *argv[ARGUMENTS_MAX + 1], *environment[ARGUMENTS_MAX + 1];
    const char *source[2] = {line, variables};
    char **list[2] = {argv, environment};
    int count[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        char *save = NULL;
        snprintf(text[i], sizeof text[i], "%s", source[i]);
        for (char *word = strtok_r(text[i], " ", &save); word != NULL && count[i] < ARGUMENTS_MAX;
             word = strtok_r(NULL, " ", &save))
            list[i][count[i]++] = word;
        list[i][count[i]] = NULL;
    }
    return options_read(options, count[0], argv, environment);
}

static void expect_failure(const char *line, const char *variables, const char *text)
{
    struct options options;
    enum status status = read_words(&options, line, variables);
    if (status != STATUS_USAGE || strstr(status_text(), text) == NULL)
        fail_msg("'%s' with '%s' gave status %d, '%s'; expected '%s'", line, variables, status,
                 status_text(), text);
    assert_null(strchr(status_text(), '\n'));
    options_close(&options);
    status_clear();
}

static char *write_file(char *path, const char *text)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static void each_command_takes_a_name_once(void **state)
{
    (void)state;
    for (int i = 0; i < option_count; i++) {
        const struct option *a = &option_table[i];
        assert_non_null(a->help);
        assert_non_null(a->section);
        assert_true(a->initial != NULL || a->none != NULL);
        assert_true((a->type == OPTION_FLAG) == (a->value_name == NULL));
        for (int j = 0; j < i; j++) {
            const struct option *b = &option_table[j];
            if (strcmp(a->name, b->name) != 0)
                continue;
            assert_int_equal(a->commands & b->commands, 0);
            assert_int_equal(a->at, b->at);
            assert_int_equal(a->type, b->type);
        }
    }
}

static void later_names_are_neither_in_the_table_nor_in_help(void **state)
{
    static const char *const later[] = {"kv-cache-form", "block-size", "num-prompts",
                                        "request-rate", "cluster"};
    char line[128], *help = options_help(COMMAND_NONE);
    (void)state;
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) {
        assert_null(option_find(later[i], COMMAND_NONE));
        snprintf(line, sizeof line, "--%s ", later[i]);
        assert_null(strstr(help, line));
        snprintf(line, sizeof line, "latentrank generate --%s 2", later[i]);
        expect_failure(line, "", "not in this version");
    }
    free(help);
    expect_failure("latentrank generate --numa-bind 0,1", "", "not in this version");
    expect_failure("latentrank serve", "", "not in this version");
    expect_failure("latentrank bench throughput", "", "not in this version");
    expect_failure("latentrank bench serve", "", "not in this version");
    expect_failure("latentrank generate", "LATENTRANK_BLOCK_SIZE=2", "not in this version");
}

static void help_lists_every_option_with_its_default(void **state)
{
    (void)state;
    for (int c = 0; c <= COMMAND_COUNT; c++) {
        char *help = options_help((enum command)c), name[128];
        for (int i = 0; i < option_count; i++) {
            const struct option *option = &option_table[i];
            if (!option_applies(option, (enum command)c))
                continue;
            snprintf(name, sizeof name, "  --%s", option->name);
            const char *at = strstr(help, name);
            assert_non_null(at);
            const char *next = strstr(at + 3, "  --");
            const char *value = strstr(at, "(default:");
            if (value == NULL || (next != NULL && value > next))
                value = strstr(at, "(required)");
            assert_true(value != NULL && (next == NULL || value < next || c == COMMAND_NONE));
        }
        free(help);
    }
}

static void generate_has_the_settled_defaults(void **state)
{
    struct options options;
    (void)state;
    assert_int_equal(read_words(&options, "latentrank generate --model m --prompt p", ""), 0);
    assert_int_equal(options.max_tokens, 128);
    assert_true(options.temperature == 0 && options.top_p == 1 && options.min_p == 0);
    assert_int_equal(options.top_k, 0);
    assert_int_equal(options.seed, 0);
    assert_int_equal(options.logprobs, -1);
    assert_int_equal(options.tp, 0);
    assert_int_equal(options.add_bos, BOS_AUTO);
    assert_int_equal(options.kv_cache_dtype, CACHE_AUTO);
    options_close(&options);
    assert_int_equal(read_words(&options, "latentrank tokenize --model m", ""), 0);
    assert_int_equal(options.add_bos, BOS_OFF);
    options_close(&options);
}

static void command_line_beats_environment_beats_file_beats_default(void **state)
{
    char path[] = "/tmp/latentrank_test_XXXXXX", line[256];
    struct options options;
    (void)state;
    write_file(path, "{\"max-tokens\": 1, \"seed\": 2, \"temperature\": 0.5, \"tp\": null, "
                     "\"stop\": [\"a\", \"b\"], \"layers\": 3, \"model\": \"from-file\"}");
    snprintf(line, sizeof line,
             "latentrank generate --config %s --max-tokens 3 --prompt=x --stop c --stop=d", path);
    assert_int_equal(read_words(&options, line,
                                "LATENTRANK_MAX_TOKENS=5 LATENTRANK_SEED=6 LATENTRANK_STOP=e "
                                "LATENTRANK_DEBUG_LOG=info PATH=x"),
                     STATUS_OK);
    assert_int_equal(options.max_tokens, 3);
    assert_int_equal(options.seed, 6);
    assert_true(options.temperature == 0.5);
    assert_int_equal(options.top_k, 0);
    assert_string_equal(options.model, "from-file");
    assert_int_equal(options.stop.count, 2);
    assert_string_equal(options.stop.text[0], "c");
    assert_string_equal(options.stop.text[1], "d");
    options_close(&options);

    snprintf(line, sizeof line, "latentrank generate --prompt x");
    char variable[256];
    snprintf(variable, sizeof variable, "LATENTRANK_CONFIG=%s LATENTRANK_IGNORE_EOS=1", path);
    assert_int_equal(read_words(&options, line, variable), STATUS_OK);
    assert_int_equal(options.max_tokens, 1);
    assert_int_equal(options.stop.count, 2);
    assert_int_equal(options.ignore_eos, 1);
    options_close(&options);
    unlink(path);
}

/* --print-config gives a file that --config reads back to the same values, and the same hash. */
static void printed_config_is_read_back(void **state)
{
    char path[] = "/tmp/latentrank_test_XXXXXX", line[256];
    struct options options, again;
    (void)state;
    assert_int_equal(read_words(&options,
                                "latentrank generate --model m --prompt p --temperature 0.3 "
                                "--stop s --tp 2 --logprobs 0 --json --seed 9223372036854775807",
                                ""),
                     STATUS_OK);
    char *text = options_json(&options);
    write_file(path, text);
    snprintf(line, sizeof line, "latentrank generate --config %s", path);
    assert_int_equal(read_words(&again, line, ""), STATUS_OK);
    char *text_again = options_json(&again);
    assert_string_equal(text, text_again);
    assert_true(options_hash(&options) == options_hash(&again));
    options_close(&again);
    assert_int_equal(read_words(&again, "latentrank generate --model m --prompt q", ""), STATUS_OK);
    assert_true(options_hash(&options) != options_hash(&again));
    options_close(&again);
    options_close(&options);
    free(text);
    free(text_again);
    unlink(path);
}

static void bad_values_are_refused_with_what_was_expected(void **state)
{
    static const char *const bad[][2] = {
        {"--tp 0", "an integer from 1 to 4096"},
        {"--tp 2x", "found '2x'"},
        {"--tp +2", "found '+2'"},
        {"--tp 99999999999999999999", "an integer"},
        {"--tp=", "found ''"},
        {"--max-tokens -1", "at least 0"},
        {"--max-tokens 1e3", "found '1e3'"},
        {"--max-tokens 4294967296", "found '4294967296'"},
        {"--seed 9223372036854775808", "found '9223372036854775808'"},
        {"--temperature nan", "a number from 0 to 100"},
        {"--temperature inf", "found 'inf'"},
        {"--temperature -0.1", "a number"},
        {"--temperature 0x1", "found '0x1'"},
        {"--temperature 1e999", "a number"},
        {"--top-p 0", "a number above 0, at most 1"},
        {"--top-p 1.0001", "at most 1"},
        {"--min-p 2", "a number from 0 to 1"},
        {"--mla-mode fast", "auto, absorb or expand"},
        {"--mla-mode AUTO", "auto, absorb or expand"},
        {"--json=maybe", "true or false"},
        {"--model=", "empty value"},
        {"--tp", "--tp: missing value"},
        {"--model --tp 2", "--model: missing value"},
        {"prompt", "unexpected argument 'prompt'"},
        {"--", "unexpected argument '--'"},
        {"-m x", "unknown option -m"},
        {"--modle x", "did you mean --model?"},
        {"--max-token 3", "did you mean --max-tokens?"},
        {"--max_tokens 3", "did you mean --max-tokens?"},
        {"--tempreature 3", "did you mean --temperature?"},
        {"--tensor-parallel-size 3", "did you mean --tp?"},
        {"--quantization int8", "did you mean --weight-dtype?"},
        {"--activation-dtype f16", "found 'f16', expected auto, f32 or bf16"},
        {"--weight-dtype int4", "found 'int4', expected auto or int8"},
        {"--layers 3", "generate does not take --layers (make-model does)"},
        {"--text x", "(tokenize and detokenize do)"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char line[256];
        snprintf(line, sizeof line, "latentrank generate %s", bad[i][0]);
        expect_failure(line, "", bad[i][1]);
    }
    expect_failure("latentrank", "", "no command");
    expect_failure("latentrank genrate", "", "did you mean generate?");
    expect_failure("latentrank --json generate", "", "stands where the command goes");
}

static void bad_environment_and_file_name_their_place(void **state)
{
    static const char *const bad_file[][2] = {
        {"{\"modle\": \"x\"}", "unknown key \"modle\"; did you mean \"model\"?"},
        {"{\"max_tokens\": 1}", "did you mean \"max-tokens\"?"},
        {"{\"tp\": \"2\"}", "key \"tp\": found a value of the wrong type, expected an integer"},
        {"{\"tp\": 2.5}", "expected an integer"},
        {"{\"tp\": 0}", "key \"tp\": found '0'"},
        {"{\"block-size\": 1}", "not in this version"},
        {"{\"json\": 1}", "expected true or false"},
        {"{\"config\": \"x\"}", "unknown key \"config\""},
        {"{\"help\": true}", "unknown key \"help\""},
        {"{\"prompt\": [1]}", "array of strings"},
        {"{\"seed\": 1, \"seed\": 2}", "duplicate"},
        {"[1]", "expected a JSON object"},
        {"{\"seed\": 1", "line 1"},
    };
    (void)state;
    expect_failure("latentrank generate", "LATENTRANK_MODLE=x",
                   "LATENTRANK_MODLE; did you mean LATENTRANK_MODEL?");
    expect_failure("latentrank generate", "LATENTRANK_TP=0", "LATENTRANK_TP: found '0'");
    expect_failure("latentrank generate", "LATENTRANK_max_tokens=1", "LATENTRANK_MAX_TOKENS?");
    expect_failure("latentrank generate", "LATENTRANK_MAX-TOKENS=1", "unknown environment");
    expect_failure("latentrank generate", "LATENTRANK_HELP=1", "unknown environment");
    expect_failure("latentrank generate --config /nonexistent", "", "/nonexistent");
    for (size_t i = 0; i < sizeof bad_file / sizeof bad_file[0]; i++) {
        char path[] = "/tmp/latentrank_test_XXXXXX", line[256];
        write_file(path, bad_file[i][0]);
        snprintf(line, sizeof line, "latentrank generate --config %s", path);
        expect_failure(line, "", bad_file[i][1]);
        unlink(path);
    }
}

static void commands_demand_what_they_need(void **state)
{
    (void)state;
    expect_failure("latentrank generate --prompt x", "", "needs --model");
    expect_failure("latentrank generate --model m", "", "needs a prompt");
    expect_failure("latentrank generate --model m --prompt x --logprobs 2", "", "--json");
    expect_failure("latentrank generate --model m --prompt x --stop=", "", "empty text");
    expect_failure("latentrank generate --model m --prompt x --redundant-experts 2", "",
                   "give --expert-map too");
    expect_failure("latentrank eval --model m", "", "needs --text-file");
    expect_failure("latentrank bench", "", "latency, kernels, load or comm");
    expect_failure("latentrank bench --model m", "", "latency, kernels, load or comm");
    expect_failure("latentrank bench latancy", "", "did you mean bench latency?");
    expect_failure("latentrank latency", "", "unknown command 'latency'");
    expect_failure("latentrank bench latency", "", "bench latency needs --model");
    expect_failure("latentrank bench latency --model m --batch-size 513", "", "at most 512 tokens");
    expect_failure("latentrank bench latency --model m --max-model-len 159", "", "160 tokens");
    expect_failure("latentrank bench latency --model m --batch-size 0", "", "from 1 to 65536");
    expect_failure("latentrank bench latency --model m --prompt x", "", "does not take --prompt");
    expect_failure("latentrank bench comm --min-bytes 64 --max-bytes 32", "",
                   "--min-bytes 64 is more than --max-bytes 32");
    expect_failure("latentrank bench comm --op gemm", "", "all_gather");
    expect_failure("latentrank bench comm --model m", "", "does not take --model");
    expect_failure("latentrank generate --model m --prompt x --comm tcp", "",
                   "auto, mpi, shm or nccl");
    expect_failure("latentrank bench kernels --model m", "", "does not take --model");
    expect_failure("latentrank bench kernels --dtype u8", "", "f8_e4m3, i8 or i4");
    expect_failure("latentrank bench kernels --op mla", "", "latent_attention");
    expect_failure("latentrank inspect", "", "--model or --model-config");
    expect_failure("latentrank inspect --model m --model-config c", "", "exclude");
    expect_failure("latentrank tokenize", "", "needs --model");
    expect_failure("latentrank make-model --out o", "", "needs --model-config");
    expect_failure("latentrank make-model --model-config c", "", "needs --out");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_command_takes_a_name_once),
        cmocka_unit_test(later_names_are_neither_in_the_table_nor_in_help),
        cmocka_unit_test(help_lists_every_option_with_its_default),
        cmocka_unit_test(generate_has_the_settled_defaults),
        cmocka_unit_test(command_line_beats_environment_beats_file_beats_default),
        cmocka_unit_test(printed_config_is_read_back),
        cmocka_unit_test(bad_values_are_refused_with_what_was_expected),
        cmocka_unit_test(bad_environment_and_file_name_their_place),
        cmocka_unit_test(commands_demand_what_they_need),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
