/* nccl_twin.c - the functions of NCCL that the backend calls, between processes of this machine, over memory that
 * the emulated devices are.
 *
 * NCCL hangs, or sums what does not belong together, when ranks call different
 * things.  The twin compares: each member publishes what it is about to do, and
 * a difference ends the program with status 3 and a line that names it.  Sends
 * meet receives pair by pair, as in NCCL, where a third member need not call.
 * Sums begin at another member every 64 numbers, so that nobody relies on the
 * order of the tree.  Operations run when the emulated stream comes to them, also
 * in graphs (cudaLaunchHostFunc of the emulator).
 *
 * CUDA_EMULATOR_NCCL_TIMEOUT=S: how long a member waits (60).
 * CUDA_EMULATOR_NCCL_REFUSE=R: member R cannot join. */
#define _GNU_SOURCE /* RTLD_NOLOAD */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    MEMBERS = 16,
    BATCH = 64,        /* operations that start together */
    SLOT = 256 * 1024, /* bytes of a collective that move at a time */
    PIECE = 16 * 1024, /* and of a message */
    EXIT_MISUSE = 3,   /* as the emulator's */
    SUM_RUN = 64,      /* numbers that are summed from the same member on */
};

ncclResult_t ncclGroupStart(void); /* nccl.h leaves the parameters open */
ncclResult_t ncclGroupEnd(void);

enum kind { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, SEND, RECEIVE };
static const char *const kind_names[] = {"all_reduce", "reduce", "reduce_scatter", "all_gather",
                                         "broadcast",  "send",   "receive"};

struct operation {
    enum kind kind;
    ncclDataType_t type;
    ncclRedOp_t reduction; /* of sums */
    int root;              /* or the peer */
    size_t count;
    const void *from;
    void *to;
    int is_captured;
};

enum presence { ABSENT, PRESENT, REFUSED, LEFT, ABORTED };

/* What the members see of each other. */
struct member {
    _Atomic int presence;
    char place[64], device[32];     /* node and device, written before it is PRESENT */
    _Atomic uint64_t met;           /* how often it has come to a meeting */
    _Atomic uint64_t n_collectives; /* begun */
    _Atomic int n_open;             /* operations of a batch that it has not ended */
    struct operation next;          /* valid at a meeting */
};

struct channel { /* from a member to another */
    _Atomic uint64_t written, read;
    size_t total, bytes; /* of the message, of this piece */
    uint64_t n_collectives;
    int is_captured;
    unsigned char data[PIECE];
};

struct shared {
    _Atomic int is_reported;
    struct member member[MEMBERS];
    struct channel channel[MEMBERS][MEMBERS];
    unsigned char slot[MEMBERS][SLOT];
};

struct batch {
    struct ncclComm *comm;
    cudaStream_t stream;
    int n;
    struct batch *next; /* of those that a graph holds */
    struct operation operation[BATCH];
};

struct ncclComm {
    struct shared *shared;
    int size, index;
    uint64_t meetings;
    struct batch *kept;
};

static __thread int depth;
static __thread struct batch *open_batch;
static char last_error[256];

/* The emulator's; it is in the library that has opened us. */
static cudaError_t (*launch_host)(cudaStream_t, cudaHostFn_t, void *);
static cudaError_t (*is_capturing)(cudaStream_t, enum cudaStreamCaptureStatus *);
static cudaError_t (*get_device)(int *);
static cudaError_t (*bus_id)(char *, int, int);

__attribute__((format(printf, 2, 3))) _Noreturn static void misuse(struct ncclComm *comm,
                                                                   const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (comm == NULL || atomic_exchange(&comm->shared->is_reported, 1) == 0)
        fprintf(stderr, "NCCL twin: member %d of %d: %s\n", comm == NULL ? 0 : comm->index,
                comm == NULL ? 0 : comm->size, text);
    _exit(EXIT_MISUSE);
}

static size_t type_bytes(ncclDataType_t type)
{
    switch (type) {
    case ncclUint8:
        return 1;
    case ncclFloat32:
        return 4;
    default:
        misuse(NULL, "type %d is not one that the backend uses", (int)type);
    }
}

static void describe(char text[160], const struct operation *o)
{
    static const char *const what[] = {"", " to ", "", "", " from ", " to ", " from "};
    char root[32] = "";
    if (*what[o->kind] != '\0')
        snprintf(root, sizeof root, "%s%d", what[o->kind], o->root);
    snprintf(text, 160, "%s of %zu numbers of type %d%s%s", kind_names[o->kind], o->count,
             (int)o->type, root, o->is_captured ? ", in a graph" : "");
}

