#include "launcher/logits_compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/safetensors.h"
#include "runtime/step_trace.h"

struct dump {
    struct safetensors *file;
    const struct safetensors_entry *logits, *ids;
    int32_t *id;
    float *row;
};

static enum status dump_open(struct dump *dump, const char *path)
{
    TRY(safetensors_open_file(&dump->file, path));
    dump->logits = safetensors_find(dump->file, "logits");
    dump->ids = safetensors_find(dump->file, "ids");
    if (dump->logits == NULL || dump->ids == NULL || dump->logits->ndim != 2 ||
        dump->ids->ndim != 1)
        FAIL(STATUS_INVALID, "%s: no logits and ids in it", path);
    dump->id = malloc((size_t)dump->ids->bytes + 1);
    dump->row = malloc((size_t)dump->logits->dim[1] * sizeof(float) + 1);
    if (dump->id == NULL || dump->row == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for a row", path);
    return safetensors_read(dump->file, dump->ids, 0, dump->ids->bytes, dump->id);
}

static void dump_close(struct dump *dump)
{
    free(dump->id);
    free(dump->row);
    safetensors_close(dump->file);
}

static enum status dump_row(struct dump *dump, int64_t row)
{
    int64_t bytes = dump->logits->dim[1] * (int64_t)sizeof(float);
    return safetensors_read(dump->file, dump->logits, row * bytes, bytes, dump->row);
}

static int is_near_tie(const float *row, int64_t n)
{
    double best = -HUGE_VAL, second = -HUGE_VAL, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        scale = fmax(scale, fabs((double)row[i]));
        if ((double)row[i] > best) {
            second = best;
            best = (double)row[i];
        } else {
            second = fmax(second, (double)row[i]);
        }
    }
    return best - second < NEAR_TIE * scale;
}

static enum status compare(struct logits_difference *d, struct dump *a, struct dump *b)
{
    int64_t rows = a->logits->dim[0], vocab = a->logits->dim[1], n = a->ids->dim[0], same = 0;
    if (rows != b->logits->dim[0] || vocab != b->logits->dim[1] || n != b->ids->dim[0])
        FAIL(STATUS_INVALID, "%lld rows of logits instead of %lld", (long long)b->logits->dim[0],
             (long long)rows);
    while (same < n && a->id[same] == b->id[same])
        same++;
    *d = (struct logits_difference){.same_tokens = same == n, .same_bits = same == n};
    for (int64_t i = 0; i < rows && i < same; i++) { /* row i has the ids up to i */
        TRY(dump_row(a, i));
        TRY(dump_row(b, i));
        d->max_rel_diff = fmax(d->max_rel_diff, relative_difference(a->row, b->row, vocab));
        d->same_bits &= memcmp(a->row, b->row, (size_t)vocab * sizeof(float)) == 0;
    }
    /* a->row now predicts the first id that differs */
    if (same > 0 && same < n && same <= rows)
        d->same_tokens = is_near_tie(a->row, vocab);
    return STATUS_OK;
}

enum status logits_compare(struct logits_difference *difference, const char *expected,
                           const char *found)
{
    struct dump a = {0}, b = {0};
    enum status status = dump_open(&a, expected);
    if (status == STATUS_OK)
        status = dump_open(&b, found);
    if (status == STATUS_OK)
        status = compare(difference, &a, &b);
    dump_close(&a);
    dump_close(&b);
    return status;
}
