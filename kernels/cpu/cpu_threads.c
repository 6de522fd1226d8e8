#include "kernels/cpu/cpu_threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

/* Looks before a waiter sleeps: about 30 us where a pause takes 40 cycles.  Longer than the gap between
 * two operations of a step, shorter than what a scheduler gives another process. */
enum { SPINS = 2000, STACK_BYTES = 4 << 20 };

/* A number that threads wait for to change. */
struct signal {
    _Alignas(64) atomic_uint value;
    atomic_int n_sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

static struct {
    int n_threads; /* 0: no pool */
    pthread_t *thread;
    void (*work)(void *context, int thread, int n_threads);
    void *context;
    int stops;
    struct signal start;          /* one more for each region */
    struct signal finish;         /* one more when the last thread is done */
    struct signal meeting;        /* one more when the last thread has come */
    _Alignas(64) atomic_int busy; /* threads that are not done */
    _Alignas(64) atomic_int missing;
} pool;

static void signal_open(struct signal *s)
{
    atomic_init(&s->value, 0);
    atomic_init(&s->n_sleepers, 0);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static void signal_close(struct signal *s)
{
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->changed);
}

/* A sleeper counts itself before its last look, and the value changes before sleepers are counted: in
 * the one order of both one of the two sees the other. */
static void signal_raise(struct signal *s)
{
    atomic_fetch_add(&s->value, 1);
    if (atomic_load(&s->n_sleepers) == 0)
        return;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

/* Returns when the value is no longer `old`. */
static void signal_wait(struct signal *s, unsigned old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&s->value, memory_order_acquire) != old)
            return;
        PAUSE();
    }
    pthread_mutex_lock(&s->mutex);
    atomic_fetch_add(&s->n_sleepers, 1);
    while (atomic_load(&s->value) == old)
        pthread_cond_wait(&s->changed, &s->mutex);
    atomic_fetch_sub(&s->n_sleepers, 1);
    pthread_mutex_unlock(&s->mutex);
}

static void *thread_main(void *argument)
{
    int thread = (int)(intptr_t)argument;
    for (unsigned region = 0;; region++) {
        signal_wait(&pool.start, region);
        if (pool.stops)
            return NULL;
        pool.work(pool.context, thread, pool.n_threads);
        if (atomic_fetch_sub(&pool.busy, 1) == 1)
            signal_raise(&pool.finish);
    }
}

static void stop_threads(int n_started)
{
    pool.stops = 1;
    signal_raise(&pool.start);
    for (int i = 1; i <= n_started; i++)
        pthread_join(pool.thread[i], NULL);
    signal_close(&pool.start);
    signal_close(&pool.finish);
    signal_close(&pool.meeting);
    free(pool.thread);
    pool.thread = NULL;
    pool.n_threads = 0;
}

enum status cpu_threads_open(int n_threads)
{
    if (n_threads < 1 || n_threads > CPU_MAX_THREADS)
        FAIL(STATUS_USAGE, "%d threads, expected 1 to %d", n_threads, CPU_MAX_THREADS);
    if (pool.n_threads > 0)
        FAIL(STATUS_INVALID, "there are %d threads already", pool.n_threads);
    pool.thread = calloc((size_t)n_threads, sizeof *pool.thread);
    if (pool.thread == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %d threads", n_threads);
    signal_open(&pool.start);
    signal_open(&pool.finish);
    signal_open(&pool.meeting);
    atomic_init(&pool.busy, 0);
    atomic_init(&pool.missing, n_threads);
    pool.stops = 0;
    pool.n_threads = n_threads;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = 0, n_started = 0;
    for (int i = 1; i < n_threads && error == 0; i++) {
        error = pthread_create(&pool.thread[i], &attributes, thread_main, (void *)(intptr_t)i);
        n_started += error == 0;
    }
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        stop_threads(n_started);
        FAIL(STATUS_NO_MEMORY, "cannot start thread %d of %d: %s; give fewer with --threads",
             n_started + 2, n_threads, strerror(error));
    }
    return STATUS_OK;
}

void cpu_threads_close(void)
{
    if (pool.n_threads > 0)
        stop_threads(pool.n_threads - 1);
}

int cpu_threads_count(void)
{
    return pool.n_threads > 0 ? pool.n_threads : 1;
}

void cpu_threads_run(void (*work)(void *context, int thread, int n_threads), void *context)
{
    if (pool.n_threads <= 1) {
        work(context, 0, 1);
        return;
    }
    unsigned finished = atomic_load(&pool.finish.value);
    pool.work = work;
    pool.context = context;
    atomic_store(&pool.busy, pool.n_threads - 1);
    signal_raise(&pool.start);
    work(context, 0, pool.n_threads);
    signal_wait(&pool.finish, finished);
}

void cpu_threads_meet(void)
{
    if (pool.n_threads <= 1)
        return;
    unsigned met = atomic_load(&pool.meeting.value);
    if (atomic_fetch_sub(&pool.missing, 1) > 1) {
        signal_wait(&pool.meeting, met);
        return;
    }
    atomic_store(&pool.missing, pool.n_threads);
    signal_raise(&pool.meeting);
}
