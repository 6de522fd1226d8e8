/* cpu_device.c - memory of the CPU: host memory, in huge pages where it is large. */
#define _DEFAULT_SOURCE /* madvise */
#include "kernels/core/arena.h"
#include "kernels/core/device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

static enum status cpu_allocate(void **data, size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : ARENA_ALIGNMENT;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *memory = rounded < bytes ? NULL : aligned_alloc(alignment, rounded);
    if (memory == NULL && bytes > 0)
        FAIL(STATUS_NO_MEMORY, "the system has no %zu bytes of memory left", bytes);
#ifdef MADV_HUGEPAGE /* Linux: fewer page walks while weights stream; refusal does no harm */
    if (alignment == HUGE_PAGE)
        (void)madvise(memory, rounded, MADV_HUGEPAGE);
#endif
    if (memory != NULL)
        memset(memory, 0, rounded);
    *data = memory;
    return STATUS_OK;
}

static void cpu_release(void *data, size_t bytes)
{
    (void)bytes;
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
    .allocate = cpu_allocate,
    .release = cpu_release,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .synchronize = cpu_synchronize,
};
