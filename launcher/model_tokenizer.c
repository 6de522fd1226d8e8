#include "launcher/model_tokenizer.h"
#include "runtime/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

enum status model_tokenizer_open(struct tokenizer **tokenizer, const char *directory,
                                 const struct model_config *config)
{
    TRY(tokenizer_open(tokenizer, directory));
    int size = *tokenizer == NULL ? 0 : tokenizer_size(*tokenizer);
    for (int64_t id = config->vocab_size; id < size; id++) {
        const char *text;
        size_t length;
        /* Published files name a few special tokens too many (Moonlight); nothing uses them. */
        if (tokenizer_bytes(*tokenizer, (int32_t)id, 0, &text, &length) == STATUS_OK && length == 0)
            continue;
        FAIL(STATUS_INVALID,
             "%s: the ids of the tokenizer go up to %d, but vocab_size in config.json is %lld; "
             "are the two of the same model?",
             directory, size - 1, (long long)config->vocab_size);
    }
    return STATUS_OK;
}

/* 0: no such file. */
static enum status hash_file(uint64_t *hash, const char *path)
{
    char *text = NULL;
    size_t length = 0;
    *hash = 0;
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return STATUS_OK;
    TRY(json_read_text(&text, &length, path));
    *hash = XXH3_64bits(text, length);
    free(text);
    return STATUS_OK;
}

enum status model_tokenizer_compare(struct comm *world, const char *directory)
{
    static const char *const name[] = {"tokenizer.json", "tiktoken.model", "tokenizer_config.json"};
    if (world->group.size == 1)
        return STATUS_OK;
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        char path[4096];
        uint64_t hash;
        snprintf(path, sizeof path, "%s/%s", directory, name[i]);
        TRY(comm_agree(world, hash_file(&hash, path)));
        TRY(comm_same(world, path, hash));
    }
    return STATUS_OK;
}
