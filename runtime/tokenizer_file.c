/* tokenizer_file.c - tokenizer.json as a whole, vocabulary, merges and added tokens (see
 * tokenizer_file.h); the pre-tokenizer is read in tokenizer_steps.c. */
#include "runtime/tokenizer_file.h"
#include "runtime/tiktoken_file.h"
#include "runtime/tokenizer_config.h"
#include "runtime/tokenizer_json.h"
#include "runtime/tokenizer_steps.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Counts ids and bytes of all texts, and checks the ids, so that memory can be reserved once. */
static enum status measure(int *size, size_t *count, size_t *text_bytes, json_t *vocab,
                           const json_t *added)
{
    const char *text;
    size_t length, index;
    json_t *value;
    int id, highest = -1;
    char place[JSON_PLACE_MAX];
    *count = *text_bytes = 0;
    void *iterator = json_object_iter(vocab);
    for (; iterator; iterator = json_object_iter_next(vocab, iterator)) {
        text = json_object_iter_key(iterator);
        snprintf(place, sizeof place, "model.vocab[\"%.100s\"]", text);
        TRY(json_to_index(&id, place, json_object_iter_value(iterator), VOCABULARY_MAX_SIZE));
        highest = id > highest ? id : highest;
        *text_bytes += strlen(text);
        ++*count;
    }
    json_array_foreach(added, index, value)
    {
        snprintf(place, sizeof place, "added_tokens[%zu]", index);
        TRY(json_take_string(&text, &length, place, value, "content"));
        snprintf(place, sizeof place, "added_tokens[%zu].id", index);
        TRY(json_to_index(&id, place, json_object_get(value, "id"), VOCABULARY_MAX_SIZE));
        highest = id > highest ? id : highest;
        *text_bytes += length;
        ++*count;
    }
    *size = highest + 1;
    return STATUS_OK;
}

static enum status read_vocab(struct vocabulary *vocabulary, json_t *vocab)
{
    void *iterator = json_object_iter(vocab);
    for (; iterator; iterator = json_object_iter_next(vocab, iterator)) {
        const char *text = json_object_iter_key(iterator);
        int id = (int)json_integer_value(json_object_iter_value(iterator));
        enum status status = vocabulary_add(vocabulary, text, strlen(text), id);
        if (status != STATUS_OK)
            return status_prefix(status, "model.vocab");
    }
    return STATUS_OK;
}

/* "a b" or ["a", "b"]: where the two texts stand. */
static enum status merge_texts(const char *text[2], size_t length[2], const json_t *merge)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *part = json_array_get(merge, i);
            if (!json_is_string(part))
                FAIL(STATUS_INVALID, "it has %s for a text", json_kind(part));
            text[i] = json_string_value(part);
            length[i] = json_string_length(part);
        }
        return STATUS_OK;
    }
    if (!json_is_string(merge))
        FAIL(STATUS_INVALID, "it is %s, not \"a b\" or [\"a\", \"b\"]", json_kind(merge));
    text[0] = json_string_value(merge);
    size_t whole = json_string_length(merge);
    const char *space = memchr(text[0], ' ', whole);
    if (!space || memchr(space + 1, ' ', whole - (size_t)(space + 1 - text[0])))
        FAIL(STATUS_INVALID, "\"%.60s\" is not two texts with one space between them", text[0]);
    text[1] = space + 1;
    length[0] = (size_t)(space - text[0]);
    length[1] = whole - length[0] - 1;
    return STATUS_OK;
}

static enum status read_merge(struct bpe *bpe, const struct vocabulary *vocabulary,
                              const json_t *merge, uint32_t rank)
{
    const char *text[2];
    size_t length[2];
    int32_t part[2];
    char joined[4096];
    TRY(merge_texts(text, length, merge));
    for (int i = 0; i < 2; i++) {
        part[i] = text_table_find(&vocabulary->id_of_text, text[i], length[i]);
        if (part[i] < 0)
            FAIL(STATUS_INVALID, "\"%.60s\" is not in the vocabulary", text[i]);
    }
    if (length[0] + length[1] > sizeof joined)
        FAIL(STATUS_INVALID, "its result has %zu bytes, at most %zu are read",
             length[0] + length[1], sizeof joined);
    memcpy(joined, text[0], length[0]);
    memcpy(joined + length[0], text[1], length[1]);
    int32_t id = text_table_find(&vocabulary->id_of_text, joined, length[0] + length[1]);
    if (id < 0)
        FAIL(STATUS_INVALID, "its result \"%.*s\" is not in the vocabulary",
             length[0] + length[1] > 60 ? 60 : (int)(length[0] + length[1]), joined);
    bpe_add_merge(bpe, part[0], part[1], rank, id);
    return STATUS_OK;
}

