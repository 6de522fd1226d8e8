#!/bin/sh
# Runs launcher/demo and tests/run of this tree's last commit in a fresh Debian 12, as root, then as a user
# without privileges.  Run by hand, as root; needs debootstrap and about 3 GB in DIR.
#
# usage: tests/fresh_debian.sh DIR [COMMAND...]
#   COMMAND: demo, tests, user (default: all three)
# DIR/base.tar keeps the bare system between runs; DIR/system is made anew by each run.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || {
    sed -n '5,7s/^# //p' "$0" >&2
    exit 2
}
mkdir -p "$1"
directory=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- demo tests user
system=$directory/system
# the mirror that this machine installs from
mirror=${DEBIAN_MIRROR-$(apt-get indextargets --format "\$(REPO_URI)" "Created-By: Packages" | head -n 1)}

if [ ! -f "$directory/base.tar" ]; then
    rm -rf --one-file-system "$system"
    debootstrap --variant=minbase bookworm "$system" "$mirror"
    # This machine's way to its package mirror is taken over.
    cp /etc/resolv.conf /etc/hosts "$system/etc/"
    find /etc/apt/apt.conf.d -type f -exec grep -lE '^Acquire::(http|https|Check|Retries)' {} + |
        while read -r file; do cp "$file" "$system/etc/apt/apt.conf.d/"; done
    rm -rf "$system/var/cache/apt/archives"
    tar -C "$system" -cf "$directory/base.part" .
    mv "$directory/base.part" "$directory/base.tar"
fi
rm -rf --one-file-system "$system"
mkdir "$system"
tar -C "$system" -xf "$directory/base.tar"
git clone --quiet "$source" "$system/home/a user/latentrank"

# inside USER COMMAND: in a mount namespace of its own, so that no mount is left behind.
inside() {
    echo "== $1: $2"
    begin=$(date +%s)
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount --pid --fork sh -eu -c '
        mount -t proc proc "$1/proc"
        mount -t sysfs sysfs "$1/sys"
        mount -t tmpfs tmpfs "$1/dev"
        for node in null:3 zero:5 full:7 random:8 urandom:9; do
            mknod -m 666 "$1/dev/${node%:*}" c 1 "${node#*:}"
        done
        ln -s /proc/self/fd "$1/dev/fd"
        mkdir -m 1777 "$1/dev/shm"
        mkdir "$1/dev/pts"
        mount -t devpts -o ptmxmode=666 devpts "$1/dev/pts"
        ln -s pts/ptmx "$1/dev/ptmx"
        exec chroot "$1" setpriv --reuid="$2" --regid="$2" --clear-groups \
            env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp sh -c "$3"
        ' sh "$system" "$1" "$2" </dev/null || {
        echo "== failed after $(($(date +%s) - begin)) s"
        exit 1
    }
    echo "== done in $(($(date +%s) - begin)) s"
}

for command; do
    case $command in
    demo) inside 0 '"/home/a user/latentrank/launcher/demo"' ;;
    tests) inside 0 'cd / && "/home/a user/latentrank/tests/run"' ;;
    user)
        chown -R 1000:1000 "$system/home/a user"
        rm -rf "$system/home/a user/latentrank/build"
        inside 1000 '"/home/a user/latentrank/launcher/demo" && "/home/a user/latentrank/tests/run"'
        ;;
    *)
        echo "there is no command \"$command\"" >&2
        exit 2
        ;;
    esac
done
