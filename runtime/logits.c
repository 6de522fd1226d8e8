/* logits.c - the last product, split over the vocabulary, and the rows brought together. */
#include <string.h>

#include "runtime/step.h"

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

/* Rows [begin, end) of the step, at most LOGITS_ROWS; all members get them in s->work->gathered. */
static enum status gather_rows(struct step *s, int64_t begin, int64_t end)
{
    int64_t n_rows = end - begin;
    struct tensor x = tensor_rows(&s->work->x, begin, end);
    struct tensor h = tensor_rows(&s->work->h, 0, n_rows);
    struct tensor logits = tensor_rows(&s->work->logits, 0, n_rows);
    struct tensor gathered = tensor_rows(&s->work->gathered, 0, n_rows * s->model->vocab_size);

    for (int m = 0; m < s->tp->group.size; m++)
        s->gather_counts[m] = n_rows * s->vocab_counts[m];
    TRY(s->ops->rms_norm(&h, &x, &s->weights->final_gain, s->model->epsilon, s->stream));
    TRY(s->ops->gemm(&logits, &h, &s->weights->head, s->stream));
    return s->tp->ops->all_gather(s->tp, &gathered, &logits, s->gather_counts, s->stream);
}

enum status step_logits(struct step *s, logits_sink sink, void *context, enum status *sunk)
{
    float *row_logits = s->work->joined;
    for (int i = 0; i < s->batch->n_entries; i++) {
        const struct batch_entry *entry = &s->batch->entry[i];
        for (int64_t begin = entry->first_logits; begin < entry->end; begin += LOGITS_ROWS) {
            int64_t end = begin + LOGITS_ROWS < entry->end ? begin + LOGITS_ROWS : entry->end;
            TRY(gather_rows(s, begin, end));
            for (int64_t row = begin; sink != NULL && *sunk == STATUS_OK && row < end; row++) {
                join_row(row_logits, s->work->gathered.data, s->vocab_counts, s->tp->group.size,
                         end - begin, row - begin);
                *sunk = sink(context, i, (int)(row - entry->begin), row_logits);
            }
        }
    }
    return STATUS_OK;
}
