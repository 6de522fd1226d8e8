#!/bin/sh
# The check of the folder order finds what it is for: each line below is a file and one line of it.
set -eu
check=$(cd "$(dirname "$0")/.." && pwd)/check_layers.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
status=0

# expect good|bad FILE LINE
expect() {
    rm -rf "${tree:?}"/*
    mkdir -p "$tree/$(dirname "$2")"
    printf '%s\n' "$3" >"$tree/$2"
    found=good
    "$check" "$tree" >/dev/null 2>&1 || found=bad
    if [ "$found" != "$1" ]; then
        echo "$2 with \"$3\" was found $found, but is $1"
        status=1
    fi
}

expect good kernels/cpu/a.c '#include "kernels/ops.h"'
expect good parallel/a.c '#include "kernels/core/status.h"'
expect good runtime/a.c '#include "parallel/comm.h"'
expect good launcher/a.c '#include "kernels/cpu/ops.h"'
expect good runtime/a.c 'process_exit(1);'
expect good parallel/a.c '#include <mpi.h>'
expect good tests/runtime/a.c '#include "launcher/options.h"'
expect good kernels/cuda/a.cu '#include "kernels/cuda/ptx.cuh"'
expect good kernels/cuda/ptx.cuh '#include "tests/cuda_emulator/ptx_host.cuh"'
expect good tests/cuda_emulator/test_a.cu 'int x;'
expect bad kernels/core/a.c '#include "kernels/ops.h"'
expect bad kernels/core/a.c '#include "runtime/engine.h"'
expect bad kernels/cpu/a.c '#include "parallel/comm.h"'
expect bad kernels/cuda/a.cu '#include "runtime/engine.h"'
expect bad parallel/a.h '  #  include  "runtime/engine.h"'
expect bad parallel/a.h '#include <kernels/cpu/gemm.h>'
expect bad runtime/a.c '#include"launcher/options.h"'
expect bad runtime/a.c '#include "./launcher/options.h"'
expect bad runtime/a.c '#include "engine.h"'
expect bad runtime/a.c '#include "../launcher/options.h"'
expect bad runtime/a.c '#include "runtime/../launcher/options.h"'
expect bad runtime/a.c '#include <mpi.h>'
expect bad runtime/a.c '    exit(1);'
expect bad kernels/a.c 'if (wrong) _Exit (1);'
expect good parallel/process.c '    _Exit(1);'
expect bad launcher/a.c '#include "tests/helper.h"'
expect bad runtime/a.cu 'int x;'
expect bad tests/kernels/a.cu 'int x;'
expect bad kernels/cuda/a.cu '#include "tests/cuda_emulator/ptx_host.cuh"'
expect bad kernels/cuda/ptx.cuh '#include "tests/cuda_emulator/emulator.h"'
expect bad kernels/cuda/a.cu '#include "kernels/cpu/lanes.h"'
exit "$status"
