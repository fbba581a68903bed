"""One node of Kubernetes: etcd, API server, controller manager, scheduler, containerd and kubelet, in the namespaces that `run` has made.

Everything listens on 127.0.0.0/8 of a network of its own, so ports are fixed. What is mounted is mounted for these processes alone. Both end with the first
process of the namespaces, however it ends; only the work folder and the cgroups remain, and `run` removes them.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

from bed import Not, Process, eventually

HERE = Path(__file__).resolve().parent
DEBIAN = HERE / "target/debian/root"
TOOLS = HERE.parent / "chart/target/tools"
SERVER = "https://127.0.0.1:6443"
ETCD = "http://127.0.0.1:2379"
# The Services' addresses too: `service.py` listens on them.
SERVICES = "127.96.0.0/16"
# An address as its name: the kubelet takes no other of the loopback device for its own.
NODE = "127.0.0.1"
HELM3, HELM4 = "helm-v3.17.3", "helm-v4.2.3"


class Failed(AssertionError):
    """A command that did not do what it was asked for."""


class Refused(Failed):
    """What the API server would not do, with its status."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def run(command, given=None, environment=None, patience=180):
    done = subprocess.run([str(word) for word in command], input=given, capture_output=True, text=True, env=environment, timeout=patience, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


class Cluster:
    """The node and what is asked of it. `namespace` is where everything happens."""

    namespace = "chat"

    def __init__(self, work, kubernetes):
        self.work = Path(work)
        self.kubernetes = Path(kubernetes)
        self.processes = []
        self.kubeconfig = self.work / "admin.kubeconfig"
        home = self.work / "home"
        home.mkdir()
        self.environment = {"PATH": f"{DEBIAN}/usr/bin:{DEBIAN}/usr/sbin:{os.environ['PATH']}", "HOME": str(home), "KUBECONFIG": str(self.kubeconfig)}

    # Start

    def start(self):
        run(["ip", "link", "set", "lo", "up"])
        # containerd and kubelet write to places of their own in these, whatever they are told.
        for folder in ("/run", "/var/lib", "/var/log"):
            run(["mount", "-t", "tmpfs", "tests", folder])
        self._control_plane()
        self._containerd()
        self._kubelet()
        eventually("the node is ready", self._node_ready, 60)

    def _spawn(self, name, *command):
        # The names of the bridge's settings are no business of these; PATH leads containerd to its shim.
        variables = [f"{key}={value}" for key, value in self.environment.items()]
        process = Process(["env", "-i", *variables, *command], self.work / f"{name}.log", cwd=self.work)
        self.processes.append(process)
        return process

    def check(self):
        """That all of it runs: else what went wrong is here."""
        return all(process.check() for process in self.processes)

    def _control_plane(self):
        work, hyperkube = self.work, self.kubernetes / "hyperkube"
        peers = "http://127.0.0.1:2380"
        self._spawn("etcd", "etcd", "--data-dir", work / "etcd", "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD, "--listen-peer-urls", peers,
                    "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}", "--unsafe-no-fsync")
        run(["openssl", "genrsa", "-out", work / "accounts.key", "2048"])
        users = {"admin": ("admin", "system:masters"), "manager": ("system:kube-controller-manager", ""), "scheduler": ("system:kube-scheduler", "")}
        tokens = {user: secrets.token_hex(16) for user in users}
        self.token = tokens["admin"]
        (work / "tokens.csv").write_text("".join(f"{tokens[user]},{name},{user},{group}\n" for user, (name, group) in users.items()))
        for user in users:
            self._write_kubeconfig(work / f"{user}.kubeconfig", tokens[user])
        self.authority = work / "server/apiserver.crt"
        # Debian's etcd 3.4 has no progress of watches on demand, which WatchList asks for.
        server = self._spawn(
            "apiserver", hyperkube, "kube-apiserver", f"--etcd-servers={ETCD}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=6443",
            f"--cert-dir={work}/server", f"--service-account-key-file={work}/accounts.key", f"--service-account-signing-key-file={work}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC",
            f"--token-auth-file={work}/tokens.csv", "--enable-admission-plugins=NodeRestriction", "--endpoint-reconciler-type=none", "--allow-privileged=true",
            "--feature-gates=WatchList=false")
        eventually("the API server is ready", lambda: server.check() and self._ready(), 120)
        # Controllers that could only fail here, again and again: no endpoint may have an address of the loopback device.
        off = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
        for name, program in (("manager", "kube-controller-manager"), ("scheduler", "kube-scheduler")):
            config = f"{work}/{name}.kubeconfig"
            more = []
            if name == "manager":
                more = [f"--service-account-private-key-file={work}/accounts.key", f"--root-ca-file={self.authority}", "--use-service-account-credentials", "--allocate-node-cidrs=false", f"--controllers={off}"]
            self._spawn(name, hyperkube, program, f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
                        "--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={work}/{name}", *more)

    def _write_kubeconfig(self, path, token):
        def named(kind, value):
            return [{"name": "it", kind: value}]

        server = {"server": SERVER, "certificate-authority": str(self.work / "server/apiserver.crt")}
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": named("cluster", server), "users": named("user", {"token": token}),
            "contexts": named("context", {"cluster": "it", "user": "it", "namespace": self.namespace}),
        }))

    def _ready(self):
        try:
            with self.ask("/readyz") as answer:
                return answer.read() == b"ok"
        except Refused as error:
            return Not(error)

    def _containerd(self):
        work = self.work
        plugins, networks = work / "cni", work / "networks"
        plugins.mkdir()
        networks.mkdir()
        for name in ("loopback", "addresses"):
            (plugins / name).symlink_to(HERE / "node/addresses")
        (networks / "10-tests.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "tests", "type": "addresses", "counter": str(work / "addresses")}))
        runtime = {"runtime_type": "io.containerd.runc.v2", "options": {"BinaryName": str(HERE / "node/runc")}}
        cri = {
            "sandbox_image": "localhost/pause:1", "restrict_oom_score_adj": True, "disable_apparmor": True, "netns_mounts_under_state_dir": True,
            "cni": {"bin_dir": str(plugins), "conf_dir": str(networks)},
            "containerd": {"default_runtime_name": "runc", "snapshotter": "overlayfs", "runtimes": {"runc": runtime}},
        }
        sections = {"grpc": {"address": str(self.socket)}, "plugins": {"io.containerd.grpc.v1.cri": cri}}
        head = {"version": 2, "root": str(work / "containerd"), "state": str(work / "containerd-state"), "oom_score": 0}
        (work / "containerd.toml").write_text(toml(head | sections))
        daemon = self._spawn("containerd", "containerd", "-c", work / "containerd.toml")
        eventually("containerd answers", lambda: daemon.check() and self._answers(), 60)
        self.load_image(pause(work))

    @property
    def socket(self):
        return self.work / "containerd.sock"

    def _answers(self):
        try:
            return self.ctr("version")
        except Failed as error:
            return Not(error)

    def _kubelet(self):
        work = self.work
        group = cgroup(work.name)
        (work / "kubelet.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": "127.0.0.1", "healthzBindAddress": "127.0.0.1",
            "failCgroupV1": False, "cgroupDriver": "cgroupfs", "cgroupRoot": group, "enforceNodeAllocatable": [], "failSwapOn": False, "oomScoreAdj": 0,
            "localStorageCapacityIsolation": False, "containerRuntimeEndpoint": f"unix://{self.socket}", "resolvConf": "",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100, "nodeStatusUpdateFrequency": "2s", "syncFrequency": "5s", "podLogsDir": str(work / "pods"),
            "volumePluginDir": str(work / "volume-plugins"),
        }))
        self._spawn("kubelet", self.kubernetes / "kubelet", "--config", work / "kubelet.yaml", "--kubeconfig", self.kubeconfig, "--hostname-override", NODE,
                    "--root-dir", work / "kubelet", "--cert-dir", work / "kubelet-pki")

    # Use

    def kubectl(self, *words, given=None):
        return run([TOOLS / "kubectl-v1.36.3", *words], given, self.environment)

    def helm(self, *words, version=HELM4):
        return run([TOOLS / version, *words], None, self.environment)

    def ctr(self, *words):
        return run([DEBIAN / "usr/bin/ctr", "--address", self.socket, "--namespace", "k8s.io", *words], None, self.environment)

    def process(self, container):
        """The first process of a container, as the kernel sees it: its status, and its mounts by place."""
        (pid,) = (words[1] for words in map(str.split, self.ctr("tasks", "ls").splitlines()) if words[0] == container)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        mounts = {words[1]: words[3].split(",") for words in map(str.split, Path(f"/proc/{pid}/mounts").read_text().splitlines())}
        return status, mounts

    def load_image(self, archive):
        self.ctr("images", "import", archive)

    def ask(self, path, body=None, **query):
        """The API server's answer. Unlike `kubectl` it costs no process, and so may be asked again and again."""
        url = f"{SERVER}{path}?{urllib.parse.urlencode(query)}"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body and json.dumps(body).encode(), headers=headers)
        try:
            return urllib.request.urlopen(request, context=ssl.create_default_context(cafile=self.authority), timeout=60)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, f"{path}: {error.code}: {error.read().decode()}") from error

    def get(self, kind, name="", group="api/v1", **query):
        """An object of the namespace, or all of a kind."""
        path = f"/{group}/namespaces/{self.namespace}/{kind}"
        with self.ask(f"{path}/{name}" if name else path, **query) as answer:
            found = json.load(answer)
        return found if name else found["items"]

    def apply(self, *objects):
        self.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(objects))

    def _node_ready(self):
        try:
            with self.ask(f"/api/v1/nodes/{NODE}") as answer:
                said = conditions(json.load(answer))
        except Refused as error:
            return Not(error)
        return said.get("Ready") == "True" or Not(said)


