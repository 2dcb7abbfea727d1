#!/usr/bin/env bash
# What capture at the sockets costs beside capture by rules: connections, packets, inbound, neighbours, and applying it.
#
#   scripts/bench-ebpf.sh [--quick] [--rounds N] [--seconds N]
#       7 rounds, 60 s for each figure of connections a second: 90 minutes; --quick is one round of little of everything,
#       which shows that it works and nothing else
#
# In every turn of a round each way has its own, another one first, so that all meet the same machine. Medians of the turns
# are printed, and in brackets the median of the turns' ratios to iptables-legacy. Every measurement has network, mount and
# BPF file system of its own. Client and proxy have a processor each, for where the scheduler puts them says more than all
# else, but for connections a second, which have all. The ways are
#
#   direct     nothing captures, and the client dials the proxy itself
#   legacy nft nftables    mesh-init with --backend iptables (both variants) or nftables
#   ebpf       mesh-init with --backend ebpf, attached to the root of the control groups
#
# Every connection of a way has one destination, so that its ports are what runs out: each waits for a minute when its
# connection is closed, and when half are taken the kernel looks at thousands of others before it finds a free one. The
# namespaces therefore have 64,512 ports, which may be used again after a second, for every way alike; the kernel's own
# settings (28,232 ports, again after a second only where an end is a loopback address) would favour capture at the sockets.
#
# MESH_INIT_BIN names another binary than the static release. Times are reported, never asserted. Needs root (exit 77).
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/bench-lib.sh
source "$(dirname "$0")/bench-lib.sh"

ways=(direct legacy nft nftables ebpf)

