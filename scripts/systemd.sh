#!/usr/bin/env bash
# Checks deploy/systemd: the units' text, their order, and a boot of the real systemd with them.
#
#   text    systemd-analyze verify, and systemd-analyze security with a limit
#   order   each order that the units promise: systemd must find a cycle once another unit claims the opposite, and
#           none beside the units of Debian's firewall managers, network services and cloud-init as they are
#   boot    systemd as PID 1 of namespaces of its own, on a copy of this machine's files that is thrown away: what is
#           captured when the network comes up, and after each way to flush it; with both iptables
#
# usage: scripts/systemd.sh           Needs root. MESH_INIT_BIN: the binary (default: the suite profile's, built here).
set -euo pipefail
shopt -s inherit_errexit

# shellcheck source=scripts/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly units=(mesh-init.service mesh-init-verify.service mesh-init-verify.timer)
# Of 100: what is left is root, the network and the capabilities for it, which capturing needs.
readonly exposure_limit=25
readonly managers=(nftables firewalld ufw netfilter-persistent iptables ip6tables ferm shorewall shorewall6)

passed=0 failed=0
work='' inner='' root='' terminal='' init='' group=''

main() {
    case ${1-} in
    '') outside ;;
    --inside) inside "$2" "$3" ;;
    --terminal) on_terminal "$2" "$3" "$4" ;;
    --pid-1) pid_1 "$2" ;;
    *) die 64 "unknown argument '$1'" ;;
    esac
}

