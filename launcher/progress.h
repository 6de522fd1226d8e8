/* progress.h - how far a long phase is, on stderr: a line that is rewritten on a
 * terminal, else a plain line every 5 seconds.  Under mpirun stderr is never a
 * terminal. */
#ifndef LAUNCHER_PROGRESS_H
#define LAUNCHER_PROGRESS_H

#include <stdint.h>

enum progress_unit { PROGRESS_BYTES, PROGRESS_TOKENS };

struct progress {
    const char *what; /* "loading" */
    enum progress_unit unit;
    int is_on, is_live;
    int is_line_open; /* something stands on the terminal's last line */
    int64_t begin_ns, shown_ns, done;
};

/* `is_on` 0: nothing is ever printed (ranks other than 0). */
void progress_begin(struct progress *progress, const char *what, enum progress_unit unit,
                    int is_on);

/* Cheap when it is too early to print.  `more` stands at the end of the line; may be NULL. */
void progress_show(struct progress *progress, int64_t done, int64_t total, const char *more);

/* A last line, printed however short the phase was: "loaded 3.34 GB in 0.42 s, 7.95 GB/s", with `more`
 * behind it, which may be NULL.  Of phases counted in bytes. */
void progress_summarize(struct progress *progress, const char *done, const char *more);

/* Clears the line on a terminal.  May be called twice. */
void progress_end(struct progress *progress);

/* Monotonic clock. */
int64_t progress_now_ns(void);

#endif
