/* options.c - the three places options come from, merged. */
#include "launcher/options.h"
#include "launcher/option_value.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { NAME_BYTES = 128 };

static const char environment_prefix[] = "LATENTRANK_";

/* "generate, eval and inspect": the commands that take `name`. */
static void takers(const char *name, char *text, size_t size)
{
    const char *taker[COMMAND_COUNT];
    int count = 0;
    size_t used = 0;
    for (int c = 0; c < COMMAND_COUNT; c++) {
        const struct option *option = option_find(name, (enum command)c);
        if (option != NULL && option_applies(option, (enum command)c))
            taker[count++] = command_table[c].name;
    }
    for (int i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 i == 0           ? ""
                                 : i == count - 1 ? " and "
                                                  : ", ",
                                 taker[i]);
    snprintf(text + used, size - used, count == 1 ? " does" : " do");
}

static enum status unknown_option(const char *name, enum command command)
{
    const char *ours = option_known_elsewhere(name);
    if (option_is_later(name))
        FAIL(STATUS_USAGE, "--%s: not in this version", name);
    if (ours == NULL)
        ours = option_nearest(name, command);
    FAIL(STATUS_USAGE, "unknown option --%s; did you mean --%s?", name, ours);
}

/* The row for one name of the command line. */
static enum status find_option(const struct option **found, const char *name, enum command command)
{
    char text[256];
    const struct option *option = option_find(name, command);
    if (option == NULL)
        return unknown_option(name, command);
    if (!option_applies(option, command)) {
        takers(name, text, sizeof text);
        FAIL(STATUS_USAGE, "%s does not take --%s (%s)", command_name(command), name, text);
    }
    *found = option;
    return STATUS_OK;
}

/* 1 for "--name" or "--name=..." of an option we know: then it is hardly meant as a value. */
static int looks_like_option(const char *argument)
{
    char name[NAME_BYTES];
    size_t length = strcspn(argument, "=");
    if (strncmp(argument, "--", 2) != 0 || length >= sizeof name)
        return 0;
    snprintf(name, sizeof name, "%.*s", (int)(length - 2), argument + 2);
    return option_find(name, COMMAND_NONE) != NULL;
}

/* Takes argv[*index], and the next one where it is the value. */
static enum status read_argument(struct options *options, int argc, char *const *argv, int *index)
{
    const struct option *option = NULL;
    char where[NAME_BYTES];
    const char *argument = argv[*index], *value = NULL;
    if (strcmp(argument, "-h") == 0)
        argument = "--help";
    if (argument[0] == '-' && argument[1] != '-' && argument[1] != '\0')
        FAIL(STATUS_USAGE, "unknown option %s; options begin with --, see %s --help", argument,
             command_name(options->command));
    if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
        FAIL(STATUS_USAGE, "unexpected argument '%s'; options begin with --", argument);

    size_t length = strcspn(argument + 2, "=");
    if (argument[2 + length] == '=')
        value = argument + 2 + length + 1;
    if (length + 3 > sizeof where)
        FAIL(STATUS_USAGE, "unknown option %.40s...", argument);
    snprintf(where, sizeof where, "%.*s", (int)length + 2, argument);
    TRY(find_option(&option, where + 2, options->command));
    if (option->type == OPTION_FLAG && value == NULL)
        value = "true";
    if (value == NULL) {
        char expected[256];
        option_expected(option, expected, sizeof expected);
        if (*index + 1 == argc)
            FAIL(STATUS_USAGE, "%s: missing value, expected %s", where, expected);
        value = argv[++*index];
        if (looks_like_option(value))
            FAIL(STATUS_USAGE, "%s: missing value, expected %s; if '%s' is meant, write %s=%s",
                 where, expected, value, where, value);
    }
    return option_set(options, option, SOURCE_COMMAND_LINE, value, where);
}

/* "bench latency" is one name of two words.  *n_words: what it takes of argv. */
static enum status command_words(char *name, size_t size, int *n_words, int argc, char *const *argv)
{
    *n_words = strcmp(argv[1], "bench") == 0 ? 2 : 1;
    if (*n_words == 2 && (argc < 3 || argv[2][0] == '-'))
        FAIL(STATUS_USAGE,
             "bench what? latency, kernels, load or comm; see latentrank bench latency --help");
    snprintf(name, size, "%s%s%s", argv[1], *n_words == 2 ? " " : "", *n_words == 2 ? argv[2] : "");
    return STATUS_OK;
}

/* The command is the first argument; --help and --version may stand there instead. */
static enum status read_command(struct options *options, int argc, char *const *argv, int *first)
{
    char name[NAME_BYTES];
    int n_words;
    *first = 1;
    options->command = COMMAND_NONE;
    if (argc < 2)
        FAIL(STATUS_USAGE, "no command; latentrank --help lists them");
    if (argv[1][0] == '-') {
        const char *option = argv[1];
        if (strcmp(option, "-h") != 0 && strcmp(option, "--help") != 0 &&
            strcmp(option, "--version") != 0)
            FAIL(STATUS_USAGE, "'%s' stands where the command goes; latentrank --help lists them",
                 option);
        return STATUS_OK;
    }
    TRY(command_words(name, sizeof name, &n_words, argc, argv));
    *first = 1 + n_words;
    for (int c = 0; c < COMMAND_COUNT; c++)
        if (strcmp(name, command_table[c].name) == 0) {
            options->command = (enum command)c;
            return STATUS_OK;
        }
    if (command_is_later(name))
        FAIL(STATUS_USAGE, "command %s: not in this version", name);
    FAIL(STATUS_USAGE, "unknown command '%s'; did you mean %s?", name, command_nearest(name));
}

