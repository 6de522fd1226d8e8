#include "launcher/logits_dump.h"
#include "runtime/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct logits_dump {
    char *path;
    int64_t vocab_size, rows;
    FILE *file; /* unnamed: it goes away with the process, however that ends */
    float *row;
};

enum status logits_dump_open(struct logits_dump **dump, const char *path, int64_t vocab_size)
{
    char name[4096];
    struct logits_dump *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for --dump-logits");
    opened->path = strdup(path);
    opened->vocab_size = vocab_size;
    opened->row = malloc((size_t)vocab_size * sizeof(float));
    snprintf(name, sizeof name, "%s.XXXXXX", path);
    int fd = mkstemp(name);
    int error = errno;
    if (fd >= 0) {
        unlink(name);
        opened->file = fdopen(fd, "w+b");
    }
    if (opened->path == NULL || opened->row == NULL || opened->file == NULL) {
        logits_dump_close(opened);
        FAIL(STATUS_IO, "--dump-logits %s: cannot write there: %s", path, strerror(error));
    }
    *dump = opened;
    return STATUS_OK;
}

enum status logits_dump_push(struct logits_dump *dump, const float *logits)
{
    if (fwrite(logits, sizeof(float), (size_t)dump->vocab_size, dump->file) !=
        (size_t)dump->vocab_size)
        FAIL(STATUS_IO, "--dump-logits %s: cannot write: %s", dump->path, strerror(errno));
    dump->rows++;
    return STATUS_OK;
}

static enum status copy_rows(struct logits_dump *dump, struct safetensors_writer *writer)
{
    if (fflush(dump->file) != 0 || fseek(dump->file, 0, SEEK_SET) != 0)
        FAIL(STATUS_IO, "--dump-logits %s: cannot write: %s", dump->path, strerror(errno));
    for (int64_t i = 0; i < dump->rows; i++) {
        if (fread(dump->row, sizeof(float), (size_t)dump->vocab_size, dump->file) !=
            (size_t)dump->vocab_size)
            FAIL(STATUS_IO, "--dump-logits %s: cannot read row %lld back", dump->path,
                 (long long)i);
        TRY(safetensors_writer_write(writer, dump->row, dump->vocab_size * (int64_t)sizeof(float)));
    }
    return STATUS_OK;
}

enum status logits_dump_finish(struct logits_dump *dump, const int32_t *prompt, int64_t n_prompt,
                               const int32_t *generated, int64_t n_generated)
{
    int64_t shape[] = {dump->rows, dump->vocab_size}, n_ids = n_prompt + n_generated;
    struct safetensors_writer *writer = NULL;
    enum status status;
    TRY_GOTO(status, end, safetensors_writer_open(&writer, dump->path));
    TRY_GOTO(status, end, safetensors_writer_add(writer, "logits", DTYPE_F32, 2, shape));
    TRY_GOTO(status, end, safetensors_writer_add(writer, "ids", DTYPE_I32, 1, &n_ids));
    TRY_GOTO(status, end, copy_rows(dump, writer));
    TRY_GOTO(status, end, safetensors_writer_write(writer, prompt, n_prompt * 4));
    TRY_GOTO(status, end, safetensors_writer_write(writer, generated, n_generated * 4));
    TRY_GOTO(status, end, safetensors_writer_finish(writer));
end:
    safetensors_writer_close(writer);
    return status;
}

void logits_dump_close(struct logits_dump *dump)
{
    if (dump == NULL)
        return;
    if (dump->file != NULL)
        fclose(dump->file);
    free(dump->path);
    free(dump->row);
    free(dump);
}
