"""Pods through containerd, whose network is bridge, portmap and mesh-init: what is captured, and what is not.

containerd.py WORK PROJECT: in namespaces of its own, with what scripts/e2e-containerd.sh has put into WORK.

A captured request carries a header of the sidecar with the original destination, and the application says whom it
saw: one response tells which way it went.
"""

import json
import os
import sys

from checks import about, check, holds, poll
from cri import Refused, Runtime
from node import Node, at, both

WORK, PROJECT = sys.argv[1:]
node = Node(WORK, PROJECT)
MESH = {"sidecar.istio.io/status": '{"initContainers":["istio-validation"],"containers":["istio-proxy"]}'}
CONFLIST = f"{node.net_dir}/10-pods.conflist"
SOCKET = f"{WORK}/containerd.sock"
PORT = node.port
ATTACHMENTS = f"{node.bpf}/mesh-init/v1/attachments"


def start_containerd():
    with open(f"{WORK}/containerd.toml", "w") as file:
        file.write(f"""\
version = 2
root = "{WORK}/root"
state = "{WORK}/state"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Without the right to lower it, no sandbox starts.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{node.bin_dir}"
    conf_dir = "{node.net_dir}"
""")
    node.daemon("containerd", "containerd", "--config", f"{WORK}/containerd.toml")
    runtime = Runtime(SOCKET)
    poll("containerd", lambda: os.path.exists(SOCKET))
    runtime.wait_until_ready()
    for image in ("pause", "app"):
        base = ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import", "--base-name")
        node.output(*base, f"localhost/{image}", f"{WORK}/image-{image}.tar")
    return runtime


def sandbox(runtime, name, annotations, ports=()):
    return runtime.pod("demo", name, annotations, ports, f"{WORK}/pod-logs", node.cgroup)


class Pod:
    """A pod with the application in a container, and perhaps a sidecar."""

    def __init__(self, runtime, name, annotations=None, ports=()):
        self.sandbox = sandbox(runtime, name, annotations or {}, ports)
        self.name, self.netns = name, self.sandbox.netns
        self.ipv4, self.ipv6 = self.sandbox.ipv4, self.sandbox.ipv6
        server = ["/bin/httpd", "-f", "-p", f"[::]:{PORT}", "-h", "/www"]
        self.app = self.sandbox.start("app", "localhost/app:1", server, 1000)
        self.sidecar = None

    def run(self, *command):
        """In the application's container: the exit code, stdout and stderr."""
        return self.sandbox.run(self.app, *command)

    def add_sidecar(self, mode="REDIRECT"):
        self.sidecar = node.add_sidecar(self, mode)

    def get(self, address):
        # Not wget: it asks for the number of `http`, which a static program without its libraries does not survive.
        code, _, told = self.run("/bin/nc", "-w", "5", address, str(PORT), "-e", "/bin/ask")
        return node.told(told, code)

    def end(self):
        if self.sidecar:
            node.end(self.sidecar)
        self.sandbox.stop()
        self.sandbox.remove()


# ------------------------------------------------------------------------------------------------------- the scenarios


