/* tiktoken_ranks.h - the lines of a tiktoken.model: base64 of the bytes of a token, one space, its
 * rank.
 *
 * The lines may stand in any order and end with LF or CR LF; empty ones are passed over, as the
 * package `tiktoken` does.  Unlike there, base64 must be whole and a rank is nothing but digits.
 * Source: github.com/openai/tiktoken, load.py, load_tiktoken_bpe. */
#ifndef RUNTIME_TIKTOKEN_RANKS_H
#define RUNTIME_TIKTOKEN_RANKS_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

/* Far more than tokens have; it bounds the work that a bad file can ask for. */
enum { TIKTOKEN_TOKEN_MAX_BYTES = 1024 };

struct tiktoken_rank {
    char bytes[TIKTOKEN_TOKEN_MAX_BYTES];
    size_t n_bytes; /* at least 1 */
    int32_t rank;   /* below VOCABULARY_MAX_SIZE */
};

/* Where to read on; starts as {0}. */
struct tiktoken_cursor {
    size_t at;
    int line; /* of the token that was read last, from 1 */
};

/* Reads the next line that has a token; *found is 0 at the end of text[length].
 * Errors: STATUS_INVALID, "line 17: ...". */
enum status tiktoken_ranks_next(struct tiktoken_rank *rank, int *found,
                                struct tiktoken_cursor *cursor, const char *text, size_t length);

#endif
