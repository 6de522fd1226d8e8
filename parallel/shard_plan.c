#include "parallel/shard_plan.h"

#include <assert.h>

struct span span_part(int64_t n, int parts, int index)
{
    assert(n >= 0 && 0 <= index && index < parts && n <= INT64_MAX / parts);
    return (struct span){.begin = index * n / parts, .end = (index + 1) * n / parts};
}

static struct span span_of_group(int64_t n, const struct group *group)
{
    return span_part(n, group->size, group->index);
}

void shard_plan_build(struct shard_plan *plan, const struct model_extent *extent,
                      const struct mesh *mesh)
{
    *plan = (struct shard_plan){
        .heads = span_of_group(extent->n_heads, &mesh->tp),
        .vocab = span_of_group(extent->vocab_size, &mesh->tp),
        .dense_columns = span_of_group(extent->dense_columns, &mesh->tp),
        .shared_columns = span_of_group(extent->shared_columns, &mesh->tp),
        .experts = span_of_group(extent->n_experts, &mesh->ep),
        .expert_columns = span_of_group(extent->expert_columns, &mesh->etp),
        .layers = span_of_group(extent->n_layers, &mesh->pp),
        .has_embedding = mesh->pp.index == 0,
        .has_head = mesh->pp.index == mesh->pp.size - 1,
    };
}
