#!/usr/bin/env bash
# Runs the static binary alone in a root folder that holds nothing else, with nftables. Then builds the image of
# deploy/Containerfile and runs it as an init container: podman and runc, a read-only root, two capabilities, in network
# namespaces of its own; with both iptables, IPv4 and IPv6, and real connections. Then checks deploy/compose, whose init
# containers it runs as they stand there.
#
# usage: scripts/image.sh [--output FILE]     --output also writes the image there, as an OCI archive.
#
# Needs root. Everything else is made in a temporary folder, the image's storage too, and is gone at the end.
# MESH_INIT_BIN: the binary, which must be static (default: the release for musl, built here).
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly PYTHON=/usr/bin/python3
readonly proxy_uid=1337 app_uid=1000
readonly -A elsewhere=([4]=10.79.0.2 [6]=fd79::2)

passed=0 failed=0
work='' root='' netns='' listener='' output=''

main() {
    case ${1-} in
    '') ;;
    --output) output=$(realpath -m "${2:?--output needs a file}") ;;
    *) die 64 "unknown argument '$1'" ;;
    esac
    need_root
    need_packages iptables-nft=iptables nft=nftables ip=iproute2 nsenter=util-linux strace=strace buildah=buildah podman=podman runc=runc \
        "$PYTHON=python3" /usr/lib/python3/dist-packages/yaml/__init__.py=python3-yaml
    local bin=${MESH_INIT_BIN-}
    [[ -n $bin ]] || bin=$(build)
    [[ -f $bin && -x $bin ]] || die 69 "missing: $bin"
    # Only the build was the caller's.
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$bin" "TMPDIR=${TMPDIR-}" "$BASH" "${BASH_SOURCE[0]}" "$@"

    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    work=$(mktemp -d "${TMPDIR:-/tmp}/mesh-init-image.XXXXXX")
    chmod 755 "$work"
    alone "$bin"
    tools
    make_image "$bin"
    try legacy
    try nft
    compose
    [[ -z $output ]] || buildah_ push --quiet "$image" "oci-archive:$output:localhost/mesh-init:$version"
    echo
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

leave() {
    local status=$?
    set +e
    end_namespace
    find /sys/fs/cgroup -depth -path "*/mesh-init-image-$$*" -type d -exec rmdir {} \; 2>/dev/null
    [[ -z $work ]] || rm -rf -- "$work"
    exit "$status"
}

check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok    $what"
    else
        failed=$((failed + 1))
        echo "FAIL  $what"
        sed 's/^/        /' "$work/log" 2>/dev/null || true
    fi
}

not() { ! "$@"; }

# === Alone ===

# The program in a root folder with nothing but itself: no /proc, no /dev, no /etc, no iptables. nftables needs none of
# it, and whatever is asked is one program run.
alone() { # BINARY
    local flags=(-p 15001 -u "$proxy_uid") words='on nftables (no iptables is installed)' backend family
    root=$work/alone
    install -D -m 755 "$1" "$root/mesh-init"
    for backend in nftables auto; do
        printf '\n== alone, %s\n' "$backend"
        if [[ $backend == nftables ]]; then
            flags+=(--backend nftables) words='on nftables (asked for)'
        else
            flags=("${flags[@]:0:4}") words='on nftables (no iptables is installed)'
        fi
        make_namespace
        for family in -4 -6; do ip -n "$netns" "$family" route add default dev eth0; done
        check 'it makes the rules' once 0 "$words" "${flags[@]}"
        check 'for IPv4 and IPv6' tables 2
        check 'again, it has nothing to do' once 0 'nothing to do' "${flags[@]}"
        for family in 4 6; do check "IPv$family: a connection of uid $app_uid gets to the proxy" connects "$family"; done
        check 'it tells what it would change' once 0 'chain nat_outbound' plan --live "${flags[@]}" -i 10.79.0.0/16
        check 'it replaces them' once 0 '^changed ' "${flags[@]}" -i 10.79.0.0/16,fd79::/64
        for family in 4 6; do check "IPv$family: a connection of uid $app_uid gets to the proxy" connects "$family"; done
        check 'it says what is captured' once 0 '^captured: ' status
        check 'it tries it' once 0 'inbound IPv6: captured (conntrack)' verify
        check 'and elsewhere than at a proxy' once 0 '^changed ' -p 15009 "${flags[@]:2}"
        check 'with a token' once 0 'outbound IPv4: captured (probe)' verify --strict
        check 'it explains the rules' once 0 '^captured -> 15009: ' explain --live 'out tcp uid=1000 [fd79::2]:80'
        check 'it takes them away' once 0 'removed' clean
        check 'all of them' tables 0
        end_namespace
    done
    check 'the folder holds nothing else' test "$(ls -A "$root")" = mesh-init
    # That the count counts: iptables is run by programs.
    make_namespace
    check 'iptables takes more than one program' not once_in / 0 changed "$1" -p 15001 --iptables-variant nft
    end_namespace
}

