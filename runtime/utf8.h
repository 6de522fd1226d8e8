/* utf8.h - reading UTF-8 that may be broken, with Python's rule of replacement.
 *
 * A longest prefix of a character that cannot be continued ("maximal subpart") becomes one U+FFFD, as
 * Python's bytes.decode('utf-8', errors='replace') does.
 * Source: The Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts". */
#ifndef RUNTIME_UTF8_H
#define RUNTIME_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The character at the start of text[length], length > 0.  Returns its bytes, 1 to 4, and *code; 0
 * when all of the text is the beginning of one; minus the bytes of the maximal subpart that is to be
 * replaced otherwise. */
int utf8_next(uint32_t *code, const char *text, size_t length);

/* Whether all of text[length] is valid. */
int utf8_is_valid(const char *text, size_t length);

/* Copies text[length] with every wrong part replaced; `out` has room for 3 * length bytes.
 * Returns how many were written. */
size_t utf8_replace(char *out, const char *text, size_t length);

/* Writes code point `code`, returns its bytes. */
int utf8_write(char *out, uint32_t code);

#endif
