/* json.h - reading JSON that comes from outside.
 *
 * Parsing refuses doubled keys, bad UTF-8 and absurd depth.  The getters check
 * type and range and say what stands where: "config.json: hidden_size is
 * \"big\", expected an integer from 1 to 262144".
 */
#ifndef RUNTIME_JSON_H
#define RUNTIME_JSON_H

#include "kernels/core/status.h"
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Larger files are refused before they are read. */
enum { JSON_MAX_BYTES = 256 << 20 };

/* Parses text[length]; `name` stands in messages.  Owner: caller; json_decref.
 * Errors: STATUS_INVALID (text: name, line, column). */
enum status json_parse(json_t **root, const char *text, size_t length, const char *name);

/* The same from a file.  Errors: STATUS_IO, STATUS_INVALID. */
enum status json_read(json_t **root, const char *path);

/* All bytes of a file, with a NUL behind them that is not counted.  Owner: caller; free().
 * Errors: STATUS_IO, STATUS_INVALID (more than JSON_MAX_BYTES). */
enum status json_read_text(char **text, size_t *length, const char *path);

/* An object and how messages call it: "DIR/config.json" or "DIR/config.json: rope_scaling". */
struct json_place {
    const json_t *object;
    const char *name;
};

/* `value` in at most 64 bytes: "abc", 3.5, null, an array of 3, an object. */
const char *json_describe(char text[64], const json_t *value);

/* 1 when `key` is there and not null. */
int json_has(const struct json_place *place, const char *key);

/* Fails with STATUS_INVALID unless `key` is there; null counts as there. */
enum status json_require(const struct json_place *place, const char *key);

/* Getters leave the output alone when the key is absent or null, so defaults are set before.
 * Errors: STATUS_INVALID. */
enum status json_get_int(int64_t *value, const struct json_place *place, const char *key,
                         int64_t least, int64_t most);
enum status json_get_number(double *value, const struct json_place *place, const char *key,
                            double least, double most); /* integers are accepted */
enum status json_get_bool(int *value, const struct json_place *place, const char *key);
enum status json_get_string(const char **value, const struct json_place *place, const char *key);
enum status json_get_array(const json_t **value, const struct json_place *place, const char *key);
enum status json_get_object(const json_t **value, const struct json_place *place, const char *key);

/* Sets *index to the name in names[n] that the string equals. */
enum status json_get_choice(int *index, const struct json_place *place, const char *key,
                            const char *const *names, int n);

/* As json_get_int, and the key must be there and not null. */
enum status json_need_int(int64_t *value, const struct json_place *place, const char *key,
                          int64_t least, int64_t most);

#endif
