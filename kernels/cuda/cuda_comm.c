/* cuda_comm.c - collectives between GPUs by NCCL, which is opened when the backend is.
 *
 * libnccl.so.2 is opened and not linked: 200 MB that one rank does not need, and
 * the backend must start on machines that have a GPU and no NCCL.
 *
 * Communicators are blocking ones.  Nonblocking NCCL starts a thread for every
 * operation (src/group.cc, ncclGroupEndInternal), twice a layer.  What could
 * wait forever is therefore kept away from: joining a group happens in a thread
 * that can be left behind, and who waits for a stream asks cuda_comm_check. */
#include "kernels/cuda/cuda_comm.h"

#include <dlfcn.h>
#include <errno.h>
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/progress.h"

enum {
    JOIN_S = 120,           /* for members that load a driver and open devices */
    OLDEST_VERSION = 21400, /* ncclCommInitRankConfig, ncclGetLastError */
};

/* return type, field, function, parameters */
#define FUNCTIONS(X)                                                                               \
    X(ncclResult_t, get_version, ncclGetVersion, (int *))                                          \
    X(ncclResult_t, get_unique_id, ncclGetUniqueId, (ncclUniqueId *))                              \
    X(ncclResult_t, init, ncclCommInitRankConfig,                                                  \
      (ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *))                                      \
    X(ncclResult_t, get_async_error, ncclCommGetAsyncError, (ncclComm_t, ncclResult_t *))          \
    X(ncclResult_t, destroy, ncclCommDestroy, (ncclComm_t))                                        \
    X(ncclResult_t, abort, ncclCommAbort, (ncclComm_t))                                            \
    X(const char *, error_string, ncclGetErrorString, (ncclResult_t))                              \
    X(const char *, last_error, ncclGetLastError, (ncclComm_t))                                    \
    X(ncclResult_t, all_reduce, ncclAllReduce,                                                     \
      (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t))       \
    X(ncclResult_t, reduce, ncclReduce,                                                            \
      (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, int, ncclComm_t, cudaStream_t))  \
    X(ncclResult_t, reduce_scatter, ncclReduceScatter,                                             \
      (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t))       \
    X(ncclResult_t, all_gather, ncclAllGather,                                                     \
      (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t))                    \
    X(ncclResult_t, broadcast, ncclBroadcast,                                                      \
      (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t))               \
    X(ncclResult_t, send, ncclSend,                                                                \
      (const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t))                       \
    X(ncclResult_t, receive, ncclRecv,                                                             \
      (void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t))                             \
    X(ncclResult_t, group_start, ncclGroupStart, (void))                                           \
    X(ncclResult_t, group_end, ncclGroupEnd, (void))

