/* status.h - how every function that can fail reports it.
 *
 * A failing call returns a code; the text and the call sites are kept in a
 * per-thread record.  The first frame that knows the cause writes the text
 * (FAIL); the frames above only add their call site (TRY).
 */
#ifndef KERNELS_CORE_STATUS_H
#define KERNELS_CORE_STATUS_H

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,     /* the caller broke the contract, or a file is wrong */
    STATUS_USAGE,       /* options or configuration of the user: exit code 2 */
    STATUS_NO_MEMORY,   /* not enough memory or cache pages                  */
    STATUS_IO,          /* the operating system refused to open, read, write */
    STATUS_UNSUPPORTED, /* right in itself, but not in this version          */
    STATUS_DEVICE,      /* CUDA or cuBLAS                                    */
    STATUS_COMM,        /* MPI or NCCL                                       */
    STATUS_TIMEOUT
};

enum { STATUS_TEXT_MAX = 2048 };

/* Records the text and returns `code`, so that it can end a function. */
__attribute__((format(printf, 4, 5))) enum status status_fail(enum status code, const char *file,
                                                              int line, const char *format, ...);

/* Adds one call site to the record and returns `code` unchanged. */
enum status status_trace(enum status code, const char *file, int line, const char *call);

/* Puts `text` in front of the recorded text, as "text: recorded", for a caller that knows the file
 * or the option the failure is about.  Returns `code` unchanged. */
__attribute__((format(printf, 2, 3))) enum status status_prefix(enum status code,
                                                                const char *format, ...);

/* The text of the last failure of this thread ("" when there is none): one line, what was found,
 * what was expected, what to do.  Owner: this thread's record; valid until the next failure. */
const char *status_text(void);

/* The call sites of the last failure, innermost first, one a line.  Owner: as status_text. */
const char *status_frames(void);

/* Replaces the record of this thread: used where the failure of another rank becomes ours. */
void status_set_text(const char *text);

/* Forgets the record. */
void status_clear(void);

/* "invalid", "no memory", ... */
const char *status_name(enum status code);

/* The code is returned from here and not from the call, so that the compiler sees it is not OK. */
#define FAIL(code, ...)                                                                            \
    do {                                                                                           \
        status_fail((code), __FILE__, __LINE__, __VA_ARGS__);                                      \
        return (code);                                                                             \
    } while (0)

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (call);                                                          \
        if (try_status_ != STATUS_OK) {                                                            \
            status_trace(try_status_, __FILE__, __LINE__, #call);                                  \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

/* As TRY, in functions with a cleanup label: sets `status` and jumps. */
#define TRY_GOTO(status, label, call)                                                              \
    do {                                                                                           \
        (status) = (call);                                                                         \
        if ((status) != STATUS_OK) {                                                               \
            status_trace((status), __FILE__, __LINE__, #call);                                     \
            goto label;                                                                            \
        }                                                                                          \
    } while (0)

#endif
