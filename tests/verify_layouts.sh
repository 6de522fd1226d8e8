#!/bin/sh
# Every layout of 1 to 8 ranks that this version has, on every golden checkpoint and the demo model, with
# `latentrank verify`.  Takes hours on 2 cores, so it is run by hand.
#
# usage: tests/verify_layouts.sh [--deterministic] [--some] [--nodes N] [MODEL...]
#   --deterministic   equal bits, on 1, 2, 4 and 8 ranks
#   --some            45 of the layouts, or with --deterministic 30: each axis and each choice beside each other
#   --nodes N         on N virtual nodes (cluster/virtual)
set -eu
cd "$(dirname "$0")/.."
program=build/release/latentrank
mode=off
with_some=0
nodes=
while :; do
    case ${1:-} in
    --deterministic) mode=layout ;;
    --some) with_some=1 ;;
    --nodes)
        nodes=$2
        shift
        ;;
    *) break ;;
    esac
    shift
done
launch=
[ -z "$nodes" ] || launch="cluster/virtual/cluster run --nodes $nodes -n {n}"
[ -x $program ] || {
    echo "verify_layouts.sh: $program is not there: run tests/run first" >&2
    exit 1
}
[ $# -gt 0 ] || set -- tests/golden/*/ configs/demo

# "tp=2,dp=2,pp=2,ep=4,kv=sharded,a2a=alltoall,comm=mpi;...": every way to make 1 to 8 ranks; of ep all that divide
# on one replica, whole experts and experts cut on several; each placement, exchange and backend of collectives.
layouts=
turn=0
add() { # tp dp pp ep
    case $mode-$(($1 * $2)) in
    layout-[3567]) return ;;
    layout-*) [ "$4" -eq $(($1 * $2)) ] || return 0 ;;
    esac
    for kv in replicated sharded ${nodes:+node}; do
        case $kv-$1 in
        sharded-1 | node-1) continue ;;
        esac
        for a2a in allgather_reducescatter alltoall; do
            [ "$a2a$2" != alltoall1 ] || continue
            comms="shm mpi" # on one axis; else by turns
            turn=$((turn + 1))
            case $2$3-$((turn % 2)) in
            11-*) ;;
            *-0) comms=shm ;;
            *) comms=mpi ;;
            esac
            for comm in $comms; do
                layouts="$layouts;tp=$1,dp=$2,pp=$3,ep=$4,kv=$kv,a2a=$a2a,comm=$comm"
            done
        done
    done
}
for pp in 1 2; do
    for dp in 1 2 3 4 5 6 7 8; do
        for tp in 1 2 3 4 5 6 7 8; do
            [ $((tp * dp * pp)) -le 8 ] || continue
            for ep in 1 2 3 4 5 6 7 8; do
                [ $((tp * dp % ep)) -eq 0 ] || continue
                case $dp-$ep in
                1-* | *-1 | "$dp-$dp" | "$dp-$((tp * dp))") add $tp $dp $pp $ep ;;
                esac
            done
        done
    done
done

# Every third or so of a list in which neighbours differ in one choice.
if [ $with_some -eq 1 ]; then
    wanted=45
    [ $mode = off ] || wanted=30
    layouts=$(echo "${layouts#;}" | tr ';' '\n' | awk -v wanted=$wanted '
        { line[NR] = $0 }
        END { for (i = 0; i < wanted && i < NR; i++) printf ";%s", line[int(i * NR / wanted) + 1] }')
fi

failed=0
for model in "$@"; do
    echo "== $model"
    # only what failed, and how many there were
    status=0
    these=${layouts#;}
    if grep -q '"num_hidden_layers": 1[,}]*$' "$model/config.json"; then # no two stages
        these=$(echo "$these" | tr ';' '\n' | grep -v 'pp=2' | paste -sd ';')
    fi
    $program verify --model "$model" --deterministic $mode --layouts "$these" \
        ${launch:+--launch "$launch"} >build/verify.txt || status=$?
    grep -v ' passed' build/verify.txt | sed 1d || true
    echo "$(grep -c ' passed' build/verify.txt) passed, worst $(sed 1d build/verify.txt | awk '{ print $2 }' | sort -g | tail -1)"
    [ $status -eq 0 ] || failed=$((failed + 1))
done
echo "$# models, $failed failed"
[ $failed -eq 0 ]
