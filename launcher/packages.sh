# shellcheck shell=sh disable=SC2034 # the lists are for whoever sources this
#
# What the program and its tests need from Debian, how it is installed, built and started: the one
# place for launcher/demo and tests/run, which source this file.
#
# An entry is PACKAGE or PACKAGE=COMMAND; a command in PATH will do in place of its package, so
# that compilers and MPI from environment modules are taken as they are.
build_packages='gcc=cc libc6-dev make=make cmake=cmake pkgconf=pkg-config openmpi-bin=mpirun
libopenmpi-dev=mpicc libhwloc-dev libjansson-dev libpcre2-dev libxxhash-dev librandom123-dev'
test_packages='libcmocka-dev python3=python3 iproute2=ip'

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# packages_missing ENTRY...: prints the packages that are not there.
packages_missing() {
    for entry in "$@"; do
        package=${entry%%=*}
        case $entry in
        *=*) command -v "${entry#*=}" >/dev/null 2>&1 && continue ;;
        esac
        # shellcheck disable=SC2016 # dpkg-query expands it
        if ! dpkg-query -W -f='${db:Status-Abbrev}\n' "$package" 2>/dev/null | grep -q '^.i'; then
            printf '%s ' "$package"
        fi
    done
}

# packages_install ENTRY...: installs what is missing; asks for root only then.
packages_install() {
    if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
        say "No Debian package tools here: the libraries behind these packages are expected:"
        say "  $*"
        return 0
    fi
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        die "these Debian packages are missing, and there is neither root nor sudo to install them.
Run this as root, then start again:
  apt-get update && apt-get install -y --no-install-recommends $missing"
    fi
    say "Installing: $missing"
    # shellcheck disable=SC2086 # one word per package
    if ! { $as_root apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends $missing >/dev/null; }; then
        die "apt-get failed; its message stands above"
    fi
}

# build_tree PRESET TARGET [-DVARIABLE=VALUE...]: configures and builds, run in the root of the tree.
# Quiet when it works; the whole log when it does not.  Returns 1 on failure.
build_tree() {
    preset=$1 target=$2
    shift 2
    log=build/$preset.log
    say "Building $preset (log: $log)"
    mkdir -p build
    if cmake --preset "$preset" "$@" >"$log" 2>&1 &&
        cmake --build --preset "$preset" --target "$target" -j "$(nproc)" >>"$log" 2>&1; then
        return 0
    fi
    cat "$log"
    say "The build of $preset failed; the log above is $log."
    return 1
}

# mpi_environment RANKS: settings of Open MPI without which a laptop, a container or root fails or
# crawls.  What the user has set stays.
mpi_environment() {
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    # One core may be one slot of two ranks.
    export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe-1}"
    # Containers may forbid process_vm_readv; copying through shared memory always works.
    export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism-none}"
    # A waiting rank must not keep its core from one that computes.
    if [ "$1" -gt "$(nproc)" ]; then
        export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle-1}"
    fi
    # Sockets of Open MPI live under TMPDIR and their paths must stay short.
    temporary=${TMPDIR-}
    if [ "${#temporary}" -gt 40 ]; then
        export TMPDIR=/tmp
    fi
}
