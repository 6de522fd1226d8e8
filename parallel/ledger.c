#include "parallel/ledger.h"

#include "kernels/core/log.h"
#include "parallel/ledger_board.h"
#include "parallel/ledger_queue.h"
#include "parallel/mpi_internal.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TEXT_MAX = 1536,
    LOOK_NS = 100 * 1000000, /* the longest time between two looks */
    /* A node whose ranks have all come speaks this much later than one that misses a rank of its own:
     * each node at another time, so that one line is printed. */
    GRACE_S = 5,
    GRACE_NODE_S = 2
};

static struct {
    int is_on;
    int64_t timeout_ns;
    struct process process;
    MPI_Win win;
    struct ledger_board **board; /* [ranks of this node] */
    struct ledger_board *own;

    /* of the thread that computes */
    int64_t step;
    int32_t number, layer;
    int is_in_step;

    struct ledger_queue *queues; /* under the mutex */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t stopped;
    int stops;
} ledger = {.win = MPI_WIN_NULL};

int ledger_is_on(void)
{
    return ledger.is_on;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void ledger_step_begin(void)
{
    ledger.is_in_step = 1;
}

void ledger_step_end(void)
{
    ledger.is_in_step = 0;
    ledger.number = 0;
    ledger.step++;
}

void ledger_step_pause(void)
{
    ledger.is_in_step = 0;
}

void ledger_layer(int layer)
{
    ledger.layer = layer;
}

static struct ledger_entry next_entry(enum ledger_operation operation, const struct group *group,
                                      int64_t bytes)
{
    struct ledger_entry entry = {.step = ledger.step,
                                 .number = ++ledger.number,
                                 .layer = ledger.layer,
                                 .operation = (int32_t)operation,
                                 .has_deadline = ledger.is_in_step,
                                 .first = group->first,
                                 .stride = group->stride,
                                 .size = group->size,
                                 .bytes = bytes,
                                 .begin_ns = now_ns()};
    snprintf(entry.group, sizeof entry.group, "%s", group->name);
    return entry;
}

void ledger_begin(enum ledger_operation operation, const struct group *group, int64_t bytes)
{
    const struct ledger_entry entry = next_entry(operation, group, bytes);
    ledger_push(ledger.own, &entry);
}

void ledger_enter(struct ledger_entry *entry, enum ledger_operation operation,
                  const struct group *group, int64_t bytes)
{
    *entry = next_entry(operation, group, bytes);
    ledger_push(ledger.own, entry);
    ledger_pop(ledger.own, LEDGER_QUEUED);
}

void ledger_end(void)
{
    ledger_pop(ledger.own, now_ns());
}

enum status ledger_queue_open(struct ledger_queue **queue, const uint64_t *passed)
{
    *queue = NULL;
    if (!ledger.is_on)
        return STATUS_OK;
    size_t align = _Alignof(struct ledger_queue);
    struct ledger_queue *opened = aligned_alloc(align, sizeof *opened);
    if (opened == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to watch a stream");
    memset(opened, 0, sizeof *opened);
    opened->passed = passed;
    pthread_mutex_lock(&ledger.mutex);
    opened->next = ledger.queues;
    ledger.queues = opened;
    pthread_mutex_unlock(&ledger.mutex);
    *queue = opened;
    return STATUS_OK;
}

void ledger_queue_close(struct ledger_queue *queue)
{
    if (queue == NULL)
        return;
    pthread_mutex_lock(&ledger.mutex);
    for (struct ledger_queue **at = &ledger.queues; *at != NULL; at = &(*at)->next)
        if (*at == queue) {
            *at = queue->next;
            break;
        }
    pthread_mutex_unlock(&ledger.mutex);
    free(queue);
}

/* --- the watch --- */

/* 1 when a stream of this rank waits in an operation of a step: the oldest of several. */
static int stream_waits(struct ledger_entry *entry, int64_t now)
{
    int found = 0;
    for (struct ledger_queue *queue = ledger.queues; queue != NULL; queue = queue->next) {
        struct ledger_entry other;
        if (!ledger_queue_waits(&other, queue, now))
            continue;
        if (!found || other.step < entry->step ||
            (other.step == entry->step && other.number < entry->number))
            *entry = other;
        found = 1;
    }
    return found;
}

/* 1 when this rank is in an operation of a step, which is then *entry. */
static int waits(struct ledger_entry *entry, int64_t now)
{
    if (stream_waits(entry, now))
        return 1;
    return atomic_load(&ledger.own->ended) < atomic_load(&ledger.own->begun) &&
           ledger_last(entry, ledger.own) && entry->has_deadline;
}

_Noreturn static void end_job(const char *text)
{
    log_error_line(text);
    process_abort(&ledger.process, 1);
}

/* Whose fault it is, as far as this node can see. */
struct finding {
    int rank;      /* -1: nobody's here */
    int n_missing; /* ranks that never entered; 0: `rank` did, but its process does not run */
    double silent_s;
    struct ledger_entry last;
};

static void find_missing(struct finding *finding, const struct ledger_entry *waiting)
{
    int n = ledger.process.node_size;
    int32_t *rank = calloc((size_t)n, sizeof *rank);
    struct ledger_entry *last = calloc((size_t)n, sizeof *last);
    if (rank != NULL && last != NULL) {
        for (int i = 0; i < n; i++) {
            rank[i] = ledger.board[i]->rank;
            if (!ledger_last(&last[i], ledger.board[i]))
                last[i].step = INT64_MAX; /* it is at work, so not missing */
        }
        int which = ledger_missing(&finding->n_missing, waiting, rank, last, n);
        if (which >= 0) {
            finding->last = last[which];
            finding->rank = rank[which];
        }
    }
    free(rank);
    free(last);
}

/* A rank that was stopped inside the operation: its watch stands still too, the longest of all. */
static void find_silent(struct finding *finding, int64_t waited, int64_t now)
{
    int64_t longest = waited / 2;
    for (int i = 0; i < ledger.process.node_size; i++) {
        int64_t silent = now - atomic_load(&ledger.board[i]->seen_ns);
        if (silent < longest)
            continue;
        longest = silent;
        finding->rank = ledger.board[i]->rank;
        finding->silent_s = (double)silent * 1e-9;
    }
}

static void speak(const struct finding *finding, const struct ledger_entry *waiting, double seconds)
{
    char text[TEXT_MAX], name[96], last[96] = "none", others[64] = "";
    const struct process *process = &ledger.process;
    ledger_name(name, sizeof name, waiting);
    if (finding->rank < 0) {
        snprintf(text, sizeof text,
                 "rank %d (%s) has waited %.1f s in %s, which all ranks of its node have entered%s "
                 "(--watchdog-timeout)",
                 process->rank, process->host, seconds, name,
                 process->n_nodes > 1 ? "; one of another node is missing" : "");
    } else if (finding->n_missing == 0) {
        snprintf(text, sizeof text,
                 "rank %d (%s) entered %s, but its process has not run for %.1f s; rank %d has "
                 "waited for it for %.1f s (--watchdog-timeout)",
                 finding->rank, process->host, name, finding->silent_s, process->rank, seconds);
    } else {
        if (finding->last.step >= 0)
            ledger_name(last, sizeof last, &finding->last);
        if (finding->n_missing > 1)
            snprintf(others, sizeof others, ", nor did %d more ranks of this node",
                     finding->n_missing - 1);
        snprintf(text, sizeof text,
                 "rank %d (%s) never entered %s%s; rank %d has waited for it for %.1f s "
                 "(--watchdog-timeout); its last was %s",
                 finding->rank, process->host, name, others, process->rank, seconds, last);
    }
    end_job(text);
}

/* What the last look saw. */
struct view {
    int is_shown;
    struct finding finding;
    int64_t begin_ns; /* of the operation that was waited for */
};

/* Boards of ranks that are not stuck change while they are read, so a rank counts when two looks have
 * found it in the same place. */
static int is_sure(struct view *view, const struct ledger_entry *waiting, int64_t waited,
                   int64_t now)
{
    const struct view before = *view;
    struct finding *found = &view->finding;
    *found = (struct finding){.rank = -1};
    find_missing(found, waiting);
    if (found->rank < 0)
        find_silent(found, waited, now);
    view->begin_ns = waiting->begin_ns;
    return found->rank >= 0 && found->rank == before.finding.rank &&
           found->last.step == before.finding.last.step &&
           found->last.number == before.finding.last.number && view->begin_ns == before.begin_ns;
}

/* Every rank that waits shows its ring, one of the node speaks. */
static void look(struct view *view)
{
    struct ledger_entry waiting;
    int64_t now = now_ns(), waited;
    atomic_store(&ledger.own->seen_ns, now);
    if (!waits(&waiting, now) || (waited = now - waiting.begin_ns) < ledger.timeout_ns) {
        *view = (struct view){.finding = {.rank = -1}};
        return;
    }
    if (!view->is_shown) {
        char text[TEXT_MAX], name[96];
        ledger_describe(text, sizeof text, ledger.own, now);
        ledger_name(name, sizeof name, &waiting);
        log_print(LOG_WARN, "ledger: waits for %s; %s", name, text);
        view->is_shown = 1;
    }
    int64_t grace = (GRACE_S + (int64_t)GRACE_NODE_S * ledger.process.node) * 1000000000;
    int sure = is_sure(view, &waiting, waited, now);
    int is_late = view->finding.rank < 0 && waited > ledger.timeout_ns + grace;
    if ((sure || is_late) && atomic_exchange(&ledger.board[0]->is_reported, 1) == 0)
        speak(&view->finding, &waiting, (double)waited * 1e-9);
}

static void *watch(void *nothing)
{
    int64_t rest = ledger.timeout_ns / 10 < LOOK_NS ? ledger.timeout_ns / 10 : LOOK_NS;
    struct view view = {.finding = {.rank = -1}};
    (void)nothing;
    pthread_mutex_lock(&ledger.mutex);
    while (!ledger.stops) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        int64_t ns = until.tv_nsec + rest;
        until.tv_sec += (time_t)(ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
        pthread_cond_timedwait(&ledger.stopped, &ledger.mutex, &until);
        if (!ledger.stops)
            look(&view);
    }
    pthread_mutex_unlock(&ledger.mutex);
    return NULL;
}

/* Signals go to the other threads. */
static enum status start_watch(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_mutex_init(&ledger.mutex, NULL);
    pthread_cond_init(&ledger.stopped, NULL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&ledger.thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        FAIL(STATUS_NO_MEMORY, "cannot start the thread of --watchdog-timeout: %s",
             strerror(error));
    return STATUS_OK;
}

static enum status map_boards(void)
{
    void *own = NULL;
    int n = ledger.process.node_size;
    MPI_Aint bytes = sizeof(struct ledger_board) + _Alignof(struct ledger_board);
    ledger.board = calloc((size_t)n, sizeof(struct ledger_board *));
    enum status status = STATUS_OK;
    if (ledger.board == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d boards", n);
    TRY(mpi_agree(mpi_node(), status));
    MPI_TRY(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, mpi_node(), &own, &ledger.win));
    TRY(mpi_window_opened(ledger.win));
    for (int i = 0; i < n; i++) {
        int unit;
        void *memory;
        uintptr_t align = _Alignof(struct ledger_board) - 1;
        MPI_TRY(MPI_Win_shared_query(ledger.win, i, &bytes, &unit, &memory));
        ledger.board[i] = (void *)(((uintptr_t)memory + align) & ~align);
    }
    ledger.own = ledger.board[ledger.process.node_rank];
    memset(ledger.own, 0, sizeof *ledger.own);
    ledger.own->rank = ledger.process.rank;
    atomic_init(&ledger.own->seen_ns, now_ns());
    MPI_TRY(MPI_Barrier(mpi_node())); /* nobody reads a board before it is cleared */
    return STATUS_OK;
}

static void unmap_boards(void)
{
    mpi_window_closed(&ledger.win);
    free(ledger.board);
    ledger.board = NULL;
}

enum status ledger_open(const struct process *process, int timeout_s)
{
    if (timeout_s <= 0 || !process->uses_mpi || process->size == 1)
        return STATUS_OK;
    ledger.process = *process;
    ledger.timeout_ns = (int64_t)timeout_s * 1000000000;
    ledger.step = 0;
    ledger.is_in_step = ledger.stops = 0;
    ledger.layer = -1;
    enum status status = mpi_agree(mpi_node(), map_boards());
    if (status == STATUS_OK)
        status = start_watch();
    if (status != STATUS_OK) {
        unmap_boards();
        return status;
    }
    ledger.is_on = 1;
    return STATUS_OK;
}

void ledger_close(void)
{
    if (!ledger.is_on)
        return;
    pthread_mutex_lock(&ledger.mutex);
    ledger.stops = 1;
    pthread_cond_signal(&ledger.stopped);
    pthread_mutex_unlock(&ledger.mutex);
    pthread_join(ledger.thread, NULL);
    pthread_cond_destroy(&ledger.stopped);
    pthread_mutex_destroy(&ledger.mutex);
    unmap_boards();
    ledger.is_on = 0;
}
