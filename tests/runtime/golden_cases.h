/* golden_cases.h - what the tests read of tests/golden: folders, prompts, expected logits. */
#ifndef TESTS_RUNTIME_GOLDEN_CASES_H
#define TESTS_RUNTIME_GOLDEN_CASES_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/safetensors.h"

enum { GOLDEN_MAX_CASES = 64, GOLDEN_MAX_PROMPTS = 8 };

struct golden_prompt {
    int32_t *ids;  /* [n_prompt + n_generated] */
    float *logits; /* [n_ids - 1, vocab] */
    int n_prompt, n_ids;
    int64_t vocab;
};

struct golden_case {
    int n_prompts;
    struct golden_prompt prompt[GOLDEN_MAX_PROMPTS];
};

static inline int golden_is_case(const struct dirent *entry)
{
    return entry->d_name[0] == 't' && strchr(entry->d_name, '.') == NULL;
}

/* Names of the case folders, sorted; returns how many. */
static inline int golden_list(const char *root, char name[GOLDEN_MAX_CASES][64])
{
    struct dirent **entry;
    int n = scandir(root, &entry, golden_is_case, alphasort), count = 0;
    for (int i = 0; i < n; i++) {
        if (count < GOLDEN_MAX_CASES)
            snprintf(name[count++], 64, "%.60s", entry[i]->d_name);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
    return count;
}

static inline enum status golden_read(const struct safetensors *file, const char *name, void **data,
                                      const struct safetensors_entry **entry)
{
    *entry = safetensors_find(file, name);
    if (*entry == NULL)
        FAIL(STATUS_INVALID, "no tensor %s", name);
    *data = malloc((size_t)(*entry)->bytes + 1);
    if (*data == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for %s", name);
    return safetensors_read(file, *entry, 0, (*entry)->bytes, *data);
}

static inline enum status golden_open(struct golden_case *golden, const char *folder)
{
    char path[1024], name[64];
    struct safetensors *file;
    enum status status = STATUS_OK;
    *golden = (struct golden_case){0};
    snprintf(path, sizeof path, "%s/golden.safetensors", folder);
    TRY(safetensors_open_file(&file, path));
    for (int i = 0; i < GOLDEN_MAX_PROMPTS; i++) {
        struct golden_prompt *p = &golden->prompt[i];
        const struct safetensors_entry *entry;
        void *data = NULL;
        snprintf(name, sizeof name, "p%d.ids", i);
        if (safetensors_find(file, name) == NULL)
            break;
        golden->n_prompts = i + 1;
        TRY_GOTO(status, end, golden_read(file, name, &data, &entry));
        p->ids = data;
        p->n_ids = (int)entry->dim[0];
        snprintf(name, sizeof name, "p%d.logits", i);
        TRY_GOTO(status, end, golden_read(file, name, &data, &entry));
        p->logits = data;
        p->vocab = entry->dim[1];
        snprintf(name, sizeof name, "p%d.n_prompt", i);
        TRY_GOTO(status, end, golden_read(file, name, &data, &entry));
        p->n_prompt = *(int32_t *)data;
        free(data);
    }
end:
    safetensors_close(file);
    return status;
}

static inline void golden_close(struct golden_case *golden)
{
    for (int i = 0; i < golden->n_prompts; i++) {
        free(golden->prompt[i].ids);
        free(golden->prompt[i].logits);
    }
}

#endif
