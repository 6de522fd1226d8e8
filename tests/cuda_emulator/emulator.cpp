/* emulator.cpp - fibers, the order in which they run, warp meetings, barriers, launches. */
#include "tests/cuda_emulator/engine.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "switching fibers is written for x86-64"
#endif

#ifdef __SANITIZE_ADDRESS__
extern "C" {
void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *bytes);
}
#define UNCHECKED __attribute__((no_sanitize("address")))
#else
#define UNCHECKED
#endif

namespace emulator
{

__thread const thread_place *thread;
__thread const block_place *block;
__thread block_state *current;

enum { STACK_BYTES = 256 << 10, SHARED_MAX = 227 << 10, PAGE = 4096 };

/* Pushes the registers that a call keeps, stores the stack pointer, and takes those of `load`. */
extern "C" void emulator_switch(void **save, void *load);
asm(R"(.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch,.-emulator_switch
)");

/* Reports */

static bool waits_alike(const fiber &a, const fiber &b)
{
    if (a.is_done || b.is_done)
        return a.is_done == b.is_done;
    return a.wait == b.wait && (a.wait == WAIT_NONE || a.wait_for == b.wait_for);
}

static void describe_wait(const fiber &f)
{
    if (f.is_done)
        fprintf(stderr, "done\n");
    else if (f.wait == WAIT_BARRIER)
        fprintf(stderr, "at barrier %d\n", (int)((const barrier *)f.wait_for - current->barriers));
    else if (f.wait == WAIT_MEETING)
        fprintf(stderr, "in %s\n", (const char *)f.wait_for);
    else if (f.wait == WAIT_MBARRIER)
        mbarrier_describe(f.wait_for);
    else
        fprintf(stderr, "can run\n");
}

static void describe_threads()
{
    for (int begin = 0, end; begin < current->n_threads; begin = end) {
        const fiber &f = current->fibers[begin];
        for (end = begin + 1; end < current->n_threads; end++)
            if (!waits_alike(current->fibers[end], f))
                break;
        if (end - begin > 1)
            fprintf(stderr, "  threads %d-%d: ", begin, end - 1);
        else
            fprintf(stderr, "  thread %d: ", begin);
        describe_wait(f);
    }
}

void misuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda_emulator: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    if (current != NULL) {
        char name[512];
        uint3 at = current->place.index;
        kernel_name(current->kernel, name, sizeof name);
        fprintf(stderr, "  in %s, block (%u, %u, %u)", name, at.x, at.y, at.z);
        if (thread != NULL)
            fprintf(stderr, ", thread (%u, %u, %u)", thread->index.x, thread->index.y,
                    thread->index.z);
        fprintf(stderr, "\n");
        describe_threads();
    }
    fflush(stdout);
    fflush(stderr);
    _Exit(EXIT_MISUSE);
}

/* Modes */

static __thread bool mode_is_set;
static __thread enum async_mode chosen_mode;
static __thread unsigned chosen_seed;

void mode_set(enum async_mode mode, unsigned seed)
{
    mode_is_set = true;
    chosen_mode = mode;
    chosen_seed = seed;
}

static void mode_from_environment()
{
    const char *text = getenv("CUDA_EMULATOR");
    if (mode_is_set)
        return;
    if (text == NULL || strcmp(text, "late") == 0)
        mode_set(ASYNC_LATE, 0);
    else if (strcmp(text, "early") == 0)
        mode_set(ASYNC_EARLY, 0);
    else
        mode_set(ASYNC_RANDOM, (unsigned)atoi(text));
}

uint64_t roll(block_state *b)
{
    b->dice = b->dice * 6364136223846793005u + 1442695040888963407u;
    return b->dice >> 33;
}

bool happens_now()
{
    return current->mode == ASYNC_RANDOM ? (roll(current) >> 5 & 1) != 0
                                         : current->mode == ASYNC_EARLY;
}

/* Order */

/* The first runnable lane from `begin` on, around; `runnable` is not 0. */
static int next_lane(uint32_t runnable, int begin)
{
    uint32_t after = begin < WARP_LANES ? runnable >> begin << begin : 0;
    return __builtin_ctz(after != 0 ? after : runnable);
}

