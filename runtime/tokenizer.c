/* tokenizer.c - text to ids and back (see tokenizer.h). */
#include "runtime/tiktoken_chunk.h"
#include "runtime/tokenizer_file.h"
#include "runtime/utf8.h"

#include <stdlib.h>
#include <string.h>

enum status tokenizer_open(struct tokenizer **tokenizer, const char *directory)
{
    int found = 0;
    *tokenizer = NULL;
    struct tokenizer *opened = calloc(1, sizeof *opened);
    if (!opened)
        FAIL(STATUS_NO_MEMORY, "no memory for a tokenizer");
    enum status status = tokenizer_file_read(opened, &found, directory);
    if (status != STATUS_OK || !found) {
        tokenizer_close(opened);
        return status;
    }
    *tokenizer = opened;
    return STATUS_OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    pre_tokenizer_close(&tokenizer->pre_tokenizer);
    added_tokens_close(&tokenizer->raw);
    added_tokens_close(&tokenizer->ordinary);
    bpe_close(&tokenizer->bpe);
    vocabulary_close(&tokenizer->vocabulary);
    free(tokenizer);
}

int tokenizer_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocabulary.size;
}

int tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

int tokenizer_id(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    return text_table_find(&tokenizer->vocabulary.id_of_text, text, length);
}

uint64_t tokenizer_hash(const struct tokenizer *tokenizer)
{
    return tokenizer->hash;
}

void token_list_free(struct token_list *ids)
{
    free(ids->id);
    *ids = (struct token_list){0};
}

enum status token_list_push(struct token_list *ids, int32_t id)
{
    if (ids->count == ids->capacity) {
        int64_t capacity = ids->capacity + ids->capacity / 2 + 64;
        int32_t *grown = realloc(ids->id, (size_t)capacity * sizeof *grown);
        if (!grown)
            FAIL(STATUS_NO_MEMORY, "no memory for %lld ids", (long long)capacity);
        ids->id = grown;
        ids->capacity = capacity;
    }
    ids->id[ids->count++] = id;
    return STATUS_OK;
}

/* One text on its way to ids. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct token_list *ids;
    struct split_memory *memory;
    struct bpe_scratch scratch;
};

static enum status encode_piece(void *context, const char *text, size_t length)
{
    struct encoding *encoding = context;
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (tokenizer->ignore_merges) {
        int32_t id = text_table_find(&tokenizer->vocabulary.id_of_bytes, text, length);
        if (id >= 0)
            return token_list_push(encoding->ids, id);
    }
    return bpe_encode(&tokenizer->bpe, &encoding->scratch, encoding->ids, text, length);
}

static enum status encode_plain(struct encoding *encoding, const char *text, size_t length)
{
    return pre_tokenizer_cut(&encoding->tokenizer->pre_tokenizer, encoding->memory, text, length,
                             encode_piece, encoding);
}

/* Cuts the tokens of one set out; `rest` gets what lies between them. */
static enum status encode_around(struct encoding *encoding, const struct added_tokens *tokens,
                                 const char *text, size_t length,
                                 enum status (*rest)(struct encoding *encoding, const char *text,
                                                     size_t length))
{
    struct added_cursor cursor = {0};
    struct added_match match;
    do {
        added_tokens_next(&match, tokens, &cursor, text, length);
        if (match.text_begin < match.text_end)
            TRY(rest(encoding, text + match.text_begin, match.text_end - match.text_begin));
        if (match.token)
            TRY(token_list_push(encoding->ids, match.token->id));
    } while (match.token);
    return STATUS_OK;
}

static enum status encode_ordinary(struct encoding *encoding, const char *text, size_t length)
{
    return encode_around(encoding, &encoding->tokenizer->ordinary, text, length, encode_plain);
}

static enum status encode_chunks(struct encoding *encoding, const char *text, size_t length)
{
    const struct added_tokens *raw = &encoding->tokenizer->raw;
    struct tiktoken_chunk chunk = {0};
    if (!encoding->tokenizer->is_chunked)
        return encode_around(encoding, raw, text, length, encode_ordinary);
    while (tiktoken_chunk_next(&chunk, text, length))
        TRY(encode_around(encoding, raw, text + chunk.begin, chunk.end - chunk.begin,
                          encode_ordinary));
    return STATUS_OK;
}

static enum status encode_valid(const struct tokenizer *tokenizer, const char *text, size_t length,
                                struct token_list *ids)
{
    struct encoding encoding = {.tokenizer = tokenizer, .ids = ids};
    int64_t before = ids->count;
    TRY(split_memory_open(&encoding.memory));
    enum status status = encode_chunks(&encoding, text, length);
    split_memory_close(encoding.memory);
    bpe_scratch_free(&encoding.scratch);
    if (status != STATUS_OK)
        ids->count = before;
    return status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                             struct token_list *ids)
{
    if (utf8_is_valid(text, length))
        return encode_valid(tokenizer, text, length, ids);
    char *replaced = malloc(3 * length + 1);
    if (!replaced)
        FAIL(STATUS_NO_MEMORY, "no memory to tokenize %zu bytes", length);
    size_t replaced_length = utf8_replace(replaced, text, length);
    enum status status = encode_valid(tokenizer, replaced, replaced_length, ids);
    free(replaced);
    return status;
}

enum status tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id, int with_special,
                            const char **data, size_t *length)
{
    if (id < 0 || id >= tokenizer->vocabulary.size)
        FAIL(STATUS_INVALID, "id %d is not between 0 and %d", (int)id,
             tokenizer->vocabulary.size - 1);
    const struct vocabulary_entry *entry = &tokenizer->vocabulary.entry[id];
    int is_silent = !entry->text || (entry->is_special && !with_special);
    *data = is_silent ? "" : entry->bytes;
    *length = is_silent ? 0 : entry->n_bytes;
    return STATUS_OK;
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count,
                             int with_special, char **text, size_t *length)
{
    struct utf8_stream stream = {0};
    const char *data = "";
    size_t n_bytes = 0, total = 0, written = 0;
    for (int64_t i = 0; i < count; i++) {
        TRY(tokenizer_bytes(tokenizer, ids[i], with_special, &data, &n_bytes));
        total += n_bytes;
    }
    char *out = malloc(3 * total + 16);
    if (!out)
        FAIL(STATUS_NO_MEMORY, "no memory for the text of %lld ids", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        tokenizer_bytes(tokenizer, ids[i], with_special, &data, &n_bytes);
        written += utf8_stream_push(&stream, data, n_bytes, out + written);
    }
    written += utf8_stream_finish(&stream, out + written);
    out[written] = '\0';
    *text = out;
    *length = written;
    return STATUS_OK;
}
