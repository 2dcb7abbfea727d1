#!/usr/bin/env bash
# What capture at the sockets costs beside capture by rules: connections, packets, inbound, neighbours, and applying it.
#
#   scripts/bench-ebpf.sh [--quick] [--rounds N] [--seconds N]
#       7 rounds, 10 s for each figure of connections a second; --quick is one round of little of everything, which
#       shows that it works and nothing else
#
# In every round each way has its turn, so that all meet the same machine; medians of the rounds are printed, with the
# ratio to iptables-legacy. Every measurement has network, mount and BPF file system of its own; the ways are
#
#   direct     nothing captures, and the client dials the proxy itself
#   legacy nft nftables    mesh-init with --backend iptables (both variants) or nftables
#   ebpf       mesh-init with --backend ebpf, attached to the root of the control groups
#
# MESH_INIT_BIN names another binary than the static release. Times are reported, never asserted. Needs root (exit 77).
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$root/scripts/lib.sh"

rounds=7 seconds=10 count=20000 megabytes=2000 pods=250 networks=(0 1000 10000)
ways=(direct legacy nft nftables ebpf)

main() {
    while [ $# -gt 0 ]; do
        case $1 in
        --quick) rounds=1 seconds=1 count=300 megabytes=50 pods=3 networks=(0 100) ;;
        --rounds) rounds=${2:?--rounds needs a number} && shift ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" && exit ;;
        *) die 64 "no such option: ${1@Q}" ;;
        esac
        shift
    done
    [ "$(id -u)" = 0 ] || { echo "bench: skipped: needs root" >&2; exit 77; }
    need_packages cc=gcc /usr/include/stdio.h=libc6-dev ip=iproute2 nft=nftables iptables=iptables setpriv=util-linux
    bench=$(target_dir)/bench-ebpf
    mkdir -p "$bench"
    results=$(mktemp -d)
    trap 'rm -rf "$results"' EXIT
    gcc -static -O2 -pthread -o "$bench/flow" "$root/benches/flow.c"
    program=$(realpath -e "${MESH_INIT_BIN:-$(static_release)}")
    # To the program itself it says nothing.
    unset MESH_INIT_BIN
    export bench program results count seconds megabytes pods

    local round way networks_
    for ((round = 1; round <= rounds; round++)); do
        echo "round $round of $rounds" >&2
        for way in "${ways[@]}"; do
            inside connections "$way"
        done
        for networks_ in "${networks[@]}"; do
            for way in legacy nftables ebpf; do inside excluded "$way" "$networks_"; done
        done
        inside neighbour without
        inside neighbour with
    done
    inside applying
    report
}

static_release() {
    local triple
    triple=$(uname -m)-unknown-linux-musl
    need_rust
    if command -v rustup >/dev/null; then (cd "$root" && rustup target add "$triple") >&2; fi
    (cd "$root" && cargo build --locked --quiet --release --target "$triple" --bin mesh-init) >&2
    echo "$(target_dir)/$triple/release/mesh-init"
}

# Runs a function of this file in namespaces of its own.
inside() {
    unshare --mount --net --propagation private -- bash "$0" --inside "$@"
}

# A pod: an address, a neighbour in another namespace, and routes.
pod() {
    mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; }
    mount -t bpf bpf /sys/fs/bpf
    ip link set lo up
    ip netns add there
    ip link add eth0 type veth peer name eth0 netns there
    ip addr add 10.0.0.1/24 dev eth0
    ip link set eth0 up
    ip -n there addr add 10.0.0.2/24 dev eth0
    ip -n there link set eth0 up
    ip -n there link set lo up
    ip route add default via 10.0.0.2
}

capture() { # way words...
    local way=$1
    shift
    case $way in
    direct) return ;;
    legacy | nft) set -- --backend iptables --iptables-variant "$way" "$@" ;;
    *) set -- --backend "$way" "$@" ;;
    esac
    "$program" apply --layout istio -p 15001 -z 15006 -u 1337 "$@" >/dev/null
}

# The proxy, as its user.
proxy() { # port
    local ready
    exec {out}< <(exec setpriv --reuid 1337 --clear-groups "$bench/flow" serve "$1")
    read -r ready <&"$out" && [ "$ready" = ready ]
}

note() { # figure way values...
    local figure=$1 way=$2
    shift 2
    echo "$*" >>"$results/$figure.$way"
}

connections() { # way
    local way=$1 to=192.0.2.1 port=80
    pod
    capture "$way"
    proxy 15001
    proxy 15006
    [ "$way" != direct ] || { to=127.0.0.1 port=15001; }
    local mean p50 p99 cycle
    read -r mean p50 p99 cycle < <("$bench/flow" latency "$count" "$to" "$port")
    note connect-mean "$way" "$mean"
    note connect-p50 "$way" "$p50"
    note connect-p99 "$way" "$p99"
    note cycle "$way" "$cycle"
    note trip "$way" "$("$bench/flow" trip "$count" "$to" "$port")"
    note bulk "$way" "$("$bench/flow" bulk "$megabytes" "$to" "$port")"
    note rate-1 "$way" "$("$bench/flow" rate "$seconds" 1 "$to" "$port")"
    note rate-8 "$way" "$("$bench/flow" rate "$seconds" 8 "$to" "$port")"
    port=8080
    [ "$way" != direct ] || port=15006
    read -r mean p50 p99 cycle < <(nsenter --net=/run/netns/there "$bench/flow" latency "$count" 10.0.0.1 "$port")
    note inbound-p50 "$way" "$p50"
    note inbound-p99 "$way" "$p99"
}