def with_and_without(runtime, version, backend):
    """Two pods, one of which belongs to the mesh."""
    about(f"cniVersion {version}, {backend}")
    plain = Pod(runtime, "plain")
    web = Pod(runtime, "web", MESH, [(18080, PORT)])
    check("a pod outside the mesh has no rule at all", node.rules(plain), [])
    check("nor anything at its sockets", node.at_sockets(plain), False)
    if backend == "ebpf":
        check("a pod of the mesh has no rule, either", node.rules(web), [])
        check("but something at its sockets before its first process", node.at_sockets(web), True)
    else:
        holds("a pod of the mesh has rules before its first process", node.rules(web))
    web.add_sidecar()
    for family, outside, member, passthrough in both(plain, web):
        about(f"cniVersion {version}, {backend}, {family}")
        # At the sockets a connection of IPv6 comes to the proxy from ::1.
        source = "::1" if (backend, family) == ("ebpf", "ipv6") else member
        check(
            "into the mesh: by the sidecar, with the original destination",
            plain.get(member),
            f"15006 {outside} -> {at(member)}; app web peer {passthrough}",
        )
        check(
            "out of the mesh: by the sidecar, with the original destination",
            web.get(outside),
            f"15001 {source} -> {at(outside)}; app plain peer {member}",
        )
        check("outside the mesh: direct", plain.get(outside), f"app plain peer {outside}")
    about(f"cniVersion {version}, {backend}")
    host = ("curl", "-qsSi", "--noproxy", "*", "--max-time", "5", "http://10.88.0.1:18080/cgi-bin/who")
    holds("a port of the node: by the sidecar", "x-mesh-hop: 15006 " in node.output(*host))
    if backend == "ebpf":
        status = node.status(web)
        check("every program is attached", (status["whole"], status["detached"]), (True, []))
        check("the sidecar's listener is known in both families", status["listeners"], 2)
    else:
        code, told = node.mesh("verify", "--quick", "--netns", web.netns)
        check("verify in the pod's namespace", (code, told if code else ""), (0, ""))
    web.end()
    plain.end()
    verbs = [line["verb"] for line in node.log_of(web.sandbox.id)]
    check("the plugin was called once to add, twice to delete", verbs, ["ADD", "DEL", "DEL"])
    added = node.log_of(web.sandbox.id)[0]
    said = [added[key] for key in ("decision", "namespace", "pod", "backend")]
    check("the log says what was decided", said, ["capture", "demo", "web", backend_of(backend)])
    check("the log says why the other was left", node.log_of(plain.sandbox.id)[0]["decision"], "skip")
    check("nothing is left in the BPF file system", node.pinned(), [])


def without_namespace(runtime):
    """A pod whose processes and namespace are gone before the runtime is told that it ends."""
    about("ebpf, a pod whose namespace is gone")
    stays = Pod(runtime, "stays", MESH)
    web = Pod(runtime, "web", MESH)
    kept = node.pinned()
    check("both are captured at their sockets", [node.at_sockets(pod) for pod in (stays, web)], [True, True])
    web.sandbox.kill()
    node.output("umount", web.netns)
    os.remove(web.netns)
    web.end()
    ends = [line for line in node.log_of(web.sandbox.id) if line["verb"] == "DEL"]
    check("the plugin was told twice that it ends", len(ends), 2)
    check("each time without a namespace", ["open" in end["stepsMs"] for end in ends], [False, False])
    check("what it had was taken away, once", [end.get("detached") for end in ends], [True, False])
    left = node.pinned()
    holds("less is left", set(left) < set(kept), left)
    check("of one pod", [path for path in left if "@" in path], [f"{ATTACHMENTS}/{stays.sandbox.id}@eth0"])
    check("which is still captured", node.at_sockets(stays), True)
    stays.end()
    check("nothing is left with the last one", node.pinned(), [])


def backend_of(asked):
    """What the log calls it: iptables by its variant."""
    return "iptables-nft" if asked == "iptables" else asked


def variant(runtime, name, annotations, expect):
    """A pod with these annotations, a sidecar beside it, and what is expected of it."""
    about(name)
    plain = Pod(runtime, "plain")
    web = Pod(runtime, "web", {**MESH, **annotations})
    expect(plain, web)
    web.end()
    plain.end()


