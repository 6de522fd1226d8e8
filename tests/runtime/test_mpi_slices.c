/* test_mpi_slices.c - a rank reads its slices of a checkpoint and nothing else.
 *
 * One number of a copy of a golden checkpoint is made NaN, in turn for every way a
 * tensor is split and every rank; all ranks load; exactly the rank that holds
 * the number complains, naming tensor, row and column. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/core/log.h"
#include "parallel/comm.h"
#include "parallel/process.h"
#include "runtime/weight_loader.h"

enum { N_SPLITS = SPLIT_EXPERT_COLUMNS + 1 };

static int n_checks, n_failures;

struct poison {
    const struct model_config *config;
    const struct shard_plan *plan; /* of the victim */
    enum weight_split split;
    struct weight_item item;
    int64_t row, column;
    int found;
};

/* The last tensor of the wanted split that the victim holds a part of, middle of its slice. */
static enum status choose(void *context, const struct weight_item *item)
{
    struct poison *p = context;
    struct span rows, columns;
    weight_slice(p->config, p->plan, item, &rows, &columns);
    if (item->split != p->split || span_size(rows) == 0)
        return STATUS_OK;
    p->item = *item;
    p->row = (rows.begin + rows.end) / 2;
    p->column = (columns.begin + columns.end) / 2;
    p->found = 1;
    return STATUS_OK;
}

/* Writes `bits` (bf16) at the poisoned place and returns what was there. */
static uint16_t write_number(const struct safetensors *checkpoint, const struct poison *p,
                             uint16_t bits)
{
    const struct safetensors_entry *entry = safetensors_find(checkpoint, p->item.name);
    int64_t width = p->item.ndim == 2 ? p->item.dim[1] : 1;
    off_t at = entry->offset + (p->row * width + p->column) * 2;
    int file = open(safetensors_path(checkpoint, entry), O_RDWR);
    uint16_t old = 0;
    if (file < 0 || entry->dtype != DTYPE_BF16 || pread(file, &old, sizeof old, at) != sizeof old ||
        pwrite(file, &bits, sizeof bits, at) != sizeof bits) {
        printf("FAILED to poison %s\n", p->item.name);
        n_failures++;
    }
    close(file);
    return old;
}

/* Loads this rank's slices; returns 1 when that failed with the text a user needs. */
static int load_complains(const struct model_config *config, const struct safetensors *checkpoint,
                          const struct shard_plan *plan, const struct poison *p)
{
    const struct weight_loader_options options = {.keeps_expanded = 1};
    struct weights weights;
    struct arena arena = {0};
    char place[64];
    enum status status =
        weights_load(&weights, &arena, &cpu_device_ops, config, checkpoint, plan, &options);
    weights_close(&weights);
    arena_close(&arena);
    if (status == STATUS_OK)
        return 0;
    snprintf(place, sizeof place, "row %lld, column %lld", (long long)p->row, (long long)p->column);
    if (strstr(status_text(), p->item.name) == NULL || strstr(status_text(), place) == NULL) {
        printf("FAILED: no %s, %s in: %s\n", p->item.name, place, status_text());
        n_failures++;
    }
    return 1;
}

static enum status check_victim(struct comm *world, const struct model_config *config,
                                const struct safetensors *checkpoint, const struct shard_plan *own,
                                const struct shard_plan *victims, int victim,
                                enum weight_split split)
{
    struct poison p = {.config = config, .plan = victims, .split = split};
    uint16_t old = 0;
    TRY(weights_each(config, choose, &p));
    if (!p.found)
        return STATUS_OK; /* an empty share */
    if (world->group.index == 0)
        old = write_number(checkpoint, &p, 0x7fc0);
    TRY(world->ops->barrier(world));
    int complains = load_complains(config, checkpoint, own, &p);
    int expected = split == SPLIT_NONE || world->group.index == victim;
    n_checks++;
    if (complains != expected) {
        n_failures++;
        printf("FAILED: NaN in %s of rank %d: rank %d %s\n", p.item.name, victim,
               world->group.index, complains ? "complained" : "did not complain");
    }
    TRY(world->ops->barrier(world));
    if (world->group.index == 0)
        write_number(checkpoint, &p, old);
    return world->ops->barrier(world);
}

static enum status check_layout(struct comm *world, const char *folder, int ep)
{
    struct model_config config;
    struct safetensors *checkpoint;
    struct shard_plan own = {0};
    enum status status = STATUS_OK;
    TRY(model_config_load(&config, folder));
    struct model_extent extent = weights_extent(&config);
    TRY(safetensors_open(&checkpoint, folder));
    for (int pass = 0; pass < 2; pass++) { /* the first only finds our own plan */
        for (int r = 0; r < world->group.size; r++) {
            struct mesh_spec spec = {.world_size = world->group.size, .ep_size = ep};
            struct mesh mesh;
            struct shard_plan plan;
            TRY_GOTO(status, end, mesh_build(&mesh, &spec, r));
            shard_plan_build(&plan, &extent, &mesh);
            if (pass == 0 && r == world->group.index)
                own = plan;
            for (int split = 0; pass == 1 && split < N_SPLITS; split++)
                TRY_GOTO(status, end,
                         check_victim(world, &config, checkpoint, &own, &plan, r,
                                      (enum weight_split)split));
        }
    }
end:
    safetensors_close(checkpoint);
    return status;
}

/* Copies the checkpoint of a golden case to `folder`. */
static enum status copy_case(const char *folder)
{
    char command[2048];
    snprintf(command, sizeof command,
             "cp '%s/tests/golden/t3-v3/'config.json "
             "'%s/tests/golden/t3-v3/'model.safetensors '%s' && chmod u+w '%s'/*",
             SOURCE_DIR, SOURCE_DIR, folder, folder);
    if (system(command) != 0)
        FAIL(STATUS_IO, "%s", command);
    return STATUS_OK;
}

static enum status run(const struct process *process)
{
    const struct group all = {
        .name = "world", .size = process->size, .index = process->rank, .stride = 1};
    struct comm world;
    char folder[64] = "/tmp/latentrank-slices-XXXXXX";
    enum status status = STATUS_OK;
    TRY(comm_open(&world, &all));
    if (process->rank == 0)
        status = mkdtemp(folder) == NULL ? STATUS_IO : copy_case(folder);
    TRY(comm_agree(&world, status));
    TRY(comm_broadcast_bytes(&world, folder, sizeof folder, 0));
    TRY(check_layout(&world, folder, 1));
    if (process->size > 1)
        TRY(check_layout(&world, folder, process->size));
    TRY(world.ops->barrier(&world));
    if (process->rank == 0) {
        char command[128];
        snprintf(command, sizeof command, "rm -r '%s'", folder);
        n_failures += system(command) != 0;
    }
    comm_close(&world);
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    struct process process;
    if (process_start(&process, &argc, &argv) != STATUS_OK || run(&process) != STATUS_OK) {
        log_error_line(status_text());
        fputs(status_frames(), stderr);
        process_abort(&process, 1);
    }
    printf("rank %d of %d: %d checks, %d failed\n", process.rank, process.size, n_checks,
           n_failures);
    process_end(&process);
    return n_failures > 0 || n_checks == 0;
}