/* --- waiting --- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double timeout_s(void)
{
    const char *text = getenv("CUDA_EMULATOR_NCCL_TIMEOUT");
    return text != NULL ? atof(text) : 60;
}

struct patience {
    unsigned turns;
    double until;
};

/* 0 when it is over. */
static int wait_a_little(struct patience *patience)
{
    const struct timespec rest = {.tv_nsec = 50000};
    if (patience->turns++ == 0)
        patience->until = now_s() + timeout_s();
    if (patience->turns < 200)
        sched_yield();
    else
        nanosleep(&rest, NULL);
    return patience->turns % 64 != 0 || now_s() < patience->until;
}

/* Waits for member `other`, or says why it cannot come. */
static void wait_for(struct ncclComm *comm, struct patience *patience, int other, const char *what)
{
    const struct member *m = &comm->shared->member[other];
    int presence = atomic_load(&m->presence);
    if (atomic_load(&comm->shared->is_reported))
        _exit(EXIT_MISUSE);
    if (presence == LEFT || presence == ABORTED)
        misuse(comm, "%s: member %d has %s the group", what, other,
               presence == LEFT ? "left" : "aborted");
    if (!wait_a_little(patience))
        misuse(comm,
               "%s: member %d has not come; it has begun %llu collectives, and has %d "
               "operations in a batch that it has not ended",
               what, other, (unsigned long long)atomic_load(&m->n_collectives),
               atomic_load(&m->n_open));
}

static void meet(struct ncclComm *comm, const char *what)
{
    uint64_t meeting = ++comm->meetings;
    struct patience patience = {0};
    atomic_store(&comm->shared->member[comm->index].met, meeting);
    for (int i = 0; i < comm->size; i++)
        while (atomic_load(&comm->shared->member[i].met) < meeting)
            wait_for(comm, &patience, i, what);
}

/* --- collectives --- */

static void compare(struct ncclComm *comm, const char *what, uint64_t number)
{
    const struct operation *own = &comm->shared->member[comm->index].next;
    for (int i = 0; i < comm->size; i++) {
        const struct operation *o = &comm->shared->member[i].next;
        char other[160];
        if (o->kind == own->kind && o->type == own->type && o->count == own->count &&
            o->root == own->root && o->reduction == own->reduction &&
            o->is_captured == own->is_captured)
            continue;
        describe(other, o);
        misuse(comm, "collective %llu differs: %s here, %s on member %d",
               (unsigned long long)number, what, other, i);
    }
}

