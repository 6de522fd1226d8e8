/* text_input.h - whole files, stdin and lists of ids, as the user gives them. */
#ifndef LAUNCHER_TEXT_INPUT_H
#define LAUNCHER_TEXT_INPUT_H

#include "runtime/tokenizer.h"

/* All bytes of the file, or of stdin for "-"; a NUL stands behind them.
 * Owner: caller; free().  Errors: STATUS_IO (text: path). */
enum status text_input_read(char **text, size_t *length, const char *path);

/* Appends the ids of "1,2, 3"; spaces and newlines around numbers are allowed; an empty text has none.
 * `where` stands in front of messages.  Errors: STATUS_USAGE (text: position and what stands there). */
enum status text_input_ids(struct token_list *ids, const char *text, size_t length,
                           const char *where);

#endif
