/* vocabulary.h - the texts and bytes of all ids, and the way back.
 *
 * A byte-level vocabulary writes each byte as one printable character; `bytes` is what an entry
 * really stands for.  An entry with a character outside that alphabet stands for its own text.
 * Source: openai/gpt-2, encoder.py, bytes_to_unicode. */
#ifndef RUNTIME_VOCABULARY_H
#define RUNTIME_VOCABULARY_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

enum { VOCABULARY_MAX_SIZE = 1 << 22 };

/* From text to id: open addressing; the keys belong to someone else. */
struct text_slot {
    const char *text; /* NULL: free */
    uint32_t length;
    int32_t id;
};
struct text_table {
    struct text_slot *slot;
    size_t mask;
};

enum status text_table_open(struct text_table *table, size_t count);
void text_table_close(struct text_table *table);
/* The id of the text, -1 when there is none. */
int32_t text_table_find(const struct text_table *table, const char *text, size_t length);
/* 0 when the text is there already. */
int text_table_add(struct text_table *table, const char *text, size_t length, int32_t id);

struct vocabulary_entry {
    const char *text, *bytes; /* NULL text: no such id, a hole in the file's numbering */
    uint32_t text_length, n_bytes;
    unsigned char is_added, is_special, is_byte_level;
};

struct vocabulary {
    struct vocabulary_entry *entry;            /* [size] */
    int size, n_model;                         /* ids 0 .. size - 1; entries of the model itself */
    struct text_table id_of_text, id_of_bytes; /* of the model's byte-level entries */
    char *storage;
    size_t storage_used, storage_bytes;
};

/* Reserves room for ids below `size` in `count` entries whose texts have `text_bytes` bytes in all.
 * Owner: caller; end with vocabulary_close. */
enum status vocabulary_open(struct vocabulary *vocabulary, int size, size_t count,
                            size_t text_bytes);
void vocabulary_close(struct vocabulary *vocabulary);

/* Adds an entry of the model.
 * Errors: STATUS_INVALID when the id or the text is there already. */
enum status vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t length,
                           int32_t id);

/* Adds an entry of the model whose text is its bytes, whatever they are.
 * Errors: STATUS_INVALID when the id or the bytes are there already. */
enum status vocabulary_add_bytes(struct vocabulary *vocabulary, const char *bytes, size_t length,
                                 int32_t id);

/* Adds or marks an added token, which stands for its own text.  The id is that of the model's entry
 * of the same text or a free one.
 * Errors: STATUS_INVALID when the text or the id belongs to another. */
enum status vocabulary_add_token(struct vocabulary *vocabulary, const char *text, size_t length,
                                 int32_t id, int is_special);

/* The byte that code point `code` stands for in the byte-level alphabet, -1 when it is not in it. */
int byte_of_code(uint32_t code);

#endif
