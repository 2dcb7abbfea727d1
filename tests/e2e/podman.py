"""Containers through podman, whose network is bridge, portmap and mesh-init for all of them.

podman.py WORK PROJECT: in namespaces of its own, with what scripts/e2e-podman.sh has put into WORK.
"""

import json
import os
import subprocess
import sys

from checks import about, check, holds, run
from node import Node, both, at

WORK, PROJECT = sys.argv[1:]
node = Node(WORK, PROJECT)
PORT = node.port
CONFLIST = f"{node.net_dir}/10-pods.conflist"
# podman's own limits may be above this machine's, and raising one takes a privilege that root need not have.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=256:256", "--cgroup-parent", node.cgroup)
STORAGE = ("--root", f"{WORK}/storage", "--runroot", f"{WORK}/run", "--storage-driver", "vfs")


def podman(*words, ok=True):
    done = subprocess.run(["podman", *STORAGE, *words], text=True, capture_output=True)
    if ok and done.returncode:
        raise RuntimeError(f"podman {' '.join(words)}: {done.stderr}")
    return done


class Container:
    """The application in a container, and perhaps a sidecar in its network namespace."""

    def __init__(self, name, *options):
        self.name = name
        server = ("/bin/httpd", "-f", "-p", f"[::]:{PORT}", "-h", "/www")
        base = ("run", "-d", "--pull", "never", "--network", "pods", "--hostname", name, "--name", name, "--user", "1000")
        podman(*base, *LIMITS, *options, "localhost/app:1", *server)
        about = json.loads(podman("inspect", name).stdout)[0]
        self.id = about["Id"]
        network = about["NetworkSettings"]["Networks"]["pods"]
        self.ipv4, self.ipv6 = network["IPAddress"], network["GlobalIPv6Address"]
        self.netns = f"/proc/{about['State']['Pid']}/ns/net"

    def get(self, address):
        done = podman("exec", self.name, "/bin/nc", "-w", "5", address, str(PORT), "-e", "/bin/ask", ok=False)
        return node.told(done.stderr, done.returncode)

    def end(self):
        podman("rm", "--force", "--time", "0", self.name)


def scenario():
    with open(f"{WORK}/containers.conf", "w") as file:
        file.write(f"""\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{node.bin_dir}"]
network_config_dir = "{node.net_dir}"
default_network = "pods"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "{WORK}/tmp"
[containers]
log_driver = "k8s-file"
""")
    os.makedirs(f"{WORK}/tmp")
    os.environ.update(CONTAINERS_CONF=f"{WORK}/containers.conf", TMPDIR=f"{WORK}/tmp")
    node.write_conflist(CONFLIST, "1.0.0")
    with open(CONFLIST, "rb") as file:
        before = file.read()
    podman("import", f"{WORK}/image-app.tar", "localhost/app:1")

    about("before")
    plain = Container("plain")
    check("no rule at all", node.rules(plain), [])

    about("selection all")
    # Without annotations the configuration says what is captured.
    policy = {"proxy": {"port": 15001, "inboundPort": 15006, "uids": [1337]}}
    code, told = node.join("--selection", "all", policy=policy)
    check("install", (code, told if code else ""), (0, ""))
    web = Container("web", "--publish", f"18080:{PORT}")
    holds("a container has rules before its first process", node.rules(web))
    node.add_sidecar(web)
    for family, outside, member, passthrough in both(plain, web):
        about(f"selection all, {family}")
        check(
            "in: by the sidecar, with the original destination",
            plain.get(member),
            f"15006 {outside} -> {at(member)}; app web peer {passthrough}",
        )
        check(
            "out: by the sidecar, with the original destination",
            web.get(outside),
            f"15001 {member} -> {at(outside)}; app plain peer {member}",
        )
    about("selection all")
    host = ("curl", "-qsSi", "--noproxy", "*", "--max-time", "5", "http://10.88.0.1:18080/cgi-bin/who")
    holds("a published port: by the sidecar", "x-mesh-hop: 15006 " in node.output(*host))
    web.end()
    added, *rest = node.log_of(web.id)
    check("the plugin was called to add and to delete", [added["verb"], *(line["verb"] for line in rest)], ["ADD", "DEL"])
    check("what was decided", added["decision"], "capture")

    about("a sidecar that is not there")
    alone = Container("alone")
    for family, outside, _, _ in both(plain, alone):
        holds(f"{family}: nothing gets out", "app plain" not in alone.get(outside))
    alone.end()

    about("selection istio: podman gives a name without a namespace")
    check("install again", node.join("--selection", "istio")[0], 0)
    other = Container("other")
    check("no rule at all", node.rules(other), [])
    check("what was decided", node.log_of(other.id)[0]["decision"], "skip")
    other.end()

    about("uninstall")
    check("uninstall", node.leave()[0], 0)
    with open(CONFLIST, "rb") as file:
        check("the file is as it was", file.read(), before)
    after = Container("after")
    check("containers start without it", node.rules(after), [])
    after.end()
    plain.end()


sys.exit(node.run(scenario))
