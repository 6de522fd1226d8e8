#!/bin/sh
# A rank that is killed or stopped, or a node that is cut off, while a job loads, reads its prompt and decodes: one
# moment each of tests/fault_matrix.
set -eu
if [ ! -f configs/demo/tokenizer.json ]; then
    echo "skipped: there is no tokenizer, so no text that shows that decoding has begun"
    exit 77
fi
watchdog=3
[ -z "${SANITIZED:-}" ] || watchdog=10
exec tests/fault_matrix --points 1 --limit 50 --watchdog "$watchdog" "$1"