#define FIELD(type, field, function, parameters) type(*field) parameters;
#define CHECK_TYPE(type, field, function, parameters)                                              \
    _Static_assert(_Generic(&function, type(*) parameters : 1, default : 0),                       \
                   "nccl.h declares " #function " otherwise");
FUNCTIONS(CHECK_TYPE)

static struct {
    void *handle;
    char reason[512]; /* why there is none */
    FUNCTIONS(FIELD)
} nccl;

struct device_comm {
    ncclComm_t comm;
    int size, index;
    struct device_comm *next; /* in `opened` */
};

static struct device_comm *opened;

static enum status fail_nccl(ncclResult_t result, const char *call)
{
    const char *more = nccl.last_error(NULL);
    FAIL(STATUS_COMM, "NCCL: %s: %s%s%s", call, nccl.error_string(result),
         more != NULL && *more != '\0' ? "; " : "", more != NULL ? more : "");
}

/* Fails with what NCCL says of a call. */
#define NCCL_TRY(call)                                                                             \
    do {                                                                                           \
        ncclResult_t nccl_result_ = (call);                                                        \
        if (nccl_result_ != ncclSuccess)                                                           \
            return fail_nccl(nccl_result_, #call);                                                 \
    } while (0)

/* --- the library --- */

static const char *load_functions(void)
{
#define SLOT(type, field, function, parameters) {#function, (void **)(void *)&nccl.field},
    const struct {
        const char *name;
        void **slot;
    } functions[] = {FUNCTIONS(SLOT)};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        *functions[i].slot = dlsym(nccl.handle, functions[i].name);
        if (*functions[i].slot == NULL)
            return functions[i].name;
    }
    return NULL;
}

static void load_library(void)
{
    const char *name = getenv("LATENTRANK_DEBUG_NCCL_LIBRARY");
    int version = 0;
    if (name == NULL)
        name = "libnccl.so.2";
    nccl.handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (nccl.handle == NULL) {
        snprintf(nccl.reason, sizeof nccl.reason, "NCCL cannot be loaded: %s", dlerror());
        return;
    }
    const char *missing = load_functions();
    if (missing != NULL)
        snprintf(nccl.reason, sizeof nccl.reason, "%s has no function %s", name, missing);
    else if (nccl.get_version(&version) != ncclSuccess || version < OLDEST_VERSION)
        snprintf(nccl.reason, sizeof nccl.reason,
                 "%s is NCCL version code %d; %d or later is needed", name, version,
                 OLDEST_VERSION);
    /* it stays open: its threads may still be in it */
}

int cuda_comm_is_open(void)
{
    return opened != NULL;
}

static enum status check_one(const struct device_comm *comm)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = nccl.get_async_error(comm->comm, &state);
    if (result == ncclSuccess)
        result = state;
    return result == ncclSuccess ? STATUS_OK : fail_nccl(result, "ncclCommGetAsyncError");
}

enum status cuda_comm_check(void)
{
    for (const struct device_comm *comm = opened; comm != NULL; comm = comm->next)
        TRY(check_one(comm));
    return STATUS_OK;
}

/* --- joining a group --- */

struct joining {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int is_done, is_left; /* by the thread that joins, by the one that waits */
    int device, size, index;
    ncclUniqueId id;
    ncclComm_t comm;
    ncclResult_t result;
    char text[512]; /* what NCCL says of a failure, in this thread */
};

static void free_joining(struct joining *joining)
{
    pthread_cond_destroy(&joining->changed);
    pthread_mutex_destroy(&joining->mutex);
    free(joining);
}

static void *join_group(void *argument)
{
    struct joining *joining = argument;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    config.blocking = 1;
    ncclResult_t result = ncclUnhandledCudaError;
    if (cudaSetDevice(joining->device) == cudaSuccess)
        result = nccl.init(&comm, joining->size, joining->id, joining->index, &config);
    pthread_mutex_lock(&joining->mutex);
    joining->result = result;
    joining->comm = comm;
    if (result != ncclSuccess)
        snprintf(joining->text, sizeof joining->text, "%s; %s", nccl.error_string(result),
                 nccl.last_error(NULL));
    joining->is_done = 1;
    int is_left = joining->is_left;
    pthread_cond_signal(&joining->changed);
    pthread_mutex_unlock(&joining->mutex);
    if (is_left) {
        if (result == ncclSuccess)
            (void)nccl.abort(comm);
        free_joining(joining);
    }
    return NULL;
}

/* Signals go to the other threads. */
static int start_thread(struct joining *joining)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, join_group, joining);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_detach(thread);
    return error;
}

/* 1 when the thread has ended; else it ends `joining` itself. */
static int wait_for_group(struct joining *joining)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += JOIN_S;
    pthread_mutex_lock(&joining->mutex);
    while (!joining->is_done &&
           pthread_cond_timedwait(&joining->changed, &joining->mutex, &until) != ETIMEDOUT)
        ;
    int is_done = joining->is_done;
    joining->is_left = !is_done;
    pthread_mutex_unlock(&joining->mutex);
    return is_done;
}

