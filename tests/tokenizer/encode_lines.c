/* encode_lines.c - a driver for fuzz_compare.py: reads texts, writes their ids.
 *
 * Usage: encode_lines DIRECTORY < texts.  Each text is a line with its length in bytes, then the bytes.
 * For each text one line goes out: the ids, separated by commas. */
#include "runtime/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static int encode(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    struct token_list ids = {0};
    if (tokenizer_encode(tokenizer, text, length, &ids) != STATUS_OK)
        return 0;
    for (int64_t i = 0; i < ids.count; i++)
        printf("%s%d", i > 0 ? "," : "", (int)ids.id[i]);
    putchar('\n');
    token_list_free(&ids);
    return 1;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    unsigned long length;
    if (argc != 2 || tokenizer_open(&tokenizer, argv[1]) != STATUS_OK || !tokenizer) {
        fprintf(stderr, "encode_lines: %s\n", argc == 2 ? status_text() : "DIRECTORY expected");
        return 1;
    }
    while (scanf("%lu", &length) == 1 && getchar() == '\n') {
        char *text = malloc(length + 1);
        if (!text || fread(text, 1, length, stdin) != length || !encode(tokenizer, text, length)) {
            fprintf(stderr, "encode_lines: %s\n", status_text());
            return 1;
        }
        free(text);
    }
    tokenizer_close(tokenizer);
    return 0;
}
