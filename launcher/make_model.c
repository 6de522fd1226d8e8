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

enum { CHUNK = 1 << 18 }; /* values made and written at once */

struct maker {
    const struct options *options;
    struct model_config config;
    struct model_files *files;
    struct progress progress;
    int64_t bytes_done;
    void *values;
};

static enum status write_tensor(void *context, const struct model_tensor *tensor)
{
    struct maker *maker = context;
    const struct weight_item *item = &tensor->item;
    int64_t count = item->dim[0] * (item->ndim == 2 ? item->dim[1] : 1);
    for (int64_t begin = 0; begin < count; begin += CHUNK) {
        int64_t n = count - begin < CHUNK ? count - begin : CHUNK;
        int64_t bytes = n * (int64_t)dtype_bytes(tensor->dtype);
        random_weights_fill(maker->values, tensor->dtype, item, (uint64_t)maker->options->seed,
                            begin, n);
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
    maker->values = malloc(CHUNK * sizeof(float));
    if (maker->values == NULL) {
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
    free(maker);
    return status;
}
