#!/bin/sh
# The scripts of the tree pass shellcheck.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v shellcheck >/dev/null 2>&1; then
    echo "skipped: there is no shellcheck"
    exit 77
fi
find .ci cluster launcher tests -type f ! -name '*.[ch]' ! -name '*.py' ! -name '*.safetensors' \
    -exec sh -c '
        for file; do
            case $(head -n 1 "$file") in
            "#!"*sh* | "# shellcheck shell="*) shellcheck -x "$file" || exit 1 ;;
            esac
        done' sh {} +
