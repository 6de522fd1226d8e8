#include "runtime/added_tokens.h"
#include "runtime/unicode_class.h"
#include "runtime/utf8.h"

#include <stdlib.h>
#include <string.h>

#define NO_EDGE UINT32_MAX

static struct added_edge *edge_slot(const struct added_tokens *tokens, uint32_t node, char byte)
{
    uint32_t from = node << 8 | (unsigned char)byte;
    size_t at = (from * 0x9E3779B1U >> 7) & tokens->edge_mask;
    while (tokens->edge[at].from != from && tokens->edge[at].from != NO_EDGE)
        at = (at + 1) & tokens->edge_mask;
    return &tokens->edge[at];
}

static void insert(struct added_tokens *tokens, size_t index)
{
    const struct added_token *token = &tokens->token[index];
    uint32_t node = 0;
    for (uint32_t i = 0; i < token->length; i++) {
        struct added_edge *edge = edge_slot(tokens, node, token->text[i]);
        if (edge->from == NO_EDGE) {
            edge->from = node << 8 | (unsigned char)token->text[i];
            edge->to = tokens->n_nodes;
            tokens->ends[tokens->n_nodes++] = -1;
        }
        node = edge->to;
    }
    tokens->ends[node] = (int32_t)index;
    tokens->starts[(unsigned char)token->text[0]] = 1;
}

enum status added_tokens_open(struct added_tokens *tokens, const struct added_token *token,
                              size_t count)
{
    size_t n_nodes = 1, slots = 16;
    for (size_t i = 0; i < count; i++)
        n_nodes += token[i].length;
    if (n_nodes >= 1U << 24)
        FAIL(STATUS_INVALID, "the added tokens have %zu bytes, at most %u are read", n_nodes,
             1U << 24);
    while (slots < 2 * n_nodes)
        slots *= 2;
    *tokens = (struct added_tokens){.count = count, .edge_mask = slots - 1, .n_nodes = 1};
    tokens->token = calloc(count + 1, sizeof *token);
    tokens->edge = malloc(slots * sizeof *tokens->edge);
    tokens->ends = malloc(n_nodes * sizeof *tokens->ends);
    if (!tokens->token || !tokens->edge || !tokens->ends) {
        added_tokens_close(tokens);
        FAIL(STATUS_NO_MEMORY, "no memory for %zu added tokens", count);
    }
    if (count > 0)
        memcpy(tokens->token, token, count * sizeof *token);
    for (size_t i = 0; i < slots; i++)
        tokens->edge[i].from = NO_EDGE;
    tokens->ends[0] = -1;
    for (size_t i = 0; i < count; i++)
        insert(tokens, i);
    return STATUS_OK;
}

void added_tokens_close(struct added_tokens *tokens)
{
    free(tokens->token);
    free(tokens->edge);
    free(tokens->ends);
    *tokens = (struct added_tokens){0};
}

/* The longest token at the start of text[length], NULL when there is none. */
static const struct added_token *longest(const struct added_tokens *tokens, const char *text,
                                         size_t length)
{
    const struct added_token *found = NULL;
    uint32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        const struct added_edge *edge = edge_slot(tokens, node, text[i]);
        if (edge->from == NO_EDGE)
            break;
        node = edge->to;
        if (tokens->ends[node] >= 0)
            found = &tokens->token[tokens->ends[node]];
    }
    return found;
}

/* Whether the character before text[at], or the one there, makes it part of a word. */
static int touches_word(const char *text, size_t length, size_t begin, size_t end)
{
    uint32_t code;
    if (end < length && utf8_next(&code, text + end, length - end) > 0 && is_word(code))
        return 1;
    if (begin == 0)
        return 0;
    size_t before = begin - 1;
    while (before > 0 && ((unsigned char)text[before] & 0xC0) == 0x80)
        before--;
    return utf8_next(&code, text + before, begin - before) > 0 && is_word(code);
}

static size_t white_space_begin(const char *text, size_t end)
{
    uint32_t code;
    while (end > 0) {
        size_t before = end - 1;
        while (before > 0 && ((unsigned char)text[before] & 0xC0) == 0x80)
            before--;
        if (utf8_next(&code, text + before, end - before) <= 0 || !is_white_space(code))
            break;
        end = before;
    }
    return end;
}

static size_t white_space_end(const char *text, size_t length, size_t begin)
{
    uint32_t code;
    while (begin < length) {
        int bytes = utf8_next(&code, text + begin, length - begin);
        if (bytes <= 0 || !is_white_space(code))
            break;
        begin += (size_t)bytes;
    }
    return begin;
}

void added_tokens_next(struct added_match *match, const struct added_tokens *tokens,
                       struct added_cursor *cursor, const char *text, size_t length)
{
    size_t at = cursor->search;
    while (at < length) {
        const struct added_token *token = NULL;
        if (tokens->starts[(unsigned char)text[at]])
            token = longest(tokens, text + at, length - at);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->length;
        /* A refused match is passed over whole: a shorter one inside it is not tried. */
        at = end;
        if (token->single_word && touches_word(text, length, begin, end))
            continue;
        if (token->lstrip) {
            begin = white_space_begin(text, begin);
            if (begin < cursor->begin)
                begin = cursor->begin;
        }
        if (token->rstrip)
            end = white_space_end(text, length, end);
        *match = (struct added_match){.text_begin = cursor->begin, .token = token};
        match->text_end = begin > cursor->begin ? begin : cursor->begin;
        *cursor = (struct added_cursor){.search = at, .begin = end};
        return;
    }
    *match = (struct added_match){.text_begin = cursor->begin, .text_end = length};
    *cursor = (struct added_cursor){.search = length, .begin = length};
}
