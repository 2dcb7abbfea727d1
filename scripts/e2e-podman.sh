#!/usr/bin/env bash
# Containers through a real podman with bridge, portmap and mesh-init (`selection: all`) as their network, and a real Envoy
# as the sidecar: see tests/e2e/podman.py.
#
# usage: scripts/e2e-podman.sh     Needs root. MESH_INIT_BIN: the binary (default: the suite profile's, built here).
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
    local bin sidecar
    need_root
    need_packages podman=podman runc=runc busybox=busybox-static ip=iproute2 nft=nftables iptables-nft-save=iptables \
        curl=curl nsenter=util-linux /usr/lib/cni/portmap=containernetworking-plugins
    sidecar=$(envoy)
    bin=$(binary)
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$bin" "XDG_CACHE_HOME=${parts%/*}" "$BASH" "${BASH_SOURCE[0]}"
    on_a_node "$project/scripts/e2e-podman.sh" "$bin" "$sidecar"
}

# inside WORK BIN ENVOY
inside() {
    furnish "$@"
    image_root "$work/image-app" app
    tar -C "$work/image-app" -cf "$work/image-app.tar" .
    rm -rf "$work/image-app"
    PYTHONPATH=$project/tests/e2e PYTHONDONTWRITEBYTECODE=1 \
        exec "$PYTHON" "$project/tests/e2e/podman.py" "$work" "$project"
}

main "$@"
