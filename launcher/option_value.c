#include "launcher/option_value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 80 }; /* characters of a wrong value that a message repeats */

static void *field_of(struct options *options, const struct option *option)
{
    return (char *)options + option->at;
}

static const void *const_field_of(const struct options *options, const struct option *option)
{
    return (const char *)options + option->at;
}

static void expected_choices(const struct option *option, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; option->choices[i] != NULL && used < size; i++) {
        const char *join = i == 0 ? "" : option->choices[i + 1] == NULL ? " or " : ", ";
        used += (size_t)snprintf(text + used, size - used, "%s%s", join, option->choices[i]);
    }
}

void option_expected(const struct option *option, char *text, size_t size)
{
    switch (option->type) {
    case OPTION_FLAG:
        snprintf(text, size, "true or false");
        break;
    case OPTION_INT:
        if (option->max >= INT32_MAX)
            snprintf(text, size, "an integer, at least %lld", (long long)option->min);
        else
            snprintf(text, size, "an integer from %lld to %lld", (long long)option->min,
                     (long long)option->max);
        break;
    case OPTION_REAL:
        snprintf(text, size,
                 option->low_is_open ? "a number above %g, at most %g" : "a number from %g to %g",
                 option->low, option->high);
        break;
    case OPTION_CHOICE:
        expected_choices(option, text, size);
        break;
    case OPTION_TEXT:
    case OPTION_LIST:
        snprintf(text, size, "%s", option->value_name);
        break;
    }
}

static enum status refuse(const struct option *option, const char *text, const char *where)
{
    char expected[256];
    if (option_value_is_later(option->name, text))
        FAIL(STATUS_USAGE, "%s %.*s: not in this version", where, SHOWN, text);
    option_expected(option, expected, sizeof expected);
    FAIL(STATUS_USAGE, "%s: found '%.*s', expected %s", where, SHOWN, text, expected);
}

static int parse_flag(const char *text, int *value)
{
    static const char *const words[] = {"false", "true", "off", "on", "0", "1"};
    for (int i = 0; i < 6; i++)
        if (strcmp(text, words[i]) == 0) {
            *value = i & 1;
            return 1;
        }
    return 0;
}

static int parse_int(const struct option *option, const char *text, int64_t *value)
{
    char *end;
    const char *digits = text + (*text == '-');
    if (*digits == '\0' || strspn(digits, "0123456789") != strlen(digits))
        return 0;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || parsed < option->min || parsed > option->max)
        return 0;
    *value = parsed;
    return 1;
}

static int parse_real(const struct option *option, const char *text, double *value)
{
    char *end;
    if (*text == '\0' || strspn(text, "0123456789+-.eE") != strlen(text))
        return 0; /* no hexadecimal, no nan, no spaces */
    double parsed = strtod(text, &end);
    if (*end != '\0' || !isfinite(parsed) || parsed < option->low || parsed > option->high)
        return 0;
    if (option->low_is_open && parsed <= option->low)
        return 0;
    *value = parsed;
    return 1;
}

static int parse_choice(const struct option *option, const char *text, int *value)
{
    for (int i = 0; option->choices[i] != NULL; i++)
        if (strcmp(option->choices[i], text) == 0) {
            *value = i;
            return 1;
        }
    return 0;
}

static int parse_scalar(const struct option *option, const char *text, void *value)
{
    switch (option->type) {
    case OPTION_FLAG:
        return parse_flag(text, value);
    case OPTION_INT:
        return parse_int(option, text, value);
    case OPTION_REAL:
        return parse_real(option, text, value);
    case OPTION_CHOICE:
        return parse_choice(option, text, value);
    default:
        return 0;
    }
}

static size_t scalar_bytes(enum option_type type)
{
    return type == OPTION_INT    ? sizeof(int64_t)
           : type == OPTION_REAL ? sizeof(double)
                                 : sizeof(int);
}

static enum status store_text(void *field, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for an option of %zu bytes", strlen(text));
    memcpy(field, &copy, sizeof copy);
    return STATUS_OK;
}

