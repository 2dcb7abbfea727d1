#!/usr/bin/env bash
# Compares what the verifier does for each BPF program of ebpf/objects with what ebpf/budget allows.
#
# usage: scripts/bpf-budget.sh [--write]
#
#   (nothing)  status 1, with the numbers, if a program costs anything else than its budget; on another kernel version
#              than the budget's, if it costs more than twice as much
#   --write    measures, and writes ebpf/budget, which is committed
#
# It is mesh-init itself that loads them, with the two capabilities that an agent has, for without CAP_PERFMON the verifier
# takes less of a program and follows more of its paths. They are attached to an empty control group for a moment. Needs
# root (77), and a kernel that has BPF.
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly budget=ebpf/budget

main() {
    case ${1-} in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    '' | --write) (($# < 2)) || die 64 "one option at most" ;;
    *) die 64 "no such option: ${1@Q} (there is: --write)" ;;
    esac
    need_root
    need_rust
    need_packages findmnt=mount setpriv=util-linux

    cd "$project"
    cargo build --locked --quiet --bin mesh-init
    local found
    # Not straight into the file: if the kernel refuses a program the old one stays.
    found=$(measure "$(target_dir)/debug/mesh-init")
    if [[ ${1-} == --write ]]; then
        printf '%s\n' "$found" >"$budget"
        echo "$budget written" >&2
    else
        compare <<<"$found" ||
            die 1 "run scripts/bpf-budget.sh --write and commit $budget if the programs are meant to cost this"
    fi
}

# measure PROGRAM: the table, as ebpf/budget has it.
measure() {
    local said
    # shellcheck disable=SC2016 # the inner shell's own
    said=$(as_root unshare --mount --net --propagation private bash -euc '
        mount -t bpf bpf /sys/fs/bpf
        group=$(findmnt -n -t cgroup2 -o TARGET | head -1)/mesh-init-budget-$$
        trap "umount -l /sys/fs/bpf; for _ in {1..50}; do rmdir \"$group\" && break; sleep 0.1; done" EXIT
        mkdir "$group"
        MESH_INIT_LOG=debug setpriv --inh-caps -all --bounding-set -all,+bpf,+net_admin \
            "$0" apply --backend ebpf --cgroup "$group" -p 15001 -u 1337 2>&1' "$1") || {
        printf '%s\n' "$said" >&2
        die 1 "the programs were not loaded"
    }
    echo "# What the verifier does for each program: scripts/bpf-budget.sh measures and compares it."
    echo "# Loaded with CAP_BPF and CAP_NET_ADMIN alone. Another kernel follows paths in another way."
    echo "kernel $(uname -r | cut -d. -f1,2)"
    printf '# %-18s %12s %6s %5s\n' program instructions states stack
    # `print_verification_stats`, kernel/bpf/verifier.c; the stack is that of a program and all its functions.
    awk '/verified: / {
        name = ""; stack = 0; at = 0
        for (i = 1; i <= NF; i++) {
            if ($i ~ /^program=/) { name = $i; gsub(/program=|"/, "", name) }
            if ($i == "stack" && $(i + 1) == "depth") at = i + 2
            if ($i == "processed") instructions = $(i + 1)
            if ($i == "peak_states") states = $(i + 1)
        }
        n = split($at, depths, /[+;]/)
        for (i = 1; i <= n; i++) stack += depths[i]
        printf "%-20s %12d %6d %5d\n", name, instructions, states, stack
    }' <<<"$said" | sort
}

# compare: the table on standard input with the budget.
compare() {
    local known
    known=$(awk '$1 == "kernel" { print $2 }' "$budget")
    awk -v known="$known" '
        /^#/ || NF == 0 { next }
        $1 == "kernel" { if (FILENAME == "-") same = $2 == known; next }
        FILENAME != "-" { allowed[$1] = $2 " " $3 " " $4; next }
        {
            found++
            if (!($1 in allowed)) { wrong = wrong sprintf("  %s has no budget; it costs %s %s %s\n", $1, $2, $3, $4); next }
            split(allowed[$1], most, " ")
            delete seen[$1]; seen[$1] = 1
            fits = same ? ($2 == most[1] && $3 == most[2] && $4 == most[3]) : \
                ($2 <= 2 * most[1] && $3 <= 2 * most[2] && $4 <= 2 * most[3])
            if (!fits) wrong = wrong sprintf("  %s costs %s %s %s; allowed are %s%s\n", $1, $2, $3, $4, same ? "" : "twice ", allowed[$1])
        }
        END {
            for (name in allowed) if (!(name in seen)) wrong = wrong sprintf("  %s was not loaded\n", name)
            if (wrong != "") { printf "instructions, states, bytes of stack:\n%s", wrong > "/dev/stderr"; exit 1 }
            printf "%d programs cost %s what the budget says\n", found, same ? "exactly" : "at most twice"
        }' "$budget" - || return 1
}

main "$@"
