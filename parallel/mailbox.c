#include "parallel/mailbox.h"

#include "parallel/ledger_board.h"
#include "parallel/mpi_internal.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 2 };

struct mailbox {
    struct group pair;
    MPI_Comm mpi;
    struct letter {
        MPI_Request request;
        int64_t bytes;
        void *copy; /* of what is sent; it stays for the next one in this place */
        int64_t copy_bytes;
    } * letter; /* [capacity], a ring */
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
    struct letter *letter = calloc((size_t)capacity, sizeof *letter);
    if (opened == NULL || letter == NULL) {
        free(opened);
        free(letter);
        mpi_comm_closed(&mpi);
        FAIL(STATUS_NO_MEMORY, "no memory for %d letters of the %s group", capacity, pair->name);
    }
    *opened = (struct mailbox){.pair = *pair, .mpi = mpi, .letter = letter, .capacity = capacity};
    *box = opened;
    return STATUS_OK;
}

/* The place behind the last letter. */
static struct letter *next_place(struct mailbox *box)
{
    return &box->letter[(box->first + box->n) % box->capacity];
}

/* The first one, which leaves the ring. */
static struct letter *pop(struct mailbox *box)
{
    struct letter *letter = &box->letter[box->first];
    box->first = (box->first + 1) % box->capacity;
    box->n--;
    return letter;
}

void mailbox_close(struct mailbox *box)
{
    if (box == NULL)
        return;
    while (box->n > 0) {
        struct letter *letter = pop(box);
        int is_gone = 0;
        if (MPI_Test(&letter->request, &is_gone, MPI_STATUS_IGNORE) != MPI_SUCCESS || is_gone)
            continue;
        MPI_Cancel(&letter->request);
        MPI_Request_free(&letter->request);
    }
    for (int i = 0; i < box->capacity; i++)
        free(box->letter[i].copy);
    mpi_comm_closed(&box->mpi);
    free(box->letter);
    free(box);
}

enum status mailbox_expect(struct mailbox *box, void *data, int64_t bytes)
{
    assert(box->pair.index == 0 && box->n < box->capacity && bytes <= MAILBOX_LETTER_MAX);
    struct letter *letter = next_place(box);
    MPI_TRY(MPI_Irecv(data, (int)bytes, MPI_BYTE, 1, TAG, box->mpi, &letter->request));
    letter->bytes = bytes;
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

static enum status receive(struct letter *letter)
{
    MPI_Status come;
    int count = 0;
    MPI_TRY(MPI_Wait(&letter->request, &come));
    MPI_TRY(MPI_Get_count(&come, MPI_BYTE, &count));
    if (count != letter->bytes)
        FAIL(STATUS_COMM, "a letter of %d bytes came, of %lld was expected", count,
             (long long)letter->bytes);
    return STATUS_OK;
}

enum status mailbox_take(struct mailbox *box)
{
    assert(box->pair.index == 0 && box->n > 0);
    struct letter *letter = pop(box);
    note_begin(box, letter->bytes);
    enum status status = receive(letter);
    note_end();
    return status;
}

/* Forgets letters that have gone: at least the first one, when there is no place for another. */
static enum status make_room(struct mailbox *box)
{
    while (box->n > 0) {
        int is_gone = 0;
        MPI_Request *request = &box->letter[box->first].request;
        if (box->n == box->capacity)
            MPI_TRY(MPI_Wait(request, MPI_STATUS_IGNORE));
        else
            MPI_TRY(MPI_Test(request, &is_gone, MPI_STATUS_IGNORE));
        if (box->n < box->capacity && !is_gone)
            break;
        pop(box);
    }
    return STATUS_OK;
}

static enum status send_copy(struct mailbox *box, const void *data, int64_t bytes)
{
    TRY(make_room(box));
    struct letter *letter = next_place(box);
    if (bytes > letter->copy_bytes) {
        free(letter->copy);
        letter->copy_bytes = 0;
        letter->copy = malloc((size_t)bytes);
        if (letter->copy == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for a letter of %lld bytes", (long long)bytes);
        letter->copy_bytes = bytes;
    }
    if (bytes > 0)
        memcpy(letter->copy, data, (size_t)bytes);
    MPI_TRY(MPI_Isend(letter->copy, (int)bytes, MPI_BYTE, 0, TAG, box->mpi, &letter->request));
    box->n++;
    return STATUS_OK;
}

enum status mailbox_send(struct mailbox *box, const void *data, int64_t bytes)
{
    assert(box->pair.index == 1 && bytes <= MAILBOX_LETTER_MAX);
    note_begin(box, bytes);
    enum status status = send_copy(box, data, bytes);
    note_end();
    return status;
}
