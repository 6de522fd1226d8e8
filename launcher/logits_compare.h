/* logits_compare.h - two files of --dump-logits side by side. */
#ifndef LAUNCHER_LOGITS_COMPARE_H
#define LAUNCHER_LOGITS_COMPARE_H

#include "kernels/core/status.h"

struct logits_difference {
    /* Largest |a - b| of a row over the largest |a| of that row, over the rows whose input ids are equal. */
    double max_rel_diff;
    int same_tokens; /* up to a token whose two best logits are nearer than NEAR_TIE of that row */
    int same_bits;   /* of all rows, and all ids equal */
};

#define NEAR_TIE 1e-4

/* `expected` is the reference.  Errors: STATUS_IO, STATUS_INVALID (other shapes), STATUS_NO_MEMORY. */
enum status logits_compare(struct logits_difference *difference, const char *expected,
                           const char *found);

#endif
