#include "runtime/split_pattern.h"
#include "runtime/unicode_class.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What is read, and what was written so far. */
struct translation {
    const char *at, *end;
    char *out;
    size_t used, room;
    int in_class, failed; /* failed: no memory */
};

static void put(struct translation *t, const char *text, size_t length)
{
    if (t->failed)
        return;
    if (t->used + length + 1 > t->room) {
        size_t room = 2 * (t->used + length + 1);
        char *out = realloc(t->out, room);
        if (!out) {
            t->failed = 1;
            return;
        }
        t->out = out;
        t->room = room;
    }
    memcpy(t->out + t->used, text, length);
    t->used += length;
    t->out[t->used] = '\0';
}

static void put_text(struct translation *t, const char *text)
{
    put(t, text, strlen(text));
}

/* The next bytes to be read are `text`. */
static int is_ahead(const struct translation *t, const char *text)
{
    size_t length = strlen(text);
    return (size_t)(t->end - t->at) >= length && memcmp(t->at, text, length) == 0;
}

#define WHITE_SPACE                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NOT_WHITE_SPACE                                                                            \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{"     \
    "1fff}"                                                                                        \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"                 \
    "\\x{3001}-\\x{10ffff}"

/* The ranges that PCRE2's \p{name} lacks; "L" stands for "Lu", "Ll" and so on. */
static void put_additions(struct translation *t, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < n_unicode_classes; i++) {
        const struct unicode_class *class = &unicode_classes[i];
        int is_part = length == 1 && strlen(class->name) == 2 && class->name[0] == name[0];
        int is_cased = strcmp(name, "L&") == 0 && strchr("ult", class->name[1]) != NULL &&
                       class->name[0] == 'L' && class->name[2] == '\0';
        if (!is_part && !is_cased && strcmp(class->name, name) != 0)
            continue;
        for (size_t k = 0; k < class->count; k++) {
            char range[40];
            snprintf(range, sizeof range, "\\x{%x}-\\x{%x}", (unsigned)class->range[k].first,
                     (unsigned)class->range[k].last);
            put_text(t, range);
        }
    }
}

static void put_property(struct translation *t, const char *name)
{
    put_text(t, "\\p{");
    put_text(t, name);
    put_text(t, "}");
    put_additions(t, name);
}

