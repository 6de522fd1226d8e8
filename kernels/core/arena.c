#include "kernels/core/arena.h"

size_t arena_rounded(size_t bytes)
{
    return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
}

enum status arena_open(struct arena *arena, const struct device_ops *device, const char *name,
                       size_t capacity)
{
    void *data = NULL;
    if (capacity > 0 && device->allocate(&data, capacity) != STATUS_OK)
        return status_prefix(STATUS_NO_MEMORY, "%s memory", name);
    *arena = (struct arena){.device = device, .name = name, .data = data, .capacity = capacity};
    return STATUS_OK;
}

enum status arena_take(struct arena *arena, void **data, size_t bytes)
{
    size_t rounded = arena_rounded(bytes);
    if (arena->device == NULL) {
        *data = NULL;
    } else if (rounded > arena->capacity - arena->used) {
        FAIL(STATUS_NO_MEMORY, "%s arena of %zu bytes has %zu left, %zu wanted", arena->name,
             arena->capacity, arena->capacity - arena->used, bytes);
    } else {
        *data = arena->data + arena->used;
    }
    arena->used += rounded;
    return STATUS_OK;
}

enum status arena_tensor(struct arena *arena, struct tensor *tensor, enum dtype dtype, int ndim,
                         const int64_t *dim)
{
    struct tensor t = {.dtype = dtype, .ndim = ndim};
    int64_t count = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        t.dim[i] = dim[i];
        t.stride[i] = count;
        count *= dim[i];
    }
    TRY(arena_take(arena, &t.data, (size_t)count * dtype_bytes(dtype)));
    *tensor = t;
    return STATUS_OK;
}

void arena_close(struct arena *arena)
{
    if (arena->data != NULL)
        arena->device->release(arena->data, arena->capacity);
    *arena = (struct arena){0};
}
