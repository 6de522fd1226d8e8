#include "runtime/expert_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "runtime/json.h"

enum { PATH_BYTES = 4096 };

enum status expert_load_open(struct expert_load *load, const struct model_config *config)
{
    int n_moe = 0;
    for (int i = 0; i < config->n_layers; i++)
        n_moe += config->is_moe[i] != 0;
    if (n_moe == 0)
        FAIL(STATUS_USAGE, "the model has no layer with routed experts");
    *load =
        (struct expert_load){.n_layers = config->n_layers, .n_experts = config->router.n_experts};
    memcpy(load->is_moe, config->is_moe, sizeof load->is_moe);
    load->count = calloc((size_t)load->n_layers * (size_t)load->n_experts, sizeof *load->count);
    if (load->count == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the loads of %d experts in %d layers",
             load->n_experts, n_moe);
    return STATUS_OK;
}

void expert_load_close(struct expert_load *load)
{
    free(load->count);
    *load = (struct expert_load){0};
}

void expert_load_add(struct expert_load *load, int layer, const struct tensor *chosen)
{
    int64_t *count = expert_load_of(load, layer);
    for (int64_t t = 0; t < chosen->dim[0]; t++) {
        const int32_t *id = tensor_i32(chosen) + t * chosen->stride[0];
        for (int64_t k = 0; k < chosen->dim[1]; k++)
            count[id[k]]++;
    }
}

enum status expert_load_sum(struct expert_load *load, struct comm *comm)
{
    int size = comm->group.size, n = load->n_experts;
    int64_t *all = calloc((size_t)size * (size_t)n, sizeof *all);
    int64_t *counts = calloc((size_t)size, sizeof *counts);
    enum status status = STATUS_OK;
    if (all == NULL || counts == NULL)
        status = status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__,
                             "no memory for the loads of %d experts on %d ranks", n, size);
    TRY_GOTO(status, end, comm_agree(comm, status));
    for (int i = 0; i < size; i++)
        counts[i] = n;
    for (int layer = 0; layer < load->n_layers; layer++) {
        int64_t *own = expert_load_of(load, layer);
        struct tensor x = tensor_1d(own, DTYPE_I64, n);
        struct tensor y = tensor_1d(all, DTYPE_I64, (int64_t)size * n);
        if (!load->is_moe[layer])
            continue;
        TRY_GOTO(status, end, comm->ops->all_gather(comm, &y, &x, counts, NULL));
        memset(own, 0, (size_t)n * sizeof *own);
        for (int64_t i = 0; i < (int64_t)size * n; i++)
            own[i % n] += all[i];
    }
end:
    free(all);
    free(counts);
    return status;
}

/* --- the file --- */

/* A file beside `path` that nobody else writes. */
static enum status open_partial(char *name, int *fd, const char *path)
{
    *fd = -1;
    errno = ENAMETOOLONG;
    for (int i = 0; i < 1000; i++) {
        if (snprintf(name, PATH_BYTES, "%s.partial-%ld-%d", path, (long)getpid(), i) >= PATH_BYTES)
            break;
        *fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (*fd >= 0 || errno != EEXIST)
            break;
    }
    if (*fd < 0)
        FAIL(STATUS_IO, "--expert-load-out %s: cannot write there: %s", path, strerror(errno));
    return STATUS_OK;
}

enum status expert_load_check_path(const char *path)
{
    char name[PATH_BYTES];
    struct stat found;
    int fd;
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode))
        FAIL(STATUS_IO, "--expert-load-out %s: a directory, expected the name of a file", path);
    TRY(open_partial(name, &fd, path));
    close(fd);
    unlink(name);
    return STATUS_OK;
}

static void print(FILE *file, const struct expert_load *load)
{
    const char *separator = "";
    fprintf(file, "{\"n_experts\": %d, \"layers\": {", load->n_experts);
    for (int layer = 0; layer < load->n_layers; layer++) {
        if (!load->is_moe[layer])
            continue;
        fprintf(file, "%s\n  \"%d\": [", separator, layer);
        for (int e = 0; e < load->n_experts; e++)
            fprintf(file, "%s%lld", e > 0 ? ", " : "", (long long)expert_load_of(load, layer)[e]);
        fprintf(file, "]");
        separator = ",";
    }
    fprintf(file, "}}\n");
}

enum status expert_load_write(const struct expert_load *load, const char *path)
{
    char name[PATH_BYTES];
    int fd;
    TRY(open_partial(name, &fd, path));
    FILE *file = fdopen(fd, "w");
    int has_failed = file == NULL, error = errno;
    if (file == NULL) {
        close(fd);
    } else {
        print(file, load);
        has_failed = fflush(file) != 0 || ferror(file) ||
                     (fsync(fd) != 0 && errno != EINVAL); /* EINVAL: there is no fsync here */
        error = errno;
        fclose(file);
    }
    if (!has_failed && rename(name, path) != 0) {
        has_failed = 1;
        error = errno;
    }
    if (!has_failed)
        return STATUS_OK;
    unlink(name);
    FAIL(STATUS_IO, "--expert-load-out %s: cannot write: %s", path, strerror(error));
}

