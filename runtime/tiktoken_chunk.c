#include "runtime/tiktoken_chunk.h"
#include "runtime/unicode_class.h"
#include "runtime/utf8.h"

/* Python counts the four information separators in. */
static int is_space(uint32_t code)
{
    return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
}

int tiktoken_chunk_next(struct tiktoken_chunk *chunk, const char *text, size_t length)
{
    int n_run = 0, was_space = 0;
    chunk->begin = chunk->end;
    if (chunk->n_characters == TIKTOKEN_PART_MAX_CHARACTERS)
        chunk->n_characters = 0;
    while (chunk->end < length && chunk->n_characters < TIKTOKEN_PART_MAX_CHARACTERS) {
        uint32_t code = 0;
        int n_bytes = utf8_next(&code, text + chunk->end, length - chunk->end);
        n_run = is_space(code) == was_space ? n_run + 1 : 1;
        was_space = is_space(code);
        if (n_run > TIKTOKEN_RUN_MAX_CHARACTERS)
            break;
        chunk->end += (size_t)n_bytes;
        chunk->n_characters++;
    }
    return chunk->begin < chunk->end;
}