/* Warps keep a random priority for a while, so that some run far ahead of others. */
static fiber *pick_random(block_state *b)
{
    if (b->turns_left-- <= 0) {
        b->turns_left = 64 << roll(b) % 7;
        for (int i = 0; i < b->n_warps; i++) {
            int j = (int)(roll(b) % (unsigned)(i + 1));
            b->order[i] = b->order[j];
            b->order[j] = i;
        }
    }
    for (int i = 0; i < b->n_warps; i++) {
        int w = b->order[i];
        if (b->warps[w].runnable != 0)
            return &b->fibers[w * WARP_LANES +
                              next_lane(b->warps[w].runnable, (int)(roll(b) % 32))];
    }
    return NULL;
}

/* The next lane of the same warp, else of the next. */
static fiber *pick_in_order(block_state *b)
{
    int w = thread != NULL ? thread->warp : 0, begin = thread != NULL ? thread->lane + 1 : 0;
    for (int i = 0; i < b->n_warps; i++, w = (w + 1) % b->n_warps, begin = 0)
        if (b->warps[w].runnable != 0)
            return &b->fibers[w * WARP_LANES + next_lane(b->warps[w].runnable, begin)];
    return NULL;
}

static void bulk_run(size_t which)
{
    bulk_operation *operation = current->bulk[which];
    current->bulk.erase(current->bulk.begin() + (ptrdiff_t)which);
#ifdef EMULATOR_TSAN /* a thread of its own, ordered after the one that started it, and not after other copies */
    void *me = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(current->copier_tsan[current->n_copied++ % COPIERS], 1);
    order_after(operation);
#endif
    operation->run(*operation);
#ifdef EMULATOR_TSAN
    __tsan_switch_to_fiber(me, 1);
#endif
    delete operation;
}

void bulk_submit(const bulk_operation &operation)
{
    current->bulk.push_back(new bulk_operation(operation));
    order_before(current->bulk.back());
    if (happens_now())
        bulk_run(current->bulk.size() - 1);
}

/* The next to run; bulk copies happen when nothing else can, or by the dice.  NULL: none ever. */
static fiber *pick()
{
    block_state *b = current;
    if (b->mode == ASYNC_RANDOM && !b->bulk.empty() && roll(b) % 8 == 0)
        bulk_run(roll(b) % b->bulk.size());
    for (;;) {
        fiber *next = b->mode == ASYNC_RANDOM ? pick_random(b) : pick_in_order(b);
        if (next != NULL || b->bulk.empty())
            return next;
        bulk_run(b->mode == ASYNC_RANDOM ? roll(b) % b->bulk.size() : 0);
    }
}

/* Goes on in `to`, or in launch_body when `to` is NULL; `from` likewise, and it may be done. */
UNCHECKED static void go(fiber *from, fiber *to)
{
    block_state *b = current;
    thread = to != NULL ? &to->place : NULL;
#ifdef EMULATOR_TSAN
    __tsan_switch_to_fiber(to != NULL ? to->tsan : b->main_tsan, 1 /* orders nothing */);
#endif
#ifdef __SANITIZE_ADDRESS__
    void **fake = from == NULL ? &b->main_fake_stack : from->is_done ? NULL : &from->fake_stack;
    __sanitizer_start_switch_fiber(fake, to != NULL ? to->stack : b->main_stack,
                                   to != NULL ? (size_t)STACK_BYTES : b->main_stack_bytes);
#endif
    emulator_switch(from != NULL ? &from->stack_pointer : &b->main_stack_pointer,
                    to != NULL ? to->stack_pointer : b->main_stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from != NULL ? from->fake_stack : b->main_fake_stack, NULL,
                                    NULL);
#endif
}

void wake(const fiber &f)
{
    current->warps[f.place.warp].runnable |= 1u << f.place.lane;
}

void wake_all(enum wait_kind kind, const void *what)
{
    for (int i = 0; i < current->n_threads; i++)
        if (current->fibers[i].wait == kind && current->fibers[i].wait_for == what)
            wake(current->fibers[i]);
}

void wait_for(enum wait_kind kind, const void *what)
{
    fiber &me = current_fiber();
    me.wait = kind;
    me.wait_for = what;
    current_warp().runnable &= ~(1u << me.place.lane);
    fiber *next = pick();
    if (next == NULL)
        misuse("deadlock: no thread can run");
    if (next != &me)
        go(&me, next);
    me.wait = WAIT_NONE;
}

