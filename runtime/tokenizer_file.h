/* tokenizer_file.h - reading tokenizer.json, or tiktoken.model, and tokenizer_config.json; every
 * type, id and name in them is checked, for they come from strangers. */
#ifndef RUNTIME_TOKENIZER_FILE_H
#define RUNTIME_TOKENIZER_FILE_H

#include "runtime/added_tokens.h"
#include "runtime/bpe.h"
#include "runtime/pre_tokenizer.h"
#include "runtime/tokenizer.h"
#include "runtime/vocabulary.h"

struct tokenizer {
    struct vocabulary vocabulary;
    struct bpe bpe;
    int ignore_merges;                 /* a piece that is an entry as a whole is not merged */
    int is_chunked;                    /* long texts are encoded in chunks, see tiktoken_chunk.h */
    struct added_tokens raw, ordinary; /* those not `normalized`, cut first; the others */
    struct pre_tokenizer pre_tokenizer;
    int bos, adds_bos; /* -1: no BOS */
    uint64_t hash;
};

/* Fills an empty tokenizer; what was opened before a failure is left for tokenizer_close.
 * *found is 0, with STATUS_OK, when there is neither tokenizer.json nor tiktoken.model.
 * Errors: as tokenizer_open. */
enum status tokenizer_file_read(struct tokenizer *tokenizer, int *found, const char *directory);

#endif
