#!/bin/sh
# Every layout of 1 to 8 ranks that this version has, on every golden checkpoint and the demo model, with
# `latentrank verify`.  Takes some two hours on 2 cores, so it is run by hand.
#
# usage: tests/verify_layouts.sh [--deterministic] [MODEL...]
#   --deterministic   equal bits, on 1, 2, 4 and 8 ranks
set -eu
cd "$(dirname "$0")/.."
program=build/release/latentrank
mode=off
if [ "${1:-}" = --deterministic ]; then
    mode=layout
    shift
fi
[ -x $program ] || {
    echo "verify_layouts.sh: $program is not there: run tests/run first" >&2
    exit 1
}
[ $# -gt 0 ] || set -- tests/golden/*/ configs/demo

# "tp=4,ep=2,kv=sharded,comm=mpi;...": every ep that divides tp, each placement and backend of collectives.
layouts=
for tp in 1 2 3 4 5 6 7 8; do
    for ep in 1 2 3 4 5 6 7 8; do
        [ $((tp % ep)) -eq 0 ] || continue
        case $mode-$tp-$ep in
        layout-[3567]-*) continue ;;
        layout-*) [ $ep -eq $tp ] || continue ;;
        esac
        for kv in replicated sharded; do
            for comm in shm mpi; do
                layouts="$layouts;tp=$tp,ep=$ep,kv=$kv,comm=$comm"
            done
        done
    done
done

failed=0
for model in "$@"; do
    echo "== $model"
    # only what failed, and how many there were
    status=0
    $program verify --model "$model" --deterministic $mode --layouts "${layouts#;}" >build/verify.txt || status=$?
    grep -v ' passed' build/verify.txt | sed 1d || true
    echo "$(grep -c ' passed' build/verify.txt) passed, worst $(sed 1d build/verify.txt | awk '{ print $2 }' | sort -g | tail -1)"
    [ $status -eq 0 ] || failed=$((failed + 1))
done
echo "$# models, $failed failed"
[ $failed -eq 0 ]
