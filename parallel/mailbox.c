#include "parallel/mailbox.h"

#include "parallel/ledger_board.h"
#include "parallel/mpi_internal.h"
#include <assert.h>
#include <stdlib.h>

enum { TAG = 2 };

struct mailbox {
    struct group pair;
    MPI_Comm mpi;
    MPI_Request *request; /* [capacity], a ring */
    int64_t *bytes;       /* [capacity] */
    int capacity, first, n;
};

enum status mailbox_open(struct mailbox **box, const struct group *pair, int capacity)
{
    MPI_Comm mpi = MPI_COMM_NULL;
    *box = NULL;
    if (pair->size == 1)
        return STATUS_OK;
    assert(pair->size == 2 && capacity > 0);
    TRY(mpi_comm_of_group(&mpi, pair));
    struct mailbox *opened = calloc(1, sizeof *opened);
    MPI_Request *request = calloc((size_t)capacity, sizeof(MPI_Request));
    int64_t *bytes = calloc((size_t)capacity, sizeof *bytes);
    if (opened == NULL || request == NULL || bytes == NULL) {
        free(opened);
        free(request);
        free(bytes);
        mpi_comm_closed(&mpi);
        FAIL(STATUS_NO_MEMORY, "no memory for %d letters of the %s group", capacity, pair->name);
    }
    *opened = (struct mailbox){
        .pair = *pair, .mpi = mpi, .request = request, .bytes = bytes, .capacity = capacity};
    *box = opened;
    return STATUS_OK;
}

void mailbox_close(struct mailbox *box)
{
    if (box == NULL)
        return;
    for (; box->n > 0; box->n--) {
        MPI_Request *request = &box->request[box->first];
        MPI_Cancel(request);
        MPI_Request_free(request);
        box->first = (box->first + 1) % box->capacity;
    }
    mpi_comm_closed(&box->mpi);
    free(box->request);
    free(box->bytes);
    free(box);
}

enum status mailbox_expect(struct mailbox *box, void *data, int64_t bytes)
{
    assert(box->pair.index == 0 && box->n < box->capacity && bytes <= MAILBOX_LETTER_MAX);
    int at = (box->first + box->n) % box->capacity;
    MPI_TRY(MPI_Irecv(data, (int)bytes, MPI_BYTE, 1, TAG, box->mpi, &box->request[at]));
    box->bytes[at] = bytes;
    box->n++;
    return STATUS_OK;
}

static void note_begin(const struct mailbox *box, int64_t bytes)
{
    if (ledger_is_on())
        ledger_begin(LEDGER_HAND_OVER, &box->pair, bytes);
}

static void note_end(void)
{
    if (ledger_is_on())
        ledger_end();
}

static enum status wait_for(struct mailbox *box, int at)
{
    MPI_Status come;
    int count = 0;
    MPI_TRY(MPI_Wait(&box->request[at], &come));
    MPI_TRY(MPI_Get_count(&come, MPI_BYTE, &count));
    if (count != box->bytes[at])
        FAIL(STATUS_COMM, "a letter of %d bytes came, of %lld was expected", count,
             (long long)box->bytes[at]);
    return STATUS_OK;
}

enum status mailbox_take(struct mailbox *box)
{
    assert(box->pair.index == 0 && box->n > 0);
    int at = box->first;
    box->first = (box->first + 1) % box->capacity;
    box->n--;
    note_begin(box, box->bytes[at]);
    enum status status = wait_for(box, at);
    note_end();
    return status;
}

static enum status send_now(struct mailbox *box, const void *data, int64_t bytes)
{
    MPI_TRY(MPI_Send(data, (int)bytes, MPI_BYTE, 0, TAG, box->mpi));
    return STATUS_OK;
}

enum status mailbox_send(struct mailbox *box, const void *data, int64_t bytes)
{
    assert(box->pair.index == 1 && bytes <= MAILBOX_LETTER_MAX);
    note_begin(box, bytes);
    enum status status = send_now(box, data, bytes);
    note_end();
    return status;
}