void yield()
{
    own_memory own;
    fiber *me = &current_fiber(), *next = pick();
    if (next != me)
        go(me, next);
}

/* Barriers */

static void barrier_open(barrier *b)
{
    for (int w = 0; w < current->n_warps; w++)
        if (b->lanes[w] != 0 && (current->warps[w].live & ~b->lanes[w]) != 0)
            misuse("barrier %d: of warp %d only lanes %08x came", (int)(b - current->barriers), w,
                   b->lanes[w]);
    *b = barrier();
    wake_all(WAIT_BARRIER, b);
}

static barrier *barrier_come(int id, int threads)
{
    if (id < 0 || id >= BARRIERS)
        misuse("there is no barrier %d", id);
    if (threads % WARP_LANES != 0)
        misuse("barrier %d for %d threads, which is not a number of warps", id, threads);
    barrier *b = &current->barriers[id];
    if (b->arrived > 0 && b->expected != threads)
        misuse("barrier %d: one thread expects %d threads, others %d (0: all)", id, threads,
               b->expected);
    b->expected = threads;
    order_before(b);
    b->arrived++;
    b->lanes[thread->warp] |= 1u << thread->lane;
    return b;
}

static bool barrier_is_full(const barrier *b)
{
    return b->arrived > 0 && b->arrived >= (b->expected > 0 ? b->expected : current->n_live);
}

void barrier_sync(int id, int threads)
{
    own_memory own;
    barrier *b = barrier_come(id, threads);
    if (barrier_is_full(b))
        barrier_open(b);
    else
        wait_for(WAIT_BARRIER, b);
    order_after(b);
}

void barrier_arrive(int id, int threads)
{
    own_memory own;
    barrier *b = barrier_come(id, threads);
    if (threads == 0)
        misuse("an arrival at barrier %d must say for how many threads", id);
    if (barrier_is_full(b))
        barrier_open(b);
}

/* Meetings of a warp */

static meeting *meeting_find(warp &w, uint32_t mask, const char *name)
{
    meeting *free_one = NULL;
    for (meeting &m : w.meetings) {
        if (m.arrived == 0) {
            if (free_one == NULL && m.readers == 0)
                free_one = &m;
            continue;
        }
        if ((m.mask & mask) == 0)
            continue;
        if (m.mask != mask || strcmp(m.name, name) != 0)
            misuse("diverged warp: %s of lanes %08x meets %s of lanes %08x", name, mask, m.name,
                   m.mask);
        return &m;
    }
    free_one->mask = mask;
    free_one->name = name;
    return free_one;
}

slots &warp_meet(uint32_t mask, const char *name, const void *input, size_t bytes,
                 lead_function *lead, bool orders_memory)
{
    own_memory own;
    fiber &me = current_fiber();
    warp &w = current_warp();
    if (!(mask >> me.place.lane & 1))
        misuse("%s: mask %08x is without the calling lane %d", name, mask, me.place.lane);
    if ((mask & ~w.live) != 0)
        misuse("%s: mask %08x names lanes that are done or not there (live: %08x)", name, mask,
               w.live);
    if (me.reading >= 0)
        w.meetings[me.reading].readers &= ~(1u << me.place.lane);
    meeting *m = meeting_find(w, mask, name);
    me.reading = (int)(m - w.meetings);
    if (bytes > 0)
        memcpy(m->all.of_lane[me.place.lane], input, bytes);
    if (orders_memory)
        order_before(m);
    m->arrived |= 1u << me.place.lane;
    if (m->arrived == mask) {
        m->readers = mask;
        m->arrived = 0;
        if (lead != NULL)
            lead(m->all, mask);
        w.runnable |= mask;
    } else {
        wait_for(WAIT_MEETING, name);
    }
    if (orders_memory)
        order_after(m);
    return m->all;
}

/* Shared memory */

uint32_t shared_offset(const void *pointer, const char *what)
{
    ptrdiff_t offset = (const unsigned char *)pointer - current->place.shared;
    if (offset < 0 || (size_t)offset > current->place.shared_bytes)
        misuse("%s: %p is not in the block's shared memory", what, pointer);
    return (uint32_t)offset + SHARED_BASE;
}

