/* tiktoken_file.h - a tokenizer of the package `tiktoken` as Kimi publishes it: tiktoken.model with
 * the ranks, tokenizer_config.json with the special tokens, the pattern here.
 *
 * The bytes of a token are its text too.  The ids after the ranks are special tokens: those that
 * `added_tokens_decoder` names, and "<|reserved_token_ID|>" for the others of the first 256.
 * Where one of them begins another, the longest is found; in `tiktoken` the order of a hash table
 * decides.
 * Source: huggingface.co/moonshotai/Kimi-K2-Instruct, tokenization_kimi.py. */
#ifndef RUNTIME_TIKTOKEN_FILE_H
#define RUNTIME_TIKTOKEN_FILE_H

#include "runtime/tokenizer_file.h"

/* Fills an empty tokenizer, all but `hash`; *hash is of the ranks and special tokens.
 * *found is 0, with STATUS_OK, when there is no tiktoken.model.
 * Errors: as tokenizer_open. */
enum status tiktoken_file_read(struct tokenizer *tokenizer, int *found, uint64_t *hash,
                               const char *directory);

#endif
