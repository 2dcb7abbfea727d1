#!/usr/bin/env bash
# Runs every fuzz target of fuzz/ for a while, from its seeds and from what earlier runs found.
#
# usage: scripts/fuzz.sh [SECONDS]      SECONDS for each target, 60 unless told
#
# A target that fails leaves the input in fuzz/artifacts and ends the script with status 1 when all have run;
# copied to fuzz/seeds/TARGET, the input is replayed by `cargo test --test pure`. Needs a nightly toolchain (it
# is not installed here, for it may be any) and a C++ compiler; installs cargo-fuzz if it is missing.
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    case "${1-}" in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    *[!0-9]* | 0*) die 64 "SECONDS is a number: ${1@Q}" ;;
    esac
    local seconds=${1:-60}

    need_rust
    rustup run nightly cargo --version >/dev/null 2>&1 ||
        die 69 "missing: a nightly toolchain, which libFuzzer's instrumentation needs (rustup toolchain install nightly)"
    need_packages c++=g++
    if ! cargo fuzz --version >/dev/null 2>&1; then
        echo "installing cargo-fuzz" >&2
        # Not into the project's own target folder: it shares nothing with it.
        CARGO_TARGET_DIR=$(target_dir)/cargo-fuzz cargo install cargo-fuzz --locked >&2 ||
            die 69 "missing: cargo-fuzz, and cargo could not install it"
    fi

    cd "$project/fuzz"
    # Instrumented artifacts need a folder of their own.
    CARGO_TARGET_DIR=$(target_dir)/fuzz
    export CARGO_TARGET_DIR
    cargo +nightly fuzz build

    local target failed=()
    for target in $(cargo +nightly fuzz list); do
        run "$target" "$seconds" || failed+=("$target")
    done
    ((${#failed[@]} == 0)) || die 1 "failed: ${failed[*]}; the inputs are in fuzz/artifacts"
}

# run TARGET SECONDS: one target; one line says how it went, and a failure shows the end of its log.
run() {
    local target=$1 seconds=$2 log status=0
    log=$(mktemp)
    mkdir -p "corpus/$target" "artifacts/$target"
    # The first folder is the one that grows.
    cargo +nightly fuzz run "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || status=$?
    printf '%-14s %s\n' "$target" "$(outcome "$log" "$status")"
    ((status == 0)) || grep -a -v '^0x\|^INFO' "$log" | tail -n 40 >&2
    rm -f "$log"
    return "$status"
}

# outcome LOG STATUS: what libFuzzer's final statistics say, in words.
outcome() {
    local log=$1 status=$2
    local executions rate
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    printf '%s executions, %s a second, %s' "${executions:-?}" "${rate:-?}" \
        "$( ((status == 0)) && echo "nothing found" || echo "FAILED")"
}

main "$@"
