/* test_mpi_slices.c - a rank reads its slices of a checkpoint and nothing else.
 *
 * One number of a copy of a golden checkpoint is made NaN, in turn for every way a
 * tensor is split and every rank; all ranks load; exactly the ranks that hold
 * the number complain, naming tensor, row and column.  The same with a scale of
 * quantized weights, which several ranks may need. */
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
    const struct safetensors *checkpoint;
    const struct shard_plan *plan; /* of the victim */
    enum weight_split split;
    int is_scale;
    struct weight_item item;
    struct weight_source source;
    struct span rows, columns; /* the weights that it spoils */
    int found;
};

/* The number in the file: of the values or of the scales. */
static int64_t poison_row(const struct poison *p)
{
    return p->is_scale ? p->rows.begin / p->source.scale_rows : p->rows.begin;
}

static int64_t poison_column(const struct poison *p)
{
    return p->is_scale ? p->columns.begin / p->source.scale_columns : p->columns.begin;
}

/* The last tensor of the wanted split that the victim holds a part of, middle of its slice. */
static enum status choose(void *context, const struct weight_item *item)
{
    struct poison *p = context;
    struct span rows, columns;
    weight_slice(p->config, p->plan, item, &rows, &columns);
    if (item->split != p->split || span_size(rows) == 0)
        return STATUS_OK;
    struct weight_source source;
    TRY(weights_find(p->config, p->checkpoint, item, &source));
    if (p->is_scale ? source.scale == NULL : source.dtype == DTYPE_I4) /* int4 has no NaN */
        return STATUS_OK;
    int64_t row = (rows.begin + rows.end) / 2, column = (columns.begin + columns.end) / 2;
    int64_t n_rows = p->is_scale ? source.scale_rows : 1;
    int64_t n_columns = p->is_scale ? source.scale_columns : 1;
    p->item = *item;
    p->source = source;
    p->rows.begin = row / n_rows * n_rows;
    p->rows.end = p->rows.begin + n_rows;
    p->columns.begin = column / n_columns * n_columns;
    p->columns.end = p->columns.begin + n_columns;
    p->found = 1;
    return STATUS_OK;
}

/* All bits set are a NaN in every type that has one. */
enum { NAN_BYTE = 0xff, MAX_BYTES = 4 };

/* Writes `bytes` at the poisoned place and puts what was there in `old`. */
static void write_number(const struct poison *p, const unsigned char *bytes, unsigned char *old)
{
    const struct safetensors_entry *entry = p->is_scale ? p->source.scale : p->source.value;
    int64_t width = entry->ndim == 2 ? entry->dim[1] : 1, size = (int64_t)dtype_bytes(entry->dtype);
    off_t at = entry->offset + (poison_row(p) * width + poison_column(p)) * size;
    int file = open(safetensors_path(p->checkpoint, entry), O_RDWR);
    if (file < 0 || pread(file, old, (size_t)size, at) != size ||
        pwrite(file, bytes, (size_t)size, at) != size) {
        printf("FAILED to poison %s\n", p->item.name);
        n_failures++;
    }
    close(file);
}

static int is_reached(const struct poison *p, const struct shard_plan *own)
{
    struct span rows, columns;
    weight_slice(p->config, own, &p->item, &rows, &columns);
    return rows.begin < p->rows.end && p->rows.begin < rows.end && columns.begin < p->columns.end &&
           p->columns.begin < columns.end;
}

/* Loads this rank's slices; returns 1 when that failed with the text a user needs. */
static int load_complains(const struct model_config *config, const struct safetensors *checkpoint,
                          const struct shard_plan *plan, const struct poison *p)
{
    const struct weight_loader_options options = {.keeps_expanded = 1};
    struct weights weights;
    struct arena arena = {0};
    char place[64];
    enum status status = weights_lay_out(&weights, config, checkpoint, plan, &options);
    if (status == STATUS_OK)
        status =
            weights_load(&weights, &arena, &cpu_device_ops, config, checkpoint, plan, &options);
    weights_close(&weights);
    arena_close(&arena);
    if (status == STATUS_OK)
        return 0;
    snprintf(place, sizeof place, "row %lld, column %lld", (long long)poison_row(p),
             (long long)poison_column(p));
    if (strstr(status_text(), p->item.name) == NULL || strstr(status_text(), place) == NULL) {
        printf("FAILED: no %s, %s in: %s\n", p->item.name, place, status_text());
        n_failures++;
    }
    return 1;
}

