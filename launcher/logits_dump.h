/* logits_dump.h - --dump-logits: every row of logits of one prompt, to a safetensors file.
 *
 * The number of rows is known only at the end, and a header stands in front of
 * the data: rows go to an unnamed file beside the target first, so memory stays
 * bounded whatever the length. */
#ifndef LAUNCHER_LOGITS_DUMP_H
#define LAUNCHER_LOGITS_DUMP_H

#include "kernels/core/status.h"
#include <stdint.h>

struct logits_dump;

/* Owner: caller; end with logits_dump_close.  Errors: STATUS_IO (the folder cannot be written). */
enum status logits_dump_open(struct logits_dump **dump, const char *path, int64_t vocab_size);
enum status logits_dump_push(struct logits_dump *dump, const float *logits);

/* Writes `logits` f32 [rows, vocab_size] and `ids` i32 [n_prompt + n_generated]. */
enum status logits_dump_finish(struct logits_dump *dump, const int32_t *prompt, int64_t n_prompt,
                               const int32_t *generated, int64_t n_generated);
void logits_dump_close(struct logits_dump *dump);

#endif
