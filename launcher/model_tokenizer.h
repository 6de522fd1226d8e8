/* model_tokenizer.h - the tokenizer of a model in a job: rank 0 uses it, all ranks have the same. */
#ifndef LAUNCHER_MODEL_TOKENIZER_H
#define LAUNCHER_MODEL_TOKENIZER_H

#include "parallel/comm.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer.h"

/* As tokenizer_open, for the model that `config` describes.
 * Errors: also STATUS_INVALID when the tokenizer has ids that the model has no embedding for. */
enum status model_tokenizer_open(struct tokenizer **tokenizer, const char *directory,
                                 const struct model_config *config);

/* Collective: the files of the tokenizer are the same bytes on all ranks, or absent on all.
 * Errors: STATUS_INVALID, STATUS_IO (text: file and rank). */
enum status model_tokenizer_compare(struct comm *world, const char *directory);

#endif