unsigned char *shared_at(uint32_t address, size_t bytes, const char *what)
{
    size_t size = current->place.shared_bytes;
    if (address < SHARED_BASE || bytes > size || address - SHARED_BASE > size - bytes)
        misuse("%s: bytes %lld to %lld of a shared memory of %zu bytes", what,
               (long long)address - SHARED_BASE,
               (long long)address - SHARED_BASE + (long long)bytes, size);
    return current->place.shared + (address - SHARED_BASE);
}

/* Launches */

static void check_leftovers(const fiber &me)
{
    if (!me.copies.operations.empty())
        misuse("the thread ends with %zu cp.async not waited for", me.copies.operations.size());
    if (!current_warp().products.operations.empty())
        misuse("the thread ends with %zu wgmma not waited for",
               current_warp().products.operations.size());
}

/* This thread is done; returns who goes on, NULL when the block is done. */
static fiber *fiber_end()
{
    own_memory own;
    fiber *me = &current_fiber();
    warp &w = current_warp();
    check_leftovers(*me);
    me->is_done = true;
    me->wait = WAIT_NONE;
    current->n_live--;
    w.live &= ~(1u << me->place.lane);
    w.runnable &= ~(1u << me->place.lane);
    if (me->reading >= 0)
        w.meetings[me->reading].readers &= ~(1u << me->place.lane);
    /* Those that are gone no longer count where all are awaited. */
    if (current->barriers[0].expected == 0 && barrier_is_full(&current->barriers[0]))
        barrier_open(&current->barriers[0]);
    fiber *next = current->n_live > 0 ? pick() : NULL;
    if (next == NULL && current->n_live > 0)
        misuse("deadlock: this thread was the last that could run");
    return next;
}

/* The first function of each fiber. */
UNCHECKED static void fiber_begin()
{
#ifdef __SANITIZE_ADDRESS__
    const void *from;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &from, &bytes);
    if (current->main_stack == NULL) { /* the first fiber comes from launch_body */
        current->main_stack = from;
        current->main_stack_bytes = bytes;
    }
#endif
    order_after(&current->start);
    current->body(current->argument);
    order_before(&current->end);
    fiber *me = &current_fiber(), *next = fiber_end();
    go(me, next);
    __builtin_trap();
}

static unsigned char *map_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("cuda_emulator: mmap");
        _Exit(EXIT_MISUSE);
    }
    return (unsigned char *)memory;
}

static block_state *state_open()
{
    block_state *b = new block_state();
    b->fibers = new fiber[MAX_THREADS]();
    b->warps = new warp[MAX_WARPS]();
#ifdef EMULATOR_TSAN
    b->proxy_tsan = __tsan_create_fiber(0);
    for (void *&copier : b->copier_tsan)
        copier = __tsan_create_fiber(0);
#endif
    return b;
}

/* Fresh for each block, poisoned (as floats or bf16: NaN), and ending where the accesses that go beyond are
 * noticed: at a page that is not there, or for the sanitizers at the end of an object. */
static unsigned char *shared_open(size_t bytes)
{
    unsigned char *shared;
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATOR_TSAN)
    if (posix_memalign((void **)&shared, 1024, bytes > 0 ? bytes : 1) != 0)
        abort();
#else
    static __thread unsigned char *room;
    const size_t room_bytes = 232 << 10;
    if (room == NULL) {
        room = map_memory(room_bytes + PAGE);
        mprotect(room + room_bytes, PAGE, PROT_NONE);
    }
    shared = room + ((room_bytes - bytes) & ~(size_t)1023);
#endif
    memset(shared, 0xff, bytes);
    return shared;
}

static void shared_close(unsigned char *shared)
{
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATOR_TSAN)
    /* When blocks are not ordered, TSan would take the freeing for a race. */
    if (getenv("CUDA_EMULATOR_UNORDERED_BLOCKS") == NULL)
        free(shared);
#else
    (void)shared;
#endif
}

static void warp_reset(warp &w, uint32_t lanes)
{
    w.live = w.runnable = lanes;
    for (meeting &m : w.meetings)
        m.mask = m.arrived = m.readers = 0;
    w.products.clear();
    w.is_fenced = false;
    w.n_products = 0;
}