inside() {
    work=$1 bin=$2
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    text
    order
    boot nft nftables
    boot legacy firewalld
    echo
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

# What needs the caller's rights; then as root, in a mount namespace, where nothing mounted is left behind.
outside() {
    need_root
    need_packages systemd-analyze=systemd iptables=iptables nft=nftables ip=iproute2 nsenter=util-linux script=bsdutils
    local bin=${MESH_INIT_BIN:-$(target_dir)/suite/mesh-init}
    if [[ -z ${MESH_INIT_BIN-} ]]; then
        need_rust
        (cd "${project:?}" && cargo build --locked --quiet --profile suite --bin mesh-init) >&2
    fi
    [[ -f $bin && -x $bin ]] || die 69 "missing: $bin"
    # Only the build was the caller's.
    ((EUID == 0)) || exec sudo -- env "MESH_INIT_BIN=$(realpath "$bin")" "TMPDIR=${TMPDIR-}" "$BASH" "${BASH_SOURCE[0]}"
    local rc=0
    work=$(mktemp -d "${TMPDIR:-/tmp}/mesh-init-systemd.XXXXXX")
    trap abandon EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    unshare --mount --propagation private \
        "$BASH" "$project/scripts/systemd.sh" --inside "$work" "$(realpath "$bin")" </dev/null &
    inner=$!
    wait "$inner" || rc=$?
    inner=''
    exit "$rc"
}

abandon() {
    local status=$?
    set +e
    [[ -z $inner ]] || { kill "$inner" && wait "$inner"; } 2>/dev/null
    rm -rf -- "$work"
    exit "$status"
}

leave() {
    local status=$?
    set +e
    ((status == 0)) || [[ -z $terminal ]] || tail -n 60 "$work/console"
    power_off
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
    fi
}

# within SECONDS COMMAND...: polls.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

not() { ! "$@"; }

# === The text ===

# Copies of the units whose program is there.
install_units() { # FOLDER
    local unit
    mkdir -p "$1"
    for unit in "${units[@]}"; do
        sed "s|/usr/local/bin/mesh-init|$bin|" "$project/deploy/systemd/$unit" >"$1/$unit"
    done
}

text() {
    printf '\n== text\n'
    install_units "$work/text"
    check 'systemd-analyze verify has nothing to say' verified "$work/text"
    local unit
    for unit in mesh-init.service mesh-init-verify.service; do
        check "$unit is not exposed more than $exposure_limit of 100" exposed_little "$work/text/$unit"
    done
    for unit in mesh-init.service mesh-init-verify.service; do
        check "$unit: mesh-init understands its command lines, and the sample policy" understood "$unit"
    done
}

verified() { # FOLDER
    systemd-analyze verify "${units[@]/#/$1/}" >"$work/verify.log" 2>&1 && [[ ! -s $work/verify.log ]] && return
    cat "$work/verify.log"
    return 1
}

exposed_little() {
    systemd-analyze security --no-pager --offline=true --threshold=$exposure_limit "$1" >"$work/security.log" ||
        { cat "$work/security.log" && return 1; }
    grep 'Overall exposure' "$work/security.log" | sed 's/^[^O]*/      /'
}

# understood UNIT: no line of it is bad input (64) to the program, which runs in a namespace that is gone afterwards.
understood() {
    local line words rc
    while read -r line; do
        read -ra words <<<"${line/\/etc\/mesh-init\/policy.json/$project/deploy/systemd/policy.json}"
        rc=0
        unshare --net "$bin" "${words[@]:1}" >"$work/line.log" 2>&1 || rc=$?
        ((rc == 0 || rc == 1)) || { echo "exit $rc: $line" && cat "$work/line.log" && return 1; }
    done < <(sed -n 's|^Exec[A-Za-z]*=\(/usr/local/bin/mesh-init \)|\1|p' "$project/deploy/systemd/$1")
}

# === The order ===

order() {
    printf '\n== order\n'
    local other
    for other in "${managers[@]/%/.service}" local-fs.target; do
        check "after $other" promised mesh-init.service Before "$other"
    done
    check 'before network-pre.target' promised mesh-init.service After network-pre.target
    for other in network.target network-online.target application.service; do
        check "before $other, by way of networkd" promised mesh-init.service After "$other" systemd-networkd.service
    done
    check 'verification after mesh-init.service' promised mesh-init-verify.service Before mesh-init.service
    for other in "${managers[@]/%/.service}"; do
        check "verification after $other" promised mesh-init-verify.service Before "$other"
    done
    local common=(mesh-init-verify.timer application.service docker.service)
    local network=(systemd-networkd.service networking.service)
    check 'no cycle with nftables, ufw, netfilter-persistent, networkd, ifupdown, cloud-init and Docker' \
        not cycle_with mesh-init.service '' '' nftables.service ufw.service netfilter-persistent.service \
        "${network[@]}" cloud-init-local.service cloud-init.service "${common[@]}"
    check 'which default dependencies would make' lacking DefaultDependencies \
        cycle_with mesh-init.service '' '' "${network[@]}" cloud-init-local.service cloud-init.service "${common[@]}"
    check 'no cycle with firewalld, NetworkManager and Docker' \
        not cycle_with mesh-init.service '' '' firewalld.service NetworkManager.service "${common[@]}"
}

# lacking SETTINGS COMMAND...
lacking() {
    local without=$1
    "${@:2}"
}

# promised UNIT WAY OTHER [MORE...]: WAY=OTHER is the opposite of what UNIT says, by its own words.
promised() {
    cycle_with "$@" && not lacking 'After|Before' cycle_with "$@"
}

# cycle_with UNIT WAY OTHER [MORE...]: systemd finds a cycle in a boot with UNIT, to which WAY=OTHER was added, OTHER
# and MORE. $without: settings of UNIT that are left out.
cycle_with() {
    local unit=$1 way=$2 other=$3 dir=$work/order each
    shift 3
    rm -rf "$dir"
    install_units "$dir"
    stand_ins "$dir"
    [[ -z ${without-} ]] || sed -i -E "/^($without)=/d" "$dir/$unit"
    mkdir "$dir/$unit.d"
    [[ -z $way ]] || printf '[Unit]\nDefaultDependencies=no\n%s=%s\n' "$way" "$other" >"$dir/$unit.d/opposite.conf"
    printf '[Unit]\nDefaultDependencies=no\nWants=%s %s\n' \
        "sysinit.target basic.target multi-user.target network-online.target" \
        "mesh-init.service mesh-init-verify.service $other $*" >"$dir/boot.target"
    # Only the targets of systemd's own units: what this machine has enabled is none of this check.
    for each in /usr/lib/systemd/system/*.target; do [[ -e $dir/${each##*/} ]] || ln -s "$each" "$dir/"; done
    SYSTEMD_UNIT_PATH=$dir systemd-analyze verify --man=no --generators=no "$dir/boot.target" \
        >"$work/order.log" 2>&1 || true
    grep -q 'ordering cycle' "$work/order.log"
}

