/* weight_quantize.h - weights rounded to 8 bits while they are loaded (--weight-dtype int8).
 *
 * A row of the tensor is rounded in groups of 128 columns, from its column 0 on: with
 * m the largest |w| of the group, scale = m / 127 and number = round(w * (127 / m)),
 * to nearest, ties to even; both 0 where m < 2^-100.  So no weight is off by more
 * than half a step.  A rank that holds a part of a group reads all of it, since m
 * is of the whole: every layout has the same weights.
 */
#ifndef RUNTIME_WEIGHT_QUANTIZE_H
#define RUNTIME_WEIGHT_QUANTIZE_H

#include "runtime/weight_reader.h"

enum { WEIGHT_I8_GROUP = 128 };

/* The type a tensor's matrix has in memory: as stored, or I8 where `to_i8` asks for it and the tensor is
 * one of the large ones.  Norms, biases, router, embedding and kv_b_proj stay as stored, and int4 too. */
enum dtype weight_resident_dtype(const struct weight_item *item, const struct weight_source *source,
                                 int to_i8);

/* Scales of an I8 slice that begins at column `begin` of the tensor. */
struct matrix_scales weight_i8_scales(int64_t begin);

/* Bytes of an I8 slice with its scales. */
int64_t weight_i8_bytes(const struct span *rows, const struct span *columns);

/* The columns to read for it: those of all groups that it has a part of, of `width` in the tensor. */
struct span weight_i8_columns(const struct span *columns, int64_t width);

/* Numbers as they were read: rows x columns of the tensor, whole groups of it. */
struct weight_rows {
    const char *data;                   /* row after row */
    const struct weight_source *source; /* of F32, F16, BF16 or F8_E4M3 */
    const struct weight_reader *reader; /* has the scales of F8_E4M3 */
    struct span rows, columns;
};

/* Rounds them into matrix `index` from its row `row` on; its column 0 is column `begin` of the tensor. */
void weight_quantize(struct matrix *w, int index, int64_t row, int64_t begin,
                     const struct weight_rows *from);

#endif
