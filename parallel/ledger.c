#include "parallel/ledger.h"

#include "kernels/core/log.h"
#include "parallel/ledger_fault.h"
#include "parallel/ledger_link.h"
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
    HOST_BYTES = 64,
    /* When the desks of a job on several nodes (ledger_link.h) have not spoken by then, others do: each node at
     * another time, so that one line is printed. */
    GRACE_S = 8,
    GRACE_NODE_S = 2,
    /* mpirun gives up a node that does not answer (cluster/openmpi-params.conf: after 5 s), and ends the job.  One that
     * is asked to abort before that waits for the lost node instead. */
    LAUNCHER_S = 30,
    /* mpirun ends a job within a second or two when a process has ended. */
    ENDED_S = 3,
    /* One that waits knows more than one that only sees another silent, and speaks first. */
    BESIDE_NS = 500 * 1000000,
    /* The second desk speaks later than the first one, which may see more. */
    SECOND_DESK_NS = 500 * 1000000
};

static struct {
    int is_on;
    int64_t timeout_ns;
    struct process process;
    MPI_Win win;
    struct ledger_board **board; /* [ranks of this node] */
    struct ledger_board *own;
    struct ledger_link *link;   /* NULL: one node */
    char (*host)[HOST_BYTES];   /* [ranks] */
    struct ledger_sight *sight; /* [ranks], of the watch */