# The order that the units of others have in Debian 12, and a program that is there.
stand_ins() { # FOLDER
    local name text
    mkdir -p "$1"
    while IFS='|' read -r name text; do
        printf '[Unit]\n%b\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecReload=/bin/true\n' \
            "$text" >"$1/$name.service"
    done <<'EOF'
nftables|DefaultDependencies=no\nConflicts=shutdown.target\nWants=network-pre.target\nBefore=network-pre.target shutdown.target
firewalld|Wants=network-pre.target\nBefore=network-pre.target\nAfter=dbus.service polkit.service
ufw|DefaultDependencies=no\nWants=network-pre.target local-fs.target\nBefore=network-pre.target\nAfter=local-fs.target
netfilter-persistent|DefaultDependencies=no\nConflicts=shutdown.target\nWants=network-pre.target systemd-modules-load.service local-fs.target\nBefore=network-pre.target shutdown.target\nAfter=systemd-modules-load.service local-fs.target
iptables|Before=network-pre.target\nWants=network-pre.target\nAfter=syslog.target
ip6tables|Before=network-pre.target\nWants=network-pre.target\nAfter=syslog.target iptables.service
ferm|DefaultDependencies=no\nWants=network-pre.target\nBefore=network-pre.target\nAfter=local-fs.target
shorewall|Wants=network-pre.target\nBefore=network-pre.target\nAfter=local-fs.target
shorewall6|Wants=network-pre.target\nBefore=network-pre.target\nAfter=local-fs.target
systemd-networkd|DefaultDependencies=no\nConflicts=shutdown.target\nAfter=network-pre.target\nBefore=network.target multi-user.target shutdown.target\nWants=network.target
systemd-networkd-wait-online|DefaultDependencies=no\nConflicts=shutdown.target\nRequires=systemd-networkd.service\nAfter=systemd-networkd.service\nBefore=network-online.target shutdown.target
NetworkManager|Wants=network.target\nAfter=network-pre.target dbus.service\nBefore=network.target
networking|DefaultDependencies=no\nConflicts=shutdown.target\nWants=network.target\nAfter=local-fs.target network-pre.target systemd-modules-load.service\nBefore=network.target shutdown.target network-online.target
cloud-init-local|DefaultDependencies=no\nConflicts=shutdown.target\nWants=network-pre.target\nBefore=NetworkManager.service network-pre.target shutdown.target sysinit.target
cloud-init|DefaultDependencies=no\nConflicts=shutdown.target\nWants=cloud-init-local.service\nAfter=cloud-init-local.service systemd-networkd-wait-online.service networking.service\nBefore=network-online.target sysinit.target shutdown.target
docker|Wants=network-online.target\nAfter=network-online.target firewalld.service
application|After=network.target
EOF
}

# === The boot ===

# boot VARIANT MANAGER: with a firewall manager that flushes the rules of that iptables.
boot() {
    local variant=$1 manager=$2
    printf '\n== boot: iptables-%s, %s\n' "$variant" "$manager"
    make_root
    write_machine "$variant" "$manager"
    power_on
    check 'the boot comes to its end' within 30 booted
    check 'no ordering cycle is reported' not grep -q 'ordering cycle' "$work/console"
    check 'mesh-init.service is active' ctl is-active --quiet mesh-init.service
    check "the rules were there before the first interface was up" captured_in "$root/root/at-network"
    check "the rules were there before the application" captured_in "$root/root/at-application"
    check 'the rules are there' captured
    check "iptables-legacy's lock can be shared" test -e "$root/run/xtables.lock"
    check 'mesh-init-verify.timer is active' ctl is-active --quiet mesh-init-verify.timer
    check 'mesh-init-verify.service succeeds in its sandbox' ctl start mesh-init-verify.service

    local application
    application=$(ctl show --value -p InvocationID application.service)
    # The timer must not be what helps here.
    ctl stop mesh-init-verify.timer
    ctl restart "$manager.service"
    check "$manager restarted: the rules come back" within 10 captured
    ctl reload "$manager.service"
    check "$manager reloaded: the rules come back" within 10 captured
    check "$manager's own rules are there" others
    check 'nothing of this restarted the application that requires mesh-init.service' \
        same "$application" "$(ctl show --value -p InvocationID application.service)"

    in_boot nft flush ruleset
    flush_legacy
    check 'flushed by hand: no rules' not captured
    ctl start mesh-init-verify.timer
    check 'flushed by hand: the timer has the rules made again' within 20 captured
    ctl stop "$manager.service"
    check "$manager stopped: mesh-init.service goes on" ctl is-active --quiet mesh-init.service
    check "$manager stopped: the rules come back" within 20 captured
    ctl start "$manager.service"
    check "$manager started: the rules come back" within 20 captured

    ctl stop application.service mesh-init.service
    check 'mesh-init.service stopped: nothing of ours is left' not ours
    check "mesh-init.service stopped: $manager's own rules are there" others
    ctl restart "$manager.service"
    sleep 4
    check 'mesh-init.service stopped: nothing puts the rules back' not ours
    check 'no unit has failed' nothing_failed
    ((failed == 0)) || { ctl status --no-pager 'mesh-init*' || true; tail -n 60 "$work/console"; }
    power_off
}

