#include "runtime/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

/* Patterns of tokenizers need a few steps a character; these bounds stop only runaways. */
enum {
    MATCH_LIMIT = 100 * 1000 * 1000,
    HEAP_LIMIT_KIB = 512 * 1024,
    JIT_STACK_BYTES = 32 * 1024,
    JIT_STACK_MAX_BYTES = 8 * 1024 * 1024
};

struct split_regex {
    pcre2_code *code;
    int has_jit;
};

struct split_memory {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

enum status split_regex_open(struct split_regex **regex, const char *pattern, size_t length)
{
    int error = 0;
    PCRE2_SIZE offset = 0;
    struct split_regex *opened = calloc(1, sizeof *opened);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!opened || !context) {
        free(opened);
        pcre2_compile_context_free(context);
        FAIL(STATUS_NO_MEMORY, "no memory for a pattern");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    opened->code = pcre2_compile((PCRE2_SPTR)pattern, length,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                 &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!opened->code) {
        char text[256];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        free(opened);
        FAIL(STATUS_INVALID, "PCRE2: %s at byte %zu", text, (size_t)offset);
    }
    opened->has_jit = pcre2_jit_compile(opened->code, PCRE2_JIT_COMPLETE) == 0;
    *regex = opened;
    return STATUS_OK;
}

void split_regex_close(struct split_regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    free(regex);
}

enum status split_memory_open(struct split_memory **memory)
{
    struct split_memory *opened = calloc(1, sizeof *opened);
    if (!opened)
        FAIL(STATUS_NO_MEMORY, "no memory to match patterns");
    opened->data = pcre2_match_data_create(1, NULL);
    opened->context = pcre2_match_context_create(NULL);
    opened->stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_MAX_BYTES, NULL);
    if (!opened->data || !opened->context) {
        split_memory_close(opened);
        FAIL(STATUS_NO_MEMORY, "no memory to match patterns");
    }
    pcre2_set_match_limit(opened->context, MATCH_LIMIT);
    pcre2_set_heap_limit(opened->context, HEAP_LIMIT_KIB);
    if (opened->stack)
        pcre2_jit_stack_assign(opened->context, NULL, opened->stack);
    *memory = opened;
    return STATUS_OK;
}

void split_memory_close(struct split_memory *memory)
{
    if (!memory)
        return;
    pcre2_match_data_free(memory->data);
    pcre2_match_context_free(memory->context);
    pcre2_jit_stack_free(memory->stack);
    free(memory);
}

enum status split_regex_find(const struct split_regex *regex, struct split_memory *memory,
                             int *found, size_t *begin, size_t *end, const char *text,
                             size_t length, size_t from)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (regex->has_jit) /* the text was validated: no checks */
        rc = pcre2_jit_match(regex->code, subject, length, from, 0, memory->data, memory->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(regex->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         memory->data, memory->context);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        char message[256];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        FAIL(STATUS_INVALID, "cutting a text of %zu bytes into words: PCRE2: %s", length, message);
    }
    *found = rc >= 0;
    if (*found) {
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(memory->data);
        *begin = span[0];
        *end = span[1];
    }
    return STATUS_OK;
}
