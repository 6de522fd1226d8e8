#include "tests/fuzz/fuzz_tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

#include <stdlib.h>
#include <string.h>

static const char *const texts[] = {
    "",
    "Hello world, it's 12345 o'clock!\r\n\t  x = y + 1;  \n\n",
    "na\xc3\xafve \xe2\x82\xac 42 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80\xcc\x81 \xe0\xb8\x81",
    "broken \xff\xc3 \xe2\x82 bytes \xed\xa0\x80",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabababababab<s><|end|> <s> a b ab",
    "x\xc2\xa0\xe3\x80\x80x \xc3\xa9y yy y\xc3\xa9 y <|<|end|>x\xc2\xa0",
};

int64_t fuzz_encode(struct token_list *ids, const struct tokenizer *tokenizer, const char *text,
                    size_t length)
{
    enum status status = tokenizer_encode(tokenizer, text, length, ids);
    if (status != STATUS_OK) {
        fuzz_refused(status, "");
        REQUIRE(ids->count == 0);
        return -1;
    }
    for (int64_t i = 0; i < ids->count; i++)
        REQUIRE(ids->id[i] >= 0 && ids->id[i] < tokenizer_size(tokenizer));
    return ids->count;
}

static void decode(const struct tokenizer *tokenizer, const struct token_list *ids)
{
    for (int with_special = 0; with_special < 2; with_special++) {
        char *text = NULL;
        size_t length = 0;
        REQUIRE(tokenizer_decode(tokenizer, ids->id, ids->count, with_special, &text, &length) ==
                STATUS_OK);
        REQUIRE(text[length] == '\0');
        free(text);
    }
}

static void use(const struct tokenizer *tokenizer)
{
    const char *data;
    size_t n_bytes;
    int size = tokenizer_size(tokenizer);
    REQUIRE(size > 0 && tokenizer_bos(tokenizer) >= -1 && tokenizer_bos(tokenizer) < size);
    REQUIRE(tokenizer_bos(tokenizer) >= 0 || !tokenizer_adds_bos(tokenizer));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct token_list ids = {0};
        if (fuzz_encode(&ids, tokenizer, texts[i], strlen(texts[i])) >= 0)
            decode(tokenizer, &ids);
        token_list_free(&ids);
    }
    for (int id = 0; id < size && id < 1000; id++)
        REQUIRE(tokenizer_bytes(tokenizer, id, 1, &data, &n_bytes) == STATUS_OK);
    fuzz_refused(tokenizer_bytes(tokenizer, size, 1, &data, &n_bytes), "");
    fuzz_refused(tokenizer_bytes(tokenizer, -1, 1, &data, &n_bytes), "");
}

int fuzz_try_tokenizer(const char *file)
{
    struct tokenizer *tokenizer = NULL;
    enum status status = tokenizer_open(&tokenizer, fuzz_directory());
    if (status != STATUS_OK)
        return fuzz_refused(status, file);
    if (tokenizer == NULL)
        return 0;
    use(tokenizer);
    tokenizer_close(tokenizer);
    return 1;
}
