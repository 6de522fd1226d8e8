/* Rules of the pool of threads. */
#define _DEFAULT_SOURCE /* usleep */
#include "tests/kernels/kernel_test.h"

#include "kernels/cpu/cpu_threads.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { MOST = 9 };

struct tally {
    atomic_int calls[MOST];
    atomic_int total, wrong;
    int n_threads;
};

static void count_call(void *context, int thread, int n_threads)
{
    struct tally *t = context;
    t->wrong += n_threads != t->n_threads || thread < 0 || thread >= n_threads;
    t->calls[thread]++;
    t->total++;
}

static void work_runs_once_on_each_thread_and_is_over_when_run_returns(void **state)
{
    (void)state;
    for (int n = 1; n <= MOST; n += 2) {
        struct tally t = {.n_threads = n};
        assert_ok(cpu_threads_open(n));
        assert_int_equal(cpu_threads_count(), n);
        for (int i = 1; i <= 300; i++) {
            cpu_threads_run(count_call, &t);
            assert_int_equal(t.total, i * n);
            if (i % 100 == 0)
                usleep(3000); /* long enough for waiters to fall asleep */
        }
        for (int i = 0; i < n; i++)
            assert_int_equal(t.calls[i], 300);
        assert_int_equal(t.wrong, 0);
        cpu_threads_close();
        assert_int_equal(cpu_threads_count(), 1);
    }
}

struct phases {
    int value[2][MOST];
    atomic_int wrong;
};

/* Each phase reads what all threads wrote in the one before. */
static void write_and_meet(void *context, int thread, int n_threads)
{
    struct phases *p = context;
    for (int phase = 1; phase <= 200; phase++) {
        p->value[phase % 2][thread] = phase;
        if (phase % 50 == 0 && thread == phase / 50 % n_threads)
            usleep(2000); /* the others sleep meanwhile */
        cpu_threads_meet();
        for (int i = 0; i < n_threads; i++)
            p->wrong += p->value[phase % 2][i] != phase;
        cpu_threads_meet();
    }
}

static void nobody_leaves_a_meeting_before_all_have_come(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n += 2) {
        struct phases p = {.wrong = 0};
        assert_ok(cpu_threads_open(n));
        cpu_threads_run(write_and_meet, &p);
        cpu_threads_run(write_and_meet, &p);
        assert_int_equal(p.wrong, 0);
        cpu_threads_close();
    }
}

static void without_a_pool_the_caller_works_alone(void **state)
{
    (void)state;
    struct tally t = {.n_threads = 1};
    cpu_threads_run(count_call, &t);
    cpu_threads_meet();
    assert_int_equal(t.calls[0], 1);
    cpu_threads_close();
}

static void wrong_counts_are_refused(void **state)
{
    (void)state;
    assert_int_equal(cpu_threads_open(0), STATUS_USAGE);
    assert_int_equal(cpu_threads_open(CPU_MAX_THREADS + 1), STATUS_USAGE);
    assert_ok(cpu_threads_open(2));
    assert_int_equal(cpu_threads_open(2), STATUS_INVALID);
    cpu_threads_close();
}

static void parts_cover_every_item_once(void **state)
{
    (void)state;
    for (int64_t count = 0; count < 40; count++) {
        for (int n = 1; n < 12; n++) {
            int64_t next = 0;
            for (int t = 0; t < n; t++) {
                int64_t begin, end;
                thread_part(count, t, n, &begin, &end);
                assert_int_equal(begin, next);
                assert_true(end >= begin);
                next = end;
            }
            assert_int_equal(next, count);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_runs_once_on_each_thread_and_is_over_when_run_returns),
        cmocka_unit_test(nobody_leaves_a_meeting_before_all_have_come),
        cmocka_unit_test(without_a_pool_the_caller_works_alone),
        cmocka_unit_test(wrong_counts_are_refused),
        cmocka_unit_test(parts_cover_every_item_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