once() { once_in "$root" "$1" "$2" /mesh-init "${@:3}"; } # CODE TEXT ARGUMENT...

# once_in ROOT CODE TEXT PROGRAM ARGUMENT...: it ends with that code, saying that text, having been the one program that
# was run since its folder became the root.
once_in() {
    local rc=0 runs
    in_image nsenter --net="/run/netns/$netns" env -i PATH="$PATH" strace -f -qq \
        -e trace=execve,execveat -e signal=none -o "$work/strace" chroot "$1" "${@:4}" || rc=$?
    runs=$(grep -c 'exec.* = 0$' "$work/strace")
    ((rc == $2 && runs == 2)) && grep -q -e "$3" "$work/log" && return
    echo "      exit $rc, $((runs - 1)) programs"
    return 1
}

tables() { # N
    (($(ip netns exec "$netns" nft list tables | grep -c '^table ip6\? mesh_init$') == $1))
}

# === The image ===

build() {
    local triple
    triple=$(uname -m)-unknown-linux-musl
    need_rust
    if command -v rustup >/dev/null; then
        (cd "${project:?}" && rustup target add "$triple") >&2
    fi
    (cd "$project" && cargo build --locked --quiet --release --target "$triple" --bin mesh-init) >&2
    echo "$(target_dir)/$triple/release/mesh-init"
}

# Storage, state and settings of their own: nothing of the machine's containers is touched.
tools() {
    mkdir "$work/storage" "$work/state" "$work/tmp"
    cat >"$work/containers.conf" <<EOF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "$work/tmp"
[containers]
log_driver = "k8s-file"
EOF
    export CONTAINERS_CONF=$work/containers.conf TMPDIR=$work/tmp
    # podman's own limits may be above this machine's, and raising one takes a privilege that root need not have.
    limits=(--ulimit nofile=1024:1024 --ulimit nproc=256:256)
    limits+=(--cgroup-parent "/mesh-init-image-$$")
    storage=(--root "$work/storage" --runroot "$work/state" --storage-driver vfs)
}

buildah_() { buildah "${storage[@]}" "$@"; }

