#include "parallel/comm.h"

#include "kernels/core/log.h"
#include "parallel/ledger.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 320 };

static enum comm_backend chosen = COMM_AUTO;

void comm_set_backend(enum comm_backend backend)
{
    chosen = backend;
}

enum comm_backend comm_get_backend(void)
{
    return chosen;
}

static enum status open_chosen(struct comm *comm, const struct group *group)
{
    if (chosen == COMM_MPI)
        return comm_mpi_open(comm, group);
    enum status status = comm_shm_open(comm, group, 0);
    if (status != STATUS_UNSUPPORTED || chosen == COMM_SHM)
        return status;
    log_print(LOG_INFO, "messages go by MPI: %s", status_text());
    return comm_mpi_open(comm, group);
}

enum status comm_open(struct comm *comm, const struct group *group)
{
    if (group->size == 1)
        return comm_self_open(comm, group);
    TRY(open_chosen(comm, group));
    return ledger_wrap(comm);
}

void comm_close(struct comm *comm)
{
    if (comm == NULL || comm->ops == NULL)
        return;
    comm->ops->close(comm);
    comm->ops = NULL;
}

enum status comm_broadcast_bytes(struct comm *comm, void *data, size_t bytes, int root)
{
    struct tensor x = tensor_1d(data, DTYPE_U8, (int64_t)bytes);
    return comm->ops->broadcast(comm, &x, root, NULL);
}

/* "rank R (HOST)" of this process. */
static void name_self(char name[NAME_MAX_BYTES], const struct group *group)
{
    char host[256] = "unknown host";
    gethostname(host, sizeof host - 1);
    snprintf(name, NAME_MAX_BYTES, "rank %d (%s)", group->first + group->index * group->stride,
             host);
}

/* What the lowest failing member tells the others. */
struct verdict {
    int code;
    char name[NAME_MAX_BYTES];
    char text[STATUS_TEXT_MAX];
};

/* The text for the record of every member: with the name of its rank, unless all of them say the same
 * or the text begins with it already. */
static void verdict_text(char text[STATUS_TEXT_MAX], const struct verdict *verdict, int is_common)
{
    size_t name_bytes = strlen(verdict->name);
    if (is_common || strncmp(verdict->text, verdict->name, name_bytes) == 0)
        snprintf(text, STATUS_TEXT_MAX, "%s", verdict->text);
    else
        snprintf(text, STATUS_TEXT_MAX, "%s: %.*s", verdict->name,
                 (int)(STATUS_TEXT_MAX - name_bytes - 3), verdict->text);
}

enum status comm_agree(struct comm *comm, enum status own)
{
    int first, other;
    TRY(comm->ops->lowest(comm, &first, own != STATUS_OK));
    if (first < 0)
        return STATUS_OK;

    struct verdict verdict = {.code = (int)own};
    name_self(verdict.name, &comm->group);
    snprintf(verdict.text, sizeof verdict.text, "%s", own == STATUS_OK ? "" : status_text());
    char own_text[STATUS_TEXT_MAX];
    memcpy(own_text, verdict.text, sizeof own_text);

    TRY(comm_broadcast_bytes(comm, &verdict, sizeof verdict, first));
    int differs = own == STATUS_OK || strcmp(own_text, verdict.text) != 0;
    TRY(comm->ops->lowest(comm, &other, differs));

    char text[STATUS_TEXT_MAX];
    verdict_text(text, &verdict, other < 0);
    if (comm->group.index != first)
        FAIL((enum status)verdict.code, "%s", text);
    status_set_text(text); /* the frames of the failure stay */
    return own;
}

enum status comm_same(struct comm *comm, const char *what, uint64_t hash)
{
    struct report {
        uint64_t hash;
        char name[NAME_MAX_BYTES];
    } own = {.hash = hash};
    name_self(own.name, &comm->group);

    struct report first = own, other = own;
    int index;
    TRY(comm_broadcast_bytes(comm, &first, sizeof first, 0));
    TRY(comm->ops->lowest(comm, &index, first.hash != hash));
    if (index < 0)
        return STATUS_OK;
    TRY(comm_broadcast_bytes(comm, &other, sizeof other, index));
    FAIL(STATUS_INVALID,
         "%s differs between ranks: hash %016" PRIx64 " on %s, %016" PRIx64
         " on %s; start all ranks with the same files, options and environment",
         what, first.hash, first.name, other.hash, other.name);
}
