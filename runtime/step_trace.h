/* step_trace.h - the tensors that all ranks of tp have in common, written step after step, and two such
 * files compared. */
#ifndef RUNTIME_STEP_TRACE_H
#define RUNTIME_STEP_TRACE_H

#include <stdio.h>

#include "kernels/core/tensor.h"

enum { STEP_TRACE_NAME_MAX = 48 };

/* Where sums in another order may turn a last bit into another expert. */
#define STEP_CHOSEN_EXPERTS "chosen experts"

/* The largest |a - b| over the largest |a|; infinite where a number is none. */
double relative_difference(const float *a, const float *b, int64_t n);

/* t[T, n] f32 or i32.  layer -1: none.  Errors: STATUS_IO. */
enum status step_trace_write(FILE *trace, int layer, const char *name, const struct tensor *t);

/* Where two traces differ first. */
struct step_trace_place {
    char name[STEP_TRACE_NAME_MAX]; /* "": nowhere, as far as the shorter one goes */
    int64_t step;                   /* from 0 */
    int layer;                      /* -1: none */
    double difference; /* largest |a - b| of a row over the largest |a| of it; of i32: 1 */
};

/* `tolerance`: differences up to it are none; below 0: bits are compared.
 * Errors: STATUS_IO, STATUS_INVALID (other tensors than expected), STATUS_NO_MEMORY. */
enum status step_trace_compare(struct step_trace_place *place, const char *expected,
                               const char *found, double tolerance);

#endif
