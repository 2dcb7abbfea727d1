# Checks and how a run ends. Sourced by scripts/e2e-envoy.sh.
# shellcheck shell=bash disable=SC2154 # $work is its

passed=0
failed=0
context='start'
complete=''

# check WHAT GOT WANT
check() {
    if [[ $2 == "$3" ]]; then
        passed=$((passed + 1))
        say "ok  $context: $1"
    else
        failed=$((failed + 1))
        say "not ok  $context: $1"
        printf '%s\n' "$2" | sed 's/^/        got   /'
        printf '%s\n' "$3" | sed 's/^/        want  /'
    fi
}

# The run can't go on.
give_up() {
    say "$context: $*" >&2
    exit 1
}

# However the run ends, it closes with the counts; one that broke off has failed.
finish() {
    if [[ -z $complete ]]; then
        failed=$((failed + 1))
        say "not ok  $context: the run broke off"
        tail -n 20 "$work"/*.log 2>/dev/null | sed 's/^/        /' || true
    fi
    say "$passed passed, $failed failed"
    ((failed == 0)) || exit 1
    exit 0
}

# poll WHAT COMMAND...: until it succeeds, at most 10 s.
poll() {
    local what=$1 end=$((SECONDS + 10))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || give_up "waited 10 s for $what"
        sleep 0.05
    done
}

# A check whose values differ must fail, and be counted.
can_fail() {
    local told
    # shellcheck disable=SC2030,SC2031 # in a subshell so that it does not count here
    told=$(context=a failed=0 && check b c d && say "$failed failed")
    check 'a check can fail' "$told" 'not ok  a: b
        got   c
        want  d
1 failed'
}
