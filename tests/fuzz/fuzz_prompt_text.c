/* Prompts are bytes from strangers: repaired as UTF-8, encoded and decoded with the demo's
 * tokenizer, which has an id for every byte, they come back as they were repaired.  Its added
 * tokens take no white space along, so they come back too. */
#include "runtime/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_tokenizer.h"

#include <stdlib.h>
#include <string.h>

static struct tokenizer *tokenizer;

static void close_tokenizer(void)
{
    tokenizer_close(tokenizer);
}

/* The same repair by the streaming decoder, which gets the bytes in parts. */
static void check_stream(const char *text, size_t length, const char *repaired, size_t expected)
{
    struct utf8_stream stream = {0};
    char *out = malloc(3 * length + 64);
    size_t written = 0;
    REQUIRE(out != NULL);
    for (size_t at = 0, part = 1; at < length; at += part, part = part % 7 + 1) {
        if (part > length - at)
            part = length - at;
        written += utf8_stream_push(&stream, text + at, part, out + written);
    }
    written += utf8_stream_finish(&stream, out + written);
    REQUIRE(written == expected && memcmp(out, repaired, expected) == 0);
    free(out);
}

static void check_round_trip(const char *text, size_t length, const char *repaired,
                             size_t repaired_length)
{
    struct token_list ids = {0};
    char *back = NULL;
    size_t back_length = 0;
    if (fuzz_encode(&ids, tokenizer, text, length) >= 0) {
        REQUIRE(tokenizer_decode(tokenizer, ids.id, ids.count, 1, &back, &back_length) ==
                STATUS_OK);
        REQUIRE(back_length == repaired_length && memcmp(back, repaired, repaired_length) == 0);
        free(back);
    }
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    if (tokenizer == NULL) {
        REQUIRE(tokenizer_open(&tokenizer, SOURCE_DIR "/configs/demo") == STATUS_OK);
        atexit(close_tokenizer);
    }
    char *repaired = malloc(3 * size + 1);
    REQUIRE(repaired != NULL);
    size_t length = utf8_replace(repaired, size == 0 ? "" : text, size);
    REQUIRE(utf8_is_valid(repaired, length));
    if (utf8_is_valid(size == 0 ? "" : text, size))
        REQUIRE(length == size && (size == 0 || memcmp(repaired, text, size) == 0));
    check_stream(text, size, repaired, length);
    check_round_trip(size == 0 ? "" : text, size, repaired, length);
    free(repaired);
    return 0;
}
