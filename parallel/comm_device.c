/* comm_device.c - how the tensors of devices travel: by NCCL where it can, else through host memory. */
#include "parallel/comm.h"

#include "kernels/core/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* A node as NCCL tells them apart: NCCL_HOSTID, else its name and the system's start (ncclOsGetHostHash). */
static void name_node(char *name, size_t size)
{
    const char *given = getenv("NCCL_HOSTID");
    char host[256] = "", boot[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file != NULL) {
        if (fgets(boot, sizeof boot, file) == NULL)
            boot[0] = '\0';
        fclose(file);
    }
    gethostname(host, sizeof host - 1);
    if (given != NULL)
        snprintf(name, size, "%s", given);
    else
        snprintf(name, size, "%s %s", host, boot);
}

/* Fails on members that have the device of a lower one.  Collective over `host`. */
static enum status check_own_device(struct comm *host, const struct device_comm_ops *library)
{
    char name[DEVICE_NAME_BYTES] = "", node[512];
    const struct group *group = &host->group;
    int other = -1;
    TRY(comm_agree(host, library->identify(name)));
    name_node(node, sizeof node);
    const uint64_t own = XXH3_64bits_withSeed(name, strlen(name), XXH3_64bits(node, strlen(node)));
    for (int i = 0; i < group->size; i++) {
        uint64_t hash = own;
        TRY(comm_broadcast_bytes(host, &hash, sizeof hash, i));
        if (hash == own && i < group->index && other < 0)
            other = i;
    }
    if (other >= 0)
        FAIL(STATUS_UNSUPPORTED, "it shares the GPU %s with rank %d, and NCCL wants one a rank",
             name, group->first + other * group->stride);
    return STATUS_OK;
}

static enum status find_library(const struct comm_device *device)
{
    if (device->library == NULL)
        FAIL(STATUS_UNSUPPORTED, "%s", device->reason);
    return STATUS_OK;
}

static enum status open_nccl(struct comm *comm, struct comm *host, struct comm *all,
                             const struct comm_device *device)
{
    enum status status = comm_nccl_open(comm, host, device);
    enum status agreed = comm_agree(all, status);
    if (status == STATUS_OK && agreed != STATUS_OK) /* another group's */
        comm_close(comm);
    if (agreed == STATUS_OK && all->group.index == 0 && !device->is_quiet)
        log_print(LOG_INFO, "%d ranks sum by NCCL", all->group.size);
    return agreed;
}

static enum status open_staged(struct comm *comm, struct comm *host, struct comm *all,
                               const struct comm_device *device, enum log_level level,
                               const char *reason)
{
    if (all->group.index == 0 && !device->is_quiet)
        log_print(level, "%d ranks sum through host memory, %s", all->group.size, reason);
    return comm_agree(all, comm_staged_open(comm, host, device->device, device->pinned));
}

enum status comm_device_open(struct comm *comm, struct comm *host, struct comm *all,
                             const struct comm_device *device)
{
    char reason[STATUS_TEXT_MAX];
    enum comm_backend backend = comm_get_backend();
    if (backend == COMM_MPI || backend == COMM_SHM)
        return open_staged(comm, host, all, device, LOG_INFO, "as --comm says");
    enum status status = comm_agree(all, find_library(device));
    if (status == STATUS_OK)
        status = comm_agree(all, check_own_device(host, device->library));
    if (status == STATUS_OK)
        return open_nccl(comm, host, all, device);
    if (backend == COMM_NCCL)
        return status_prefix(status, "--comm nccl");
    if (status != STATUS_UNSUPPORTED)
        return status;
    snprintf(reason, sizeof reason, "which is slow: %s", status_text());
    status_clear();
    return open_staged(comm, host, all, device, LOG_WARN, reason);
}
