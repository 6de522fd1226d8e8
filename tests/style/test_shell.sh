#!/bin/sh
# The scripts of the tree pass shellcheck.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v shellcheck >/dev/null 2>&1; then
    echo "skipped: there is no shellcheck"
    exit 77
fi
find .ci cluster launcher tests -type f ! -name '*.[ch]' ! -name '*.py' \
    -exec awk 'FNR == 1 { if (/^#!.*sh/ || /^# shellcheck shell/) print FILENAME; nextfile }' {} + |
    xargs -d '\n' shellcheck -x