def conditions(one):
    """The conditions of an object, and whether they are so."""
    return {each["type"]: each["status"] for each in one.get("status", {}).get("conditions", [])}


def toml(table, path=""):
    """A table of plain values and tables."""
    lines, tables = [], []
    for key, value in table.items():
        (tables if isinstance(value, dict) else lines).append((key, value))
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines)
    for key, value in tables:
        inner = f"{path}.{json.dumps(key)}" if path else json.dumps(key)
        text += f"[{inner}]\n" + toml(value, inner)
    return text


def cgroup(name):
    """A group of these tests' own in every hierarchy, or in the one: the kubelet makes its pods' below."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        for controller in ("cpu", "cpuset", "memory", "pids"):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        (root / name).mkdir(exist_ok=True)
        return f"/{name}"
    for hierarchy in root.iterdir():
        if not hierarchy.is_symlink() and (hierarchy / "cgroup.procs").exists():
            (hierarchy / name).mkdir(exist_ok=True)
    return f"/{name}"


def pause(work):
    """An image whose process does nothing: what a pod's own container runs."""
    root, archive = work / "pause", work / "pause.tar"
    root.mkdir()
    shutil.copy(DEBIAN / "usr/bin/catatonit", root / "catatonit")
    layer = work / "pause-layer.tar"
    run(["tar", "-C", root, "-cf", layer, "catatonit"])
    digest = run(["sha256sum", layer]).split()[0]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
              "config": {"User": "65535", "Entrypoint": ["/catatonit", "-P"]}}
    (work / "pause.json").write_text(json.dumps(config))
    (work / "manifest.json").write_text(json.dumps([{"Config": "pause.json", "RepoTags": ["localhost/pause:1"], "Layers": [layer.name]}]))
    run(["tar", "-C", work, "-cf", archive, "manifest.json", "pause.json", layer.name])
    return archive
