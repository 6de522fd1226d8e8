#include "parallel/cache_placement.h"

#include <assert.h>

int cache_placement_member(int size, int offset, int64_t page)
{
    assert(0 <= offset && offset < size && page >= 0);
    return (int)((page + offset) % size);
}

int64_t cache_placement_count(int size, int offset, int index, int64_t n_pages)
{
    assert(0 <= offset && offset < size && 0 <= index && index < size && n_pages >= 0);
    int64_t first = (index + size - offset) % size; /* the member's first page */
    return (n_pages - first + size - 1) / size;
}

/* A sequence of k pages has at most ceil(k / size) <= (k + size - 1) / size on one member. */
int64_t cache_placement_room(int size, int n_sequences, int64_t max_pages, int64_t n_pages)
{
    int64_t full = n_sequences * ((max_pages + size - 1) / size);
    int64_t shared = (n_pages + (int64_t)n_sequences * (size - 1)) / size;
    int64_t room = full < shared ? full : shared;
    return room < n_pages ? room : n_pages;
}

int cache_placement_offset(int size, const int64_t *held)
{
    int least = 0;
    for (int i = 1; i < size; i++)
        if (held[i] < held[least])
            least = i;
    return least;
}

int cache_placement_stride(int size)
{
    int stride = 1;
    while (2 * stride < size)
        stride *= 2;
    return size > 1 ? stride : 0;
}
