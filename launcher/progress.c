#include "launcher/progress.h"
#include "launcher/failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const int64_t live_interval_ns = 100 * 1000 * 1000;
static const int64_t plain_interval_ns = (int64_t)5 * 1000 * 1000 * 1000;

int64_t progress_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void progress_begin(struct progress *progress, const char *what, enum progress_unit unit, int is_on)
{
    const char *term = getenv("TERM");
    *progress = (struct progress){.what = what, .unit = unit, .is_on = is_on};
    progress->is_live = isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0;
    progress->begin_ns = progress->shown_ns = progress_now_ns();
}

static int format_line(char *line, size_t size, const struct progress *progress, int64_t done,
                       int64_t total, int64_t now_ns)
{
    double seconds = (double)(now_ns - progress->begin_ns) * 1e-9;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    if (progress->unit == PROGRESS_BYTES)
        return snprintf(line, size, "latentrank: %s %.2f of %.2f GB, %.2f GB/s", progress->what,
                        (double)done * 1e-9, (double)total * 1e-9, rate * 1e-9);
    return snprintf(line, size, "latentrank: %s %lld of %lld tokens, %.1f tokens/s", progress->what,
                    (long long)done, (long long)total, rate);
}

static void put(const char *text, size_t length)
{
    ssize_t written = write(STDERR_FILENO, text, length);
    (void)written; /* progress is no result: losing it is no failure */
}

void progress_show(struct progress *progress, int64_t done, int64_t total, const char *more)
{
    char line[256];
    int64_t now_ns = progress_now_ns();
    progress->done = done;
    if (!progress->is_on ||
        now_ns - progress->shown_ns < (progress->is_live ? live_interval_ns : plain_interval_ns))
        return;
    progress->shown_ns = now_ns;
    int used = progress->is_live ? snprintf(line, sizeof line, "\r\033[K") : 0;
    used += format_line(line + used, sizeof line - (size_t)used, progress, done, total, now_ns);
    used += snprintf(line + used, sizeof line - (size_t)used, "%s%s%s", more == NULL ? "" : ", ",
                     more == NULL ? "" : more, progress->is_live ? "" : "\n");
    put(line, (size_t)used < sizeof line ? (size_t)used : sizeof line - 1);
    progress->is_line_open = progress->is_live;
    failure_line_open(STDERR_FILENO, progress->is_line_open);
}

void progress_summarize(struct progress *progress, const char *done, const char *more)
{
    char line[256];
    double seconds = (double)(progress_now_ns() - progress->begin_ns) * 1e-9;
    double gb = (double)progress->done * 1e-9;
    int is_on = progress->is_on;
    progress_end(progress);
    int used = snprintf(line, sizeof line, "latentrank: %s %.2f GB in %.2f s, %.2f GB/s%s\n", done,
                        gb, seconds, seconds > 0 ? gb / seconds : 0, more == NULL ? "" : more);
    if (is_on)
        put(line, (size_t)used < sizeof line ? (size_t)used : sizeof line - 1);
}

void progress_end(struct progress *progress)
{
    if (progress->is_line_open)
        put("\r\033[K", 4);
    progress->is_line_open = 0;
    progress->is_on = 0;
    failure_line_open(STDERR_FILENO, 0);
}
