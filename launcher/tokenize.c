/* tokenize.c - text to ids and back. */
#include "launcher/commands.h"
#include "launcher/prompts.h"
#include "launcher/report.h"
#include "launcher/text_input.h"
#include "runtime/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The text of --text, or all of stdin.  Owner: caller. */
static enum status read_text(char **text, size_t *length, const struct options *options)
{
    if (options->text == NULL)
        return text_input_read(text, length, "-");
    *length = strlen(options->text);
    *text = strdup(options->text);
    if (*text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a text of %zu bytes", *length);
    return STATUS_OK;
}

static enum status open_tokenizer(struct tokenizer **tokenizer, const char *model)
{
    struct stat found;
    if (stat(model, &found) != 0)
        FAIL(STATUS_IO, "--model %s: %s", model, strerror(errno));
    TRY(tokenizer_open(tokenizer, model));
    if (*tokenizer == NULL)
        FAIL(STATUS_IO, "%s: no tokenizer.json there", model);
    return STATUS_OK;
}

enum status tokenize_run(const struct options *options)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list ids = {.id = NULL};
    char *text = NULL;
    size_t length;
    enum status status;
    int32_t bos;

    TRY_GOTO(status, end, open_tokenizer(&tokenizer, options->model));
    TRY_GOTO(status, end, prompts_bos(&bos, options, tokenizer, NULL));
    TRY_GOTO(status, end, read_text(&text, &length, options));
    if (bos >= 0)
        TRY_GOTO(status, end, token_list_push(&ids, bos));
    TRY_GOTO(status, end, tokenizer_encode(tokenizer, text, length, &ids));
    if (options->json)
        status = report_json(json_pack("{s:o}", "ids", report_ids(ids.id, ids.count)));
    else
        status = report_id_line(ids.id, ids.count);
end:
    free(text);
    token_list_free(&ids);
    tokenizer_close(tokenizer);
    return status;
}

enum status detokenize_run(const struct options *options)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list ids = {.id = NULL};
    char *input = NULL, *text = NULL;
    size_t input_length, length;
    enum status status;
    const char *where = options->text == NULL ? "stdin" : "--text";

    TRY_GOTO(status, end, open_tokenizer(&tokenizer, options->model));
    TRY_GOTO(status, end, read_text(&input, &input_length, options));
    TRY_GOTO(status, end, text_input_ids(&ids, input, input_length, where));
    TRY_GOTO(status, end, prompts_check_ids(&ids, tokenizer_size(tokenizer), where));
    TRY_GOTO(status, end, tokenizer_decode(tokenizer, ids.id, ids.count, 1, &text, &length));
    if (options->json)
        status = report_json(json_pack("{s:o}", "text", report_text(text, length)));
    else
        status = report_bytes(text, length);
end:
    free(input);
    free(text);
    token_list_free(&ids);
    tokenizer_close(tokenizer);
    return status;
}
