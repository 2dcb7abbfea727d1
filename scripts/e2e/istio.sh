# The istio layout, by our own options and by those of istio-iptables: outbound goes to 15001 of the pod's Envoy,
# inbound to 15006. Sourced by scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # they share variables

readonly EXCLUDED=15090,15021,15020 TUNNEL=15008

# start_sidecar USER MODE [SED'S COMMAND]: the pod's Envoy, its settings changed by the command.
start_sidecar() {
    sed -E -e "s/^( *)#$2 /\1/; s/@OWN4@/$SERVER4/; s/@OWN6@/$SERVER6/" -e "${3:-}" \
        "$project/tests/e2e/istio.yaml" >"$work/envoy-pod.yaml"
    daemon pod "$1" envoy-pod "$work/envoy" --config-path "$work/envoy-pod.yaml" \
        --concurrency 1 --disable-hot-restart --log-level warning --file-flush-interval-msec 10
}

# add_pod USER MODE [SED'S COMMAND]: a pod with a sidecar, and a peer with none.
add_pod() {
    local ports
    IFS=, read -ra ports <<<"$EXCLUDED,$TUNNEL"
    trips=0 outbound=0 inbound=0
    add_pair peer pod
    start_app peer 9080
    start_app pod 9080 "${ports[@]}"
    start_sidecar "$@"
    poll 'the app on the peer' answers peer http://127.0.0.1:9080
    poll 'the app on the pod' answers peer "http://$SERVER4:9080"
    envoys_ready pod
}

# capture VARIANT WAY MODE [OPTIONS...]: the same settings in either way.
capture() {
    local settings=(-p 15001 -z 15006 -u 1337 -m "$3" -i '*' -b '*' -d "$EXCLUDED" "${@:4}")
    case $2 in
        own)
            by "$1"
            mesh pod "${by[@]}" "${settings[@]}"
            ;;
        upstream) mesh pod istio-iptables --force-iptables-binary "$1" --dual-stack "${settings[@]}" ;;
    esac
}

# The access log's lines of request $1, in a fixed order.
logged() { sed -n "s|^access /$1 ||p" "$work/envoy-pod.log" | sort; }

logged_lines() { logged "$1" | wc -l; }

# trip WHAT HOST USER URL RESPONSE LOG [CURL'S OPTIONS...]: one request, by what comes back and by Envoy's access log.
trip() {
    local lines end=$((SECONDS + 5))
    trips=$((trips + 1))
    lines=$(grep -c . <<<"$6") || true
    check "$1" "$(fetch "$2" "$3" "$family" "$4/$trips" "${@:7}")" "$5"
    # Envoy writes its lines when the response is through.
    while (($(logged_lines "$trips") < lines && SECONDS < end)); do sleep 0.02; done
    check "$1: the access log" "$(logged "$trips")" "$6"
    lines=$(grep -c '^15001 ' <<<"$6") || true
    outbound=$((outbound + lines))
    lines=$(grep -c '^15006 ' <<<"$6") || true
    inbound=$((inbound + lines))
}

# connections inbound|outbound: how many that listener has had.
connections() {
    as pod 0 curl -q -sS --noproxy '*' --max-time 4 \
        "http://127.0.0.1:15000/stats?filter=^http\.$1\.downstream_cx_total\$" | sed 's/.*: //'
}

# What the namespace has for the sidecar beside rules: ::6, and TPROXY's rules and routes.
has_routing() {
    local family
    if enter pod ip -o addr show dev lo | grep -F ' ::6/128 ' >/dev/null; then say '::6'; fi
    for family in -4 -6; do
        enter pod ip "$family" rule | sed -n "s/.*\tfrom all fwmark 0x539 lookup 133\b.*/rule $family/p"
        enter pod ip "$family" route show table 133 | sed -n "s/^local default dev lo .*/route $family/p"
    done 2>/dev/null
}

# All that capture may change of routing: the addresses of lo, the rules, the routes over lo.
routing() {
    local family
    enter pod ip -o addr show dev lo
    for family in -4 -6; do
        enter pod ip "$family" rule
        enter pod ip "$family" route show table all dev lo
    done
}

