/* split_pattern.h - from the regular expressions of tokenizer.json to PCRE2's.
 *
 * The package `tokenizers` compiles them with Oniguruma.  The two agree on most of what tokenizers
 * use; here is what they do not agree on (measured over all code points, 2026-11-23):
 *   \s          PCRE2 adds U+180E;
 *   \w \b       letters, marks, decimal and letter numbers, connectors; PCRE2: letters, numbers, _;
 *   \p{Han}     Oniguruma asks for the script, PCRE2 for the script extensions (288 more for Han);
 *   \p{L} ...   Oniguruma has Unicode 16, PCRE2 10.42 Unicode 14: widened by unicode_class;
 *   ^ $         always at each line;
 *   \h \v       hexadecimal digit, vertical tab; PCRE2: kinds of white space;
 *   (?m)        the dot matches newlines, PCRE2's (?s).
 * What has another meaning and is not known from any tokenizer is refused: nested classes and &&,
 * {n,m}+, {n}?, {,n}, (?x), back references, \K and the like. */
#ifndef RUNTIME_SPLIT_PATTERN_H
#define RUNTIME_SPLIT_PATTERN_H

#include "kernels/core/status.h"
#include <stddef.h>

/* The pattern for PCRE2 with UTF, UCP and MULTILINE.  *out is NUL-terminated.
 * Owner: caller; free().
 * Errors: STATUS_UNSUPPORTED (names the construct), STATUS_INVALID, STATUS_NO_MEMORY. */
enum status split_pattern_translate(char **out, size_t *out_length, const char *pattern,
                                    size_t length);

/* The same for a text that is to be found as it is. */
enum status split_pattern_quote(char **out, size_t *out_length, const char *text, size_t length);

#endif
