/* option_help.c - the text of --help, from the table. */
#include "launcher/option_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 100, COLUMN = 30 };

/* Writes `text` in lines of at most WIDTH, each after `indent` spaces; the first line goes on at
 * `used` characters. */
static void wrap(FILE *out, const char *text, int indent, int used)
{
    const char *word = text;
    while (*word != '\0') {
        int length = (int)strcspn(word, " ");
        int space = used > indent; /* between this word and the one before */
        if (used + space + length > WIDTH && space) {
            fputc('\n', out);
            used = space = 0;
        }
        int pad = used < indent ? indent - used : space;
        fprintf(out, "%*s%.*s", pad, "", length, word);
        used += pad + length;
        word += length;
        while (*word == ' ')
            word++;
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const struct option *option)
{
    char left[80], text[512], range[160] = "";
    int used;
    if (option->type == OPTION_CHOICE || option->type == OPTION_REAL)
        option_expected(option, range, sizeof range);
    else if (option->type == OPTION_INT && option->max < INT32_MAX)
        snprintf(range, sizeof range, "%lld to %lld", (long long)option->min,
                 (long long)option->max);
    const char *value = option->initial != NULL ? option->initial : option->none;
    int is_required = strcmp(value, "required") == 0;
    snprintf(text, sizeof text, "%s%s%s (%s%s)", option->help, range[0] == '\0' ? "" : "; ", range,
             is_required ? "" : "default: ", value);
    snprintf(left, sizeof left, "  --%s%s%s", option->name, option->value_name == NULL ? "" : " ",
             option->value_name == NULL ? "" : option->value_name);
    used = fprintf(out, "%s", left);
    if (used + 2 > COLUMN) {
        fputc('\n', out);
        used = 0;
    }
    wrap(out, text, COLUMN, used);
}

/* " [generate, eval]" for the whole program, where an option is not for all. */
static void print_takers(FILE *out, const struct option *option)
{
    int is_first = 1;
    fprintf(out, "%*s", COLUMN, "");
    for (int c = 0; c < COMMAND_COUNT; c++)
        if (option_applies(option, (enum command)c)) {
            fprintf(out, "%s%s", is_first ? "[" : ", ", command_table[c].name);
            is_first = 0;
        }
    fprintf(out, "]\n");
}

static void print_options(FILE *out, enum command command)
{
    const char *section = "";
    for (int i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (!option_applies(option, command))
            continue;
        if (strcmp(section, option->section) != 0)
            fprintf(out, "\n%s:\n", option->section);
        section = option->section;
        print_option(out, option);
        if (command == COMMAND_NONE && option->commands != (1u << COMMAND_COUNT) - 1)
            print_takers(out, option);
    }
}

static void print_command(FILE *out, enum command command)
{
    fprintf(out, "latentrank %s: %s\n\nusage: latentrank %s [options]\n", command_name(command),
            command_table[command].help, command_name(command));
    if (command == COMMAND_GENERATE || command == COMMAND_EVAL || command == COMMAND_BENCH_LATENCY)
        fprintf(out, "       mpirun -n N latentrank %s [options]\n", command_name(command));
    fputc('\n', out);
    wrap(out, command_table[command].note, 0, 0);
    print_options(out, command);
}

static void print_program(FILE *out)
{
    fprintf(out, "latentrank: distributed inference for models with multi-head latent attention\n\n"
                 "usage: latentrank COMMAND [options]\n"
                 "       mpirun -n N latentrank COMMAND [options]\n"
                 "       srun --mpi=pmix -n N latentrank COMMAND [options]\n\ncommands:\n");
    for (int c = 0; c < COMMAND_COUNT; c++)
        fprintf(out, "  %-15s%s\n", command_table[c].name, command_table[c].help);
    fputc('\n', out);
    wrap(out,
         "Options are written --name value or --name=value.  They may also stand in a JSON file "
         "(--config F, option names as keys) and in the environment (--max-tokens as "
         "LATENTRANK_MAX_TOKENS); the command line wins over the environment, the environment over "
         "the file.  In the file and the environment, options of other commands are left aside.",
         0, 0);
    wrap(out,
         "Results go to stdout, progress to stderr.  Exit codes: 0 success, 2 wrong options, 1 any "
         "other failure, 130 interrupted.",
         0, 0);
    print_options(out, COMMAND_NONE);
}

char *options_help(enum command command)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL)
        return NULL;
    if (command == COMMAND_NONE)
        print_program(out);
    else
        print_command(out, command);
    fclose(out);
    return text;
}