static enum status read_layer(struct expert_load *load, int layer, const struct json_place *layers)
{
    char key[16], text[64];
    const json_t *value = NULL;
    int64_t sum = 0;
    snprintf(key, sizeof key, "%d", layer);
    TRY(json_require(layers, key));
    TRY(json_get_array(&value, layers, key));
    if (value == NULL || json_array_size(value) != (size_t)load->n_experts)
        FAIL(STATUS_INVALID, "%s: \"%s\" is %s, expected the counts of %d experts", layers->name,
             key, json_describe(text, value), load->n_experts);
    for (int e = 0; e < load->n_experts; e++) {
        const json_t *count = json_array_get(value, (size_t)e);
        int64_t n = json_is_integer(count) ? json_integer_value(count) : -1;
        if (n < 0 || n > EXPERT_LOAD_MAX - sum)
            FAIL(STATUS_INVALID,
                 "%s: \"%s\"[%d] is %s, expected an integer from 0 on, and at most 2^48 in a layer",
                 layers->name, key, e, json_describe(text, count));
        expert_load_of(load, layer)[e] = n;
        sum += n;
    }
    return STATUS_OK;
}

/* Every key is a layer with routed experts, as it is written. */
static enum status check_keys(const struct expert_load *load, const struct json_place *layers)
{
    void *at = json_object_iter((json_t *)(uintptr_t)layers->object);
    for (; at != NULL; at = json_object_iter_next((json_t *)(uintptr_t)layers->object, at)) {
        const char *key = json_object_iter_key(at);
        char written[16];
        char *end;
        long layer = strtol(key, &end, 10);
        int is_layer = *end == '\0' && layer >= 0 && layer < load->n_layers;
        snprintf(written, sizeof written, "%ld", is_layer ? layer : 0);
        if (!is_layer || strcmp(written, key) != 0 || !load->is_moe[layer])
            FAIL(STATUS_INVALID, "%s: \"%.64s\" is no layer of the model with routed experts",
                 layers->name, key);
    }
    return STATUS_OK;
}

static enum status read_root(struct expert_load *load, const json_t *root, const char *path)
{
    char name[PATH_BYTES];
    int64_t n_experts = 0;
    const struct json_place place = {.object = root, .name = path};
    struct json_place layers = {.name = name};
    if (!json_is_object(root))
        FAIL(STATUS_INVALID, "%s: expected an object with n_experts and layers", path);
    TRY(json_need_int(&n_experts, &place, "n_experts", 1, INT32_MAX));
    if (n_experts != load->n_experts)
        FAIL(STATUS_INVALID, "%s: n_experts is %lld, the model has %d routed experts", path,
             (long long)n_experts, load->n_experts);
    TRY(json_require(&place, "layers"));
    TRY(json_get_object(&layers.object, &place, "layers"));
    if (layers.object == NULL)
        FAIL(STATUS_INVALID, "%s: layers is null, expected an object", path);
    snprintf(name, sizeof name, "%s: layers", path);
    TRY(check_keys(load, &layers));
    for (int layer = 0; layer < load->n_layers; layer++)
        if (load->is_moe[layer])
            TRY(read_layer(load, layer, &layers));
    return STATUS_OK;
}

enum status expert_load_read(struct expert_load *load, const struct model_config *config,
                             const char *path)
{
    json_t *root = NULL;
    TRY(expert_load_open(load, config));
    enum status status = json_read(&root, path);
    if (status == STATUS_OK)
        status = read_root(load, root, path);
    json_decref(root);
    if (status == STATUS_OK)
        return STATUS_OK;
    expert_load_close(load);
    return status_prefix(status, "--expert-map");
}

uint64_t expert_load_hash(const struct expert_load *load)
{
    return XXH3_64bits(load->count,
                       (size_t)load->n_layers * (size_t)load->n_experts * sizeof *load->count);
}

/* --- the maps --- */

enum status expert_maps_open(struct expert_map **maps, const struct expert_load *load,
                             int n_redundant, int n_ranks)
{
    const struct expert_map_spec spec = {
        .n_experts = load->n_experts, .n_redundant = n_redundant, .n_ranks = n_ranks};
    if (n_redundant > EXPERT_SLOTS_MAX - load->n_experts)
        FAIL(STATUS_USAGE, "--redundant-experts %d: with the %d experts of the model at most %d",
             n_redundant, load->n_experts, EXPERT_SLOTS_MAX - load->n_experts);
    struct expert_map *opened = calloc((size_t)load->n_layers, sizeof *opened);
    enum status status = STATUS_OK;
    if (opened == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the experts of %d layers", load->n_layers);
    for (int layer = 0; status == STATUS_OK && layer < load->n_layers; layer++)
        if (load->is_moe[layer])
            status = expert_map_open(&opened[layer], &spec, expert_load_of(load, layer));
    if (status != STATUS_OK) {
        expert_maps_close(opened, load->n_layers);
        return status;
    }
    *maps = opened;
    return STATUS_OK;
}

void expert_maps_close(struct expert_map *maps, int n_layers)
{
    for (int layer = 0; maps != NULL && layer < n_layers; layer++)
        expert_map_close(&maps[layer]);
    free(maps);
}
