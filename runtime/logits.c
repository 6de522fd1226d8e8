/* logits.c - the last product, split over the vocabulary, and the rows brought to rank 0.  Rows of
 * different sequences share a product, so that the vocabulary's weights are read once for a batch.
 *
 * All replicas of the last stage compute a block of rows at the same time.  The blocks then go one after
 * another to the first rank of that stage, and from there to rank 0, as members of tp gave them: for each
 * member its part of every row.  Where rank 0 is of another stage it has said before where they go: it may be
 * handing on the rows of a later step while the last stage wants to be rid of these. */
#include <string.h>

#include "parallel/ledger.h"
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

/* All members of tp get the logits of the rows in s->work->gathered. */
static enum status compute_rows(struct step *s, const struct wanted_rows *wanted)
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

/* The rows of a block, `gathered` from the members. */
static void hand_out(struct step *s, const float *gathered, const struct wanted_rows *wanted,
                     logits_sink sink, void *context, enum status *sunk)
{
    for (int i = 0; i < wanted->count && *sunk == STATUS_OK; i++) {
        join_row(s->work->joined, gathered, s->vocab_counts, s->tp->group.size, wanted->count, i);
        *sunk = sink(context, wanted->entry[i], wanted->token[i], s->work->joined);
    }
}

/* From replica `from` to replica 0, between members 0 of tp. */
static enum status cross_replicas(struct step *s, int from, int64_t count)
{
    const struct group *dp = &s->host_dp->group;
    struct tensor block = tensor_rows(&s->work->gathered, 0, count), none = block;
    none.dim[0] = 0;
    for (int i = 0; i < dp->size; i++)
        s->received_counts[i] = s->sent_counts[i] = 0;
    s->received_counts[from] = dp->index == 0 ? count : 0;
    s->sent_counts[0] = dp->index == from ? count : 0;
    return s->host_dp->ops->all_to_all(s->host_dp, dp->index == 0 ? &block : &none,
                                       dp->index == from ? &block : &none, s->received_counts,
                                       s->sent_counts, NULL);
}

/* The block that replica `from` has computed, to the first rank of the last stage, and on to rank 0. */
static enum status deliver(struct step *s, int from, const struct wanted_rows *wanted,
                           logits_sink sink, void *context, enum status *sunk)
{
    int64_t count = wanted->count * s->model->vocab_size;
    if (count == 0 || s->tp->group.index != 0)
        return STATUS_OK;
    if (from != 0)
        TRY(cross_replicas(s, from, count));
    if (s->host_dp->group.index == 0 && s->letters != NULL)
        return mailbox_send(s->letters, s->work->gathered.data, count * (int64_t)sizeof(float));
    if (sink != NULL)
        hand_out(s, s->work->gathered.data, wanted, sink, context, sunk);
    return STATUS_OK;
}

/* Goes through the blocks in the order in which they travel: of all replicas the first ones, then the next. */
static int next_block(struct wanted_rows *wanted, const struct step *s, int *block, int *from,
                      int *any)
{
    int n_replicas = s->host_dp->group.size;
    for (;; ++*from) {
        if (*from == n_replicas && !*any)
            return 0;
        if (*from == n_replicas) {
            *from = *any = 0;
            ++*block;
        }
        wanted_rows_build(wanted, s->all, n_replicas, *from, *block);
        *any |= wanted->count > 0;
        if (wanted->count > 0)
            return 1;
    }
}

enum status step_expect_logits(struct step *s)
{
    struct wanted_rows wanted;
    float *at = s->came;
    for (int block = 0, from = 0, any = 0; next_block(&wanted, s, &block, &from, &any); from++) {
        int64_t count = wanted.count * s->model->vocab_size;
        TRY(mailbox_expect(s->letters, at, count * (int64_t)sizeof(float)));
        at += count;
    }
    return STATUS_OK;
}

/* Rank 0 of a first stage that is not the last one. */
static enum status take_letters(struct step *s, logits_sink sink, void *context, enum status *sunk)
{
    struct wanted_rows wanted;
    const float *at = s->came;
    for (int block = 0, from = 0, any = 0; next_block(&wanted, s, &block, &from, &any); from++) {
        int64_t count = wanted.count * s->model->vocab_size;
        const float *gathered = s->came == NULL ? s->work->gathered.data : at;
        ledger_place(block, LEDGER_LOGITS);
        if (s->came == NULL)
            TRY(mailbox_expect(s->letters, s->work->gathered.data, count * (int64_t)sizeof(float)));
        TRY(mailbox_take(s->letters));
        hand_out(s, gathered, &wanted, sink, context, sunk);
        at += s->came == NULL ? 0 : count;
    }
    return STATUS_OK;
}

enum status step_logits(struct step *s, logits_sink sink, void *context, enum status *sunk)
{
    int own = s->host_dp->group.index, computed = -1;
    struct wanted_rows wanted;
    if (!s->plan->has_head)
        return sink == NULL ? STATUS_OK : take_letters(s, sink, context, sunk);
    for (int block = 0, from = 0, any = 0; next_block(&wanted, s, &block, &from, &any); from++) {
        if (block > computed) { /* all replicas at the same time */
            struct wanted_rows mine;
            ledger_place(block, LEDGER_LOGITS);
            wanted_rows_build(&mine, s->all, s->host_dp->group.size, own, block);
            if (mine.count > 0)
                TRY(compute_rows(s, &mine));
            computed = block;
        }
        TRY(deliver(s, from, &wanted, sink, context, sunk));
    }
    return STATUS_OK;
}
