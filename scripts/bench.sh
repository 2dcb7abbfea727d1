#!/usr/bin/env bash
# What a run of mesh-init costs beside the tools that it stands for (wall time, peak memory), and what its rules cost
# a new connection.
#
#   scripts/bench.sh [--quick] [--rounds N]     60 rounds; --quick 3, which shows that it works and nothing else
#
# Each sample runs in a network namespace of its own, which a static launcher makes before the clock starts
# (benches/launcher.c). In every round each contender does each case once, so that all meet the same machine:
#
#   mesh-init   the static release binary; MESH_INIT_BIN names another one
#   restore     (a) per family iptables-restore --noflush with the same text, then iptables-save;
#               nftables: nft -f with the same text, then nft list ruleset
#   rules       (b) per family one iptables command a chain and a rule, some thirty; nftables has none
#   bare        (c) as (a), but nothing is read back
#
# Cases: fresh (dual-stack, nothing there), no-op (the same again; restore: only what reads, rules: -C),
# replace (another proxy uid) and clean. Where contenders do not leave the same rules behind, the run fails.
#
# Then connections: the median time of connect(2) to an address that is captured (benches/connect.c), with 0 to 10000
# excluded networks that it is none of, in each back end. Between the smallest and the largest, nftables is to be flat.
#
# Times are reported, never asserted. Needs root (exit 77); the initial network namespace is not touched.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$root/scripts/lib.sh"
# shellcheck source=scripts/bench-lib.sh
source "$root/scripts/bench-lib.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }

rounds=60
quick=
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=1 rounds=3 ;;
        --rounds) rounds=${2:?--rounds needs a number}; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 64 ;;
    esac
    shift
done
case $rounds in *[!0-9]* | 0 | '') echo "bench: not a number of rounds: $rounds" >&2; exit 64 ;; esac
[ "$(id -u)" = 0 ] || { echo "bench: skipped: needs root" >&2; exit 77; }

need_packages cc=gcc /usr/include/stdio.h=libc6-dev nft=nftables ip=iproute2 ip6tables-legacy-restore=iptables \
    ip6tables-nft-restore=iptables
bench=$(bench_folder)
cases=$bench/cases
rm -rf "$cases"
mkdir -p "$cases"
bin=$(measured_binary)
# To the program itself it says nothing.
unset MESH_INIT_BIN
compile launcher connect
launcher=$bench/launcher

# === the texts ===

flags_old='-p 15001 -u 1337 --ipv6 on'
flags_new='-p 15001 -u 1338 --ipv6 on'
families='4 6'
variants='legacy nft nftables'

contenders() { # variant case
    case $1.$2 in
        nftables.fresh) echo mesh-init restore bare ;;
        nftables.*) echo mesh-init restore ;;
        *.fresh) echo mesh-init restore rules bare ;;
        *) echo mesh-init restore rules ;;
    esac
}

# The flags that choose what carries the rules.
carrier() { # variant
    if [ "$1" = nftables ]; then echo --backend nftables; else echo --iptables-variant "$1"; fi
}

# The part of a printed plan that is for one family.
family_of() {
    awk -v family="$1" '/^# IPv[46]:/ { on = index($0, "# IPv" family ":") == 1 } on' "$2"
}

# What undoes (clean) or turns into another (replace) what is there: text for iptables-restore --noflush.
change() {
    awk -v clean="$([ "$1" = clean ] && echo 1)" '
        function flush_out(   i, c, r) {
            print "*" table
            for (i = 1; i <= chains; i++) if (!((c = chain[i]) in old_chain)) print ":" c " - [0:0]"
            for (i = 1; i <= old_rules; i++)
                if (!((r = old_rule[i]) in kept)) { sub(/^-[AI]/, "-D", r); print r }
            for (c in old_chain) print "-F " c
            for (i = 1; i <= rules; i++) if (!(rule[i] in is_old)) print rule[i]
            for (c in old_chain) if (!(c in is_chain)) print "-X " c
            print "COMMIT"
        }
        FNR == 1 { file++ }
        /^\*/ { this = $0; gsub(/[* ]/, "", this); if (table && this != table) exit 1; table = this }
        /^:[^ ]+ -/ { name(substr($1, 2)) }
        /^-N/ { name($2) }
        function name(c) { if (file == 1) old_chain[c]; else { chain[++chains] = c; is_chain[c] } }
        /^-[AI]/ && file == 1 && !($2 in old_chain) { old_rule[++old_rules] = $0; is_old[$0] }
        /^-[AI]/ && file == 2 { rule[++rules] = $0; kept[$0] }
        END {
            if (!table || table != this) { print "bench: a plan of one table was expected" >"/dev/stderr"; exit 1 }
            flush_out()
        }
    ' "$2" "$(if [ "$1" = clean ]; then echo /dev/null; else echo "$3"; fi)"
}