make_image() { # BINARY
    local context=$work/context again
    version=$("$1" --version)
    version=${version##* }
    image=localhost/mesh-init:$version
    make_rootfs "$context/rootfs" "$1"
    bud "$context" "$image"
    bud "$context" "$image-again"
    again=$(id_of "$image-again")
    check 'the same files make the same image' test "$(id_of "$image")" = "$again"
    printf '      %s: %s, of which mesh-init %s\n' "$image" "$(size "$context/rootfs")" "$(size "$1")"
    check 'it runs, alone in its file system' in_image run_ --network none -- --version
}

bud() { # CONTEXT TAG
    buildah_ bud --isolation chroot --timestamp 0 --quiet --build-arg "VERSION=$version" -t "$2" \
        -f "$project/deploy/Containerfile" "$1" >"$work/log" || die 1 "buildah: $(cat "$work/log")"
}

id_of() { buildah_ inspect --type image --format '{{.FromImageID}}' "$1"; }
size() { du -sbL "$1" | awk '{ printf "%.1f MB", $1 / 1e6 }'; }

# The programs of this machine's iptables package, with their extensions, libraries and licences.
make_rootfs() { # FOLDER BINARY
    local root=$1 name real extensions file files=()
    install -D -m 755 "$2" "$root/usr/local/bin/mesh-init"
    ln -s mesh-init "$root/usr/local/bin/istio-iptables"
    mkdir -p "$root/usr/sbin"
    for name in ip{,6}tables-{legacy,nft}{,-restore,-save}; do
        real=$(realpath "$(command -v "$name")") || die 69 "missing: $name"
        files+=("$real")
        ln -s "$real" "$root/usr/sbin/$name"
    done
    extensions=$(find /usr/lib /usr/lib64 -name libxt_owner.so -printf '%h\n' -quit 2>/dev/null)
    [[ $extensions ]] || die 69 'missing: the extensions of iptables'
    for file in "$extensions"/*.so; do files+=("$file"); done
    # The loader stands in its lines alone, the others behind an arrow.
    while read -r file; do files+=("$file"); done < <(
        ldd "${files[@]}" | sed -n 's|.*[[:space:]]\(/[^ :]*\) (0x.*|\1|p' | sort -u
    )
    for file in "${files[@]}"; do
        [[ -e $root$file ]] || install -D -m 755 "$file" "$root$file"
        licence "$root" "$file"
    done
}

# Its package's copyright file, where dpkg knows the package.
licence() { # ROOT FILE
    local package
    package=$(dpkg-query -S "$2" 2>/dev/null || dpkg-query -S "/usr$2" 2>/dev/null) || return 0
    package=${package%%:*}
    [[ ! -e /usr/share/doc/$package/copyright ]] ||
        install -D -m 644 "/usr/share/doc/$package/copyright" "$1/usr/share/doc/$package/copyright"
}

# === The init container ===

# run_ OPTION... -- ARGUMENT...: a container with nothing that an option does not give.
run_() {
    local options=()
    while [[ $1 != -- ]]; do options+=("$1") && shift; done
    podman "${storage[@]}" run --rm --pull never --read-only --read-only-tmpfs=false --cap-drop ALL \
        "${limits[@]}" "${options[@]}" "$image" "${@:2}"
}

# in_image COMMAND...: its output to the log; its exit code.
in_image() { "$@" </dev/null >"$work/log" 2>&1; }

init() { # CAPABILITIES ARGUMENT...
    local capability options=(--network host --entrypoint "/usr/local/bin/${called:-mesh-init}")
    for capability in $1; do options+=(--cap-add "$capability"); done
    # podman must not get a mount namespace too, as `ip netns exec` would give it: its cgroups would be hidden.
    in_image nsenter --net="/run/netns/$netns" "$BASH" -c \
        "$(declare -f run_); $(declare -p storage limits image); run_ \"\$@\"" run_ "${options[@]}" -- "${@:2}"
}

exits() { # CODE TEXT COMMAND...: with that code, saying that text
    local rc=0
    "${@:3}" || rc=$?
    ((rc == $1)) && grep -q -e "$2" "$work/log" && return
    echo "      exit $rc"
    return 1
}

try() { # VARIANT
    local variant=$1 other family
    [[ $variant == nft ]] && other=legacy || other=nft
    local flags=(-p 15001 -u "$proxy_uid" --iptables-variant "$variant")
    printf '\n== %s\n' "$variant"
    make_namespace
    for family in 4 6; do check "IPv$family: nobody answers at ${elsewhere[$family]}" not connects "$family"; done
    check 'without NET_ADMIN it names that' exits 77 'missing CAP_NET_ADMIN;' init NET_RAW "${flags[@]}"
    check 'without NET_RAW it names that' exits 77 'missing CAP_NET_RAW;' init NET_ADMIN "${flags[@]}"
    check 'without any it names both' exits 77 'CAP_NET_ADMIN and CAP_NET_RAW' init '' "${flags[@]}"
    check 'and leaves nothing' not chains "$variant" 1
    check 'the init container makes the rules' exits 0 changed init 'NET_ADMIN NET_RAW' "${flags[@]}"
    check 'for IPv4 and IPv6' chains "$variant" 2
    check "and none of iptables-$other" not chains "$other" 1
    check 'again, it has nothing to do' exits 0 'nothing to do' init 'NET_ADMIN NET_RAW' "${flags[@]}"
    for family in 4 6; do check "IPv$family: a connection of uid $app_uid gets to the proxy" connects "$family"; done
    check 'it says what is captured' exits 0 "$proxy_uid" init 'NET_ADMIN NET_RAW' status
    check 'it takes the rules away' exits 0 removed init 'NET_ADMIN NET_RAW' clean
    check 'all of them' not chains "$variant" 1
    called=istio-iptables check 'called istio-iptables, it takes the flags of that' \
        exits 0 '' init 'NET_ADMIN NET_RAW' -p 15001 -z 15006 -u "$proxy_uid" -m REDIRECT -i '*' -b '*' -d 15090,15021
    check 'and makes the rules of that' inbound_redirect
    end_namespace
}

# === The compose file ===

compose() {
    local file=$project/deploy/compose/compose.yaml name caps command
    printf '\n== compose\n'
    check 'every application and sidecar waits for its init container, which has what it needs' \
        in_image inits "$file" "$image"
    while IFS='|' read -r name caps command; do
        make_namespace
        # shellcheck disable=SC2086 # words
        check "$name makes the rules" exits 0 changed init "$caps" $command
        check 'for IPv4 and IPv6' chains nft 2
        end_namespace
    done < <(inits "$file" "$image" | sort -t'|' -u -k2)
}

# inits FILE IMAGE: its init containers, a line each: name, capabilities and arguments, with bars between.
inits() {
    "$PYTHON" - "$@" <<'EOF'
import sys, yaml
services = yaml.safe_load(open(sys.argv[1]))["services"]
inits = {name: it for name, it in services.items() if name.endswith("-init")}
assert inits
for name, it in inits.items():
    assert it["image"] == sys.argv[2], f"{name}: {it['image']}, not {sys.argv[2]}"
    assert it["cap_drop"] == ["ALL"] and sorted(it["cap_add"]) == ["NET_ADMIN", "NET_RAW"], f"{name}: capabilities"
    assert it["read_only"] is True and not it.get("privileged"), f"{name}: rights"
    pod = it["network_mode"].removeprefix("service:")
    assert services[pod]["networks"] and "depends_on" not in services[pod], f"{name}: {pod} has no network of its own"
    users = [n for n, other in services.items() if other.get("network_mode") == it["network_mode"] and n != name]
    assert len(users) == 2, f"{name}: {users}"
    for user in users:
        waits = services[user]["depends_on"][name]["condition"]
        assert waits == "service_completed_successfully", f"{user}: {waits}"
    print(name, " ".join(it["cap_add"]), " ".join(it["command"]), sep="|")
for name, it in services.items():
    captured = f"{name.removesuffix('-sidecar')}-init" in inits
    assert captured or "networks" in it or name in inits, f"{name}: not captured"
EOF
}

# chains VARIANT N: proxy_init's chains are there in at least N families.
chains() {
    local family found=0
    for family in ip ip6; do
        ip netns exec "$netns" "${family}tables-$1-save" >"$work/save" 2>/dev/null
        if grep -q '^:ISTIO_REDIRECT' "$work/save" && grep -q '^-A ISTIO_OUTPUT .* ISTIO_REDIRECT' "$work/save"; then
            found=$((found + 1))
        fi
    done
    ((found >= $2))
}

# inbound_redirect: today's chain for inbound traffic, which proxy_init 0.7.1 did not have, in either iptables.
inbound_redirect() {
    local which
    for which in legacy nft; do ip netns exec "$netns" "iptables-$which-save"; done >"$work/save" 2>/dev/null
    grep -q '^-A ISTIO_IN_REDIRECT .*--to-ports 15006' "$work/save"
}

make_namespace() {
    netns=mesh-init-image-$$
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    ip -n "$netns" link add eth0 type veth peer name eth1
    ip -n "$netns" address add "${elsewhere[4]%2}1/24" dev eth0
    ip -n "$netns" address add "${elsewhere[6]%2}1/64" dev eth0 nodad
    ip -n "$netns" link set eth0 up
    ip -n "$netns" link set eth1 up
    cat >"$work/proxy.py" <<'EOF'
import socket, struct
server = socket.create_server(("::", 15001), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, peer = server.accept()
    try:
        if peer[0].startswith("::ffff:"):
            packed = connection.getsockopt(socket.IPPROTO_IP, 80, 16)
            address = socket.inet_ntop(socket.AF_INET, packed[4:8])
        else:
            packed = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
            address = socket.inet_ntop(socket.AF_INET6, packed[8:24])
        connection.sendall(f"{address} {struct.unpack('!H', packed[2:4])[0]}".encode())
    except OSError:
        pass  # it came here by itself
    connection.close()
EOF
    cat >"$work/application.py" <<'EOF'
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=2) as connection:
    sys.exit(connection.recv(100).decode() != f"{sys.argv[1]} 80")
EOF
    as "$proxy_uid" "$PYTHON" "$work/proxy.py" &
    listener=$!
    local tries=0
    local reach='import socket; socket.create_connection(("127.0.0.1", 15001)).close()'
    until as "$app_uid" "$PYTHON" -c "$reach" 2>/dev/null; do
        ((++tries < 50)) || die 1 'the listener did not start'
        sleep 0.1
    done
}

# connects FAMILY: an application's connection to somewhere else reaches the proxy, which can tell where it was to go.
connects() { as "$app_uid" "$PYTHON" "$work/application.py" "${elsewhere[$1]}" >"$work/log" 2>&1; }

# as UID COMMAND...: it replaces this shell, so that the pid is the command's.
as() {
    (exec nsenter --net="/run/netns/$netns" setpriv --pdeathsig KILL --reuid "$1" --regid "$1" --clear-groups "${@:2}")
}

end_namespace() {
    [[ -z $listener ]] || { kill "$listener" && wait "$listener"; } 2>/dev/null || true
    listener=''
    [[ -z $netns || ! -e /run/netns/$netns ]] || ip netns del "$netns"
    netns=''
}

main "$@"
