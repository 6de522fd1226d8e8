/* model_files.h - the files of a checkpoint to be written, in Hugging Face layout:
 * config.json, generation_config.json, and model.safetensors or shards of at
 * most 5 GB with their index. */
#ifndef LAUNCHER_MODEL_FILES_H
#define LAUNCHER_MODEL_FILES_H

#include "runtime/weights.h"

struct model_files;

/* What a tensor of the file is of a tensor of the graph. */
enum model_part {
    PART_VALUES, /* int4: packed, eight to an i32 */
    PART_SCALES,
    PART_SHAPE /* of int4: i64 [2] */
};

struct model_tensor {
    struct weight_item item;
    struct weight_source source;
    enum model_part part;
    char name[192];
    enum dtype dtype;
    int ndim;
    int64_t dim[2];
    int shard;
};

/* Numbers in the tensor. */
int64_t model_tensor_count(const struct model_tensor *tensor);

/* Reads the config at `config_path`, with `n_layers` layers (0: its own) and no MTP, checks that the
 * model can be written, and makes the directory.  *config: the config as written.
 * Owner: caller; end with model_files_close.
 * Errors: STATUS_USAGE (the directory is not empty), STATUS_UNSUPPORTED (a graph or a
 * quantization we do not have), STATUS_IO (also: not enough space), STATUS_INVALID. */
enum status model_files_open(struct model_files **files, struct model_config *config,
                             const char *directory, const char *config_path, enum dtype dtype,
                             int n_layers);

/* Calls `write` for each tensor in order, which gives its data by model_files_write, then writes
 * the JSON files: a directory without config.json is not finished. */
typedef enum status (*model_tensor_writer)(void *context, const struct model_tensor *tensor);
enum status model_files_each(struct model_files *files, model_tensor_writer write, void *context);
enum status model_files_write(struct model_files *files, const void *data, int64_t bytes);

void model_files_close(struct model_files *files);

int64_t model_files_bytes(const struct model_files *files);   /* of all tensors */
int model_files_dropped_mtp(const struct model_files *files); /* 1: the config had MTP layers */

#endif
