# Hosts, each the network and mount namespaces of a process, and what runs on them. Sourced by scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # it and the scenarios share variables with this

declare -A host=() # name -> the process that holds its namespaces
started=()

enter() { nsenter --target "${host[$1]}" --net --mount -- "${@:2}"; }

# become USER: what makes a command that user's. A user is a uid with the gid of the same number, or UID:GID, either
# with +CAPABILITY.
become() {
    local user=${1%+*}
    become=(env -i "PATH=$PATH" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups)
    [[ $1 != *+* ]] || become+=(--inh-caps "+${1#*+}" --ambient-caps "+${1#*+}")
}

# as HOST USER COMMAND...
as() {
    local become
    become "$2"
    enter "$1" "${become[@]}" "${@:3}"
}

# daemon HOST USER LOG COMMAND...: everything here execs, so that $! is the daemon.
daemon() {
    local become
    become "$2"
    nsenter --target "${host[$1]}" --net --mount -- "${become[@]}" "${@:4}" </dev/null >"$work/$3.log" 2>&1 &
    started+=($!)
}

# shellcheck disable=SC2317 # called through poll
runs_sleep() { [[ $(<"/proc/$1/comm") == sleep ]]; }

# add_host NAME: network and mount namespaces, with its own /etc/hosts and /etc/resolv.conf. The resolver is Docker's
# address, so that no look-up leaves the host.
add_host() {
    unshare --net --mount --propagation private sleep infinity </dev/null &
    host[$1]=$!
    started+=($!)
    poll "the namespaces of $1" runs_sleep "$!"
    : >"$work/hosts.$1"
    say 'nameserver 127.0.0.11' >"$work/resolv.$1"
    enter "$1" mount --bind "$work/hosts.$1" /etc/hosts
    enter "$1" mount --bind "$work/resolv.$1" /etc/resolv.conf
    enter "$1" ip link set lo up
}

# add_pair CLIENT SERVER
add_pair() {
    add_host "$1"
    add_host "$2"
    enter "$1" ip link add eth0 type veth peer name eth0 netns "${host[$2]}"
    enter "$1" ip addr add "$CLIENT4/24" dev eth0
    enter "$1" ip addr add "$CLIENT6/64" dev eth0 nodad
    enter "$2" ip addr add "$SERVER4/24" dev eth0
    enter "$2" ip addr add "$SERVER6/64" dev eth0 nodad
    enter "$1" ip link set eth0 up
    enter "$2" ip link set eth0 up
}

end_pair() {
    kill -KILL "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
    started=()
    host=()
}

# start_app HOST PORT...
start_app() { daemon "$1" 1000 "app-$1" "$PYTHON" -B "$work/standin.py" app "$@"; }

# shellcheck disable=SC2317 # called through poll
answers() { as "$1" 0 curl -q -sS --fail --noproxy '*' --max-time 1 "$2"; }

envoys_ready() {
    local name
    for name in "$@"; do
        poll "Envoy on $name" answers "$name" http://127.0.0.1:15000/ready
    done
}

# fetch HOST USER FAMILY URL [CURL'S OPTIONS...]: one line of the Envoys or other proxies that carried the response, the nearest last,
# and the app's words.
fetch() {
    as "$1" "$2" curl -q -sS --noproxy '*' --max-time 4 "-${3#ipv}" --include "${@:5}" "$4" 2>&1 | tr -d '\r' | awk '
        body                      { out = out $0; next }
        /^HTTP\// && $2 != 200    { out = out "status " $2 "; " }
        /^x-mesh-hop: /           { sub(/^x-mesh-hop: /, ""); out = out "envoy " $0 "; " }
        /^x-mesh-proxy: /         { sub(/^x-mesh-proxy: /, ""); out = out $0 "; " }
        /^curl: /                 { out = out $0 }
        /^$/                      { body = 1 }
        END                       { print out }' || true
}

# mesh HOST FLAGS...: runs mesh-init; its output is shown only when it fails.
mesh() {
    local output result='exit 0'
    output=$(enter "$1" timeout 20 "$bin" "${@:2}" 2>&1) || result="exit $?: $output"
    check "mesh-init ${*:2} on the $1" "$result" 'exit 0'
}

# by BACKEND: the options that choose what carries the capture: `legacy` or `nft` of iptables, or `ebpf`.
by() {
    by=(--iptables-variant "$1")
    [[ $1 != ebpf ]] || by=(--backend ebpf --cgroup "$cgroup")
}

# What a host that is captured by BACKEND is to be captured by, as `holders` has it.
alone() {
    case $1 in
        ebpf) say 'ebpf' ;;
        *) say "iptables-$1 ip6tables-$1" ;;
    esac
}

# Rules of one variant and family, without counters and comments; plain -save creates no table.
saved() { enter "$1" "$3-$2-save" 2>/dev/null | sed -e '/^#/d' -e 's/ \[[0-9:]*\]$//'; }

# Whether something is captured at a host's sockets.
at_sockets() { enter "$1" "$bin" status --output json 2>/dev/null | grep -F '"variant": "ebpf"' >/dev/null; }

# What is kept in the BPF file system, of all hosts.
pinned() { find "$PINS" -mindepth 1 -printf '%P\n' 2>/dev/null; }

# Which of the four rule sets of a host hold rules of the mesh, and whether its sockets do.
holders() {
    local variant program out=''
    for variant in legacy nft; do
        for program in iptables ip6tables; do
            if saved "$1" "$variant" "$program" | grep ISTIO >/dev/null; then
                out+="$program-$variant "
            fi
        done
    done
    if at_sockets "$1"; then out+='ebpf'; fi
    say "${out% }"
}

# Lines of all four rule sets, without the chains that every table has.
rules_left() {
    local variant program
    for variant in legacy nft; do
        for program in iptables ip6tables; do
            saved "$1" "$variant" "$program" | grep -E '^(-A|:[A-Z_]+ -)' || true
        done
    done
}

# For the family in $1: the addresses, and as Envoy prints them in a pair with a port.
addresses() {
    case $1 in
        ipv4) c=$CLIENT4 s=$SERVER4 lo=127.0.0.1 passthrough=127.0.0.6 c_=$c s_=$s lo_=$lo ;;
        ipv6) c=$CLIENT6 s=$SERVER6 lo=::1 passthrough=::6 c_="[$c]" s_="[$s]" lo_="[$lo]" ;;
    esac
    # What captured connections of the two are seen to come from: at the sockets, of IPv6, ::1.
    out_c=$c out_s=$s
    [[ ${variant-} != ebpf || $1 != ipv6 ]] || out_c=$lo out_s=$lo
}
