/* option_check.c - what a command demands of its options together, as far as no file has to be read. */
#include "launcher/option_table.h"

static enum status check_generate(const struct options *options)
{
    if (options->prompt.count == 0 && options->prompt_ids.count == 0 &&
        options->prompt_file == NULL)
        FAIL(STATUS_USAGE, "generate needs a prompt: --prompt, --prompt-ids or --prompt-file");
    if (options->logprobs >= 0 && !options->json)
        FAIL(STATUS_USAGE, "--logprobs is shown by --json only: give --json too");
    for (int i = 0; i < options->stop.count; i++)
        if (options->stop.text[i][0] == '\0')
            FAIL(STATUS_USAGE, "--stop: found an empty text, which stands everywhere");
    return STATUS_OK;
}

static enum status check_latency(const struct options *options)
{
    if (options->batch_size > options->max_num_batched_tokens)
        FAIL(STATUS_USAGE,
             "--batch-size %lld: a step takes at most %lld tokens (--max-num-batched-tokens)",
             (long long)options->batch_size, (long long)options->max_num_batched_tokens);
    if (options->max_model_len > 0 &&
        options->max_model_len < options->input_len + options->output_len)
        FAIL(STATUS_USAGE, "--max-model-len %lld: --input-len and --output-len make %lld tokens",
             (long long)options->max_model_len,
             (long long)(options->input_len + options->output_len));
    return STATUS_OK;
}

static enum status check_inspect(const struct options *options)
{
    if (options->model == NULL && options->model_config == NULL)
        FAIL(STATUS_USAGE, "inspect needs --model or --model-config");
    if (options->model != NULL && options->model_config != NULL)
        FAIL(STATUS_USAGE, "--model and --model-config exclude each other");
    return STATUS_OK;
}

enum status options_check(const struct options *options)
{
    enum command command = options->command;
    int needs_model = command == COMMAND_GENERATE || command == COMMAND_EVAL ||
                      command == COMMAND_VERIFY || command == COMMAND_TOKENIZE ||
                      command == COMMAND_DETOKENIZE || command == COMMAND_BENCH_LATENCY ||
                      command == COMMAND_BENCH_LOAD;
    if (command == COMMAND_NONE)
        FAIL(STATUS_USAGE, "no command; latentrank --help lists them");
    if (needs_model && options->model == NULL)
        FAIL(STATUS_USAGE, "%s needs --model", command_name(command));
    if (command == COMMAND_EVAL && options->text_file == NULL)
        FAIL(STATUS_USAGE, "eval needs --text-file");
    if (command == COMMAND_MAKE_MODEL && options->model_config == NULL)
        FAIL(STATUS_USAGE, "make-model needs --model-config");
    if (command == COMMAND_MAKE_MODEL && options->out == NULL)
        FAIL(STATUS_USAGE, "make-model needs --out");
    if (options->redundant_experts > 0 && options->expert_map == NULL)
        FAIL(STATUS_USAGE,
             "--redundant-experts %lld: which experts have copies follows from their loads; give "
             "--expert-map too",
             (long long)options->redundant_experts);
    if (command == COMMAND_GENERATE)
        return check_generate(options);
    if (command == COMMAND_BENCH_LATENCY)
        return check_latency(options);
    if (command == COMMAND_BENCH_COMM && options->min_bytes > options->max_bytes)
        FAIL(STATUS_USAGE, "--min-bytes %lld is more than --max-bytes %lld",
             (long long)options->min_bytes, (long long)options->max_bytes);
    return command == COMMAND_INSPECT ? check_inspect(options) : STATUS_OK;
}
