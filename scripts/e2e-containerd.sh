#!/usr/bin/env bash
# Pods through a real containerd with bridge, portmap and mesh-init as its network, and a real Envoy as the sidecar: see
# tests/e2e/containerd.py.
#
# usage: scripts/e2e-containerd.sh     Needs root. MESH_INIT_BIN: the binary (default: the suite profile's, built here).
#
# All of it runs in network, mount and process namespaces of its own, and is gone at the end.
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/e2e/parts.sh disable=SC1091
source "${project:?}/scripts/e2e/parts.sh"

work='' inner=''

main() {
    case ${1-} in
    '') outside ;;
    --inside) inside "${@:2}" ;;
    *) die 64 "unknown argument '$1'" ;;
    esac
}

outside() {
    local bin stubs sidecar rc=0
    need_root
    need_packages containerd=containerd runc=runc umoci=umoci busybox=busybox-static gcc=gcc ip=iproute2 nft=nftables \
        iptables-nft-save=iptables curl=curl nsenter=util-linux /usr/lib/cni/portmap=containernetworking-plugins \
        /usr/include/stdio.h=libc6-dev
    stubs=$(cri)
    sidecar=$(envoy)
    bin=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    if [[ -z ${MESH_INIT_BIN-} ]]; then
        (cd "$project" && cargo build --locked --quiet --profile suite --bin mesh-init) >&2
    fi
    [[ -f $bin && -x $bin ]] || die 69 "missing: $bin"
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$(realpath "$bin")" "XDG_CACHE_HOME=${parts%/*}" \
        "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "$BASH" "${BASH_SOURCE[0]}"
    work=$(mktemp -d /tmp/mesh-init-containerd.XXXXXX)
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    setpriv --pdeathsig KILL unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$BASH" "$project/scripts/e2e-containerd.sh" --inside "$work" "$(realpath "$bin")" "$sidecar" "$stubs" </dev/null &
    inner=$!
    wait "$inner" || rc=$?
    inner=''
    exit "$rc"
}

leave() {
    local status=$?
    set +e
    [[ -z $inner ]] || { kill -KILL "$inner" && wait "$inner"; } 2>/dev/null
    find /sys/fs/cgroup -depth -path '*/mesh-init-e2e*' -type d -exec rmdir {} \; 2>/dev/null
    rmdir "$work"
    exit "$status"
}

# inside WORK BIN ENVOY STUBS
inside() {
    work=$1
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    mount -t tmpfs -o mode=755 mesh-init-e2e "$work"
    # The runtime keeps its own here, whatever its settings say.
    mkdir -p "$work/netns" "$work/lib-cni" /run/netns /var/lib/cni
    mount --bind "$work/netns" /run/netns
    mount --bind "$work/lib-cni" /var/lib/cni
    ip link set lo up
    : >"$work/envoy"
    mount --bind "$3" "$work/envoy"
    install -m 755 "$2" "$work/mesh-init"
    image pause "$work/pause" /pause
    image app /bin/busybox /bin/busybox
    PYTHONPATH="$4:$project/tests/e2e" PYTHONDONTWRITEBYTECODE=1 PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=upb \
        exec "$PYTHON" "$project/tests/e2e/containerd.py" "$work" "$project"
}

# image NAME PROGRAM PATH: an image of one static program, as an archive that the runtime takes.
image() {
    local name=$1 root=$work/image-$1
    if [[ $name == pause ]]; then
        echo 'int pause(void); int main(void) { for (;;) pause(); }' |
            gcc -static -O2 -x c -o "$work/pause" -
    fi
    umoci init --layout "$root.oci"
    umoci new --image "$root.oci:1"
    umoci unpack --image "$root.oci:1" "$root"
    install -D -m 755 "$2" "$root/rootfs$3"
    if [[ $name == app ]]; then
        install -D -m 755 "$project/tests/e2e/who.sh" "$root/rootfs/www/cgi-bin/who"
        install -D -m 755 "$project/tests/e2e/ask.sh" "$root/rootfs/bin/ask"
        "$root/rootfs/bin/busybox" --list | while read -r applet; do
            [[ $applet == busybox ]] || ln -s busybox "$root/rootfs/bin/$applet"
        done
        mkdir -m 1777 "$root/rootfs/tmp"
    fi
    umoci repack --image "$root.oci:1" "$root"
    umoci config --image "$root.oci:1" --config.cmd "$3"
    tar -C "$root.oci" -cf "$root.tar" .
    rm -rf "$root" "$root.oci"
}

main "$@"
