/* pre_tokenizer.h - cutting text into the pieces that are merged each for itself.
 *
 * Steps follow one another; each cuts every piece that the step before left, and sees nothing but
 * that piece.
 * Source: github.com/huggingface/tokenizers, normalizer.rs (split), pattern.rs. */
#ifndef RUNTIME_PRE_TOKENIZER_H
#define RUNTIME_PRE_TOKENIZER_H

#include "runtime/split_regex.h"

/* What becomes of a match (the delimiter). */
enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};

enum { PRE_TOKENIZER_MAX_STEPS = 32 };

struct pre_tokenizer_step {
    struct split_regex *regex; /* NULL: the matches are the single numeric characters */
    enum split_behavior behavior;
    int invert; /* what does not match is the delimiter */
};
struct pre_tokenizer {
    struct pre_tokenizer_step step[PRE_TOKENIZER_MAX_STEPS];
    int n_steps;
};

/* Closes the patterns of all steps. */
void pre_tokenizer_close(struct pre_tokenizer *pre_tokenizer);

/* Gives the pieces of text[length], which is valid UTF-8, to `piece` in order; none is empty.
 * Errors: those of split_regex_find and of `piece`. */
enum status pre_tokenizer_cut(const struct pre_tokenizer *pre_tokenizer,
                              struct split_memory *memory, const char *text, size_t length,
                              enum status (*piece)(void *context, const char *text, size_t length),
                              void *context);

#endif
