#include "parallel/mesh.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* "1, 2 or 4": the numbers that divide n. */
static void list_divisors(char *text, size_t text_bytes, int n)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 1; i <= n && used + 16 < text_bytes; i++) {
        if (n % i != 0)
            continue;
        const char *separator = i == 1 ? "" : i == n ? " or " : ", ";
        used += (size_t)snprintf(text + used, text_bytes - used, "%s%d", separator, i);
    }
}

static struct group group_of(const char *name, int size, int index, int rank, int stride)
{
    return (struct group){.name = name,
                          .size = size,
                          .index = index,
                          .first = rank - index * stride,
                          .stride = stride};
}

enum status mesh_build(struct mesh *mesh, const struct mesh_spec *spec, int rank)
{
    int world = spec->world_size;
    assert(world > 0 && 0 <= rank && rank < world);

    int tp = spec->tp_size == 0 ? world : spec->tp_size;
    if (tp != world)
        FAIL(STATUS_USAGE, "--tp %d differs from the %d rank%s of the job: use --tp %d%s", tp,
             world, world == 1 ? "" : "s", world,
             tp > 0 ? ", or start as many ranks as --tp says" : "");

    int ep = spec->ep_size;
    if (ep == 0)
        ep = spec->n_experts >= tp ? tp : 1;
    if (ep < 0 || tp % ep != 0) {
        char divisors[512];
        list_divisors(divisors, sizeof divisors, tp);
        FAIL(STATUS_USAGE, "--ep %d does not divide tp %d: use %s", ep, tp, divisors);
    }

    int etp = tp / ep;
    *mesh = (struct mesh){
        .rank = rank,
        .world = group_of("world", world, rank, rank, 1),
        .tp = group_of("tp", tp, rank, rank, 1),
        .ep = group_of("ep", ep, rank / etp, rank, etp),
        .etp = group_of("etp", etp, rank % etp, rank, 1),
    };
    return STATUS_OK;
}
