"""A small client of the Container Runtime Interface: pods, their containers, and commands in them.

The stubs v1_pb2 and v1_pb2_grpc are made from the interface's own description and are found by PYTHONPATH.
"""

import json
import os
import signal
import time

import grpc
import v1_pb2 as api
import v1_pb2_grpc

PATIENCE = 60


class Refused(Exception):
    """The runtime said no; the text is its own."""


def ask(call, request):
    try:
        return call(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        raise Refused(error.details()) from error


class Runtime:
    def __init__(self, socket):
        # Where the socket is a file, the name of the host must be given.
        options = [("grpc.default_authority", "localhost")]
        self.calls = v1_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel(f"unix://{socket}", options=options))

    def network_ready(self):
        """Whether pods can be made, and what the runtime says about it."""
        try:
            status = self.calls.Status(api.StatusRequest(), timeout=5).status
        except grpc.RpcError as error:
            return False, error.details()
        found = {condition.type: condition for condition in status.conditions}
        ready = found.get("NetworkReady")
        return bool(ready and ready.status), ready.message if ready else "no NetworkReady"

    def wait_until_ready(self, seconds=30):
        end = time.monotonic() + seconds
        while True:
            ready, message = self.network_ready()
            if ready:
                return
            if time.monotonic() > end:
                raise Refused(f"the runtime is not ready after {seconds} s: {message}")
            time.sleep(0.05)

    def sandboxes(self):
        return list(self.calls.ListPodSandbox(api.ListPodSandboxRequest(), timeout=PATIENCE).items)

    def pod(self, namespace, name, annotations, ports, logs, cgroup):
        return Pod(self, namespace, name, annotations, ports, logs, cgroup)


class Pod:
    """A sandbox with its network, as kubelet would have it made."""

    def __init__(self, runtime, namespace, name, annotations, ports, logs, cgroup):
        self.runtime = runtime
        self.name = name
        self.config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, uid=f"{namespace}-{name}-uid", namespace=namespace, attempt=0),
            hostname=name,
            log_directory=logs,
            dns_config=api.DNSConfig(servers=["192.0.2.53"]),
            port_mappings=[
                api.PortMapping(protocol=api.TCP, host_port=host, container_port=container) for host, container in ports
            ],
            annotations=annotations,
            linux=api.LinuxPodSandboxConfig(cgroup_parent=cgroup),
        )
        self.id = ask(runtime.calls.RunPodSandbox, api.RunPodSandboxRequest(config=self.config)).pod_sandbox_id
        status = ask(
            runtime.calls.PodSandboxStatus, api.PodSandboxStatusRequest(pod_sandbox_id=self.id, verbose=True)
        )
        addresses = [status.status.network.ip, *(more.ip for more in status.status.network.additional_ips)]
        self.ipv4 = next(address for address in addresses if ":" not in address)
        self.ipv6 = next((address for address in addresses if ":" in address), None)
        info = json.loads(status.info["info"])
        self.pid = info["pid"]
        self.containers = []
        namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        self.netns = next(namespace["path"] for namespace in namespaces if namespace["type"] == "network")

    def start(self, name, image, command, uid):
        """A container of the pod; its id."""
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name, attempt=0),
            image=api.ImageSpec(image=image),
            command=command,
            log_path=f"{self.name}-{name}.log",
            linux=api.LinuxContainerConfig(
                security_context=api.LinuxContainerSecurityContext(
                    run_as_user=api.Int64Value(value=uid), run_as_group=api.Int64Value(value=uid)
                )
            ),
        )
        request = api.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        container = ask(self.runtime.calls.CreateContainer, request).container_id
        ask(self.runtime.calls.StartContainer, api.StartContainerRequest(container_id=container))
        self.containers.append(container)
        return container

    def kill(self):
        """Ends every process of the pod's own, and waits until they are gone."""
        pids = [self.pid]
        for container in self.containers:
            request = api.ContainerStatusRequest(container_id=container, verbose=True)
            status = ask(self.runtime.calls.ContainerStatus, request)
            pids.append(json.loads(status.info["info"])["pid"])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            time.sleep(0.01)

    def run(self, container, *command):
        """A command in a container: its exit code, stdout and stderr."""
        request = api.ExecSyncRequest(container_id=container, cmd=command, timeout=20)
        done = ask(self.runtime.calls.ExecSync, request)
        return done.exit_code, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")

    def stop(self):
        ask(self.runtime.calls.StopPodSandbox, api.StopPodSandboxRequest(pod_sandbox_id=self.id))

    def remove(self):
        ask(self.runtime.calls.RemovePodSandbox, api.RemovePodSandboxRequest(pod_sandbox_id=self.id))