# Before capture and after clean. That all these calls go past Envoy also shows that those of captured() could fail.
uncaptured() {
    local port
    trip 'a peer -> app' peer 1000 "http://$s_:9080" "app pod:9080 peer $c host $s_:9080" ''
    trip 'app -> peer' pod 1000 "http://$c_:9080" "app peer:9080 peer $s host $c_:9080" ''
    trip "app -> its own pod's address" pod 1000 "http://$s_:9080" "app pod:9080 peer $s host $s_:9080" ''
    trip "the proxy -> its own pod's address" pod "$user" "http://$s_:9080" "app pod:9080 peer $s host $s_:9080" ''
    for port in 15021 "$TUNNEL"; do
        trip "a peer -> port $port" peer 1000 "http://$s_:$port" "app pod:$port peer $c host $s_:$port" ''
    done
}

captured() {
    local seen seen_self on on_self port service=self${family#ipv}.mesh
    case $mode in
        # The app sees the proxy. A connection from outside is redirected to an address of the interface that it came
        # by, one from here to loopback.
        REDIRECT) seen=$passthrough seen_self=$passthrough on=$s_:15006 on_self=$lo_:15006 ;;
        # The app sees the client, and the connection keeps its destination; by our own options the proxy's calls to
        # itself are redirected in both modes.
        TPROXY)
            seen=$c seen_self=$s on=$s_:9080 on_self=$s_:9080
            [[ $way == upstream ]] || on_self=$lo_:15006
            ;;
    esac
    # At the sockets, what arrives is not redirected at all.
    [[ $variant != ebpf ]] || on=$s_:9080
    trip 'a peer -> 15006 -> app' peer 1000 "http://$s_:9080" \
        "envoy 15006 $c -> $s_:9080; app pod:9080 peer $seen host $s_:9080" \
        "15006 $c -> $s_:9080 on $on"
    trip 'app -> 15001 -> peer' pod 1000 "http://$c_:9080" \
        "envoy 15001 $out_s -> $c_:9080; app peer:9080 peer $s host $c_:9080" \
        "15001 $out_s -> $c_:9080 on $lo_:15001"
    trip 'root -> 15001 -> peer' pod 0 "http://$c_:9080" \
        "envoy 15001 $out_s -> $c_:9080; app peer:9080 peer $s host $c_:9080" \
        "15001 $out_s -> $c_:9080 on $lo_:15001"
    trip 'the proxy -> peer' pod "$user" "http://$c_:9080" "app peer:9080 peer $s host $c_:9080" ''
    trip "app -> its own pod's address" pod 1000 "http://$s_:9080" "app pod:9080 peer $s host $s_:9080" ''
    trip 'app -> loopback' pod 1000 "http://$lo_:9080" "app pod:9080 peer $lo host $lo_:9080" ''
    trip "the proxy -> its own pod's address -> 15006 -> app" pod "$user" "http://$s_:9080" \
        "envoy 15006 $out_s -> $s_:9080; app pod:9080 peer $seen_self host $s_:9080" \
        "15006 $out_s -> $s_:9080 on $on_self"
    trip 'app -> 15001 -> a service that is this pod -> 15006 -> app' pod 1000 "http://$c_:9080" \
        "envoy 15006 $out_s -> $s_:9080; envoy 15001 $out_s -> $c_:9080; app pod:9080 peer $seen_self host $service" \
        "15001 $out_s -> $c_:9080 on $lo_:15001
15006 $out_s -> $s_:9080 on $on_self" --header "Host: $service"
    for port in ${EXCLUDED//,/ }; do
        trip "a peer -> excluded port $port" peer 1000 "http://$s_:$port" "app pod:$port peer $c host $s_:$port" ''
    done
    if [[ $way == upstream && $mode == TPROXY ]]; then
        # Upstream exempts it in the nat table alone.
        trip "a peer -> tunnel port $TUNNEL -> 15006" peer 1000 "http://$s_:$TUNNEL" \
            "envoy 15006 $c -> $s_:$TUNNEL; app pod:$TUNNEL peer $c host $s_:$TUNNEL" \
            "15006 $c -> $s_:$TUNNEL on $s_:$TUNNEL"
    else
        trip "a peer -> tunnel port $TUNNEL" peer 1000 "http://$s_:$TUNNEL" \
            "app pod:$TUNNEL peer $c host $s_:$TUNNEL" ''
    fi
    # One more of them each time would be a loop.
    check 'connections to 15001, 15006: one for each call' "$(connections outbound), $(connections inbound)" \
        "$outbound, $inbound"
}

