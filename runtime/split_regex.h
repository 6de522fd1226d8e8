/* split_regex.h - one compiled pattern, by PCRE2: machine code where the system allows it, else its
 * interpreter; with limits, since prompts come from strangers. */
#ifndef RUNTIME_SPLIT_REGEX_H
#define RUNTIME_SPLIT_REGEX_H

#include "kernels/core/status.h"
#include <stddef.h>

struct split_regex;

/* Compiles a pattern that is in PCRE2's words already (split_pattern.h).
 * Owner: caller; end with split_regex_close.
 * Errors: STATUS_INVALID with PCRE2's text. */
enum status split_regex_open(struct split_regex **regex, const char *pattern, size_t length);
void split_regex_close(struct split_regex *regex);

/* Memory of one encoding, for all patterns.  Owner: caller; end with split_memory_close. */
struct split_memory;
enum status split_memory_open(struct split_memory **memory);
void split_memory_close(struct split_memory *memory);

/* The first match in text[length] (valid UTF-8) at `from` or after; *found is 0 when there is none.
 * Errors: STATUS_INVALID when a limit is exceeded. */
enum status split_regex_find(const struct split_regex *regex, struct split_memory *memory,
                             int *found, size_t *begin, size_t *end, const char *text,
                             size_t length, size_t from);

#endif
