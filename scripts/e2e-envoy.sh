#!/usr/bin/env bash
# Real Envoys behind mesh-init, in network namespaces of its own: both iptables variants and eBPF, IPv4 and IPv6.
#
#   classic   mesh-init -p 15001 -u 1337 on a client and on a server
#   scoped    mesh-init --uid-owner 1338 --inbound 8001 on two VM hosts; the client knows the service as 127.0.0.1
#   docker    classic beside Docker's DOCKER_OUTPUT and DOCKER_POSTROUTING chains, in each order they can come in
#   istio     mesh-init -p 15001 -z 15006 … and mesh-init istio-iptables …, REDIRECT and TPROXY, on a pod with a peer
#   proxies   HAProxy and mitmproxy in the place of Envoy on such a pod
#
# Each Envoy adds a header to the response with its name and the original destination that it got from the kernel, and
# the service says whom it saw: one request tells who carried it, and a captured one can't be mistaken for a direct one.
#
# Needs root. MESH_INIT_BIN: the binary (default: the suite profile's, built here).
set -euo pipefail

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/e2e/parts.sh disable=SC1091
source "$project/scripts/e2e/parts.sh"
# shellcheck source=scripts/e2e/checks.sh disable=SC1091
source "$project/scripts/e2e/checks.sh"
# shellcheck source=scripts/e2e/hosts.sh disable=SC1091
source "$project/scripts/e2e/hosts.sh"
# shellcheck source=scripts/e2e/classic.sh disable=SC1091
source "$project/scripts/e2e/classic.sh"
# shellcheck source=scripts/e2e/docker.sh disable=SC1091
source "$project/scripts/e2e/docker.sh"
# shellcheck source=scripts/e2e/istio.sh disable=SC1091
source "$project/scripts/e2e/istio.sh"
# shellcheck source=scripts/e2e/proxies.sh disable=SC1091
source "$project/scripts/e2e/proxies.sh"

readonly SERVICE=server.service.consul
readonly PINS=/sys/fs/bpf/mesh-init
readonly CLIENT4=10.77.0.1 CLIENT6=fd77::1 SERVER4=10.77.0.2 SERVER6=fd77::2

say() { printf '%s\n' "$*"; }

# ---------------------------------------------------------------- outside: what the run needs, then a place of its own

work=''
inner=0

leave() {
    if ((inner)); then
        kill -KILL "$inner" 2>/dev/null || true
        wait "$inner" 2>/dev/null || true
    fi
    find /sys/fs/cgroup -depth -path "*/${work##*/}" -type d -exec rmdir {} \; 2>/dev/null || true
    rmdir "$work"
}

outside() {
    local bin envoy mitmproxy rc=0
    ((EUID == 0)) || die 77 'this needs root'
    need_packages iptables-nft-restore=iptables iptables-legacy-restore=iptables ip=iproute2 curl=curl \
        setpriv=util-linux haproxy=haproxy "$PYTHON=python3"
    envoy=$(envoy)
    mitmproxy=$(mitmproxy)

    bin=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    # Built even if it is there: it may be of another day's source.
    if [[ -z ${MESH_INIT_BIN:-} ]]; then
        need_rust
        (cd "$project" && cargo build --locked --quiet --profile suite --bin mesh-init) >&2
    fi
    [[ -f $bin && -x $bin ]] || die 1 "$bin: no such program"
    bin=$(realpath "$bin")

    # In a PID namespace every process of the run ends with it, and in a mount namespace nothing mounted is left,
    # however it ends.
    work=$(mktemp -d /tmp/mesh-init-e2e.XXXXXX)
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$BASH" "$project/scripts/e2e-envoy.sh" --inside "$work" "$bin" "$envoy" "$mitmproxy" </dev/null &
    inner=$!
    wait "$inner" || rc=$?
    inner=0
    exit "$rc"
}

# -------------------------------------------------------------------------------------------------------------- inside

inside() {
    local variant
    work=$1 bin=$2 cgroup=$1/cgroup/${1##*/}
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap finish EXIT
    # Every user must reach these, wherever the project and the cache are.
    mount -t tmpfs -o mode=755 mesh-init-e2e "$work"
    : >"$work/envoy"
    mount --bind "$3" "$work/envoy"
    mkdir "$work/mitmproxy"
    mount --bind "$4" "$work/mitmproxy"
    install -m 644 "$project/tests/e2e/standin.py" "$work/standin.py"
    # What is captured at the sockets is captured of this run alone.
    mount -t bpf -o mode=700 mesh-init-e2e "${PINS%/*}"
    mkdir "$work/cgroup"
    mount -t cgroup2 mesh-init-e2e "$work/cgroup"
    mkdir "$cgroup"
    echo 0 >"$cgroup/cgroup.procs"
    can_fail
    for variant in legacy nft; do
        classic "$variant"
        scoped "$variant"
        beside_docker "$variant"
        istio_all "$variant"
    done
    classic ebpf
    scoped ebpf
    beside_docker ebpf
    istio ebpf own REDIRECT 1337
    proxies nft
    proxies ebpf
    complete=yes
}

if [[ ${1:-} == --inside ]]; then
    inside "${@:2}"
else
    outside
fi
