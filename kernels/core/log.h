/* log.h - one line per message on stderr, written by one write(2) so that the
 * lines of several ranks do not mix.  Level from LATENTRANK_DEBUG_LOG, ranks
 * from LATENTRANK_DEBUG_LOG_RANKS ("0,3"; default all). */
#ifndef KERNELS_CORE_LOG_H
#define KERNELS_CORE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* Reads the environment; `rank` < 0 before it is known. */
void log_open(int rank);

/* 1 when a message of this level would be printed. */
int log_enabled(enum log_level level);

/* "latentrank: LEVEL: [rank R] text".  A newline is added. */
__attribute__((format(printf, 2, 3))) void log_print(enum log_level level, const char *format, ...);

/* The one line a job prints when it fails: "latentrank: error: text". */
void log_error_line(const char *text);

#endif
