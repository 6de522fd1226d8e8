#include "runtime/pre_tokenizer.h"
#include "runtime/unicode_class.h"
#include "runtime/utf8.h"

#include <string.h>

/* The way of a piece through the steps that are left. */
struct cut {
    const struct pre_tokenizer *pre_tokenizer;
    struct split_memory *memory;
    enum status (*piece)(void *context, const char *text, size_t length);
    void *context;
};

/* A span that waits to see whether its neighbour joins it. */
struct held {
    size_t begin, end;
    int is_there, is_match;
};

void pre_tokenizer_close(struct pre_tokenizer *pre_tokenizer)
{
    for (int i = 0; i < pre_tokenizer->n_steps; i++)
        split_regex_close(pre_tokenizer->step[i].regex);
    *pre_tokenizer = (struct pre_tokenizer){0};
}

static enum status cut_step(const struct cut *cut, int step, const char *text, size_t length);

static enum status pass_on(const struct cut *cut, int step, const char *text, size_t length)
{
    if (length == 0)
        return STATUS_OK;
    if (step + 1 < cut->pre_tokenizer->n_steps)
        return cut_step(cut, step + 1, text, length);
    return cut->piece(cut->context, text, length);
}

/* Whether span `next` joins the held one before it. */
static int joins(enum split_behavior behavior, const struct held *held, int is_match)
{
    switch (behavior) {
    case SPLIT_MERGED_WITH_PREVIOUS:
        return is_match && !held->is_match;
    case SPLIT_MERGED_WITH_NEXT:
        return held->is_match && !is_match;
    case SPLIT_CONTIGUOUS:
        return is_match == held->is_match;
    default:
        return 0;
    }
}

/* One span of the text, matching or not, in order. */
static enum status span(const struct cut *cut, int step, struct held *held, const char *text,
                        size_t begin, size_t end, int matches)
{
    const struct pre_tokenizer_step *rule = &cut->pre_tokenizer->step[step];
    int is_match = matches != rule->invert;
    if (rule->behavior == SPLIT_ISOLATED)
        return pass_on(cut, step, text + begin, end - begin);
    if (rule->behavior == SPLIT_REMOVED)
        return is_match ? STATUS_OK : pass_on(cut, step, text + begin, end - begin);
    if (held->is_there && joins(rule->behavior, held, is_match)) {
        held->end = end;
        held->is_match = is_match;
        return STATUS_OK;
    }
    struct held before = *held;
    *held = (struct held){.begin = begin, .end = end, .is_there = 1, .is_match = is_match};
    if (before.is_there)
        return pass_on(cut, step, text + before.begin, before.end - before.begin);
    return STATUS_OK;
}

/* The next numeric character at `from` or after. */
static int find_numeric(size_t *begin, size_t *end, const char *text, size_t length, size_t from)
{
    uint32_t code;
    for (size_t at = from; at < length;) {
        int bytes = utf8_next(&code, text + at, length - at);
        if (is_numeric(code)) {
            *begin = at;
            *end = at + (size_t)bytes;
            return 1;
        }
        at += (size_t)bytes;
    }
    return 0;
}

static size_t next_character(const char *text, size_t length, size_t at)
{
    at++;
    while (at < length && ((unsigned char)text[at] & 0xC0) == 0x80)
        at++;
    return at;
}

static enum status cut_step(const struct cut *cut, int step, const char *text, size_t length)
{
    const struct split_regex *regex = cut->pre_tokenizer->step[step].regex;
    struct held held = {0};
    size_t done = 0, from = 0, begin = 0, end = 0;
    int found = 1, has_matched = 0;
    while (from <= length) {
        if (regex)
            TRY(split_regex_find(regex, cut->memory, &found, &begin, &end, text, length, from));
        else
            found = find_numeric(&begin, &end, text, length, from);
        if (!found)
            break;
        if (begin == end && has_matched && end == done) {
            /* Nothing right after a match is no match. */
            from = next_character(text, length, from);
            continue;
        }
        if (done != begin)
            TRY(span(cut, step, &held, text, done, begin, 0));
        TRY(span(cut, step, &held, text, begin, end, 1));
        done = from = end;
        has_matched = 1;
    }
    if (done != length)
        TRY(span(cut, step, &held, text, done, length, 0));
    return held.is_there ? pass_on(cut, step, text + held.begin, held.end - held.begin) : STATUS_OK;
}

enum status pre_tokenizer_cut(const struct pre_tokenizer *pre_tokenizer,
                              struct split_memory *memory, const char *text, size_t length,
                              enum status (*piece)(void *context, const char *text, size_t length),
                              void *context)
{
    struct cut cut = {pre_tokenizer, memory, piece, context};
    return pass_on(&cut, -1, text, length);
}
