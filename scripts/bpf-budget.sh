#!/usr/bin/env bash
# Compares what the verifier does for each BPF program of ebpf/objects with what ebpf/budget allows.
#
# usage: scripts/bpf-budget.sh [--write]
#
#   (nothing)  status 1, with the numbers, if a program costs anything else than its budget; on another kernel version
#              than the budget's, if it costs more than twice as much
#   --write    measures, and writes ebpf/budget, which is committed
#
# Needs root, and a kernel that has BPF; no program is attached to anything.
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    case ${1-} in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    '' | --write) (($# < 2)) || die 64 "one option at most" ;;
    *) die 64 "no such option: ${1@Q} (there is: --write)" ;;
    esac
    need_root
    need_rust

    cd "$project"
    local verifier budget=ebpf/budget objects=(ebpf/objects/*.o) table
    cargo build --locked --quiet --example verifier
    verifier=$(target_dir)/debug/examples/verifier
    if [[ ${1-} == --write ]]; then
        # Not straight into the file: if the kernel refuses a program the old one stays.
        table=$(as_root "$verifier" "${objects[@]}")
        printf '%s\n' "$table" >"$budget"
        echo "$budget written" >&2
    else
        as_root "$verifier" --against "$budget" "${objects[@]}" ||
            die 1 "run scripts/bpf-budget.sh --write and commit $budget if the programs are meant to cost this"
    fi
}

main "$@"
