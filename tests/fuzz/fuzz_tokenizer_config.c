/* tokenizer_config.json beside a small tokenizer.json. */
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_tokenizer.h"

static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
    "\"merges\":[\"a b\"]},\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int has_tokenizer;
    if (!has_tokenizer)
        fuzz_put("tokenizer.json", tokenizer_json, sizeof tokenizer_json - 1);
    has_tokenizer = 1;
    fuzz_put("tokenizer_config.json", data, size);
    fuzz_try_tokenizer("tokenizer_config.json");
    return 0;
}
