#!/bin/sh
# A rank that is killed or stopped, or a node that is cut off, while a job loads, reads its prompt and decodes: one
# moment each of tests/fault_matrix.
set -eu
if [ ! -f configs/demo/tokenizer.json ]; then
    echo "skipped: there is no tokenizer, so no text that shows that decoding has begun"
    exit 77
fi
# Loading takes a minute then, and the watch has to speak before mpirun gives up a node, after 5 s.
if [ -n "${SANITIZED:-}" ]; then
    echo "skipped: too slow with sanitizers; test_virtual runs the watch with them"
    exit 77
fi
exec tests/fault_matrix --points 1 --limit 50 --watchdog 3 "$1"
