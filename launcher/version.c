/* version.c - --version: what was built, and what it runs with. */
#include "kernels/ops.h"
#include "launcher/commands.h"
#include "launcher/report.h"

#include <hwloc.h>
#include <mpi.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

enum status version_print(void)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING], pcre2[64] = "?", text[1024];
    int mpi_length;
    unsigned hwloc = hwloc_get_api_version(), xxhash = XXH_versionNumber();
    const struct ops *ops;

    TRY(cpu_ops_choose(&ops));
    MPI_Get_library_version(mpi, &mpi_length); /* allowed before MPI_Init */
    mpi[strcspn(mpi, ",\n")] = '\0';
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    snprintf(text, sizeof text,
             "latentrank %s\ncompiler: %s\nMPI: %s\nhwloc: %u.%u.%u\njansson: %s\nPCRE2: %s\n"
             "xxHash: %u.%u.%u\ninstruction set: %s",
             LATENTRANK_VERSION, COMPILER, mpi, hwloc >> 16, hwloc >> 8 & 0xff, hwloc & 0xff,
             jansson_version_str(), pcre2, xxhash / 10000, xxhash / 100 % 100, xxhash % 100,
             ops->name);
    return report_line(text);
}
