/* fuzz_tokenizer.h - what must hold of any tokenizer that was opened. */
#ifndef TESTS_FUZZ_TOKENIZER_H
#define TESTS_FUZZ_TOKENIZER_H

#include "runtime/tokenizer.h"

/* Opens fuzz_directory(), encodes a few texts and decodes every id of it; a refusal must name
 * `file`.  Returns 1 when there was a tokenizer. */
int fuzz_try_tokenizer(const char *file);

/* ids of text[length] are below the size of the vocabulary; what is refused is so for a limit of
 * the patterns.  Returns their number, -1 when refused.  Owner of ids: caller. */
int64_t fuzz_encode(struct token_list *ids, const struct tokenizer *tokenizer, const char *text,
                    size_t length);

#endif
