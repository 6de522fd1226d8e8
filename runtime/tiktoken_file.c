#include "runtime/tiktoken_file.h"
#include "runtime/json.h"
#include "runtime/tiktoken_ranks.h"
#include "runtime/tokenizer_config.h"
#include "runtime/tokenizer_json.h"
#include "runtime/tokenizer_steps.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    N_RESERVED = 256,        /* special tokens there are in any case */
    N_SPECIAL_MAX = 256 + 2, /* Moonlight's file may name two more */
    RESERVED_NAME_MAX = 40
};

/* tokenization_kimi.py, pat_str.  PCRE2 has no intersection of classes: [X&&[^\p{Han}]] is written
 * (?:(?!\p{Han})[X]). */
#define UPPER  "(?:(?!\\p{Han})[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}])"
#define LOWER  "(?:(?!\\p{Han})[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}])"
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
static const char kimi_pattern[] =
    "[\\p{Han}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER
    "*" SUFFIX "|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)"
    "|\\s+";

/* The two files, and what is counted before memory is reserved. */
struct tiktoken_files {
    char *ranks;
    size_t ranks_length;
    json_t *config, *names; /* names: added_tokens_decoder */
    int n_ranks, size;      /* ids from n_ranks to size - 1 are special tokens */
    size_t text_bytes;
};

static enum status measure_ranks(struct tiktoken_files *files)
{
    struct tiktoken_cursor cursor = {0};
    struct tiktoken_rank rank;
    int found = 1;
    for (;;) {
        TRY(tiktoken_ranks_next(&rank, &found, &cursor, files->ranks, files->ranks_length));
        if (!found)
            break;
        if (files->n_ranks == VOCABULARY_MAX_SIZE - N_SPECIAL_MAX)
            FAIL(STATUS_INVALID, "line %d: more than %d tokens", cursor.line, files->n_ranks);
        files->n_ranks++;
        files->text_bytes += rank.n_bytes;
    }
    if (files->n_ranks == 0)
        FAIL(STATUS_INVALID, "there is no token in it");
    return STATUS_OK;
}

/* The number that a key of added_tokens_decoder is. */
static enum status key_to_id(int *id, const char *key, int first, int limit)
{
    char again[16];
    long value = strtol(key, NULL, 10);
    snprintf(again, sizeof again, "%ld", value);
    if (strcmp(again, key) != 0)
        FAIL(STATUS_INVALID, "added_tokens_decoder[\"%.60s\"] is not named by an id", key);
    if (value < first || value >= limit)
        FAIL(STATUS_INVALID,
             "added_tokens_decoder[\"%.60s\"]: after %d ranks the special tokens have ids %d to %d",
             key, first, first, limit - 1);
    *id = (int)value;
    return STATUS_OK;
}

static enum status measure_names(struct tiktoken_files *files)
{
    TRY(json_take_object(&files->names, "", files->config, "added_tokens_decoder"));
    files->size = files->n_ranks + N_RESERVED;
    void *iterator = json_object_iter(files->names);
    for (; iterator; iterator = json_object_iter_next(files->names, iterator)) {
        const char *key = json_object_iter_key(iterator), *text;
        char where[JSON_PLACE_MAX];
        size_t length;
        int id = 0;
        TRY(key_to_id(&id, key, files->n_ranks, files->n_ranks + N_SPECIAL_MAX));
        snprintf(where, sizeof where, "added_tokens_decoder[\"%d\"]", id);
        TRY(json_take_string(&text, &length, where, json_object_iter_value(iterator), "content"));
        if (length == 0)
            FAIL(STATUS_INVALID, "%s.content is empty", where);
        files->text_bytes += length;
        if (id >= files->size)
            files->size = id + 1;
    }
    files->text_bytes += (size_t)N_SPECIAL_MAX * RESERVED_NAME_MAX;
    return STATUS_OK;
}

