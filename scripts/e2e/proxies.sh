# Other transparent proxies, each of which reads the original destination in its own way: HAProxy and mitmproxy as the
# sidecar of a pod in the istio layout. Sourced by scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # they share variables

# What HAProxy does outbound of IPv6 behind rules.
behind_rules=''

start_haproxy() {
    install -m 644 "$project/tests/e2e/haproxy.cfg" "$work/haproxy.cfg"
    daemon pod 1337 haproxy haproxy -db -f "$work/haproxy.cfg"
}

start_mitmproxy() {
    install -m 644 "$project/tests/e2e/mitmproxy.py" "$work/sidecar.py"
    install -d -m 700 -o 1337 -g 1337 "$work/mitmproxy.home"
    # It calls upstream only where it is told to, and only then.
    daemon pod 1337 mitmproxy env "PYTHONPATH=$work/mitmproxy" "$PYTHON" -B \
        -c 'from mitmproxy.tools.main import mitmdump; mitmdump()' --quiet --set "confdir=$work/mitmproxy.home" \
        --set connection_strategy=lazy --mode transparent@15001 --mode transparent@15006 --scripts "$work/sidecar.py"
}

# listens PORT: on the pod, for both families.
# shellcheck disable=SC2317 # called through poll
listens() { (($(enter pod ss -Hltn "sport = :$1" | wc -l) == 2)); }

# proxies BACKEND: rules first, and then the sockets.
proxies() {
    local variant=$1 proxy family c s lo passthrough c_ s_ lo_ out_c out_s inbound outbound unasked
    for proxy in haproxy mitmproxy; do
        context="$variant $proxy"
        add_pair peer pod
        start_app peer 9080
        start_app pod 9080
        by "$variant"
        mesh pod "${by[@]}" -p 15001 -z 15006 -u 1337 -i '*' -b '*'
        "start_$proxy"
        poll 'the app on the peer' answers peer http://127.0.0.1:9080
        poll 'the app on the pod' answers pod http://127.0.0.1:9080
        poll "port 15001 of $proxy" listens 15001
        poll "port 15006 of $proxy" listens 15006
        for family in ipv4 ipv6; do
            context="$variant $family $proxy"
            addresses "$family"
            inbound=$(fetch peer 1000 "$family" "http://$s_:9080")
            outbound=$(fetch pod 1000 "$family" "http://$c_:9080")
            set -- "$proxy 15006 $c -> $s_:9080; app pod:9080 peer $lo host $s_:9080" \
                "$proxy 15001 $out_s -> $c_:9080; app peer:9080 peer $s host $c_:9080"
            # HAProxy 2.6 does not ask for the original destination of IPv6: it has what getsockname says. That is the
            # redirected address, but for what arrives at the sockets, which is not redirected at all.
            if [[ $proxy-$family == haproxy-ipv6 ]]; then
                unasked=("haproxy 15006 $c -> $s_:15006; app pod:9080 peer $lo host $s_:9080"
                    "status 508; haproxy 15001 $out_s -> $lo_:15001; a loop")
                case $variant in
                    ebpf) set -- "$1" "${behind_rules/15001 $s/15001 $out_s}" ;;
                    *)
                        [[ $inbound == "$1" ]] || set -- "${unasked[@]}"
                        behind_rules=$outbound
                        ;;
                esac
            fi
            check 'a peer -> 15006 -> app' "$inbound" "$1"
            check 'app -> 15001 -> peer' "$outbound" "$2"
            check 'the proxy itself goes past it' "$(fetch pod 1337 "$family" "http://$c_:9080")" \
                "app peer:9080 peer $s host $c_:9080"
        done
        context="$variant $proxy"
        mesh pod clean
        check 'clean leaves nothing' "$(rules_left pod)$(pinned)" ''
        end_pair
    done
}
