/* tiktoken_chunk.h - the chunks in which Kimi's tokenizer gives a text to the package `tiktoken`.
 *
 * A text is cut after every 400,000 characters, and inside such a part wherever a run of white
 * space, or of anything else, would have more than 25,000.  The cuts come before all other work: a
 * special token that lies across one is not found.  White space here is that of Python's isspace().
 * Source: huggingface.co/moonshotai/Kimi-K2-Instruct, tokenization_kimi.py, encode. */
#ifndef RUNTIME_TIKTOKEN_CHUNK_H
#define RUNTIME_TIKTOKEN_CHUNK_H

#include <stddef.h>

enum { TIKTOKEN_PART_MAX_CHARACTERS = 400000, TIKTOKEN_RUN_MAX_CHARACTERS = 25000 };

/* Walks over text[length], which is valid UTF-8; starts as {0}. */
struct tiktoken_chunk {
    size_t begin, end;
    int n_characters; /* of the part of 400,000 that the chunk ends in, up to its end */
};

/* The next chunk; 0 when there is none, else it is not empty. */
int tiktoken_chunk_next(struct tiktoken_chunk *chunk, const char *text, size_t length);

#endif
