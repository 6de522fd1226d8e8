/* option_table.h - the rows behind options.h; included by options*.c and their
 * test only. */
#ifndef LAUNCHER_OPTION_TABLE_H
#define LAUNCHER_OPTION_TABLE_H

#include "launcher/options.h"

enum option_type {
    OPTION_FLAG,   /* int: 0 or 1               */
    OPTION_INT,    /* int64_t                   */
    OPTION_REAL,   /* double                    */
    OPTION_CHOICE, /* int: index into `choices` */
    OPTION_TEXT,   /* char *                    */
    OPTION_LIST    /* struct text_list          */
};

/* Where a value came from; a larger one wins. */
enum option_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_COMMAND_LINE };

struct option {
    const char *name;       /* without dashes in front */
    const char *value_name; /* for --help; NULL: a flag */
    enum option_type type;
    size_t at;                  /* offset in struct options */
    unsigned commands;          /* bit 1 << enum command for each that takes it */
    const char *initial;        /* the default, as text; NULL: none */
    const char *none;           /* for --help: what happens without a default */
    int64_t min, max;           /* OPTION_INT */
    double low, high;           /* OPTION_REAL */
    int low_is_open;            /* `low` itself is refused */
    int64_t absent;             /* OPTION_INT without default: the value that says "not given" */
    int command_line_only;      /* neither in a file nor in the environment */
    const char *const *choices; /* NULL-terminated */
    const char *section;        /* heading in --help */
    const char *help;
};

/* A name may have several rows for different commands (defaults differ); their fields are the same. */
extern const struct option option_table[];
extern const int option_count;

struct command_row {
    const char *name;
    const char *help; /* one line */
    const char *note; /* paragraph below the usage; may be NULL */
};
extern const struct command_row command_table[COMMAND_COUNT];

/* The row of `name` that `command` takes, else any row of that name, else NULL. */
const struct option *option_find(const char *name, enum command command);

static inline int option_applies(const struct option *option, enum command command)
{
    return command == COMMAND_NONE || (option->commands & 1u << command) != 0;
}

/* 1 for names and values that a later version will know. */
int option_is_later(const char *name);
int option_value_is_later(const char *name, const char *value);
int command_is_later(const char *name);

/* Our name of an option that other engines call `name`; NULL when there is none. */
const char *option_known_elsewhere(const char *name);

/* Nearest option of `command` (of any, for COMMAND_NONE), or nearest command: by edit distance. */
const char *option_nearest(const char *name, enum command command);
const char *command_nearest(const char *name);

/* Fails unless what one command demands of its options together is met. */
enum status options_check(const struct options *options);

/* "an integer from 1 to 8", "auto, f32 or bf16", ...: for messages and --help. */
void option_expected(const struct option *option, char *text, size_t size);

#endif