# A copy of this machine's files in which only the units of this check exist.
make_root() {
    local layers=$work/layers system=usr/lib/systemd/system device
    root=$work/root
    mkdir -p "$layers" "$root"
    mount -t tmpfs -o mode=755 mesh-init-systemd "$layers"
    mkdir "$layers/upper" "$layers/work"
    mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" mesh-init-systemd "$root" ||
        die 69 'this kernel has no overlay file system'
    for device in run tmp root dev etc/systemd usr/lib/systemd/system usr/lib/systemd/system-generators; do
        mount -t tmpfs -o mode=755 mesh-init-systemd "$root/$device"
    done
    mkdir -p "$root/etc/systemd/system" "$root/dev/pts" "$root/dev/shm"
    cp -a /$system/*.target /$system/modprobe@.service "$root/$system/"
    for device in null zero full random urandom tty; do cp -a "/dev/$device" "$root/dev/"; done
    touch "$root/dev/console"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s pts/ptmx "$root/dev/ptmx"
    : >"$root/etc/fstab"
}

write_machine() { # VARIANT MANAGER
    local etc=$root/etc/systemd/system manager=$2 flush application=$root/etc/systemd/system/application.service
    install -D -m 755 "$bin" "$root/usr/local/bin/mesh-init"
    install -D -m 644 "$project/deploy/systemd/policy.json" "$root/etc/mesh-init/policy.json"
    mkdir -p "$root/etc/default"
    printf 'MESH_INIT_IPTABLES_VARIANT=%s\n' "$1" >"$root/etc/default/mesh-init"
    install -m 644 "${units[@]/#/$project/deploy/systemd/}" "$etc/"
    stand_ins "$work/machine"
    if [[ $1 == nft ]]; then
        flush="/usr/sbin/nft -f /etc/nftables.conf"
        printf 'flush ruleset\ntable inet own_rules {\n}\n' >"$root/etc/nftables.conf"
    else
        flush='/bin/sh -e /etc/load-own-rules'
        printf '%s </etc/own-rules\n' iptables-legacy-restore ip6tables-legacy-restore >"$root/etc/load-own-rules"
        printf '*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:OWN_RULES -\nCOMMIT\n' \
            >"$root/etc/own-rules"
    fi
    sed "s|=/bin/true|=$flush|" "$work/machine/$manager.service" >"$etc/$manager.service"
    printf 'ExecStop=%s\n' "$flush" >>"$etc/$manager.service"
    printf '[Install]\nWantedBy=multi-user.target\n' >>"$etc/$manager.service"
    cp "$work/machine/systemd-networkd.service" "$etc/network.service"
    printf '%s\n' "iptables-$1-save" "ip6tables-$1-save" >"$root/etc/look"
    {
        echo 'sh -e /etc/look >/root/at-network'
        echo 'ip link add eth0 type veth peer name eth1'
        echo 'ip link set eth0 up'
    } >"$root/etc/start-network"
    sed -i 's|^ExecStart=.*|ExecStart=/bin/sh -e /etc/start-network|' "$etc/network.service"
    printf '[Install]\nWantedBy=multi-user.target\n' >>"$etc/network.service"
    # With the drop-in that mesh-init.service describes, and no word about the network.
    {
        sed -n '/^#   \[Unit\]/,/^#   After/s/^#   //p' "$project/deploy/systemd/mesh-init.service"
        printf '[Service]\nType=oneshot\nRemainAfterExit=yes\n'
        printf 'ExecStart=/bin/sh -e /etc/look\nStandardOutput=file:/root/at-application\n'
        printf '[Install]\nWantedBy=multi-user.target\n'
    } >"$application"
    (($(grep -c -E '^(Requires|After)=mesh-init.service$' "$application") == 2)) ||
        die 1 'mesh-init.service does not describe the drop-in any more'
    # Not half a minute for each check.
    mkdir "$etc/mesh-init-verify.timer.d"
    printf '[Timer]\nOnActiveSec=\nOnUnitInactiveSec=\nOnActiveSec=2s\nOnUnitInactiveSec=2s\nAccuracySec=10ms\n' \
        >"$etc/mesh-init-verify.timer.d/often.conf"
    systemctl --root="$root" --quiet enable "$manager.service" network.service application.service mesh-init.service
    ln -sf /usr/lib/systemd/system/multi-user.target "$etc/default.target"
    variant=$1
}

power_on() {
    # A cgroup of its own, which systemd sees as the root.
    group=$work/cgroup
    mkdir -p "$group"
    mountpoint -q "$group" || mount -t cgroup2 mesh-init-systemd "$group" || die 69 'no cgroup v2 to be had'
    group=$group/mesh-init-systemd-$$
    mkdir "$group"
    : >"$work/console"
    # Its console is a terminal, whose lines go to a file.
    setpriv --pdeathsig KILL script -qefc \
        "exec '$BASH' '$project/scripts/systemd.sh' --terminal '$work' '$root' '$group'" \
        "$work/console" </dev/null >/dev/null 2>&1 &
    terminal=$!
    within 10 found_init || die 1 "systemd did not start: $(cat "$work/console")"
}

on_terminal() { # WORK ROOT GROUP
    echo $$ >"$3/cgroup.procs"
    echo $$ >"$1/init"
    exec unshare --mount --propagation private --pid --fork --kill-child --net --uts --ipc --cgroup \
        "$BASH" "$project/scripts/systemd.sh" --pid-1 "$2"
}

# What a container manager prepares. Nothing of the machine itself can be written: /proc/sys and /sys are read-only.
pid_1() { # ROOT
    local root=$1
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount --bind "$(tty)" "$root/dev/console"
    hostname mesh-init-systemd
    exec env -i PATH="$PATH" container=mesh-init-systemd TERM=dumb \
        unshare --root="$root" --wd=/ /lib/systemd/systemd --system --log-target=console --log-color=no \
        --show-status=no --default-standard-output=tty
}

found_init() {
    local pid
    [[ -s $work/init ]] || return 1
    read -r pid <"$work/init"
    read -r init < <(cat "/proc/$pid/task/$pid/children" && echo) || return 1
    [[ $init && $(<"/proc/$init/comm") == systemd ]]
}

power_off() {
    [[ -z $terminal ]] || {
        [[ -z $init ]] || kill -KILL "$init" 2>/dev/null
        kill -KILL "$terminal" 2>/dev/null
        wait "$terminal" 2>/dev/null
    } || true
    terminal='' init=''
    rm -f "$work/init"
    [[ -z $group ]] || within 5 remove_group || echo "left: $group" >&2
    group=''
    [[ -z $root ]] || umount -R -l "$root" "$work/layers" || true
    root=''
}

remove_group() {
    [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
    [[ ! -d $group ]]
}

in_boot() { nsenter --target "$init" --mount --net --pid --cgroup --uts --ipc --root --wd=/ -- "$@"; }
ctl() { in_boot systemctl --quiet "$@"; }

booted() {
    local state
    state=$(in_boot systemctl is-system-running 2>/dev/null) || [[ $state == degraded ]]
}

captured() {
    { in_boot "iptables-$variant-save" && in_boot "ip6tables-$variant-save"; } >"$work/save" 2>/dev/null &&
        captured_in "$work/save"
}

# The sample policy's rules, in both families.
captured_in() {
    local rule
    for rule in '--uid-owner 1338 .*mesh-init:outbound.all' '--dport 8001 .*mesh-init:inbound.port' \
        '-A OUTPUT .*mesh-init:outbound.hook' '-A PREROUTING .*mesh-init:inbound.hook'; do
        (($(grep -c -e "$rule" "$1") == 2)) || return 1
    done
}

# Anything of ours, in either iptables.
ours() {
    local which
    for which in ip{,6}tables-{nft,legacy}; do in_boot "$which-save"; done >"$work/save" 2>/dev/null
    grep -qE 'ISTIO|mesh-init' "$work/save"
}

others() {
    case $variant in
    nft) in_boot nft list table inet own_rules >/dev/null ;;
    legacy) in_boot iptables-legacy -t nat -S OWN_RULES >/dev/null ;;
    esac
}

flush_legacy() {
    local family
    [[ $variant == legacy ]] || return 0
    for family in iptables ip6tables; do
        in_boot "$family-legacy" -t nat -F
        in_boot "$family-legacy" -t nat -X
    done
}

same() { [[ $1 && $1 == "$2" ]]; }

nothing_failed() {
    local list
    list=$(ctl list-units --failed --plain --no-legend --no-pager)
    [[ -z $list ]] || { echo "$list" && return 1; }
}

main "$@"
