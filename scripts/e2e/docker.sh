# Classic beside Docker's rules. Sourced by scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # they share variables

readonly DNS_UDP=35949 DNS_TCP=38786

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
    local variant=$1 rules=$1 order family before c s lo passthrough c_ s_ lo_ out_c out_s name=$SERVICE:9080
    local resolved="A $SERVER4 from 127.0.0.11:53"
    context="$variant docker"
    [[ $variant != ebpf ]] || rules=nft
    add_pair client server
    start_app server 9080
    start_envoy client "$CLIENT4" "$CLIENT6" "$SERVER4" "$SERVER6" 9080
    daemon client 0 dns "$PYTHON" -B "$work/standin.py" dns "$DNS_UDP" "$DNS_TCP" "$SERVICE" "$SERVER4" "$SERVER6"
    poll 'the app on the server' answers client "http://$SERVER4:9080"
    poll "Docker's resolver" as client 1000 "$PYTHON" -B "$work/standin.py" ask udp "127.0.0.11:$DNS_UDP" "$SERVICE"
    envoys_ready client

    load_docker "$rules" -A
    before=$(saved client "$rules" iptables)
    check 'without capture, udp/53 and tcp/53 are answered' \
        "$(ask 1000 udp 127.0.0.11:53), $(ask 1000 tcp 127.0.0.11:53)" "$resolved, $resolved"

    for order in first inserted appended; do
        context="$variant docker $order"
        printf '*nat\nCOMMIT\n' | enter client "iptables-$rules-restore"
        [[ $order != first ]] || load_docker "$rules" -A
        by "$variant"
        mesh client "${by[@]}" -p 15001 -u 1337
        [[ $order != inserted ]] || load_docker "$rules" -I
        [[ $order != appended ]] || load_docker "$rules" -A
        check 'this alone captures' "$(holders client)" "$(alone "$variant")"

        check 'udp/53 to 127.0.0.11 is answered' "$(ask 1000 udp 127.0.0.11:53)" "$resolved"
        check 'udp/53 of uid 1337 is answered' "$(ask 1337 udp 127.0.0.11:53)" "$resolved"
        # TCP goes to whose jump comes first. Docker inserts its own, so that is Docker, whenever it came. Only where
        # its lines were appended is the query captured, the proxy's own too: over lo, classic spares 127.0.0.1 alone.
        # The sockets come before all rules.
        if [[ $order == appended || $variant == ebpf ]]; then
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
                "envoy client $out_c -> $s_:9080; app server:9080 peer $c host $name"
        done

        context="$variant docker $order"
        mesh client clean
        check "clean leaves Docker's lines as they were" "$(saved client "$rules" iptables)" "$before"
        check 'clean leaves nothing of the mesh' "$(holders client)" ''
        check "Docker's lines still answer" "$(ask 1000 udp 127.0.0.11:53), $(ask 1000 tcp 127.0.0.11:53)" \
            "$resolved, $resolved"
    done
    end_pair
}
