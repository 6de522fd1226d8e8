#!/bin/sh
# The tree also builds with clang, with the same warnings as errors.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v clang >/dev/null 2>&1; then
    echo "skipped: there is no clang"
    exit 77
fi
. launcher/packages.sh
build_tree clang all