static void fiber_reset(fiber &f, int number, dim3 size)
{
    if (f.stack == NULL) {
        f.stack = map_memory(STACK_BYTES + PAGE) + PAGE;
        mprotect(f.stack - PAGE, PAGE, PROT_NONE);
#ifdef EMULATOR_TSAN
        f.tsan = __tsan_create_fiber(0);
#endif
    }
    unsigned n = (unsigned)number;
    f.place = {{n % size.x, n / size.x % size.y, n / (size.x * size.y)},
               number,
               number % WARP_LANES,
               number / WARP_LANES};
    f.is_done = false;
    f.wait = WAIT_NONE;
    f.reading = -1;
    f.copies.clear();
    f.fake_stack = NULL;
    void **top = (void **)(f.stack + STACK_BYTES);
    *--top = NULL; /* where fiber_begin would return to */
    *--top = (void *)fiber_begin;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    f.stack_pointer = top;
}

static void check_block_end()
{
    block_state *b = current;
    if (!b->bulk.empty())
        misuse("the block ends with %zu bulk copies on their way", b->bulk.size());
    for (int w = 0; w < b->n_warps; w++)
        if (b->warps[w].n_products != b->warps[w / 4 * 4].n_products)
            misuse("warps %d and %d of a warpgroup issued %d and %d wgmma", w / 4 * 4, w,
                   b->warps[w / 4 * 4].n_products, b->warps[w].n_products);
    for (int i = 0; i < BARRIERS; i++)
        if (b->barriers[i].arrived > 0)
            misuse("the block ends with %d arrivals at barrier %d, which never opened",
                   b->barriers[i].arrived, i);
}

static void block_run(block_state *b, uint3 index)
{
    b->place.index = index;
    b->place.shared = shared_open(b->place.shared_bytes);
    b->n_live = b->n_threads;
    for (barrier &each : b->barriers)
        each = barrier();
    b->mbarriers.clear();
    b->turns_left = 0;
    for (int w = 0; w < b->n_warps; w++) {
        int lanes = b->n_threads - w * WARP_LANES;
        warp_reset(b->warps[w], lanes >= WARP_LANES ? ~0u : (1u << lanes) - 1);
        b->order[w] = w;
    }
    for (int i = 0; i < b->n_threads; i++)
        fiber_reset(b->fibers[i], i, b->place.size);
#ifdef EMULATOR_TSAN
    b->main_tsan = __tsan_get_current_fiber();
#endif
    order_before(&b->start);
    go(NULL, pick());
    check_block_end();
    if (getenv("CUDA_EMULATOR_UNORDERED_BLOCKS") == NULL)
        order_after(&b->end);
    shared_close(b->place.shared);
}

static bool is_launchable(dim3 grid, dim3 size)
{
    uint64_t threads = (uint64_t)size.x * size.y * size.z;
    return threads >= 1 && threads <= MAX_THREADS && size.z <= 64 && grid.x >= 1 &&
           grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
           grid.z <= 65535;
}

cudaError_t launch_body(const void *kernel, dim3 grid, dim3 size, size_t shared_bytes,
                        void (*body)(void *), void *argument)
{
    static __thread block_state *state;
    if (!is_launchable(grid, size) || shared_bytes > SHARED_MAX) {
        cudaError_t error =
            shared_bytes > SHARED_MAX ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
        error_record(error);
        return error;
    }
    if (current != NULL)
        misuse("a kernel launches a kernel");
    own_memory own;
    mode_from_environment();
    if (state == NULL)
        state = state_open();
    block_state *b = current = state;
    block = &b->place;
    b->kernel = kernel;
    b->body = body;
    b->argument = argument;
    b->place.grid = grid;
    b->place.size = size;
    b->place.shared_bytes = shared_bytes;
    b->n_threads = (int)(size.x * size.y * size.z);
    b->n_warps = (b->n_threads + WARP_LANES - 1) / WARP_LANES;
    b->mode = chosen_mode;
    b->dice = chosen_seed * 0x9e3779b97f4a7c15u + 1;
    b->main_stack = NULL;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++)
                block_run(b, {x, y, z});
    order_after(&b->end);
    current = NULL;
    block = NULL;
    return cudaSuccess;
}

} // namespace emulator
