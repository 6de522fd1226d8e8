/* tokenizer.h - byte-level BPE from a Hugging Face tokenizer.json, or from the
 * tiktoken.model of Kimi-K2 and Moonlight.
 *
 * Text is cut at added tokens first, then by the pre-tokenizer's patterns
 * (PCRE2, Unicode), then merged pair by pair.  Ids equal those of the Python
 * package `tokenizers`; with tiktoken.model those of `tiktoken`, called with
 * all special tokens allowed on chunks of the text as in tokenization_kimi.py.
 * Invalid UTF-8 becomes U+FFFD as with Python's errors='replace'.  A tokenizer
 * is read-only after opening. */
#ifndef RUNTIME_TOKENIZER_H
#define RUNTIME_TOKENIZER_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* Opens `directory`/tokenizer.json, or, where there is none, tiktoken.model.  tokenizer_config.json
 * beside it is read for add_bos_token and bos_token when it is there; tiktoken.model needs it, for
 * its added_tokens_decoder.  *tokenizer is NULL with STATUS_OK when the directory has neither file
 * (a model that works with ids only).
 * Owner: caller; end with tokenizer_close.
 * Errors: STATUS_IO, STATUS_INVALID, STATUS_UNSUPPORTED (a kind of model, normalizer,
 * pre-tokenizer or decoder we lack, by name); the text names file and key or line. */
enum status tokenizer_open(struct tokenizer **tokenizer, const char *directory);
void tokenizer_close(struct tokenizer *tokenizer);

/* Ids 0 .. size - 1 exist (added and reserved tokens included). */
int tokenizer_size(const struct tokenizer *tokenizer);

/* Id of the BOS token, -1 when there is none; whether text prompts get it: tokenizer_config
 * `add_bos_token`, else the post-processor; with tiktoken.model, only by that key. */
int tokenizer_bos(const struct tokenizer *tokenizer);
int tokenizer_adds_bos(const struct tokenizer *tokenizer);

/* Id of an added token or vocabulary entry by its exact text, -1 when there is none.  A vocabulary
 * entry of tokenizer.json is written in the byte-level alphabet; one of tiktoken.model is its
 * bytes. */
int tokenizer_id(const struct tokenizer *tokenizer, const char *text, size_t length);

struct token_list {
    int32_t *id;
    int64_t count, capacity;
};

/* Appends the ids of text[length].  Owner: caller; end with token_list_free.
 * Errors: STATUS_NO_MEMORY, STATUS_INVALID (pattern limits exceeded). */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                             struct token_list *ids);
enum status token_list_push(struct token_list *ids, int32_t id);
void token_list_free(struct token_list *ids);

/* The bytes of one id: *data points into the tokenizer.  Special tokens give their text when
 * `with_special`, else nothing.
 * Errors: STATUS_INVALID (id out of range). */
enum status tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, int with_special,
                            const char **data, size_t *length);

/* Streaming: bytes of ids come in, whole UTF-8 characters go out; a character split over several
 * tokens is held back until it is whole; bytes that can never become one are U+FFFD. */
struct utf8_stream {
    unsigned char pending[4];
    int n_pending;
};

/* Writes at most 3 * length + 12 bytes to `out`, returns how many. */
size_t utf8_stream_push(struct utf8_stream *stream, const char *bytes, size_t length, char *out);
/* What is still held back, as U+FFFD; at most 12 bytes. */
size_t utf8_stream_finish(struct utf8_stream *stream, char *out);

/* Text of ids: *text is allocated, NUL-terminated.  Owner: caller; free(). */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count,
                             int with_special, char **text, size_t *length);

/* Hash of everything that decides ids, to compare between ranks. */
uint64_t tokenizer_hash(const struct tokenizer *tokenizer);

#endif