static enum status check_poison(struct comm *world, struct poison *p, const struct shard_plan *own)
{
    static const unsigned char poison[MAX_BYTES] = {NAN_BYTE, NAN_BYTE, NAN_BYTE, NAN_BYTE};
    unsigned char old[MAX_BYTES], ignored[MAX_BYTES];
    TRY(weights_each(p->config, choose, p));
    if (!p->found)
        return STATUS_OK; /* an empty share, or no such number */
    if (world->group.index == 0)
        write_number(p, poison, old);
    TRY(world->ops->barrier(world));
    int complains = load_complains(p->config, p->checkpoint, own, p);
    n_checks++;
    if (complains != is_reached(p, own)) {
        n_failures++;
        printf("FAILED: NaN in %s%s: rank %d %s\n", p->item.name, p->is_scale ? ", a scale" : "",
               world->group.index, complains ? "complained" : "did not complain");
    }
    TRY(world->ops->barrier(world));
    if (world->group.index == 0)
        write_number(p, old, ignored);
    return world->ops->barrier(world);
}

/* A number and a scale of each way of splitting, in the victim's slices. */
static enum status check_victim(struct comm *world, const struct model_config *config,
                                const struct safetensors *checkpoint, const struct shard_plan *own,
                                const struct shard_plan *victim)
{
    for (int i = 0; i < 2 * N_SPLITS; i++) {
        struct poison p = {.config = config,
                           .checkpoint = checkpoint,
                           .plan = victim,
                           .split = (enum weight_split)(i / 2),
                           .is_scale = i % 2};
        TRY(check_poison(world, &p, own));
    }
    return STATUS_OK;
}

static enum status check_layout(struct comm *world, const char *folder, int ep, int dp, int pp)
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
            struct mesh_spec spec = {
                .world_size = world->group.size, .ep_size = ep, .dp_size = dp, .pp_size = pp};
            struct mesh mesh;
            struct shard_plan plan;
            TRY_GOTO(status, end, mesh_build(&mesh, &spec, r));
            shard_plan_build(&plan, &extent, &mesh);
            if (pass == 0 && r == world->group.index)
                own = plan;
            if (pass == 1)
                TRY_GOTO(status, end, check_victim(world, &config, checkpoint, &own, &plan));
        }
    }
end:
    safetensors_close(checkpoint);
    return status;
}

/* Copies the checkpoint of a golden case to `folder`. */
static enum status copy_case(const char *folder, const char *name)
{
    char command[2048];
    snprintf(command, sizeof command,
             "cp '%s/tests/golden/%s/'config.json "
             "'%s/tests/golden/%s/'model.safetensors '%s' && chmod u+w '%s'/*",
             SOURCE_DIR, name, SOURCE_DIR, name, folder, folder);
    if (system(command) != 0)
        FAIL(STATUS_IO, "%s", command);
    return STATUS_OK;
}

static enum status run(const struct process *process)
{
    const struct group all = {
        .name = "world", .size = process->size, .index = process->rank, .stride = 1};
    struct comm world;
    static const char *const cases[] = {"t3-v3", "t20-fp8", "t21-int4"};
    char folder[64] = "/tmp/latentrank-slices-XXXXXX";
    enum status status = STATUS_OK;
    TRY(comm_open(&world, &all));
    if (process->rank == 0 && mkdtemp(folder) == NULL)
        status = STATUS_IO;
    TRY(comm_agree(&world, status));
    TRY(comm_broadcast_bytes(&world, folder, sizeof folder, 0));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (process->rank == 0)
            status = copy_case(folder, cases[i]);
        TRY(comm_agree(&world, status));
        TRY(check_layout(&world, folder, 1, 1, 1));
        if (process->size > 1)
            TRY(check_layout(&world, folder, process->size, 1, 1));
        if (process->size % 2 == 0)
            TRY(check_layout(&world, folder, 1, process->size / 2, 2));
        TRY(world.ops->barrier(&world));
    }
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