static enum status read_merges(struct bpe *bpe, const struct vocabulary *vocabulary,
                               const json_t *merges)
{
    size_t index;
    json_t *merge;
    uint32_t rank = 0;
    TRY(bpe_open(bpe, json_array_size(merges)));
    json_array_foreach(merges, index, merge)
    {
        /* A first line kept from a merges.txt. */
        if (json_is_string(merge) && strncmp(json_string_value(merge), "#version", 8) == 0)
            continue;
        enum status status = read_merge(bpe, vocabulary, merge, rank++);
        if (status != STATUS_OK)
            return status_prefix(status, "model.merges[%zu]", index);
    }
    return STATUS_OK;
}

/* Ids of the single bytes, and of the token that stands for bytes without one. */
static enum status read_bytes(struct tokenizer *tokenizer, const json_t *model)
{
    const char *unknown;
    size_t length;
    int n_missing = 0;
    struct bpe *bpe = &tokenizer->bpe;
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        bpe->byte_id[byte] = text_table_find(&tokenizer->vocabulary.id_of_bytes, &text, 1);
        n_missing += bpe->byte_id[byte] < 0;
    }
    TRY(json_take_flag(&bpe->fuses_unknown, "model", model, "fuse_unk", 0));
    TRY(json_take_optional_string(&unknown, &length, "model", model, "unk_token"));
    if (!unknown)
        return STATUS_OK;
    bpe->unknown_id = text_table_find(&tokenizer->vocabulary.id_of_text, unknown, length);
    if (bpe->unknown_id < 0 && n_missing > 0)
        FAIL(STATUS_INVALID, "model.unk_token \"%.60s\" is not in the vocabulary", unknown);
    return STATUS_OK;
}

/* Switches of the model that change its way of merging. */
static enum status check_model(int *ignore_merges, const json_t *model)
{
    static const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type, *text;
    size_t length;
    int byte_fallback;
    TRY(json_take_string(&type, &length, "model", model, "type"));
    if (strcmp(type, "BPE") != 0)
        FAIL(STATUS_UNSUPPORTED, "model.type \"%.60s\": only BPE is known", type);
    TRY(json_take_flag(&byte_fallback, "model", model, "byte_fallback", 0));
    if (byte_fallback)
        FAIL(STATUS_UNSUPPORTED, "model.byte_fallback: only byte-level BPE is known");
    for (int i = 0; i < 2; i++) {
        TRY(json_take_optional_string(&text, &length, "model", model, affix[i]));
        if (length > 0)
            FAIL(STATUS_UNSUPPORTED, "model.%s \"%.60s\"", affix[i], text);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) &&
        (!json_is_number(dropout) || json_number_value(dropout) != 0.0))
        FAIL(STATUS_UNSUPPORTED, "model.dropout: merging is never left to chance here");
    return json_take_flag(ignore_merges, "model", model, "ignore_merges", 0);
}

/* The id that the package gives, whatever the file says, is the text's own or the next free one. */
static enum status read_added_token(struct tokenizer *tokenizer, struct added_token *token,
                                    int *is_normalized, int *next_id, const char *where,
                                    const json_t *value)
{
    size_t length;
    int flag[4], is_special, id = (int)json_integer_value(json_object_get(value, "id"));
    static const char *const key[4] = {"lstrip", "rstrip", "single_word", "normalized"};
    TRY(json_take_string(&token->text, &length, where, value, "content"));
    TRY(json_take_flag(&is_special, where, value, "special", 0));
    for (int i = 0; i < 4; i++)
        TRY(json_take_flag(&flag[i], where, value, key[i], i == 3 && !is_special));
    int expected = text_table_find(&tokenizer->vocabulary.id_of_text, token->text, length);
    if (expected < 0 && length > 0)
        expected = (*next_id)++;
    if (id != expected && length > 0)
        FAIL(STATUS_INVALID, "%s.id of \"%.60s\" is %d, but ids follow the vocabulary: %d", where,
             token->text, id, expected);
    token->id = id;
    token->length = (uint32_t)length;
    token->lstrip = flag[0] != 0;
    token->rstrip = flag[1] != 0;
    token->single_word = flag[2] != 0;
    *is_normalized = flag[3];
    if (length == 0)
        return STATUS_OK;
    enum status status =
        vocabulary_add_token(&tokenizer->vocabulary, token->text, length, id, is_special);
    token->text = tokenizer->vocabulary.entry[id].text;
    return status == STATUS_OK ? status : status_prefix(status, "%s", where);
}