def variants(runtime):
    traffic = "traffic.sidecar.istio.io/"

    def direct_in(plain, web):
        web.add_sidecar()
        for family, outside, member, _ in both(plain, web):
            check(f"{family}: into the excluded port: direct", plain.get(member), f"app web peer {outside}")
            check(
                f"{family}: out: by the sidecar",
                web.get(outside),
                f"15001 {member} -> {at(outside)}; app plain peer {member}",
            )

    variant(runtime, "excludeInboundPorts", {f"{traffic}excludeInboundPorts": f"9999, {PORT}"}, direct_in)
    variant(runtime, "includeInboundPorts, other", {f"{traffic}includeInboundPorts": "9999"}, direct_in)

    def direct_out(plain, web):
        web.add_sidecar()
        for family, outside, member, passthrough in both(plain, web):
            check(f"{family}: to the excluded network: direct", web.get(outside), f"app plain peer {member}")
            check(
                f"{family}: in: by the sidecar",
                plain.get(member),
                f"15006 {outside} -> {at(member)}; app web peer {passthrough}",
            )

    networks = "10.88.0.0/16,fd88::/64"
    variant(runtime, "excludeOutboundIPRanges", {f"{traffic}excludeOutboundIPRanges": networks}, direct_out)
    variant(runtime, "excludeOutboundPorts", {f"{traffic}excludeOutboundPorts": str(PORT)}, direct_out)

    def transparent(plain, web):
        web.add_sidecar("TPROXY")
        for family, outside, member, _ in both(plain, web):
            check(
                f"{family}: the application sees the client behind the sidecar",
                plain.get(member),
                f"15006 {outside} -> {at(member)}; app web peer {outside}",
            )

    variant(runtime, "TPROXY", {"sidecar.istio.io/interceptionMode": "TPROXY"}, transparent)

    def dns(_, web):
        query = "out udp uid=1000 192.0.2.53:53"
        code, told = node.mesh("explain", "--live", "--netns", web.netns, "--output", "json", query)
        holds("a query is captured to 15053", code == 0 and '"port": 15053' in told, told)
        answers = (f"{PROJECT}/tests/e2e/standin.py", "dns", "15053", "15053", "web.example", "192.0.2.80", "2001:db8::80")
        # As the proxy: its answers are in the conntrack zone of the questions.
        become = ("setpriv", "--reuid", "1337", "--regid", "1337", "--clear-groups")
        inside = ("nsenter", f"--net={web.netns}", "--", *become)
        server = node.daemon("dns", *inside, sys.executable, *answers, "127.0.0.1")
        ask = lambda: web.run("/bin/nslookup", "-type=a", "web.example", "192.0.2.53")
        poll("an answer from 15053 in place of the server", lambda: "Address: 192.0.2.80" in ask()[1])
        check("the server itself has no rule: nobody answers without the sidecar", (node.end(server), ask()[0])[1], 1)

    proxy = 'proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: "true"\n'
    variant(runtime, "DNS", {"proxy.istio.io/config": proxy}, dns)

    def untouched(_, web):
        check("no rule at all", node.rules(web), [])

    variant(runtime, "NONE", {"sidecar.istio.io/interceptionMode": "NONE"}, untouched)
    variant(runtime, "inject: false", {"sidecar.istio.io/inject": "false"}, untouched)
    with_init = {"sidecar.istio.io/status": '{"initContainers":["istio-init"],"containers":["istio-proxy"]}'}
    variant(runtime, "an istio-init container", with_init, untouched)

    about("an invalid annotation")
    hostile = "80 -j ACCEPT"
    try:
        Pod(runtime, "broken", {**MESH, f"{traffic}excludeInboundPorts": hostile})
        check("the pod does not start", "it started", "an error")
    except Refused as refusal:
        said = str(refusal)
        holds("the error names the annotation", f"{traffic}excludeInboundPorts" in said, said)
        holds("the error names the value", hostile in said, said)
    ready = [sandbox.id for sandbox in runtime.sandboxes() if sandbox.state == 0]
    check("no sandbox is left", ready, [])


def scenario():
    first = "0.3.1"
    node.write_conflist(CONFLIST, first)
    runtime = start_containerd()
    ways = ((first, "nftables"), ("0.4.0", "iptables"), ("0.4.0", "ebpf"), ("1.0.0", "nftables"))
    for version, backend in ways:
        about(f"cniVersion {version}, {backend}")
        node.write_conflist(CONFLIST, version)
        with open(CONFLIST, "rb") as file:
            before = file.read()
        keys = {"cgroup": f"{WORK}/cgroup{node.cgroup}"} if backend == "ebpf" else {}
        code, told = node.join("--backend", backend, **keys)
        check("install", (code, told if code else ""), (0, ""))
        # containerd takes up a changed file when it is told by the kernel, and does not say so.
        poll("the new chain", lambda: joined(runtime))
        with_and_without(runtime, version, backend)
        if backend == "ebpf":
            without_namespace(runtime)
            about(f"cniVersion {version}, {backend}")
        if version == "1.0.0":
            variants(runtime)
            about("uninstall")
        check("uninstall", node.leave()[0], 0)
        with open(CONFLIST, "rb") as file:
            check("the file is as it was", file.read(), before)
        check("no program is left", os.path.exists(f"{node.bin_dir}/mesh-init"), False)


def joined(runtime):
    """Whether a pod made now comes by us."""
    probe = sandbox(runtime, "probe", {})
    probe.stop()
    probe.remove()
    return bool(node.log_of(probe.id))


sys.exit(node.run(scenario))