static void put_word(struct translation *t)
{
    static const char *const part[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        put_property(t, part[i]);
    put_text(t, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"); /* Oniguruma's Latin-1 table */
}

/* Brackets around a set, unless it stands in a class already. */
static void set_begin(struct translation *t, int is_negated)
{
    if (!t->in_class)
        put_text(t, is_negated ? "[^" : "[");
}

static void set_end(struct translation *t)
{
    if (!t->in_class)
        put_text(t, "]");
}

/* The long names of the categories, as Oniguruma knows them: without case, spaces, _ and -. */
static const char *category_of(const char *name)
{
    static const char *const category[][2] = {
        {"letter", "L"},
        {"mark", "M"},
        {"number", "N"},
        {"punctuation", "P"},
        {"symbol", "S"},
        {"separator", "Z"},
        {"other", "C"},
        {"uppercaseletter", "Lu"},
        {"lowercaseletter", "Ll"},
        {"titlecaseletter", "Lt"},
        {"modifierletter", "Lm"},
        {"otherletter", "Lo"},
        {"nonspacingmark", "Mn"},
        {"spacingmark", "Mc"},
        {"enclosingmark", "Me"},
        {"decimalnumber", "Nd"},
        {"letternumber", "Nl"},
        {"othernumber", "No"},
        {"lc", "L&"},
        {"casedletter", "L&"},
    };
    static const char *const known[] = {"L",  "M",  "N",  "P",  "S",  "Z",  "C",  "Lu", "Ll", "Lt",
                                        "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd",
                                        "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs",
                                        "Zl", "Zp", "Cc", "Cf", "Co", "Cs", "Cn"};
    for (size_t i = 0; i < sizeof category / sizeof *category; i++)
        if (strcmp(name, category[i][0]) == 0)
            return category[i][1];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(name, known[i]) == 0)
            return known[i];
    return NULL;
}

/* \p{name}, \p{^name}, \P{name}; t->at stands behind the p. */
static enum status property(struct translation *t, int is_negated)
{
    char name[64], given[64];
    size_t length = 0;
    const char *close =
        t->at < t->end && *t->at == '{' ? memchr(t->at, '}', (size_t)(t->end - t->at)) : NULL;
    if (!close || close - t->at > 60)
        FAIL(STATUS_INVALID, "\\p is not followed by {name}");
    const char *from = t->at + 1;
    if (*from == '^') {
        is_negated = !is_negated;
        from++;
    }
    snprintf(given, sizeof given, "%.*s", (int)(close - from), from);
    for (; from < close; from++)
        if (!strchr(" _-", *from))
            name[length++] = (char)tolower((unsigned char)*from);
    name[length] = '\0';
    t->at = close + 1;
    const char *category = category_of(name);
    char script[80];
    if (!category) {
        /* PCRE2 answers for an unknown name.  With "sc:" it means the script alone. */
        snprintf(script, sizeof script, "sc:%s", given);
        category = script;
    }
    if (is_negated && t->in_class) { /* no way to take the additions out: they stay in */
        put_text(t, "\\P{");
        put_text(t, category);
        put_text(t, "}");
        return STATUS_OK;
    }
    set_begin(t, is_negated);
    put_property(t, category);
    set_end(t);
    return STATUS_OK;
}

/* \b and \B, with what Oniguruma takes for a word. */
static void word_boundary(struct translation *t, int is_negated)
{
    static const char *const yes[] = {"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"};
    static const char *const no[] = {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"};
    for (int i = 0; i < 5; i++) {
        put_text(t, is_negated ? no[i] : yes[i]);
        if (i == 4)
            break;
        set_begin(t, 0);
        put_word(t);
        set_end(t);
    }
}

/* \x41, \x{41}, \u0041; t->at stands behind the letter. */
static enum status hexadecimal(struct translation *t, char letter)
{
    char digits[12];
    size_t n = 0, wanted = letter == 'u' ? 4 : 2;
    int has_braces = letter == 'x' && t->at < t->end && *t->at == '{';
    if (has_braces) {
        t->at++;
        wanted = 8;
    }
    while (n < wanted && t->at < t->end && isxdigit((unsigned char)*t->at))
        digits[n++] = *t->at++;
    digits[n] = '\0';
    if (n == 0 || (letter == 'u' && n != 4) || (has_braces && (t->at == t->end || *t->at++ != '}')))
        FAIL(STATUS_INVALID, "\\%c is not followed by hexadecimal digits", letter);
    unsigned long code = strtoul(digits, NULL, 16);
    if (letter == 'x' && !has_braces && code >= 0x80)
        FAIL(STATUS_UNSUPPORTED, "\\x%s, a byte that is no character", digits);
    put_text(t, "\\x{");
    put_text(t, digits);
    put_text(t, "}");
    return STATUS_OK;
}

/* The classes of one letter.  Returns 0 when it is none of them. */
static int letter_class(struct translation *t, char letter)
{
    int is_negated = isupper((unsigned char)letter) != 0;
    if (!strchr("sSdDwWh", letter) || (is_negated && t->in_class && letter != 'S'))
        return 0;
    if (t->in_class && letter == 'S') {
        put_text(t, NOT_WHITE_SPACE);
        return 1;
    }
    set_begin(t, is_negated);
    if (letter == 's' || letter == 'S')
        put_text(t, WHITE_SPACE);
    else if (letter == 'd' || letter == 'D')
        put_property(t, "Nd");
    else if (letter == 'h')
        put_text(t, "0-9A-Fa-f");
    else
        put_word(t);
    set_end(t);
    return 1;
}

static enum status escape(struct translation *t)
{
    if (++t->at == t->end)
        FAIL(STATUS_INVALID, "a backslash at the end");
    char letter = *t->at++;
    if (letter == 'p' || letter == 'P')
        return property(t, letter == 'P');
    if (letter == 'x' || letter == 'u')
        return hexadecimal(t, letter);
    if (letter_class(t, letter))
        return STATUS_OK;
    if (!t->in_class && (letter == 'b' || letter == 'B')) {
        word_boundary(t, letter == 'B');
        return STATUS_OK;
    }
    if (letter == 'v') {
        put_text(t, "\\x{b}");
        return STATUS_OK;
    }
    if (isalnum((unsigned char)letter) && !strchr(t->in_class ? "nrtfae" : "nrtfaeAzG", letter))
        FAIL(STATUS_UNSUPPORTED, "\\%c%s", letter, t->in_class ? " in a class" : "");
    if ((unsigned char)letter < 0x80)
        put_text(t, "\\");
    put(t, &letter, 1);
    return STATUS_OK;
}

static enum status class_step(struct translation *t)
{
    if (*t->at == '\\')
        return escape(t);
    if (is_ahead(t, "[:"))
        FAIL(STATUS_UNSUPPORTED, "a class of the form [:name:]");
    if (*t->at == '[')
        FAIL(STATUS_UNSUPPORTED, "a class within a class");
    if (is_ahead(t, "&&"))
        FAIL(STATUS_UNSUPPORTED, "&& in a class");
    t->in_class = *t->at != ']';
    put(t, t->at++, 1);
    return STATUS_OK;
}

static enum status class_begin(struct translation *t)
{
    put(t, t->at++, 1);
    if (t->at < t->end && *t->at == '^')
        put(t, t->at++, 1);
    if (t->at < t->end && *t->at == ']')
        FAIL(STATUS_UNSUPPORTED, "] at the start of a class");
    t->in_class = 1;
    return STATUS_OK;
}

/* What follows "(?". */
static enum status group(struct translation *t)
{
    static const char *const same[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (is_ahead(t, same[i])) {
            put_text(t, same[i]);
            t->at += strlen(same[i]);
            return STATUS_OK;
        }
    t->at += 2;
    put_text(t, "(?");
    for (; t->at < t->end && *t->at != ':' && *t->at != ')'; t->at++) {
        if (!strchr("im-", *t->at))
            FAIL(STATUS_UNSUPPORTED, "(?%.*s", t->end - t->at > 8 ? 8 : (int)(t->end - t->at),
                 t->at);
        put_text(t, *t->at == 'm' ? "s" : *t->at == 'i' ? "i" : "-");
    }
    return STATUS_OK;
}

/* {n}, {n,}, {n,m}, or a brace that means itself. */
static enum status brace(struct translation *t)
{
    const char *c = t->at + 1;
    int n_digits = 0, n_commas = 0;
    for (; c < t->end && (isdigit((unsigned char)*c) || *c == ','); c++) {
        n_digits += *c != ',' && n_commas == 0;
        n_commas += *c == ',';
    }
    if (c == t->end || *c != '}' || n_commas > 1 || n_digits + n_commas == 0) {
        put_text(t, "\\{");
        t->at++;
        return STATUS_OK;
    }
    if (n_digits == 0)
        FAIL(STATUS_UNSUPPORTED, "a repetition {,n}");
    if (c + 1 < t->end && (c[1] == '+' || (c[1] == '?' && n_commas == 0)))
        FAIL(STATUS_UNSUPPORTED, "a repetition {n}%c", c[1]);
    put(t, t->at, (size_t)(c + 1 - t->at));
    t->at = c + 1;
    return STATUS_OK;
}

static enum status step(struct translation *t)
{
    if (t->in_class)
        return class_step(t);
    if (*t->at == '\\')
        return escape(t);
    if (*t->at == '[')
        return class_begin(t);
    if (*t->at == '{')
        return brace(t);
    if (is_ahead(t, "(?"))
        return group(t);
    if (is_ahead(t, "(*"))
        FAIL(STATUS_UNSUPPORTED, "(*");
    put(t, t->at++, 1);
    return STATUS_OK;
}

enum status split_pattern_translate(char **out, size_t *out_length, const char *pattern,
                                    size_t length)
{
    struct translation t = {.at = pattern, .end = pattern + length};
    enum status status = STATUS_OK;
    put_text(&t, "");
    while (t.at < t.end && !t.failed && status == STATUS_OK)
        status = step(&t);
    if (status != STATUS_OK || t.failed) {
        free(t.out);
        if (t.failed)
            FAIL(STATUS_NO_MEMORY, "no memory for a pattern");
        return status;
    }
    *out = t.out;
    *out_length = t.used;
    return STATUS_OK;
}

enum status split_pattern_quote(char **out, size_t *out_length, const char *text, size_t length)
{
    char *quoted = malloc(2 * length + 1);
    size_t used = 0;
    if (!quoted)
        FAIL(STATUS_NO_MEMORY, "no memory for a pattern");
    for (size_t i = 0; i < length; i++) {
        if (ispunct((unsigned char)text[i]) && (unsigned char)text[i] < 0x80)
            quoted[used++] = '\\';
        quoted[used++] = text[i];
    }
    quoted[used] = '\0';
    *out = quoted;
    *out_length = used;
    return STATUS_OK;
}