static enum status read_added_tokens(struct tokenizer *tokenizer, const json_t *added)
{
    size_t count = json_array_size(added), n_raw = 0, n_ordinary = 0, index;
    int next_id = tokenizer->vocabulary.n_model, is_normalized = 0;
    enum status status = STATUS_OK;
    json_t *value;
    struct added_token *list = calloc(count + 1, sizeof *list);
    if (!list)
        FAIL(STATUS_NO_MEMORY, "no memory for %zu added tokens", count);
    json_array_foreach(added, index, value)
    {
        char where[JSON_PLACE_MAX];
        struct added_token token = {0};
        snprintf(where, sizeof where, "added_tokens[%zu]", index);
        TRY_GOTO(status, free_list,
                 read_added_token(tokenizer, &token, &is_normalized, &next_id, where, value));
        if (token.length == 0)
            continue; /* as the package does */
        /* The first kind from the front, the second from the back. */
        list[is_normalized ? count - ++n_ordinary : n_raw++] = token;
    }
    TRY_GOTO(status, free_list, added_tokens_open(&tokenizer->raw, list, n_raw));
    TRY_GOTO(status, free_list,
             added_tokens_open(&tokenizer->ordinary, list + count - n_ordinary, n_ordinary));
free_list:
    free(list);
    return status;
}

static enum status read_model(struct tokenizer *tokenizer, const json_t *root)
{
    json_t *model, *vocab, *merges, *added = json_object_get(root, "added_tokens");
    size_t count, text_bytes;
    int size = 0;
    TRY(json_take_object(&model, "", root, "model"));
    TRY(check_model(&tokenizer->ignore_merges, model));
    TRY(json_take_object(&vocab, "model", model, "vocab"));
    TRY(json_take_array(&merges, "model", model, "merges"));
    if (added && !json_is_null(added))
        TRY(json_take_array(&added, "", root, "added_tokens"));
    TRY(measure(&size, &count, &text_bytes, vocab, added));
    if (json_object_size(vocab) == 0)
        FAIL(STATUS_INVALID, "model.vocab is empty");
    if ((size_t)size > 4 * count + 65536)
        FAIL(STATUS_INVALID, "the highest id is %d, but there are only %zu entries", size - 1,
             count);
    TRY(vocabulary_open(&tokenizer->vocabulary, size, count, text_bytes));
    TRY(read_vocab(&tokenizer->vocabulary, vocab));
    TRY(read_merges(&tokenizer->bpe, &tokenizer->vocabulary, merges));
    TRY(read_bytes(tokenizer, model));
    return read_added_tokens(tokenizer, added);
}

static enum status read_tokenizer(struct tokenizer *tokenizer, const json_t *root)
{
    const char *version;
    size_t length;
    TRY(json_take_optional_string(&version, &length, "", root, "version"));
    if (version && strcmp(version, "1.0") != 0)
        FAIL(STATUS_UNSUPPORTED, "version \"%.60s\": only \"1.0\" is known", version);
    TRY(tokenizer_steps_refuse_normalizer(json_object_get(root, "normalizer")));
    TRY(read_model(tokenizer, root));
    TRY(tokenizer_steps_read(&tokenizer->pre_tokenizer, json_object_get(root, "pre_tokenizer")));
    TRY(tokenizer_steps_check_decoder(json_object_get(root, "decoder")));
    return tokenizer_steps_read_bos(&tokenizer->bos, &tokenizer->vocabulary,
                                    json_object_get(root, "post_processor"));
}

/* Parses `path`, when there is one, and gives it to `use`. */
static enum status with_file(struct tokenizer *tokenizer, int *found, uint64_t *hash,
                             const char *path,
                             enum status (*use)(struct tokenizer *tokenizer, const json_t *root))
{
    json_t *root = NULL;
    TRY(json_take_file(&root, hash, path));
    *found = root != NULL;
    if (!root)
        return STATUS_OK;
    enum status status = use(tokenizer, root);
    json_decref(root);
    return status == STATUS_OK ? status : status_prefix(status, "%s", path);
}

/* tokenizer.json and, for its BOS, tokenizer_config.json. */
static enum status read_json(struct tokenizer *tokenizer, int *found, uint64_t *hash,
                             const char *directory)
{
    char path[PATH_MAX];
    uint64_t config_hash; /* what the config decides is hashed by itself */
    int has_config;
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    TRY(with_file(tokenizer, found, hash, path, read_tokenizer));
    if (!*found)
        return STATUS_OK;
    tokenizer->adds_bos = tokenizer->bos >= 0;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", directory);
    return with_file(tokenizer, &has_config, &config_hash, path, tokenizer_config_read_bos);
}

enum status tokenizer_file_read(struct tokenizer *tokenizer, int *found, const char *directory)
{
    char path[PATH_MAX];
    uint64_t hash[3] = {0};
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", directory) >= (int)sizeof path)
        FAIL(STATUS_INVALID, "the path of the model directory is too long");
    tokenizer->bos = -1;
    TRY(read_json(tokenizer, found, &hash[0], directory));
    if (!*found)
        TRY(tiktoken_file_read(tokenizer, found, &hash[0], directory));
    hash[1] = (uint64_t)tokenizer->bos;
    hash[2] = (uint64_t)tokenizer->adds_bos;
    tokenizer->hash = XXH3_64bits(hash, sizeof hash);
    return STATUS_OK;
}
