/* tokenizer_json.h - taking values of a certain type out of a JSON object.
 *
 * `where` is the place of the object in the file, as "model" or "pre_tokenizer.pretokenizers[2]"; it
 * stands in the messages.  runtime/json.h does the same for files whose keys are mostly optional, with
 * one place for all; here places are nested and made while walking. */
#ifndef RUNTIME_TOKENIZER_JSON_H
#define RUNTIME_TOKENIZER_JSON_H

#include "kernels/core/status.h"
#include <jansson.h>
#include <stdint.h>

enum { JSON_PLACE_MAX = 256 };

/* "an object", "an array", "a string" ... */
const char *json_kind(const json_t *value);

/* Whether there is something at `path`; yes when one cannot tell, so that opening says why. */
int json_file_exists(const char *path);

/* The object that a file holds, and the hash of its text; *root is NULL when there is no such file.
 * Owner: caller; json_decref.
 * Errors: STATUS_IO, STATUS_INVALID; the text begins with the path. */
enum status json_take_file(json_t **root, uint64_t *hash, const char *path);

/* Errors: STATUS_INVALID when `object` is not an object, when the key is absent, or its value of
 * another type. */
enum status json_take_object(json_t **value, const char *where, const json_t *object,
                             const char *key);
enum status json_take_array(json_t **value, const char *where, const json_t *object,
                            const char *key);
enum status json_take_string(const char **value, size_t *length, const char *where,
                             const json_t *object, const char *key);
/* Absent and null give `otherwise`. */
enum status json_take_flag(int *value, const char *where, const json_t *object, const char *key,
                           int otherwise);
/* Absent and null give NULL. */
enum status json_take_optional_string(const char **value, size_t *length, const char *where,
                                      const json_t *object, const char *key);
/* A whole number from 0 to `limit` - 1. */
enum status json_to_index(int *value, const char *where, const json_t *number, int limit);

#endif
