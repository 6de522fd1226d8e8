/* kernel_name.cpp - the name of a function from the symbol table of its ELF file.
 *
 * dladdr alone knows only symbols that are exported, and kernels are static.
 */
#include "tests/cuda_emulator/engine.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *symbol_find(const unsigned char *file, uint64_t at)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        const char *names = (const char *)file + sections[sections[i].sh_link].sh_offset;
        const Elf64_Sym *symbol = (const Elf64_Sym *)(file + sections[i].sh_offset);
        for (size_t j = 0; j < sections[i].sh_size / sizeof *symbol; j++)
            if (ELF64_ST_TYPE(symbol[j].st_info) == STT_FUNC && symbol[j].st_value <= at &&
                at < symbol[j].st_value + symbol[j].st_size)
                return names + symbol[j].st_name;
    }
    return NULL;
}

static void copy_name(const char *symbol, char *text, size_t bytes)
{
    int status;
    char *readable = abi::__cxa_demangle(symbol, NULL, NULL, &status);
    snprintf(text, bytes, "%s", readable != NULL ? readable : symbol);
    free(readable);
}

void emulator::kernel_name(const void *address, char *text, size_t bytes)
{
    Dl_info info;
    struct stat state;
    snprintf(text, bytes, "the kernel at %p", address);
    if (dladdr(address, &info) == 0)
        return;
    int fd = open(info.dli_fname, O_RDONLY);
    if (fd < 0)
        fd = open("/proc/self/exe", O_RDONLY);
    if (fd < 0 || fstat(fd, &state) != 0)
        return;
    void *file = mmap(NULL, (size_t)state.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED)
        return;
    uint64_t base = (uint64_t)info.dli_fbase, place = (uint64_t)address;
    if (((const Elf64_Ehdr *)file)->e_type == ET_DYN)
        place -= base;
    const char *symbol = symbol_find((const unsigned char *)file, place);
    if (symbol != NULL)
        copy_name(symbol, text, bytes);
    munmap(file, (size_t)state.st_size);
}
