/* unicode_class.h - classes of characters as the package `tokenizers` knows them.
 *
 * PCRE2 10.42 has Unicode 14; the package's regex engine (Oniguruma) has a later one.  For each class
 * the tables list what the package has and PCRE2 lacks, so that a pattern can be widened.  Made by
 * tests/tokenizer/make_unicode_class.py, which asks both. */
#ifndef RUNTIME_UNICODE_CLASS_H
#define RUNTIME_UNICODE_CLASS_H

#include <stddef.h>
#include <stdint.h>

struct code_range {
    uint32_t first, last;
};

/* Ranges that PCRE2's \p{name} lacks. */
struct unicode_class {
    const char *name; /* "Lu", "sc:Han", ... */
    const struct code_range *range;
    size_t count;
};
extern const struct unicode_class unicode_classes[];
extern const size_t n_unicode_classes;

/* Every character of \w, and of the class Numeric (categories Nd, Nl, No). */
extern const struct code_range unicode_word[], unicode_numeric[];
extern const size_t n_unicode_word, n_unicode_numeric;

int is_in_ranges(uint32_t code, const struct code_range *range, size_t count);
int is_white_space(uint32_t code);
int is_word(uint32_t code);
int is_numeric(uint32_t code);

#endif
