/* logits.c - the last product, split over the vocabulary, and the rows brought together.  Rows of
 * different sequences share a product, so that the vocabulary's weights are read once for a batch. */
#include <string.h>

#include "runtime/step.h"

/* Rows of the step whose logits are computed together. */
struct wanted {
    int count;
    int entry[LOGITS_ROWS];
    int64_t row[LOGITS_ROWS]; /* in the step */
};

/* Row `row` of `n_rows` from the members' blocks [n_rows, counts[m]], in order of members. */
static void join_row(float *logits, const float *gathered, const int64_t *counts, int members,
                     int64_t n_rows, int64_t row)
{
    for (int m = 0; m < members; m++) {
        memcpy(logits, gathered + row * counts[m], (size_t)counts[m] * sizeof *logits);
        logits += counts[m];
        gathered += n_rows * counts[m];
    }
}

/* All members get the logits of the rows in s->work->gathered. */
static enum status gather_rows(struct step *s, const struct wanted *wanted)
{
    int64_t n_rows = wanted->count;
    struct tensor logits = tensor_rows(&s->work->logits, 0, n_rows);
    struct tensor gathered = tensor_rows(&s->work->gathered, 0, n_rows * s->model->vocab_size);
    struct tensor all = tensor_rows(&s->work->h, 0, n_rows);

    for (int begin = 0, end; begin < wanted->count; begin = end) { /* rows that are neighbours */
        for (end = begin + 1; end < wanted->count; end++)
            if (wanted->row[end] != wanted->row[end - 1] + 1)
                break;
        struct tensor x = tensor_rows(&s->work->x, wanted->row[begin], wanted->row[end - 1] + 1);
        struct tensor h = tensor_rows(&all, begin, end);
        TRY(s->ops->rms_norm(&h, &x, &s->weights->final_gain, s->model->epsilon, s->stream));
    }
    for (int m = 0; m < s->tp->group.size; m++)
        s->gather_counts[m] = n_rows * s->vocab_counts[m];
    TRY(s->ops->gemm(&logits, &all, &s->weights->head, s->stream));
    if (!s->device->is_host) {
        struct tensor host = tensor_rows(&s->work->host_logits, 0, n_rows);
        TRY(s->device->copy_out(host.data, logits.data,
                                (size_t)tensor_count(&logits) * sizeof(float), s->stream));
        TRY(s->device->synchronize(s->stream));
        logits = host;
    }
    return s->host_tp->ops->all_gather(s->host_tp, &gathered, &logits, s->gather_counts, s->stream);
}

/* Computes the rows, hands them out and empties the list. */
static enum status flush(struct step *s, struct wanted *wanted, logits_sink sink, void *context,
                         enum status *sunk)
{
    int count = wanted->count;
    if (count == 0)
        return STATUS_OK;
    TRY(gather_rows(s, wanted));
    for (int i = 0; sink != NULL && *sunk == STATUS_OK && i < count; i++) {
        const struct batch_entry *entry = &s->batch->entry[wanted->entry[i]];
        join_row(s->work->joined, s->work->gathered.data, s->vocab_counts, s->tp->group.size, count,
                 i);
        *sunk =
            sink(context, wanted->entry[i], (int)(wanted->row[i] - entry->begin), s->work->joined);
    }
    wanted->count = 0;
    return STATUS_OK;
}

enum status step_logits(struct step *s, logits_sink sink, void *context, enum status *sunk)
{
    struct wanted wanted = {.count = 0};
    for (int i = 0; i < s->batch->n_entries; i++) {
        const struct batch_entry *entry = &s->batch->entry[i];
        for (int64_t row = entry->first_logits; row < entry->end; row++) {
            wanted.entry[wanted.count] = i;
            wanted.row[wanted.count++] = row;
            if (wanted.count == LOGITS_ROWS)
                TRY(flush(s, &wanted, sink, context, sunk));
        }
    }
    return flush(s, &wanted, sink, context, sunk);
}
