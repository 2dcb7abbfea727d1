# The layouts whose proxy has one port for both directions: classic on a pod, scoped on a VM. Sourced by
# scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # they share variables

# start_envoy HOST OWN4 OWN6 PEER4 PEER6 PORT
start_envoy() {
    sed -e "s/@NAME@/$1/; s/@OWN4@/$2/; s/@OWN6@/$3/; s/@PEER4@/$4/; s/@PEER6@/$5/; s/@PORT@/$6/" \
        -e "s/@SERVICE@/$SERVICE:$6/" "$project/tests/e2e/envoy.yaml" >"$work/envoy-$1.yaml"
    daemon "$1" 1337 "envoy-$1" "$work/envoy" --config-path "$work/envoy-$1.yaml" \
        --concurrency 1 --disable-hot-restart --log-level warning
}

start_envoys() {
    start_envoy client "$CLIENT4" "$CLIENT6" "$SERVER4" "$SERVER6" "$1"
    start_envoy server "$SERVER4" "$SERVER6" "$CLIENT4" "$CLIENT6" "$1"
}

classic() {
    local variant=$1 family c s lo passthrough c_ s_ lo_ out_c out_s url name=$SERVICE:9080
    context="$variant classic"
    add_pair client server
    say "$SERVER4 $SERVICE
$SERVER6 $SERVICE" >"$work/hosts.client"
    start_app client 9080
    start_app server 9080
    start_envoys 9080
    poll 'the app on the client' answers client http://127.0.0.1:9080
    poll 'the app on the server' answers client "http://$SERVER4:9080"
    envoys_ready client server

    by "$variant"
    mesh client "${by[@]}" -p 15001 -u 1337
    mesh server "${by[@]}" -p 15001 -u 1337
    check 'this alone captures' "$(holders client)" "$(alone "$variant")"

    for family in ipv4 ipv6; do
        context="$variant $family classic"
        addresses "$family"
        url=http://$name
        check 'client uid 1000 -> envoy -> envoy -> app, by name' "$(fetch client 1000 "$family" "$url")" \
            "envoy server $c -> $s_:9080; envoy client $out_c -> $s_:9080; app server:9080 peer $lo host $name"
        check 'client uid 0 -> envoy -> envoy -> app, by address' "$(fetch client 0 "$family" "http://$s_:9080")" \
            "envoy server $c -> $s_:9080; envoy client $out_c -> $s_:9080; app server:9080 peer $lo host $s_:9080"
        check 'client uid 1337 goes past its own envoy' "$(fetch client 1337 "$family" "$url")" \
            "envoy server $c -> $s_:9080; app server:9080 peer $lo host $name"
        check 'explicit loopback is not captured' "$(fetch client 1000 "$family" "http://$lo_:9080")" \
            "app client:9080 peer $lo host $lo_:9080"
        check 'a host that dials its own address is captured' "$(fetch server 1000 "$family" "http://$s_:9080")" \
            "envoy server $out_s -> $s_:9080; app server:9080 peer $lo host $s_:9080"
    done

    context="$variant classic"
    mesh client clean
    mesh server clean
    check 'clean leaves no rule on the client' "$(rules_left client)" ''
    check 'clean leaves no rule on the server' "$(rules_left server)" ''
    check 'clean leaves nothing in the BPF file system' "$(pinned)" ''
    for family in ipv4 ipv6; do
        context="$variant $family classic"
        addresses "$family"
        check 'after clean, client uid 1000 -> app' "$(fetch client 1000 "$family" "http://$name")" \
            "app server:9080 peer $c host $name"
    done
    end_pair
}

scoped() {
    local variant=$1 family c s lo passthrough c_ s_ lo_ out_c out_s url name=$SERVICE:8001
    context="$variant scoped"
    add_pair client server
    say "127.0.0.1 $SERVICE
::1 $SERVICE" >"$work/hosts.client"
    start_app client 8001
    start_app server 8001 8002
    start_envoys 8001
    poll 'the app on the client' answers client http://127.0.0.1:8001
    poll 'the app on the server' answers client "http://$SERVER4:8002"
    envoys_ready client server

    by "$variant"
    mesh client "${by[@]}" --uid-owner 1338 --inbound 8001
    mesh server "${by[@]}" --uid-owner 1338 --inbound 8001
    check 'this alone captures' "$(holders client)" "$(alone "$variant")"

    for family in ipv4 ipv6; do
        context="$variant $family scoped"
        addresses "$family"
        url=http://$name
        check "client uid 1338 -> $SERVICE on loopback -> envoy -> envoy -> app" \
            "$(fetch client 1338 "$family" "$url")" \
            "envoy server $c -> $s_:8001; envoy client $lo -> $lo_:8001; app server:8001 peer $lo host $name"
        check 'client uid 1338 -> server address -> envoy -> envoy -> app' \
            "$(fetch client 1338 "$family" "http://$s_:8001")" \
            "envoy server $c -> $s_:8001; envoy client $out_c -> $s_:8001; app server:8001 peer $lo host $s_:8001"
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
    check 'clean leaves nothing in the BPF file system' "$(pinned)" ''
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
