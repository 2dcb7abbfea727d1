#!/usr/bin/env bash
# What one ADD costs as a whole process, beside other plugins. scripts/bench.sh runs it as its last part; alone:
#
#   MESH_INIT_BIN=… scripts/bench-cni.sh [ROUNDS]     60 rounds
#
#   empty      a static program that reads the configuration and answers: the floor
#   mesh-init  ADD by nftables, the default; `iptables` is the same by iptables-nft
#   shell-out  a shell script that makes the same rules by iptables-restore and ip6tables-restore in the pod
#   portmap    the reference plugin of Debian's containernetworking-plugins, with one port: the field's yardstick
#
# Each sample is for a fresh pod on a fresh node, network namespaces of its own (benches/cni.c). Times are reported, never
# asserted. Needs root.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=scripts/bench-lib.sh
source "$root/scripts/bench-lib.sh"

bin=$(realpath -e "${MESH_INIT_BIN:?names the binary to measure}")
rounds=${1:-60}
need_packages /usr/lib/cni/portmap=containernetworking-plugins
compile cni
runtime=$(bench_folder)/cni
bench=$(bench_folder)/plugins
mkdir -p "$bench"

gcc -static -O2 -Wall -Wextra -o "$bench/empty" -x c - <<'C'
#include <unistd.h>
int main(void) {
    static char text[1 << 16];
    while (read(0, text, sizeof text) > 0) {}
    return write(1, "{\"cniVersion\":\"1.0.0\"}\n", 23) != 23;
}
C

result='"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1","interface":0}],"dns":{}}'
conf() { # FILE TYPE KEYS
    printf '{"cniVersion":"1.0.0","name":"bench","type":"%s"%s,%s}\n' "$2" "$3" "$result" >"$bench/$1.json"
}
conf mesh-init mesh-init ',"selection":"all","logFile":"/run/cni.log"'
conf iptables mesh-init ',"selection":"all","logFile":"/run/cni.log","backend":"iptables","iptablesVariant":"nft"'
conf portmap portmap ',"capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[{"hostPort":18080,"containerPort":80,"protocol":"tcp"}]}'

# The same rules, by the same tools as `iptables`.
for family in 4 6; do
    env -u MESH_INIT_BIN "$bin" plan -p 15001 -u 1337 -g 1337 --ipv6 on |
        awk -v family="$family" '/^# IPv[46]:/ { on = index($0, "# IPv" family ":") == 1 } on' >"$bench/rules.$family"
    grep -q '^-A' "$bench/rules.$family" || { echo "bench: the plan has no rules for IPv$family" >&2; exit 1; }
done
cat >"$bench/shell-out" <<SH
#!/bin/sh
set -e
nsenter --net="\$CNI_NETNS" sh -c 'iptables-nft-restore --noflush <$bench/rules.4 && ip6tables-nft-restore --noflush <$bench/rules.6'
sed 's/.*"prevResult":\(.*\)}\$/\1/'
SH
chmod +x "$bench/shell-out"

"$runtime" "$rounds" empty "$bench/empty" "$bench/mesh-init.json" mesh-init "$bin" "$bench/mesh-init.json" \
    iptables "$bin" "$bench/iptables.json" shell-out "$bench/shell-out" "$bench/mesh-init.json" \
    portmap /usr/lib/cni/portmap "$bench/portmap.json" >"$bench/samples"

echo "one ADD of a CNI plugin, whole process: $rounds rounds, interleaved, a fresh node and pod for each"
sort -k1,1 -k2,2n "$bench/samples" | awk '
    { time[$1, ++n[$1]] = $2; if ($3 > peak[$1]) peak[$1] = $3 }
    function at(who, part,   i) { i = int(n[who] * part + 0.999999); return time[who, i < 1 ? 1 : i] / 1e6 }
    function met(yes) { return yes ? "met" : "MISSED" }
    END {
        row = "%-10s %8s %8s %8s %10s %10s\n"
        printf row, "who", "p50 ms", "p99 ms", "min ms", "/ portmap", "peak KiB"
        split("empty mesh-init iptables shell-out portmap", all, " ")
        for (i = 1; i in all; i++) {
            who = all[i]
            printf row, who, sprintf("%.2f", at(who, 0.5)), sprintf("%.2f", at(who, 0.99)), sprintf("%.2f", at(who, 0)),
                sprintf("%.2f", at(who, 0.5) / at("portmap", 0.5)), peak[who]
        }
        above = peak["mesh-init"] - peak["empty"]
        printf "  %-46s %s\n", sprintf("ADD p50 at most 3 ms: %.2f", at("mesh-init", 0.5)), met(at("mesh-init", 0.5) <= 3)
        printf "  %-46s %s\n", sprintf("at most 4096 KiB above an empty plugin: %d", above), met(above <= 4096)
    }'
