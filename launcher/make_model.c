/* make_model.c - a checkpoint with random weights for a config.json: those that
 * --load-format dummy has in memory, written down (runtime/random_weights.h). */
#include "kernels/core/dtype.h"
#include "launcher/commands.h"
#include "launcher/model_files.h"
#include "launcher/progress.h"
#include "launcher/report.h"
#include "runtime/random_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 18 }; /* values made and written at once */

struct maker {
    const struct options *options;
    struct model_config config;
    struct model_files *files;
    struct progress progress;
    int64_t bytes_done;
    void *values; /* CHUNK of up to 8 bytes */
    void *halves; /* 8 CHUNK int4, a byte each */
};

/* Values [begin, begin + n) of a tensor of the file, into maker->values. */
static void make_values(struct maker *maker, const struct model_tensor *tensor, int64_t begin,
                        int64_t n)
{
    const struct weight_item *item = &tensor->item;
    uint64_t seed = (uint64_t)maker->options->seed;
    char *out = maker->values;
    size_t bytes = dtype_bytes(tensor->dtype);
    if (tensor->part == PART_SHAPE) {
        memcpy(out, item->dim, sizeof item->dim);
    } else if (tensor->part == PART_SCALES) {
        for (int64_t i = 0; i < n; i++) {
            float scale =
                random_weights_scale(&tensor->source, item, seed, (begin + i) / tensor->dim[1],
                                     (begin + i) % tensor->dim[1]);
            dtype_from_f32(out + (size_t)i * bytes, tensor->dtype, &scale, 1);
        }
    } else if (tensor->source.dtype == DTYPE_I4) {
        uint8_t *half = (uint8_t *)maker->halves;
        random_weights_fill(half, &tensor->source, item, seed, begin * 8, n * 8);
        for (int64_t i = 0; i < n * 4; i++)
            out[i] = (char)(half[2 * i] | half[2 * i + 1] << 4);
    } else {
        random_weights_fill(out, &tensor->source, item, seed, begin, n);
    }
}

static enum status write_tensor(void *context, const struct model_tensor *tensor)
{
    struct maker *maker = context;
    int64_t count = model_tensor_count(tensor);
    for (int64_t begin = 0; begin < count; begin += CHUNK) {
        int64_t n = count - begin < CHUNK ? count - begin : CHUNK;
        int64_t bytes = n * (int64_t)dtype_bytes(tensor->dtype);
        make_values(maker, tensor, begin, n);
        TRY(model_files_write(maker->files, maker->values, bytes));
        maker->bytes_done += bytes;
        progress_show(&maker->progress, maker->bytes_done, model_files_bytes(maker->files), NULL);
    }
    return STATUS_OK;
}

static enum dtype stored_dtype(const struct options *options)
{
    static const enum dtype dtype[] = {
        [MODEL_BF16] = DTYPE_BF16, [MODEL_F32] = DTYPE_F32, [MODEL_F16] = DTYPE_F16};
    return dtype[options->dtype];
}

static void say(const struct maker *maker)
{
    char text[64];
    fprintf(stderr,
            "latentrank: wrote %s: %s, %d layers%s; it has no tokenizer: give --prompt-ids\n",
            maker->options->out, report_size(text, sizeof text, model_files_bytes(maker->files)),
            maker->config.n_layers,
            model_files_dropped_mtp(maker->files) ? ", MTP layers left out" : "");
}

enum status make_model_run(const struct options *options)
{
    struct maker *maker = calloc(1, sizeof *maker);
    enum status status;
    if (maker == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory");
    maker->options = options;
    maker->values = malloc(CHUNK * sizeof(int64_t));
    maker->halves = malloc(CHUNK * 8);
    if (maker->values == NULL || maker->halves == NULL) {
        status =
            status_fail(STATUS_NO_MEMORY, __FILE__, __LINE__, "no memory for %d weights", CHUNK);
        goto end;
    }
    TRY_GOTO(status, end,
             model_files_open(&maker->files, &maker->config, options->out, options->model_config,
                              stored_dtype(options), (int)options->layers));
    progress_begin(&maker->progress, "writing", PROGRESS_BYTES, 1);
    status = model_files_each(maker->files, write_tensor, maker);
    progress_end(&maker->progress);
    if (status == STATUS_OK)
        say(maker);
end:
    model_files_close(maker->files);
    free(maker->values);
    free(maker->halves);
    free(maker);
    return status;
}
