/* tokenizer_steps.h - the parts of tokenizer.json that are a kind with settings, or a Sequence of
 * such: normalizer, pre_tokenizer, post_processor, decoder.  A kind we lack is refused by name.
 * Any of the values may be NULL (absent). */
#ifndef RUNTIME_TOKENIZER_STEPS_H
#define RUNTIME_TOKENIZER_STEPS_H

#include "runtime/pre_tokenizer.h"
#include "runtime/vocabulary.h"
#include <jansson.h>

/* Only null and an empty Sequence pass. */
enum status tokenizer_steps_refuse_normalizer(const json_t *normalizer);

/* Split, Digits and, at the end, ByteLevel. */
enum status tokenizer_steps_read(struct pre_tokenizer *steps, const json_t *pre_tokenizer);

/* Appends a step that splits at `pattern`, in Oniguruma's words or, when `is_literal`, as it is.
 * Errors: those of split_pattern_translate and split_regex_open. */
enum status tokenizer_steps_add_split(struct pre_tokenizer *steps, enum split_behavior behavior,
                                      int invert, const char *pattern, size_t length,
                                      int is_literal);

/* ByteLevel, or null. */
enum status tokenizer_steps_check_decoder(const json_t *decoder);

/* Sets *bos when the post-processor puts one token before the text. */
enum status tokenizer_steps_read_bos(int *bos, const struct vocabulary *vocabulary,
                                     const json_t *post_processor);

#endif