static enum status read_ranks(struct vocabulary *vocabulary, const struct tiktoken_files *files)
{
    struct tiktoken_cursor cursor = {0};
    struct tiktoken_rank rank;
    int found = 1;
    for (;;) {
        TRY(tiktoken_ranks_next(&rank, &found, &cursor, files->ranks, files->ranks_length));
        if (!found)
            return STATUS_OK;
        if (rank.rank >= files->n_ranks)
            FAIL(STATUS_INVALID,
                 "line %d: rank %d, but %d tokens have the ranks 0 to %d without a gap",
                 cursor.line, (int)rank.rank, files->n_ranks, files->n_ranks - 1);
        enum status status = vocabulary_add_bytes(vocabulary, rank.bytes, rank.n_bytes, rank.rank);
        if (status != STATUS_OK)
            return status_prefix(status, "line %d", cursor.line);
    }
}

/* Every way to cut a token into two tokens is a merge, for two neighbours join when their bytes
 * together are a token, whatever they were made of.  Returns how many; adds them unless `bpe` is
 * NULL. */
static size_t cut_tokens(struct bpe *bpe, const struct vocabulary *vocabulary)
{
    size_t count = 0;
    for (int32_t id = 0; id < vocabulary->n_model; id++) {
        const struct vocabulary_entry *entry = &vocabulary->entry[id];
        for (uint32_t cut = 1; cut < entry->n_bytes; cut++) {
            const struct text_table *table = &vocabulary->id_of_bytes;
            int32_t left = text_table_find(table, entry->bytes, cut);
            int32_t right =
                left < 0 ? -1 : text_table_find(table, entry->bytes + cut, entry->n_bytes - cut);
            if (right < 0)
                continue;
            count++;
            if (bpe)
                bpe_add_merge(bpe, left, right, (uint32_t)id, id);
        }
    }
    return count;
}

static enum status read_model(struct tokenizer *tokenizer, const struct tiktoken_files *files)
{
    struct vocabulary *vocabulary = &tokenizer->vocabulary;
    size_t count = (size_t)files->n_ranks + N_SPECIAL_MAX;
    TRY(vocabulary_open(vocabulary, files->size, count, files->text_bytes));
    TRY(read_ranks(vocabulary, files));
    TRY(bpe_open(&tokenizer->bpe, cut_tokens(NULL, vocabulary)));
    cut_tokens(&tokenizer->bpe, vocabulary);
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        int32_t id = text_table_find(&vocabulary->id_of_bytes, &text, 1);
        if (id < 0)
            FAIL(STATUS_INVALID, "byte 0x%02x has no token: all 256 must be there", (unsigned)byte);
        tokenizer->bpe.byte_id[byte] = id;
    }
    tokenizer->ignore_merges = 1;
    tokenizer->is_chunked = 1;
    return tokenizer_steps_add_split(&tokenizer->pre_tokenizer, SPLIT_ISOLATED, 0, kimi_pattern,
                                     sizeof kimi_pattern - 1, 0);
}

/* What added_tokens_decoder says of one id. */
static enum status read_name(const char **text, size_t *length, int *is_special, const char *where,
                             const json_t *value)
{
    /* tiktoken has no way to heed these. */
    static const char *const unknown[] = {"lstrip", "rstrip", "single_word"};
    int flag = 0;
    TRY(json_take_string(text, length, where, value, "content"));
    TRY(json_take_flag(is_special, where, value, "special", 0));
    TRY(json_take_flag(&flag, where, value, "normalized", 0)); /* there is no normalizer */
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        TRY(json_take_flag(&flag, where, value, unknown[i], 0));
        if (flag)
            FAIL(STATUS_UNSUPPORTED, "%s.%s is true: only false is known with tiktoken.model",
                 where, unknown[i]);
    }
    return STATUS_OK;
}

