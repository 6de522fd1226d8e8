#include "runtime/safetensors_header.h"

#include "runtime/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_FILE_DTYPES = DTYPE_I4 }; /* the rest are ours */

static const char *const dtype_names[N_FILE_DTYPES] = {
    [DTYPE_F32] = "F32",         [DTYPE_F16] = "F16",         [DTYPE_BF16] = "BF16",
    [DTYPE_F8_E4M3] = "F8_E4M3", [DTYPE_F8_E8M0] = "F8_E8M0", [DTYPE_I32] = "I32",
    [DTYPE_I64] = "I64",         [DTYPE_U8] = "U8",           [DTYPE_I8] = "I8",
};

const char *safetensors_dtype_name(enum dtype dtype)
{
    return dtype_names[dtype];
}

static enum status check_metadata(json_t *metadata, const char *name)
{
    const char *key;
    json_t *value;
    char text[64];
    if (!json_is_object(metadata))
        FAIL(STATUS_INVALID, "%s: __metadata__ is %s, expected an object", name,
             json_describe(text, metadata));
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            FAIL(STATUS_INVALID, "%s: %s in __metadata__ is %s, expected a string", name, key,
                 json_describe(text, value));
    }
    return STATUS_OK;
}

static enum status parse_shape(struct safetensors_entry *entry, const struct json_place *place)
{
    const json_t *shape = NULL;
    TRY(json_get_array(&shape, place, "shape"));
    if (shape == NULL)
        FAIL(STATUS_INVALID, "%s: no shape", place->name);
    if (json_array_size(shape) > SAFETENSORS_MAX_DIMS)
        FAIL(STATUS_INVALID, "%s: %zu dimensions, expected at most %d", place->name,
             json_array_size(shape), SAFETENSORS_MAX_DIMS);
    entry->ndim = (int)json_array_size(shape);

    /* The product without zeros must fit too, so that a 0 cannot hide absurd sizes. */
    int64_t elements = 1;
    int is_empty = 0;
    for (int i = 0; i < entry->ndim; i++) {
        const json_t *item = json_array_get(shape, (size_t)i);
        char text[64];
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            FAIL(STATUS_INVALID, "%s: dimension %d of the shape is %s, expected an integer >= 0",
                 place->name, i, json_describe(text, item));
        entry->dim[i] = json_integer_value(item);
        is_empty |= entry->dim[i] == 0;
        if (entry->dim[i] != 0 && __builtin_mul_overflow(elements, entry->dim[i], &elements))
            FAIL(STATUS_INVALID, "%s: more elements than 63 bits count", place->name);
    }
    if (__builtin_mul_overflow(elements, (int64_t)dtype_bytes(entry->dtype), &entry->bytes))
        FAIL(STATUS_INVALID, "%s: more bytes than 63 bits count", place->name);
    if (is_empty)
        entry->bytes = 0;
    return STATUS_OK;
}

static enum status parse_offsets(struct safetensors_entry *entry, const struct json_place *place,
                                 int64_t data_bytes)
{
    const json_t *offsets = NULL;
    int64_t range[2];
    TRY(json_get_array(&offsets, place, "data_offsets"));
    if (offsets == NULL || json_array_size(offsets) != 2)
        FAIL(STATUS_INVALID, "%s: %zu data_offsets, expected 2", place->name,
             json_array_size(offsets));
    for (int i = 0; i < 2; i++) {
        const json_t *item = json_array_get(offsets, (size_t)i);
        char text[64];
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            FAIL(STATUS_INVALID, "%s: data_offsets[%d] is %s, expected an integer >= 0",
                 place->name, i, json_describe(text, item));
        range[i] = json_integer_value(item);
    }
    if (range[0] > range[1])
        FAIL(STATUS_INVALID, "%s: data_offsets begin at %lld, behind their end %lld", place->name,
             (long long)range[0], (long long)range[1]);
    if (range[1] > data_bytes)
        FAIL(STATUS_INVALID,
             "%s: data_offsets end at %lld, but the file has %lld bytes of data (cut short?)",
             place->name, (long long)range[1], (long long)data_bytes);
    if (range[1] - range[0] != entry->bytes)
        FAIL(STATUS_INVALID, "%s: data_offsets hold %lld bytes, but shape and dtype need %lld",
             place->name, (long long)(range[1] - range[0]), (long long)entry->bytes);
    /* Within the data: older writers do not pad the header, and we read, never map. */
    if (range[0] % (int64_t)dtype_bytes(entry->dtype) != 0)
        FAIL(STATUS_INVALID, "%s: data_offsets begin at %lld, expected a multiple of %zu (%s)",
             place->name, (long long)range[0], dtype_bytes(entry->dtype),
             dtype_names[entry->dtype]);
    entry->offset = range[0];
    return STATUS_OK;
}