    /* of the thread that computes */
    int64_t step;
    int32_t number, layer, place;
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

int ledger_take_word(void)
{
    return !ledger.is_on || atomic_exchange(&ledger.board[0]->is_reported, 1) == 0;
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
    ledger_set_place(-1, 0);
    ledger.number = 0;
    ledger.step++;
}

void ledger_step_pause(void)
{
    ledger.is_in_step = 0;
}

void ledger_set_place(int32_t layer, int32_t place)
{
    if (place != ledger.place)
        ledger.number = 0;
    ledger.layer = layer;
    ledger.place = place;
}

void ledger_place(int layer, enum ledger_phase phase)
{
    const int32_t n_phases = LEDGER_FFN + 1;
    if (phase == LEDGER_LOGITS)
        ledger_set_place(-1, (1 << 30) + layer);
    else
        ledger_set_place(layer, 1 + n_phases * layer + (int32_t)phase);
}

static struct ledger_entry next_entry(enum ledger_operation operation, const struct group *group,
                                      int64_t bytes)
{
    struct ledger_entry entry = {.step = ledger.step,
                                 .number = ++ledger.number,
                                 .layer = ledger.layer,
                                 .place = ledger.place,
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
        if (!found || ledger_is_before(&other, entry))
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

/* What the watch keeps from one look to the next. */
struct view {
    int is_shown;
    int64_t looked_ns, base_ns; /* nobody counts as silent since before `base_ns` */
    struct ledger_fault fault;
    int32_t rank; /* of `fault` */
    struct ledger_entry last;
    int64_t begin_ns;  /* of the operation that was waited for */
    int64_t spoken_ns; /* 0: nobody has, as far as this rank knows */
    int lost;          /* the rank that could not be reached when this one spoke; -1 */
};

static int64_t since(int64_t now, int64_t then, const struct view *view)
{
    return now - (then > view->base_ns ? then : view->base_ns);
}

/* All ranks that this one sees but itself; their number. */
static int see_others(const struct view *view, int64_t now)
{
    int n = 0;
    for (int i = 0; i < ledger.process.node_size; i++) {
        struct ledger_board *board = ledger.board[i];
        struct ledger_sight *sight = &ledger.sight[n];
        if (board == ledger.own || atomic_load(&board->is_leaving))
            continue;
        *sight = (struct ledger_sight){.rank = board->rank, .is_near = 1};
        sight->is_at_work = !ledger_last(&sight->last, board);
        sight->silent_ns = since(now, atomic_load(&board->seen_ns), view);
        n++;
    }
    for (int rank = 0; ledger.link != NULL && rank < ledger.process.size; rank++) {
        const struct ledger_far *far = ledger_link_far(ledger.link, rank);
        if (!far->is_known || far->is_leaving)
            continue;
        ledger.sight[n++] =
            (struct ledger_sight){.rank = rank,
                                  .has_ended = far->has_ended,
                                  .silent_ns = since(now, far->seen_ns, view) -
                                               (far->has_ended ? ENDED_S * (int64_t)1000000000 : 0),
                                  .unanswered_ns = far->unanswered_ns,
                                  .last = far->last};
    }
    return n;
}

static void beat(struct view *view, int64_t now)
{
    struct ledger_report own = {.rank = ledger.process.rank};
    atomic_store(&ledger.own->seen_ns, now);
    if (now - view->looked_ns > ledger.timeout_ns / 2) /* it is us who stood still */
        view->base_ns = now;
    view->looked_ns = now;
    while (!ledger_last(&own.last, ledger.own))
        ; /* it was written to */
    int has_spoken = view->spoken_ns != 0 || atomic_load(&ledger.board[0]->is_reported);
    if (ledger_link_beat(ledger.link, &own, has_spoken, now) && view->spoken_ns == 0)
        view->spoken_ns = now;
}

static void tell_nobody(char *text, size_t size, const struct ledger_entry *waiting, double seconds)
{
    char name[96];
    const struct process *process = &ledger.process;
    ledger_name(name, sizeof name, waiting);
    snprintf(text, size,
             "rank %d (%s) has waited %.1f s in %s, which all ranks of its node have entered%s "
             "(--watchdog-timeout)",
             process->rank, process->host, seconds, name,
             process->n_nodes > 1 ? "; one of another node is missing" : "");
}

/* One line for the job, which ends by this rank unless the launcher must find out by itself. */
static void speak(struct view *view, const struct ledger_entry *waiting, double seconds,
                  int64_t now)
{
    char text[TEXT_MAX];
    if (view->fault.kind == LEDGER_NO_FAULT)
        tell_nobody(text, sizeof text, waiting, seconds);
    else
        ledger_tell_fault(text, sizeof text, &view->fault, ledger.sight, ledger.host[view->rank],
                          waiting, ledger.process.rank, seconds);
    log_error_line(text);
    view->spoken_ns = now;
    beat(view, now); /* tells the others */
    if (view->fault.kind != LEDGER_UNREACHABLE)
        process_abort(&ledger.process, 1);
    view->lost = view->rank;
}

/* Boards of ranks that are not stuck change while they are read, so a fault counts when two looks have
 * found it in the same place. */
static int is_sure(struct view *view, const struct ledger_entry *waiting, int64_t patience_ns,
                   int64_t now)
{
    const struct view before = *view;
    int n = see_others(view, now);
    ledger_find_fault(&view->fault, ledger.sight, n, waiting, patience_ns);
    view->begin_ns = waiting == NULL ? 0 : waiting->begin_ns;
    if (view->fault.kind == LEDGER_NO_FAULT)
        return 0;
    view->rank = ledger.sight[view->fault.at].rank;
    view->last = ledger.sight[view->fault.at].last;
    return view->fault.kind == before.fault.kind && view->rank == before.rank &&
           !ledger_is_before(&view->last, &before.last) &&
           !ledger_is_before(&before.last, &view->last) && view->begin_ns == before.begin_ns;
}

/* On one node any rank may, on several a desk; the second one about the node of the first. */
static int may_speak(const struct view *view)
{
    return ledger.link == NULL || ledger_link_is_desk(ledger.link, 0) ||
           (ledger_link_is_desk(ledger.link, 1) && view->rank == 0);
}

/* After someone has spoken: the launcher ends the job.  If it does not, or the lost node is back, we do. */
static void await_end(const struct view *view, int64_t now)
{
    int is_back =
        view->lost >= 0 && ledger_link_far(ledger.link, view->lost)->seen_ns > view->spoken_ns;
    if (is_back || now - view->spoken_ns > LAUNCHER_S * (int64_t)1000000000)
        process_abort(&ledger.process, 1);
}

static void show_ring(struct view *view, const struct ledger_entry *waiting, int64_t now)
{
    char text[TEXT_MAX], name[96];
    if (view->is_shown)
        return;
    ledger_describe(text, sizeof text, ledger.own, now);
    ledger_name(name, sizeof name, waiting);
    log_print(LOG_WARN, "ledger: waits for %s; %s", name, text);
    view->is_shown = 1;
}

/* Every rank that waits shows its ring, one of the job speaks. */
static void look(struct view *view)
{
    struct ledger_entry entry, *waiting = NULL;
    int64_t now = now_ns(), waited = 0, patience_ns = ledger.timeout_ns;
    beat(view, now);
    if (view->spoken_ns != 0) {
        await_end(view, now);
        return;
    }
    if (ledger_link_is_desk(ledger.link, 1))
        patience_ns += SECOND_DESK_NS;
    if (waits(&entry, now)) {
        waited = now - entry.begin_ns;
        waiting = waited < patience_ns ? NULL : &entry;
    }
    if (waiting != NULL)
        show_ring(view, waiting, now);
    else {
        view->is_shown = 0;
        patience_ns += BESIDE_NS;
    }
    int64_t grace = (GRACE_S + (int64_t)GRACE_NODE_S * ledger.process.node) * 1000000000;
    int speaks = is_sure(view, waiting, patience_ns, now) && may_speak(view);
    int is_late = waiting != NULL && waited > patience_ns + grace;
    if ((speaks || is_late) && ledger_take_word())
        speak(view, waiting, (double)waited * 1e-9, now);
}

static void *watch(void *nothing)
{
    int64_t rest = ledger.timeout_ns / 10 < LOOK_NS ? ledger.timeout_ns / 10 : LOOK_NS;
    int64_t begin = now_ns();
    struct view view = {.looked_ns = begin, .base_ns = begin, .lost = -1};
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
    ledger_link_close(ledger.link);
    mpi_window_closed(&ledger.win);
    free(ledger.board);
    free(ledger.host);
    free(ledger.sight);
    ledger.link = NULL;
    ledger.board = NULL;
    ledger.host = NULL;
    ledger.sight = NULL;
}

static enum status name_hosts(void)
{
    char own[HOST_BYTES];
    size_t n = (size_t)ledger.process.size;
    enum status status = STATUS_OK;
    ledger.host = calloc(n, sizeof *ledger.host);
    ledger.sight = calloc(n, sizeof *ledger.sight);
    if (ledger.host == NULL || ledger.sight == NULL)
        status =
            status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory to watch %zu ranks", n);
    TRY(mpi_agree(mpi_world(), status));
    snprintf(own, sizeof own, "%.*s", HOST_BYTES - 1, ledger.process.host);
    MPI_TRY(
        MPI_Allgather(own, HOST_BYTES, MPI_CHAR, ledger.host, HOST_BYTES, MPI_CHAR, mpi_world()));
    return STATUS_OK;
}

/* The watch runs while the desks are called, since it is what answers there. */
static enum status call_desks(void)
{
    int n_missed, n_all;
    const struct ledger_report first = {.rank = ledger.process.rank, .last = {.step = -1}};
    ledger_link_call(ledger.link, &n_missed, &first);
    MPI_TRY(MPI_Allreduce(&n_missed, &n_all, 1, MPI_INT, MPI_SUM, mpi_world()));
    if (n_all > 0 && ledger.process.rank == 0)
        log_print(LOG_WARN,
                  "--watchdog-timeout: %d TCP connections between nodes could not be made, so it "
                  "may see no more than that a rank of another node is missing",
                  n_all);
    return STATUS_OK;
}

static void stop_watch(void)
{
    pthread_mutex_lock(&ledger.mutex);
    ledger.stops = 1;
    pthread_cond_signal(&ledger.stopped);
    pthread_mutex_unlock(&ledger.mutex);
    pthread_join(ledger.thread, NULL);
    pthread_cond_destroy(&ledger.stopped);
    pthread_mutex_destroy(&ledger.mutex);
}

enum status ledger_open(const struct process *process, int timeout_s)
{
    if (timeout_s <= 0 || !process->uses_mpi || process->size == 1)
        return STATUS_OK;
    ledger.process = *process;
    ledger.timeout_ns = (int64_t)timeout_s * 1000000000;
    ledger.step = 0;
    ledger.is_in_step = ledger.stops = 0;
    ledger.number = 0;
    ledger_set_place(-1, 0);
    enum status status = mpi_agree(mpi_world(), mpi_agree(mpi_node(), map_boards()));
    if (status == STATUS_OK)
        status = name_hosts();
    if (status == STATUS_OK)
        status = ledger_link_open(&ledger.link, process);
    if (status == STATUS_OK)
        status = mpi_agree(mpi_world(), start_watch());
    if (status != STATUS_OK) {
        unmap_boards();
        return status;
    }
    ledger.is_on = 1;
    TRY(call_desks());
    if (process->rank == 0)
        log_print(LOG_INFO, "%d ranks on %d nodes are watched", process->size, process->n_nodes);
    return STATUS_OK;
}

void ledger_close(void)
{
    if (!ledger.is_on)
        return;
    atomic_store(&ledger.own->is_leaving, 1);
    stop_watch();
    const struct ledger_report last = {.rank = ledger.process.rank, .is_leaving = 1};
    (void)ledger_link_beat(ledger.link, &last, 0, now_ns());
    unmap_boards();
    ledger.is_on = 0;
}
