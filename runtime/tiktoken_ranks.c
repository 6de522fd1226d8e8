#include "runtime/tiktoken_ranks.h"
#include "runtime/vocabulary.h"

#include <string.h>

enum { LINE_MAX_BYTES = 4 * ((TIKTOKEN_TOKEN_MAX_BYTES + 2) / 3) + 16 };

/* The six bits of a character, -1 when it is none of base64's. */
static int six_bits(char character)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = memchr(alphabet, character, sizeof alphabet - 1);
    return found ? (int)(found - alphabet) : -1;
}

/* text[length] is at most LINE_MAX_BYTES long. */
static enum status decode_base64(struct tiktoken_rank *rank, const char *text, size_t length)
{
    size_t padding = 0;
    uint32_t bits = 0;
    int n_bits = 0;
    rank->n_bytes = 0;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    if (length == 0 || length % 4 != 0)
        FAIL(STATUS_INVALID, "base64 of %zu characters: it comes in groups of four", length);
    if (length / 4 * 3 - padding > TIKTOKEN_TOKEN_MAX_BYTES)
        FAIL(STATUS_INVALID, "a token of %zu bytes: at most %d are read", length / 4 * 3 - padding,
             TIKTOKEN_TOKEN_MAX_BYTES);
    for (size_t i = 0; i < length - padding; i++) {
        int six = six_bits(text[i]);
        if (six < 0)
            FAIL(STATUS_INVALID, "byte 0x%02x at column %zu is not base64", (unsigned char)text[i],
                 i + 1);
        bits = bits << 6 | (uint32_t)six;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        rank->bytes[rank->n_bytes++] = (char)(bits >> n_bits & 0xFF);
    }
    if (bits & ((1U << n_bits) - 1))
        FAIL(STATUS_INVALID, "base64 with bits after its last byte");
    return STATUS_OK;
}

static enum status read_number(int32_t *number, const char *text, size_t length)
{
    int64_t value = 0;
    if (length == 0)
        FAIL(STATUS_INVALID, "no rank after the space");
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            FAIL(STATUS_INVALID, "byte 0x%02x in the rank: it is digits after one space",
                 (unsigned char)text[i]);
        value = 10 * value + (text[i] - '0');
        if (value >= VOCABULARY_MAX_SIZE)
            FAIL(STATUS_INVALID, "rank %.*s is not below %d", (int)length, text,
                 VOCABULARY_MAX_SIZE);
    }
    *number = (int32_t)value;
    return STATUS_OK;
}

static enum status read_line(struct tiktoken_rank *rank, const char *text, size_t length)
{
    if (length > LINE_MAX_BYTES)
        FAIL(STATUS_INVALID, "%zu bytes long, at most %d are read", length, LINE_MAX_BYTES);
    const char *space = memchr(text, ' ', length);
    if (!space)
        FAIL(STATUS_INVALID, "no space between the token and its rank");
    size_t n_base64 = (size_t)(space - text);
    TRY(decode_base64(rank, text, n_base64));
    return read_number(&rank->rank, space + 1, length - n_base64 - 1);
}

enum status tiktoken_ranks_next(struct tiktoken_rank *rank, int *found,
                                struct tiktoken_cursor *cursor, const char *text, size_t length)
{
    *found = 0;
    while (cursor->at < length) {
        const char *begin = text + cursor->at;
        const char *newline = memchr(begin, '\n', length - cursor->at);
        size_t n_bytes = newline ? (size_t)(newline - begin) : length - cursor->at;
        cursor->at += n_bytes + (newline != NULL);
        cursor->line++;
        if (n_bytes > 0 && begin[n_bytes - 1] == '\r')
            n_bytes--;
        if (n_bytes == 0)
            continue;
        enum status status = read_line(rank, begin, n_bytes);
        if (status != STATUS_OK)
            return status_prefix(status, "line %d", cursor->line);
        *found = 1;
        return STATUS_OK;
    }
    return STATUS_OK;
}
