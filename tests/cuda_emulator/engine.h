/* engine.h - the inside of the emulator: fibers, warps, the block that runs. */
#ifndef TESTS_CUDA_EMULATOR_ENGINE_H
#define TESTS_CUDA_EMULATOR_ENGINE_H

#include "tests/cuda_emulator/emulator.h"

#include <deque>
#include <vector>

/* The emulator is never instrumented for ThreadSanitizer, since its own memory follows no CUDA rule; it tells
 * TSan what orders the kernel's accesses, and which accesses it makes on behalf of the kernel. */
#ifdef EMULATOR_TSAN
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
void __tsan_read_range(void *address, unsigned long bytes);
void __tsan_write_range(void *address, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

namespace emulator
{

enum { WARP_LANES = 32, MAX_THREADS = 1024, MAX_WARPS = 32, BARRIERS = 16, COPIERS = 16 };

/* What a thread waits for. */
enum wait_kind { WAIT_NONE, WAIT_BARRIER, WAIT_MEETING, WAIT_MBARRIER };

struct copy_operation { /* cp.async */
    unsigned char *to;
    const unsigned char *from;
    int bytes, valid;
    bool is_done;
};

/* Operations in order, some prefix of them cut into committed groups. */
template <class T> struct group_queue {
    std::deque<T> operations;
    std::deque<size_t> groups; /* operations of each committed group */
    size_t uncommitted = 0;

    void push(const T &operation)
    {
        operations.push_back(operation);
        uncommitted++;
    }
    void commit()
    {
        groups.push_back(uncommitted);
        uncommitted = 0;
    }
    /* Takes out what must be done so that at most `left` groups are open. */
    std::vector<T> pop_until(size_t left)
    {
        std::vector<T> done;
        for (; groups.size() > left; groups.pop_front())
            for (size_t i = 0; i < groups.front(); i++) {
                done.push_back(operations.front());
                operations.pop_front();
            }
        return done;
    }
    void clear()
    {
        operations.clear();
        groups.clear();
        uncommitted = 0;
    }
};

struct fiber {
    thread_place place;
    void *stack_pointer;
    unsigned char *stack;
    bool is_done;
    enum wait_kind wait;
    const void *wait_for; /* barrier, name of a meeting, or mbarrier */
    int reading;          /* the meeting whose slots this thread may read, or -1 */
    group_queue<copy_operation> copies;
    void *fake_stack; /* ASan */
    void *tsan;
};

struct meeting {
    uint32_t mask, arrived, readers;
    const char *name;
    slots all;
};

/* Lanes may hold the slots of one past meeting each, and all may be at another: 33 are always enough. */
enum { MEETINGS = 33 };

/* The sums of one or more products on their way.  Until the last of them has been waited for, they are here
 * and the threads' own are marked, so that code that touches them too early is noticed. */
struct accumulators {
    float *d[WARP_LANES];
    int n, products;
    std::vector<float> values; /* [16][n]: the warp's rows */
};

struct wgmma_operation {
    int n, accumulate;
    bool a_in_registers, a_transposed, b_transposed, is_done;
    uint64_t a, b;
    uint32_t a_registers[WARP_LANES][4];
    struct accumulators *sums;
};

struct warp {
    uint32_t live, runnable;
    meeting meetings[MEETINGS];
    group_queue<wgmma_operation> products;
    std::deque<accumulators *> sums;
    bool is_fenced; /* wgmma_fence was called */
    int n_products; /* issued so far */
};

struct barrier {
    int expected, arrived;
    uint32_t lanes[MAX_WARPS];
};

struct mbarrier {
    const uint64_t *at;
    int initializer; /* the thread that must also fence, or -1 after it has */
    int count, pending;
    int64_t bytes;
    unsigned phase;
};

struct bulk_operation { /* the copies that complete on an mbarrier */
    void (*run)(const bulk_operation &);
    unsigned char *to;
    uint64_t *bar;
    uint64_t map[16];
    int x, y, z;
};

struct block_state {
    block_place place;
    const void *kernel;
    void (*body)(void *);
    void *argument;
    int n_threads, n_warps, n_live;
    fiber *fibers;
    warp *warps;
    barrier barriers[BARRIERS];
    std::vector<mbarrier> mbarriers;
    std::deque<bulk_operation *> bulk;
    void *main_stack_pointer;
    enum async_mode mode;
    uint64_t dice;
    int order[MAX_WARPS], turns_left; /* warps by priority, when running at random */
    void *main_fake_stack;
    const void *main_stack; /* ASan: the stack of launch_body's caller */
    size_t main_stack_bytes;
    void *main_tsan, *copier_tsan[COPIERS];
    unsigned n_copied;
    uint64_t start, end; /* addresses that TSan orders launches by */
    /* To TSan the reads of wgmma are those of one more thread, which knows of others' writes only what they
     * have fenced, and of tensor copies; and of this thread others know when they have waited for wgmma. */
    void *proxy_tsan;
    uint64_t fenced, proxy_done;
};

extern __thread block_state *current;

static inline fiber &current_fiber()
{
    return current->fibers[thread->number];
}
static inline warp &current_warp()
{
    return current->warps[thread->warp];
}

/* Stops this thread until wake. */
void wait_for(enum wait_kind kind, const void *what);
void wake(const fiber &f);
/* Wakes all that wait for `what`. */
void wake_all(enum wait_kind kind, const void *what);

uint64_t roll(block_state *b);
/* Whether an asynchronous operation happens at once. */
bool happens_now();

void bulk_submit(const bulk_operation &operation);

/* mbarrier.cpp */
void mbarrier_describe(const void *bar);

/* kernel_name.cpp: the function at `address`, as written in the source. */
void kernel_name(const void *address, char *text, size_t bytes);

#ifdef EMULATOR_TSAN
static inline void order_after(void *what)
{
    __tsan_acquire(what);
}
static inline void order_before(void *what)
{
    __tsan_release(what);
}
/* The memory that is touched in its scope is the emulator's. */
struct own_memory {
    own_memory()
    {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~own_memory()
    {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
    own_memory(const own_memory &) = delete;
};
/* The kernel's again, in a scope within one such scope. */
struct kernel_memory {
    kernel_memory()
    {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
    ~kernel_memory()
    {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    kernel_memory(const kernel_memory &) = delete;
};
static inline void kernel_reads(const void *at, size_t bytes)
{
    if (bytes > 0)
        __tsan_read_range(const_cast<void *>(at), bytes);
}
static inline void kernel_writes(void *at, size_t bytes)
{
    if (bytes > 0)
        __tsan_write_range(at, bytes);
}
#else
static inline void order_after(void *)
{
}
static inline void order_before(void *)
{
}
struct own_memory {
    own_memory()
    {
    }
};
struct kernel_memory {
    kernel_memory()
    {
    }
};
static inline void kernel_reads(const void *, size_t)
{
}
static inline void kernel_writes(void *, size_t)
{
}
#endif

} // namespace emulator

#endif
