#include "runtime/step_trace.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* In front of the numbers, which are 4 bytes each. */
struct record {
    char name[STEP_TRACE_NAME_MAX];
    int32_t layer, dtype;
    int64_t rows, columns;
};

enum { COLUMNS_MAX = 1 << 24 };

enum status step_trace_write(FILE *trace, int layer, const char *name, const struct tensor *t)
{
    struct record record = {.layer = layer, .dtype = (int32_t)t->dtype};
    snprintf(record.name, sizeof record.name, "%s", name);
    record.rows = t->dim[0];
    record.columns = t->dim[1];
    int is_written = fwrite(&record, sizeof record, 1, trace) == 1;
    for (int64_t i = 0; i < t->dim[0] && is_written; i++)
        is_written = fwrite((const char *)t->data + i * t->stride[0] * 4, 4, (size_t)t->dim[1],
                            trace) == (size_t)t->dim[1];
    if (!is_written || fflush(trace) != 0)
        FAIL(STATUS_IO, "LATENTRANK_DEBUG_TRACE: cannot be written: %s", strerror(errno));
    return STATUS_OK;
}

struct pair {
    FILE *expected, *found;
    float *a, *b; /* a row of each */
    int64_t capacity;
};

static enum status reserve(struct pair *pair, int64_t columns)
{
    if (columns <= pair->capacity)
        return STATUS_OK;
    free(pair->a);
    free(pair->b);
    pair->a = malloc((size_t)columns * sizeof *pair->a);
    pair->b = malloc((size_t)columns * sizeof *pair->b);
    pair->capacity = pair->a != NULL && pair->b != NULL ? columns : 0;
    if (pair->capacity == 0)
        FAIL(STATUS_NO_MEMORY, "no memory for a row of a trace");
    return STATUS_OK;
}

double relative_difference(const float *a, const float *b, int64_t n)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (difference != difference) /* not a number */
            return HUGE_VAL;
        most = fmax(most, difference);
        scale = fmax(scale, fabs((double)a[i]));
    }
    if (scale > 0)
        return most / scale;
    return most > 0 ? HUGE_VAL : 0;
}

/* Over the rows of one tensor; 0 when they end early. */
static double tensor_difference(struct pair *pair, const struct record *record, double tolerance)
{
    double worst = 0;
    size_t n = (size_t)record->columns;
    for (int64_t i = 0; i < record->rows; i++) {
        if (fread(pair->a, 4, n, pair->expected) != n || fread(pair->b, 4, n, pair->found) != n)
            return worst;
        if (memcmp(pair->a, pair->b, n * 4) == 0)
            continue;
        double difference =
            record->dtype == DTYPE_I32 ? 1 : relative_difference(pair->a, pair->b, record->columns);
        if (difference > tolerance)
            worst = fmax(worst, fmax(difference, 1e-300)); /* +0 and -0 have other bits */
    }
    return worst;
}

static enum status compare(struct step_trace_place *place, struct pair *pair, double tolerance)
{
    struct record a, b;
    int64_t step = -1;
    while (fread(&a, sizeof a, 1, pair->expected) == 1 &&
           fread(&b, sizeof b, 1, pair->found) == 1) {
        if (memcmp(&a, &b, sizeof a) != 0 || a.columns < 1 || a.columns > COLUMNS_MAX)
            FAIL(STATUS_INVALID, "the traces do not have the same tensors");
        TRY(reserve(pair, a.columns));
        step += a.layer < 0; /* the embedding begins a step */
        double difference = tensor_difference(pair, &a, tolerance);
        if (difference > 0) {
            *place =
                (struct step_trace_place){.step = step, .layer = a.layer, .difference = difference};
            memcpy(place->name, a.name, sizeof place->name - 1);
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static enum status open_pair(struct pair *pair, const char *expected, const char *found)
{
    pair->expected = fopen(expected, "rb");
    if (pair->expected == NULL)
        FAIL(STATUS_IO, "%s: %s", expected, strerror(errno));
    pair->found = fopen(found, "rb");
    if (pair->found == NULL)
        FAIL(STATUS_IO, "%s: %s", found, strerror(errno));
    return STATUS_OK;
}

enum status step_trace_compare(struct step_trace_place *place, const char *expected,
                               const char *found, double tolerance)
{
    struct pair pair = {.expected = NULL};
    *place = (struct step_trace_place){.layer = -1};
    enum status status = open_pair(&pair, expected, found);
    if (status == STATUS_OK)
        status = compare(place, &pair, tolerance);
    free(pair.a);
    free(pair.b);
    if (pair.expected != NULL)
        fclose(pair.expected);
    if (pair.found != NULL)
        fclose(pair.found);
    return status;
}
