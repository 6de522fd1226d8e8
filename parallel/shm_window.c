#include "parallel/shm_window.h"

#include "parallel/ledger_board.h"
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "epochs are shared between processes");

/* Looks before a waiter sleeps, with a pause or with the core given away after each.  Where every rank of
 * the node has a core, a waiter keeps its own for some 30 to 100 us: longer than members differ in one operation,
 * shorter than what a scheduler gives another process.  It does not give it away before it sleeps: a
 * stranger on the core would take its whole turn, 4 ms, while one that sleeps is called back.  Where ranks
 * share cores, one of them may need this very core to arrive. */
enum { SPINS = 2000, SPINS_SHARED = 8, YIELDS_SHARED = 50 };

/* A sleeper that is not called keeps MPI going now and then, which may hold messages that others wait
 * for, and looks whether the other is alive: mpirun ends a job when a rank dies, not every launcher does. */
enum {
    SLEEP_NS = 1000000,
    SLEEP_LONG_NS = 10 * 1000000,
    LONG_NS = 20 * 1000000,
    ALIVE_NS = 1000000000
};

/* Pairs of lines, which processors fetch together: the epoch is alone, so that only an arrival moves it. */
struct shm_member {
    _Alignas(128) _Atomic uint64_t epoch;
    int flag[2];
    int64_t pid;
    _Alignas(128) atomic_int sleeps_for; /* the member waited for, plus 1; 0: does not sleep */
    sem_t called;
    _Alignas(4096) char slot[2][SHM_SLOT_BYTES];
};

enum { MEMBER_BYTES = sizeof(struct shm_member) + _Alignof(struct shm_member) };

int shm_block(const int *first_on_node, int size)
{
    int block = 1;
    while (block < size && first_on_node[block] == 0)
        block++;
    for (int i = 0; i < size; i++)
        if (first_on_node[i] != i / block * block)
            return 0;
    return block == size || (block & (block - 1)) == 0 ? block : 0;
}

static uint64_t epoch_of(const struct shm_window *window, int member)
{
    return atomic_load_explicit(&window->member[member]->epoch, memory_order_acquire);
}

static int has_arrived(const struct shm_window *window, int member)
{
    return epoch_of(window, member) >= window->epoch;
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static enum status check_alive(const struct shm_window *window, int member)
{
    int64_t pid = window->member[member]->pid;
    const struct group *group = &window->group;
    if (window->sees_all && kill((pid_t)pid, 0) != 0 && errno == ESRCH && ledger_take_word())
        FAIL(STATUS_COMM, "rank %d, which the %s group waits for, has ended (process %lld)",
             group->first + member * group->stride, group->name, (long long)pid);
    return STATUS_OK;
}

/* Until called, or for `ns`. */
static void sleep_until_called(struct shm_member *own, int64_t ns)
{
    int64_t end = now_ns(CLOCK_REALTIME) + ns;
    const struct timespec until = {.tv_sec = (time_t)(end / 1000000000),
                                   .tv_nsec = (long)(end % 1000000000)};
    (void)sem_timedwait(&own->called, &until); /* a signal, an old call: the loop looks again */
}

/* Says for whom it sleeps before the last look, as the other arrives before it looks who sleeps: in the
 * one order of both one of the two sees the other. */
static enum status wait_asleep(struct shm_window *window, int member)
{
    struct shm_member *own = window->member[window->group.index];
    int64_t begin = now_ns(CLOCK_MONOTONIC), next_check = ALIVE_NS;
    enum status status = STATUS_OK;
    while (status == STATUS_OK) {
        atomic_store(&own->sleeps_for, member + 1);
        if (atomic_load(&window->member[member]->epoch) >= window->epoch)
            break;
        int64_t waited = now_ns(CLOCK_MONOTONIC) - begin;
        int found;
        sleep_until_called(own, waited < LONG_NS ? SLEEP_NS : SLEEP_LONG_NS);
        if (has_arrived(window, member))
            break;
        MPI_TRY_GOTO(
            status, done,
            MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, window->mpi, &found, MPI_STATUS_IGNORE));
        if (waited >= next_check) {
            status = check_alive(window, member);
            next_check += ALIVE_NS;
        }
    }
done:
    atomic_store(&own->sleeps_for, 0);
    return status;
}

enum status shm_wait(struct shm_window *window, int member)
{
    for (int i = 0; i < window->spins; i++) {
        if (has_arrived(window, member))
            return STATUS_OK;
        PAUSE();
    }
    for (int i = 0; i < window->yields; i++) {
        if (has_arrived(window, member))
            return STATUS_OK;
        sched_yield();
    }
    return wait_asleep(window, member);
}

enum status shm_wait_all(struct shm_window *window)
{
    if (window->all_at >= window->epoch)
        return STATUS_OK;
    for (int i = 1; i < window->group.size; i++)
        TRY(shm_wait(window, (window->group.index + i) % window->group.size));
    window->all_at = window->epoch;
    return STATUS_OK;
}

void shm_turn(struct shm_window *window)
{
    window->turn++;
}

