#include "kernels/core/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { FRAMES_MAX = 4096 };

static _Thread_local char record_text[STATUS_TEXT_MAX];
static _Thread_local char record_frames[FRAMES_MAX];

enum status status_fail(enum status code, const char *file, int line, const char *format, ...)
{
    va_list args;
    char text[STATUS_TEXT_MAX]; /* the arguments may point into the record */
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    status_set_text(text);
    record_frames[0] = '\0';
    return status_trace(code, file, line, "failed");
}

enum status status_trace(enum status code, const char *file, int line, const char *call)
{
    size_t used = strlen(record_frames);
    snprintf(record_frames + used, sizeof record_frames - used, "%s:%d: %s\n", file, line, call);
    return code;
}

enum status status_prefix(enum status code, const char *format, ...)
{
    va_list args;
    char prefix[STATUS_TEXT_MAX / 2], text[STATUS_TEXT_MAX];
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%s: %.*s", prefix, (int)(sizeof text - strlen(prefix) - 3),
             record_text);
    status_set_text(text);
    return code;
}

const char *status_text(void)
{
    return record_text;
}

const char *status_frames(void)
{
    return record_frames;
}

void status_set_text(const char *text)
{
    snprintf(record_text, sizeof record_text, "%s", text);
    for (char *c = record_text; *c != '\0'; c++) /* one line, whatever a file name holds */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
}

void status_clear(void)
{
    record_text[0] = '\0';
    record_frames[0] = '\0';
}

const char *status_name(enum status code)
{
    static const char *const name[] = {
        [STATUS_OK] = "ok",           [STATUS_INVALID] = "invalid",
        [STATUS_USAGE] = "usage",     [STATUS_NO_MEMORY] = "no memory",
        [STATUS_IO] = "input/output", [STATUS_UNSUPPORTED] = "unsupported",
        [STATUS_DEVICE] = "device",   [STATUS_COMM] = "communication",
        [STATUS_TIMEOUT] = "timeout",
    };
    return name[code];
}
