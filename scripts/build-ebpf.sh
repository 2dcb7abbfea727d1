#!/usr/bin/env bash
# Builds the BPF programs of ebpf/ into ebpf/objects, byte for byte the same wherever and by whomever it is done.
#
# usage: scripts/build-ebpf.sh [--check | --lint]
#
#   (nothing)  writes ebpf/objects/cgroup.o, netns.o and SHA256SUMS, which are committed
#   --check    builds into a temporary folder, and ends with status 1 if the committed objects are others
#   --lint     the sources' format and clippy's opinion of them, for the target that they are built for
#
# Needs rustup and, the first time, a C compiler. Installs the toolchain that ebpf/rust-toolchain.toml names, and
# bpf-linker (a minute or two) into the target folder's tools/.
set -euo pipefail
shopt -s inherit_errexit nullglob

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The last one that loads the LLVM of rustc itself while it links, so that the toolchain's pin is LLVM's, too; later ones
# are linked with an LLVM of their own (https://github.com/aya-rs/bpf-linker).
linker_version=0.10.3
objects=(cgroup netns)
folder=$project/ebpf/objects

main() {
    local mode=${1-}
    case $mode in
    -h | --help) sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    '' | --check | --lint) (($# < 2)) || die 64 "one option at most" ;;
    *) die 64 "no such option: ${mode@Q} (there are: --check --lint)" ;;
    esac

    need_toolchain
    fetch
    case $mode in
    --lint)
        bpf_cargo fmt --check
        bpf_cargo clippy "${build_options[@]}" --lib --bins -- -D warnings
        return
        ;;
    esac

    need_linker
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    bpf_cargo build "${build_options[@]}" --bins
    local name
    for name in "${objects[@]}"; do strip_debug "$built/bpfel-unknown-none/release/$name" "$temporary/$name.o"; done
    (cd "$temporary" && sha256sum "${objects[@]/%/.o}" >SHA256SUMS)
    if [[ $mode == --check ]]; then compare; else keep; fi
}

# need_toolchain: sets `sysroot` and `host`.
#
# A stable release that is told to accept what is unstable (core from its source, `asm_experimental_arch`), and not a dated
# nightly: it is a toolchain that builds the package, too, so there is one compiler to install and to trust, and
# mesh-init-abi is compiled by one; and its LLVM is one that bpf-linker was made for.
need_toolchain() {
    local channel
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$project/ebpf/rust-toolchain.toml")
    need_rust
    command -v rustup >/dev/null || die 69 "missing: rustup, for Rust $channel as its project built it (see https://rustup.rs)"
    toolchain_is_complete "$channel" || rustup toolchain install --no-self-update --profile minimal \
        --component rust-src --component clippy --component rustfmt "$channel" >&2 ||
        die 69 "missing: Rust $channel with rust-src, clippy and rustfmt, and rustup could not install it"
    toolchain_is_complete "$channel" || die 69 "rustup's toolchain $channel is not complete, or is another; it is in $sysroot"
}

# toolchain_is_complete CHANNEL: it is installed with what is needed here, and is the version that its name says.
toolchain_is_complete() {
    sysroot=$(rustup run "$1" rustc --print sysroot 2>/dev/null) || return 1
    [[ $("$sysroot/bin/rustc" --version) == "rustc $1 "* ]] || return 1
    host=$("$sysroot/bin/rustc" -vV | sed -n 's/^host: //p')
    [[ -f $sysroot/lib/rustlib/src/rust/library/core/Cargo.toml && -x $sysroot/bin/cargo-fmt &&
        -x $sysroot/bin/cargo-clippy && -x $sysroot/lib/rustlib/$host/bin/rust-objcopy ]]
}

