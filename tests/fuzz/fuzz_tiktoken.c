/* tiktoken.model, lines of `base64 rank`.  Behind a NUL:
 * tokenizer_config.json, absent when nothing is there; without a NUL it names no
 * tokens. */
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_tokenizer.h"

static const char no_tokens[] = "{\"added_tokens_decoder\":{}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t rest;
    const uint8_t *config = fuzz_second(data, &size, &rest);
    fuzz_put("tiktoken.model", data, size);
    if (config == NULL)
        fuzz_put("tokenizer_config.json", no_tokens, sizeof no_tokens - 1);
    else
        fuzz_put("tokenizer_config.json", rest == 0 ? NULL : config, rest);
    fuzz_try_tokenizer(fuzz_directory());
    return 0;
}
