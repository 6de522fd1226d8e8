/* mbarrier.cpp - barriers in shared memory, and the copies that complete on them.
 *
 * The 8 bytes of an mbarrier hold a mark and the number of its state, so that
 * one that was never initialized, or was overwritten, is noticed.
 */
#include "tests/cuda_emulator/ptx_host.cuh"

#include "tests/cuda_emulator/engine.h"

namespace emulator
{

static const uint64_t mark = 0x6d62617272000000u;

static mbarrier &mbarrier_find(const uint64_t *bar, const char *what)
{
    kernel_reads(bar, sizeof *bar);
    uint32_t address = shared_offset(bar, what);
    uint64_t number = *bar - mark;
    if (number >= current->mbarriers.size() || current->mbarriers[number].at != bar)
        misuse("%s: the 8 bytes at offset %u of shared memory are no mbarrier (not initialized, or "
               "overwritten)",
               what, address - SHARED_BASE);
    return current->mbarriers[number];
}

void mbarrier_describe(const void *at)
{
    for (const mbarrier &b : current->mbarriers)
        if (b.at == at)
            fprintf(stderr,
                    "in phase %u of the mbarrier at offset %td of shared memory: %d of %d arrivals "
                    "and %lld bytes are missing\n",
                    b.phase, (const unsigned char *)at - current->place.shared, b.pending, b.count,
                    (long long)b.bytes);
}

static void phase_check(mbarrier &b)
{
    enum { BYTES_MAX = (1 << 20) - 1 };
    if (b.bytes > BYTES_MAX || b.bytes < -BYTES_MAX)
        misuse("mbarrier: %lld bytes in one phase", (long long)b.bytes);
    if (b.pending > 0 || b.bytes != 0)
        return;
    b.phase ^= 1;
    b.pending = b.count;
    wake_all(WAIT_MBARRIER, b.at);
}

/* `bytes` have come for it. */
static void mbarrier_complete(uint64_t *bar, int bytes)
{
    mbarrier &b = mbarrier_find(bar, "the end of a bulk copy");
    order_before(bar);
    order_before(&current->fenced);
    b.bytes -= bytes;
    phase_check(b);
}

static void arrive(uint64_t *bar, uint32_t bytes, const char *what)
{
    mbarrier &b = mbarrier_find(bar, what);
    own_memory own;
    if (b.pending == 0)
        misuse("%s: more arrivals than the mbarrier's count of %d", what, b.count);
    order_before(bar);
    b.bytes += bytes;
    b.pending--;
    phase_check(b);
}

/* A box of a tensor, zero beyond its edges, into a destination with the 128-byte swizzle. */
static void tensor_copy(const bulk_operation &operation)
{
    const tensor_map_contents &map = *(const tensor_map_contents *)operation.map;
    enum { CHUNK = 8 }; /* numbers that stay together: 16 bytes */
    int bytes = map.box_rows * BOX_COLUMNS * 2;
    uint32_t base = shared_offset(operation.to, "a tensor copy");
    kernel_writes(operation.to, (size_t)bytes);
    for (int r = 0; r < map.box_rows; r++) {
        int64_t row = (int64_t)operation.y + r;
        bool is_inside = row >= 0 && row < map.rows && operation.z >= 0 && operation.z < map.planes;
        const uint16_t *from =
            map.data + (is_inside ? row * map.row_stride + operation.z * map.plane_stride : 0);
        for (int c = 0; c < BOX_COLUMNS; c += CHUNK) {
            uint16_t chunk[CHUNK] = {0};
            for (int i = 0; i < CHUNK && is_inside; i++) {
                int64_t column = (int64_t)operation.x + c + i;
                if (column < 0 || column >= map.columns)
                    continue;
                kernel_reads(from + column, sizeof *from);
                chunk[i] = from[column];
            }
            uint32_t to = swizzle_128(base + (uint32_t)(r * BOX_COLUMNS + c) * 2);
            memcpy(shared_at(to, sizeof chunk, "a tensor copy"), chunk, sizeof chunk);
        }
    }
    mbarrier_complete(operation.bar, bytes);
}

void tensor_load(void *to, const tensor_map *map, uint64_t *bar, int dimensions, int x, int y,
                 int z)
{
    tensor_map_contents contents;
    memcpy(&contents, map->opaque, sizeof contents);
    if (contents.magic != TENSOR_MAP_MAGIC || ((uintptr_t)map & 63) != 0)
        misuse("tma_load: this is no tensor map, or not 64-byte aligned");
    if (contents.dimensions != dimensions)
        misuse("tma_load_%dd with a tensor map of %d dimensions", dimensions, contents.dimensions);
    uint32_t address = shared_offset(to, "tma_load");
    if (address % 1024 != 0)
        misuse("tma_load: the 128-byte swizzle needs a destination aligned to 1024 bytes, not "
               "offset %u",
               address - SHARED_BASE);
    if (x % 8 != 0)
        misuse(
            "tma_load: column %d is no multiple of 8: Hopper takes it for an illegal instruction",
            x);
    shared_at(address, (size_t)contents.box_rows * BOX_COLUMNS * 2, "tma_load");
    if (mbarrier_find(bar, "tma_load").initializer >= 0)
        misuse("tma_load: no mbarrier_init_fence followed the init of the mbarrier at offset %td",
               (unsigned char *)bar - current->place.shared);
    own_memory own;
    bulk_operation operation = {tensor_copy, (unsigned char *)to, bar, {}, x, y, z};
    memcpy(operation.map, map->opaque, sizeof operation.map);
    bulk_submit(operation);
}

} // namespace emulator

