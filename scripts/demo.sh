#!/usr/bin/env bash
# Shows what mesh-init does, with real connections between hosts made of network namespaces.
#
# Every row that is printed is the way one connection took, put together from the log lines of the relays that
# stand in for the sidecars, and compared with the way it should have taken. The first difference ends the
# script with status 1. Nothing outside the namespaces is changed, and they are gone at the end.
#
# usage: scripts/demo.sh [--log]      --log also prints the relays' lines
#
# MESH_INIT_BIN and MESH_INIT_RELAY name binaries to use instead of building them.
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

proxy_port=15001
proxy_uid=1337 # the sidecar
app_uid=1000   # an application
mesh_uid=1338  # on a VM: the one application that belongs to the mesh

# The hosts, by name: the other end of the cable, and the last part of the addresses.
hosts=(client server vm1 vm2)
declare -A net=([client]=77 [server]=77 [vm1]=78 [vm2]=78)
declare -A number=([client]=1 [server]=2 [vm1]=1 [vm2]=2)

show_log=no
work=""
ipv6=yes
pids=()
namespaces=()
savers=()
near="" far=""
declare -A before=() lines_read=()

main() {
    case "${1-}" in
    "") ;;
    --log) show_log=yes ;;
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    *) die 64 "unknown argument '$1', see --help" ;;
    esac

    need_root
    need_packages iptables=iptables ip=iproute2 setpriv=util-linux
    build
    # The build ran as the user who asked for it; only the rest is root's work.
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$mesh_init" "MESH_INIT_RELAY=$relay" \
        "NO_COLOR=${NO_COLOR-}" "TMPDIR=${TMPDIR-}" bash "${BASH_SOURCE[0]}" "$@"

    colours
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    SECONDS=0
    make_hosts
    echo "Each row is a connection that was made, drawn from what the relays have logged:"
    echo "[relay] where the sidecar at port $proxy_port carried it, dashes where nothing did."
    echo "The sidecars are uid $proxy_uid; uid $app_uid and uid $mesh_uid are applications."
    whole_hosts
    one_user_on_vms
    take_back
    echo
    echo "${good}All as it should be${plain}, in $SECONDS s; the namespaces are removed."
}

# === Preparation ===