excluded() { # way networks
    local way=$1 list
    list=$(awk -v n="$2" 'BEGIN { for (i = 0; i < n; i++) printf "%s100.%d.%d.0/24", i ? "," : "", 64 + i / 256, i % 256 }')
    pod
    capture "$way" ${list:+-x "$list"}
    proxy 15001
    local mean p50 p99 cycle
    read -r mean p50 p99 cycle < <("$bench/flow" latency "$count" 192.0.2.1 80)
    note "excluded-$2" "$way" "$p50"
}

# Connections of a namespace without a policy, while another has one.
neighbour() { # with or without
    pod
    [ "$1" = without ] || nsenter --net=/run/netns/there "$program" apply --backend ebpf -p 15001 -u 1337 >/dev/null
    proxy 15001
    local mean p50 p99 cycle
    read -r mean p50 p99 cycle < <("$bench/flow" latency "$count" 127.0.0.1 15001)
    note neighbour-cycle "$1" "$cycle"
    note neighbour-p50 "$1" "$p50"
}

# What the first and the last of many namespaces cost: time of a whole process, and memory of the kernel.
applying() {
    local index time before after
    pod
    for ((index = 0; index < pods; index++)); do ip netns add "pod$index"; done
    time=$("$bench/flow" run 1 "$program" apply --backend ebpf --netns /run/netns/pod0 -p 15001 -u 1337 2>&1 | tail -1)
    note apply first "$time"
    before=$(locked)
    for ((index = 1; index < pods; index++)); do
        time=$("$bench/flow" run 1 "$program" apply --backend ebpf --netns "/run/netns/pod$index" -p 15001 -u 1337 | tail -1)
        note apply further "$time"
    done
    note apply last "$time"
    after=$(locked)
    note apply bytes $(((after - before) / (pods - 1)))
    for ((index = 0; index < pods; index++)); do
        "$program" clean --netns "/run/netns/pod$index" >/dev/null
        ip netns del "pod$index"
    done
}

# Bytes that the kernel has for BPF programs and maps of ours, as it tells whoever has them open.
locked() {
    command -v bpftool >/dev/null || { echo 0; return; }
    { bpftool map show; bpftool prog show; } | awk '{ for (i = 1; i < NF; i++) if ($i == "memlock") sum += $(i + 1) } END { print sum + 0 }'
}

median() { # file
    [ -s "$1" ] || { echo -; return; }
    sort -n "$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'
}

table() { # title figure ways...
    local title=$1 figure=$2 way base value
    shift 2
    printf '%-34s' "$title"
    base=$(median "$results/$figure.legacy")
    for way in "$@"; do
        value=$(median "$results/$figure.$way")
        if [ "$base" != - ] && [ "$value" != - ]; then
            printf '%11s %5s' "$value" "$(awk -v a="$value" -v b="$base" 'BEGIN { printf "(%.2f)", a / b }')"
        else
            printf '%11s      ' "$value"
        fi
    done
    echo
}

report() {
    local way size
    printf '%-34s' "medians of $rounds rounds"
    for way in "${ways[@]}"; do printf '%11s      ' "$way"; done
    echo
    table 'connect(2) mean, ns' connect-mean "${ways[@]}"
    table 'connect(2) p50, ns' connect-p50 "${ways[@]}"
    table 'connect(2) p99, ns' connect-p99 "${ways[@]}"
    table 'whole cycle, ns' cycle "${ways[@]}"
    table 'connections/s, 1 thread' rate-1 "${ways[@]}"
    table 'connections/s, 8 threads' rate-8 "${ways[@]}"
    table 'round trip of 128 bytes, ns' trip "${ways[@]}"
    table 'bulk, MB/s' bulk "${ways[@]}"
    table 'inbound connect p50, ns' inbound-p50 "${ways[@]}"
    table 'inbound connect p99, ns' inbound-p99 "${ways[@]}"
    echo
    printf '%-34s' 'connect(2) p50, ns'
    for way in legacy nftables ebpf; do printf '%11s      ' "$way"; done
    echo
    for size in "${networks[@]}"; do table "with $size excluded networks" "excluded-$size" legacy nftables ebpf; done
    echo
    local added_legacy added_ebpf direct
    direct=$(median "$results/connect-p50.direct")
    added_legacy=$(($(median "$results/connect-p50.legacy") - direct))
    added_ebpf=$(($(median "$results/connect-p50.ebpf") - direct))
    echo "added to connect(2), p50: iptables-legacy $added_legacy ns, ebpf $added_ebpf ns (aim: at most half)"
    echo "a namespace without a policy, whole cycle: $(median "$results/neighbour-cycle.without") ns without us, $(median "$results/neighbour-cycle.with") ns beside us (aim: 1 % more)"
    echo "apply, whole process: the first namespace $(median "$results/apply.first") ns, a further one $(median "$results/apply.further") ns, the last of $pods $(median "$results/apply.last") ns (aim: 5 ms)"
    echo "kernel memory of a further namespace: $(median "$results/apply.bytes") bytes (aim: 100 KiB; 0 if bpftool is not installed)"
}

if [ "${1-}" = --inside ]; then
    shift
    "$@"
else
    main "$@"
fi