# shellcheck disable=SC2086 # the flags are words
{
    "$bin" plan $flags_old >"$cases/plan.old"
    "$bin" plan $flags_new >"$cases/plan.new"
    "$bin" plan $flags_old --backend nftables >"$cases/old.nftables"
    "$bin" plan $flags_new --backend nftables >"$cases/new.nftables"
}
printf 'delete table %s mesh_init\n' ip ip6 >"$cases/clean.nftables"
cat "$cases/clean.nftables" "$cases/new.nftables" >"$cases/replace.nftables"
for family in $families; do
    for which in old new; do
        family_of "$family" "$cases/plan.$which" >"$cases/$which.$family"
        grep -q '^-A' "$cases/$which.$family" || { echo "bench: the plan has no rules for IPv$family" >&2; exit 1; }
    done
    change replace "$cases/old.$family" "$cases/new.$family" >"$cases/replace.$family"
    change clean "$cases/old.$family" >"$cases/clean.$family"
done

# === the cases: lines of phase, standard input, program, arguments ===

tool() { # family variant [-restore|-save]
    command -v "ip$([ "$1" = 6 ] && echo 6)tables-$2${3:-}"
}

line() {
    local IFS=$'\t'
    printf '%s\n' "$*"
}

restore() { # phase variant text [bare]
    local family
    if [ "$2" = nftables ]; then
        line "$1" - "$(command -v nft)" -f "$cases/$3.nftables"
        [ "$1" = setup ] || [ "${4:-}" = bare ] || save "$1" nftables
        return
    fi
    for family in $families; do
        line "$1" "$cases/$3.$family" "$(tool "$family" "$2" -restore)" --noflush
        [ "$1" = setup ] || [ "${4:-}" = bare ] || line "$1" - "$(tool "$family" "$2" -save)"
    done
}

save() { # phase variant
    local family
    if [ "$2" = nftables ]; then
        line "$1" - "$(command -v nft)" -s list ruleset
        return
    fi
    for family in $families; do line "$1" - "$(tool "$family" "$2" -save)"; done
}

# One command a line of restore text; given `-C`, it asks for each rule instead of adding it.
rules() { # phase variant text [-C]
    local family
    for family in $families; do
        awk -v phase="$1" -v program="$(tool "$family" "$2")" -v check="${4:-}" '
            /^\*/ { table = $0; gsub(/[* ]/, "", table) }
            /^:[^ ]+ -/ { $0 = "-N " substr($1, 2) }
            check && !/^-A/ { next }
            check { sub(/^-A/, check) }
            /^-/ {
                out = phase "\t-\t" program "\t-t\t" table "\t"
                quoted = 0
                for (i = 1; i <= length($0); i++) {
                    c = substr($0, i, 1)
                    if (c == "\"") quoted = !quoted
                    else out = out (c == " " && !quoted ? "\t" : c)
                }
                print out
            }
        ' "$cases/$3.$family"
    done
}

mesh_init() { # phase variant words...
    local phase=$1 variant=$2
    shift 2
    # shellcheck disable=SC2046 # words
    line "$phase" - "$bin" "$@" $(carrier "$variant")
}

# shellcheck disable=SC2086 # the flags are words
for variant in $variants; do
    for case in fresh no-op replace clean; do
        for who in $(contenders "$variant" "$case"); do
            {
                case $who.$case in
                    mesh-init.fresh) mesh_init timed "$variant" $flags_old ;;
                    mesh-init.*) mesh_init setup "$variant" $flags_old ;;&
                    mesh-init.no-op) mesh_init timed "$variant" $flags_old ;;
                    mesh-init.replace) mesh_init timed "$variant" $flags_new ;;
                    mesh-init.clean) line timed - "$bin" clean ;;
                    bare.fresh) restore timed "$variant" old bare ;;
                    restore.fresh) restore timed "$variant" old ;;
                    restore.*) restore setup "$variant" old ;;&
                    restore.no-op) save timed "$variant" ;;
                    restore.replace | restore.clean) restore timed "$variant" "$case" ;;
                    rules.fresh) rules timed "$variant" old ;;
                    rules.*) restore setup "$variant" old ;;&
                    rules.no-op) rules timed "$variant" old -C ;;
                    rules.replace | rules.clean) rules timed "$variant" "$case" ;;
                esac
                save show "$variant"
            } >"$cases/$case.$variant.$who"
        done
    done
done

# === the same work by all ===