static enum status parse_entry(struct safetensors_entry *entry, const char *key, const json_t *item,
                               int64_t data_bytes, const char *name)
{
    char place_name[1024];
    char text[64];
    int dtype = 0;
    snprintf(place_name, sizeof place_name, "%.700s: %.300s", name, key);
    struct json_place place = {item, place_name};
    if (!json_is_object(item))
        FAIL(STATUS_INVALID, "%s is %s, expected an object", place_name, json_describe(text, item));
    if (!json_has(&place, "dtype"))
        FAIL(STATUS_INVALID, "%s: no dtype", place_name);
    TRY(json_get_choice(&dtype, &place, "dtype", dtype_names, N_FILE_DTYPES));
    entry->dtype = (enum dtype)dtype;
    TRY(parse_shape(entry, &place));
    return parse_offsets(entry, &place, data_bytes);
}

static int by_offset(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) /* an empty tensor stands before the one that begins there */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors cover the data exactly: a gap could hide anything, an overlap means a wrong offset. */
static enum status check_cover(const struct safetensors_header *header, int64_t data_bytes,
                               const char *name)
{
    int64_t covered = 0;
    for (int i = 0; i < header->n_entries; i++) {
        const struct safetensors_entry *entry = &header->entries[i];
        if (entry->offset < covered)
            FAIL(STATUS_INVALID, "%s: %s begins at %lld, inside %s, which ends at %lld", name,
                 entry->name, (long long)entry->offset, header->entries[i - 1].name,
                 (long long)covered);
        if (entry->offset > covered)
            FAIL(STATUS_INVALID, "%s: %s begins at %lld, expected %lld (no holes)", name,
                 entry->name, (long long)entry->offset, (long long)covered);
        covered = entry->offset + entry->bytes;
    }
    if (covered != data_bytes)
        FAIL(STATUS_INVALID, "%s: %lld bytes of data, but the tensors end at %lld", name,
             (long long)data_bytes, (long long)covered);
    return STATUS_OK;
}

static enum status parse_entries(struct safetensors_header *header, json_t *root, size_t length,
                                 int64_t data_bytes, const char *name)
{
    const char *key;
    json_t *item;
    header->entries = calloc(json_object_size(root) + 1, sizeof *header->entries);
    header->names = malloc(length); /* a name with its NUL is no longer than it was in quotes */
    if (header->entries == NULL || header->names == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu tensors", name, json_object_size(root));
    char *next_name = header->names;
    json_object_foreach(root, key, item)
    {
        if (strcmp(key, "__metadata__") == 0) {
            TRY(check_metadata(item, name));
            continue;
        }
        struct safetensors_entry *entry = &header->entries[header->n_entries];
        TRY(parse_entry(entry, key, item, data_bytes, name));
        entry->file = header->file;
        entry->name = strcpy(next_name, key);
        next_name += strlen(key) + 1;
        header->n_entries++;
    }
    qsort(header->entries, (size_t)header->n_entries, sizeof *header->entries, by_offset);
    return check_cover(header, data_bytes, name);
}

enum status safetensors_header_parse(struct safetensors_header *header, const char *json,
                                     size_t length, int64_t data_bytes, int file, const char *name)
{
    json_t *root = NULL;
    memset(header, 0, sizeof *header);
    header->file = file;
    if (length == 0 || json[0] != '{')
        FAIL(STATUS_INVALID, "%s: the header does not begin with '{' (not a safetensors file?)",
             name);
    TRY(json_parse(&root, json, length, name));
    enum status status = parse_entries(header, root, length, data_bytes, name);
    json_decref(root);
    if (status != STATUS_OK)
        safetensors_header_free(header);
    return status;
}

void safetensors_header_free(struct safetensors_header *header)
{
    free(header->entries);
    free(header->names);
    memset(header, 0, sizeof *header);
}
