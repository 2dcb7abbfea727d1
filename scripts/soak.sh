#!/usr/bin/env bash
# The long forms of what the check does briefly; run in the background, once for a release.
#
# usage: scripts/soak.sh [PART...]      agree: ten million pairs of a policy and a connection
#                                       replace: replacements under connecting clients, twenty times the check's
#                                       native: the same of nftables, and moves from and to it, 25 times
#                                       kill: kills at any instant, twenty times the check's
#                                       ebpf: 6.4 million connections of 64 threads, each told apart and no map the
#                                       larger for it; a minute of connections by a few ports; kills at every step, of
#                                       upgrades, too
#
# Prints each part's time; status 1 if one fails. All but agree need root (sudo is asked if you are not).
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh disable=SC1091
source scripts/lib.sh

parts=(agree replace native kill ebpf)

part_agree() {
    MESH_INIT_AGREE_PAIRS=${MESH_INIT_AGREE_PAIRS:-10000000} \
        cargo test --locked --profile suite --test pure -- agree::
}

# kernel "FILTER..." VARIABLE=VALUE...: cases of the kernel suite with other numbers.
kernel() {
    local filters tests
    read -ra filters <<<"$1"
    shift
    cargo build --locked --profile suite --bin mesh-init
    tests=$(cargo test --locked --profile suite --test kernel --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*kernel[^"]*\)".*/\1/p')
    [[ -x $tests ]] || die 1 "the kernel tests were not built"
    as_root env PATH="$PATH" MESH_INIT_TEST_PATIENCE=20 "$@" "$tests" "${filters[@]}"
}

part_replace() {
    kernel "replace:: --skip native::" MESH_INIT_TEST_REPLACEMENTS=40000 MESH_INIT_TEST_ISTIO_REPLACEMENTS=10000
}

# 2000 of them have interval sets and verdict maps in both policies, 1500 are moves from and to both iptables.
part_native() { kernel native::replace:: MESH_INIT_TEST_NATIVE_REPLACEMENTS=12500; }

part_kill() { kernel kill:: MESH_INIT_TEST_KILLS=4000 MESH_INIT_TEST_NATIVE_KILLS=1680; }

part_ebpf() {
    kernel ebpf::race MESH_INIT_TEST_EBPF_CONNECTIONS=6400000
    kernel ebpf::churn MESH_INIT_TEST_EBPF_CHURN=60
    kernel ebpf::kills MESH_INIT_TEST_EBPF_STRIDE=1
    kernel ebpf::upgrade::killed MESH_INIT_TEST_EBPF_STRIDE=1
}

for part; do
    [[ " ${parts[*]} " == *" $part "* ]] || die 64 "no such part: $part (there are: ${parts[*]})"
done
need_rust
failed=()
for part in "${@:-${parts[@]}}"; do
    begin=$SECONDS
    outcome=ok status=0
    # Not in an `if` or an `||` list, where bash ignores `set -e` inside the part: a build that fails would leave the
    # binary before it to be tested.
    set +e
    (set -e; "part_$part")
    status=$?
    set -e
    ((status == 0)) || outcome=FAILED failed+=("$part")
    printf '%-8s %5d s  %s\n' "$part" $((SECONDS - begin)) "$outcome"
done
((${#failed[@]} == 0)) || die 1 "failed: ${failed[*]}"
