#!/usr/bin/env python3
"""Compiles every CUDA source for sm_90a, as a GPU machine would, and prints what each kernel takes.

usage: build_gate.py ROOT [FILE.cu ...]

Fails on a warning, on a spilled register, and when a source's promise does not hold: a line
    // sass: HGMMA UTMALDG
in it says which instructions its machine code must contain.  Needs nvcc, and no GPU.
"""

import collections
import concurrent.futures
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

# Low 12 bits of an instruction of sm_90; found by counting instructions of known PTX.
OPCODES = {
    "HMMA": {0x23C},
    "HGMMA": {0x9F0, 0xDF0},  # A in shared memory, in registers
    "LDSM": {0x83B},
    "STSM": {0x844},
    "LDGSTS": {0xFAE},
    "UTMALDG": {0x5B4},
}
FLAGS = ["-std=c++17", "-O3", "-gencode", "arch=compute_90a,code=sm_90a", "-lineinfo", "-Xcompiler=-Wall,-Wextra",
         "-Werror", "all-warnings", "-Xptxas", "-v,--warn-on-spills,--warning-as-error"]


def find_nvcc():
    places = [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((p for p in places if p and pathlib.Path(p).exists()), None)


def sections(elf):
    """(name, bytes) of each section of a 64-bit ELF file."""
    start, = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    table = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    for name, _, _, _, offset, length in table:
        at = table[names][4] + name
        yield elf[at:elf.index(b"\0", at)].decode(), elf[offset:offset + length]


def count_opcodes(cubin):
    """{mangled kernel: {opcode: count}}"""
    counts = {}
    for name, code in sections(cubin.read_bytes()):
        if name.startswith(".text."):
            words = (struct.unpack_from("<Q", code, i)[0] & 0xFFF for i in range(0, len(code), 16))
            counts[name[len(".text."):]] = collections.Counter(words)
    return counts


def readable(names):
    found = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    return dict(zip(names, found.stdout.split("\n")))


def table_of(log, counts):
    """Lines of the register table from the log of ptxas."""
    pattern = r"Compiling entry function '(\S+)'.*?Used (\d+) registers"
    registers = dict(re.findall(pattern, log, re.DOTALL))
    names = readable(list(registers)) if registers and shutil.which("c++filt") else {}
    for mangled, used in registers.items():
        tensor = [f"{name} {sum(counts[mangled][code] for code in codes)}" for name, codes in OPCODES.items()
                  if any(counts.get(mangled, {}).get(code) for code in codes)]
        name = re.sub(r"^void |\(.*", "", names.get(mangled, mangled))
        yield f"  {used:>3} registers  {name}  {', '.join(tensor)}".rstrip()


def build(nvcc, root, source):
    """(errors, lines of the table) of one source."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, f"-I{root}", "--keep", "--keep-dir", folder, "-c", "-o", f"{folder}/out.o",
                   "-x", "cu", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        log = done.stdout + done.stderr
        if done.returncode != 0:
            return [log], []
        counts = count_opcodes(next(pathlib.Path(folder).glob("*.cubin")))
        total = sum(counts.values(), collections.Counter())
        errors = [f"the log says that products wait for each other:\n{log}"] if "serialized" in log else []
        for promise in re.findall(r"^// sass:(.*)$", source.read_text(), re.MULTILINE):
            for name in promise.split():
                if name not in OPCODES:
                    errors.append(f"promises {name}, which this script does not know")
                elif not any(total[code] for code in OPCODES[name]):
                    errors.append(f"promises {name}, and its machine code has none")
        return errors, list(table_of(log, counts))


def main():
    nvcc = find_nvcc()
    if nvcc is None:
        print("skipped: there is no nvcc")
        return 77
    root = pathlib.Path(sys.argv[1]).resolve()
    sources = [pathlib.Path(name) for name in sys.argv[2:]] or sorted(
        [*root.glob("kernels/cuda/*.cu"), *root.glob("tests/cuda_emulator/test_ptx.cu")])
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for source, (errors, table) in zip(sources, pool.map(lambda s: build(nvcc, root, s), sources)):
            print(f"{source.name}: {'FAILED' if errors else 'built'}")
            print("\n".join(table + errors))
            failed += bool(errors)
    print(f"{len(sources)} sources, {failed} failed")
    return 1 if failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