static enum status join(ncclComm_t *comm, const unsigned char *id, int size, int index)
{
    struct joining *joining = calloc(1, sizeof *joining);
    if (joining == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to join a group of %d", size);
    joining->size = size;
    joining->index = index;
    memcpy(&joining->id, id, sizeof joining->id);
    pthread_mutex_init(&joining->mutex, NULL);
    pthread_cond_init(&joining->changed, NULL);
    cudaError_t error = cudaGetDevice(&joining->device);
    int refused = error == cudaSuccess ? start_thread(joining) : 0;
    if (error != cudaSuccess || refused != 0) {
        free_joining(joining);
        FAIL(STATUS_DEVICE, "cannot begin to join a group of %d: %s", size,
             error != cudaSuccess ? cudaGetErrorString(error) : strerror(refused));
    }
    if (!wait_for_group(joining))
        FAIL(STATUS_TIMEOUT,
             "NCCL: ncclCommInitRankConfig: the %d members have not met within %d s; "
             "NCCL_DEBUG=INFO shows why, --comm mpi does without NCCL",
             size, JOIN_S);
    enum status status = STATUS_OK;
    if (joining->result != ncclSuccess)
        status = status_fail(joining->result == ncclRemoteError ? STATUS_TIMEOUT : STATUS_COMM,
                             __FILE__, __LINE__, "NCCL: ncclCommInitRankConfig: %s", joining->text);
    *comm = joining->comm;
    free_joining(joining);
    return status;
}

/* --- operations --- */

static enum status nccl_identify(char name[DEVICE_NAME_BYTES])
{
    int device = 0;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetPCIBusId(name, DEVICE_NAME_BYTES, device));
    return STATUS_OK;
}

static enum status nccl_make_id(unsigned char id[DEVICE_COMM_ID_BYTES])
{
    _Static_assert(sizeof(ncclUniqueId) == DEVICE_COMM_ID_BYTES, "the size of NCCL's ids");
    ncclUniqueId made;
    NCCL_TRY(nccl.get_unique_id(&made));
    memcpy(id, &made, sizeof made);
    return STATUS_OK;
}

