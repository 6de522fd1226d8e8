/* cpu_device.c - memory of the CPU: host memory, in huge pages where it is large. */
#define _DEFAULT_SOURCE /* madvise, MAP_ANONYMOUS */
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/cpu/cpu_memory.h"
#include "kernels/cpu/cpu_threads.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

/* Large memory comes zeroed from the system, page by page as it is touched, on a boundary of huge
 * pages. */
static void *map_large(size_t bytes)
{
    char *memory = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        (void)munmap(memory, before);
    if (before < HUGE_PAGE)
        (void)munmap(memory + before + bytes, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE /* Linux: fewer page walks while weights stream; refusal does no harm */
    (void)madvise(memory + before, bytes, MADV_HUGEPAGE);
#endif
    return memory + before;
}

/* Bytes as taken from the system; 0 when they cannot be counted. */
static size_t rounded_bytes(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ARENA_ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    return rounded < bytes || rounded > SIZE_MAX - HUGE_PAGE ? 0 : rounded;
}

static enum status cpu_allocate(void **data, size_t bytes)
{
    size_t rounded = rounded_bytes(bytes);
    void *memory = NULL;
    if (bytes >= HUGE_PAGE && rounded > 0)
        memory = map_large(rounded);
    else if (rounded > 0)
        memory = aligned_alloc(ARENA_ALIGNMENT, rounded);
    if (memory == NULL && bytes > 0)
        FAIL(STATUS_NO_MEMORY, "the system has no %zu bytes of memory left", bytes);
    if (memory != NULL && bytes < HUGE_PAGE)
        memset(memory, 0, rounded);
    *data = memory;
    return STATUS_OK;
}

static void cpu_release(void *data, size_t bytes)
{
    if (bytes >= HUGE_PAGE && data != NULL)
        (void)munmap(data, rounded_bytes(bytes));
    else
        free(data);
}

static enum status cpu_copy(void *to, const void *from, size_t bytes, struct stream *stream)
{
    (void)stream;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return STATUS_OK;
}

static enum status cpu_synchronize(struct stream *stream)
{
    (void)stream;
    return STATUS_OK;
}

const struct device_ops cpu_device_ops = {
    .name = "cpu",
    .is_host = 1,
    .free_memory = cpu_free_memory,
    .open_threads = cpu_threads_open,
    .close_threads = cpu_threads_close,
    .count_threads = cpu_threads_count,
    .run_threads = cpu_threads_run,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .synchronize = cpu_synchronize,
};
