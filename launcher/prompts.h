/* prompts.h - the prompts of --prompt, --prompt-ids and --prompt-file, as ids. */
#ifndef LAUNCHER_PROMPTS_H
#define LAUNCHER_PROMPTS_H

#include "launcher/options.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer.h"

struct prompt_list {
    struct token_list *prompt;
    int count;
};

/* The id that --add-bos puts in front of text, -1 for none.  `config` (may be NULL) gives the id where
 * the tokenizer names none.  Errors: STATUS_USAGE (--add-bos on, and there is no BOS token). */
enum status prompts_bos(int32_t *bos, const struct options *options,
                        const struct tokenizer *tokenizer, const struct model_config *config);

/* Errors: STATUS_USAGE unless every id is in [0, vocab_size); text: `where`, position, id. */
enum status prompts_check_ids(const struct token_list *ids, int64_t vocab_size, const char *where);

/* Reads all prompts; `tokenizer` may be NULL.  Prompts longer than `max_model_len` are refused.
 * Owner: caller; end with prompts_free, also after a failure.
 * Errors: STATUS_USAGE, STATUS_IO, STATUS_INVALID (a line of a .jsonl file; text: file and line). */
enum status prompts_read(struct prompt_list *prompts, const struct options *options,
                         const struct tokenizer *tokenizer, const struct model_config *config,
                         int64_t max_model_len);
void prompts_free(struct prompt_list *prompts);

#endif
