#include "runtime/vocabulary.h"
#include "runtime/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum status text_table_open(struct text_table *table, size_t count)
{
    size_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    table->slot = calloc(slots, sizeof *table->slot);
    if (!table->slot)
        FAIL(STATUS_NO_MEMORY, "no memory for a table of %zu texts", count);
    table->mask = slots - 1;
    return STATUS_OK;
}

void text_table_close(struct text_table *table)
{
    free(table->slot);
    *table = (struct text_table){0};
}

/* The slot that holds the text, or the free one where it would go. */
static struct text_slot *text_table_slot(const struct text_table *table, const char *text,
                                         size_t length)
{
    size_t at = (size_t)XXH3_64bits(text, length) & table->mask;
    for (;; at = (at + 1) & table->mask) {
        struct text_slot *slot = &table->slot[at];
        if (!slot->text || (slot->length == length && memcmp(slot->text, text, length) == 0))
            return slot;
    }
}

int32_t text_table_find(const struct text_table *table, const char *text, size_t length)
{
    const struct text_slot *slot = text_table_slot(table, text, length);
    return slot->text ? slot->id : -1;
}

int text_table_add(struct text_table *table, const char *text, size_t length, int32_t id)
{
    struct text_slot *slot = text_table_slot(table, text, length);
    if (slot->text)
        return 0;
    *slot = (struct text_slot){.text = text, .length = (uint32_t)length, .id = id};
    return 1;
}

int byte_of_code(uint32_t code)
{
    /* Printable bytes stand for themselves; the others follow from U+0100 in order. */
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)code - 0x100;
    if (code >= 0x121 && code <= 0x142)
        return (int)code - 0x121 + 0x7F;
    return code == 0x143 ? 0xAD : -1;
}

enum status vocabulary_open(struct vocabulary *vocabulary, int size, size_t count,
                            size_t text_bytes)
{
    *vocabulary = (struct vocabulary){.size = size, .storage_bytes = 2 * text_bytes + 2 * count};
    vocabulary->entry = calloc((size_t)size + 1, sizeof *vocabulary->entry);
    vocabulary->storage = malloc(vocabulary->storage_bytes + 1);
    if (!vocabulary->entry || !vocabulary->storage ||
        text_table_open(&vocabulary->id_of_text, count) != STATUS_OK ||
        text_table_open(&vocabulary->id_of_bytes, count) != STATUS_OK) {
        vocabulary_close(vocabulary);
        FAIL(STATUS_NO_MEMORY, "no memory for a vocabulary of %d ids", size);
    }
    return STATUS_OK;
}

void vocabulary_close(struct vocabulary *vocabulary)
{
    text_table_close(&vocabulary->id_of_text);
    text_table_close(&vocabulary->id_of_bytes);
    free(vocabulary->entry);
    free(vocabulary->storage);
    *vocabulary = (struct vocabulary){0};
}

/* Translates text[length] to the bytes it stands for; 0 when a character is not in the alphabet. */
static int translate(char *bytes, uint32_t *n_bytes, const char *text, size_t length)
{
    uint32_t written = 0, code;
    for (size_t at = 0; at < length;) {
        int used = utf8_next(&code, text + at, length - at);
        int byte = used > 0 ? byte_of_code(code) : -1;
        if (byte < 0)
            return 0;
        bytes[written++] = (char)byte;
        at += (size_t)used;
    }
    *n_bytes = written;
    return 1;
}

/* Copies the text, NUL-terminated, into the storage. */
static const char *keep(struct vocabulary *vocabulary, const char *text, size_t length)
{
    char *copy = vocabulary->storage + vocabulary->storage_used;
    memcpy(copy, text, length);
    copy[length] = '\0';
    vocabulary->storage_used += length + 1;
    return copy;
}

enum status vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t length,
                           int32_t id)
{
    struct vocabulary_entry *entry = &vocabulary->entry[id];
    if (entry->text)
        FAIL(STATUS_INVALID, "id %d is given to both \"%.60s\" and \"%.60s\"", id, entry->text,
             text);
    entry->text = keep(vocabulary, text, length);
    entry->text_length = (uint32_t)length;
    char *bytes = vocabulary->storage + vocabulary->storage_used;
    if (length > 0 && translate(bytes, &entry->n_bytes, text, length)) {
        vocabulary->storage_used += entry->n_bytes + 1;
        entry->bytes = bytes;
        entry->is_byte_level = 1;
        text_table_add(&vocabulary->id_of_bytes, bytes, entry->n_bytes, id);
    } else {
        entry->bytes = entry->text;
        entry->n_bytes = entry->text_length;
    }
    if (!text_table_add(&vocabulary->id_of_text, entry->text, length, id))
        FAIL(STATUS_INVALID, "\"%.60s\" is there twice", text);
    vocabulary->n_model++;
    return STATUS_OK;
}

enum status vocabulary_add_bytes(struct vocabulary *vocabulary, const char *bytes, size_t length,
                                 int32_t id)
{
    struct vocabulary_entry *entry = &vocabulary->entry[id];
    int32_t other = text_table_find(&vocabulary->id_of_bytes, bytes, length);
    if (entry->text)
        FAIL(STATUS_INVALID, "%d is given to two tokens", (int)id);
    if (other >= 0)
        FAIL(STATUS_INVALID, "the bytes of %d are those of %d too", (int)id, (int)other);
    entry->text = entry->bytes = keep(vocabulary, bytes, length);
    entry->text_length = entry->n_bytes = (uint32_t)length;
    entry->is_byte_level = 1;
    text_table_add(&vocabulary->id_of_bytes, entry->bytes, length, id);
    text_table_add(&vocabulary->id_of_text, entry->text, length, id);
    vocabulary->n_model++;
    return STATUS_OK;
}

enum status vocabulary_add_token(struct vocabulary *vocabulary, const char *text, size_t length,
                                 int32_t id, int is_special)
{
    struct vocabulary_entry *entry = &vocabulary->entry[id];
    if (entry->is_added)
        FAIL(STATUS_INVALID, "\"%.60s\" is there twice", text);
    if (!entry->text) {
        entry->text = keep(vocabulary, text, length);
        entry->text_length = (uint32_t)length;
        if (!text_table_add(&vocabulary->id_of_text, entry->text, length, id))
            FAIL(STATUS_INVALID, "\"%.60s\" has the id %d already", text,
                 (int)text_table_find(&vocabulary->id_of_text, text, length));
    } else if (entry->text_length != length || memcmp(entry->text, text, length) != 0) {
        FAIL(STATUS_INVALID, "id %d of \"%.60s\" belongs to \"%.60s\" already", id, text,
             entry->text);
    }
    entry->bytes = entry->text;
    entry->n_bytes = entry->text_length;
    entry->is_added = 1;
    entry->is_special = is_special != 0;
    return STATUS_OK;
}
