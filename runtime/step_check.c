/* step_check.c - what all ranks have in common, compared between them (LATENTRANK_DEBUG_CHECK=1) or written down
 * (LATENTRANK_DEBUG_TRACE=FILE). */
#include <stdio.h>
#include <xxhash.h>

#include "runtime/step.h"

static uint64_t hash_of(const struct tensor *t)
{
    size_t size = dtype_bytes(t->dtype);
    uint64_t hash = 0;
    for (int64_t i = 0; i < t->dim[0]; i++)
        hash = XXH3_64bits_withSeed((const char *)t->data + (size_t)(i * t->stride[0]) * size,
                                    (size_t)t->dim[1] * size, hash);
    return hash;
}

enum status step_check(struct step *s, int layer, const char *name, const struct tensor *t)
{
    char what[96];
    if (s->trace != NULL)
        TRY(step_trace_write(s->trace, layer, name, t));
    if (!s->checks)
        return STATUS_OK;
    if (layer < 0)
        snprintf(what, sizeof what, "%s", name);
    else
        snprintf(what, sizeof what, "layer %d: %s", layer, name);
    enum status status = comm_same(s->tp, what, hash_of(t));
    if (status != STATUS_OK && s->tp->group.index != 0)
        TRY(s->tp->ops->barrier(s->tp)); /* member 0 says it and ends the job */
    return status;
}
