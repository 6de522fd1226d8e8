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

/* Stages `low` and `low` + `distance` at the same place, or this rank alone when it is in neither. */
static struct group pair_of(const char *name, const struct group *pp, int low, int distance,
                            int rank)
{
    int place = pp->index - low;
    if (distance == 0 || low < 0 || low + distance >= pp->size || (place != 0 && place != distance))
        return group_of(name, 1, 0, rank, 1);
    return group_of(name, 2, place != 0, rank, distance * pp->stride);
}

/* tp, when --tp names it not; the sizes are those of the spec with defaults filled in. */
static enum status check_world(int *tp, const struct mesh_spec *spec, int dp, int pp)
{
    int world = spec->world_size;
    const char *plural = world == 1 ? "" : "s";
    *tp = spec->tp_size;
    if (dp < 1 || pp < 1 || dp > world || pp > world)
        FAIL(STATUS_USAGE, "--dp %d, --pp %d: each is 1 or more, and the job has %d rank%s", dp, pp,
             world, plural);
    if (*tp == 0 && world % (dp * pp) == 0)
        *tp = world / (dp * pp);
    if (*tp != 0 && (int64_t)*tp * dp * pp == world)
        return STATUS_OK;
    if (dp == 1 && pp == 1)
        FAIL(STATUS_USAGE, "--tp %d differs from the %d rank%s of the job: use --tp %d%s", *tp,
             world, plural, world, *tp > 0 ? ", or start as many ranks as --tp says" : "");
    if (*tp == 0)
        FAIL(STATUS_USAGE,
             "the %d rank%s of the job cannot be shared by --dp %d and --pp %d: start a multiple "
             "of %d ranks",
             world, plural, dp, pp, dp * pp);
    FAIL(STATUS_USAGE,
         "--tp %d x --dp %d x --pp %d make %lld ranks, the job has %d: start as many, or leave "
         "--tp out",
         *tp, dp, pp, (long long)*tp * dp * pp, world);
}

static enum status check_ep(int *ep, const struct mesh_spec *spec, int tp, int dp)
{
    int stage = tp * dp;
    *ep = spec->ep_size;
    if (*ep == 0)
        *ep = spec->n_experts >= stage ? stage : 1;
    if (*ep > 0 && stage % *ep == 0)
        return STATUS_OK;
    char divisors[512];
    list_divisors(divisors, sizeof divisors, stage);
    if (dp == 1)
        FAIL(STATUS_USAGE, "--ep %d does not divide tp %d: use %s", *ep, tp, divisors);
    FAIL(STATUS_USAGE, "--ep %d does not divide tp %d x dp %d: use %s", *ep, tp, dp, divisors);
}

enum status mesh_build(struct mesh *mesh, const struct mesh_spec *spec, int rank)
{
    int world = spec->world_size, tp, ep;
    int dp = spec->dp_size == 0 ? 1 : spec->dp_size, pp = spec->pp_size == 0 ? 1 : spec->pp_size;
    assert(world > 0 && 0 <= rank && rank < world);

    TRY(check_world(&tp, spec, dp, pp));
    TRY(check_ep(&ep, spec, tp, dp));
    if (spec->n_layers > 0 && pp > spec->n_layers)
        FAIL(STATUS_USAGE,
             "--pp %d: the model has %d layers, and each stage needs one; use up to %d", pp,
             spec->n_layers, spec->n_layers);

    int stage = dp * tp, etp = stage / ep, place = rank % stage;
    *mesh = (struct mesh){
        .rank = rank,
        .world = group_of("world", world, rank, rank, 1),
        .tp = group_of("tp", tp, rank % tp, rank, 1),
        .dp = group_of("dp", dp, place / tp, rank, tp),
        .pp = group_of("pp", pp, rank / stage, rank, stage),
        .stage = group_of("stage", stage, place, rank, 1),
        .ep = group_of("ep", ep, place / etp, rank, etp),
        .etp = group_of("etp", etp, place % etp, rank, 1),
    };
    int p = mesh->pp.index;
    mesh->link[0] = pair_of("link", &mesh->pp, p / 2 * 2, 1, rank);
    mesh->link[1] = pair_of("link", &mesh->pp, (p + 1) / 2 * 2 - 1, 1, rank);
    mesh->ends = pair_of("ends", &mesh->pp, 0, pp - 1, rank);
    return STATUS_OK;
}

struct group mesh_node_group(const struct mesh *mesh, const int32_t *node)
{
    const struct group *tp = &mesh->tp;
    int begin = tp->index, end = tp->index + 1;
    while (begin > 0 && node[begin - 1] == node[tp->index])
        begin--;
    while (end < tp->size && node[end] == node[tp->index])
        end++;
    return group_of("cache", end - begin, tp->index - begin, mesh->rank, tp->stride);
}