char *shm_slot(const struct shm_window *window, int member)
{
    return window->member[member]->slot[window->turn % 2];
}

int *shm_flag(const struct shm_window *window, int member)
{
    return &window->member[member]->flag[window->turn % 2];
}

/* Called before the turn's arrival: `epoch` is still that of the turn before. */
enum status shm_claim(struct shm_window *window)
{
    return shm_wait_all(window);
}

static void call(struct shm_member *sleeper, int own_index)
{
    int expected = own_index + 1;
    if (atomic_load(&sleeper->sleeps_for) == expected &&
        atomic_compare_exchange_strong(&sleeper->sleeps_for, &expected, 0))
        (void)sem_post(&sleeper->called);
}

void shm_arrive(struct shm_window *window)
{
    int own = window->group.index;
    atomic_store(&window->member[own]->epoch, ++window->epoch);
    for (int i = 0; i < window->group.size; i++)
        call(window->member[i], own);
}

/* --- opening --- */

/* Open MPI 4.1 finds a lack of room on one member alone, and leaves the others waiting; so all look first.  The
 * margin is for what others take meanwhile. */
static enum status check_room(const struct shm_window *window)
{
    static const char folder[] = "/dev/shm";
    struct statvfs room;
    int64_t margin = 1 << 20, needed = window->group.size * (int64_t)MEMBER_BYTES + margin;
    if (statvfs(folder, &room) != 0) /* the library has another place then */
        return STATUS_OK;
    int64_t left = (int64_t)room.f_bavail * (int64_t)room.f_frsize;
    if (left < needed)
        FAIL(STATUS_UNSUPPORTED,
             "%s has %lld bytes left, %lld are needed; containers take --shm-size", folder,
             (long long)left, (long long)needed);
    return STATUS_OK;
}

/* Each member's memory on pages of its own, so that it lies near the member that touches it first. */
static enum status map_members(struct shm_window *window)
{
    MPI_Info info = MPI_INFO_NULL;
    void *own = NULL;
    enum status status = STATUS_OK;
    MPI_TRY(MPI_Info_create(&info));
    MPI_TRY_GOTO(status, done, MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    MPI_TRY_GOTO(status, done,
                 MPI_Win_allocate_shared(MEMBER_BYTES, 1, info, window->mpi, &own, &window->win));
    TRY_GOTO(status, done, mpi_window_opened(window->win));
    for (int i = 0; i < window->group.size; i++) {
        MPI_Aint bytes;
        int unit;
        void *memory;
        MPI_TRY_GOTO(status, done, MPI_Win_shared_query(window->win, i, &bytes, &unit, &memory));
        uintptr_t align = _Alignof(struct shm_member) - 1;
        window->member[i] = (void *)(((uintptr_t)memory + align) & ~align);
    }
done:
    MPI_Info_free(&info);
    return status;
}

/* Own memory is touched here and by no one before. */
static enum status fill_own(struct shm_window *window)
{
    struct shm_member *own = window->member[window->group.index];
    memset(own, 0, sizeof *own);
    own->pid = getpid();
    atomic_init(&own->epoch, 0);
    atomic_init(&own->sleeps_for, 0);
    if (sem_init(&own->called, 1, 0) != 0)
        FAIL(STATUS_UNSUPPORTED, "no semaphores between processes: %s", strerror(errno));
    return STATUS_OK;
}

/* In a container of its own a member may be unseen though it lives. */
static int sees_all(const struct shm_window *window)
{
    for (int i = 0; i < window->group.size; i++)
        if (kill((pid_t)window->member[i]->pid, 0) != 0 && errno == ESRCH)
            return 0;
    return 1;
}

static void choose_patience(struct shm_window *window)
{
    int n_ranks = window->group.size;
    if (mpi_node() != MPI_COMM_NULL)
        MPI_Comm_size(mpi_node(), &n_ranks);
    int is_shared = n_ranks > sysconf(_SC_NPROCESSORS_ONLN);
    window->spins = is_shared ? SPINS_SHARED : SPINS;
    window->yields = is_shared ? YIELDS_SHARED : 0;
}

enum status shm_open_window(struct shm_window *window, const struct group *group, MPI_Comm mpi)
{
    *window = (struct shm_window){.group = *group, .mpi = mpi, .win = MPI_WIN_NULL};
    window->member = calloc((size_t)group->size, sizeof(struct shm_member *));
    choose_patience(window);
    enum status status = STATUS_OK;
    if (window->member == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d members",
                             group->size);
    TRY_GOTO(status, failed, mpi_agree(mpi, status));
    TRY_GOTO(status, failed, mpi_agree(mpi, check_room(window)));
    TRY_GOTO(status, failed, mpi_agree(mpi, map_members(window)));
    TRY_GOTO(status, failed, mpi_agree(mpi, fill_own(window)));
    window->sees_all = sees_all(window);
    return STATUS_OK;
failed:
    shm_close_window(window);
    return status;
}

void shm_close_window(struct shm_window *window)
{
    mpi_window_closed(&window->win);
    mpi_comm_closed(&window->mpi);
    free(window->member);
    window->member = NULL;
}
