"""The image as Podman sees it, containers of it, and the compose file as Docker Compose reads it."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = pathlib.Path(sys.executable).parent
USER = 65532
SBOM = "usr/share/doc/chat-bridge/sbom.cdx.json"
PROGRAM = "usr/local/bin/chat-bridge"


def manifest():
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]


def locked():
    """Every crate of Cargo.lock, as name and version."""
    return {(package["name"], package["version"]) for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}


def podman(*words, code=0):
    done = subprocess.run(["podman", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert code is None or done.returncode == code, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
    return done


class Image:
    """The image that was built, its configuration, and its files."""

    def __init__(self, name):
        self.name = name
        (self.inspect,) = json.loads(podman("image", "inspect", name).stdout)
        self.config = self.inspect["Config"]
        self.labels = self.config["Labels"]
        self.root = pathlib.Path(podman("image", "mount", name).stdout.strip())

    def close(self):
        podman("image", "unmount", self.name)

    def files(self):
        """Every path but the root itself, with what `lstat` says of it."""
        for path in sorted(self.root.rglob("*")):
            yield path.relative_to(self.root), path.lstat()

    def packages(self):
        """Debian's packages that files of it come from: name to version."""
        entries = [path.read_text() for path in (self.root / "var/lib/dpkg/status.d").iterdir()]
        return {re.search(r"^Package: (.*)$", entry, re.M)[1]: re.search(r"^Version: (.*)$", entry, re.M)[1] for entry in entries}

    def run(self, *words, options=(), code=0):
        """One command in a container that is confined as the chart confines its pods."""
        return podman("run", "--rm", *CONFINED, *options, self.name, *words, code=code)


#: A pod of the chart: nothing may be written but what is mounted, no capability, none to be had. The host's network, because all that is talked to is on loopback.
CONFINED = ("--network=host", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges", "--pull=never")


class Container:
    """A confined container that runs until it is stopped, and a log of what it says."""

    def __init__(self, image, *words, options=()):
        self.name = podman("run", "--detach", *CONFINED, *options, image.name, *words).stdout.strip()

    def inspect(self):
        return json.loads(podman("container", "inspect", self.name).stdout)[0]

    def check(self):
        state = self.inspect()["State"]
        assert state["Running"], f"ended with {state['ExitCode']}: {self.log()}"
        return True

    def log(self):
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def exec(self, *words, code=0):
        return podman("exec", self.name, "chat-bridge", *words, code=code)

    def health(self):
        """What the image's HEALTHCHECK comes to; 0 is healthy."""
        return podman("healthcheck", "run", self.name, code=None).returncode

    def status(self):
        """The process as the kernel sees it: the lines of /proc/PID/status."""
        return dict(re.findall(r"^(\w+):\s*(.*)$", pathlib.Path(f"/proc/{self.inspect()['State']['Pid']}/status").read_text(), re.M))

    def signal(self, name):
        podman("kill", f"--signal={name}", self.name)

    def stop(self, patience):
        """Ends it as an engine does, by the signal that the image names, and gives its exit code; 137 where it did not end in time."""
        podman("stop", f"--time={patience}", self.name)
        return self.inspect()["State"]["ExitCode"]

    def remove(self):
        podman("rm", "--force", "--volumes", "--time=0", self.name)


@contextlib.contextmanager
def container(image, *words, options=()):
    one = Container(image, *words, options=options)
    try:
        yield one
    finally:
        one.remove()


@contextlib.contextmanager
def volume():
    """A volume that the engine makes."""
    name = podman("volume", "create").stdout.strip()
    try:
        yield name
    finally:
        podman("volume", "rm", "--force", name)


class Compose:
    """The compose file, after Docker Compose has read, checked and merged it."""

    FILE = DEPLOY / "compose.yaml"

    def __init__(self, file=FILE):
        self.file = file
        self.project = json.loads(self.run("config", "--format", "json", "--no-path-resolution"))
        self.services = self.project["services"]

    def run(self, *words):
        # No variable of this machine is one of the file's.
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
        command = [BIN / "docker-compose", "--file", self.file, *words]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        # Of an undefined variable it only warns.
        assert done.stderr == "", done.stderr
        return done.stdout

    def binds(self, service):
        """What of the repository is mounted: path in the container to path on this machine."""
        mounts = self.services[service].get("volumes", [])
        return {mount["target"]: (self.file.parent / mount["source"]).resolve() for mount in mounts if mount["type"] == "bind"}

    def outside(self, service, path):
        """The path on this machine of one in the container."""
        for target, source in self.binds(service).items():
            if path == target or path.startswith(target + "/"):
                return pathlib.Path(str(source) + path.removeprefix(target))
        raise AssertionError(f"{path} of {service} is not mounted")
