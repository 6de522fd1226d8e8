/* utf8.c - UTF-8 with replacement of wrong parts, whole or as a stream (see utf8.h, tokenizer.h). */
#include "runtime/utf8.h"
#include "runtime/tokenizer.h"

#include <string.h>

static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};

int utf8_next(uint32_t *code, const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    unsigned lead = s[0], low = 0x80, high = 0xBF;
    if (lead < 0x80) {
        *code = lead;
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4)
        return -1;
    int bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint32_t value = lead & (0x7FU >> bytes);
    if (lead == 0xE0 || lead == 0xF0) /* no overlong forms */
        low = lead == 0xE0 ? 0xA0 : 0x90;
    if (lead == 0xED || lead == 0xF4) /* no surrogates, nothing above U+10FFFF */
        high = lead == 0xED ? 0x9F : 0x8F;
    for (int i = 1; i < bytes; i++, low = 0x80, high = 0xBF) {
        if ((size_t)i == length)
            return 0;
        if (s[i] < low || s[i] > high)
            return -i;
        value = value << 6 | (s[i] & 0x3FU);
    }
    *code = value;
    return bytes;
}

/* How many bytes at the start of text[length] are valid: whole characters only. */
static size_t valid_prefix(const char *text, size_t length)
{
    uint32_t code;
    size_t at = 0;
    while (at < length) {
        uint64_t eight;
        while (at + sizeof eight <= length) {
            memcpy(&eight, text + at, sizeof eight);
            if (eight & 0x8080808080808080U)
                break;
            at += sizeof eight;
        }
        if (at == length)
            break;
        int bytes = utf8_next(&code, text + at, length - at);
        if (bytes <= 0)
            break;
        at += (size_t)bytes;
    }
    return at;
}

int utf8_is_valid(const char *text, size_t length)
{
    return valid_prefix(text, length) == length;
}

size_t utf8_replace(char *out, const char *text, size_t length)
{
    size_t written = 0, at = 0;
    uint32_t code;
    while (at < length) {
        size_t valid = valid_prefix(text + at, length - at);
        memcpy(out + written, text + at, valid);
        written += valid;
        at += valid;
        if (at == length)
            break;
        int bytes = utf8_next(&code, text + at, length - at);
        memcpy(out + written, replacement, sizeof replacement);
        written += sizeof replacement;
        at += bytes == 0 ? length - at : (size_t)-bytes;
    }
    return written;
}

int utf8_write(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = bytes - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((0xF00U >> bytes) | code);
    return bytes;
}

/* Gives out what can be given of the held bytes; what stays may still become a character. */
static size_t drain(struct utf8_stream *stream, char *out)
{
    size_t written = 0;
    while (stream->n_pending > 0) {
        const char *pending = (const char *)stream->pending;
        uint32_t code;
        int bytes = utf8_next(&code, pending, (size_t)stream->n_pending);
        if (bytes == 0)
            break;
        const char *from = bytes > 0 ? pending : replacement;
        size_t count = bytes > 0 ? (size_t)bytes : sizeof replacement;
        memcpy(out + written, from, count);
        written += count;
        int used = bytes > 0 ? bytes : -bytes;
        stream->n_pending -= used;
        memmove(stream->pending, stream->pending + used, (size_t)stream->n_pending);
    }
    return written;
}

size_t utf8_stream_push(struct utf8_stream *stream, const char *bytes, size_t length, char *out)
{
    size_t written = 0, at = 0;
    while (at < length) {
        if (stream->n_pending == 0) {
            size_t valid = valid_prefix(bytes + at, length - at);
            memcpy(out + written, bytes + at, valid);
            written += valid;
            at += valid;
            if (at == length)
                break;
        }
        stream->pending[stream->n_pending++] = (unsigned char)bytes[at++];
        written += drain(stream, out + written);
    }
    return written;
}

size_t utf8_stream_finish(struct utf8_stream *stream, char *out)
{
    if (stream->n_pending == 0)
        return 0;
    stream->n_pending = 0; /* the beginning of one character: one replacement */
    memcpy(out, replacement, sizeof replacement);
    return sizeof replacement;
}
