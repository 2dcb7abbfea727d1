#!/usr/bin/env bash
# Would the tests notice? cargo-mutants changes one place at a time of the compiler, the evaluator and the renderers
# (.cargo/mutants.toml), and the pure tests judge each change. One that goes unnoticed is a hole in the tests, or
# stands in tests/mutants.accepted with the reason.
#
#   scripts/mutants.sh                        all of it, hours on two cores; run it in the background
#   scripts/mutants.sh --shard K/N            a part of it: 0/N to N-1/N
#   scripts/mutants.sh --re ^src/eval/        any arguments of cargo-mutants: here, those with such a name only
#
# Prints what went unnoticed; status 1 if some of that is not accepted. MESH_INIT_MUTANTS_JOBS: how many at once (as
# many as there are processors).
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh disable=SC1091
source scripts/lib.sh

cargo_mutants_version=27.1.0
accepted=tests/mutants.accepted
jobs=${MESH_INIT_MUTANTS_JOBS:-$(nproc)}
work=$(target_dir)/mutants
# The tests that notice nearly everything, and in seconds; what they let through is tried again with all of them.
quick=(tests:: agree:: golden:: cli::explain properties::nftables properties::policy --skip reach:: --skip garbage)
# What judges the text of the source knows nothing of what it does.
thorough=(--skip layers::)

need_cargo_mutants() {
    mutants_bin=$(command -v cargo-mutants || true)
    [[ -n $mutants_bin && $("$mutants_bin" mutants --version) == *" $cargo_mutants_version" ]] && return
    mutants_bin=$(target_dir)/tools/bin/cargo-mutants
    [[ -x $mutants_bin && $("$mutants_bin" mutants --version) == *" $cargo_mutants_version" ]] && return
    # Not optimised: it waits for cargo nearly all of its time.
    cargo install --locked --debug --root "$(target_dir)/tools" --version "$cargo_mutants_version" cargo-mutants
}

# lane NUMBER TEST-ARGUMENT... -- ARGUMENT...: tries a share of the changes in a copy and a target directory of its
# own, which stays warm. Every copied file is new to cargo, whatever the last change left behind.
lane() {
    local lane=$work/$1 share=$((shard * jobs + $1))/$((shards * jobs)) tests=() status=0
    shift
    while [[ $1 != -- ]]; do tests+=("$1") && shift; done
    shift
    rm -rf "$lane/tree" "$lane/mutants.out" && mkdir -p "$lane/tree"
    git ls-files -z --cached --others --exclude-standard |
        xargs -0 cp --parents --no-dereference --preserve=mode,links -t "$lane/tree"
    CARGO_TARGET_DIR=$lane/target "$mutants_bin" mutants --dir "$lane/tree" --in-place --output "$lane" \
        --profile mutants --cargo-arg=--locked --cargo-arg=--lib --cargo-arg=--test=pure \
        --shard "$share" --no-shuffle --colors never "$@" -- -- "${tests[@]}" || status=$?
    # 2 and 3: some went unnoticed, or their time ran out.
    ((status == 0 || status == 2 || status == 3)) || die 1 "cargo-mutants ended with status $status in $lane"
}

# lanes ARGUMENT...: as `lane`, all of them at once.
lanes() {
    local number pids=() failed=0
    for ((number = 0; number < jobs; number++)); do
        lane "$number" "$@" &
        pids+=($!)
    done
    for number in "${pids[@]}"; do wait "$number" || failed=1; done
    ((failed == 0)) || die 1 "not all changes were tried"
}

# outcomes NAME: what the lanes' last run says in the file NAME.
outcomes() {
    local number
    for ((number = 0; number < jobs; number++)); do cat "$work/$number/mutants.out/$1.txt"; done
}

shard=0 shards=1
if [[ ${1-} == --shard ]]; then
    [[ ${2-} =~ ^([0-9]+)/([0-9]+)$ ]] || die 64 "--shard: which part of how many? write K/N"
    shard=${BASH_REMATCH[1]} shards=${BASH_REMATCH[2]}
    ((shard < shards)) || die 64 "--shard: of $shards parts the last is $((shards - 1))/$shards"
    shift 2
fi
need_rust
need_cargo_mutants
# A failing case is enough, however large it is, and wherever it comes from.
export PROPTEST_MAX_SHRINK_ITERS=0 RUST_BACKTRACE=0
export MESH_INIT_AGREE_PAIRS=4000 MESH_INIT_TEST_CASES=10
lanes "${quick[@]}" -- "$@"
caught=$(outcomes caught | wc -l) unviable=$(outcomes unviable | wc -l) late=$(outcomes timeout)
mapfile -t missed < <(outcomes missed)
if ((${#missed[@]})); then
    # Each by its whole name, and nothing in that is a pattern.
    mapfile -t again < <(outcomes missed | sed 's/[][\.*^()+?{}|$]/\\&/g; s/.*/--re=^&$/')
    echo "trying ${#missed[@]} again with all tests"
    shard=0 shards=1
    unset MESH_INIT_AGREE_PAIRS MESH_INIT_TEST_CASES
    lanes "${thorough[@]}" -- "${again[@]}"
    ((caught += $(outcomes caught | wc -l))) || true
    late+=$(outcomes timeout)
    mapfile -t missed < <(outcomes missed)
fi

printf '\n%d noticed, %d do not build, %d ran out of time, %d unnoticed\n' \
    "$caught" "$unviable" "$(grep -c . <<<"$late")" ${#missed[@]}
[[ -z $late ]] || printf 'out of time: %s\n' "$late"
mapfile -t left < <(grep -v '^#' "$accepted")
unexplained=0
for name in "${missed[@]}"; do
    # Without the line and column, which every change above moves.
    plain=$(sed -E 's/:[0-9]+:[0-9]+: /: /' <<<"$name") verdict=unnoticed
    for index in "${!left[@]}"; do
        [[ ${left[index]} == "$plain" ]] || continue
        unset "left[index]"
        verdict=accepted
        break
    done
    [[ $verdict == accepted ]] || ((++unexplained))
    printf '%s: %s\n' "$verdict" "$name"
done
((unexplained == 0)) || die 1 "$unexplained changes went unnoticed and are not in $accepted"
