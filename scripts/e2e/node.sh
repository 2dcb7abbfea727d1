# The place where a container runtime is run: network, mount and process namespaces of its own, and images of one static
# program. Sourced by scripts/e2e-containerd.sh and scripts/e2e-podman.sh.
# shellcheck shell=bash disable=SC2154 # $project is theirs

work='' inner=''

# binary: the path of the mesh-init to try.
binary() {
    local bin=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    if [[ -z ${MESH_INIT_BIN-} ]]; then
        need_rust
        (cd "$project" && cargo build --locked --quiet --profile suite --bin mesh-init) >&2
    fi
    [[ -f $bin && -x $bin ]] || die 69 "missing: $bin"
    realpath "$bin"
}

# on_a_node SCRIPT ARGUMENTS...: runs `SCRIPT --inside WORK ARGUMENTS...` in namespaces that end with it.
on_a_node() {
    local rc=0
    work=$(mktemp -d /tmp/mesh-init-node.XXXXXX)
    trap leave_node EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    setpriv --pdeathsig KILL unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
        "$BASH" "$1" --inside "$work" "${@:2}" </dev/null &
    inner=$!
    wait "$inner" || rc=$?
    inner=''
    exit "$rc"
}

leave_node() {
    local status=$?
    set +e
    [[ -z $inner ]] || { kill -KILL "$inner" && wait "$inner"; } 2>/dev/null
    find /sys/fs/cgroup -depth -path "*/${work##*/}*" -type d -exec rmdir {} \; 2>/dev/null
    rmdir "$work"
    exit "$status"
}

# furnish WORK BIN ENVOY: what a node has.
furnish() {
    work=$1
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    mount -t tmpfs -o mode=755 mesh-init-e2e "$work"
    # The runtimes keep their own here, whatever their settings say.
    mkdir -p "$work/netns" "$work/lib-cni" /run/netns /var/lib/cni
    mount --bind "$work/netns" /run/netns
    mount --bind "$work/lib-cni" /var/lib/cni
    ip link set lo up
    : >"$work/envoy"
    mount --bind "$3" "$work/envoy"
    install -m 755 "$2" "$work/mesh-init"
}

# furnish_sockets: what capture at the sockets needs, for this run alone. The run's control group is that of the pods, too,
# and what has groups with controllers in it must not have processes.
furnish_sockets() {
    local group=$work/cgroup/${work##*/}/node
    mount -t bpf -o mode=700 mesh-init-e2e /sys/fs/bpf
    mkdir "$work/cgroup"
    mount -t cgroup2 mesh-init-e2e "$work/cgroup"
    mkdir -p "$group"
    echo 0 >"$group/cgroup.procs"
}

# image_root DIR NAME: the files of an image: `pause`, which does nothing, or `app`, with the application.
image_root() {
    if [[ $2 == pause ]]; then
        echo 'int pause(void); int main(void) { for (;;) pause(); }' | gcc -static -O2 -x c -o "$work/pause" -
        install -D -m 755 "$work/pause" "$1/pause"
        return
    fi
    install -D -m 755 /bin/busybox "$1/bin/busybox"
    install -D -m 755 "$project/tests/e2e/who.sh" "$1/www/cgi-bin/who"
    install -D -m 755 "$project/tests/e2e/ask.sh" "$1/bin/ask"
    "$1/bin/busybox" --list | while read -r applet; do
        [[ $applet == busybox ]] || ln -s busybox "$1/bin/$applet"
    done
    mkdir -m 1777 "$1/tmp"
}
