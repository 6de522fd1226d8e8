#include "runtime/tokenizer_config.h"
#include "runtime/tokenizer_json.h"

enum status tokenizer_config_token(const char **text, size_t *length, const json_t *config,
                                   const char *key)
{
    const json_t *token = json_object_get(config, key);
    if (json_is_object(token))
        return json_take_string(text, length, key, token, "content");
    return json_take_optional_string(text, length, "", config, key);
}

enum status tokenizer_config_read_bos(struct tokenizer *tokenizer, const json_t *config)
{
    const char *text = NULL;
    size_t length = 0;
    TRY(tokenizer_config_token(&text, &length, config, "bos_token"));
    if (text)
        tokenizer->bos = tokenizer_id(tokenizer, text, length);
    TRY(json_take_flag(&tokenizer->adds_bos, "", config, "add_bos_token", tokenizer->adds_bos));
    if (tokenizer->adds_bos && tokenizer->bos < 0)
        FAIL(STATUS_INVALID, "add_bos_token is true, but bos_token %s%.60s%s is no token",
             text ? "\"" : "(absent)", text ? text : "", text ? "\"" : "");
    return STATUS_OK;
}
