/* backend.c - the CPU is linked in; CUDA is a library that is opened when it is asked for, so that the
 * same program starts on machines without a driver. */
#define _GNU_SOURCE /* dladdr */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/log.h"

#define CUDA_LIBRARY "liblatentrank_cuda.so"

static enum status open_cpu(struct backend *backend)
{
    *backend = (struct backend){.device = &cpu_device_ops, .host = &cpu_device_ops};
    return cpu_ops_choose(&backend->ops);
}

/* Beside the program, where the build puts it; else wherever the system looks. */
static void *find_library(const char *wanted)
{
    char path[4096];
    ssize_t length = -1;
    if (wanted != NULL)
        return dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
    Dl_info self;
    if (dladdr((void *)(uintptr_t)backend_open, &self) != 0 && self.dli_fname != NULL) {
        const char *slash = strrchr(self.dli_fname, '/');
        length = slash == NULL ? 0 : slash + 1 - self.dli_fname;
        if (snprintf(path, sizeof path, "%.*s%s", (int)length, self.dli_fname, CUDA_LIBRARY) <
            (int)sizeof path) {
            void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (library != NULL)
                return library;
        }
    }
    return dlopen(CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

static enum status open_cuda(struct backend *backend, int local_rank)
{
    void *library = find_library(getenv("LATENTRANK_DEBUG_CUDA_LIBRARY"));
    if (library == NULL)
        FAIL(STATUS_DEVICE,
             "the CUDA backend cannot be loaded: %s; build it with the CUDA Toolkit, or run with "
             "--backend cpu",
             dlerror());
    cuda_backend_open open;
    *(void **)&open = dlsym(library, CUDA_BACKEND_OPEN);
    *backend = (struct backend){.library = library};
    enum status status = open == NULL
                             ? status_fail(STATUS_DEVICE, __FILE__, __LINE__,
                                           "%s is no CUDA backend of this version", CUDA_LIBRARY)
                             : open(backend, local_rank);
    if (status != STATUS_OK) {
        (void)dlclose(library);
        *backend = (struct backend){0};
    }
    return status;
}

enum status backend_open(struct backend *backend, enum backend_kind kind, int local_rank)
{
    if (kind == BACKEND_CPU)
        return open_cpu(backend);
    enum status status = open_cuda(backend, local_rank);
    if (status == STATUS_OK || kind == BACKEND_CUDA)
        return status;
    log_print(LOG_INFO, "on the CPU: %s", status_text());
    status_clear();
    return open_cpu(backend);
}

void backend_close(struct backend *backend)
{
    /* the library stays: CUDA's own threads may still be in it */
    *backend = (struct backend){0};
}