# istio VARIANT WAY MODE USER [OPTIONS...]: USER is the proxy's.
istio() {
    local variant=$1 way=$2 mode=$3 user=$4 family c s lo passthrough c_ s_ lo_ out_c out_s trips outbound inbound
    local base="$variant istio by $2 options, $3, proxy $4" before idle beside=('::6')
    context=$base
    add_pod "$user" "$mode"
    before=$(routing)
    for family in ipv4 ipv6; do
        context="$base, $family, before"
        addresses "$family"
        uncaptured
    done

    context=$base
    capture "$variant" "$way" "$mode" "${@:5}"
    check 'this alone captures' "$(holders pod)" "$(alone "$variant")"
    [[ $mode == REDIRECT ]] || beside+=('rule -4' 'route -4' 'rule -6' 'route -6')
    check 'what is there beside rules' "$(has_routing)" "$(printf '%s\n' "${beside[@]}")"
    for family in ipv4 ipv6; do
        context="$base, $family"
        addresses "$family"
        captured
    done

    context=$base
    mesh pod clean
    check 'clean leaves no rule' "$(rules_left pod)" ''
    check 'clean leaves nothing in the BPF file system' "$(pinned)" ''
    idle="$(connections outbound), $(connections inbound)"
    check 'clean leaves addresses, rules of routing and routes as they were' "$(routing)" "$before"
    for family in ipv4 ipv6; do
        context="$base, $family, after clean"
        addresses "$family"
        uncaptured
    done
    context=$base
    check 'connections to 15001, 15006: none since' "$(connections outbound), $(connections inbound)" "$idle"
    end_pair
}

# Sidecars that are not made for the rules, to show that calls can fail and loops be counted.
unfit() {
    local variant=$1 family c s lo passthrough c_ s_ lo_ out_c out_s trips outbound inbound response
    for family in ipv4 ipv6; do
        addresses "$family"

        # Without 127.0.0.6 or ::6 a call to the app is, to the rules, a call of the proxy to its own pod.
        context="$variant $family istio, REDIRECT, a proxy that does not bind its calls to the app"
        add_pod 1337 REDIRECT '/upstream_bind_config|source_address/d'
        capture "$variant" upstream REDIRECT
        response=$(fetch peer 1000 "$family" "http://$s_:9080")
        check 'a peer does not get to the app' "$(grep -o 'app pod' <<<"$response" || true)" ''
        check 'connections to 15006: more than one for a call' "$(($(connections inbound) > 1))" 1
        end_pair

        # With the client's address it is that too if the proxy runs as uid 1337.
        context="$variant $family istio by upstream options, TPROXY, a proxy that runs as uid 1337"
        add_pod 1337+net_admin TPROXY
        capture "$variant" upstream TPROXY
        response=$(fetch peer 1000 "$family" "http://$s_:9080" --max-time 1)
        check 'a peer does not get to the app' "$(grep -o 'app pod' <<<"$response" || true)" ''
        end_pair
    done
}

# Which Envoy fits. For REDIRECT any that runs as uid 1337. For TPROXY it needs CAP_NET_ADMIN and runs
#   - by upstream's options as uid 0, gid 1337, which is how upstream runs it: "over lo, not uid 1337: return" lets its
#     calls to the app go, and only the group's rules, which come later, know it elsewhere. As uid 1337 they would be
#     redirected to 15006 before.
#   - by our own options as either; as uid 0 -g must name the group.
istio_all() {
    istio "$1" own REDIRECT 1337
    istio "$1" upstream REDIRECT 1337
    istio "$1" own TPROXY 1337+net_admin
    istio "$1" own TPROXY 0:1337 -g 1337
    istio "$1" upstream TPROXY 0:1337
    unfit "$1"
}
