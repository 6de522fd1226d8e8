#include "parallel/shm_window.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "epochs are shared between processes");

/* Pauses of a spin: 5 to 20 us, by processor.  Other members that need this very core to arrive would
 * wait that long at each step, so with more ranks than cores there are only a few. */
enum { SPINS_MAX = 256, SPINS_MIN = 8 };

enum {
    YIELDS_PER_PROBE = 16,  /* MPI is kept going: it may hold messages that others wait for */
    YIELD_NS = 1000 * 1000, /* from then on a waiter sleeps */
    SLEEP_MAX_NS = 1000000, /* adds this much at most to a wait */
    ALIVE_NS = 1000000000 /* mpirun ends a job within this time when a rank dies; others may not */
};

/* The epoch has lines of its own (two: they are fetched in pairs), so that only an arrival moves it. */
struct shm_member {
    _Alignas(128) _Atomic uint64_t epoch;
    int flag[2];
    int64_t pid;
    _Alignas(4096) char slot[2][SHM_SLOT_BYTES];
};

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

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static enum status check_alive(const struct shm_window *window, int member)
{
    int64_t pid = window->member[member]->pid;
    const struct group *group = &window->group;
    if (window->sees_all && kill((pid_t)pid, 0) != 0 && errno == ESRCH)
        FAIL(STATUS_COMM, "rank %d, which the %s group waits for, has ended (process %lld)",
             group->first + member * group->stride, group->name, (long long)pid);
    return STATUS_OK;
}

static enum status wait_long(struct shm_window *window, int member)
{
    int64_t begin = now_ns(), next_check = ALIVE_NS;
    for (int64_t i = 1; epoch_of(window, member) < window->epoch; i++) {
        int64_t waited = now_ns() - begin, rest = waited / 16;
        if (waited < YIELD_NS) {
            sched_yield();
        } else {
            const struct timespec sleep = {.tv_nsec = rest < SLEEP_MAX_NS ? rest : SLEEP_MAX_NS};
            nanosleep(&sleep, NULL);
        }
        if (i % YIELDS_PER_PROBE == 0) {
            int found;
            MPI_TRY(
                MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, window->mpi, &found, MPI_STATUS_IGNORE));
        }
        if (waited >= next_check) {
            TRY(check_alive(window, member));
            next_check += ALIVE_NS;
        }
    }
    return STATUS_OK;
}

/* A spin that failed halves the next ones, one that helped doubles them: ranks that share cores, with
 * each other or with strangers, soon spin no longer. */
enum status shm_wait(struct shm_window *window, int member)
{
    for (int i = 0; i < window->spins; i++) {
        if (epoch_of(window, member) >= window->epoch) {
            if (i >= SPINS_MIN / 2 && window->spins < SPINS_MAX)
                window->spins *= 2;
            return STATUS_OK;
        }
        PAUSE();
    }
    if (window->spins > SPINS_MIN)
        window->spins /= 2;
    return wait_long(window, member);
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

void shm_arrive(struct shm_window *window)
{
    struct shm_member *own = window->member[window->group.index];
    atomic_store_explicit(&own->epoch, ++window->epoch, memory_order_release);
}

/* --- opening --- */

/* Each member's memory on pages of its own, so that it lies near the member that touches it first. */
static enum status map_members(struct shm_window *window)
{
    MPI_Info info = MPI_INFO_NULL;
    void *own = NULL;
    enum status status = STATUS_OK;
    MPI_TRY(MPI_Info_create(&info));
    MPI_TRY_GOTO(status, done, MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    MPI_TRY_GOTO(status, done,
                 MPI_Win_allocate_shared(sizeof(struct shm_member) + _Alignof(struct shm_member), 1,
                                         info, window->mpi, &own, &window->win));
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
static void fill_own(struct shm_window *window)
{
    struct shm_member *own = window->member[window->group.index];
    memset(own, 0, sizeof *own);
    own->pid = getpid();
    atomic_init(&own->epoch, 0);
}

/* In a container of its own a member may be unseen though it lives. */
static int sees_all(const struct shm_window *window)
{
    for (int i = 0; i < window->group.size; i++)
        if (kill((pid_t)window->member[i]->pid, 0) != 0 && errno == ESRCH)
            return 0;
    return 1;
}

static int first_spins(const struct shm_window *window)
{
    int n_ranks = window->group.size;
    if (mpi_node() != MPI_COMM_NULL)
        MPI_Comm_size(mpi_node(), &n_ranks);
    return n_ranks <= sysconf(_SC_NPROCESSORS_ONLN) ? SPINS_MAX : SPINS_MIN;
}

enum status shm_open_window(struct shm_window *window, const struct group *group, MPI_Comm mpi)
{
    *window = (struct shm_window){.group = *group, .mpi = mpi, .win = MPI_WIN_NULL};
    window->member = calloc((size_t)group->size, sizeof(struct shm_member *));
    window->spins = first_spins(window);
    enum status status = STATUS_OK;
    if (window->member == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d members",
                             group->size);
    TRY_GOTO(status, failed, mpi_agree(mpi, status));
    TRY_GOTO(status, failed, mpi_agree(mpi, map_members(window)));
    fill_own(window);
    MPI_TRY_GOTO(status, failed, MPI_Barrier(mpi));
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