rules_left() { # variant case-file
    if [ "$1" = nftables ]; then
        # Each line with its table and chain: chains are listed in the order in which they were made.
        "$launcher" show "$2" | awk '/^table/ { table = $2 } /chain .*\{$/ { chain = $2 } { print table, chain, $0 }' |
            sort -s -k1,2
        return
    fi
    "$launcher" show "$2" | awk '/^-A/ || /^:[^ ]+ - /{ sub(/ \[[0-9:]*\]$/, ""); print }' | sort -s -k1,1 -k2,2
}
for variant in $variants; do
    for case in fresh no-op replace clean; do
        rules_left "$variant" "$cases/$case.$variant.restore" >"$cases/left.restore"
        [ "$case" = clean ] || [ -s "$cases/left.restore" ] ||
            { echo "bench: $case, $variant: restore leaves no rules" >&2; exit 1; }
        for who in $(contenders "$variant" "$case"); do
            rules_left "$variant" "$cases/$case.$variant.$who" >"$cases/left.$who"
            diff -u "$cases/left.restore" "$cases/left.$who" >&2 ||
                { echo "bench: $case, $variant: $who does not leave the rules that restore leaves" >&2; exit 1; }
        done
    done
done

# === measuring ===

samples=$bench/samples.txt
: >"$samples"
for round in $(seq 0 "$rounds"); do
    [ -t 2 ] && printf '\rround %d of %d ' "$round" "$rounds" >&2
    for case in fresh no-op replace clean; do
        for variant in $variants; do
            # Each round another one goes first.
            # shellcheck disable=SC2046 # words
            set -- $(contenders "$variant" "$case")
            for _ in $(seq $((round % $#))); do
                first=$1
                shift
                set -- "$@" "$first"
            done
            for who; do
                took=$("$launcher" time "$cases/$case.$variant.$who")
                # Round 0 warms the caches.
                [ "$round" = 0 ] || echo "$case $variant $who time $took" >>"$samples"
            done
        done
    done
done
[ -t 2 ] && printf '\r\033[K' >&2
for case in fresh no-op replace clean; do
    for variant in $variants; do
        for who in $(contenders "$variant" "$case"); do
            for _ in 1 2 3; do
                peaks=$("$launcher" rss "$cases/$case.$variant.$who")
                echo "$case $variant $who rss $peaks" >>"$samples"
            done
        done
    done
done

# === connections ===

# A namespace for each back end and each number of excluded networks, all there at once; one made of another's text
# would not be the same machine.
sizes='0 100 1000 10000' dials=2000 turns=$(((rounds + 5) / 6))
if [ -n "$quick" ]; then sizes='0 100' dials=100 turns=2; fi
latency=$bench/latency.txt
: >"$latency"
namespaces=()
leave() {
    local name
    for name in "${namespaces[@]}"; do ip netns delete "$name"; done
}
trap leave EXIT

for size in $sizes; do
    excluding "$size" >"$cases/policy.$size.json"
    for variant in $variants; do
        name=bench-$$-$variant-$size
        ip netns add "$name"
        namespaces+=("$name")
        ip -n "$name" link set lo up
        ip -n "$name" link add wire type veth peer name end
        ip -n "$name" address add 10.0.0.1/24 dev wire
        ip -n "$name" link set wire up
        ip -n "$name" link set end up
        # shellcheck disable=SC2046 # words
        ip netns exec "$name" "$bin" --config "$cases/policy.$size.json" -p 15001 -u 1337 --ipv6 off --layout istio \
            $(carrier "$variant") >/dev/null
    done
done
for turn in $(seq 0 "$turns"); do
    [ -t 2 ] && printf '\rconnections %d of %d ' "$turn" "$turns" >&2
    for size in $sizes; do
        for variant in $variants; do
            took=$(ip netns exec "bench-$$-$variant-$size" "$bench/connect" "$dials" 10.0.0.9 80 15001)
            [ "$turn" = 0 ] || echo "$variant $size $took" >>"$latency"
        done
    done
done
[ -t 2 ] && printf '\r\033[K' >&2

# === the report ===

report() {
    echo "mesh-init beside iptables: $rounds rounds, interleaved, a fresh network namespace for each sample"
    echo "$(uname -sr), $(unshare -n iptables-nft --version), $(nproc) CPUs"
    echo
    sort -k1,3 -k4,4 -k5,5n "$samples" | awk -v size="$(stat -Lc %s "$bin")" -v rounds="$rounds" '
        function met(yes) { return yes ? "met" : "MISSED" }
        function at(key, part,   i) { i = int(n[key] * part + 0.999999); return time[key, i < 1 ? 1 : i] / 1e6 }
        function median(key,   m) {
            m = n[key]
            return m % 2 ? at(key, 0.5) : (time[key, m / 2] + time[key, m / 2 + 1]) / 2e6
        }
        $4 == "time" { key = $1 " " $2 " " $3; time[key, ++n[key]] = $5 }
        $4 == "rss" {
            key = $1 " " $2 " " $3
            if ($5 > own[key]) own[key] = $5
            if ($6 > others[key]) others[key] = $6
        }
        END {
            row = "%-8s %-8s %-10s %8s %8s %8s %7s %7s %7s %8s %9s\n"
            printf row, "case", "variant", "who", "median", "p95", "min", "/ (a)", "/ (b)", "/ (c)", "peak", "children"
            printf row, "", "", "", "ms", "ms", "ms", "", "", "", "KiB", "KiB"
            split("fresh no-op replace clean", cases, " ")
            split("legacy nft nftables", variants, " ")
            split("mesh-init restore rules bare", contenders, " ")
            label["mesh-init"] = "mesh-init"; label["restore"] = "(a)restore"; label["rules"] = "(b)rules"
            label["bare"] = "(c)bare"
            for (c = 1; c in cases; c++) for (v = 1; v in variants; v++) for (w = 1; w in contenders; w++) {
                group = cases[c] " " variants[v] " "
                key = group contenders[w]
                if (!(key in n)) continue
                to_a = median(key) / median(group "restore")
                to_b = (group "rules") in n ? sprintf("%.2f", median(key) / median(group "rules")) : "-"
                to_c = (group "bare") in n ? sprintf("%.2f", median(key) / median(group "bare")) : "-"
                printf row, cases[c], variants[v], label[contenders[w]], sprintf("%.2f", median(key)),
                    sprintf("%.2f", at(key, 0.95)), sprintf("%.2f", at(key, 0)), sprintf("%.2f", to_a),
                    to_b, to_c, own[key], others[key] ? others[key] : "-"
                if (w == 1) {
                    aims[++count] = sprintf("%-8s %-8s not slower than (a): %.2f", cases[c], variants[v], to_a)
                    verdict[count] = met(to_a <= 1)
                    if (own[key] > most) most = own[key]
                }
            }
            printf "\nbinary: %.2f MB\n\naims\n", size / 1e6
            for (i = 1; i <= count; i++) printf "  %-46s %s\n", aims[i], verdict[i]
            fresh = median("fresh nftables mesh-init")
            printf "  %-46s %s\n", sprintf("fresh    nftables within 1.5 ms: %.2f", fresh), met(fresh <= 1.5)
            peak = own["fresh nftables mesh-init"]
            printf "  %-46s %s\n", sprintf("fresh    nftables within 3072 KiB: %d", peak), met(peak > 0 && peak <= 3072)
            printf "  %-46s %s\n", sprintf("peak memory under 4096 KiB: %d", most), met(most > 0 && most < 4096)
            printf "  %-46s %s\n", sprintf("binary under 3 MB: %.2f", size / 1e6), met(size < 3e6)
        }'
    echo
    echo "connect(2) to a captured address: medians of $turns rounds of $dials connections each, interleaved"
    sort -k1,1 -k2,2n -k3,3n "$latency" | awk -v sizes="$sizes" '
        { key = $1 " " $2; took[key, ++n[key]] = $3 / 1000 }
        function median(key,   m) {
            m = n[key]
            return m % 2 ? took[key, (m + 1) / 2] : (took[key, m / 2] + took[key, m / 2 + 1]) / 2
        }
        END {
            row = "%-8s %8s %10s %8s %7s\n"
            printf row, "variant", "excluded", "median", "min", "/ none"
            printf row, "", "networks", "us", "us", ""
            count = split(sizes, size, " ")
            split("legacy nft nftables", variants, " ")
            for (v = 1; v in variants; v++) for (s = 1; s <= count; s++) {
                key = variants[v] " " size[s]
                ratio = median(key) / median(variants[v] " " size[1])
                printf row, variants[v], size[s], sprintf("%.2f", median(key)), sprintf("%.2f", took[key, 1]),
                    sprintf("%.2f", ratio)
            }
            many = median("nftables " size[count]) / median("nftables " size[1])
            printf "\n  %-46s %s\n", sprintf("nftables flat within 10 %% to %d: %.2f", size[count], many),
                many <= 1.1 ? "met" : "MISSED"
        }'
}
report | tee "$bench/results.txt"

echo
MESH_INIT_BIN=$bin "$root/scripts/bench-cni.sh" "$rounds" | tee -a "$bench/results.txt"
