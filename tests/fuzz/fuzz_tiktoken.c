/* tiktoken.model, lines of `base64 rank`.  Behind a NUL: tokenizer_config.json. */
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t rest;
    const uint8_t *config = fuzz_second(data, &size, &rest);
    fuzz_put("tiktoken.model", data, size);
    fuzz_put("tokenizer_config.json", config, rest);
    fuzz_try_tokenizer(fuzz_directory());
    return 0;
}
