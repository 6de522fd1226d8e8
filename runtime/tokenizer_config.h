/* tokenizer_config.h - what tokenizer_config.json says of the tokens with a role. */
#ifndef RUNTIME_TOKENIZER_CONFIG_H
#define RUNTIME_TOKENIZER_CONFIG_H

#include "runtime/tokenizer_file.h"
#include <jansson.h>

/* The text of `key` ("bos_token", "eos_token" ...), which is a text or an object with the text as
 * `content`; NULL when it is absent or null.
 * Errors: STATUS_INVALID. */
enum status tokenizer_config_token(const char **text, size_t *length, const json_t *config,
                                   const char *key);

/* Sets bos and adds_bos by `bos_token` and `add_bos_token`; they keep their values without them.
 * Errors: STATUS_INVALID. */
enum status tokenizer_config_read_bos(struct tokenizer *tokenizer, const json_t *config);

#endif
