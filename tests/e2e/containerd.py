"""Pods through containerd, whose network is bridge, portmap and mesh-init: what is captured, and what is not.

containerd.py WORK PROJECT: in namespaces of its own, with what scripts/e2e-containerd.sh has put into WORK.

A captured request carries a header of the sidecar with the original destination, and the application says whom it
saw: one response tells which way it went.
"""

import json
import os
import re
import subprocess
import sys

from checks import about, check, holds, poll, run
from cri import Refused, Runtime

WORK, PROJECT = sys.argv[1:]
MESH = {"sidecar.istio.io/status": '{"initContainers":["istio-validation"],"containers":["istio-proxy"]}'}
NET_DIR, BIN_DIR = f"{WORK}/net.d", f"{WORK}/bin"
CONFLIST = f"{NET_DIR}/10-pods.conflist"
LOG = f"{WORK}/cni.log"
SOCKET = f"{WORK}/containerd.sock"
PORT = 8080
started = []


def output(*command, **more):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **more).stdout


def daemon(name, *command):
    with open(f"{WORK}/{name}.log", "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    started.append(process)
    return process


def end(process):
    process.kill()
    process.wait()
    started.remove(process)


# ------------------------------------------------------------------------------------------------------- the machine


def write_conflist(version):
    """The network as an administrator has it before any mesh."""
    ipam = {
        "type": "host-local",
        "dataDir": f"{WORK}/ipam",
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    os.makedirs(NET_DIR, exist_ok=True)
    with open(CONFLIST, "w") as file:
        json.dump({"cniVersion": version, "name": "pods", "plugins": [bridge, portmap]}, file, indent=2)
        file.write("\n")


def start_containerd():
    os.makedirs(BIN_DIR, exist_ok=True)
    for plugin in ("bridge", "host-local", "loopback", "portmap"):
        os.symlink(f"/usr/lib/cni/{plugin}", f"{BIN_DIR}/{plugin}")
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
    bin_dir = "{BIN_DIR}"
    conf_dir = "{NET_DIR}"
""")
    daemon("containerd", "containerd", "--config", f"{WORK}/containerd.toml")
    runtime = Runtime(SOCKET)
    poll("containerd", lambda: os.path.exists(SOCKET))
    runtime.wait_until_ready()
    for image in ("pause", "app"):
        base = ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import", "--base-name")
        output(*base, f"localhost/{image}", f"{WORK}/image-{image}.tar")
    return runtime


def mesh(*words):
    """mesh-init as an administrator calls it: its exit code and what it printed."""
    done = subprocess.run([f"{WORK}/mesh-init", *words], text=True, capture_output=True)
    return done.returncode, done.stdout + done.stderr


def join(*options):
    """Joins the chain as an administrator would."""
    return mesh("install", "--bin-dir", BIN_DIR, "--net-dir", NET_DIR, "--drop-in", "never", *options)


# ---------------------------------------------------------------------------------------------------------- the pods


def inside(pod, *command):
    return output("nsenter", f"--net={pod.netns}", "--", *command)


def rules(pod):
    """Every rule of the pod's namespace, whoever made it."""
    kept = [line for line in inside(pod, "nft", "list", "ruleset").splitlines() if line.strip()]
    for legacy in ("iptables-legacy-save", "ip6tables-legacy-save"):
        kept += [line for line in inside(pod, legacy).splitlines() if line.startswith("-A")]
    return kept


class Peer:
    """A pod with the application in a container."""

    def __init__(self, runtime, name, annotations=None, ports=()):
        self.pod = runtime.pod("demo", name, annotations or {}, ports, f"{WORK}/pod-logs")
        self.name, self.netns = name, self.pod.netns
        self.ipv4, self.ipv6 = self.pod.ipv4, self.pod.ipv6
        self.app = self.pod.start(
            "app", "localhost/app:1", ["/bin/httpd", "-f", "-p", f"[::]:{PORT}", "-h", "/www"], 1000
        )
        self.sidecar = None

    def add_sidecar(self, mode="REDIRECT"):
        """A real Envoy in the pod's namespace, as the proxy's user."""
        with open(f"{PROJECT}/tests/e2e/istio.yaml") as file:
            text = file.read()
        text = re.sub(rf"(?m)^( *)#{mode} ", r"\1", text)
        text = text.replace("@OWN4@", self.ipv4).replace("@OWN6@", self.ipv6)
        path = f"{WORK}/envoy-{self.name}.yaml"
        with open(path, "w") as file:
            file.write(text)
        # What comes from the proxy with the client's address must not look like the proxy's own.
        user, may = (("1337", ()) if mode == "REDIRECT" else ("0", ()))
        become = ("setpriv", "--reuid", user, "--regid", "1337", "--clear-groups", *may)
        settings = ("--config-path", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        self.sidecar = daemon(
            f"envoy-{self.name}", "nsenter", f"--net={self.netns}", "--", *become, f"{WORK}/envoy", *settings
        )
        poll(f"the sidecar of {self.name}", self.sidecar_is_ready)

    def sidecar_is_ready(self):
        ready = ("curl", "-qsS", "--noproxy", "*", "--max-time", "2", "http://127.0.0.1:15000/ready")
        done = subprocess.run(["nsenter", f"--net={self.netns}", "--", *ready], capture_output=True, text=True)
        return done.stdout == "LIVE\n"

    def get(self, address, port=PORT):
        """What the application says, and through which sidecars the answer came."""
        # Not wget: it asks for the number of `http`, which a static program without its libraries does not survive.
        code, _, told = self.pod.run(self.app, "/bin/nc", "-w", "5", address, str(port), "-e", "/bin/ask")
        head, _, body = told.partition("\r\n\r\n")
        hops = [line.split(":", 1)[1].strip() for line in head.splitlines() if line.startswith("x-mesh-hop:")]
        said = re.search(r"app \S+ peer \S+", body)
        return "; ".join([*hops, said[0] if said else f"exit {code}: {told}"])

    def end(self):
        if self.sidecar:
            end(self.sidecar)
        self.pod.stop()
        self.pod.remove()


def both(one, other):
    """The two pods' addresses in each family, with the loopback and the passthrough address of it."""
    yield "ipv4", one.ipv4, other.ipv4, "127.0.0.6"
    yield "ipv6", one.ipv6, other.ipv6, "::6"


def at(address):
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def log_of(pod):
    """The plugin's own log of a pod."""
    with open(LOG) as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line.get("containerId") == pod.pod.id]


# ------------------------------------------------------------------------------------------------------- the scenarios


def with_and_without(runtime, version, backend):
    """Two pods, one of which belongs to the mesh."""
    about(f"cniVersion {version}, {backend}")
    plain = Peer(runtime, "plain")
    web = Peer(runtime, "web", MESH, [(18080, PORT)])
    check("a pod outside the mesh has no rule at all", rules(plain), [])
    holds("a pod of the mesh has rules before its first process", rules(web))
    web.add_sidecar()
    for family, outside, member, passthrough in both(plain, web):
        about(f"cniVersion {version}, {backend}, {family}")
        check(
            "into the mesh: by the sidecar, with the original destination",
            plain.get(member),
            f"15006 {outside} -> {at(member)}; app web peer {passthrough}",
        )
        check(
            "out of the mesh: by the sidecar, with the original destination",
            web.get(outside),
            f"15001 {member} -> {at(outside)}; app plain peer {member}",
        )
        check("outside the mesh: direct", plain.get(outside), f"app plain peer {outside}")
    about(f"cniVersion {version}, {backend}")
    host = ("curl", "-qsSi", "--noproxy", "*", "--max-time", "5", "http://10.88.0.1:18080/cgi-bin/who")
    holds("a port of the node: by the sidecar", "x-mesh-hop: 15006 " in output(*host))
    code, told = mesh("verify", "--quick", "--netns", web.netns)
    check("verify in the pod's namespace", (code, told if code else ""), (0, ""))
    web.end()
    plain.end()
    verbs = [line["verb"] for line in log_of(web)]
    check("the plugin was called once to add, twice to delete", verbs, ["ADD", "DEL", "DEL"])
    added = log_of(web)[0]
    check("the log says what was decided", (added["decision"], added["pod"]), ("capture", "demo/web"))
    check("the log says why the other was left", log_of(plain)[0]["decision"], "skip")


def variant(runtime, name, annotations, expect):
    """A pod with these annotations, a sidecar beside it, and what is expected of it."""
    about(name)
    plain = Peer(runtime, "plain")
    web = Peer(runtime, "web", {**MESH, **annotations})
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
        code, told = mesh("explain", "--live", "--netns", web.netns, "--output", "json", query)
        holds("a query is captured to 15053", code == 0 and '"port": 15053' in told, told)
        answers = (f"{PROJECT}/tests/e2e/standin.py", "dns", "15053", "15053", "web.example", "192.0.2.80", "2001:db8::80")
        server = daemon("dns", "nsenter", f"--net={web.netns}", "--", sys.executable, *answers, "127.0.0.1")
        ask = lambda: web.pod.run(web.app, "/bin/nslookup", "-type=a", "web.example", "192.0.2.53")
        poll("an answer from 15053 in place of the server", lambda: "Address: 192.0.2.80" in ask()[1])
        check("the server itself has no rule: nobody answers without the sidecar", (end(server), ask()[0])[1], 1)

    proxy = 'proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: "true"\n'
    variant(runtime, "DNS", {"proxy.istio.io/config": proxy}, dns)

    def untouched(_, web):
        check("no rule at all", rules(web), [])

    variant(runtime, "NONE", {"sidecar.istio.io/interceptionMode": "NONE"}, untouched)
    variant(runtime, "inject: false", {"sidecar.istio.io/inject": "false"}, untouched)
    with_init = {"sidecar.istio.io/status": '{"initContainers":["istio-init"],"containers":["istio-proxy"]}'}
    variant(runtime, "an istio-init container", with_init, untouched)

    about("an invalid annotation")
    hostile = "80 -j ACCEPT"
    try:
        Peer(runtime, "broken", {**MESH, f"{traffic}excludeInboundPorts": hostile})
        check("the pod does not start", "it started", "an error")
    except Refused as refusal:
        said = str(refusal)
        holds("the error names the annotation", f"{traffic}excludeInboundPorts" in said, said)
        holds("the error names the value", hostile in said, said)
    ready = [sandbox.id for sandbox in runtime.sandboxes() if sandbox.state == 0]
    check("no sandbox is left", ready, [])


def scenario():
    first = "0.3.1"
    write_conflist(first)
    runtime = start_containerd()
    for version, backend in ((first, "nftables"), ("0.4.0", "iptables"), ("1.0.0", "nftables")):
        about(f"cniVersion {version}, {backend}")
        write_conflist(version)
        with open(CONFLIST, "rb") as file:
            before = file.read()
        options = ("--backend", backend, "--log-file", LOG)
        check("install", join(*options)[0], 0)
        # containerd takes up a changed file when it is told by the kernel, and does not say so.
        poll("the new chain", lambda: joined(runtime))
        with_and_without(runtime, version, backend)
        if version == "1.0.0":
            variants(runtime)
            about("uninstall")
        check("uninstall", mesh("uninstall", "--bin-dir", BIN_DIR, "--net-dir", NET_DIR)[0], 0)
        with open(CONFLIST, "rb") as file:
            check("the file is as it was", file.read(), before)
        check("no program is left", os.path.exists(f"{BIN_DIR}/mesh-init"), False)


def joined(runtime):
    """Whether a pod made now comes by us."""
    probe = runtime.pod("demo", "probe", {})
    probe.stop()
    probe.remove()
    if not os.path.exists(LOG):
        return False
    with open(LOG) as file:
        return any(json.loads(line).get("containerId") == probe.id for line in file)


def main():
    try:
        return run(scenario)
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


sys.exit(main())