static void sum_slots(const struct ncclComm *comm, float *to, size_t count, size_t first)
{
    for (size_t k = 0; k < count; k++) {
        int from = (int)((first + k) / SUM_RUN % (size_t)comm->size);
        float sum = 0;
        for (int i = 0; i < comm->size; i++) {
            float x;
            memcpy(&x, comm->shared->slot[(from + i) % comm->size] + k * sizeof x, sizeof x);
            sum = i == 0 ? x : sum + x;
        }
        memcpy(to + first + k, &sum, sizeof sum);
    }
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Everybody shows its numbers of the part, and whose it is adds them. */
static void scatter_part(struct ncclComm *comm, const struct operation *o, int part,
                         const char *what)
{
    size_t bytes = o->count * sizeof(float);
    const char *from = (const char *)o->from + (size_t)part * bytes;
    for (size_t at = 0; at < bytes; at += SLOT) {
        size_t n = least(SLOT, bytes - at);
        memcpy(comm->shared->slot[comm->index], from + at, n);
        meet(comm, what);
        if (part == comm->index)
            sum_slots(comm, o->to, n / sizeof(float), at / sizeof(float));
        meet(comm, what);
    }
}

static void run_collective(struct ncclComm *comm, const struct operation *o)
{
    struct shared *shared = comm->shared;
    struct member *own = &shared->member[comm->index];
    size_t bytes = o->count * type_bytes(o->type);
    uint64_t number = atomic_fetch_add(&own->n_collectives, 1) + 1;
    char what[160];
    describe(what, o);
    own->next = *o;
    meet(comm, what);
    compare(comm, what, number);
    for (int part = 0; part < comm->size && o->kind == REDUCE_SCATTER; part++)
        scatter_part(comm, o, part, what);
    for (size_t at = 0; at < bytes && o->kind != REDUCE_SCATTER; at += SLOT) {
        size_t n = least(SLOT, bytes - at);
        if (o->kind != BROADCAST || o->root == comm->index)
            memcpy(shared->slot[comm->index], (const char *)o->from + at, n);
        meet(comm, what);
        if (o->kind == ALL_REDUCE || (o->kind == REDUCE && o->root == comm->index))
            sum_slots(comm, o->to, n / sizeof(float), at / sizeof(float));
        for (int i = 0; i < comm->size && o->kind == ALL_GATHER; i++)
            memcpy((char *)o->to + (size_t)i * bytes + at, shared->slot[i], n);
        if (o->kind == BROADCAST)
            memcpy((char *)o->to + at, shared->slot[o->root], n);
        meet(comm, what);
    }
    meet(comm, what); /* nobody writes what it does next before all have compared */
}

/* --- messages --- */

struct transfer {
    const struct operation *operation;
    size_t bytes, done;
    int is_over;
};

/* 1 when something moved. */
static int push_piece(struct ncclComm *comm, struct transfer *t)
{
    struct channel *c = &comm->shared->channel[comm->index][t->operation->root];
    if (atomic_load(&c->read) != atomic_load(&c->written))
        return 0;
    c->total = t->bytes;
    c->bytes = least(PIECE, t->bytes - t->done);
    c->n_collectives = atomic_load(&comm->shared->member[comm->index].n_collectives);
    c->is_captured = t->operation->is_captured;
    memcpy(c->data, (const char *)t->operation->from + t->done, c->bytes);
    t->done += c->bytes;
    t->is_over = t->done == t->bytes;
    atomic_fetch_add(&c->written, 1);
    return 1;
}

static int pull_piece(struct ncclComm *comm, struct transfer *t)
{
    int peer = t->operation->root;
    struct channel *c = &comm->shared->channel[peer][comm->index];
    uint64_t own = atomic_load(&comm->shared->member[comm->index].n_collectives);
    if (atomic_load(&c->read) == atomic_load(&c->written))
        return 0;
    if (c->total != t->bytes)
        misuse(comm, "member %d sends %zu bytes, and %zu are received of it", peer, c->total,
               t->bytes);
    if (c->n_collectives != own)
        misuse(comm,
               "a message from member %d, sent after %llu collectives, is received after %llu",
               peer, (unsigned long long)c->n_collectives, (unsigned long long)own);
    if (c->is_captured != t->operation->is_captured)
        misuse(comm, "a message from member %d is in a graph on one side only", peer);
    memcpy((char *)t->operation->to + t->done, c->data, c->bytes);
    t->done += c->bytes;
    t->is_over = t->done == t->bytes;
    atomic_fetch_add(&c->read, 1);
    return 1;
}

/* Messages between two members keep their order. */
static int is_behind_another(const struct transfer *transfer, int i)
{
    for (int k = 0; k < i; k++)
        if (!transfer[k].is_over && transfer[k].operation->kind == transfer[i].operation->kind &&
            transfer[k].operation->root == transfer[i].operation->root)
            return 1;
    return 0;
}

static void run_messages(struct ncclComm *comm, struct transfer *transfer, int n)
{
    struct patience patience = {0};
    for (int n_over = 0; n_over < n;) {
        int moved = 0, waiting = -1;
        for (int i = n_over = 0; i < n; i++) {
            if (!transfer[i].is_over && !is_behind_another(transfer, i))
                moved |= transfer[i].operation->kind == SEND ? push_piece(comm, &transfer[i])
                                                             : pull_piece(comm, &transfer[i]);
            n_over += transfer[i].is_over;
            if (!transfer[i].is_over && waiting < 0)
                waiting = i;
        }
        if (moved)
            patience = (struct patience){0};
        else if (waiting >= 0) {
            char what[160];
            describe(what, transfer[waiting].operation);
            wait_for(comm, &patience, transfer[waiting].operation->root, what);
        }
    }
}

static void run_batch(void *argument)
{
    struct batch *batch = argument;
    struct transfer transfer[BATCH];
    int n_transfers = 0;
    for (int i = 0; i < batch->n; i++) {
        const struct operation *o = &batch->operation[i];
        if (o->kind != SEND && o->kind != RECEIVE)
            run_collective(batch->comm, o);
        else if (o->count > 0)
            transfer[n_transfers++] =
                (struct transfer){.operation = o, .bytes = o->count * type_bytes(o->type)};
    }
    run_messages(batch->comm, transfer, n_transfers);
}

/* --- what is called --- */

static ncclResult_t refuse(ncclResult_t result, const char *text)
{
    snprintf(last_error, sizeof last_error, "%s", text);
    return result;
}

static ncclResult_t start_batch(struct batch *batch)
{
    struct ncclComm *comm = batch->comm;
    int is_kept = batch->operation[0].is_captured;
    if (launch_host(batch->stream, run_batch, batch) != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "the stream takes no operations");
    if (is_kept) {
        batch->next = comm->kept;
        comm->kept = batch;
    } else {
        free(batch);
    }
    return ncclSuccess;
}

static void check_operation(struct ncclComm *comm, const struct operation *o)
{
    size_t bytes = o->count * type_bytes(o->type);
    const char *from = o->from, *to = o->to;
    int is_sum = o->kind == ALL_REDUCE || o->kind == REDUCE || o->kind == REDUCE_SCATTER;
    int reads = o->kind != RECEIVE && (o->kind != BROADCAST || o->root == comm->index);
    int writes = o->kind != SEND && (o->kind != REDUCE || o->root == comm->index);
    if (bytes > 0 && ((reads && from == NULL) || (writes && to == NULL)))
        misuse(comm, "%s of %zu bytes at NULL", kind_names[o->kind], bytes);
    if (o->root < 0 || o->root >= comm->size)
        misuse(comm, "%s with member %d", kind_names[o->kind], o->root);
    if (is_sum && (o->type != ncclFloat32 || o->reduction != ncclSum))
        misuse(comm, "%s of type %d, operation %d: only sums of f32 are modelled",
               kind_names[o->kind], (int)o->type, (int)o->reduction);
    if (o->kind == ALL_GATHER && from != to + (size_t)comm->index * bytes &&
        from < to + (size_t)comm->size * bytes && to < from + bytes)
        misuse(comm, "all_gather into memory that it reads");
}

static ncclResult_t add(struct ncclComm *comm, cudaStream_t stream, struct operation o)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_operation(comm, &o);
    if (is_capturing(stream, &capture) != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "the stream is not one");
    o.is_captured = capture == cudaStreamCaptureStatusActive;
    if (open_batch == NULL) {
        open_batch = calloc(1, sizeof *open_batch);
        if (open_batch == NULL)
            return refuse(ncclSystemError, "no memory");
        open_batch->comm = comm;
        open_batch->stream = stream;
    }
    if (open_batch->comm != comm || open_batch->stream != stream || open_batch->n == BATCH)
        misuse(comm, "a batch of several groups or streams, or of more than %d operations", BATCH);
    open_batch->operation[open_batch->n++] = o;
    atomic_store(&comm->shared->member[comm->index].n_open, open_batch->n);
    ncclGroupStart();
    return ncclGroupEnd();
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    struct batch *batch = open_batch;
    if (depth == 0)
        return refuse(ncclInvalidUsage, "ncclGroupEnd: not in a group call.");
    if (--depth > 0 || batch == NULL)
        return ncclSuccess;
    open_batch = NULL;
    atomic_store(&batch->comm->shared->member[batch->comm->index].n_open, 0);
    return start_batch(batch);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t reduction, ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, stream,
               (struct operation){.kind = ALL_REDUCE,
                                  .type = type,
                                  .reduction = reduction,
                                  .count = count,
                                  .from = from,
                                  .to = to});
}

ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                        ncclRedOp_t reduction, int root, ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, stream,
               (struct operation){.kind = REDUCE,
                                  .type = type,
                                  .reduction = reduction,
                                  .root = root,
                                  .count = count,
                                  .from = from,
                                  .to = to});
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type,
                               ncclRedOp_t reduction, ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, stream,
               (struct operation){.kind = REDUCE_SCATTER,
                                  .type = type,
                                  .reduction = reduction,
                                  .count = count,
                                  .from = from,
                                  .to = to});
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, stream,
               (struct operation){
                   .kind = ALL_GATHER, .type = type, .count = count, .from = from, .to = to});
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return add(
        comm, stream,
        (struct operation){
            .kind = BROADCAST, .type = type, .count = count, .root = root, .from = from, .to = to});
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    return add(
        comm, stream,
        (struct operation){.kind = SEND, .type = type, .count = count, .root = peer, .from = from});
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add(
        comm, stream,
        (struct operation){.kind = RECEIVE, .type = type, .count = count, .root = peer, .to = to});
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int made;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/latentrank_nccl_twin_%d_%d_%.0f", (int)getpid(),
             made++, now_s() * 1e6);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const names[] = {
        "no error",         "unhandled cuda error", "unhandled system error", "internal error",
        "invalid argument", "invalid usage",        "remote process exited",  "in progress"};
    return (unsigned)result < sizeof names / sizeof names[0] ? names[result] : "unknown";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    (void)comm;
    *error = ncclSuccess;
    return ncclSuccess;
}

