/* layouts.h - --layouts: the ways to cut a model that verify compares. */
#ifndef LAUNCHER_LAYOUTS_H
#define LAUNCHER_LAYOUTS_H

#include "kernels/core/status.h"

enum { LAYOUT_TEXT_MAX = 128, LAYOUT_OPTIONS_MAX = 7 };

struct layout {
    char text[LAYOUT_TEXT_MAX]; /* as the user wrote it: "tp=2,ep=2,kv=sharded" */
    int ranks;                  /* tp x dp x pp */
    int n_options;
    /* "--tp", "2", ...: what generate takes, in the order of the text. */
    const char *name[LAYOUT_OPTIONS_MAX];
    char value[LAYOUT_OPTIONS_MAX][LAYOUT_TEXT_MAX];
};

/* Parts separated by ';', in each keys separated by ','.  Owner of *layouts: caller (free).
 * Errors: STATUS_USAGE, naming the part and what was expected; STATUS_NO_MEMORY. */
enum status layouts_parse(struct layout **layouts, int *count, const char *text);

#endif
