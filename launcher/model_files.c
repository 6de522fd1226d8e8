#include "launcher/model_files.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static const int64_t shard_limit = (int64_t)5 * 1000 * 1000 * 1000;

struct model_files {
    const char *directory;
    enum dtype dtype;
    json_t *config;                    /* as written */
    const struct model_config *parsed; /* the caller's */
    int had_mtp;
    struct model_tensor *tensor;
    int count, capacity, n_shards;
    int64_t bytes, shard_bytes;
    struct safetensors_writer *writer; /* of the shard being written */
};

int64_t model_files_bytes(const struct model_files *files)
{
    return files->bytes;
}

int model_files_dropped_mtp(const struct model_files *files)
{
    return files->had_mtp;
}

/* Changes the config to what is written.  A nested text_config holds the language model. */
static void edit_config(struct model_files *files, int n_layers)
{
    static const char *const dtype_key[] = {"torch_dtype", "dtype"};
    static const char *const dtype_text[] = {
        [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    json_t *nested = json_object_get(files->config, "text_config");
    json_t *text = json_is_object(nested) ? nested : files->config;
    json_t *mtp = json_object_get(text, "num_nextn_predict_layers");
    json_t *types = json_object_get(text, "mlp_layer_types");

    files->had_mtp = json_integer_value(mtp) > 0;
    if (mtp != NULL)
        json_object_set_new(text, "num_nextn_predict_layers", json_integer(0));
    if (n_layers > 0)
        json_object_set_new(text, "num_hidden_layers", json_integer(n_layers));
    while (n_layers > 0 && json_array_size(types) > (size_t)n_layers)
        json_array_remove(types, json_array_size(types) - 1);
    json_object_set_new(text, dtype_key[json_object_get(text, "dtype") != NULL],
                        json_string(dtype_text[files->dtype]));
}

static enum status read_config(struct model_files *files, struct model_config *config,
                               const char *path, int n_layers)
{
    TRY(json_read(&files->config, path));
    edit_config(files, n_layers);
    char *text = json_dumps(files->config, 0);
    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %s", path);
    enum status status = model_config_parse(config, text, strlen(text), path);
    free(text);
    if (status == STATUS_OK)
        status = model_config_check_supported(config, path);
    return status;
}

int64_t model_tensor_count(const struct model_tensor *tensor)
{
    return tensor->dim[0] * (tensor->ndim == 2 ? tensor->dim[1] : 1);
}

static int64_t tensor_bytes(const struct model_tensor *tensor)
{
    return model_tensor_count(tensor) * (int64_t)dtype_bytes(tensor->dtype);
}

/* One more tensor, in the current shard or the next one. */
static enum status add_tensor(struct model_files *files, const struct model_tensor *tensor,
                              const char *suffix)
{
    if (files->count == files->capacity) {
        int capacity = files->capacity == 0 ? 256 : files->capacity * 2;
        struct model_tensor *grown = realloc(files->tensor, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            FAIL(STATUS_NO_MEMORY, "no memory for the names of %d tensors", capacity);
        files->tensor = grown;
        files->capacity = capacity;
    }
    struct model_tensor *added = &files->tensor[files->count++];
    *added = *tensor;
    snprintf(added->name, sizeof added->name, "%s%s", tensor->item.name, suffix);
    int64_t bytes = tensor_bytes(added);
    if (files->n_shards == 0 || files->shard_bytes + bytes > shard_limit) {
        files->n_shards++;
        files->shard_bytes = 0;
    }
    added->shard = files->n_shards - 1;
    files->shard_bytes += bytes;
    files->bytes += bytes;
    return STATUS_OK;
}

/* int4 as compressed-tensors writes it: eight numbers to an i32, scales, the shape before. */
static enum status add_packed(struct model_files *files, struct model_tensor *tensor)
{
    if (tensor->dim[1] % 8 != 0)
        FAIL(STATUS_UNSUPPORTED, "%s: rows of %lld int4, expected a multiple of 8",
             tensor->item.name, (long long)tensor->dim[1]);
    tensor->dtype = DTYPE_I32;
    tensor->dim[1] /= 8;
    TRY(add_tensor(files, tensor, "_packed"));
    tensor->part = PART_SHAPE;
    tensor->dtype = DTYPE_I64;
    tensor->ndim = 1;
    tensor->dim[0] = 2;
    return add_tensor(files, tensor, "_shape");
}

/* weight_visitor: the tensors that hold one of the graph's. */
static enum status add_item(void *context, const struct weight_item *item)
{
    struct model_files *files = context;
    struct model_tensor tensor = {.item = *item, .ndim = item->ndim};
    TRY(weights_find(files->parsed, NULL, item, &tensor.source));
    const struct weight_source *source = &tensor.source;
    tensor.dtype = source->dtype;
    tensor.dim[0] = item->dim[0];
    tensor.dim[1] = item->dim[1];
    if (source->dtype == DTYPE_I4)
        TRY(add_packed(files, &tensor));
    else
        TRY(add_tensor(files, &tensor, ""));
    if (source->scale_rows == 0)
        return STATUS_OK;
    tensor.part = PART_SCALES;
    tensor.dtype = source->scale_dtype;
    tensor.ndim = 2;
    tensor.dim[0] = (item->dim[0] + source->scale_rows - 1) / source->scale_rows;
    tensor.dim[1] = (item->dim[1] + source->scale_columns - 1) / source->scale_columns;
    return add_tensor(files, &tensor, source->dtype == DTYPE_I4 ? "_scale" : "_scale_inv");
}

static enum status check_empty(const char *directory)
{
    DIR *stream = opendir(directory);
    struct dirent *entry;
    int is_empty = 1;
    if (stream == NULL)
        FAIL(STATUS_IO, "--out %s: cannot open: %s", directory, strerror(errno));
    while ((entry = readdir(stream)) != NULL)
        is_empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(stream);
    if (!is_empty)
        FAIL(STATUS_USAGE, "--out %s: the directory is not empty; give a new one, or empty it",
             directory);
    return STATUS_OK;
}

static enum status make_directory(const struct model_files *files)
{
    struct statvfs space;
    if (mkdir(files->directory, 0777) != 0) {
        if (errno != EEXIST)
            FAIL(STATUS_IO, "--out %s: cannot make the directory: %s", files->directory,
                 strerror(errno));
        TRY(check_empty(files->directory));
    }
    if (statvfs(files->directory, &space) == 0) {
        double free_bytes = (double)space.f_bavail * (double)space.f_frsize;
        if (free_bytes < (double)files->bytes)
            FAIL(STATUS_IO, "--out %s: the model takes %.2f GB, but %.2f GB are free there",
                 files->directory, (double)files->bytes * 1e-9, free_bytes * 1e-9);
    }
    return STATUS_OK;
}

enum status model_files_open(struct model_files **files, struct model_config *config,
                             const char *directory, const char *config_path, enum dtype dtype,
                             int n_layers)
{
    enum status status;
    struct model_files *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory");
    opened->directory = directory;
    opened->dtype = dtype;
    TRY_GOTO(status, fail, read_config(opened, config, config_path, n_layers));
    opened->parsed = config;
    TRY_GOTO(status, fail, weights_each(config, add_item, opened));
    TRY_GOTO(status, fail, make_directory(opened));
    *files = opened;
    return STATUS_OK;
fail:
    model_files_close(opened);
    return status;
}

static void shard_name(const struct model_files *files, int shard, char *name, size_t size)
{
    if (files->n_shards == 1)
        snprintf(name, size, "model.safetensors");
    else
        snprintf(name, size, "model-%05d-of-%05d.safetensors", shard + 1, files->n_shards);
}

static enum status write_shard(struct model_files *files, int shard, model_tensor_writer write,
                               void *context)
{
    char path[4096], name[64];
    shard_name(files, shard, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", files->directory, name);
    TRY(safetensors_writer_open(&files->writer, path));
    for (int i = 0; i < files->count; i++)
        if (files->tensor[i].shard == shard)
            TRY(safetensors_writer_add(files->writer, files->tensor[i].name, files->tensor[i].dtype,
                                       files->tensor[i].ndim, files->tensor[i].dim));
    for (int i = 0; i < files->count; i++)
        if (files->tensor[i].shard == shard)
            TRY(write(context, &files->tensor[i]));
    TRY(safetensors_writer_finish(files->writer));
    safetensors_writer_close(files->writer);
    files->writer = NULL;
    return STATUS_OK;
}

enum status model_files_write(struct model_files *files, const void *data, int64_t bytes)
{
    return safetensors_writer_write(files->writer, data, bytes);
}

static enum status write_json(const struct model_files *files, const char *name, json_t *root)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", files->directory, name);
    int failed = root == NULL || json_dump_file(root, path, JSON_INDENT(2)) != 0;
    int error = errno;
    json_decref(root);
    if (failed)
        FAIL(STATUS_IO, "%s: cannot write: %s", path, strerror(error));
    return STATUS_OK;
}

static json_t *index_json(const struct model_files *files)
{
    char name[64];
    json_t *map = json_object();
    for (int i = 0; i < files->count; i++) {
        shard_name(files, files->tensor[i].shard, name, sizeof name);
        json_object_set_new(map, files->tensor[i].name, json_string(name));
    }
    return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)files->bytes,
                     "weight_map", map);
}

static json_t *generation_json(const struct model_files *files)
{
    static const char *const key[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    json_t *nested = json_object_get(files->config, "text_config");
    json_t *root = json_pack("{s:b}", "_from_model_config", 1);
    for (int i = 0; i < 3; i++) {
        json_t *id = json_object_get(json_is_object(nested) ? nested : files->config, key[i]);
        if (id != NULL)
            json_object_set(root, key[i], id);
    }
    return root;
}

enum status model_files_each(struct model_files *files, model_tensor_writer write, void *context)
{
    for (int shard = 0; shard < files->n_shards; shard++)
        TRY(write_shard(files, shard, write, context));
    if (files->n_shards > 1)
        TRY(write_json(files, "model.safetensors.index.json", index_json(files)));
    TRY(write_json(files, "generation_config.json", generation_json(files)));
    return write_json(files, "config.json", json_incref(files->config));
}

void model_files_close(struct model_files *files)
{
    if (files == NULL)
        return;
    safetensors_writer_close(files->writer);
    json_decref(files->config);
    free(files->tensor);
    free(files);
}
