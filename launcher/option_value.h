/* option_value.h - one value: from text to its field, and back to JSON. */
#ifndef LAUNCHER_OPTION_VALUE_H
#define LAUNCHER_OPTION_VALUE_H

#include "launcher/option_table.h"
#include <jansson.h>

/* Checks `text` and stores it in the field of `option`, unless a stronger source has set it already.
 * `where` names the place in messages: "--tp", "LATENTRANK_TP", "run.json: key \"tp\"".
 * Errors: STATUS_USAGE. */
enum status option_set(struct options *options, const struct option *option,
                       enum option_source source, const char *text, const char *where);

/* As above for a value of a configuration file; null means "not given". */
enum status option_set_json(struct options *options, const struct option *option,
                            const json_t *value, const char *where);

/* The value of the field; JSON null when it is not given.  Owner: caller. */
json_t *option_json(const struct options *options, const struct option *option);

/* Frees what the field owns. */
void option_clear(struct options *options, const struct option *option);

/* Sets every field to its default. */
enum status option_set_defaults(struct options *options);

#endif
