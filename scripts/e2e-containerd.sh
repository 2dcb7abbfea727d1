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
# shellcheck source=scripts/e2e/node.sh disable=SC1091
source "$project/scripts/e2e/node.sh"

main() {
    case ${1-} in
    '') outside ;;
    --inside) inside "${@:2}" ;;
    *) die 64 "unknown argument '$1'" ;;
    esac
}

outside() {
    local bin stubs sidecar
    need_root
    need_packages containerd=containerd runc=runc umoci=umoci busybox=busybox-static gcc=gcc ip=iproute2 nft=nftables \
        iptables-nft-save=iptables curl=curl nsenter=util-linux /usr/lib/cni/portmap=containernetworking-plugins \
        /usr/include/stdio.h=libc6-dev
    stubs=$(cri)
    sidecar=$(envoy)
    bin=$(binary)
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$bin" "XDG_CACHE_HOME=${parts%/*}" \
        "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "$BASH" "${BASH_SOURCE[0]}"
    on_a_node "$project/scripts/e2e-containerd.sh" "$bin" "$sidecar" "$stubs"
}

# inside WORK BIN ENVOY STUBS
inside() {
    furnish "$@"
    furnish_sockets
    image pause /pause
    image app /bin/busybox
    PYTHONPATH="$4:$project/tests/e2e" PYTHONDONTWRITEBYTECODE=1 \
        exec "$PYTHON" "$project/tests/e2e/containerd.py" "$work" "$project"
}

# image NAME COMMAND: an image as an archive that the runtime takes.
image() {
    local root=$work/image-$1
    umoci init --layout "$root.oci"
    umoci new --image "$root.oci:1"
    umoci unpack --image "$root.oci:1" "$root"
    image_root "$root/rootfs" "$1"
    umoci repack --image "$root.oci:1" "$root"
    umoci config --image "$root.oci:1" --config.cmd "$2"
    tar -C "$root.oci" -cf "$root.tar" .
    rm -rf "$root" "$root.oci"
}

main "$@"