# need_linker: builds bpf-linker by the same toolchain, unless it is there. One that is found elsewhere may have another LLVM.
need_linker() {
    tools=$(target_dir)/tools/bpf-linker-$linker_version
    [[ -x $tools/bin/bpf-linker ]] && return
    need_packages cc=gcc
    echo "building bpf-linker $linker_version" >&2
    # In a temporary folder, which cargo takes away again.
    env -u CARGO_TARGET_DIR PATH="$sysroot/bin:$PATH" RUSTC="$sysroot/bin/rustc" "$sysroot/bin/cargo" install --quiet \
        --locked --root "$tools" --version "$linker_version" bpf-linker >&2 ||
        die 69 "missing: bpf-linker $linker_version, and cargo could not build it"
}

# fetch: has cargo download what the lock files name, by the caller's settings. Sets `built`, cargo's target folder here.
fetch() {
    build_options=(--locked --offline --release --target bpfel-unknown-none -Z build-std=core)
    export CARGO_HOME=${CARGO_HOME:-${HOME:-/root}/.cargo}
    built=$(target_dir)/ebpf
    (cd "$project/ebpf" && RUSTC_BOOTSTRAP=1 RUSTC="$sysroot/bin/rustc" "$sysroot/bin/cargo" fetch --quiet --locked \
        --target bpfel-unknown-none --target "$host" -Z build-std=core) ||
        die 69 "cargo could not fetch what ebpf/Cargo.lock names, or the lock file is not that of ebpf/Cargo.toml"
}

# bpf_cargo COMMAND...: cargo in ebpf/, with nothing of the caller's environment that changes what it builds.
bpf_cargo() {
    # Where things lie on this machine, and what the objects call it instead: the last that matches counts. Below a file
    # nothing can exist: LLVM would put the lines of source files that it finds beside the line numbers.
    local nowhere=/dev/null source flags=('--cfg=bpf_target_arch="x86_64"' -Cdebuginfo=2 -Clink-arg=--btf)
    flags+=("--remap-path-prefix=$project=$nowhere/mesh-init" "--remap-path-prefix=$built=$nowhere/target")
    for source in "$CARGO_HOME"/registry/src/*; do flags+=("--remap-path-prefix=$source=$nowhere/crates"); done
    flags+=("--remap-path-prefix=$sysroot/lib/rustlib/src/rust=$nowhere/rust")
    (
        cd "$project/ebpf"
        env -i HOME="${HOME:-/root}" CARGO_HOME="$CARGO_HOME" CARGO_TARGET_DIR="$built" \
            PATH="$sysroot/bin:${tools:+$tools/bin:}$PATH" LD_LIBRARY_PATH="$sysroot/lib" RUSTC="$sysroot/bin/rustc" \
            RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f' && echo "${flags[*]}")" \
            "$sysroot/bin/cargo" "$@"
    )
}

# strip_debug FROM TO: without DWARF, which no loader reads; BTF, the lines' numbers in it and relocations stay. By the
# toolchain's own tool, for what is left and its order depend on the tool's version.
strip_debug() {
    local found
    LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$host/bin/rust-objcopy" --strip-debug "$1" "$2"
    for found in "$project" "$CARGO_HOME" "$sysroot" "$built"; do
        ! grep -aqF -- "$found/" "$2" || die 1 "${2##*/} has a path of this machine in it: $found"
    done
}

# keep: the new objects become the ones to commit.
keep() {
    mkdir -p "$folder"
    install -m 644 "$temporary"/*.o "$temporary/SHA256SUMS" "$folder"
    cat "$folder/SHA256SUMS"
}

# compare: says which of the committed files are not what the sources give.
compare() {
    local name others=()
    for name in "${objects[@]/%/.o}" SHA256SUMS; do
        cmp -s "$temporary/$name" "$folder/$name" || others+=("$name")
    done
    ((${#others[@]} == 0)) || die 1 "not what the sources in ebpf/ give: ${others[*]} in ebpf/objects;" \
        "run scripts/build-ebpf.sh and commit what it writes (an object must not be changed by hand)"
    echo "the objects in ebpf/objects are what the sources give"
}

main "$@"