/* --- groups --- */

static int find_emulator(void)
{
    const char *path = getenv("LATENTRANK_DEBUG_CUDA_LIBRARY");
    void *library = path != NULL ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    if (library == NULL)
        return 0;
    *(void **)&launch_host = dlsym(library, "cudaLaunchHostFunc");
    *(void **)&is_capturing = dlsym(library, "cudaStreamIsCapturing");
    *(void **)&get_device = dlsym(library, "cudaGetDevice");
    *(void **)&bus_id = dlsym(library, "cudaDeviceGetPCIBusId");
    return launch_host != NULL && is_capturing != NULL && get_device != NULL && bus_id != NULL;
}

static struct shared *map_shared(const char *name)
{
    int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (file < 0)
        return NULL;
    void *memory = MAP_FAILED;
    if (ftruncate(file, sizeof(struct shared)) == 0)
        memory = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

/* All have come, none was refused, and their devices differ. */
static ncclResult_t join(struct ncclComm *comm)
{
    struct patience patience = {0};
    const struct member *own = &comm->shared->member[comm->index];
    for (int i = 0; i < comm->size; i++)
        while (atomic_load(&comm->shared->member[i].presence) == ABSENT)
            if (!wait_a_little(&patience))
                return refuse(ncclSystemError, "Timeout waiting for connections from all ranks");
    for (int i = 0; i < comm->size; i++) {
        const struct member *m = &comm->shared->member[i];
        if (atomic_load(&m->presence) == REFUSED)
            return i == comm->index ? refuse(ncclSystemError, "Call to connect failed: refused")
                                    : refuse(ncclRemoteError, "Connection closed by remote peer");
        if (i == comm->index || strcmp(m->place, own->place) != 0 ||
            strcmp(m->device, own->device) != 0)
            continue;
        snprintf(last_error, sizeof last_error,
                 "Duplicate GPU detected : rank %d and rank %d both on CUDA device %s", comm->index,
                 i, own->device);
        return ncclInvalidUsage;
    }
    meet(comm, "ncclCommInitRankConfig");
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *result, int size, ncclUniqueId id, int index,
                                    ncclConfig_t *config)
{
    const char *refused = getenv("CUDA_EMULATOR_NCCL_REFUSE"), *place = getenv("NCCL_HOSTID");
    int device = 0;
    if (config == NULL || config->magic != 0xcafebeef || config->blocking != 1)
        return refuse(ncclInvalidArgument, "only blocking communicators are modelled");
    if (size < 1 || size > MEMBERS || index < 0 || index >= size)
        return refuse(ncclInvalidArgument, "size and index of the group");
    if (!find_emulator() || get_device(&device) != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "the device is not the emulator's");
    struct ncclComm *comm = calloc(1, sizeof *comm);
    struct shared *shared = map_shared(id.internal);
    if (comm == NULL || shared == NULL) {
        free(comm);
        return refuse(ncclSystemError, "no shared memory");
    }
    *comm = (struct ncclComm){.shared = shared, .size = size, .index = index};
    struct member *own = &shared->member[index];
    snprintf(own->place, sizeof own->place, "%s", place != NULL ? place : "here");
    (void)bus_id(own->device, (int)sizeof own->device, device);
    int is_refused = refused != NULL && atoi(refused) == index;
    atomic_store(&own->presence, is_refused ? REFUSED : PRESENT);
    ncclResult_t joined = join(comm);
    shm_unlink(id.internal); /* by the first that sees all others; they have it then */
    if (joined != ncclSuccess) {
        munmap(shared, sizeof *shared);
        free(comm);
        return joined;
    }
    *result = comm;
    return ncclSuccess;
}

static ncclResult_t leave(struct ncclComm *comm, enum presence presence)
{
    if (depth > 0 && presence == LEFT)
        misuse(comm, "a group is left inside a batch that has not ended");
    atomic_store(&comm->shared->member[comm->index].presence, presence);
    for (struct batch *batch = comm->kept, *next; batch != NULL; batch = next) {
        next = batch->next;
        free(batch);
    }
    munmap(comm->shared, sizeof *comm->shared);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return leave(comm, LEFT);
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return leave(comm, ABORTED);
}