using namespace emulator;

void mbarrier_init(uint64_t *bar, int count)
{
    uint32_t address = shared_offset(bar, "mbarrier_init");
    shared_at(address, sizeof *bar, "mbarrier_init");
    kernel_writes(bar, sizeof *bar);
    own_memory own;
    if (address % 8 != 0)
        misuse("mbarrier_init: offset %u is not 8-byte aligned", address - SHARED_BASE);
    if (count < 1 || count >= 1 << 20)
        misuse("mbarrier_init: a count of %d", count);
    if (!current->mbarriers.empty() && *bar - mark < current->mbarriers.size() &&
        current->mbarriers[*bar - mark].at == bar)
        misuse("mbarrier_init: the mbarrier at offset %u is initialized already",
               address - SHARED_BASE);
    *bar = mark + current->mbarriers.size();
    current->mbarriers.push_back({bar, thread->number, count, count, 0, 0});
}

void mbarrier_init_fence()
{
    own_memory own;
    for (mbarrier &b : current->mbarriers)
        if (b.initializer == thread->number)
            b.initializer = -1;
}

void mbarrier_arrive(uint64_t *bar)
{
    arrive(bar, 0, "mbarrier_arrive");
}

void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes)
{
    arrive(bar, bytes, "mbarrier_arrive_expect");
}

void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
    mbarrier_find(bar, "mbarrier_wait");
    own_memory own;
    /* Looked up again each time: others may initialize more, which moves the states. */
    while (mbarrier_find(bar, "mbarrier_wait").phase == (parity & 1))
        wait_for(WAIT_MBARRIER, bar);
    order_after(bar);
}

static cudaError_t map_build(tensor_map *map, const tensor_map_contents &contents)
{
    const tensor_map_contents &c = contents;
    bool is_aligned = ((uintptr_t)c.data & 15) == 0 && c.row_stride % 8 == 0 &&
                      (c.dimensions == 2 || c.plane_stride % 8 == 0);
    bool is_sized = c.columns >= 1 && c.rows >= 1 && c.planes >= 1 && c.columns <= 1ll << 32 &&
                    c.rows <= 1ll << 32 && c.planes <= 1ll << 32 && c.box_rows >= 1 &&
                    c.box_rows <= 256 && c.row_stride >= 1;
    if (!is_aligned || !is_sized)
        return cudaErrorInvalidValue;
    static_assert(sizeof contents <= sizeof map->opaque, "tensor_map");
    memset(map, 0, sizeof *map);
    memcpy(map->opaque, &contents, sizeof contents);
    return cudaSuccess;
}

cudaError_t tensor_map_2d(tensor_map *map, const void *data, int64_t columns, int64_t rows,
                          int64_t row_stride, int box_rows)
{
    return map_build(map, {TENSOR_MAP_MAGIC, (const uint16_t *)data, columns, rows, 1, row_stride,
                           0, 2, box_rows});
}

cudaError_t tensor_map_3d(tensor_map *map, const void *data, int64_t columns, int64_t rows,
                          int64_t planes, int64_t row_stride, int64_t plane_stride, int box_rows)
{
    return map_build(map, {TENSOR_MAP_MAGIC, (const uint16_t *)data, columns, rows, planes,
                           row_stride, plane_stride, 3, box_rows});
}
