/* cpu_threads.h - the threads of one rank: a pool that lives as long as the engine.
 *
 * The caller is thread 0; the others wait for work, first spinning for a bounded
 * time, then asleep, so that a core taken by another process costs its share and
 * no more.  Work is split by the thread's number alone, never by who comes first.
 */
#ifndef KERNELS_CPU_CPU_THREADS_H
#define KERNELS_CPU_CPU_THREADS_H

#include "kernels/core/status.h"
#include <stdint.h>

enum { CPU_MAX_THREADS = 1024 };

/* Starts n - 1 threads, which run on the cores that the caller may use.  Once per process at a time.
 * Errors: STATUS_NO_MEMORY (the system refuses a thread; none is left behind). */
enum status cpu_threads_open(int n_threads);
void cpu_threads_close(void);

/* Threads of the pool; 1 without one. */
int cpu_threads_count(void);

/* Calls work(context, thread, n_threads) on every thread, thread = 0 .. n_threads - 1, and returns when
 * all are done.  Not from within work. */
void cpu_threads_run(void (*work)(void *context, int thread, int n_threads), void *context);

/* Within work: returns when every thread has come here. */
void cpu_threads_meet(void);

/* Part `thread` of `count` items: [begin, end). */
static inline void thread_part(int64_t count, int thread, int n_threads, int64_t *begin,
                               int64_t *end)
{
    *begin = count * thread / n_threads;
    *end = count * (thread + 1) / n_threads;
}

#endif
