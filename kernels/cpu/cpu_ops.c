/* cpu_ops.c - chooses the table of operations for this CPU. */
#include "kernels/cpu/tables.h"

#include <stdlib.h>

const struct ops *cpu_ops_for(const char *isa)
{
    if (strcmp(isa, "plain") == 0)
        return &cpu_ops_plain;
#if defined(CPU_HAS_X86_TABLES)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx2") == 0 && has_avx2)
        return &cpu_ops_avx2;
    if (strcmp(isa, "avx512") == 0 && has_avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &cpu_ops_avx512;
#endif
    return NULL;
}

enum status cpu_ops_choose(const struct ops **ops)
{
    static const char *const best_first[] = {"avx512", "avx2", "plain"};
    const char *wanted = getenv("LATENTRANK_DEBUG_ISA");
    const struct ops *chosen = wanted == NULL ? NULL : cpu_ops_for(wanted);
    if (wanted != NULL && chosen == NULL)
        FAIL(STATUS_USAGE, "LATENTRANK_DEBUG_ISA is \"%s\"; this machine has %s%splain", wanted,
             cpu_ops_for("avx512") != NULL ? "avx512, " : "",
             cpu_ops_for("avx2") != NULL ? "avx2, " : "");
    for (int i = 0; chosen == NULL; i++)
        chosen = cpu_ops_for(best_first[i]);
    *ops = chosen;
    return STATUS_OK;
}
