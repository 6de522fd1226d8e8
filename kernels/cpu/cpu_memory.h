/* cpu_memory.h - what of the host's memory is free. */
#ifndef KERNELS_CPU_CPU_MEMORY_H
#define KERNELS_CPU_CPU_MEMORY_H

#include "kernels/core/device.h"

void cpu_free_memory(struct free_memory *memory);

/* Lowers *free_bytes to what is left in the control groups that the file `groups` (of the form of
 * /proc/self/cgroup) names, looked for below `system_root` ("" outside tests). */
void cpu_memory_groups(int64_t *free_bytes, const char *groups, const char *system_root);

#endif