static enum status nccl_open(struct device_comm **comm,
                             const unsigned char id[DEVICE_COMM_ID_BYTES], int size, int index)
{
    struct device_comm *new_comm = calloc(1, sizeof *new_comm);
    if (new_comm == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a group of %d", size);
    new_comm->size = size;
    new_comm->index = index;
    enum status status = join(&new_comm->comm, id, size, index);
    if (status != STATUS_OK) {
        free(new_comm);
        return status;
    }
    new_comm->next = opened;
    opened = new_comm;
    *comm = new_comm;
    return STATUS_OK;
}

static void nccl_close(struct device_comm *comm, int has_failed)
{
    if (comm == NULL)
        return;
    for (struct device_comm **at = &opened; *at != NULL; at = &(*at)->next)
        if (*at == comm) {
            *at = comm->next;
            break;
        }
    ncclResult_t state = ncclSuccess;
    ncclResult_t asked = nccl.get_async_error(comm->comm, &state);
    if (has_failed || asked != ncclSuccess || state != ncclSuccess)
        (void)nccl.abort(comm->comm);
    else
        (void)nccl.destroy(comm->comm);
    free(comm);
}

/* All members get the same bits: a chunk is summed in one place, along the ring or the tree or in a switch,
 * and its sum is handed round ("receive identical results", NCCL user guide, Collective Operations).  The
 * order is NCCL's and changes with size and topology. */
static enum status nccl_all_reduce(struct device_comm *comm, float *x, int64_t count,
                                   struct stream *stream)
{
    NCCL_TRY(nccl.all_reduce(x, x, (size_t)count, ncclFloat32, ncclSum, comm->comm,
                             cuda_stream(stream)));
    return STATUS_OK;
}

/* The calls of a batch start together when it ends; one that is refused must not leave it open. */
static enum status end_batch(ncclResult_t result, const char *call)
{
    ncclResult_t ended = nccl.group_end();
    if (result != ncclSuccess)
        return fail_nccl(result, call);
    if (ended != ncclSuccess)
        return fail_nccl(ended, "ncclGroupEnd");
    return STATUS_OK;
}

static int are_equal(const size_t *bytes, int n)
{
    for (int i = 1; i < n; i++)
        if (bytes[i] != bytes[0])
            return 0;
    return 1;
}

static enum status nccl_reduce_scatter(struct device_comm *comm, float *y, const float *x,
                                       const int64_t *counts, struct stream *stream)
{
    int is_even = 1;
    for (int i = 1; i < comm->size; i++)
        is_even &= counts[i] == counts[0];
    if (is_even) {
        NCCL_TRY(nccl.reduce_scatter(x, y, (size_t)counts[0], ncclFloat32, ncclSum, comm->comm,
                                     cuda_stream(stream)));
        return STATUS_OK;
    }
    ncclResult_t result = ncclSuccess;
    NCCL_TRY(nccl.group_start());
    for (int i = 0; i < comm->size && result == ncclSuccess; x += counts[i++])
        if (counts[i] > 0)
            result = nccl.reduce(x, y, (size_t)counts[i], ncclFloat32, ncclSum, i, comm->comm,
                                 cuda_stream(stream));
    return end_batch(result, "ncclReduce");
}

static enum status nccl_all_gather(struct device_comm *comm, void *y, const void *x,
                                   const size_t *bytes, struct stream *stream)
{
    if (are_equal(bytes, comm->size)) {
        NCCL_TRY(nccl.all_gather(x, y, bytes[0], ncclUint8, comm->comm, cuda_stream(stream)));
        return STATUS_OK;
    }
    unsigned char *to = y;
    ncclResult_t result = ncclSuccess;
    NCCL_TRY(nccl.group_start());
    for (int i = 0; i < comm->size && result == ncclSuccess; i++) {
        if (bytes[i] > 0)
            result = nccl.broadcast(i == comm->index ? x : to, to, bytes[i], ncclUint8, i,
                                    comm->comm, cuda_stream(stream));
        to += bytes[i];
    }
    return end_batch(result, "ncclBroadcast");
}

static enum status nccl_exchange(struct device_comm *comm, const struct device_message *message,
                                 struct stream *stream)
{
    ncclResult_t result = ncclSuccess;
    NCCL_TRY(nccl.group_start());
    for (int i = 0; i < comm->size && result == ncclSuccess; i++) {
        if (message[i].sent_bytes > 0)
            result = nccl.send(message[i].sent, message[i].sent_bytes, ncclUint8, i, comm->comm,
                               cuda_stream(stream));
        if (message[i].received_bytes > 0 && result == ncclSuccess)
            result = nccl.receive(message[i].received, message[i].received_bytes, ncclUint8, i,
                                  comm->comm, cuda_stream(stream));
    }
    return end_batch(result, "ncclSend or ncclRecv");
}

static enum status nccl_broadcast(struct device_comm *comm, void *x, size_t bytes, int root,
                                  struct stream *stream)
{
    NCCL_TRY(nccl.broadcast(x, x, bytes, ncclUint8, root, comm->comm, cuda_stream(stream)));
    return STATUS_OK;
}

static enum status nccl_count(uint64_t *passed, struct stream *stream)
{
    const struct cuda_progress progress = {.passed = passed};
    CUDA_TRY(cuda_progress_count(&progress, cuda_stream(stream)));
    return STATUS_OK;
}

static const struct device_comm_ops nccl_ops = {
    .name = "nccl",
    .identify = nccl_identify,
    .make_id = nccl_make_id,
    .open = nccl_open,
    .all_reduce = nccl_all_reduce,
    .reduce_scatter = nccl_reduce_scatter,
    .all_gather = nccl_all_gather,
    .exchange = nccl_exchange,
    .broadcast = nccl_broadcast,
    .count = nccl_count,
    .close = nccl_close,
};

const struct device_comm_ops *cuda_comm_find(const char **reason)
{
    if (nccl.handle == NULL && *nccl.reason == '\0')
        load_library();
    *reason = nccl.reason;
    return *nccl.reason == '\0' ? &nccl_ops : NULL;
}