build() {
    mesh_init=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    relay=${MESH_INIT_RELAY:-$(target_dir)/suite/examples/relay}
    local wanted=()
    [[ -n ${MESH_INIT_BIN-} ]] || wanted+=(--bin mesh-init)
    [[ -n ${MESH_INIT_RELAY-} ]] || wanted+=(--example relay)
    if ((${#wanted[@]})); then
        need_packages cc=gcc /usr/include/stdlib.h=libc6-dev
        need_rust
        (cd "${project:?}" && cargo build --locked --profile suite "${wanted[@]}") >&2
    fi
    [[ -x $mesh_init ]] || die 69 "missing: $mesh_init"
    [[ -x $relay ]] || die 69 "missing: $relay"
    mesh_init=$(realpath "$mesh_init")
    relay=$(realpath "$relay")
}

colours() {
    good="" bad="" strong="" faint="" plain=""
    [[ -t 1 && -z ${NO_COLOR-} ]] || return 0
    good=$'\e[32m' bad=$'\e[31m' strong=$'\e[1m' faint=$'\e[2m' plain=$'\e[0m'
}

clean_up() {
    local status=$? pid name
    set +e
    trap '' INT TERM HUP
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    for name in "${namespaces[@]}"; do [[ ! -e /run/netns/$name ]] || ip netns del "$name"; done
    [[ -z $work ]] || rm -rf -- "$work"
    exit "$status"
}

# Two pairs of hosts, each pair joined by one cable. The cables are made inside the namespaces.
make_hosts() {
    local host name refused
    # Ordinary users must reach the relay, which a home directory does not let them.
    work=$(mktemp -d "${TMPDIR:-/tmp}/mi-demo.XXXXXX")
    chmod 755 "$work"
    install -m 755 "$relay" "$work/relay"
    setpriv --reuid "$app_uid" --regid "$app_uid" --clear-groups "$work/relay" --help >/dev/null ||
        die 69 "ordinary users cannot run programs in $work; set TMPDIR to a directory where they can"

    for host in "${hosts[@]}"; do
        name=$(namespace "$host")
        namespaces+=("$name")
        refused=$(ip netns add "$name" 2>&1) || die 77 "cannot make a network namespace: $refused"
        ip -n "$name" link set lo up
    done
    cable client server
    cable vm1 vm2
    if [[ $(on client cat /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || echo 1) != 0 ]]; then
        ipv6=no
        echo "IPv6 is off on this machine: its connections are left out."
    fi
    for host in "${hosts[@]}"; do
        name=$(namespace "$host")
        ip -n "$name" address add "$(address4 "$host")/24" dev eth0
        [[ $ipv6 == no ]] || ip -n "$name" address add "$(address6 "$host")/64" dev eth0 nodad
        ip -n "$name" link set eth0 up
    done
    find_savers "${hosts[0]}"
    for host in "${hosts[@]}"; do before[$host]=$(rules_of "$host"); done
}

namespace() { printf 'mi-demo-%s-%s\n' $$ "$1"; }
address4() { printf '10.%s.0.%s\n' "${net[$1]}" "${number[$1]}"; }
address6() { printf 'fd%s::%s\n' "${net[$1]}" "${number[$1]}"; }

cable() { ip -n "$(namespace "$1")" link add eth0 type veth peer name eth0 netns "$(namespace "$2")"; }

# on HOST COMMAND...
on() { ip netns exec "$(namespace "$1")" "${@:2}"; }

# user UID: what a command is begun with to run as that user. It replaces itself, so its pid is the command's.
user() { printf 'setpriv --reuid %s --regid %s --clear-groups\n' "$1" "$1"; }

# start UID HOST LOG ARGUMENT...: the relay program, in the background, until the end of the script.
start() {
    local log=$work/$3.log tries as
    read -ra as < <(user "$1")
    : >"$log"
    ip netns exec "$(namespace "$2")" "${as[@]}" "$work/relay" "${@:4}" >"$log" 2>&1 &
    pids+=($!)
    for ((tries = 0; tries < 100; tries++)); do
        ! grep -q 'listening ' "$log" || return 0
        kill -0 "$!" 2>/dev/null || break
        sleep 0.05
    done
    die 1 "the relay of $2 does not start: $(<"$log")"
}

start_app() { start "$app_uid" "$1" "app-$1-$2" --app "$2" --name "$1"; }

start_sidecar() {
    start "$proxy_uid" "$1" "$1" --listen "$proxy_port" --name "$1" "${@:2}"
    lines_read[$1]=1
}

# administer HOST ARGUMENT...: mesh-init, as the host's administrator runs it.
administer() {
    local answer status=0
    answer=$(on "$1" "$mesh_init" "${@:2}" 2>&1) || status=$?
    ((status == 0)) || die "$status" "mesh-init ${*:2} on $1 ended with $status: $answer"
    log "$answer"
}

log() { [[ $show_log == no || -z $1 ]] || sed "s/^/      $faint/; s/\$/$plain/" <<<"$1"; }

# === What is shown ===

whole_hosts() {
    local server
    server=$(address4 server)
    chapter "A. All of a host" "mesh-init -p $proxy_port -u $proxy_uid" "on both"
    draw_head client server
    start_app client 8001
    start_app server 8001
    start_sidecar client
    start_sidecar server
    walk "$app_uid" "$server:8001" "" server "not yet captured"

    administer client -p "$proxy_port" -u "$proxy_uid"
    administer server -p "$proxy_port" -u "$proxy_uid"
    walk "$app_uid" "$server:8001" "client/outbound server/inbound" server
    [[ $ipv6 == no ]] || walk "$app_uid" "[$(address6 server)]:8001" "client/outbound server/inbound" server
    walk "$proxy_uid" "$server:8001" "server/inbound" server "the proxy's uid"
    walk "$app_uid" "$(address4 client):8001" "client/inbound" client "own address"
    walk "$app_uid" "127.0.0.1:8001" "" client "loopback"
    [[ $ipv6 == no ]] || walk "$app_uid" "[::1]:8001" "" client "loopback"
}

one_user_on_vms() {
    local vm2 routes
    vm2=$(address4 vm2)
    # The application dials its own host; the sidecar knows where the service really is.
    routes=(--route "127.0.0.1:8001=$vm2:8001")
    [[ $ipv6 == no ]] || routes+=(--route "[::1]:8001=[$(address6 vm2)]:8001")
    chapter "B. One user and one port of a VM" "mesh-init --uid-owner $mesh_uid --inbound 8001" "on both"
    draw_head vm1 vm2
    start_app vm2 8001
    start_app vm2 9001
    start_sidecar vm1 "${routes[@]}"
    start_sidecar vm2

    administer vm1 --uid-owner "$mesh_uid" --inbound 8001
    administer vm2 --uid-owner "$mesh_uid" --inbound 8001
    walk "$mesh_uid" "127.0.0.1:8001" "vm1/outbound vm2/inbound" vm2 "routed by vm1"
    [[ $ipv6 == no ]] || walk "$mesh_uid" "[::1]:8001" "vm1/outbound vm2/inbound" vm2 "routed by vm1"
    walk "$mesh_uid" "$vm2:9001" "vm1/outbound" vm2 "another port"
    walk "$app_uid" "$vm2:8001" "vm2/inbound" vm2 "another user"
    walk "$app_uid" "$vm2:9001" "" vm2 "both"
}

take_back() {
    local host now
    chapter "C. Taken back" "mesh-init clean" "on all four"
    for host in "${hosts[@]}"; do
        administer "$host" clean
        now=$(rules_of "$host")
        [[ $now == "${before[$host]}" ]] ||
            wrong "clean left something on $host:" "$(diff <(echo "${before[$host]}") <(echo "$now"))"
    done
    echo "   Nothing is left on ${#hosts[@]} hosts, by each of"
    printf '      %s\n' "${savers[@]}"
    echo
    draw_head client server
    walk "$app_uid" "$(address4 server):8001" "" server
    echo
    draw_head vm1 vm2
    walk "$mesh_uid" "$(address4 vm2):8001" "" vm2
}

# find_savers: the programs that print what the packet filters hold, in each variant that works here. Unlike
# `iptables -S`, none of them makes a table by looking at it.
find_savers() {
    local tool
    for tool in {iptables,ip6tables}-{nft,legacy}-save; do
        ! on "$1" "$tool" >/dev/null 2>&1 || savers+=("$tool")
    done
    ((${#savers[@]})) || die 69 "missing: a working iptables-nft-save or iptables-legacy-save"
}

# rules_of HOST: its packet filters and its policy routing, without counters and without tables that hold
# nothing: a table that was used once never goes away.
rules_of() {
    local tool
    for tool in "${savers[@]}"; do
        echo "$tool"
        on "$1" "$tool" 2>/dev/null | awk '
            /^#/ { next }
            /^\*/ { text = $0; holds = 0; next }
            /^COMMIT/ { if (holds) print text; next }
            { if (!/^:[^ ]* ACCEPT /) holds = 1; sub(/ \[[0-9:]*\]$/, ""); text = text "\n" $0 }'
    done
    # A table of mesh-init's own is of this family; those that iptables-nft keeps are not.
    ! command -v nft >/dev/null || on "$1" nft list tables inet
    on "$1" ip rule
    [[ $ipv6 == no ]] || on "$1" ip -6 rule
}

# === One connection ===

# walk UID DIALS HOPS APP [NOTE]: lets UID on the near host connect, follows the connection from relay to
# relay by its port numbers, and draws it. HOPS are the relays that must have carried it ("client/outbound
# server/inbound"), APP the host whose application must have answered.
walk() {
    local uid=$1 dials=$2 expected=$3 app=$4 note=${5-}
    local as answer served seen at going host fresh form hops=()
    read -ra as < <(user "$uid")
    answer=$(on "$near" "${as[@]}" "$work/relay" --get "$dials" 2>&1) ||
        wrong "uid $uid on $near, dialling $dials, got no answer: $answer"
    [[ $answer =~ ^([^ ]+)' -> '([^ ]+)': hello from '([^ ]+)', you are '([^ ]+)$ ]] ||
        wrong "uid $uid on $near, dialling $dials, got a strange answer: $answer"
    at=${BASH_REMATCH[1]} going=$dials served=${BASH_REMATCH[3]} seen=${BASH_REMATCH[4]}

    for host in "$near" "$far"; do
        fresh=$(tail -n "+$((lines_read[$host] + 1))" "$work/$host.log")
        [[ -n $fresh ]] || continue
        # One line, of a connection that came from where the step before left off and was going the same way.
        form="^$host ([a-z]+) peer=([^ ]+) original=([^ ]+) to=([^ ]+) from=([^ ]+)\$"
        if ! [[ $fresh =~ $form && ${BASH_REMATCH[2]} == "$at" && ${BASH_REMATCH[3]} == "$going" ]]; then
            wrong "uid $uid dialled $dials. Of its step from $at to $going, the relay of $host says:" \
                "$(head -n 4 <<<"$fresh")"
        fi
        hops+=("$host/${BASH_REMATCH[1]}")
        going=${BASH_REMATCH[4]} at=${BASH_REMATCH[5]}
        lines_read[$host]=$((lines_read[$host] + 1))
    done
    [[ ${hops[*]} == "$expected" ]] ||
        wrong "uid $uid dialled $dials; relays expected: ${expected:-none}; seen: ${hops[*]:-none}"
    [[ $served == "$app" ]] || wrong "uid $uid dialled $dials; $served answered instead of $app"
    [[ $seen == "$at" ]] || wrong "uid $uid dialled $dials; the application saw $seen, not $at"
    draw "$uid" "$dials" "$served" "${hops[*]}" "$note"
    for host in "${hops[@]}"; do log "$(sed -n "${lines_read[${host%/*}]}p" "$work/${host%/*}.log")"; done
}

wrong() {
    local host
    {
        printf '\n%sNot as it should be:%s %s\n' "$bad" "$plain" "$1"
        (($# < 2)) || printf '%s\n' "${@:2}" | sed 's/^/    /'
        for host in "$near" "$far"; do
            printf 'The last lines of the relay of %s:\n' "$host"
            tail -n 4 "$work/$host.log" | sed 's/^/    /'
        done
    } >&2
    exit 1
}

# === The drawing ===

chapter() { printf '\n%s%s%s\n   %s   %s\n\n' "$strong" "$1" "$plain" "$2" "$faint$3$plain"; }

# draw_head NEAR FAR: the two hosts whose connections follow.
draw_head() {
    near=$1 far=$2
    printf '   %s%-5s %-17s %-17s| %s%s\n' "$faint" uid dials \
        "$near $(address4 "$near")" "$far $(address4 "$far")" "$plain"
}

# draw UID DIALS APP HOPS NOTE
draw() {
    local row note=${5:+  $faint$5$plain}
    row=$(through "$near" "$4" "$3")
    if [[ $3 == "$near" ]]; then
        row+=" |${note:+                 }"
    else
        row+="-|-$(through "$far" "$4" "$3")"
    fi
    row=${row//'[relay]'/"${good}[relay]$plain"}
    printf '   %-5s %-17s %s%s\n' "$1" "$2" "$row" "$note"
}

# through HOST HOPS APP: the part of the way inside HOST.
through() {
    local part=---------- end=------
    [[ " $2" != *" $1/"* ]] || part='->[relay]-'
    [[ $3 != "$1" ]] || end='-> app'
    printf '%s\n' "$part$end"
}

main "$@"