main() {
    rounds=7 turns=5 seconds=60 count=5000 megabytes=2000 pods=250 pairs=20 sizes='0 100 1000 10000'
    while [ $# -gt 0 ]; do
        case $1 in
        --quick) rounds=1 turns=1 seconds=1 count=300 megabytes=50 pods=3 pairs=2 sizes='0 100' ;;
        --rounds) rounds=${2:?--rounds needs a number} && shift ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" && exit ;;
        *) die 64 "no such option: ${1@Q}" ;;
        esac
        shift
    done
    local given
    for given in "$rounds" "$seconds"; do
        [[ $given =~ ^[1-9][0-9]{0,3}$ ]] || die 64 "not a number from 1 to 9999: ${given@Q}"
    done
    [ "$(id -u)" = 0 ] || die 77 "skipped: needs root"
    need_packages ip=iproute2 nft=nftables iptables-legacy=iptables setpriv=util-linux bpftool=bpftool
    bench=$(bench_folder)
    program=$(measured_binary)
    # To the program itself it says nothing.
    unset MESH_INIT_BIN
    compile flow
    samples=$bench/ebpf.samples
    : >"$samples"
    export bench program samples seconds count megabytes pods pairs sizes

    # What is measured, the turn, and words after the way.
    each_way() {
        local figure=$1 turn=$2 place
        shift 2
        for ((place = 0; place < ${#ways[@]}; place++)); do
            inside "$figure" "$round.$turn" "${ways[(round + turn + place) % ${#ways[@]}]}" "$@"
        done
    }
    local round turn size
    for ((round = 1; round <= rounds; round++)); do
        echo "round $round of $rounds" >&2
        for ((turn = 1; turn <= turns; turn++)); do each_way connections "$turn"; done
        each_way rates 1
        for size in $sizes; do each_way excluded 1 "$size"; done
        inside neighbours "$round"
        inside applying "$round"
        # The kernel takes so many namespaces apart in its own time.
        sleep $((pods / 50))
    done
    report | tee "$bench/ebpf.txt"
}

# Runs a function of this file in namespaces of its own.
inside() { # function turn words...
    unshare --mount --net --propagation private -- bash "$0" --inside "$@" || die 1 "failed: $*"
    # Its namespaces go when it has ended, and not in the time of the next one.
    sleep 0.3
}

# A pod: an address, a neighbour in another namespace, and routes.
pod() {
    mkdir -p /run/netns
    mount -t tmpfs tmpfs /run/netns
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
    ports
    "${there[@]}" bash "$0" --inside ports
    # What is not captured is refused at once: the neighbour would pass it on, and knows no way.
    "${there[@]}" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# Before a command of the neighbour's.
there=(nsenter --net=/run/netns/there)
# Before the proxy, and before its client.
beside=() apart=()

# A processor for each of them.
pin() {
    local first last
    read -r first last < <(awk -F '[\t,-]' '/^Cpus_allowed_list/ { print $2, $NF }' /proc/self/status)
    apart=(taskset -c "$first") beside=(taskset -c "$last")
}

# Enough ports, as the head of this file says.
ports() {
    echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse
    echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range
}

capture() { # way [words...]
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
    local out ready
    exec {out}< <(exec "${beside[@]}" setpriv --reuid 1337 --clear-groups "$bench/flow" serve "$1")
    read -r -t 10 ready <&"$out" || ready=
    [ "$ready" = ready ] || die 1 "no proxy listens on port $1"
}

note() { # figure way value
    echo "$1 $2 $turn $3" >>"$samples"
}

# Notes what one run of the measuring client says, a name for each number; nothing hangs.
measure() { # way names words...
    local way=$1 names=$2 said name index=0
    shift 2
    said=$("${apart[@]}" timeout $((seconds + 120)) "$@") || die 1 "no answer of ${*@Q}"
    # shellcheck disable=SC2206 # numbers
    said=($said)
    for name in $names; do
        [ "$name" = - ] || note "$name" "$way" "${said[index]:?}"
        index=$((index + 1))
    done
}

# A pod whose traffic is captured, with the proxy; where the client dials then, here and in the neighbour's namespace.
captured() { # way
    to=(192.0.2.1 80) in=(10.0.0.1 8080)
    pod
    capture "$1"
    proxy 15001
    proxy 15006
    [ "$1" != direct ] || { to=(127.0.0.1 15001) in=(10.0.0.1 15006); }
}

connections() { # turn way
    local turn=$1 way=$2 to in
    pin
    captured "$way"
    measure "$way" 'mean p50 p99 both cycle' "$bench/flow" latency "$count" "${to[@]}"
    measure "$way" trip "$bench/flow" trip "$count" "${to[@]}"
    measure "$way" bulk "$bench/flow" bulk "$megabytes" "${to[@]}"
    measure "$way" '- in-p50 in-p99 - - accept-p50 accept-p99' "${there[@]}" "$bench/flow" latency "$count" "${in[@]}"
}

rates() { # turn way
    local turn=$1 way=$2 to in
    captured "$way"
    measure "$way" 'rate-1 none-1' "$bench/flow" rate "$seconds" 1 "${to[@]}"
    measure "$way" 'rate-8 none-8' "$bench/flow" rate "$seconds" 8 "${to[@]}"
}

excluded() { # turn way networks
    local turn=$1 way=$2
    [ "$way" != direct ] || return 0
    pin
    pod
    excluding "$3" >/run/netns/policy
    capture "$way" --config /run/netns/policy
    proxy 15001
    measure "$way" "- excluded-$3" "$bench/flow" latency "$count" 192.0.2.1 80
}

# Connections of a namespace without a policy, while another one has a policy and while none has. Its processes run the
# programs then: they are attached to the root of the control groups.
neighbours() { # round
    local pair turn way
    pin
    pod
    proxy 15001
    for ((pair = 1; pair <= pairs; pair++)); do
        turn=$1.$pair
        for way in alone beside; do
            if [ $way = beside ]; then "${there[@]}" "$program" apply --backend ebpf -p 15001 -u 1337 >/dev/null; fi
            measure $way '- neighbour-p50 - - neighbour-cycle' "$bench/flow" latency "$count" 127.0.0.1 15001
            measure $way neighbour-trip "$bench/flow" trip "$count" 127.0.0.1 15001
        done
        "${there[@]}" "$program" clean >/dev/null
    done
}

# What the first and the last of many namespaces cost: time of a whole process, and memory of the kernel.
applying() { # round
    local index turn figure
    pod
    for ((index = 1; index <= pods; index++)); do
        ip netns add "pod$index"
        ip -n "pod$index" link set lo up
    done
    for ((index = 1; index <= pods; index++)); do
        turn=$1.$index figure=-
        if ((index > 1 && index <= 11)); then figure=early; fi
        if ((index > 1 && index > pods - 10)); then figure=late; fi
        if ((index == 1)); then figure=first; fi
        measure apply "$figure" "$bench/flow" run 1 "$program" apply --backend ebpf --netns "/run/netns/pod$index" \
            -p 15001 -u 1337
        turn=$1
        ((index > 1)) || note kept first "$(kept)"
    done
    note kept last "$(kept)"
}

# Bytes that the kernel has for the programs and maps, as it tells whoever has them open: of all programs those that use
# our map of namespaces, and of all maps those that they use.
kept() {
    local ours
    ours=$(bpftool map show pinned /sys/fs/bpf/mesh-init/v1/maps/NAMESPACES | sed -n '1s/:.*//p')
    { bpftool prog show && bpftool map show; } | awk -v ours="${ours:?}" '
        /^[0-9]+:/ { id = $1; sub(":", "", id) }
        { of = -1; for (i = 1; i < NF; i++) { if ($i == "memlock") bytes = $(i + 1); if ($i == "map_ids") of = $(i + 1) } }
        of != -1 && ("," of ",") ~ ("," ours ",") {
            sum += bytes
            n = split(of, used, ",")
            for (i = 1; i <= n; i++) is_ours[used[i]]
        }
        of == -1 && /memlock/ && id in is_ours { sum += bytes; maps++ }
        END { if (!maps) exit 1; print sum + 0 }'
}

report() {
    awk -v rounds="$rounds" -v seconds="$seconds" -v pods="$pods" -v sizes="$sizes" '
        { value[$1, $2, $3] = $4; if (!seen[$3]++) id[++ids] = $3 }
        # The median of what a figure of a way is in the turns, or of its ratio to that of another way.
        function middle(figure, way, base,   i, n, all) {
            for (i = 1; i <= ids; i++)
                if ((figure, way, id[i]) in value)
                    insert(all, ++n, value[figure, way, id[i]] / (base ? value[figure, base, id[i]] : 1))
            return half(all, n, figure " of " way)
        }
        # The median of what a way adds to a figure.
        function added(figure, way,   i, n, all) {
            for (i = 1; i <= ids; i++)
                if ((figure, way, id[i]) in value) insert(all, ++n, value[figure, way, id[i]] - value[figure, "direct", id[i]])
            return half(all, n, figure " of " way)
        }
        function insert(all, n, one) {
            for (; n > 1 && all[n - 1] > one; n--) all[n] = all[n - 1]
            all[n] = one
        }
        function half(all, n, what) {
            if (!n) { print "bench: there is no " what >"/dev/stderr"; exit 1 }
            return n % 2 ? all[(n + 1) / 2] : (all[n / 2] + all[n / 2 + 1]) / 2
        }
        function row(title, figure, unit, from,   w) {
            printf "%-28s", title
            for (w = from; w <= count; w++)
                printf(" %9.*f (%.2f)", unit == 1 ? 0 : 1, middle(figure, way[w]) / unit, middle(figure, way[w], "legacy"))
            print ""
        }
        function none(title, figure,   w) {
            printf "%-28s", title
            for (w = 1; w <= count; w++) printf " %16s", middle(figure, way[w]) < 0 ? "never" : middle(figure, way[w])
            print ""
        }
        function head(title, from,   w) {
            printf "%-28s", title
            for (w = from; w <= count; w++) printf " %16s", way[w]
            print ""
        }
        function aim(text, yes) { printf "  %-92s %s\n", text, yes ? "met" : "MISSED" }
        function add(what, figure,   ours, iptables) {
            ours = added(figure, "ebpf") / 1000
            iptables = added(figure, "legacy") / 1000
            aim(sprintf("added to %s at most half of what iptables adds: %.1f of %.1f us", what, ours, iptables),
                ours <= iptables / 2)
        }
        END {
            count = split("direct legacy nft nftables ebpf", way, " ")
            head("medians of " rounds " rounds", 1)
            row("connect(2) mean, us", "mean", 1000, 1)
            row("connect(2) p50, us", "p50", 1000, 1)
            row("connect(2) p99, us", "p99", 1000, 1)
            row("with socket(2), p50, us", "both", 1000, 1)
            row("whole cycle p50, us", "cycle", 1000, 1)
            row("round trip of 128 B, us", "trip", 1000, 1)
            row("bulk, MB/s", "bulk", 1, 1)
            row("inbound connect p50, us", "in-p50", 1000, 1)
            row("inbound connect p99, us", "in-p99", 1000, 1)
            row("inbound SYN to accept p50", "accept-p50", 1000, 1)
            row("inbound SYN to accept p99", "accept-p99", 1000, 1)
            row("connections/s, 1 thread", "rate-1", 1, 1)
            none("  no port was free after", "none-1")
            row("connections/s, 8 threads", "rate-8", 1, 1)
            none("  no port was free after", "none-8")
            printf "connections/s are those of %d s, the ports of those that are closed waiting\n\n", seconds
            head("connect(2) p50, us, with", 2)
            many = split(sizes, size, " ")
            for (i = 1; i <= many; i++) row("  " size[i] " networks excluded", "excluded-" size[i], 1000, 2)
            print ""
            printf "a namespace without a policy, beside one that has: cycle %.3f, connect(2) %.3f, round trip %.3f of alone\n",
                middle("neighbour-cycle", "beside", "alone"), middle("neighbour-p50", "beside", "alone"),
                middle("neighbour-trip", "beside", "alone")
            first = middle("first", "apply") / 1e6
            early = (pods > 11 ? middle("early", "apply") : middle("late", "apply")) / 1e6
            late = middle("late", "apply") / 1e6
            printf "apply, whole process: the first namespace %.2f ms, the next %.2f ms, the last of %d %.2f ms\n", first,
                early, pods, late
            memory = (middle("kept", "last") - middle("kept", "first")) / (pods - 1) / 1024
            printf "kernel memory of programs and maps: %.0f KiB, and %.1f KiB for each further namespace\n",
                middle("kept", "first") / 1024, memory
            print "\naims"
            add("connect(2) at p50", "p50")
            add("socket(2) and connect(2) at p50", "both")
            bulk = middle("bulk", "ebpf", "legacy")
            aim(sprintf("bulk at least 1.4 times that of iptables: %.2f", bulk), bulk >= 1.4)
            trip = middle("trip", "ebpf", "legacy")
            aim(sprintf("round trip at most 0.9 of that of iptables: %.2f", trip), trip <= 0.9)
            cycle = middle("neighbour-cycle", "beside", "alone")
            aim(sprintf("a namespace without a policy below 1 %%: %.1f %%", 100 * (cycle - 1)), cycle < 1.01)
            aim(sprintf("apply of a further namespace at most 5 ms: %.2f to %.2f", early, late), early <= 5 && late <= 5)
            aim(sprintf("kernel memory of a further namespace below 100 KiB: %.1f", memory), memory < 100)
        }' "$samples"
}

if [ "${1-}" = --inside ]; then
    shift
    "$@"
else
    main "$@"
fi