/* LATENTRANK_MAX_TOKENS -> max-tokens, and back for messages. */
static void name_of_variable(char *name, size_t size, const char *variable, size_t length)
{
    size_t i;
    for (i = 0; i < length && i + 1 < size; i++)
        name[i] = variable[i] == '_' ? '-' : (char)tolower((unsigned char)variable[i]);
    name[i] = '\0';
}

static void variable_of_name(char *variable, size_t size, const char *name)
{
    size_t used = (size_t)snprintf(variable, size, "%s%s", environment_prefix, name);
    for (size_t i = sizeof environment_prefix - 1; i < used && i < size; i++)
        variable[i] = variable[i] == '-' ? '_' : (char)toupper((unsigned char)variable[i]);
}

static enum status unknown_variable(const char *variable, const char *name, enum command command)
{
    char nearest[NAME_BYTES];
    if (option_is_later(name))
        FAIL(STATUS_USAGE, "%s: not in this version", variable);
    variable_of_name(nearest, sizeof nearest, option_nearest(name, command));
    FAIL(STATUS_USAGE, "unknown environment variable %s; did you mean %s?", variable, nearest);
}

static enum status read_environment(struct options *options, char *const *environment)
{
    size_t prefix = sizeof environment_prefix - 1;
    for (; *environment != NULL; environment++) {
        const char *entry = *environment, *equals = strchr(entry, '=');
        char name[NAME_BYTES], variable[NAME_BYTES], back[NAME_BYTES];
        if (equals == NULL || strncmp(entry, environment_prefix, prefix) != 0 ||
            strncmp(entry + prefix, "DEBUG_", 6) == 0)
            continue;
        options->is_of_rank = 1;
        snprintf(variable, sizeof variable, "%.*s", (int)(equals - entry), entry);
        name_of_variable(name, sizeof name, entry + prefix, (size_t)(equals - entry) - prefix);
        variable_of_name(back, sizeof back, name);
        const struct option *option = option_find(name, options->command);
        if (option == NULL || option->command_line_only || strcmp(back, variable) != 0)
            return unknown_variable(variable, name, options->command);
        TRY(option_set(options, option, SOURCE_ENVIRONMENT, equals + 1, variable));
    }
    return STATUS_OK;
}

static enum status read_key(struct options *options, const char *path, const char *key,
                            const json_t *value)
{
    char where[512];
    const struct option *option = option_find(key, options->command);
    if (option == NULL && option_is_later(key))
        FAIL(STATUS_USAGE, "%s: key \"%s\": not in this version", path, key);
    if (option == NULL || option->command_line_only || strcmp(key, "config") == 0)
        FAIL(STATUS_USAGE, "%s: unknown key \"%s\"; did you mean \"%s\"?", path, key,
             option_nearest(key, options->command));
    snprintf(where, sizeof where, "%s: key \"%s\"", path, key);
    return option_set_json(options, option, value, where);
}

static enum status read_file(struct options *options, const char *path)
{
    json_error_t error;
    const char *key;
    json_t *value;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    enum status status = STATUS_OK;
    if (root == NULL)
        FAIL(STATUS_USAGE, "--config %s: line %d: %s", path, error.line, error.text);
    if (!json_is_object(root))
        status = status_fail(STATUS_USAGE, __FILE__, __LINE__,
                             "--config %s: expected a JSON object with option names as keys", path);
    json_object_foreach(root, key, value)
    {
        if (status == STATUS_OK)
            status = read_key(options, path, key, value);
    }
    json_decref(root);
    return status;
}

enum status options_read(struct options *options, int argc, char *const *argv,
                         char *const *environment)
{
    int index;
    *options = (struct options){.command = COMMAND_NONE};
    TRY(read_command(options, argc, argv, &index));
    TRY(option_set_defaults(options));
    for (; index < argc; index++)
        TRY(read_argument(options, argc, argv, &index));
    if (options->help || options->version)
        return STATUS_OK;
    TRY(read_environment(options, environment));
    options->is_of_rank |= options->config != NULL;
    if (options->config != NULL)
        TRY(read_file(options, options->config));
    return options->print_config ? STATUS_OK : options_check(options);
}

void options_close(struct options *options)
{
    for (int i = 0; i < option_count; i++)
        option_clear(options, &option_table[i]);
}

char *options_json(const struct options *options)
{
    json_t *root = json_object();
    for (int i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        if (option_applies(option, options->command) && !option->command_line_only &&
            strcmp(option->name, "config") != 0)
            json_object_set_new(root, option->name, option_json(options, option));
    }
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(root);
    return text;
}

uint64_t options_hash(const struct options *options)
{
    char *text = options_json(options);
    uint64_t hash = text == NULL ? 0 : XXH3_64bits_withSeed(text, strlen(text), options->command);
    free(text);
    return hash;
}
