/* safetensors_header.h - the JSON header of one safetensors file, checked. */
#ifndef RUNTIME_SAFETENSORS_HEADER_H
#define RUNTIME_SAFETENSORS_HEADER_H

#include "runtime/safetensors.h"

enum { SAFETENSORS_MAX_HEADER = 100 * 1000 * 1000 }; /* as in the reference implementation */

struct safetensors_header {
    struct safetensors_entry *entries; /* in order of their data; `offset` counts from the data */
    int n_entries;
    char *names;
    int file;
};

/* Parses json[length]; the data behind it has `data_bytes` bytes; `name` stands in messages.  `file`
 * goes to the entries.
 * Owner: caller; end with safetensors_header_free.
 * Errors: STATUS_INVALID (text: name, tensor, found, expected). */
enum status safetensors_header_parse(struct safetensors_header *header, const char *json,
                                     size_t length, int64_t data_bytes, int file, const char *name);
void safetensors_header_free(struct safetensors_header *header);

/* "BF16", ... as the format calls a dtype. */
const char *safetensors_dtype_name(enum dtype dtype);

#endif
