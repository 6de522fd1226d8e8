#!/bin/sh
# Sources are as clang-format 14 leaves them (other versions differ, so only 14 is asked).
set -eu
cd "$(dirname "$0")/../.."
if ! command -v clang-format-14 >/dev/null 2>&1; then
    echo "skipped: there is no clang-format-14"
    exit 77
fi
find kernels parallel runtime launcher tests \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
    -exec clang-format-14 --dry-run -Werror {} +
