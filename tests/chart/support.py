"""What the tests of the chart share: Helm, what it renders, and the walk through it."""

import json
import os
import pathlib
import subprocess

import yaml

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TOOLS = HERE / "target" / "tools"
CHART = pathlib.Path(os.environ.get("CHART_DIR", REPOSITORY / "helm" / "chat-bridge")).resolve()
HELMS = {"helm3": TOOLS / "helm-v3.17.3", "helm4": TOOLS / "helm-v4.2.3"}
APIS = ["monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1", "cert-manager.io/v1", "kafka.strimzi.io/v1"]
OLDEST, NEWEST = "1.28", "1.37"
VALUES_FILES = sorted(CHART.glob("ci/*-values.yaml")) + sorted(CHART.glob("examples/*.yaml"))
MINIMAL = "ci/minimal-values.yaml"

# Nothing of the outside decides what Helm or the bridge do.
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": str(HERE / "target" / "home"), "KUBECONFIG": "/dev/null"}


def load(text):
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


class Outcome:
    """What one call of Helm came to."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def __eq__(self, other):
        return (self.code, self.out, self.err) == (other.code, other.out, other.err)

    @property
    def objects(self):
        assert self.code == 0, self.err
        return load(self.out)


class Chart:
    """A copy of the chart, with rules and dashboards besides whatever is there, so that what renders them always has some."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = {}

    def helm(self, helm, *arguments, environment=None):
        done = subprocess.run([HELMS[helm], *map(str, arguments)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT | (environment or {}), check=False)
        return Outcome(done)

    def render(self, *files, values=None, helm="helm4", version=NEWEST, apis=APIS, more=()):
        """The chart with these files (within it), and these values above them."""
        key = json.dumps([list(map(str, files)), values, helm, version, list(apis), list(more)], sort_keys=True)
        if key not in self.seen:
            arguments = ["template", "bridge", self.folder, "--namespace", "chat", "--kube-version", f"{version}.0"]
            for api in apis:
                arguments += ["--api-versions", api]
            for file in files:
                arguments += ["--values", self.folder / file]
            if values is not None:
                overlay = HERE / "target" / "overlay.yaml"
                overlay.write_text(yaml.safe_dump(values, allow_unicode=True))
                arguments += ["--values", overlay]
            self.seen[key] = self.helm(helm, *arguments, *more)
        return self.seen[key]

    def objects(self, *files, **how):
        return self.render(*files, **how).objects


def relative(path):
    return str(path.relative_to(CHART))


def of_kind(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def the(objects, kind, name=None):
    found = [one for one in of_kind(objects, kind) if name in (None, one["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} {name or ''}"
    return found[0]


def pods(objects):
    """Every pod that the objects make: whose, its labels, its spec."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one, one["metadata"].get("labels", {}), one["spec"]
        elif "template" in (one.get("spec") or {}) and "spec" in one["spec"]["template"]:
            yield one, one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"]


def containers(spec):
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def config(objects):
    return the([one for one in objects if "config.toml" in one.get("data", {})], "ConfigMap")["data"]["config.toml"]


def nested(path, value):
    """A map that has the value at the path."""
    for key in reversed(path):
        value = {key: value}
    return value
