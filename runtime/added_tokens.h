/* added_tokens.h - tokens that are cut out of the text before anything else looks at it.
 *
 * The longest token at the leftmost place wins.  A tokenizer has two sets: tokens that are not
 * `normalized` are cut first, the others from what is left (without a normalizer that order is the
 * only difference).
 * Source: github.com/huggingface/tokenizers, added_vocabulary.rs. */
#ifndef RUNTIME_ADDED_TOKENS_H
#define RUNTIME_ADDED_TOKENS_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

struct added_token {
    const char *text; /* kept by the vocabulary */
    uint32_t length;
    int32_t id;
    unsigned char lstrip, rstrip; /* takes the white space before, after it along */
    unsigned char single_word;    /* not inside a word */
};

/* One edge of the tree of all texts, found by (node, byte). */
struct added_edge {
    uint32_t from; /* node << 8 | byte; UINT32_MAX: free */
    uint32_t to;
};
struct added_tokens {
    struct added_token *token; /* [count] */
    size_t count;
    struct added_edge *edge;
    size_t edge_mask;
    int32_t *ends; /* [n_nodes]: the token that ends here, or -1 */
    uint32_t n_nodes;
    unsigned char starts[256]; /* whether a token begins with the byte */
};

/* Owner: caller; end with added_tokens_close.  The texts must outlive it, none is empty, each is there
 * once. */
enum status added_tokens_open(struct added_tokens *tokens, const struct added_token *token,
                              size_t count);
void added_tokens_close(struct added_tokens *tokens);

/* What one call of added_tokens_next finds: the text before, then the token (NULL at the end). */
struct added_match {
    size_t text_begin, text_end;
    const struct added_token *token;
};

/* Walks over text[length], which is valid UTF-8; cursor starts as {0}. */
struct added_cursor {
    size_t search, begin; /* where to look on, end of the last token */
};
void added_tokens_next(struct added_match *match, const struct added_tokens *tokens,
                       struct added_cursor *cursor, const char *text, size_t length);

#endif
