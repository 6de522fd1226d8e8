/* report.h - results on stdout: text as it is, or one JSON object. */
#ifndef LAUNCHER_REPORT_H
#define LAUNCHER_REPORT_H

#include "kernels/core/status.h"
#include "runtime/engine.h"
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Closed descriptors 0, 1 and 2 would go to the next files opened; they become ones that fail. */
void report_guard_descriptors(void);

/* Writes all of it to stdout, unbuffered.  Ends the process quietly, as by SIGPIPE, when the reader
 * has gone.
 * Errors: STATUS_IO (closed, full). */
enum status report_bytes(const char *data, size_t length);
enum status report_line(const char *text);

/* Writes what `print` writes to `out`, all at once.
 * Errors: as report_bytes; STATUS_NO_MEMORY. */
enum status report_printed(void (*print)(FILE *out, const void *context), const void *context);

/* Writes `root` and a newline; takes the reference. */
enum status report_json(json_t *root);

/* A string from bytes that may be no valid UTF-8 (U+FFFD then); null for NULL.  Owner: caller. */
json_t *report_text(const char *text, size_t length);

/* null where the value is not finite.  Owner: caller. */
json_t *report_real(double value);

/* As --kv-placement has it. */
const char *report_placement(enum kv_placement placement);

/* Ids as an array.  Owner: caller. */
json_t *report_ids(const int32_t *ids, int64_t count);

/* "1,2,3" and a newline on stdout. */
enum status report_id_line(const int32_t *ids, int64_t count);

/* "671.03 billion", "31.4 GB": for people.  Returns `text`. */
const char *report_count(char *text, size_t size, int64_t count);
const char *report_size(char *text, size_t size, int64_t bytes);

#endif
