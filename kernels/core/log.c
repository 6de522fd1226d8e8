#include "kernels/core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const level_name[] = {"error", "warn", "info", "debug", "trace"};
static enum log_level threshold = LOG_WARN;
static int own_rank = -1;
static int rank_is_silent;

static int rank_listed(const char *list, int rank)
{
    while (*list != '\0') {
        char *end;
        long value = strtol(list, &end, 10);
        if (end == list)
            return 0;
        if (value == rank)
            return 1;
        list = *end == ',' ? end + 1 : end;
    }
    return 0;
}

void log_open(int rank)
{
    const char *level = getenv("LATENTRANK_DEBUG_LOG");
    const char *ranks = getenv("LATENTRANK_DEBUG_LOG_RANKS");
    own_rank = rank;
    for (int i = LOG_ERROR; level != NULL && i <= LOG_TRACE; i++)
        if (strcmp(level, level_name[i]) == 0)
            threshold = (enum log_level)i;
    rank_is_silent = ranks != NULL && rank >= 0 && !rank_listed(ranks, rank);
}

int log_enabled(enum log_level level)
{
    return level <= threshold && !(rank_is_silent && level > LOG_ERROR);
}

static void write_line(char *line, size_t size, size_t length)
{
    if (length > size - 2)
        length = size - 2;
    line[length++] = '\n';
    while (length > 0) {
        ssize_t written = write(STDERR_FILENO, line, length);
        if (written <= 0)
            return; /* nowhere left to say it */
        line += written;
        length -= (size_t)written;
    }
}

void log_print(enum log_level level, const char *format, ...)
{
    char line[4096];
    va_list args;
    int used;

    if (!log_enabled(level))
        return;
    if (own_rank >= 0)
        used =
            snprintf(line, sizeof line, "latentrank: %s: rank %d: ", level_name[level], own_rank);
    else
        used = snprintf(line, sizeof line, "latentrank: %s: ", level_name[level]);
    va_start(args, format);
    used += vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    write_line(line, sizeof line, (size_t)used);
}

void log_error_line(const char *text)
{
    char line[4096];
    int used = snprintf(line, sizeof line, "latentrank: error: %s", text);
    write_line(line, sizeof line, (size_t)used);
}
