# Shell functions shared by the scripts beside this file, which source it. It does nothing by itself.
# shellcheck shell=bash

# The tools that set up networks live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die CODE TEXT...: ends the script. 69: the machine lacks something; 77: a privilege is missing.
die() {
    local code=$1
    shift
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit "$code"
}

# need_root: makes sure that root's rights can be had, without taking them yet.
need_root() {
    ((EUID == 0)) && return
    command -v sudo >/dev/null || die 77 "this needs root, and there is no sudo"
    # Where nobody can type a password, sudo must not ask for one.
    [[ -t 0 ]] || sudo -n true 2>/dev/null || die 77 "this needs root, and sudo wants a password"
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        need_root
        sudo -- "$@"
    fi
}

# need_packages WHAT=PACKAGE...: installs the packages whose WHAT, a command or a file's path, is missing.
need_packages() {
    local pair what missing=() still=()
    for pair; do
        what=${pair%%=*}
        command -v "$what" >/dev/null || [[ $what == /* && -e $what ]] || missing+=("${pair#*=}")
    done
    ((${#missing[@]})) || return 0
    if command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}" >&2
        # The lists may be new enough, or the mirrors out of reach: the install below has the last word.
        as_root apt-get -q update >&2 || true
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 \
            install -y --no-install-recommends "${missing[@]}" >&2 || true
        hash -r
    fi
    for pair; do
        what=${pair%%=*}
        command -v "$what" >/dev/null || [[ $what == /* && -e $what ]] ||
            still+=(" $what (package ${pair#*=})")
    done
    ((${#still[@]} == 0)) || die 69 "missing, and apt-get did not install:$(IFS=, && echo "${still[*]}")"
}

# need_rust: makes `cargo` a toolchain that this package accepts.
need_rust() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$project/Cargo.toml")
    # A distribution's older cargo must not hide rustup's.
    PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH
    rust_is_new_enough "$wanted" && return
    if ! command -v rustup >/dev/null; then
        echo "installing Rust by rustup" >&2
        need_packages curl=curl /etc/ssl/certs/ca-certificates.crt=ca-certificates
        curl --proto '=https' --tlsv1.2 -fsSL --retry 2 --connect-timeout 15 https://sh.rustup.rs |
            sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain none >&2 ||
            # Newer releases of Debian and Ubuntu carry rustup themselves.
            (need_packages rustup=rustup) ||
            die 69 "missing: Rust $wanted or later, and rustup could not be installed (see https://rustup.rs)"
        hash -r
    fi
    rustup toolchain install --no-self-update --profile minimal stable >&2 ||
        die 69 "missing: Rust $wanted or later, and rustup could not install it"
    export RUSTUP_TOOLCHAIN=stable
    rust_is_new_enough "$wanted" || die 69 "missing: Rust $wanted or later; found $(cargo --version)"
}

# rust_is_new_enough VERSION: the toolchain that cargo would use in this project is not older.
rust_is_new_enough() {
    local found
    found=$(cd "$project" && cargo --version 2>/dev/null) || return 1
    found=${found#cargo }
    printf '%s\n' "$1" "${found%%[ -]*}" | sort -V -C
}

# target_dir: where cargo puts what it builds here.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    [[ $dir == /* ]] || dir=$project/$dir
    printf '%s\n' "$dir"
}

# static_release: builds the release binary that needs no library, and says where it is.
static_release() {
    local triple
    triple=$(uname -m)-unknown-linux-musl
    need_rust
    if command -v rustup >/dev/null; then (cd "$project" && rustup target add "$triple") >&2; fi
    (cd "$project" && cargo build --locked --quiet --release --target "$triple" --bin mesh-init) >&2
    echo "$(target_dir)/$triple/release/mesh-init"
}
