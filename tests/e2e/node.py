"""A node with a network of bridge and portmap, which mesh-init joins; and the sidecars on it."""

import json
import os
import re
import subprocess

import checks


class Node:
    """In namespaces of its own, with what scripts/e2e/node.sh has put into `work`."""

    port = 8080
    bpf = "/sys/fs/bpf"

    def __init__(self, work, project):
        self.work, self.project = work, project
        self.net_dir, self.bin_dir = f"{work}/net.d", f"{work}/bin"
        self.log = f"{work}/cni.log"
        # Found and taken away by the script, which knows the folder's name.
        self.cgroup = f"/{os.path.basename(work)}"
        self.started = []
        os.makedirs(self.net_dir)
        os.makedirs(self.bin_dir)
        for plugin in ("bridge", "host-local", "loopback", "portmap"):
            os.symlink(f"/usr/lib/cni/{plugin}", f"{self.bin_dir}/{plugin}")

    def run(self, scenario):
        """All of it, and what it has started; the process's exit status."""
        try:
            return checks.run(scenario)
        finally:
            for process in reversed(self.started):
                process.kill()
                process.wait()

    @staticmethod
    def output(*command):
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout

    def daemon(self, name, *command):
        with open(f"{self.work}/{name}.log", "w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def end(self, process):
        process.kill()
        process.wait()
        self.started.remove(process)

    def write_conflist(self, path, version):
        """The network as an administrator has it before any mesh."""
        ipam = {
            "type": "host-local",
            "dataDir": f"{self.work}/ipam",
            "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }
        bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        with open(path, "w") as file:
            json.dump({"cniVersion": version, "name": "pods", "plugins": [bridge, portmap]}, file, indent=2)
            file.write("\n")

    def mesh(self, *words):
        """mesh-init as an administrator calls it: its exit code and what it printed."""
        done = subprocess.run([f"{self.work}/mesh-init", *words], text=True, capture_output=True)
        return done.returncode, done.stdout + done.stderr

    def join(self, *options, **keys):
        """Joins the chain, or changes how; with these keys in the plugin's configuration."""
        entry = f"{self.work}/plugin.json"
        with open(entry, "w") as file:
            json.dump({"logFile": self.log, **keys}, file)
        where = ("--bin-dir", self.bin_dir, "--net-dir", self.net_dir, "--drop-in", "never")
        return self.mesh("install", *where, "--plugin-config", entry, *options)

    def leave(self):
        return self.mesh("uninstall", "--bin-dir", self.bin_dir, "--net-dir", self.net_dir)

    def log_of(self, container):
        """The plugin's own log of a container."""
        if not os.path.exists(self.log):
            return []
        with open(self.log) as file:
            lines = [json.loads(line) for line in file]
        return [line for line in lines if line.get("containerId") == container]

    def rules(self, member):
        """Every rule of its namespace, whoever made it."""
        inside = ("nsenter", f"--net={member.netns}", "--")
        # What nft finds strange in iptables' tables is no matter here.
        quiet = {"check": True, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        listed = subprocess.run([*inside, "nft", "list", "ruleset"], **quiet).stdout
        kept = [line for line in listed.splitlines() if line.strip()]
        for legacy in ("iptables-legacy-save", "ip6tables-legacy-save"):
            kept += [line for line in self.output(*inside, legacy).splitlines() if line.startswith("-A")]
        return kept

    def status(self, member):
        """What mesh-init says of its namespace."""
        told = self.output(f"{self.work}/mesh-init", "status", "--netns", member.netns, "--output", "json")
        return json.loads(told)

    def at_sockets(self, member):
        """Whether something is captured at the sockets of its namespace."""
        return self.status(member).get("variant") == "ebpf"

    def pinned(self):
        """What is kept in the BPF file system, by path."""
        found = os.walk(f"{self.bpf}/mesh-init")
        return sorted(os.path.join(folder, name) for folder, folders, files in found for name in folders + files)

    def add_sidecar(self, member, mode="REDIRECT"):
        """A real Envoy in the member's namespace, as the proxy's user."""
        with open(f"{self.project}/tests/e2e/istio.yaml") as file:
            text = file.read()
        text = re.sub(rf"(?m)^( *)#{mode} ", r"\1", text)
        text = text.replace("@OWN4@", member.ipv4).replace("@OWN6@", member.ipv6)
        path = f"{self.work}/envoy-{member.name}.yaml"
        with open(path, "w") as file:
            file.write(text)
        # With the client's address, what comes from the proxy must not look like the proxy's own: its group says
        # enough.
        user = "1337" if mode == "REDIRECT" else "0"
        become = ("setpriv", "--reuid", user, "--regid", "1337", "--clear-groups")
        settings = ("--config-path", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        inside = ("nsenter", f"--net={member.netns}", "--")
        sidecar = self.daemon(f"envoy-{member.name}", *inside, *become, f"{self.work}/envoy", *settings)
        ask = (*inside, "curl", "-qsS", "--noproxy", "*", "--max-time", "2", "http://127.0.0.1:15000/ready")
        ready = lambda: subprocess.run(ask, capture_output=True, text=True).stdout == "LIVE\n"
        checks.poll(f"the sidecar of {member.name}", ready)
        return sidecar

    @staticmethod
    def told(response, code):
        """What the application says, and through which sidecars the answer came."""
        head, _, body = response.replace("\r", "").partition("\n\n")
        hops = [line.split(":", 1)[1].strip() for line in head.splitlines() if line.startswith("x-mesh-hop:")]
        said = re.search(r"app \S+ peer \S+", body)
        return "; ".join([*hops, said[0] if said else f"exit {code}: {response}"])


def both(one, other):
    """In each family: its name, the addresses of the two, and from which one a proxy calls its application."""
    yield "ipv4", one.ipv4, other.ipv4, "127.0.0.6"
    yield "ipv6", one.ipv6, other.ipv6, "::6"


def at(address):
    """The address with the application's port."""
    return f"[{address}]:{Node.port}" if ":" in address else f"{address}:{Node.port}"