static enum status push_text(struct text_list *list, const char *text)
{
    char **grown = realloc(list->text, (size_t)(list->count + 1) * sizeof *grown);
    if (grown == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for an option of %zu bytes", strlen(text));
    list->text = grown;
    TRY(store_text(&list->text[list->count], text));
    list->count++;
    return STATUS_OK;
}

void option_clear(struct options *options, const struct option *option)
{
    void *field = field_of(options, option);
    if (option->type == OPTION_TEXT) {
        char **text = field;
        free(*text);
        *text = NULL;
    } else if (option->type == OPTION_LIST) {
        struct text_list *list = field;
        for (int i = 0; i < list->count; i++)
            free(list->text[i]);
        free(list->text);
        *list = (struct text_list){NULL, 0};
    }
}

enum status option_set(struct options *options, const struct option *option,
                       enum option_source source, const char *text, const char *where)
{
    union {
        int flag;
        int64_t integer;
        double real;
    } value;
    unsigned char *set_by = &options->source[option - option_table];
    int is_text = option->type == OPTION_TEXT || option->type == OPTION_LIST;

    if (!is_text && !parse_scalar(option, text, &value))
        return refuse(option, text, where);
    if (option->type == OPTION_TEXT && *text == '\0' && strcmp(option->name, "text") != 0)
        FAIL(STATUS_USAGE, "%s: found an empty value, expected %s", where, option->value_name);
    if (*set_by > source)
        return STATUS_OK;
    if (option->type == OPTION_TEXT || *set_by < source)
        option_clear(options, option);
    *set_by = (unsigned char)source;
    if (option->type == OPTION_LIST)
        return push_text(field_of(options, option), text);
    if (option->type == OPTION_TEXT)
        return store_text(field_of(options, option), text);
    memcpy(field_of(options, option), &value, scalar_bytes(option->type));
    return STATUS_OK;
}

static enum status wrong_json(const struct option *option, const char *where)
{
    static const char *const kind[] = {
        [OPTION_FLAG] = "true or false", [OPTION_INT] = "an integer",
        [OPTION_REAL] = "a number",      [OPTION_CHOICE] = "a string",
        [OPTION_TEXT] = "a string",      [OPTION_LIST] = "a string or an array of strings"};
    FAIL(STATUS_USAGE, "%s: found a value of the wrong type, expected %s", where,
         kind[option->type]);
}

static enum status set_json_string(struct options *options, const struct option *option,
                                   const json_t *value, const char *where)
{
    if (strlen(json_string_value(value)) != json_string_length(value))
        FAIL(STATUS_USAGE, "%s: the text holds a NUL character", where);
    return option_set(options, option, SOURCE_FILE, json_string_value(value), where);
}

enum status option_set_json(struct options *options, const struct option *option,
                            const json_t *value, const char *where)
{
    int takes_text = option->type >= OPTION_CHOICE;
    char number[64];
    if (json_is_null(value))
        return STATUS_OK;
    if (takes_text && json_is_string(value))
        return set_json_string(options, option, value, where);
    if (option->type == OPTION_LIST && json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            if (!json_is_string(json_array_get(value, i)))
                return wrong_json(option, where);
            TRY(set_json_string(options, option, json_array_get(value, i), where));
        }
        return STATUS_OK;
    }
    if (option->type == OPTION_FLAG && json_is_boolean(value))
        snprintf(number, sizeof number, "%s", json_is_true(value) ? "true" : "false");
    else if (option->type == OPTION_INT && json_is_integer(value))
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    else if (option->type == OPTION_REAL && json_is_number(value))
        snprintf(number, sizeof number, "%.17g", json_number_value(value));
    else
        return wrong_json(option, where);
    return option_set(options, option, SOURCE_FILE, number, where);
}

static json_t *list_json(const struct text_list *list)
{
    json_t *array = json_array();
    for (int i = 0; i < list->count; i++)
        json_array_append_new(array, json_string(list->text[i]));
    return array;
}

json_t *option_json(const struct options *options, const struct option *option)
{
    const void *field = const_field_of(options, option);
    switch (option->type) {
    case OPTION_FLAG:
        return json_boolean(*(const int *)field);
    case OPTION_INT:
        if (option->initial == NULL && *(const int64_t *)field == option->absent)
            return json_null();
        return json_integer(*(const int64_t *)field);
    case OPTION_REAL:
        return json_real(*(const double *)field);
    case OPTION_CHOICE:
        return json_string(option->choices[*(const int *)field]);
    case OPTION_TEXT: {
        const char *text = *(char *const *)field;
        return text == NULL ? json_null() : json_string(text);
    }
    default:
        return list_json(field);
    }
}

enum status option_set_defaults(struct options *options)
{
    for (int i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (!option_applies(option, options->command))
            continue;
        if (option->initial != NULL)
            TRY(option_set(options, option, SOURCE_DEFAULT, option->initial, option->name));
        else if (option->type == OPTION_INT)
            memcpy(field_of(options, option), &option->absent, sizeof option->absent);
    }
    return STATUS_OK;
}
