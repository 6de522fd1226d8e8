/* encode_lines.c - a driver for fuzz_compare.py: reads texts and writes their ids, or the way back.
 *
 * encode_lines DIRECTORY      each text is a line with its length in bytes, then the bytes; a line of
 *                             ids, separated by spaces, goes out
 * encode_lines DIRECTORY -d   each line is the number of ids, then the ids; the text goes out as above */
#include "runtime/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static int encode(const struct tokenizer *tokenizer, size_t length)
{
    struct token_list ids = {0};
    char *text = malloc(length + 1);
    int ok = text && getchar() == '\n' && fread(text, 1, length, stdin) == length &&
             tokenizer_encode(tokenizer, text, length, &ids) == STATUS_OK;
    for (int64_t i = 0; ok && i < ids.count; i++)
        printf("%s%d", i > 0 ? " " : "", (int)ids.id[i]);
    putchar('\n');
    token_list_free(&ids);
    free(text);
    return ok;
}

static int decode(const struct tokenizer *tokenizer, size_t count)
{
    struct token_list ids = {0};
    char *text = NULL;
    size_t length = 0;
    int id, ok = 1;
    for (size_t i = 0; ok && i < count; i++)
        ok = scanf("%d", &id) == 1 && token_list_push(&ids, id) == STATUS_OK;
    ok = ok && tokenizer_decode(tokenizer, ids.id, ids.count, 1, &text, &length) == STATUS_OK;
    if (ok) {
        printf("%zu\n", length);
        fwrite(text, 1, length, stdout);
    }
    free(text);
    token_list_free(&ids);
    return ok;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    size_t length;
    int ok = argc >= 2 && tokenizer_open(&tokenizer, argv[1]) == STATUS_OK && tokenizer;
    while (ok && scanf("%zu", &length) == 1)
        ok = argc > 2 ? decode(tokenizer, length) : encode(tokenizer, length);
    if (!ok)
        fprintf(stderr, "encode_lines: %s\n", argc >= 2 ? status_text() : "DIRECTORY expected");
    tokenizer_close(tokenizer);
    return !ok;
}
