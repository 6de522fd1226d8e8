#include "launcher/prompts.h"
#include "launcher/text_input.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What turns one prompt into ids. */
struct source {
    const struct options *options;
    const struct tokenizer *tokenizer;
    const struct model_config *config;
    int64_t max_model_len;
    struct prompt_list *prompts;
};

enum status prompts_bos(int32_t *bos, const struct options *options,
                        const struct tokenizer *tokenizer, const struct model_config *config)
{
    int own = tokenizer_bos(tokenizer);
    if (own < 0 && config != NULL)
        own = config->bos_id;
    if (options->add_bos == BOS_ON && own < 0)
        FAIL(STATUS_USAGE, "--add-bos on: the model has no BOS token");
    *bos = options->add_bos == BOS_ON ||
                   (options->add_bos == BOS_AUTO && tokenizer_adds_bos(tokenizer))
               ? own
               : -1;
    return STATUS_OK;
}

enum status prompts_check_ids(const struct token_list *ids, int64_t vocab_size, const char *where)
{
    for (int64_t i = 0; i < ids->count; i++)
        if (ids->id[i] < 0 || ids->id[i] >= vocab_size)
            FAIL(STATUS_USAGE,
                 "%s: id %" PRId32 " at position %" PRId64
                 " is out of range, expected 0 to %" PRId64,
                 where, ids->id[i], i, vocab_size - 1);
    return STATUS_OK;
}

/* A new prompt at the end of the list, for the caller to fill. */
static enum status new_prompt(struct token_list **prompt, struct prompt_list *prompts)
{
    struct token_list *grown =
        realloc(prompts->prompt, (size_t)(prompts->count + 1) * sizeof *grown);
    if (grown == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d prompts", prompts->count + 1);
    prompts->prompt = grown;
    *prompt = &grown[prompts->count++];
    **prompt = (struct token_list){.id = NULL};
    return STATUS_OK;
}

static enum status check_prompt(const struct source *source, const struct token_list *prompt,
                                const char *where)
{
    if (prompt->count == 0)
        FAIL(STATUS_USAGE, "%s: empty prompt: there is no token to go on from", where);
    TRY(prompts_check_ids(prompt, source->config->vocab_size, where));
    if (prompt->count > source->max_model_len)
        FAIL(STATUS_USAGE,
             "%s: the prompt has %" PRId64 " tokens, but the context holds %" PRId64
             " (--max-model-len)",
             where, prompt->count, source->max_model_len);
    return STATUS_OK;
}

static enum status add_text(const struct source *source, const char *text, size_t length,
                            const char *where)
{
    struct token_list *prompt = NULL;
    int32_t bos = -1;
    if (source->tokenizer == NULL)
        FAIL(STATUS_USAGE, "%s: %s has no tokenizer.json: give ids (--prompt-ids)", where,
             source->options->model);
    TRY(prompts_bos(&bos, source->options, source->tokenizer, source->config));
    TRY(new_prompt(&prompt, source->prompts));
    if (bos >= 0)
        TRY(token_list_push(prompt, bos));
    TRY(tokenizer_encode(source->tokenizer, text, length, prompt));
    return check_prompt(source, prompt, where);
}

static enum status add_json_ids(const struct source *source, const json_t *array, const char *where)
{
    struct token_list *prompt = NULL;
    TRY(new_prompt(&prompt, source->prompts));
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *id = json_array_get(array, i);
        int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (!json_is_integer(id) || value < INT32_MIN || value > INT32_MAX)
            FAIL(STATUS_INVALID, "%s: element %zu of \"ids\" is no token id", where, i);
        TRY(token_list_push(prompt, (int32_t)value));
    }
    return check_prompt(source, prompt, where);
}

static enum status add_line(const struct source *source, const char *line, size_t length,
                            const char *where)
{
    json_error_t error;
    json_t *root = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    const json_t *text = json_object_get(root, "prompt"), *ids = json_object_get(root, "ids");
    enum status status;
    if (root == NULL)
        FAIL(STATUS_INVALID, "%s: %s", where, error.text);
    if (json_is_string(text) && ids == NULL)
        status = add_text(source, json_string_value(text), json_string_length(text), where);
    else if (json_is_array(ids) && text == NULL)
        status = add_json_ids(source, ids, where);
    else
        status = status_fail(STATUS_INVALID, __FILE__, __LINE__,
                             "%s: expected {\"prompt\": TEXT} or {\"ids\": [1, 2, 3]}", where);
    json_decref(root);
    return status;
}

static enum status add_lines(const struct source *source, const char *path, const char *text,
                             size_t length)
{
    const char *end = text + length;
    int count = source->prompts->count;
    for (int number = 1; text < end; number++) {
        char where[512];
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t used = (size_t)((newline == NULL ? end : newline) - text);
        snprintf(where, sizeof where, "%s: line %d", path, number);
        if (strspn(text, " \t\r") < used)
            TRY(add_line(source, text, used, where));
        text += used + 1;
    }
    if (source->prompts->count == count)
        FAIL(STATUS_INVALID, "%s: no prompts in it", path);
    return STATUS_OK;
}

static enum status add_file(const struct source *source, const char *path)
{
    char *text = NULL;
    size_t length = 0, name = strlen(path);
    enum status status;
    TRY(text_input_read(&text, &length, path));
    if (name >= 6 && strcmp(path + name - 6, ".jsonl") == 0)
        status = add_lines(source, path, text, length);
    else
        status = add_text(source, text, length, path);
    free(text);
    return status;
}

enum status prompts_read(struct prompt_list *prompts, const struct options *options,
                         const struct tokenizer *tokenizer, const struct model_config *config,
                         int64_t max_model_len)
{
    struct source source = {options, tokenizer, config, max_model_len, prompts};
    *prompts = (struct prompt_list){.prompt = NULL};
    for (int i = 0; i < options->prompt.count; i++)
        TRY(add_text(&source, options->prompt.text[i], strlen(options->prompt.text[i]),
                     "--prompt"));
    for (int i = 0; i < options->prompt_ids.count; i++) {
        struct token_list *prompt = NULL;
        const char *text = options->prompt_ids.text[i];
        TRY(new_prompt(&prompt, prompts));
        TRY(text_input_ids(prompt, text, strlen(text), "--prompt-ids"));
        TRY(check_prompt(&source, prompt, "--prompt-ids"));
    }
    if (options->prompt_file != NULL)
        TRY(add_file(&source, options->prompt_file));
    return STATUS_OK;
}

void prompts_free(struct prompt_list *prompts)
{
    for (int i = 0; i < prompts->count; i++)
        token_list_free(&prompts->prompt[i]);
    free(prompts->prompt);
    *prompts = (struct prompt_list){.prompt = NULL};
}
