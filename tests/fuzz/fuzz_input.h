/* fuzz_input.h - what the fuzz targets share: a directory of their own, and how a refusal must look.
 *
 * A target is a file fuzz_NAME.c with libFuzzer's entry.  An input of several files has a NUL
 * between them; JSON holds none.
 */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include "kernels/core/status.h"
#include <stddef.h>
#include <stdint.h>

/* libFuzzer's entry.  Returns 0; what is wrong ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process with abort, so that every driver keeps the input. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_fail(__FILE__, __LINE__, #condition);                                             \
    } while (0)
_Noreturn void fuzz_fail(const char *file, int line, const char *condition);

/* A refusal has a text of one line with `place` in it; the record is cleared.  Returns 0. */
int fuzz_refused(enum status status, const char *place);

/* A directory of this process under $TMPDIR or /dev/shm, made by the first call, gone at its end. */
const char *fuzz_directory(void);

/* `directory`/`name`; valid until the next call. */
const char *fuzz_path(const char *name);

/* Writes a file of the directory; with `data` NULL there is none of that name afterwards. */
void fuzz_put(const char *name, const void *data, size_t size);

/* The part of data[*size] behind the first NUL, NULL when there is none; *size is the part before
 * it afterwards, *rest the part behind. */
const uint8_t *fuzz_second(const uint8_t *data, size_t *size, size_t *rest);

#endif