static enum status read_special(struct added_token *token, struct vocabulary *vocabulary, int id,
                                const json_t *names)
{
    char key[16], where[JSON_PLACE_MAX], reserved[RESERVED_NAME_MAX];
    size_t length = (size_t)snprintf(reserved, sizeof reserved, "<|reserved_token_%d|>", id);
    const char *text = reserved;
    int is_special = 1;
    snprintf(key, sizeof key, "%d", id);
    snprintf(where, sizeof where, "added_tokens_decoder[\"%d\"]", id);
    const json_t *value = json_object_get(names, key);
    if (value)
        TRY(read_name(&text, &length, &is_special, where, value));
    enum status status = vocabulary_add_token(vocabulary, text, length, id, is_special);
    if (status != STATUS_OK)
        return status_prefix(status, "%s", where);
    *token = (struct added_token){
        .text = vocabulary->entry[id].text, .length = (uint32_t)length, .id = id};
    return STATUS_OK;
}

/* The four roles, when given, must be played by special tokens. */
static enum status check_roles(const struct tokenizer *tokenizer, const json_t *config)
{
    static const char *const role[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < sizeof role / sizeof *role; i++) {
        const char *text = NULL;
        size_t length = 0;
        TRY(tokenizer_config_token(&text, &length, config, role[i]));
        if (text && tokenizer_id(tokenizer, text, length) < tokenizer->vocabulary.n_model)
            FAIL(STATUS_INVALID, "%s \"%.60s\" is not in added_tokens_decoder", role[i], text);
    }
    return STATUS_OK;
}

static enum status read_config(struct tokenizer *tokenizer, const struct tiktoken_files *files)
{
    struct added_token token[N_SPECIAL_MAX];
    size_t count = 0;
    for (int id = files->n_ranks; id < files->size; id++)
        TRY(read_special(&token[count++], &tokenizer->vocabulary, id, files->names));
    TRY(added_tokens_open(&tokenizer->raw, token, count));
    TRY(added_tokens_open(&tokenizer->ordinary, token, 0));
    TRY(check_roles(tokenizer, files->config));
    return tokenizer_config_read_bos(tokenizer, files->config);
}

/* Of the ranks, and of the names in the order of their ids. */
static uint64_t hash_of(const struct tokenizer *tokenizer, const struct tiktoken_files *files)
{
    uint64_t hash = XXH3_64bits(files->ranks, files->ranks_length);
    for (int id = files->n_ranks; id < files->size; id++) {
        const struct vocabulary_entry *entry = &tokenizer->vocabulary.entry[id];
        hash = XXH3_64bits_withSeed(entry->text, entry->text_length, hash);
    }
    return hash;
}

static enum status in_file(enum status status, const char *path)
{
    return status == STATUS_OK ? status : status_prefix(status, "%s", path);
}

static enum status read_files(struct tokenizer *tokenizer, struct tiktoken_files *files,
                              const char *model_path, const char *config_path)
{
    uint64_t hash;
    TRY(json_read_text(&files->ranks, &files->ranks_length, model_path));
    TRY(json_take_file(&files->config, &hash, config_path));
    if (!files->config)
        FAIL(STATUS_IO,
             "%s: not there, but the names of special tokens for tiktoken.model are in it",
             config_path);
    TRY(in_file(measure_ranks(files), model_path));
    TRY(in_file(measure_names(files), config_path));
    TRY(in_file(read_model(tokenizer, files), model_path));
    return in_file(read_config(tokenizer, files), config_path);
}

enum status tiktoken_file_read(struct tokenizer *tokenizer, int *found, uint64_t *hash,
                               const char *directory)
{
    struct tiktoken_files files = {0};
    char model_path[PATH_MAX], config_path[PATH_MAX];
    snprintf(model_path, sizeof model_path, "%s/tiktoken.model", directory);
    snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", directory);
    *found = json_file_exists(model_path);
    if (!*found)
        return STATUS_OK;
    enum status status = read_files(tokenizer, &files, model_path, config_path);
    if (status == STATUS_OK)
        *hash = hash_of(tokenizer, &files);
    free(files.ranks);
    json_decref(files.config);
    return status;
}
