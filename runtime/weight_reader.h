/* weight_reader.h - rows of a tensor as matrix_pack takes them, out of a checkpoint or random.
 *
 * What is in the page cache is copied from there.  The rest comes past the page
 * cache in large reads, except what other ranks of the node want too: that is
 * read from the disk once, into the page cache, for all of them.
 *
 * NaN and infinity, also of a scale, are refused with the tensor's name and place.
 * Numbers that matrix_pack looks at need no look here. */
#ifndef RUNTIME_WEIGHT_READER_H
#define RUNTIME_WEIGHT_READER_H

#include "runtime/weights.h"

struct weight_reader {
    const struct safetensors *checkpoint; /* NULL: random weights */
    char *rows;                           /* of the last weight_reader_rows */
    char *buffer;                         /* that `rows` points into */
    size_t bytes;                         /* that `buffer` holds at a time */
    char *packed;                         /* int4 as read; half as many bytes */
    enum page_cache_state state;          /* of what weight_reader_look saw */
    struct safetensors_past past;

    /* Scales of the last weight_reader_scales: scale[(r - scale_row) * n_scale_columns + ...]. */
    float *scale;
    size_t n_scales;
    int64_t scale_row, scale_column, n_scale_columns;
};

/* Memory for rows of the widest tensor, and for one head of kv_b_proj.
 * Owner: caller; end with weight_reader_close.  Errors: STATUS_NO_MEMORY. */
enum status weight_reader_open(struct weight_reader *reader, const struct model_config *config,
                               const struct safetensors *checkpoint);
void weight_reader_close(struct weight_reader *reader);

/* Looks where these rows are, for the reads of them that follow. */
void weight_reader_look(struct weight_reader *reader, const struct weight_item *item,
                        const struct weight_source *source, int64_t row, int64_t n);

/* How many rows to read at once: a multiple of `step` where so many fit. */
int64_t weight_reader_count(const struct weight_reader *reader, const struct weight_item *item,
                            const struct weight_source *source, const struct span *columns,
                            int64_t step);

/* rows[n][columns] = rows [row, row + n) of the tensor; of I4 a byte each, 0 .. 15.
 * Errors: STATUS_IO. */
enum status weight_reader_rows(struct weight_reader *reader, const struct weight_item *item,
                               const struct weight_source *source, const struct span *columns,
                               int64_t row, int64_t n);

/* Looks at the numbers of the last weight_reader_rows, which had the same arguments.
 * Errors: STATUS_INVALID (NaN or infinity; text: the first). */
enum status weight_reader_check(const struct weight_reader *reader, const struct weight_item *item,
                                const struct weight_source *source, const struct span *columns,
                                int64_t row, int64_t n);

/* Reads the scales that rows x columns of a quantized tensor need; weight_reader_scale then gives that
 * of one weight.  Errors: STATUS_IO, STATUS_NO_MEMORY, STATUS_INVALID (NaN, infinity). */
enum status weight_reader_scales(struct weight_reader *reader, const struct weight_item *item,
                                 const struct weight_source *source, const struct span *rows,
                                 const struct span *columns);
float weight_reader_scale(const struct weight_reader *reader, const struct weight_source *source,
                          int64_t row, int64_t column);

#endif
