/* tokenizer.json: opened, and some texts encoded and decoded. */
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_put("tokenizer.json", data, size);
    fuzz_try_tokenizer("tokenizer.json");
    return 0;
}
